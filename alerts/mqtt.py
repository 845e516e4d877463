"""From the durable outbox to the broker, and from the broker to the desk.

    store's outbox ──pending()──► Publisher ──QoS 1──► broker ──PUBACK──► mark_published()
    broker ──commands/{user}/tickets/{id}──► CommandReceiver ──► TicketDesk.handle ──► outbox ──► replies/…

A row leaves the outbox only when the broker has said that it took it. What is sent twice for that (a crash between
PUBACK and mark) carries the same ticket id and version, so that a reader drops the second.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import structlog
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import BaseModel, ConfigDict

from alerts.connection import BrokerSettings, Connection, Incoming, TlsSettings, Token, Will
from alerts.store import Batch, Event, OutboxRow, Store
from alerts.tickets import MAX_PHOTOS, PHOTO_CHARACTERS, Command
from alerts.topics import Topics
from pipeline.exceptions import CommandError, StoreError
from pipeline.observation import Json

__all__ = [
    "BrokerSettings",
    "CommandReceiver",
    "ConfigStatus",
    "HostStatus",
    "Publisher",
    "PublisherStatus",
    "TlsSettings",
]

log = structlog.get_logger(__name__)

FETCH_ROWS = 100  # rows (with up to 100 KB each) read from the store at a time
POLL_S = 5.0  # rows that another process wrote are found this late; wake() finds ours at once
STORE_RETRY_S = 1.0
# A broker saves now and then what it has confirmed (every 10 s with deploy/mosquitto); a crash of it, or a power cut of
# both of us, loses what came since. What was confirmed so shortly before a connection was lost is sent again.
BROKER_SAVES_S = 15.0
REFUSED_RETRY_S = (1.0, 60.0)  # a topic that the broker refuses rests this long, doubling
RETRY_TOGETHER_S = (
    0.5  # what is due so soon is tried now: each round reads the outbox from its beginning
)
PACKET_TOO_LARGE = 149  # MQTT 5 reason code
# A command is a note of 2,000 characters and three photos at most; anything larger is none.
COMMAND_BYTES = MAX_PHOTOS * PHOTO_CHARACTERS + 16 * 1024
COMMANDS_WAITING = 1000  # QoS 0 floods are cut here; QoS 1 is held back by the broker's own window
COMMANDS_WAITING_BYTES = 64 * 1024**2  # the broker's window of 50 commands with photos
COMMAND_ID = re.compile(r"[A-Za-z0-9_.:\-]{1,64}")  # as in alerts.tickets.Command
OVERHEAD_BYTES = 64  # fixed header, packet identifier and properties of a PUBLISH


@dataclass(frozen=True, slots=True)
class PublisherStatus:
    """How publishing goes, for metrics and the page.

    Attributes:
        connected: Whether a broker takes messages now.
        protocol: ``5`` or ``3.1.1``; None before the first connection.
        reason: Why there is no connection, in words.
        failures: Attempts that failed since the last connection.
        published: Rows that the broker took since the start.
        refused: PUBACKs that said no.
        parked: Rows put aside for good.
        in_flight: Rows that wait for their PUBACK.
    """

    connected: bool
    protocol: str | None
    reason: str | None
    failures: int
    published: int
    refused: int
    parked: int
    in_flight: int


class ConfigStatus(BaseModel):
    """Which cameras.yaml is in force on a host.

    Attributes:
        sha256: Of the file's bytes, in hexadecimal.
        since: Since when, in seconds since the epoch.
        refused_sha256: Of a newer content that was not applied.
        problem: Why not, in one line.
    """

    model_config = ConfigDict(frozen=True)

    sha256: str
    since: float
    refused_sha256: str | None = None
    problem: str | None = None


class HostStatus(BaseModel):
    """Retained at ``hosts/{id}/status``.

    Attributes:
        config: Of an online host whose configuration is a file.
        reason: Of being offline: ``stopped`` in order, or ``lost`` (the broker's word, the last will).
        since: Since when, in seconds since the epoch; None for ``lost``, which cannot be known beforehand.
    """

    model_config = ConfigDict(frozen=True)

    host: str
    status: Literal["online", "offline"]
    reason: Literal["stopped", "lost"] | None = None
    since: float | None = None
    config: ConfigStatus | None = None

    def payload(self) -> bytes:
        """As it is published: `config` only where it is known."""
        return self.model_dump_json(exclude={"config"} if self.config is None else None).encode()


@dataclass(slots=True)
class _Rest:
    """A topic that the broker refused rests until `until` (monotonic seconds); 0 while an attempt is on its way."""

    until: float
    delay_s: float


class Publisher:
    """Drains the outbox to the broker, keeps the status topics right and takes commands in.

    It starts without a broker and keeps trying; nothing that it is given is kept in memory only, but statuses (the
    latest counts, and is sent again on every connect) and actuations (sent now or never).

    Order holds per topic. Topics that are retained have one message in flight at a time: there the last message
    stays, so that order must survive even a refusal.

    Args:
        settings: The broker.
        store: Its outbox is drained.
        topics: The site's topics.
        host_id: This host, as in its tickets.
        commands: Takes commands in; None where this host owns no tickets.
        clock: Wall clock in seconds since the epoch, for status messages, expiries and command times.

    Raises:
        ConfigError: from the constructor, if the TLS files cannot be used.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        store: Store,
        topics: Topics,
        host_id: str,
        *,
        commands: CommandReceiver | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._topics = topics
        self._host_id = host_id
        self._commands = commands
        self._clock = clock
        lost = HostStatus(host=host_id, status="offline", reason="lost")
        self._connection = Connection(
            settings,
            client_id=settings.client_id or f"gridwatch-{topics.site}-{host_id}",
            will=Will(topics.host_status(host_id), lost.payload()),
            subscriptions=[topics.commands] if commands else [],
            on_up=self._on_up,
            on_down=self._on_down,
            on_message=self._on_message,
            on_acknowledged=self._on_acknowledged,
        )
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._idle = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt-drain", daemon=True)

        # Filled by other threads, emptied by the drain thread
        self._acknowledged: deque[tuple[Token, ReasonCode | None]] = deque()
        self._incoming: deque[Incoming] = deque()
        self._incoming_bytes = 0
        self._incoming_lock = threading.Lock()
        self._status_lock = threading.Lock()
        self._statuses: dict[str, bytes] = {}
        self._stale: set[str] = set()
        self._new_rows = threading.Event()
        self._new_connection = threading.Event()
        self._lost_t: float | None = None
        self._online_t = clock()
        self._config: ConfigStatus | None = None

        # The drain thread's own
        self._buffer: list[OutboxRow] = []
        self._cursor = 0
        self._exhausted = False
        self._in_flight: dict[Token, OutboxRow] = {}
        self._status_in_flight: dict[Token, str] = {}
        self._taken: list[int] = []  # the broker has them, the store does not know it yet
        self._confirmed_before: dict[int, float] = {}  # what is sent again keeps its first time
        self._must_remind = False
        self._resting: dict[str, _Rest] = {}
        self._refusals_said: set[tuple[str, str]] = set()  # by kind of topic and reason
        self._cautious = False  # one row at a time, after a loss with rows in flight
        self._store_failures = 0
        self._published = self._refused = self._parked = 0

    # -- for the engine ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; returns at once, whether or not there is a broker."""
        self._online_t = self._clock()
        self._set_host_status("online")
        self._store.on_messages(self.wake)
        self._connection.start()
        self._thread.start()

    def publish_config(self, config: ConfigStatus) -> None:
        """Say in the host's status which configuration is in force."""
        self._config = config
        self._set_host_status("online")

    def wake(self) -> None:
        """There is a new row in the outbox (the store calls this itself); callable from any thread."""
        self._new_rows.set()
        self._wake.set()

    def publish_status(self, camera_id: str, status: Mapping[str, Json]) -> None:
        """Publish a camera's status, retained. Not durable: the latest wins, and goes out again on every connect."""
        payload = {"camera": camera_id, **status}
        self._set_status(self._topics.camera_status(camera_id), _dump(payload))

    def actuate(
        self, camera_id: str, action: str, payload: Mapping[str, Json], *, expires_s: float
    ) -> bool:
        """Tell an actuator something, at most once: now or never.

        Args:
            camera_id: The camera beside which the actuator is.
            action: E.g. ``hold_door``.
            payload: What the actuator needs to know.
            expires_s: The actuator must ignore it after this many seconds (``expires`` in the message).

        Returns:
            Whether it was handed to a broker. False is final: it is not kept.
        """
        message = {**payload, "expires": round(self._clock() + expires_s, 3)}
        token = self._connection.publish(
            self._topics.actuator(camera_id, action),
            _dump(message),
            qos=0,  # at most once: a door that is held twice is a fault
            retain=False,
            expiry_s=expires_s,
        )
        return token is not None

    def status(self) -> PublisherStatus:
        """How it goes; callable from any thread."""
        connection = self._connection
        return PublisherStatus(
            connected=connection.connected.is_set(),
            protocol=connection.protocol,
            reason=connection.last_reason,
            failures=connection.failures,
            published=self._published,
            refused=self._refused,
            parked=self._parked,
            in_flight=len(self._in_flight),
        )

    def flush(self, timeout: float) -> bool:
        """Wait until the outbox is empty and everything acknowledged; whether it came to that in `timeout` seconds."""
        self._idle.clear()
        self.wake()
        return self._idle.wait(timeout)

    def close(self, timeout: float = 3.0) -> None:
        """Say that the host goes offline, disconnect in order and end the threads, within `timeout` seconds.

        What is still in the outbox stays there for the next start.
        """
        deadline = time.monotonic() + timeout
        if self._connection.connected.is_set():
            self._set_host_status("offline", "stopped")
            self._closing.set()
            self._wake.set()
            if self._thread.is_alive():
                self._thread.join(max(0.0, (deadline - time.monotonic()) * 0.7))
        self._closing.set()
        self._wake.set()
        self._connection.close(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            log.warning("publisher did not end in time", timeout_s=timeout)

    # -- on the network thread: note and wake, nothing else ----------------------------------------------------------

    def _on_up(self) -> None:
        with self._status_lock:
            self._stale = set(self._statuses)
        self._new_connection.set()
        self._wake.set()

    def _on_down(self, _number: int) -> None:
        self._lost_t = self._clock()
        self._wake.set()

    def _on_acknowledged(self, token: Token, reason: ReasonCode | None) -> None:
        self._acknowledged.append((token, reason))
        self._wake.set()

    def _on_message(self, message: Incoming) -> None:
        if self._commands is None:  # left over in the session of a host that once took commands
            message.acknowledge()
            return
        size = len(message.payload)
        with self._incoming_lock:
            fits = (
                len(self._incoming) < COMMANDS_WAITING
                and self._incoming_bytes + size <= COMMANDS_WAITING_BYTES
            )
            if fits:
                self._incoming_bytes += size
                self._incoming.append(message)
        if not fits:
            message.acknowledge()
            log.warning("command dropped, too many waiting", topic=message.topic)
            return
        self._wake.set()

    # -- the drain thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            woken = self._wake.wait(self._patience_s())
            self._wake.clear()
            try:
                if not (woken or self._in_flight):
                    self._rewind()  # rows that another process wrote
                self._step()
                self._store_recovered()
            except StoreError as error:
                self._store_failed(error)
            except Exception:  # a fault here must not silence the host
                log.exception("publisher stumbled, going on")
                self._rewind()
                self._closing.wait(STORE_RETRY_S)
            if self._closing.is_set() and (
                not self._connection.connected.is_set()
                or not (self._status_in_flight or self._stale)
            ):
                return

    def _patience_s(self) -> float:
        """Seconds until there is something to do without being woken."""
        if not self._connection.connected.is_set():
            return POLL_S
        soonest = min((rest.until for rest in self._resting.values() if rest.until), default=1e12)
        return max(0.0, min(POLL_S, soonest - time.monotonic()))

    def _step(self) -> None:
        self._settle()
        self._take_commands()
        if not self._connection.connected.is_set():
            return
        self._send_statuses()
        if not self._closing.is_set():
            self._send_rows()
            left = self._buffer or self._in_flight or self._taken or self._resting
            if self._exhausted and not left:
                self._idle.set()

    def _settle(self) -> None:
        """Take note of PUBACKs and of lost connections."""
        while self._acknowledged:
            token, reason = self._acknowledged.popleft()
            if (topic := self._status_in_flight.pop(token, None)) is not None:
                if reason is not None:
                    self._refused += 1
                    log.warning("broker refuses status", topic=topic, reason=str(reason))
                continue
            row = self._in_flight.pop(token, None)
            if row is None:
                continue  # of a connection that is gone; its rows are pending again
            if reason is None:
                self._taken.append(row.seq)
                self._published += 1
                self._cautious = False
                if self._resting.pop(row.message.topic, None) is not None and not self._resting:
                    self._refusals_said.clear()
                    log.info("broker takes everything again", refused=self._refused)
            elif reason.value == PACKET_TOO_LARGE:
                self._park(
                    row, f"the broker refuses it as too large ({len(row.message.payload)} bytes)"
                )
            else:
                self._refused += 1
                self._rest(row.message.topic, str(reason))
        if self._new_connection.is_set() or not self._connection.connected.is_set():
            self._must_remind = self._must_remind or self._new_connection.is_set()
            self._new_connection.clear()
            self._after_a_loss()
        if self._taken:
            self._mark_taken()
        if self._must_remind:
            self._remind()
            self._must_remind = False

    def _mark_taken(self) -> None:
        now = self._clock()
        by_time: dict[float, list[int]] = {}
        for seq in self._taken:
            by_time.setdefault(self._confirmed_before.get(seq, now), []).append(seq)
        for t, seqs in by_time.items():
            self._store.mark_published(seqs, t).result()
        for seq in self._taken:
            self._confirmed_before.pop(seq, None)
        self._taken.clear()

    def _remind(self) -> None:
        """Have sent again what the broker may have forgotten; readers know it by its version."""
        confirmed_t = self._store.confirmed_t()
        since_t = math.inf if confirmed_t is None else confirmed_t - BROKER_SAVES_S
        if self._lost_t is not None:
            since_t = max(since_t, self._lost_t - BROKER_SAVES_S)
        forgotten = not self._connection.session_kept
        again = self._store.republish(
            since_t, self._clock(), self._topics.ticket if forgotten else None
        ).result()
        self._confirmed_before |= again
        self._rewind()
        if again:
            log.info("sent again what the broker may have forgotten", messages=len(again))

    def _after_a_loss(self) -> None:
        """What was in flight may or may not have arrived: QoS 1 sends it again, in order.

        Some brokers hang up on a message that they dislike. So the next connection sends one at a time until one was
        taken; a message on which it breaks again rests like a refused one, and the others pass.
        """
        flying = list(self._in_flight.values())
        self._in_flight.clear()
        self._status_in_flight.clear()
        if len(flying) == 1 and self._cautious:
            self._rest(flying[0].message.topic, "the connection was lost right after it was sent")
        self._cautious = self._cautious or bool(flying)
        for rest in self._resting.values():
            if rest.until == 0.0:
                rest.until = time.monotonic() + rest.delay_s
        self._rewind()

    def _rewind(self) -> None:
        """Read the outbox from its beginning again."""
        self._buffer.clear()
        self._cursor = 0
        self._exhausted = False

    def _rest(self, topic: str, why: str) -> None:
        least, most = REFUSED_RETRY_S
        rest = self._resting.get(topic)
        if rest is None:
            delay_s = least
            kind = (topic.removeprefix(f"{self._topics.prefix}/").partition("/")[0], why)
            if kind not in self._refusals_said:
                self._refusals_said.add(kind)
                log.warning("broker refuses message, kept and retried", topic=topic, reason=why)
        elif rest.until == 0.0:
            delay_s = min(most, rest.delay_s * 2)
        else:
            return  # it was on its way together with the first that was refused
        self._resting[topic] = _Rest(time.monotonic() + delay_s, delay_s)
        self._buffer = [waiting for waiting in self._buffer if waiting.message.topic != topic]

    def _park(self, row: OutboxRow, reason: str) -> None:
        """Put aside what can never be published; the ticket's audit trail says so."""
        message = row.message
        log.error("message parked", topic=message.topic, outbox_seq=row.seq, reason=reason)
        t = self._clock()
        if message.ticket_id is not None and message.version is not None:
            detail: dict[str, Json] = {"topic": message.topic, "reason": reason}
            event = Event(
                message.ticket_id, message.version, "unpublished", self._host_id, t, "", detail
            )
            self._store.commit(Batch(t, events=[event])).result()
        self._store.mark_published([row.seq], t).result()
        self._parked += 1

    def _send_rows(self) -> None:
        now = time.monotonic()
        if any(0 < rest.until <= now for rest in self._resting.values()):
            for rest in self._resting.values():
                if rest.until <= now + RETRY_TOGETHER_S:
                    rest.until = 0.0
            self._rewind()  # their rows were let go; find them again
        if self._new_rows.is_set():
            self._new_rows.clear()
            self._exhausted = False
        # What the broker takes at a time counts statuses too: some hang up on one message more.
        room = self._connection.receive_maximum - len(self._status_in_flight)
        window = min(1, room) if self._cautious else room
        while True:
            self._send_buffered(window)
            full = len(self._in_flight) >= window or len(self._buffer) >= FETCH_ROWS
            if full or self._exhausted:
                return
            self._fetch(now)

    def _fetch(self, now: float) -> None:
        rows = self._store.pending(FETCH_ROWS, self._cursor)
        self._exhausted = len(rows) < FETCH_ROWS
        if not rows:
            return
        self._cursor = rows[-1].seq
        known = {row.seq for row in self._in_flight.values()}
        resting = {topic for topic, rest in self._resting.items() if rest.until > now}
        self._buffer += [
            row for row in rows if row.seq not in known and row.message.topic not in resting
        ]

    def _send_buffered(self, window: int) -> None:
        """Send what may go now from the buffer, in order within each topic."""
        flying: dict[str, bool] = {}  # topic → whether only one of it may be in flight
        for row in self._in_flight.values():
            flying[row.message.topic] = flying.get(row.message.topic, False) or row.message.retain
        left: list[OutboxRow] = []
        blocked: set[str] = set()
        for position, row in enumerate(self._buffer):
            message = row.message
            topic = message.topic
            if len(self._in_flight) >= window:
                left += self._buffer[position:]
                break
            alone = message.retain or topic in self._resting or flying.get(topic, False)
            if topic in blocked or (alone and topic in flying):
                blocked.add(topic)
                left.append(row)
                continue
            size = len(message.payload) + len(topic.encode()) + OVERHEAD_BYTES
            if size > self._connection.maximum_packet:
                self._park(row, f"{size} bytes, at most {self._connection.maximum_packet} may pass")
                continue
            token = self._connection.publish(topic, message.payload, qos=1, retain=message.retain)
            if token is None:
                left += self._buffer[position:]
                break
            self._in_flight[token] = row
            flying[topic] = flying.get(topic, False) or message.retain
        self._buffer = left

    # -- statuses ----------------------------------------------------------------------------------------------------

    def _set_host_status(
        self, status: Literal["online", "offline"], reason: Literal["stopped"] | None = None
    ) -> None:
        online = status == "online"
        document = HostStatus(
            host=self._host_id,
            status=status,
            reason=reason,
            since=round(self._online_t if online else self._clock(), 3),
            config=self._config if online else None,
        )
        self._set_status(self._topics.host_status(self._host_id), document.payload())

    def _set_status(self, topic: str, payload: bytes) -> None:
        with self._status_lock:
            if self._statuses.get(topic) == payload:
                return
            self._statuses[topic] = payload
            self._stale.add(topic)
        self._wake.set()

    def _send_statuses(self) -> None:
        flying = len(self._in_flight) + len(self._status_in_flight)
        room = max(0, self._connection.receive_maximum - flying)
        with self._status_lock:
            waiting = {topic: self._statuses[topic] for topic in sorted(self._stale)[:room]}
            self._stale -= waiting.keys()
        for topic, payload in waiting.items():
            token = self._connection.publish(topic, payload, qos=1, retain=True)
            if token is None:
                return  # every status is sent again on the next connect
            self._status_in_flight[token] = topic

    # -- commands ----------------------------------------------------------------------------------------------------

    def _take_commands(self) -> None:
        while self._incoming and self._commands is not None:
            message = self._incoming[0]
            self._commands.receive(message.topic, message.payload, message.retain, self._clock())
            message.acknowledge()  # only now: a crash before this makes the broker send it again
            with self._incoming_lock:
                self._incoming.popleft()
                self._incoming_bytes -= len(message.payload)

    # -- the store ---------------------------------------------------------------------------------------------------

    def _store_failed(self, error: StoreError) -> None:
        if not self._store_failures:
            log.error("outbox cannot be used, retrying", reason=str(error))
        self._store_failures += 1
        self._rewind()
        self._closing.wait(STORE_RETRY_S)
        self._wake.set()

    def _store_recovered(self) -> None:
        if self._store_failures:
            log.info("outbox is back", failures=self._store_failures)
            self._store_failures = 0


class CommandReceiver:
    """Checks what arrives on the command topics and hands what is a command to the desk.

    The user is the one in the topic, which the broker's ACL guards, never one in the payload.

    Args:
        topics: The site's topics.
        handle: The desk. It stores what changes and its answer; unknown tickets, expiry and repeats are its matter.
        refuse: Answers what was no command, where the sender can be told: user, ticket id, command id, error, time.
    """

    def __init__(
        self,
        topics: Topics,
        handle: Callable[[Command, float], object],
        refuse: Callable[[str, str, str, CommandError, float], object] | None = None,
    ) -> None:
        self._topics = topics
        self._handle = handle
        self._refuse = refuse
        self.handled = 0
        self.refused = 0

    def receive(self, topic: str, payload: bytes, retain: bool, t: float) -> None:
        """Take one message in. What is no command changes nothing, is logged and counted, and is answered if possible.

        Raises:
            StoreError: if the store cannot be used now; the message is to be given again later.
        """
        user = ticket = ""
        try:
            user, ticket = self._topics.parse_command(topic)
            if retain:
                raise CommandError(
                    f"ticket {ticket}: the command is retained, expected it without the flag",
                    code="retained",
                )
            if len(payload) > COMMAND_BYTES:
                raise CommandError(
                    f"ticket {ticket}: the command has {len(payload)} bytes, "
                    f"expected at most {COMMAND_BYTES}",
                    code="too_large",
                )
            self._handle(Command.parse(payload, user=user, ticket_id=ticket), t)
            self.handled += 1
        except CommandError as error:
            self.refused += 1
            log.warning("command refused", topic=topic, code=error.code, reason=str(error))
            command_id = _command_id(payload)
            if self._refuse is not None and command_id is not None:
                self._refuse(user, ticket, command_id, error, t)
        except StoreError:
            raise
        except Exception:  # one poisonous command must not stop the ones behind it
            self.refused += 1
            log.exception("command failed", topic=topic)


def _command_id(payload: bytes) -> str | None:
    """The id of a message that was refused, if it has a usable one."""
    if len(payload) > COMMAND_BYTES:
        return None
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    found = document.get("command_id") if isinstance(document, dict) else None
    return found if isinstance(found, str) and COMMAND_ID.fullmatch(found) else None


def _dump(document: Mapping[str, Json]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
