"""The mirror: an MQTT client that keeps what it hears in the console's database, and sends what people command.

A mirror owns no ticket. Of two versions the newer wins, so that repeats and late messages change nothing; history stays
after a ticket's retained topic was cleared. A message is acknowledged when it is committed: a console that dies in
between gets it again.

With a share group (``$share/GROUP/…``) the broker hands each message to one console of the group. Retained messages do
not come that way: a plain subscription reconciles at every connect, and closes again.
"""

from __future__ import annotations

import base64
import binascii
import json
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
import structlog
from paho.mqtt.reasoncodes import ReasonCode
from prometheus_client import CollectorRegistry, Counter, Gauge
from pydantic import ValidationError

from alerts.connection import Connection, Incoming, Token
from alerts.tickets import Reply, Ticket, instant, seconds
from alerts.topics import ROOT, Topics
from console.database import Database, commands, statuses, ticket_events, tickets, upsert
from console.queries import CommandRow, TicketRow
from console.relay import announce
from console.settings import ConsoleSettings
from pipeline.exceptions import ConfigError, StoreError

__all__ = ["COMMAND_TTL_S", "Change", "Mirror"]

log = structlog.get_logger(__name__)

COMMAND_TTL_S = 600.0  # how long a change waits for a host that is away before it is dropped unseen
BATCH = 500  # messages per transaction: one fsync for all of them
SYNC_QUIET_S = 3.0  # retained messages come in one go; a pause this long means that all have come
CLEARED_AFTER_S = 3.0  # an empty message that overtook a newer version must not close it
RETRY_S = 1.0

Change = Callable[[str, Sequence[str]], None]
"""Called after a commit with what changed: ``ticket``, ``command``, ``camera`` or ``host``, and which."""


class _Message(NamedTuple):
    incoming: Incoming
    plain: bool  # came by the reconciling subscription
    session: int


@dataclass(slots=True)
class _Sync:
    """Tickets and hosts that were resent since a connect."""

    session: int
    tickets: set[str]
    hosts: set[str]
    last_s: float


class Mirror:
    """Keeps the database up to date while it runs; use `start` and `close`.

    Args:
        settings: Of the console.
        database: Written by this mirror alone, or shared by a group of them (PostgreSQL).
        on_change: Told of every commit.
        clock: Seconds since the epoch.
        registry: Where the mirror's metrics go.

    Raises:
        ConfigError: if site or share group cannot be part of a topic.
    """

    def __init__(
        self,
        settings: ConsoleSettings,
        database: Database,
        on_change: Change = lambda _kind, _subjects: None,
        clock: Callable[[], float] = time.time,
        registry: CollectorRegistry | None = None,
    ) -> None:
        if settings.site != "+":
            Topics(settings.site)
        if any(sign in settings.share for sign in "/+#"):
            raise ConfigError(
                f"share group: expected a name without '/+#', found {settings.share!r}"
            )
        if settings.share and not database.is_shared:
            raise ConfigError(
                "share group: consoles that share a load share a database; expected --database postgresql://..."
            )
        self._settings = settings
        self._database = database
        self.on_change = on_change
        self._clock = clock
        self.instance = uuid.uuid4().hex[:8]
        self._queue: queue.SimpleQueue[_Message | None] = queue.SimpleQueue()
        self._sending = threading.Lock()
        self._sent: dict[Token, str] = {}
        self._sync: _Sync | None = None
        self._synced = threading.Event()
        self._plain: Connection | None = None
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        prefix = f"{ROOT}/{settings.site}"
        self._filters = [
            f"{prefix}/tickets/+",
            f"{prefix}/events/+/+",
            f"{prefix}/cameras/+/status",
            f"{prefix}/hosts/+/status",
            f"{prefix}/replies/+/+",
        ]
        shared = settings.share
        self._connection = Connection(
            settings.broker,
            client_id=self._client_id(),
            # A group's messages go to those who are there; a single console's wait for it.
            clean=bool(shared),
            subscriptions=[f"$share/{shared}/{one}" if shared else one for one in self._filters],
            on_up=self._on_up,
            on_message=lambda message: self._take(message, plain=False),
            on_acknowledged=self._on_acknowledged,
        )
        metrics = registry or CollectorRegistry()
        self._messages = Counter(
            "gridwatch_console_messages",
            "Messages from the broker by kind and what became of them.",
            ["kind", "result"],
            registry=metrics,
        )
        self._waiting = Gauge(
            "gridwatch_console_queue_messages",
            "Messages that wait for their transaction.",
            registry=metrics,
        )
        self._waiting.set_function(self._queue.qsize)
        self._up = Gauge(
            "gridwatch_console_broker_connected",
            "Whether the console is connected to its broker.",
            registry=metrics,
        )
        self._up.set_function(lambda: float(self.connected))

    def _client_id(self) -> str:
        mine = self._settings.broker.client_id
        # A database of its own is a session of its own: a new one must get everything that is retained.
        name = self.instance if self._settings.share else self._database.identity
        return mine or f"gridwatch-console-{name}"

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the broker now."""
        return self._connection.connected.is_set()

    @property
    def reason(self) -> str | None:
        """Why there is no connection, in words."""
        return self._connection.last_reason

    def start(self) -> None:
        """Begin to connect and to write; returns at once."""
        self._thread.start()
        self._connection.start()

    def reload(self, settings: ConsoleSettings) -> None:
        """From now on grids have the names of these settings; site, broker and share stay those of the start."""
        self._settings = settings

    def close(self) -> None:
        """Disconnect, write what has come, and end."""
        self._connection.close(2.0)
        self._end_plain()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(5.0)

    def wait_until_synced(self, timeout_s: float) -> bool:
        """Wait until what is retained has come and is in the database."""
        return self._synced.wait(timeout_s)

    # Commands

    @property
    def max_message(self) -> int:
        """Size in bytes of the largest message that broker and settings allow."""
        return self._connection.maximum_packet

    def command(
        self, ticket: TicketRow, version: int, who: str, action: str, **said: object
    ) -> CommandRow:
        """Ask a ticket's host for something, in a user's name.

        Args:
            ticket: As it is here.
            version: That the user saw: the host refuses if a person has acted since.
            who: The user.
            action: See `alerts.tickets.Action`.
            **said: Further fields of the command: ``outcome``, ``note``, ``to``, ...; empty ones are left out.

        Returns:
            The command as it stands now: ``pending``, or ``refused`` with code ``unsent`` when there is no broker.
        """
        now = self._clock()
        row: dict[str, Any] = {
            "ticket_id": ticket.id,
            "who": who,
            "action": action,
            "expected_version": version,
            "sent_t": now,
            "expires_t": now + COMMAND_TTL_S,
            "state": "pending",
            "code": "",
            "message": "",
            "answered_t": None,
        }
        command_id = uuid.uuid4().hex
        document = {
            "command_id": command_id,
            "action": action,
            "expected_version": version,
            "expires": instant(row["expires_t"]).isoformat(),
            "from": "console",
            **{key: value for key, value in said.items() if value},
        }
        # Stored first: its answer may be here before publish() returns.
        with self._database.write() as connection:
            upsert(connection, commands, {"command_id": command_id}, row)
            announce(connection, self.instance, "ticket", [ticket.id])
        with self._sending:
            token = self._connection.publish(
                Topics(ticket.site).command(who, ticket.id),
                json.dumps(document, ensure_ascii=False).encode(),
                qos=1,
                retain=False,
                expiry_s=COMMAND_TTL_S,
            )
            if token is not None:
                self._sent[token] = command_id
                while len(self._sent) > BATCH:  # of connections that broke before their answer
                    self._sent.pop(next(iter(self._sent)))
        if token is None:
            reason = self.reason or "the connection is lost"
            row |= {"state": "refused", "code": "unsent", "message": reason, "answered_t": now}
            self._refuse(command_id, "unsent", reason)
            self.on_change("command", [command_id])
        self.on_change("ticket", [ticket.id])
        return CommandRow(
            command_id,
            ticket.id,
            who,
            action,
            now,
            row["expires_t"],
            row["state"],
            row["code"],
            row["message"],
            row["answered_t"],
        )

    def _refuse(self, command_id: str, code: str, message: str) -> None:
        values = {
            "state": "refused",
            "code": code,
            "message": message,
            "answered_t": self._clock(),
        }
        c = commands.c
        with self._database.write() as connection:
            connection.execute(
                sa.update(commands)
                .where(c.command_id == command_id, c.state == "pending")
                .values(values)
            )

    def _on_acknowledged(self, token: Token, reason: ReasonCode | None) -> None:
        with self._sending:
            command_id = self._sent.pop(token, None)
        if command_id is not None and reason is not None:
            # Off the network thread: it must not wait for a disk.
            threading.Thread(
                target=self._note_refusal, args=(command_id, str(reason)), daemon=True
            ).start()

    def _note_refusal(self, command_id: str, reason: str) -> None:
        log.warning("broker refuses a command", reason=reason)
        self._refuse(command_id, "not_authorized", reason)
        with self._database.read() as connection:
            found = connection.scalar(
                sa.select(commands.c.ticket_id).where(commands.c.command_id == command_id)
            )
        self.on_change("ticket", [str(found)])
        self.on_change("command", [command_id])

    # The network threads

    def _on_up(self) -> None:
        if self._connection.session_kept:
            self._synced.set()  # what we missed comes, and nothing else is resent
            return
        self._sync = _Sync(self._connection.number, set(), set(), time.monotonic())
        if self._settings.share:
            self._end_plain()
            self._plain = Connection(
                self._settings.broker.model_copy(update={"client_id": None}),
                client_id=f"{self._client_id()}-sync",
                clean=True,
                subscriptions=[one for one in self._filters if "/events/" not in one][:3],
                on_up=self._on_plain_up,
                on_message=lambda message: self._take(message, plain=True),
            )
            self._plain.start()

    def _on_plain_up(self) -> None:
        self._sync = _Sync(self._connection.number, set(), set(), time.monotonic())

    def _end_plain(self) -> None:
        plain, self._plain = self._plain, None
        if plain is not None:
            plain.close(1.0)

    def _take(self, message: Incoming, *, plain: bool) -> None:
        self._queue.put(_Message(message, plain, self._connection.number))

    # The writing thread

    def _run(self) -> None:
        while True:
            batch = self._next_batch()
            if batch is None:
                return
            if batch:
                self._write_until_done(batch)
            else:
                self._reconcile_if_quiet()

    def _next_batch(self) -> list[_Message] | None:
        """What waits, up to `BATCH`; empty after a moment without any; None at the end."""
        try:
            first = self._queue.get(timeout=0.5)
        except queue.Empty:
            return []
        if first is None:
            return None
        batch = [first]
        while len(batch) < BATCH:
            try:
                message = self._queue.get_nowait()
            except queue.Empty:
                break
            if message is None:
                self._queue.put(None)
                break
            batch.append(message)
        return batch

    def _write_until_done(self, batch: list[_Message]) -> None:
        failed = False
        while True:
            try:
                changed = self._write(batch)
            except StoreError as error:
                if not failed:
                    log.error("the mirror cannot be written, retrying", error=str(error))
                failed = True
                time.sleep(RETRY_S)
                continue
            if failed:
                log.info("the mirror can be written again")
            break
        for message in batch:
            message.incoming.acknowledge()
        for kind, subjects in changed.items():
            self.on_change(kind, subjects)

    def _write(self, batch: Iterable[_Message]) -> dict[str, list[str]]:
        """Write a batch in one transaction; what it changed by kind."""
        changed: dict[str, dict[str, None]] = {}
        results: list[tuple[str, str]] = []
        with self._database.write() as connection:
            for message in batch:
                topic = message.incoming.topic.split("/")
                kind, result, subject = topic[2] if len(topic) > 3 else "", "malformed", None
                try:
                    result, subject = self._apply(connection, message, topic)
                except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
                    first = str(error).splitlines()[0]
                    log.warning(
                        "message is not understood", topic=message.incoming.topic, error=first
                    )
                results.append((kind, result))
                if subject is not None:
                    changed.setdefault(_SAID_AS.get(kind, "ticket"), {})[subject] = None
                    if kind == "replies":
                        changed.setdefault("command", {})[topic[4]] = None
            for kind, subjects in changed.items():
                announce(connection, self.instance, kind, list(subjects))
        for kind, result in results:
            self._messages.labels(kind, result).inc()
        return {kind: list(subjects) for kind, subjects in changed.items()}

    def _apply(
        self, connection: sa.Connection, message: _Message, topic: list[str]
    ) -> tuple[str, str | None]:
        """Write one message; what became of it, and what changed through it."""
        payload = message.incoming.payload
        match topic:
            case [_, site, "tickets", ticket_id]:
                self._note_resent(message, ticket_id=ticket_id)
                return self._ticket(connection, site, ticket_id, payload)
            case [_, site, "events", _, _]:
                return self._event(connection, json.loads(payload))
            case [_, site, ("cameras" | "hosts") as kind, subject, "status"]:
                if kind == "hosts":
                    self._note_resent(message, host=subject)
                return self._status(connection, site, _SAID_AS[kind], subject, payload)
            case [_, _, "replies", _, _]:
                return self._reply(connection, Reply.model_validate_json(payload))
            case _:
                raise ValueError(f"unexpected topic of {len(topic)} levels")

    def _ticket(
        self, connection: sa.Connection, site: str, ticket_id: str, payload: bytes
    ) -> tuple[str, str | None]:
        now = self._clock()
        c = tickets.c
        if not payload:
            done = connection.execute(
                sa.update(tickets)
                .where(c.id == ticket_id, c.is_open.is_(True), c.received_t < now - CLEARED_AFTER_S)
                .values(is_open=False, cleared_t=now, received_t=now)
            )
            return ("cleared", ticket_id) if done.rowcount else ("repeated", None)
        ticket = Ticket.model_validate_json(payload)
        if (ticket.id, ticket.site) != (ticket_id, site):
            raise ValueError(f"ticket {ticket.id} of {ticket.site} on the topic of {ticket_id}")
        newer = sa.or_(
            c.version < ticket.version,
            # It was taken for cleared, and is there after all (a broker that had lost everything).
            sa.and_(c.version == ticket.version, c.cleared_t.is_not(None)),
        )
        row = self._row(ticket, now)
        written = upsert(connection, tickets, {"id": ticket_id}, row, only_if=newer)
        return ("written", ticket_id) if written else ("repeated", None)

    def _row(self, ticket: Ticket, now: float) -> dict[str, Any]:
        acts = ticket.dispose
        above = (
            self._settings.grid_names.get(ticket.grid.rsplit("/", n)[0])
            for n in range(ticket.grid.count("/") + 1)
        )
        names = [text for name in above if name for text in (name.zh, name.en)]
        said = [act.note for act in acts.notes] + [
            act.note for act in (acts.acknowledged, acts.dispatched, acts.disposed) if act
        ]
        words = (
            ticket.id,
            ticket.title.zh,
            ticket.title.en,
            ticket.camera.id,
            ticket.camera.name,
            ticket.grid,
            *names,
            ticket.host,
            ticket.scenario,
            *said,
        )
        return {
            "version": ticket.version,
            "site": ticket.site,
            "host": ticket.host,
            "camera": ticket.camera.id,
            "camera_name": ticket.camera.name or ticket.camera.id,
            "grid": ticket.grid,
            "scenario": ticket.scenario,
            "severity": ticket.severity,
            "state": ticket.state.value,
            "condition": ticket.condition.value,
            "outcome": acts.outcome.value if acts.outcome else None,
            "is_open": ticket.is_open,
            "simulated": ticket.simulated,
            "confidence": ticket.analyse.confidence,
            "title_zh": ticket.title.zh,
            "title_en": ticket.title.en,
            "capture_t": seconds(ticket.capture.time),
            "raised_t": seconds(ticket.warn.raised),
            "published_t": seconds(ticket.created),
            "acknowledged_t": seconds(acts.acknowledged.time) if acts.acknowledged else None,
            "dispatched_t": seconds(acts.dispatched.time) if acts.dispatched else None,
            "disposed_t": seconds(acts.disposed.time) if acts.disposed else None,
            "updated_t": seconds(ticket.updated),
            "received_t": now,
            "cleared_t": None,
            "search": " ".join(filter(None, words)).lower(),
            "document": ticket.model_copy(update={"thumbnail": None}).to_json(),
            "thumbnail": _decoded(ticket.thumbnail),
        }

    def _event(self, connection: sa.Connection, document: dict[str, Any]) -> tuple[str, str | None]:
        ticket_id = str(document["ticket_id"])[:64]
        key = {
            "ticket_id": ticket_id,
            "version": int(document["version"]),
            "kind": str(document["kind"])[:32],
        }
        row = {
            "state": str(document["state"])[:16],
            "t": _epoch_s(str(document["time"])),
            "who": str(document.get("by") or document.get("host") or "")[:64],
            "source": str(document.get("from") or "")[:64],
            "note": str(document.get("note") or "")[:2000],
            "document": json.dumps(document, ensure_ascii=False),
        }
        written = upsert(connection, ticket_events, key, row, replace=False)
        return ("written", ticket_id) if written else ("repeated", None)

    def _status(
        self, connection: sa.Connection, site: str, kind: str, subject: str, payload: bytes
    ) -> tuple[str, str | None]:
        if not payload:
            return "cleared", None
        now = self._clock()
        document = json.loads(payload)
        said = document.get("t", document.get("since"))
        t = _epoch_s(said) if isinstance(said, str) else float(said or now)
        written = upsert(
            connection,
            statuses,
            {"site": site, "kind": kind, "subject": subject},
            {"t": t, "received_t": now, "document": json.dumps(document, ensure_ascii=False)},
            only_if=statuses.c.t <= t,
        )
        return ("written", subject) if written else ("repeated", None)

    def _reply(self, connection: sa.Connection, reply: Reply) -> tuple[str, str | None]:
        c = commands.c
        done = connection.execute(
            sa.update(commands)
            .where(c.command_id == reply.command_id, c.state == "pending")
            .values(
                state="ok" if reply.ok else "refused",
                code=reply.code[:32],
                message=reply.message,
                answered_t=self._clock(),
            )
        )
        return ("written", reply.ticket_id) if done.rowcount else ("other", None)

    # Reconciling with what is retained

    def _note_resent(
        self, message: _Message, *, ticket_id: str | None = None, host: str | None = None
    ) -> None:
        sync = self._sync
        if sync is None or message.session != sync.session:
            return
        sync.last_s = time.monotonic()
        if ticket_id is not None and message.incoming.payload:
            sync.tickets.add(ticket_id)
        if host is not None:
            sync.hosts.add(host)

    def _reconcile_if_quiet(self) -> None:
        sync = self._sync
        if sync is None or time.monotonic() - sync.last_s < SYNC_QUIET_S or not self.connected:
            return
        if self._settings.share and (self._plain is None or not self._plain.connected.is_set()):
            return
        self._sync = None
        self._end_plain()
        c = tickets.c
        now = self._clock()
        with self._database.write() as connection:
            known = connection.execute(
                sa.select(c.id, c.host).where(
                    c.is_open.is_(True), c.received_t < now - SYNC_QUIET_S
                )
            ).all()
            # A broker that does not know a ticket's host has lost everything: its silence means nothing.
            gone = [
                row.id for row in known if row.id not in sync.tickets and row.host in sync.hosts
            ]
            if gone:
                connection.execute(
                    sa.update(tickets)
                    .where(c.id.in_(gone))
                    .values(is_open=False, cleared_t=now, received_t=now)
                )
                announce(connection, self.instance, "ticket", gone)
        self._synced.set()
        log.info("mirror reconciled", retained=len(sync.tickets), closed_meanwhile=len(gone))
        if gone:
            self.on_change("ticket", gone)


_SAID_AS = {"cameras": "camera", "hosts": "host", "tickets": "ticket", "replies": "ticket"}


def _decoded(thumbnail: str | None) -> bytes | None:
    if thumbnail is None:
        return None
    try:
        picture = base64.b64decode(thumbnail, validate=True)
    except binascii.Error:
        return None
    return picture if picture.startswith(b"\xff\xd8") else None  # a JPEG or nothing


def _epoch_s(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
