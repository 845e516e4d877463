"""Who is called when nobody answers: ladders, and where each open ticket stands on its own.

A ladder has two parts. `unacknowledged` counts from the moment at which a ticket waits for somebody to take it (raised,
reopened, reassigned); `undisposed` from the moment at which somebody took it. A position (`Wait`) is a pure function of
what the ticket is, its ladder and the time; it is stored in the transaction of the ticket's version, so that a restart
neither loses nor repeats a call:

    begin ──► Wait(due_t) ──step at t ≥ due_t──► Step (called now) + Wait(next due_t) ──► … ──► Wait(due_t=None)

After a downtime the rungs that were missed are called in their order, each with time to answer before the next: as long
as the ladder gives, but `CATCH_UP_S` at most. Due tickets are found in a heap: a tick costs nothing while none is due.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from alerts.rules import SEVERITY_RANK
from alerts.tickets import Ticket, TicketState
from pipeline.analyse.scenario import Severity
from pipeline.units import Duration, Settings

__all__ = [
    "CATCH_UP_S",
    "DEFAULT_LADDERS",
    "Agenda",
    "Facts",
    "Ladder",
    "Reason",
    "Rung",
    "Step",
    "Wait",
    "at_once",
    "begin",
    "follow",
    "step",
    "targets",
]

CATCH_UP_S = 60.0  # a level that was called late still has this long before the next is called
MAX_RUNGS = 20

Reason = Literal["unacknowledged", "undisposed"]
Target = Annotated[
    str, StringConstraints(pattern=r"^(micro|general|total|departments(/[^/+#\x00]+)?)$")
]
"""``micro`` is the ticket's own grid, ``general`` and ``total`` those above it; ``departments`` are its scenario's."""


class Rung(Settings):
    """One step of a ladder.

    Attributes:
        after: So long after the ticket began to wait.
        to: Who is called: `micro` (the ticket's own grid), `general`, `total`, `departments` (all of the scenario's) or
            `departments/{name}`.
        severity: For tickets of at least this severity.
        roles: Of the people in the grids, only those with one of these; empty for all but departments' and `admin`.
    """

    after: Duration = 0.0
    to: tuple[Target, ...] = Field(min_length=1)
    severity: Severity = "minor"
    roles: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Tells it from the others of its ladder, also after the ladder was edited."""
        return f"{self.after:g}>{','.join(self.to)}>{self.severity}>{','.join(self.roles)}"

    def is_for(self, severity: Severity) -> bool:
        """Whether tickets of this severity are called up on it."""
        return SEVERITY_RANK[severity] >= SEVERITY_RANK[self.severity]


class Ladder(Settings):
    """Who is called, and when, of one scenario's tickets.

    Attributes:
        unacknowledged: While nobody has taken the ticket; the time runs from its raise, reopening or reassignment.
        undisposed: While nobody has disposed of it; the time runs from its acknowledgement or dispatch.
    """

    unacknowledged: tuple[Rung, ...] = Field(default=(), max_length=MAX_RUNGS)
    undisposed: tuple[Rung, ...] = Field(default=(), max_length=MAX_RUNGS)

    @model_validator(mode="after")
    def _check(self) -> Ladder:
        for part in (self.unacknowledged, self.undisposed):
            times = [rung.after for rung in part]
            if times != sorted(times):
                raise ValueError(f"expected rungs by their time, found after: {_listed(times)}")
            if len({rung.key for rung in part}) < len(part):
                raise ValueError("expected each rung once, found two alike")
        if any(rung.after == 0 for rung in self.undisposed):
            raise ValueError(
                "undisposed: expected times above zero, for somebody has just taken it"
            )
        return self

    def part(self, reason: Reason) -> tuple[Rung, ...]:
        """Its rungs for one reason."""
        return self.unacknowledged if reason == "unacknowledged" else self.undisposed


def _listed(times: Iterable[float]) -> str:
    return ", ".join(f"{time:g} s" for time in times)


def _ladder(unacknowledged: Sequence[Rung], undisposed: Sequence[Rung]) -> Ladder:
    return Ladder(unacknowledged=tuple(unacknowledged), undisposed=tuple(undisposed))


_EVERYWHERE: tuple[str, ...] = ("micro", "general", "total", "departments")
# Small matters are solved in the grid, big ones called upwards level by level; a department answers at once where it
# burns. The minutes are ours: what a person on duty needs to see a message and to get up.
DEFAULT_LADDERS: Mapping[str, Ladder] = {
    "default": _ladder(
        [
            Rung(to=("micro", "departments")),
            Rung(to=("general", "total"), severity="critical"),
            Rung(after=600, to=("general",)),
            Rung(after=1800, to=("total",)),
        ],
        [Rung(after=4 * 3600, to=("general",)), Rung(after=24 * 3600, to=("total",))],
    ),
    "fire": _ladder(
        [
            Rung(to=_EVERYWHERE),
            Rung(after=120, to=_EVERYWHERE),
            Rung(after=300, to=("total", "departments")),
        ],
        [Rung(after=1800, to=("total", "departments"))],
    ),
    "ebike_in_elevator": _ladder(
        [
            Rung(to=("micro", "departments")),
            Rung(to=("general", "total"), severity="critical"),
            Rung(after=300, to=("general",)),
            Rung(after=900, to=("total",)),
        ],
        [Rung(after=3600, to=("general",)), Rung(after=4 * 3600, to=("total",))],
    ),
    # Of the cameras themselves: nobody is got out of bed for one.
    "camera_health": _ladder(
        [Rung(to=("micro",)), Rung(after=24 * 3600, to=("general",))],
        [Rung(after=7 * 86400, to=("general",))],
    ),
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What escalation needs to know of a ticket."""

    ticket_id: str
    severity: Severity
    state: TicketState

    @classmethod
    def of(cls, ticket: Ticket) -> Facts:
        """Those of a ticket."""
        return cls(ticket.id, ticket.severity, ticket.state)

    @property
    def reason(self) -> Reason | None:
        """What the ticket waits for; None once somebody has disposed of it."""
        if self.state is TicketState.DISPOSED:
            return None
        return "unacknowledged" if self.state is TicketState.WARNED else "undisposed"


@dataclass(frozen=True, slots=True)
class Wait:
    """A ticket's position on its ladder.

    Attributes:
        since_t: From when its time runs, in seconds since the epoch.
        called: Keys of the rungs that were called.
        last_t: When the last of them was called; None for none.
        last_after_s: That one's place on the ladder.
        due_t: When the next is due; None at the end of the ladder.
    """

    ticket_id: str
    reason: Reason
    since_t: float
    called: tuple[str, ...] = ()
    last_t: float | None = None
    last_after_s: float = 0.0
    due_t: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """Rungs of one height that are called together.

    Attributes:
        due_t: When they should have been; `t` of the call is later after a downtime.
    """

    ticket_id: str
    reason: Reason
    rungs: tuple[Rung, ...]
    due_t: float


def at_once(ladder: Ladder, severity: Severity) -> tuple[Rung, ...]:
    """The rungs that a ticket of this severity is routed to with its first version."""
    return tuple(r for r in ladder.unacknowledged if r.after == 0 and r.is_for(severity))


def begin(facts: Facts, ladder: Ladder, t: float) -> Wait | None:
    """The position of a ticket that waits from `t`; None if it waits for nobody.

    The rungs at once (`at_once`) count as called: they go with the version that begins the wait.
    """
    reason = facts.reason
    if reason is None:
        return None
    first = at_once(ladder, facts.severity) if reason == "unacknowledged" else ()
    wait = Wait(facts.ticket_id, reason, t, tuple(rung.key for rung in first), t if first else None)
    return _planned(wait, facts, ladder)


def follow(
    wait: Wait | None, facts: Facts, ladder: Ladder, t: float, *, anew: bool = False
) -> Wait | None:
    """The position after the ticket changed at `t`: taken, disposed of, worse.

    Args:
        wait: The position before; None for a ticket that had none.
        facts: What the ticket is now.
        ladder: Its scenario's.
        t: Now.
        anew: Whether the wait begins again: reopened, or handed to another grid.
    """
    if anew or wait is None or wait.reason != facts.reason:
        return begin(facts, ladder, t)
    return _planned(wait, facts, ladder)


def step(wait: Wait, facts: Facts, ladder: Ladder, t: float) -> tuple[Step | None, Wait]:
    """What is to be called at `t`, and the position after that; nothing and the same position if nothing is due."""
    if wait.due_t is None or wait.due_t > t:
        return None, wait
    rungs = _next(wait, facts, ladder)
    if not rungs:  # the ladder was shortened
        return None, replace(wait, due_t=None)
    after = replace(
        wait,
        called=(*wait.called, *(rung.key for rung in rungs)),
        last_t=t,
        last_after_s=rungs[0].after,
    )
    return Step(wait.ticket_id, wait.reason, rungs, wait.due_t), _planned(after, facts, ladder)


def targets(rungs: Iterable[Rung], grid: str, departments: Sequence[str]) -> list[str]:
    """Inboxes that rungs call: paths of grids and ``departments/{name}``, each once.

    Args:
        rungs: In the order of calling.
        grid: Path of the ticket's grid; empty for none.
        departments: Names of those that its scenario belongs to.
    """
    levels = grid.split("/") if grid else []
    paths: list[str] = []
    for rung in rungs:
        for target in rung.to:
            if target == "departments":
                paths += [f"departments/{name}" for name in departments]
            elif target.startswith("departments/"):
                paths.append(target)
            elif levels:
                depth = {"total": 1, "general": 2, "micro": len(levels)}[target]
                paths.append("/".join(levels[:depth]))
    return list(dict.fromkeys(paths))


class Agenda:
    """The positions of all open tickets, by the time at which they are due.

    Args:
        waits: As they were stored.
    """

    def __init__(self, waits: Iterable[Wait] = ()) -> None:
        self._waits = {wait.ticket_id: wait for wait in waits}
        self._heap: list[tuple[float, str]] = []
        self._rebuild()

    def __len__(self) -> int:
        return len(self._waits)

    def get(self, ticket_id: str) -> Wait | None:
        """A ticket's position."""
        return self._waits.get(ticket_id)

    def put(self, ticket_id: str, wait: Wait | None) -> None:
        """Set a ticket's position; None forgets it."""
        if wait is None:
            self._waits.pop(ticket_id, None)
            return
        before = self._waits.get(ticket_id)
        self._waits[ticket_id] = wait
        if wait.due_t is not None and (before is None or before.due_t != wait.due_t):
            heapq.heappush(self._heap, (wait.due_t, ticket_id))
        if len(self._heap) > 2 * len(self._waits) + 64:  # mostly of positions that have changed
            self._rebuild()

    def next_t(self) -> float | None:
        """When the next is due; None if nothing is."""
        while self._heap and not self._is_valid(*self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, t: float, limit: int = 100) -> list[Wait]:
        """Positions that are due at `t`, the longest due first, at most `limit`; due until they are `put` anew."""
        found: dict[str, Wait] = {}
        entries: list[tuple[float, str]] = []
        while len(found) < limit and (next_t := self.next_t()) is not None and next_t <= t:
            entry = heapq.heappop(self._heap)
            if entry[1] not in found:
                found[entry[1]] = self._waits[entry[1]]
                entries.append(entry)
        for entry in entries:
            heapq.heappush(self._heap, entry)
        return list(found.values())

    def _is_valid(self, due_t: float, ticket_id: str) -> bool:
        wait = self._waits.get(ticket_id)
        return wait is not None and wait.due_t == due_t

    def _rebuild(self) -> None:
        self._heap = [(w.due_t, w.ticket_id) for w in self._waits.values() if w.due_t is not None]
        heapq.heapify(self._heap)


def _next(wait: Wait, facts: Facts, ladder: Ladder) -> tuple[Rung, ...]:
    """The lowest rungs that were not called, all of one height."""
    left = [
        rung
        for rung in ladder.part(wait.reason)
        if rung.key not in wait.called and rung.is_for(facts.severity)
    ]
    return tuple(rung for rung in left if rung.after == left[0].after)


def _planned(wait: Wait, facts: Facts, ladder: Ladder) -> Wait:
    rungs = _next(wait, facts, ladder)
    if not rungs:
        return replace(wait, due_t=None)
    after_s = rungs[0].after
    due_t = wait.since_t + after_s
    if wait.last_t is not None:
        time_to_answer_s = min(max(0.0, after_s - wait.last_after_s), CATCH_UP_S)
        due_t = max(due_t, wait.last_t + time_to_answer_s)
    return replace(wait, due_t=due_t)
