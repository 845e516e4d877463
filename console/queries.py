"""What the page asks of the mirror. A user's subtree is the `scope` of every question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from alerts.tickets import Ticket
from console.database import Database, commands, in_subtree, statuses, ticket_events, tickets

__all__ = [
    "CommandRow",
    "Counts",
    "EventRow",
    "Status",
    "TicketDetail",
    "TicketQuery",
    "TicketReader",
    "TicketRow",
]

LIMIT = 500

_HEAVY = ("document", "thumbnail", "search")
_LIGHT = [column for column in tickets.c if column.name not in _HEAVY]


@dataclass(frozen=True, slots=True)
class TicketQuery:
    """Which tickets, the newest first. Empty means all.

    Attributes:
        scope: The user's subtree.
        grid: A subtree that the user asked for.
        text: Words that must all occur in title, camera, grid, id or notes.
        since: Raised at or after, seconds since the epoch; `until`: before.
        before_id: Older than this ticket, for the next page.
        changed_t: Only what reached us after this.
    """

    states: Sequence[str] = ()
    scenarios: Sequence[str] = ()
    severities: Sequence[str] = ()
    grid: str = ""
    scope: str = ""
    camera: str = ""
    text: str = ""
    is_open: bool | None = None
    since: float | None = None
    until: float | None = None
    before_id: str = ""
    changed_t: float | None = None
    limit: int = 100

    def where(self) -> list[sa.ColumnElement[bool]]:
        """The conditions."""
        c = tickets.c
        found: list[sa.ColumnElement[bool]] = [in_subtree(c.grid, self.scope)]
        if self.grid:
            found.append(in_subtree(c.grid, self.grid))
        for column, values in (
            (c.state, self.states),
            (c.scenario, self.scenarios),
            (c.severity, self.severities),
        ):
            if values:
                found.append(column.in_(list(values)))
        if self.camera:
            found.append(c.camera == self.camera)
        if self.is_open is not None:
            found.append(c.is_open.is_(self.is_open))
        found += [c.search.contains(word, autoescape=True) for word in self.text.lower().split()]
        if self.since is not None:
            found.append(c.raised_t >= self.since)
        if self.until is not None:
            found.append(c.raised_t < self.until)
        if self.before_id:
            found.append(c.id < self.before_id)
        if self.changed_t is not None:
            found.append(c.received_t > self.changed_t)
        return found


@dataclass(frozen=True, slots=True)
class CommandRow:
    """What somebody asked for from a console, and the answer.

    Attributes:
        state: ``pending``, ``ok`` or ``refused``.
    """

    command_id: str
    ticket_id: str
    who: str
    action: str
    sent_t: float
    expires_t: float
    state: str
    code: str
    message: str
    answered_t: float | None


@dataclass(frozen=True, slots=True)
class TicketRow:
    """A ticket as a list shows it; times in seconds since the epoch."""

    id: str
    version: int
    site: str
    host: str
    camera: str
    camera_name: str
    grid: str
    scenario: str
    severity: str
    state: str
    condition: str
    outcome: str | None
    is_open: bool
    simulated: bool
    confidence: float
    title_zh: str
    title_en: str
    capture_t: float
    raised_t: float
    published_t: float
    acknowledged_t: float | None
    dispatched_t: float | None
    disposed_t: float | None
    updated_t: float
    received_t: float
    cleared_t: float | None
    has_thumbnail: bool
    pending: tuple[CommandRow, ...] = ()


@dataclass(frozen=True, slots=True)
class EventRow:
    """One change of a ticket, as its host told it."""

    version: int
    kind: str
    state: str
    t: float
    who: str
    source: str
    note: str
    document: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TicketDetail:
    """Everything about one ticket; the oldest event first, the newest command first."""

    row: TicketRow
    ticket: Ticket
    events: list[EventRow]
    commands: list[CommandRow]


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of open tickets."""

    open: int
    warned: int
    by_severity: dict[str, int]
    by_scenario: dict[str, int]
    by_state: dict[str, int]


@dataclass(frozen=True, slots=True)
class Status:
    """The newest status of a camera or a host."""

    kind: str
    subject: str
    site: str
    t: float
    received_t: float
    document: dict[str, Any]


class TicketReader:
    """Reads the mirror.

    Args:
        database: Of the console.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, query: TicketQuery, pending_at: float | None = None) -> list[TicketRow]:
        """The tickets of a query, the newest first.

        Args:
            query: Which.
            pending_at: Give with each ticket the commands that wait for an answer at this time.
        """
        statement = (
            sa.select(*_LIGHT, tickets.c.thumbnail.is_not(None).label("has_thumbnail"))
            .where(*query.where())
            .order_by(tickets.c.id.desc())
            .limit(min(query.limit, LIMIT))
        )
        return self._rows(statement, pending_at)

    def rows(self, ids: Sequence[str], pending_at: float | None = None) -> list[TicketRow]:
        """The tickets with these ids."""
        statement = sa.select(
            *_LIGHT, tickets.c.thumbnail.is_not(None).label("has_thumbnail")
        ).where(tickets.c.id.in_(list(ids)))
        return self._rows(statement, pending_at)

    def matching(self, query: TicketQuery, ids: Sequence[str]) -> set[str]:
        """Which of these tickets a query finds."""
        statement = sa.select(tickets.c.id).where(*query.where(), tickets.c.id.in_(list(ids)))
        with self._database.read() as connection:
            return set(connection.scalars(statement))

    def get(self, ticket_id: str, scope: str) -> TicketDetail | None:
        """One ticket with its history; None if there is none of that id within `scope`."""
        statement = sa.select(
            *_LIGHT, tickets.c.thumbnail.is_not(None).label("has_thumbnail"), tickets.c.document
        ).where(tickets.c.id == ticket_id, in_subtree(tickets.c.grid, scope))
        with self._database.read() as connection:
            row = connection.execute(statement).first()
            if row is None:
                return None
            found_events = connection.execute(
                sa.select(*(c for c in ticket_events.c if c.name != "ticket_id"))
                .where(ticket_events.c.ticket_id == ticket_id)
                .order_by(ticket_events.c.version, ticket_events.c.t)
            ).mappings()
            event_rows = list(found_events)
            command_rows = connection.execute(
                sa.select(commands)
                .where(commands.c.ticket_id == ticket_id)
                .order_by(commands.c.sent_t.desc())
                .limit(50)
            ).all()
        events = [
            EventRow(**{**event, "document": json.loads(event["document"])}) for event in event_rows
        ]
        values = dict(row._mapping)  # noqa: SLF001 - the documented way to a row's columns by name
        document = values.pop("document")
        return TicketDetail(
            TicketRow(**values),
            Ticket.model_validate_json(document),
            events,
            [_command(one) for one in command_rows],
        )

    def commands(self, ids: Sequence[str]) -> list[CommandRow]:
        """The commands with these ids."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(commands).where(commands.c.command_id.in_(list(ids)))
            ).all()
        return [_command(row) for row in rows]

    def thumbnail(self, ticket_id: str, scope: str) -> bytes | None:
        """The ticket's small JPEG."""
        statement = sa.select(tickets.c.thumbnail).where(
            tickets.c.id == ticket_id, in_subtree(tickets.c.grid, scope)
        )
        with self._database.read() as connection:
            found = connection.scalar(statement)
        return None if found is None else bytes(found)

    def counts(self, scope: str) -> Counts:
        """How many are open, by severity, scenario and state."""
        c = tickets.c
        statement = (
            sa.select(c.state, c.severity, c.scenario, sa.func.count().label("n"))
            .where(c.is_open.is_(True), in_subtree(c.grid, scope))
            .group_by(c.state, c.severity, c.scenario)
        )
        by: tuple[dict[str, int], dict[str, int], dict[str, int]] = ({}, {}, {})
        with self._database.read() as connection:
            for state, severity, scenario, n in connection.execute(statement):
                for found, name in zip(by, (state, severity, scenario), strict=True):
                    found[name] = found.get(name, 0) + n
        by_state, by_severity, by_scenario = by
        return Counts(
            sum(by_state.values()), by_state.get("warned", 0), by_severity, by_scenario, by_state
        )

    def statuses(self, kind: str, scope: str = "") -> list[Status]:
        """The newest status of every camera or host that we heard of.

        Args:
            kind: ``camera`` or ``host``.
            scope: Cameras of this subtree alone, as far as their grid is known from their status or a ticket.
        """
        statement = (
            sa.select(statuses)
            .where(statuses.c.kind == kind)
            .order_by(statuses.c.site, statuses.c.subject)
        )
        with self._database.read() as connection:
            rows = connection.execute(statement).mappings().all()
            grids: dict[str, str] = {}
            if scope and kind == "camera":
                c = tickets.c
                newest = sa.select(c.camera, sa.func.max(c.grid)).group_by(c.camera)
                grids = {row[0]: row[1] for row in connection.execute(newest)}
        found = [Status(**{**row, "document": json.loads(row["document"])}) for row in rows]
        if not scope or kind != "camera":
            return found
        return [
            one
            for one in found
            if _below(str(one.document.get("grid") or grids.get(one.subject, "")), scope)
        ]

    def scenarios(self) -> list[str]:
        """Every scenario that a ticket was ever raised by."""
        with self._database.read() as connection:
            return sorted(connection.scalars(sa.select(tickets.c.scenario).distinct()))

    def grids(self, scope: str) -> list[str]:
        """Every grid of a ticket within `scope`, and those above them that lie in it."""
        statement = sa.select(tickets.c.grid).where(in_subtree(tickets.c.grid, scope)).distinct()
        found: set[str] = set()
        with self._database.read() as connection:
            for grid in connection.scalars(statement):
                levels = grid.split("/") if grid else []
                found |= {"/".join(levels[: n + 1]) for n in range(len(levels))}
        return sorted(grid for grid in found if _below(grid, scope))

    def cursor(self) -> float:
        """The moment at which the newest version reached us; 0 for an empty mirror."""
        with self._database.read() as connection:
            return float(connection.scalar(sa.select(sa.func.max(tickets.c.received_t))) or 0.0)

    def _rows(self, statement: sa.Select[Any], pending_at: float | None) -> list[TicketRow]:
        with self._database.read() as connection:
            found = [dict(row._mapping) for row in connection.execute(statement)]  # noqa: SLF001
            waiting: dict[str, list[CommandRow]] = {}
            if pending_at is not None and found:
                c = commands.c
                asked = sa.select(commands).where(
                    c.state == "pending",
                    c.expires_t > pending_at,
                    c.ticket_id.in_([row["id"] for row in found]),
                )
                for one in connection.execute(asked.order_by(c.sent_t)):
                    waiting.setdefault(one.ticket_id, []).append(_command(one))
        return [TicketRow(**row, pending=tuple(waiting.get(row["id"], ()))) for row in found]


def _below(grid: str, scope: str) -> bool:
    return not scope or grid == scope or grid.startswith(f"{scope}/")


def _command(row: sa.Row[Any]) -> CommandRow:
    return CommandRow(
        row.command_id,
        row.ticket_id,
        row.who,
        row.action,
        row.sent_t,
        row.expires_t,
        row.state,
        row.code,
        row.message,
        row.answered_t,
    )
