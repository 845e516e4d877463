"""The reading side of the MQTT feed: a mirror of the open tickets, and commands with their replies.

A reader owns nothing. The host that raised a ticket is its one writer; what a reader sends is a request, and while that
host is away the request is pending.
"""

from __future__ import annotations

import base64
import json
import queue
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import structlog
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import ValidationError

from alerts.connection import BrokerSettings, Connection, Incoming, Token
from alerts.tickets import Action, Outcome, Reply, Ticket, instant
from alerts.topics import Topics
from pipeline.exceptions import BrokerError, CommandError

__all__ = ["Feed", "News"]

log = structlog.get_logger(__name__)

QUIET_S = 0.4  # retained tickets come in one go; a pause this long means that all have come
RESENT_S = 3.0  # what is not sent again so long after a reconnect was cleared meanwhile
CLOSED_KEPT = 10_000  # versions of closed tickets, so that a late repeat does not open one again
QUEUE = 10_000  # a viewer that sleeps through a burst loses old news, never the mirror


@dataclass(frozen=True, slots=True)
class News:
    """Something that changed.

    Attributes:
        kind: ``ticket`` (a new version), ``camera`` or ``host`` (a status).
        subject: Id of the ticket, camera or host.
        ticket: The ticket's new version, for tickets.
        status: The status document, for cameras and hosts.
        old: Whether it was there before we came (a retained message at the start).
    """

    kind: Literal["ticket", "camera", "host"]
    subject: str
    ticket: Ticket | None = None
    status: dict[str, Any] | None = None
    old: bool = False


class Feed:
    """A client of one site's feed; use it as a context manager.

    Args:
        settings: The broker.
        topics: Of the site.
        user: In whose name commands are sent; with the shipped ACL it must be the broker user.
        clock: Wall clock in seconds since the epoch, for the expiry of commands.

    Attributes:
        tickets: Open tickets by id, newest version; replaced, never changed, so that any thread may walk through it.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        topics: Topics,
        user: str = "operator",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._topics = topics
        self._user = user
        self._clock = clock
        self.tickets: dict[str, Ticket] = {}
        self._news: queue.Queue[News] = queue.Queue(QUEUE)
        self._replies: dict[str, queue.Queue[Reply]] = {}
        self._refusals: dict[Token, str] = {}
        self._versions: OrderedDict[str, int] = OrderedDict()
        self._not_resent: set[str] = set()
        self._last_s = self._up_s = time.monotonic()
        self._came_up = threading.Event()
        prefix = topics.prefix
        self._connection = Connection(
            settings,
            client_id=f"gridwatch-feed-{uuid.uuid4().hex[:10]}",
            clean=True,
            subscriptions=[
                f"{prefix}/tickets/+",
                f"{prefix}/cameras/+/status",
                f"{prefix}/hosts/+/status",
                f"{prefix}/replies/{user}/+",
            ],
            on_up=self._on_up,
            on_message=self._on_message,
            on_acknowledged=self._on_acknowledged,
        )

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connection.connected.is_set()

    def __enter__(self) -> Self:
        self._connection.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close(2.0)

    def wait_until_synced(self, timeout_s: float = 10.0) -> None:
        """Wait until the retained tickets have come.

        Raises:
            BrokerError: if there is no connection within `timeout_s` seconds, with the reason.
        """
        if not self._came_up.wait(timeout_s):
            reason = self._connection.last_reason or "no answer"
            raise BrokerError(f"broker {self._connection.settings.address}: {reason}")
        while time.monotonic() - self._last_s < QUIET_S:
            time.sleep(0.05)

    def news(self, timeout_s: float) -> News | None:
        """The next news, or None if there is none within `timeout_s` seconds."""
        try:
            return self._news.get(block=timeout_s > 0, timeout=timeout_s)
        except queue.Empty:
            return None

    def find(self, text: str) -> Ticket:
        """The open ticket with this id, or whose id ends so.

        Raises:
            CommandError: code ``unknown_ticket`` or ``ambiguous``.
        """
        found = [ticket for key, ticket in self.tickets.items() if key.endswith(text.upper())]
        if len(found) == 1:
            return found[0]
        if not found:
            raise CommandError(
                f"ticket {text!r}: found none among {len(self.tickets)} open tickets; "
                "expected the id or its end",
                code="unknown_ticket",
            )
        raise CommandError(
            f"ticket {text!r}: found {len(found)}; expected more of the id", code="ambiguous"
        )

    def command(
        self,
        ticket: Ticket | str,
        action: Action,
        *,
        outcome: Outcome | None = None,
        note: str = "",
        to: str | None = None,
        grid: str | None = None,
        photos: Sequence[bytes] = (),
        source: str = "cli",
        timeout_s: float = 5.0,
    ) -> Reply | None:
        """Ask the ticket's host to do something.

        Args:
            ticket: As it was when the person decided; its id alone decides on whatever version there is.
            action: What to do; its own fields follow.
            outcome: For dispose.
            note: For the next one.
            to: For dispatch.
            grid: For reassign.
            photos: JPEGs, for dispose and note.
            source: From where.
            timeout_s: How long to wait for the answer.

        Returns:
            Its answer; None if none came within `timeout_s` seconds. The command expires then, so that a host that
            comes back later does not act on it behind the person's back.

        Raises:
            BrokerError: if the command could not be sent, or the broker refused it (under MQTT 3.1.1 it cannot say so).
        """
        command_id = uuid.uuid4().hex
        answer: queue.Queue[Reply] = queue.Queue()
        self._replies[command_id] = answer
        document: dict[str, Any] = {
            "command_id": command_id,
            "action": action.value,
            "expires": instant(self._clock() + timeout_s).isoformat(),
            "note": note,
            "from": source,
        }
        if isinstance(ticket, Ticket):
            document["expected_version"] = ticket.version
        if grid is not None:
            document["grid"] = grid
        if photos:
            document["photos"] = [base64.b64encode(photo).decode() for photo in photos]
        if outcome is not None:
            document["outcome"] = outcome.value
        if to is not None:
            document["to"] = to
        token = self._connection.publish(
            self._topics.command(self._user, ticket.id if isinstance(ticket, Ticket) else ticket),
            json.dumps(document, ensure_ascii=False).encode(),
            qos=1,
            retain=False,
            expiry_s=timeout_s,
        )
        if token is None:
            raise BrokerError(
                f"broker {self._connection.settings.address}: the connection is lost; nothing was sent"
            )
        try:
            return answer.get(timeout=timeout_s)
        except queue.Empty:
            refusal = self._refusals.pop(token, None)
            if refusal is not None:
                raise BrokerError(
                    f"the broker refuses commands of user {self._user!r}: {refusal}"
                ) from None
            return None
        finally:
            self._replies.pop(command_id, None)

    def _on_up(self) -> None:
        self._last_s = self._up_s = time.monotonic()
        self._not_resent = set(self.tickets)
        self._came_up.set()

    def _on_message(self, message: Incoming) -> None:
        message.acknowledge()
        self._last_s = time.monotonic()
        self._drop_cleared()
        kind, _, rest = message.topic.removeprefix(f"{self._topics.prefix}/").partition("/")
        try:
            if kind == "tickets":
                self._on_ticket(rest, message)
            elif kind in ("cameras", "hosts") and message.payload:
                document = json.loads(message.payload)
                subject = rest.partition("/")[0]
                what: Literal["camera", "host"] = "camera" if kind == "cameras" else "host"
                self._tell(News(what, subject, status=document, old=message.retain))
            elif kind == "replies" and message.payload:
                reply = Reply.model_validate_json(message.payload)
                waiting = self._replies.get(reply.command_id)
                if waiting is not None:
                    waiting.put(reply)
        except (ValidationError, ValueError) as error:
            first = str(error).splitlines()[0]
            log.warning("message is not understood", topic=message.topic, error=first)

    def _on_acknowledged(self, token: Token, reason: ReasonCode | None) -> None:
        if reason is not None:
            self._refusals[token] = str(reason)

    def _on_ticket(self, ticket_id: str, message: Incoming) -> None:
        self._not_resent.discard(ticket_id)
        if not message.payload:  # the retained topic is cleared after the closing state
            self._drop({ticket_id})
            return
        ticket = Ticket.model_validate_json(message.payload)
        if self._versions.get(ticket_id, 0) >= ticket.version:
            return  # QoS 1 may deliver twice
        self._versions[ticket_id] = ticket.version
        self._versions.move_to_end(ticket_id)
        while len(self._versions) > CLOSED_KEPT + len(self.tickets):
            self._versions.popitem(last=False)
        if ticket.is_open:
            self.tickets = {**self.tickets, ticket_id: ticket}
        else:
            self._drop({ticket_id})
        self._tell(News("ticket", ticket_id, ticket=ticket, old=message.retain))

    def _drop(self, ticket_ids: set[str]) -> None:
        self.tickets = {key: kept for key, kept in self.tickets.items() if key not in ticket_ids}

    def _drop_cleared(self) -> None:
        """Forget what was disposed of and cleared while there was no connection."""
        if self._not_resent and time.monotonic() - self._up_s > RESENT_S:
            self._drop(self._not_resent)
            self._not_resent = set()

    def _tell(self, news: News) -> None:
        while True:
            try:
                self._news.put_nowait(news)
            except queue.Full:
                self.news(0)  # the oldest gives way
            else:
                return
