"""The durable store: tickets, their audit trail, the outbox, decisions and what must survive a restart.

SQLite in WAL mode with ``synchronous=FULL``: what `Store.commit` has confirmed survives a kill and a power cut. One
writer thread owns all writes; whatever waits in its queue shares a transaction, and so an fsync. Readers never wait.

A PostgreSQL URL does the same on a server (`alerts.postgres`): a server that is away is waited for, and a commit whose
answer was lost is asked for before it is repeated, so that nothing is lost and nothing is stored twice. The pragmas and
the moving aside of a corrupt file are SQLite's alone.
"""

from __future__ import annotations

import json
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from alerts import postgres
from alerts.accuracy import Fact, Miss, fact_of
from alerts.calls import Call
from alerts.escalation import Wait
from alerts.rules import AlarmKey, Decision
from alerts.tickets import OPEN_STATES, Outcome, Reply, Ticket, TicketState, seconds
from pipeline.exceptions import StoreError
from pipeline.observation import Json

__all__ = ["AlarmRow", "Batch", "Event", "Message", "OutboxRow", "Store", "set_aside"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

# "gwtc": marks the file as ours.
_APPLICATION_ID = 0x67777463
# The console and the command line read while the engine writes; a checkpoint takes well under a second.
_BUSY_TIMEOUT_MS = 5000
# More changes than a storm makes in the seconds for which a slow disk may hang; then the engine waits.
_QUEUE = 1000
# Waiting changes share one fsync; beyond this the first of them would wait for the others.
_GROUP = 100

# How often a server that is away is tried again: at once, then more and more rarely.
_RETRY_S = (0.2, 5.0)
# Stores on PostgreSQL exist since this schema.
_FIRST_SERVER_SCHEMA = 3
_APPLICATION = "gridwatch tickets"

_metadata = sa.MetaData()
# Numbers of rows that are never given twice; SQLite's own integer has 64 bits.
_Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(length: int) -> sa.types.TypeEngine[str]:
    """SQLite takes the length for a remark; a server would refuse a camera's long name, which serves nobody."""
    return sa.Text().with_variant(sa.String(length), "sqlite")


_tickets = sa.Table(
    "tickets",
    _metadata,
    sa.Column("id", _text(26), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("state", _text(16), nullable=False, index=True),
    sa.Column("condition", _text(16), nullable=False),
    sa.Column("scenario", _text(64), nullable=False),
    sa.Column("camera", _text(64), nullable=False, index=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("grid", sa.Text, nullable=False),
    sa.Column("severity", _text(16), nullable=False),
    sa.Column("outcome", _text(16)),
    sa.Column("simulated", sa.Boolean, nullable=False),
    sa.Column("raised_t", sa.Double, nullable=False, index=True),
    sa.Column("updated_t", sa.Double, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)
_events = sa.Table(
    "events",
    _metadata,
    sa.Column("seq", _Number, primary_key=True),
    sa.Column(
        "ticket_id", sa.ForeignKey("tickets.id", ondelete="CASCADE"), index=True, nullable=False
    ),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("kind", _text(32), nullable=False),
    sa.Column("who", _text(64), nullable=False),
    sa.Column("source", _text(64), nullable=False),
    sa.Column("t", sa.Double, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    # Numbers are never given twice, not even after the newest rows were trimmed.
    sqlite_autoincrement=True,
)
_outbox = sa.Table(
    "outbox",
    _metadata,
    sa.Column("seq", _Number, primary_key=True),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("qos", sa.Integer, nullable=False),
    sa.Column("retain", sa.Boolean, nullable=False),
    sa.Column("ticket_id", _text(26)),
    sa.Column("version", sa.Integer),
    sa.Column("created_t", sa.Double, nullable=False),
    sa.Column("published_t", sa.Double),
    sqlite_autoincrement=True,
)
sa.Index(
    "outbox_pending",
    _outbox.c.seq,
    sqlite_where=_outbox.c.published_t.is_(None),
    postgresql_where=_outbox.c.published_t.is_(None),
)
sa.Index(
    "outbox_superseded",
    _outbox.c.topic,
    _outbox.c.ticket_id,
    _outbox.c.version,
    sqlite_where=_outbox.c.published_t.is_(None),
    postgresql_where=_outbox.c.published_t.is_(None),
)
_decisions = sa.Table(
    "decisions",
    _metadata,
    sa.Column("seq", _Number, primary_key=True),
    sa.Column("t", sa.Double, nullable=False, index=True),
    sa.Column("camera", _text(64), nullable=False),
    sa.Column("scenario", _text(64), nullable=False),
    sa.Column("outcome", _text(16), nullable=False),
    sa.Column("code", _text(32), nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)
_rule_state = sa.Table(
    "rule_state",
    _metadata,
    sa.Column("camera", _text(64), primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
)
_scenario_state = sa.Table(
    "scenario_state",
    _metadata,
    sa.Column("camera", _text(64), primary_key=True),
    sa.Column("scenario", _text(64), primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
)
_alarms = sa.Table(
    "alarms",
    _metadata,
    sa.Column("camera", _text(64), primary_key=True),
    sa.Column("scenario", _text(64), primary_key=True),
    sa.Column("subject", _text(255), primary_key=True),
    sa.Column("ticket_id", sa.ForeignKey("tickets.id", ondelete="CASCADE")),
    sa.Column("document", sa.Text, nullable=False),
)
_commands = sa.Table(
    "commands",
    _metadata,
    sa.Column("user", _text(64), primary_key=True),
    sa.Column("command_id", _text(64), primary_key=True),
    sa.Column("t", sa.Double, nullable=False),
    sa.Column("reply", sa.Text, nullable=False),
)
# What the statistics need of a ticket, in rows a thousandth of its size; they outlive it.
_facts = sa.Table(
    "facts",
    _metadata,
    sa.Column("ticket_id", _text(26), primary_key=True),
    sa.Column("site", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("scenario", sa.Text, nullable=False),
    sa.Column("camera", sa.Text, nullable=False),
    sa.Column("grid", sa.Text, nullable=False),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("raised_t", sa.Double, nullable=False, index=True),
    sa.Column("acknowledged_t", sa.Double),
    sa.Column("dispatched_t", sa.Double),
    sa.Column("disposed_t", sa.Double),
    sa.Column("outcome", sa.Text),
    sa.Column("simulated", sa.Boolean, nullable=False),
)
_misses = sa.Table(
    "misses",
    _metadata,
    sa.Column("id", _text(26), primary_key=True),
    sa.Column("site", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("camera", sa.Text, nullable=False),
    sa.Column("grid", sa.Text, nullable=False),
    sa.Column("scenario", sa.Text, nullable=False),
    sa.Column("t", sa.Double, nullable=False, index=True),
    sa.Column("reported_t", sa.Double, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("picture", sa.Text, nullable=False),
    sa.Column("simulated", sa.Boolean, nullable=False),
)
_waits = sa.Table(
    "waits",
    _metadata,
    sa.Column("ticket_id", sa.ForeignKey("tickets.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
)
_calls = sa.Table(
    "calls",
    _metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("person", sa.Text, nullable=False),
    sa.Column("inbox", sa.Text, nullable=False),
    sa.Column(
        "ticket_id", sa.ForeignKey("tickets.id", ondelete="CASCADE"), index=True, nullable=False
    ),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("created_t", sa.DOUBLE_PRECISION, nullable=False),
    sa.Column("due_t", sa.DOUBLE_PRECISION, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("done_t", sa.DOUBLE_PRECISION),
)
sa.Index(
    "calls_waiting",
    _calls.c.due_t,
    sqlite_where=_calls.c.done_t.is_(None),
    postgresql_where=_calls.c.done_t.is_(None),
)
_meta = sa.Table(
    "meta",
    _metadata,
    sa.Column("key", _text(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
for _verb, _when in (
    ("UPDATE", ""),
    # Only together with their ticket, when its time has come.
    ("DELETE", "WHEN EXISTS (SELECT 1 FROM tickets WHERE id = OLD.ticket_id) "),
):
    sa.event.listen(
        _events,
        "after_create",
        sa.DDL(  # type: ignore[no-untyped-call]
            f"CREATE TRIGGER events_no_{_verb.lower()} BEFORE {_verb} ON events {_when}"
            "BEGIN SELECT RAISE(ABORT, 'events are never rewritten'); END"
        ).execute_if(dialect="sqlite"),
    )

for _statement in postgres.GUARDS:
    sa.event.listen(
        _events,
        "after_create",
        sa.DDL(_statement).execute_if(dialect="postgresql"),  # type: ignore[no-untyped-call]
    )

# Seconds since the epoch of an act in a ticket's document, such as 2026-05-01T08:30:00.125Z.
_MOMENT = (
    "strftime('%s', json_extract(document, '$.dispose.{0}.time')) "
    "+ substr(json_extract(document, '$.dispose.{0}.time'), 21, 3) / 1000.0"
)
# Statements that lead from version n+1 to n+2 of the schema; a new store begins at the newest version. From the third
# on they must be SQL that both SQLite and PostgreSQL take.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        (
            "CREATE INDEX outbox_superseded ON outbox (topic, ticket_id, version) "
            "WHERE published_t IS NULL"
        ),
    ),
    (
        (
            "CREATE TABLE facts (ticket_id VARCHAR(26) NOT NULL, site TEXT NOT NULL, "
            "host TEXT NOT NULL, scenario TEXT NOT NULL, camera TEXT NOT NULL, "
            "grid TEXT NOT NULL, severity TEXT NOT NULL, raised_t DOUBLE NOT NULL, "
            "acknowledged_t DOUBLE, dispatched_t DOUBLE, disposed_t DOUBLE, outcome TEXT, "
            "simulated BOOLEAN NOT NULL, PRIMARY KEY (ticket_id))"
        ),
        "CREATE INDEX ix_facts_raised_t ON facts (raised_t)",
        (
            "INSERT INTO facts SELECT id, json_extract(document, '$.site'), "  # noqa: S608 - ours
            "json_extract(document, '$.host'), scenario, camera, grid, severity, raised_t, "
            f"{_MOMENT.format('acknowledged')}, {_MOMENT.format('dispatched')}, "
            f"{_MOMENT.format('disposed')}, outcome, simulated FROM tickets"
        ),
        (
            "CREATE TABLE misses (id VARCHAR(26) NOT NULL, site TEXT NOT NULL, host TEXT NOT NULL, "
            "camera TEXT NOT NULL, grid TEXT NOT NULL, scenario TEXT NOT NULL, t DOUBLE NOT NULL, "
            'reported_t DOUBLE NOT NULL, "by" TEXT NOT NULL, note TEXT NOT NULL, '
            "picture TEXT NOT NULL, simulated BOOLEAN NOT NULL, PRIMARY KEY (id))"
        ),
        "CREATE INDEX ix_misses_t ON misses (t)",
    ),
    (
        (
            "CREATE TABLE waits (ticket_id VARCHAR(26) NOT NULL, document TEXT NOT NULL, "
            "PRIMARY KEY (ticket_id), "
            "FOREIGN KEY (ticket_id) REFERENCES tickets (id) ON DELETE CASCADE)"
        ),
        (
            "CREATE TABLE calls (key TEXT NOT NULL, person TEXT NOT NULL, inbox TEXT NOT NULL, "
            "ticket_id VARCHAR(26) NOT NULL, version INTEGER NOT NULL, reason TEXT NOT NULL, "
            "severity TEXT NOT NULL, created_t DOUBLE PRECISION NOT NULL, "
            "due_t DOUBLE PRECISION NOT NULL, attempts INTEGER NOT NULL, state TEXT NOT NULL, "
            "done_t DOUBLE PRECISION, PRIMARY KEY (key), "
            "FOREIGN KEY (ticket_id) REFERENCES tickets (id) ON DELETE CASCADE)"
        ),
        "CREATE INDEX ix_calls_ticket_id ON calls (ticket_id)",
        "CREATE INDEX calls_waiting ON calls (due_t) WHERE done_t IS NULL",
    ),
)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a ticket's audit trail.

    Attributes:
        kind: ``raised``, ``updated``, ``cleared``, ``evidence``, ``attached``, ``escalated``, ``unpublished``,
            ``refused`` (a command that changed nothing), ``uncalled`` or an action of a person.
        who: The person, or the host for what the analysis did.
        t: Seconds since the epoch.
    """

    ticket_id: str
    version: int
    kind: str
    who: str
    t: float
    source: str = ""
    document: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """A message for the outbox.

    Attributes:
        supersedes: It says all that waiting ones on its topic with lower versions of its ticket would say, and they
            are dropped; but not those up to a clearing of the topic, whose order is news of its own.
    """

    topic: str
    payload: bytes
    retain: bool = False
    qos: int = 1
    ticket_id: str | None = None
    version: int | None = None
    supersedes: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A message that waits in the outbox; `seq` gives the order and never repeats."""

    seq: int
    message: Message
    created_t: float


@dataclass(frozen=True, slots=True)
class AlarmRow:
    """An open alarm: the ticket it belongs to, or None while storm control holds it back.

    Attributes:
        document: The change that raised it, where it is held back.
    """

    ticket_id: str | None
    document: dict[str, Json] = field(default_factory=dict)


@dataclass(slots=True)
class Batch:
    """All that must be stored together or not at all, at time `t`.

    Attributes:
        tickets: New ones (version 1) and next versions, in order.
        alarms: Open alarms that are new or changed; None removes one that has ended.
        rule_states: Snapshot of the rules per camera id.
        scenario_states: Per (camera id, scenario); None removes it.
        commands: Answered commands by (user, command id).
        misses: What operators reported that no ticket was raised for.
        waits: Positions on the ladders by ticket id; None removes it.
        calls: New ones, and those that have changed.
    """

    t: float
    tickets: list[Ticket] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    rule_states: dict[str, dict[str, Json]] = field(default_factory=dict)
    scenario_states: dict[tuple[str, str], dict[str, Json] | None] = field(default_factory=dict)
    alarms: dict[AlarmKey, AlarmRow | None] = field(default_factory=dict)
    commands: dict[tuple[str, str], Reply] = field(default_factory=dict)
    misses: list[Miss] = field(default_factory=list)
    waits: dict[str, Wait | None] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    meta: dict[str, str] = field(default_factory=dict)


_OUTCOMES: Mapping[str | None, Outcome | None] = {None: None, **{str(o): o for o in Outcome}}


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A transaction whose commit was not answered."""

    transaction: int
    results: list[Any]


_Work = Callable[[sa.Connection], Any]


class Store:
    """The ticket store. Safe to use from any thread; close it, or use it as a context manager.

    Args:
        where: Path of the SQLite file (its folder is made), or an SQLAlchemy URL.
        read_only: For the command line and the console beside a running engine: no writer, no migration.
        patience_s: How long a read or a write waits for a database server that is away, once the store is open; by
            default for ever, or not at all with `read_only`.

    Raises:
        StoreError: if it cannot be opened: corrupt, another program's, of a newer gridwatch, not writable, or its
            server is away or refuses us.
    """

    def __init__(
        self, where: Path | str, *, read_only: bool = False, patience_s: float | None = None
    ) -> None:
        self._read_only = read_only
        self._patience_s = (0.0 if read_only else math.inf) if patience_s is None else patience_s
        self._ending = threading.Event()
        self._away_since_s: float | None = None
        self._place, self._engine = _engine(where, read_only=read_only)
        self._on_messages: list[Callable[[], None]] = []
        self._queue: queue.Queue[tuple[_Work, bool, Future[Any]] | None] = queue.Queue(_QUEUE)
        self._closing = threading.Lock()
        self._closed = False
        try:
            with self._mapped():
                self._prepare()
        except StoreError:
            self._engine.dispose()
            raise
        self._writer = threading.Thread(target=self._write, name="store-writer", daemon=True)
        if not read_only:
            self._writer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what waits, then close; a server that is away is not waited for."""
        self.lose_patience()
        with self._closing:
            if self._closed:
                return
            self._closed = True
        if not self._read_only:
            self._queue.put(None)
            self._writer.join()
        self._engine.dispose()

    def lose_patience(self) -> None:
        """From now on no read and no write waits for a server that is away: the program ends."""
        self._ending.set()

    def claim(self, host: str) -> None:
        """Say that the engine of this host writes here; a database serves one, for they would drain one outbox.

        A file is guarded by the lock of its folder, and may go with a machine that changes its name.

        Raises:
            StoreError: if another host's engine does.
        """
        if not self._is_server:
            return
        owner = self._submit(lambda connection: _claim(connection, host)).result()
        if owner != host:
            raise StoreError(
                f"{self._place}: holds the tickets of host {owner!r}, expected those of {host!r}; give each host a "
                "database of its own, or, where a host was renamed, delete the row 'host' of its table meta"
            )

    # Writing

    def commit(self, batch: Batch) -> Future[None]:
        """Store a batch in one transaction. The result comes when it is on the disk.

        Raises (from the future):
            StoreError: nothing of it is stored; a ticket's version did not follow, or the disk failed.
        """
        return self._submit(lambda connection: _put(connection, batch), wakes=bool(batch.messages))

    def mark_published(self, seqs: Sequence[int], t: float) -> Future[None]:
        """The broker has confirmed these outbox rows at `t`."""

        def work(connection: sa.Connection) -> None:
            # In parts, for SQLite bounds the number of parameters.
            for part in (seqs[i : i + 500] for i in range(0, len(seqs), 500)):
                connection.execute(
                    _outbox.update()
                    .where(_outbox.c.seq.in_(part), _outbox.c.published_t.is_(None))
                    .values(published_t=t)
                )

        return self._submit(work)

    def republish(
        self, since_t: float, t: float, ticket_topic: Callable[[str], str] | None = None
    ) -> Future[dict[int, float]]:
        """What a broker that crashed or was wiped may have forgotten waits in the outbox again, in its order.

        Args:
            since_t: Of what it confirmed from this time on; seconds since the epoch.
            t: Now.
            ticket_topic: For a broker that has forgotten all: gives the topic on which a ticket of an id is retained,
                and every open ticket waits anew.

        Returns:
            When each message that waits again was confirmed before, by `OutboxRow.seq`.
        """

        def work(connection: sa.Connection) -> dict[int, float]:
            c = _outbox.c
            confirmed = connection.execute(
                sa.select(c.seq, c.published_t).where(c.published_t >= since_t)
            ).all()
            connection.execute(
                _outbox.update().where(c.published_t >= since_t).values(published_t=None)
            )
            if ticket_topic is not None:
                waiting = set(
                    connection.scalars(
                        sa.select(c.topic).where(c.published_t.is_(None), c.retain.is_(True))
                    )
                )
                for ticket in connection.execute(
                    sa.select(_tickets.c.id, _tickets.c.version, _tickets.c.document)
                    .where(_tickets.c.state.in_(sorted(OPEN_STATES)))
                    .order_by(_tickets.c.id)
                ).all():
                    topic = ticket_topic(ticket.id)
                    if topic not in waiting:
                        payload = ticket.document.encode()
                        message = Message(topic, payload, True, 1, ticket.id, ticket.version)
                        _insert(connection, _outbox, [_message_row(message, t)])
            return {row.seq: row.published_t for row in confirmed}

        return self._submit(work, wakes=True)

    def trim(
        self,
        t: float,
        *,
        published_s: float = 3600.0,
        decisions_s: float = 30 * 86400.0,
        decisions_rows: int = 200_000,
        commands_s: float = 7 * 86400.0,
        unsent_s: float = 7 * 86400.0,
        unsent_rows: int = 100_000,
        disposed_s: float | None = None,
        facts_s: float = 5 * 365 * 86400.0,
    ) -> Future[int]:
        """Delete what is older than this before `t`; gives the number of rows, without those of the events.

        Args:
            t: Seconds since the epoch.
            published_s: Messages that the broker has confirmed.
            decisions_s: Decision records.
            decisions_rows: At most so many decision records are kept.
            commands_s: Answers to commands; a repeat after that is a new command.
            unsent_s: Event messages and replies that wait for a broker: whoever missed a week of them reads the
                tickets, which wait for as long as it takes.
            unsent_rows: Of those, only what is among the newest so many messages.
            disposed_s: Disposed tickets with their events, since their last change; None keeps them for ever.
            facts_s: What the statistics keep of tickets that are gone, and of misses.
        """

        def work(connection: sa.Connection) -> int:
            newest = connection.scalar(sa.select(sa.func.max(_decisions.c.seq))) or 0
            written = connection.scalar(sa.select(sa.func.max(_outbox.c.seq))) or 0
            topic = _outbox.c.topic
            deletions = [
                _outbox.delete().where(_outbox.c.published_t < t - published_s),
                _outbox.delete().where(
                    _outbox.c.published_t.is_(None),
                    sa.or_(topic.like("%/events/%"), topic.like("%/replies/%")),
                    topic.not_like("%/inbox"),  # a grid may have any name
                    sa.or_(
                        _outbox.c.created_t < t - unsent_s, _outbox.c.seq <= written - unsent_rows
                    ),
                ),
                _decisions.delete().where(
                    sa.or_(
                        _decisions.c.t < t - decisions_s,
                        _decisions.c.seq <= newest - decisions_rows,
                    )
                ),
                _commands.delete().where(_commands.c.t < t - commands_s),
                _misses.delete().where(_misses.c.t < t - facts_s),
                _facts.delete().where(
                    _facts.c.raised_t < t - facts_s,
                    _facts.c.ticket_id.not_in(sa.select(_tickets.c.id)),
                ),
            ]
            if disposed_s is not None:
                c = _tickets.c
                deletions.append(
                    _tickets.delete().where(
                        c.state == TicketState.DISPOSED.value, c.updated_t < t - disposed_s
                    )
                )
            return sum(connection.execute(deletion).rowcount for deletion in deletions)

        return self._submit(work)

    def on_messages(self, callback: Callable[[], None]) -> None:
        """Call this, on the writer's thread, whenever new outbox rows are on the disk."""
        self._on_messages.append(callback)

    # Reading

    def ticket(self, ticket_id: str) -> Ticket | None:
        """The ticket's newest version."""
        rows = self._read(sa.select(_tickets.c.document).where(_tickets.c.id == ticket_id))
        return Ticket.model_validate_json(rows[0].document) if rows else None

    def tickets(
        self,
        *,
        states: Iterable[TicketState] | None = None,
        scenario: str | None = None,
        camera_id: str | None = None,
        grid: str | None = None,
        raised_from: float | None = None,
        raised_to: float | None = None,
        before_id: str | None = None,
        limit: int | None = None,
    ) -> list[Ticket]:
        """Tickets, the newest first.

        Args:
            states: None for all.
            scenario: Identifier; None for all.
            camera_id: None for all.
            grid: This grid and all below it.
            raised_from: Seconds since the epoch, inclusive.
            raised_to: Seconds since the epoch, exclusive.
            limit: At most so many.
            before_id: Only tickets older than this one: the next page.
        """
        c = _tickets.c
        query = sa.select(c.document).order_by(c.id.desc())
        if states is not None:
            query = query.where(c.state.in_(sorted(states)))
        if scenario is not None:
            query = query.where(c.scenario == scenario)
        if camera_id is not None:
            query = query.where(c.camera == camera_id)
        if grid is not None:
            query = query.where(
                sa.or_(c.grid == grid, c.grid.startswith(f"{grid}/", autoescape=True))
            )
        if raised_from is not None:
            query = query.where(c.raised_t >= raised_from)
        if raised_to is not None:
            query = query.where(c.raised_t < raised_to)
        if before_id is not None:
            query = query.where(c.id < before_id)
        if limit is not None:
            query = query.limit(limit)
        return [Ticket.model_validate_json(row.document) for row in self._read(query)]

    def open_tickets(self) -> list[Ticket]:
        """Tickets that nobody has disposed of, the newest first."""
        return self.tickets(states=OPEN_STATES)

    def open_evidence(self) -> set[str]:
        """Paths of the evidence of all open tickets, of which there may be thousands: never all in memory at once."""
        query = sa.select(_tickets.c.document).where(_tickets.c.state.in_(sorted(OPEN_STATES)))

        def read() -> set[str]:
            paths: set[str] = set()
            with self._engine.connect() as connection:
                for row in connection.execution_options(yield_per=100).execute(query):
                    paths.update(item["path"] for item in json.loads(row.document)["evidence"])
            return paths

        return self._patiently(read)

    def events(self, ticket_id: str) -> list[Event]:
        """The ticket's audit trail, the oldest first."""
        rows = self._read(
            sa.select(_events).where(_events.c.ticket_id == ticket_id).order_by(_events.c.seq)
        )
        return [
            Event(ticket, version, kind, who, t, source, json.loads(document))
            for _, ticket, version, kind, who, source, t, document in rows
        ]

    def event_count(self, ticket_id: str, kind: str) -> int:
        """How many lines of this kind the ticket's audit trail has."""
        c = _events.c
        query = sa.select(sa.func.count().label("n")).where(
            c.ticket_id == ticket_id, c.kind == kind
        )
        return int(self._read(query)[0].n)

    def decisions(
        self,
        *,
        camera_id: str | None = None,
        scenario: str | None = None,
        outcome: str | None = None,
        t_from: float | None = None,
        t_to: float | None = None,
        limit: int = 100,
    ) -> list[Decision]:
        """Decision records, the newest first."""
        c = _decisions.c
        query = sa.select(c.document).order_by(c.seq.desc()).limit(limit)
        if camera_id is not None:
            query = query.where(c.camera == camera_id)
        if scenario is not None:
            query = query.where(c.scenario == scenario)
        if outcome is not None:
            query = query.where(c.outcome == outcome)
        if t_from is not None:
            query = query.where(c.t >= t_from)
        if t_to is not None:
            query = query.where(c.t < t_to)
        return [Decision.model_validate_json(row.document) for row in self._read(query)]

    def decision_counts(self) -> dict[str, int]:
        """Number of kept decision records by code."""
        c = _decisions.c
        rows = self._read(sa.select(c.code, sa.func.count().label("n")).group_by(c.code))
        return {row.code: row.n for row in rows}

    def pending(self, limit: int = 100, after: int = 0) -> list[OutboxRow]:
        """Messages that the broker has not confirmed, in the order in which they must leave.

        Args:
            limit: At most so many.
            after: Only rows behind this `seq`, for a publisher that has earlier ones in flight.
        """
        c = _outbox.c
        rows = self._read(
            sa.select(_outbox)
            .where(c.published_t.is_(None), c.seq > after)
            .order_by(c.seq)
            .limit(limit)
        )
        return [
            OutboxRow(
                r.seq,
                Message(r.topic, bytes(r.payload), r.retain, r.qos, r.ticket_id, r.version),
                r.created_t,
            )
            for r in rows
        ]

    def confirmed_t(self) -> float | None:
        """When a broker last confirmed a message; None if that is long ago."""
        query = sa.select(sa.func.max(_outbox.c.published_t).label("newest"))
        found = self._read(query)[0].newest
        return None if found is None else float(found)

    def pending_count(self) -> int:
        """How many messages wait."""
        query = sa.select(sa.func.count().label("n")).where(_outbox.c.published_t.is_(None))
        return int(self._read(query)[0].n)

    def facts(
        self,
        since_t: float | None = None,
        until_t: float | None = None,
        *,
        camera_id: str | None = None,
    ) -> list[Fact]:
        """What the statistics need of the tickets raised in a time, the oldest first; of trimmed ones too.

        Args:
            since_t: Seconds since the epoch, inclusive; None from the beginning.
            until_t: Seconds since the epoch, exclusive; None until the end.
            camera_id: None for all.
        """
        c = _facts.c
        query = sa.select(_facts).order_by(c.raised_t, c.ticket_id)
        if since_t is not None:
            query = query.where(c.raised_t >= since_t)
        if until_t is not None:
            query = query.where(c.raised_t < until_t)
        if camera_id is not None:
            query = query.where(c.camera == camera_id)
        # The columns stand in the order of Fact's attributes.
        return [
            Fact(*row[:-2], _OUTCOMES[row[-2]], row[-1])  # type: ignore[call-arg]
            for row in self._read(query)
        ]

    def misses(self, since_t: float | None = None, until_t: float | None = None) -> list[Miss]:
        """Reported misses that happened in a time, the oldest first; for the arguments see `facts`."""
        c = _misses.c
        query = sa.select(_misses).order_by(c.t, c.id)
        if since_t is not None:
            query = query.where(c.t >= since_t)
        if until_t is not None:
            query = query.where(c.t < until_t)
        return [Miss(**row._mapping) for row in self._read(query)]  # noqa: SLF001 - its public name

    def rule_states(self) -> dict[str, dict[str, Json]]:
        """The rules' snapshots by camera id."""
        return {r.camera: json.loads(r.document) for r in self._read(sa.select(_rule_state))}

    def scenario_states(self) -> dict[tuple[str, str], dict[str, Json]]:
        """The scenarios' states by (camera id, scenario)."""
        rows = self._read(sa.select(_scenario_state))
        return {(r.camera, r.scenario): json.loads(r.document) for r in rows}

    def alarms(self) -> dict[AlarmKey, AlarmRow]:
        """All open alarms."""
        return {
            AlarmKey(r.camera, r.scenario, r.subject): AlarmRow(r.ticket_id, json.loads(r.document))
            for r in self._read(sa.select(_alarms))
        }

    def waits(self) -> list[Wait]:
        """The positions of all open tickets on their ladders."""
        rows = self._read(sa.select(_waits.c.document))
        documents = (json.loads(row.document) for row in rows)
        return [Wait(**{**found, "called": tuple(found["called"])}) for found in documents]

    def due_calls(self, t: float, limit: int = 1000) -> list[Call]:
        """Calls that are to be tried at `t`, the longest due first."""
        c = _calls.c
        query = sa.select(_calls).where(c.done_t.is_(None), c.due_t <= t)
        return [Call(*row) for row in self._read(query.order_by(c.due_t, c.key).limit(limit))]

    def next_call_t(self) -> float | None:
        """When the next call is to be tried; None if none waits."""
        query = sa.select(sa.func.min(_calls.c.due_t).label("due_t")).where(
            _calls.c.done_t.is_(None)
        )
        found = self._read(query)[0].due_t
        return None if found is None else float(found)

    def calls(self, ticket_id: str) -> list[Call]:
        """All calls for a ticket, the oldest first."""
        c = _calls.c
        query = sa.select(_calls).where(c.ticket_id == ticket_id).order_by(c.created_t, c.key)
        return [Call(*row) for row in self._read(query)]

    def reply(self, user: str, command_id: str) -> Reply | None:
        """How a command was answered, if it was."""
        c = _commands.c
        query = sa.select(c.reply).where(c.user == user, c.command_id == command_id)
        rows = self._read(query)
        return Reply.model_validate_json(rows[0].reply) if rows else None

    def meta(self, key: str) -> str | None:
        """A value of the host's own, e.g. ``host``."""
        rows = self._read(sa.select(_meta.c.value).where(_meta.c.key == key))
        return str(rows[0].value) if rows else None

    # Inside

    def _read(self, query: sa.Select[Any]) -> Sequence[Any]:
        def read() -> Sequence[Any]:
            with self._engine.connect() as connection:
                return connection.execute(query).all()

        return self._patiently(read)

    def _patiently(self, work: Callable[[], T]) -> T:
        """Do it, again and again while the server is away and patience lasts."""
        begun_s, delay_s = time.monotonic(), _RETRY_S[0]
        while True:
            try:
                with self._mapped():
                    result = work()
            except StoreError as error:
                if not self._is_server or not postgres.is_away(error.__cause__):
                    raise
                if self._away_since_s is None:
                    self._away_since_s = time.monotonic()
                    log.error("database away, retrying", reason=str(error))
                if self._ending.is_set() or time.monotonic() - begun_s >= self._patience_s:
                    raise
                self._ending.wait(delay_s)  # at the end once more: it may be back by now
                delay_s = min(2 * delay_s, _RETRY_S[1])
            else:
                since_s, self._away_since_s = self._away_since_s, None
                if since_s is not None:
                    log.info("database is back", away_s=round(time.monotonic() - since_s, 1))
                return result

    def _submit(self, work: Callable[[sa.Connection], T], *, wakes: bool = False) -> Future[T]:
        future: Future[T] = Future()
        with self._closing:
            if self._closed or self._read_only:
                what = "closed" if self._closed else "opened for reading"
                raise StoreError(f"{self._place}: is {what}, expected an open store to write to")
            self._queue.put((work, wakes, future))
        return future

    def _write(self) -> None:
        is_open = True
        while is_open:
            group: list[tuple[_Work, bool, Future[Any]]] = []
            item = self._queue.get()
            while item is not None:
                group.append(item)
                if len(group) == _GROUP:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            is_open = item is not None
            # One that fails must not take down those beside it: they are tried again, each alone.
            if group and not self._transact(group, alone=len(group) == 1):
                for single in group:
                    self._transact([single], alone=True)

    def _transact(self, group: list[tuple[_Work, bool, Future[Any]]], *, alone: bool) -> bool:
        works = [work for work, _, _ in group]
        doubts: list[_Doubt] = []
        try:
            if self._ending.is_set() and self._away_since_s is not None:
                raise StoreError(f"{self._place}: is away, and the program ends")
            results = self._patiently(lambda: self._attempt(works, doubts))
        except Exception as error:  # noqa: BLE001 - it belongs to the caller who waits on the future
            if alone:
                group[0][2].set_exception(error)
            return alone
        for (_, _, future), result in zip(group, results, strict=True):
            future.set_result(result)
        if any(wakes for _, wakes, _ in group):
            for callback in self._on_messages:
                self._call(callback)
        return True

    def _attempt(self, works: Sequence[_Work], doubts: list[_Doubt]) -> list[Any]:
        """One transaction; `doubts` holds the earlier attempt whose commit may have succeeded, if there is one."""
        with (
            self._engine.connect().execution_options(writes=True) as connection,
            connection.begin() as transaction,
        ):
            if doubts:
                if postgres.committed(connection, doubts[0].transaction):
                    return doubts[0].results
                doubts.clear()
            results = [work(connection) for work in works]
            if self._is_server:
                doubt = _Doubt(postgres.transaction_id(connection), results)
                try:
                    transaction.commit()
                except DBAPIError:
                    doubts.append(doubt)
                    raise
            return results

    @property
    def _is_server(self) -> bool:
        return self._engine.dialect.name != "sqlite"

    @staticmethod
    def _call(callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:
            log.exception("a listener of the outbox failed")

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            explain = postgres.explain if self._is_server else _explain
            raise StoreError(f"{self._place}: {explain(str(error.orig))}") from error
        except SQLAlchemyError as error:
            raise StoreError(f"{self._place}: {str(error).splitlines()[0]}") from error

    def _prepare(self) -> None:
        newest = len(MIGRATIONS) + 1
        with (
            self._engine.connect().execution_options(writes=not self._read_only) as connection,
            connection.begin(),
        ):
            version = self._check(connection)
            if version > newest:
                raise StoreError(
                    f"{self._place}: has schema {version}, expected {newest} at most; "
                    "it was written by a newer gridwatch"
                )
            if version == newest:
                return
            if self._read_only:
                raise StoreError(
                    f"{self._place}: has schema {version}, expected {newest}; "
                    "start the engine once to bring it up to date"
                )
            if version == 0:
                _metadata.create_all(connection)
            if self._is_server and 0 < version < _FIRST_SERVER_SCHEMA:
                raise StoreError(f"{self._place}: has schema {version}, expected a new database")
            for statements in MIGRATIONS[version - 1 :] if version else ():
                for statement in statements:
                    connection.execute(sa.text(statement))
            self._stamp(connection, newest)

    def _check(self, connection: sa.Connection) -> int:
        """The schema's version; 0 for an empty store."""
        if self._is_server:
            return self._check_server(connection)
        owner = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
        version = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
        if owner != _APPLICATION_ID and (version or sa.inspect(connection).get_table_names()):
            raise StoreError(
                f"{self._place}: is an SQLite file of another program, expected a gridwatch store"
            )
        found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        if found != "ok":
            where = str(found).splitlines()[-1]
            raise StoreError(f"{self._place}: is corrupt ({where}); {_CORRUPT_ADVICE}")
        return version

    def _check_server(self, connection: sa.Connection) -> int:
        present = set(sa.inspect(connection).get_table_names())
        values: dict[str, str] = {}
        if "meta" in present and _has_columns(connection, _meta):
            query = sa.select(_meta).where(_meta.c.key.in_(["application", "schema"]))
            values = {row.key: row.value for row in connection.execute(query)}
        if values.get("application") != _APPLICATION:
            if taken := present & set(_metadata.tables):
                raise StoreError(
                    f"{self._place}: another program has {', '.join(sorted(taken))} here, expected a gridwatch store "
                    "or an empty database"
                )
            return 0
        return int(values["schema"])

    @staticmethod
    def _stamp(connection: sa.Connection, version: int) -> None:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.exec_driver_sql(f"PRAGMA user_version = {version}")
        else:
            _upsert(connection, _meta, {"key": "schema"}, {"value": str(version)})
            _upsert(connection, _meta, {"key": "application"}, {"value": _APPLICATION})


def _has_columns(connection: sa.Connection, table: sa.Table) -> bool:
    found = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
    return found >= set(table.c.keys())


_CORRUPT_ADVICE = "restore a backup, or set it aside on purpose to begin a new one"


def _explain(message: str) -> str:
    """The database's error in the operator's words."""
    lowered = message.lower()
    for needle, words in (
        ("not a database", f"is no SQLite file or is corrupt; {_CORRUPT_ADVICE}"),
        ("malformed", f"is corrupt; {_CORRUPT_ADVICE}"),
        ("disk is full", "the disk is full; nothing was stored, expected free space"),
        ("readonly", "cannot be written, expected write access to the file and its folder"),
        ("unable to open", "cannot be opened, expected write access to the file and its folder"),
        ("locked", "another process holds it, expected one engine per store"),
    ):
        if needle in lowered:
            return words
    return message.splitlines()[0]


def _engine(where: Path | str, *, read_only: bool) -> tuple[str, sa.Engine]:
    if isinstance(where, str) and "://" in where:
        try:
            url = sa.make_url(where)
        except (SQLAlchemyError, ValueError) as error:
            raise StoreError("store: is no database URL, expected dialect://...") from error
        if url.get_backend_name() != "sqlite":
            return postgres.place_of(url), postgres.postgres_engine(url, read_only=read_only)
        path = Path(url.database or "")
        place = f"store {path}"
    else:
        path = Path(where)
        place = f"store {path}"
    if read_only:
        if not path.is_file():
            raise StoreError(f"{place}: does not exist, expected a store to read")
    else:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{place}: its folder cannot be made: {error.strerror}") from error
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)))

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:  # noqa: ANN401 - sqlite3's
        # Transactions are begun below, by name: the driver's own begin late and as readers.
        connection.isolation_level = None
        pragmas = ["foreign_keys = ON", f"busy_timeout = {_BUSY_TIMEOUT_MS}"]
        if read_only:
            pragmas.append("query_only = ON")
        else:
            pragmas += ["journal_mode = WAL", "synchronous = FULL"]
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return place, engine


def _put(connection: sa.Connection, batch: Batch) -> None:
    for ticket in batch.tickets:
        _put_ticket(connection, ticket)
    _insert(connection, _events, [_event_row(event) for event in batch.events])
    _insert(connection, _outbox, [_message_row(m, batch.t) for m in batch.messages])
    for message in batch.messages:
        if message.supersedes:
            _drop_superseded(connection, message)
    _insert(connection, _decisions, [_decision_row(d) for d in batch.decisions])
    for camera, state in batch.rule_states.items():
        _upsert(connection, _rule_state, {"camera": camera}, {"document": json.dumps(state)})
    for (camera, scenario), kept in batch.scenario_states.items():
        key = {"camera": camera, "scenario": scenario}
        if kept is None:
            c = _scenario_state.c
            connection.execute(
                _scenario_state.delete().where(c.camera == camera, c.scenario == scenario)
            )
        else:
            _upsert(connection, _scenario_state, key, {"document": json.dumps(kept)})
    _put_alarms(connection, batch.alarms)
    for (user, command_id), reply in batch.commands.items():
        key = {"user": user, "command_id": command_id}
        _insert(connection, _commands, [key | {"t": batch.t, "reply": reply.model_dump_json()}])
    _insert(connection, _misses, [asdict(miss) for miss in batch.misses])
    for ticket_id, wait in batch.waits.items():
        if wait is None:
            connection.execute(_waits.delete().where(_waits.c.ticket_id == ticket_id))
        else:
            _upsert(
                connection, _waits, {"ticket_id": ticket_id}, {"document": json.dumps(asdict(wait))}
            )
    for call in batch.calls:
        row = asdict(call)
        _upsert(connection, _calls, {"key": row.pop("key")}, row)
    for name, value in batch.meta.items():
        _upsert(connection, _meta, {"key": name}, {"value": value})


def _drop_superseded(connection: sa.Connection, message: Message) -> None:
    """A broker that is away for days must not fill the disk with versions that nobody needs any more.

    One of them may be on its way at this moment; confirming it then finds no row, which is as good.
    """
    c, earlier = _outbox.c, _outbox.alias()
    cleared = (
        sa.select(sa.func.coalesce(sa.func.max(earlier.c.version), 0))
        .where(
            earlier.c.topic == message.topic,
            earlier.c.ticket_id == message.ticket_id,
            earlier.c.version < message.version,
            earlier.c.published_t.is_(None),
            sa.func.length(earlier.c.payload) == 0,
        )
        .scalar_subquery()
    )
    connection.execute(
        _outbox.delete().where(
            c.topic == message.topic,
            c.ticket_id == message.ticket_id,
            c.version < message.version,
            c.version > cleared,
            c.published_t.is_(None),
        )
    )


def _put_ticket(connection: sa.Connection, ticket: Ticket) -> None:
    row = {
        "id": ticket.id,
        "version": ticket.version,
        "state": ticket.state.value,
        "condition": ticket.condition.value,
        "scenario": ticket.scenario,
        "camera": ticket.camera.id,
        "subject": ticket.subject,
        "grid": ticket.grid,
        "severity": ticket.severity,
        "outcome": ticket.dispose.outcome,
        "simulated": ticket.simulated,
        "raised_t": seconds(ticket.warn.raised),
        "updated_t": seconds(ticket.updated),
        "document": ticket.to_json(),
    }
    _put_version(connection, ticket, row)
    fact = asdict(fact_of(ticket))
    _upsert(connection, _facts, {"ticket_id": fact.pop("ticket_id")}, fact)


def _put_version(connection: sa.Connection, ticket: Ticket, row: dict[str, Any]) -> None:
    if ticket.version == 1:
        known = sa.select(_tickets.c.version).where(_tickets.c.id == ticket.id)
        found = connection.scalar(known)
        if found is None:
            connection.execute(_tickets.insert().values(row))
            return
    else:
        before = ticket.version - 1
        c = _tickets.c
        update = _tickets.update().where(c.id == ticket.id, c.version == before).values(row)
        if connection.execute(update).rowcount == 1:
            return
        found = connection.scalar(sa.select(c.version).where(c.id == ticket.id))
    raise StoreError(
        f"ticket {ticket.id}: is stored at version {found}, expected {ticket.version - 1 or None}"
    )


def _put_alarms(connection: sa.Connection, alarms: Mapping[AlarmKey, AlarmRow | None]) -> None:
    if not alarms:
        return
    c = _alarms.c
    connection.execute(
        _alarms.delete().where(
            c.camera == sa.bindparam("its_camera"),
            c.scenario == sa.bindparam("its_scenario"),
            c.subject == sa.bindparam("its_subject"),
        ),
        [
            {"its_camera": key.camera_id, "its_scenario": key.scenario, "its_subject": key.subject}
            for key in alarms
        ],
    )
    rows = [
        {
            "camera": key.camera_id,
            "scenario": key.scenario,
            "subject": key.subject,
            "ticket_id": row.ticket_id,
            "document": json.dumps(row.document),
        }
        for key, row in alarms.items()
        if row is not None
    ]
    _insert(connection, _alarms, rows)


def _insert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(table.insert(), rows)


def _upsert(
    connection: sa.Connection, table: sa.Table, key: dict[str, str], values: dict[str, Any]
) -> None:
    same = [table.c[name] == value for name, value in key.items()]
    if connection.execute(table.update().where(*same).values(values)).rowcount == 0:
        connection.execute(table.insert().values(key | values))


def _claim(connection: sa.Connection, host: str) -> str:
    owner = connection.scalar(sa.select(_meta.c.value).where(_meta.c.key == "host"))
    if owner is None:
        _upsert(connection, _meta, {"key": "host"}, {"value": host})
    return str(owner or host)


def _event_row(event: Event) -> dict[str, Any]:
    return {
        "ticket_id": event.ticket_id,
        "version": event.version,
        "kind": event.kind,
        "who": event.who,
        # From a command, and so anything; PostgreSQL's text knows no NUL.
        "source": event.source.replace("\0", "\ufffd"),
        "t": event.t,
        "document": json.dumps(dict(event.document), ensure_ascii=False),
    }


def _message_row(message: Message, t: float) -> dict[str, Any]:
    return {
        "topic": message.topic,
        "payload": message.payload,
        "qos": message.qos,
        "retain": message.retain,
        "ticket_id": message.ticket_id,
        "version": message.version,
        "created_t": t,
    }


def _decision_row(decision: Decision) -> dict[str, Any]:
    return {
        "t": decision.t,
        "camera": decision.camera_id,
        "scenario": decision.scenario,
        "outcome": decision.outcome,
        "code": decision.code,
        "document": decision.model_dump_json(),
    }


def set_aside(path: Path) -> Path:
    """Move a corrupt store and its journal out of the way; gives the new name. Only on an operator's explicit command.

    Raises:
        StoreError: if there is none or it cannot be moved.
    """
    if not path.is_file():
        raise StoreError(f"store {path}: does not exist, expected a file to set aside")
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    try:
        for suffix in ("-wal", "-shm", ""):
            source = path.with_name(path.name + suffix)
            if source.exists():
                source.rename(aside.with_name(aside.name + suffix))
    except OSError as error:
        raise StoreError(f"store {path}: cannot be set aside: {error.strerror}") from error
    return aside
