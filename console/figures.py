"""The cockpit's figures, from the mirror: counts, accuracy with its bound, response times. Nothing here renders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

import sqlalchemy as sa

from alerts.accuracy import (
    Accuracy,
    AccuracySettings,
    Fact,
    Response,
    Stage,
    Trend,
    accuracy,
    accuracy_by,
    responses,
    trend,
    worst_cameras,
)
from alerts.storm import HEALTH
from alerts.tickets import Outcome
from console.database import Database, in_subtree, tickets

__all__ = ["AGES_S", "Bin", "Figures", "GridRow", "Heat", "figures", "has_real"]

DAY_S = 86_400.0
AGES_S = (900.0, 3_600.0, 14_400.0, DAY_S)  # a coffee, an hour, half a shift, a day
TREND_WEEKS = 12
WORST = 8


@dataclass(frozen=True, slots=True)
class Bin:
    """A span of time and how many tickets of each scenario were raised in it."""

    start_t: float
    label: str
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Heat:
    """Tickets per hour of the local day.

    Attributes:
        rows: Name and 24 counts.
        most: The largest of them.
    """

    rows: list[tuple[str, list[int]]]
    most: int


@dataclass(frozen=True, slots=True)
class GridRow:
    """One grid below the chosen one."""

    path: str
    raised: int
    open: int
    accuracy: Accuracy
    acknowledged: Response
    deeper: bool


@dataclass(frozen=True, slots=True)
class Figures:
    """All that the cockpit shows of one subtree and time.

    Attributes:
        raised: Tickets raised in the time.
        raised_before: In the time of the same length before.
        open: Open now, whenever raised, by scenario.
        ages: Open now by age (see `AGES_S`, and older) and severity.
        accuracy: Of the tickets raised in the time.
        weekly: The same by ISO week, over the time or twelve weeks, whichever is longer.
        by: How long a bin is: ``hour``, ``day`` or ``week``.
    """

    raised: int
    raised_before: int
    open: dict[str, int]
    ages: list[dict[str, int]]
    accuracy: Accuracy
    by_scenario: dict[str, Accuracy]
    raised_by_scenario: dict[str, int]
    weekly: dict[str, Accuracy]
    responses: dict[Stage, Response]
    trend: Trend
    worst: list[tuple[str, Accuracy]]
    camera_names: dict[str, str]
    grids: list[GridRow]
    bins: list[Bin]
    by: str
    heat: dict[str, Heat]
    scenarios: list[str]


def has_real(database: Database, scope: str) -> bool:
    """Whether any ticket within `scope` is of real pictures."""
    c = tickets.c
    statement = sa.select(c.id).where(c.simulated.is_(False), in_subtree(c.grid, scope)).limit(1)
    with database.read() as connection:
        return connection.scalar(statement) is not None


def figures(
    database: Database,
    *,
    scope: str,
    grid: str,
    since: float,
    now: float,
    timezone: tzinfo,
    settings: AccuracySettings,
    simulated: bool,
) -> Figures:
    """The figures of the tickets raised from `since` to `now`.

    Args:
        database: Of the console.
        scope: The user's subtree.
        grid: The subtree that was asked for.
        since: Seconds since the epoch.
        now: The same.
        timezone: Of days, hours and weeks.
        settings: Targets.
        simulated: Simulated tickets instead of real ones; the two are never mixed.
    """
    earliest = min(since - (now - since), now - TREND_WEEKS * 7 * DAY_S)
    rows = _facts(database, scope, grid, earliest, now, simulated=simulated)
    inside = [fact for fact in rows if fact.raised_t >= since]
    before = sum(since - (now - since) <= fact.raised_t < since for fact in rows)
    recent = [fact for fact in rows if fact.raised_t >= min(since, now - TREND_WEEKS * 7 * DAY_S)]
    opened = _open(database, scope, grid, simulated=simulated)
    raised = Counter(fact.scenario for fact in inside)
    by_scenario = accuracy_by(inside, "scenario", target=settings.target, simulated=simulated)
    scenarios = sorted(raised, key=lambda name: (name == HEALTH, -raised[name], name))
    worst = worst_cameras(inside, target=settings.target, limit=WORST, simulated=simulated)
    bins, by = _bins(inside, since, now, timezone)
    return Figures(
        raised=len(inside),
        raised_before=before,
        open=dict(Counter(scenario for scenario, _, _ in opened)),
        ages=_ages(opened, now),
        accuracy=accuracy(inside, target=settings.target, simulated=simulated),
        by_scenario=by_scenario,
        raised_by_scenario=dict(raised),
        weekly=accuracy_by(
            recent, "week", target=settings.target, timezone=timezone, simulated=simulated
        ),
        responses=responses(inside, now, settings.response, simulated=simulated),
        trend=trend(rows, now, timezone, target=settings.target, simulated=simulated),
        worst=worst,
        camera_names=_names(database, [name for name, _ in worst]),
        grids=_grids(inside, grid or scope, now, settings, opened_in=opened, simulated=simulated),
        bins=bins,
        by=by,
        heat=_heat(inside, grid or scope, timezone),
        scenarios=scenarios,
    )


def _telling_depth(grids: set[str], parent: str) -> int:
    """How many levels down to look: a level with a single grid tells nothing apart."""
    depth = len(parent.split("/")) + 1 if parent else 1
    while len({"/".join(grid.split("/")[:depth]) for grid in grids}) == 1 and any(
        grid.count("/") >= depth for grid in grids
    ):
        depth += 1
    return depth


_Open = tuple[str, str, tuple[float, str]]


def _facts(
    database: Database, scope: str, grid: str, since: float, now: float, *, simulated: bool
) -> list[Fact]:
    c = tickets.c
    statement = sa.select(
        *(c.id, c.site, c.host, c.scenario, c.camera, c.grid, c.severity, c.raised_t),
        *(c.acknowledged_t, c.dispatched_t, c.disposed_t, c.outcome, c.simulated),
    ).where(
        in_subtree(c.grid, scope),
        in_subtree(c.grid, grid),
        c.raised_t >= since,
        c.raised_t <= now,
        c.simulated.is_(simulated),
    )
    with database.read() as connection:
        return [
            Fact(
                *(row.id, row.site, row.host, row.scenario, row.camera, row.grid, row.severity),
                raised_t=row.raised_t,
                acknowledged_t=row.acknowledged_t,
                dispatched_t=row.dispatched_t,
                disposed_t=row.disposed_t,
                outcome=Outcome(row.outcome) if row.outcome else None,
                simulated=bool(row.simulated),
            )
            for row in connection.execute(statement)
        ]


def _open(database: Database, scope: str, grid: str, *, simulated: bool) -> list[_Open]:
    """Scenario, grid, time and severity of each open ticket."""
    c = tickets.c
    statement = sa.select(c.scenario, c.grid, c.raised_t, c.severity).where(
        in_subtree(c.grid, scope),
        in_subtree(c.grid, grid),
        c.is_open.is_(True),
        c.simulated.is_(simulated),
    )
    with database.read() as connection:
        return [(r[0], r[1], (float(r[2]), r[3])) for r in connection.execute(statement)]


def _ages(opened: Sequence[_Open], now: float) -> list[dict[str, int]]:
    ages: list[Counter[str]] = [Counter() for _ in range(len(AGES_S) + 1)]
    for _, _, (raised_t, severity) in opened:
        ages[sum(now - raised_t >= limit for limit in AGES_S)][severity] += 1
    return [dict(age) for age in ages]


def _names(database: Database, cameras: Sequence[str]) -> dict[str, str]:
    c = tickets.c
    ids = [name.rpartition("/")[2] for name in cameras]
    statement = sa.select(c.camera, sa.func.max(c.camera_name)).where(c.camera.in_(ids))
    with database.read() as connection:
        found = {row[0]: row[1] for row in connection.execute(statement.group_by(c.camera))}
    return {name: found.get(name.rpartition("/")[2]) or name for name in cameras}


def _grids(
    facts: Sequence[Fact],
    parent: str,
    now: float,
    settings: AccuracySettings,
    *,
    opened_in: Sequence[_Open],
    simulated: bool,
) -> list[GridRow]:
    depth = _telling_depth({fact.grid for fact in facts}, parent)
    by_path: dict[str, list[Fact]] = {}
    for fact in facts:
        by_path.setdefault("/".join(fact.grid.split("/")[:depth]), []).append(fact)
    opened = Counter("/".join(grid.split("/")[:depth]) for _, grid, _ in opened_in)
    rows = [
        GridRow(
            path=path,
            raised=len(part),
            open=opened.get(path, 0),
            accuracy=accuracy(part, target=settings.target, simulated=simulated),
            acknowledged=responses(part, now, settings.response, simulated=simulated)[
                "acknowledged"
            ],
            deeper=path != parent and any(fact.grid != path for fact in part),
        )
        for path, part in by_path.items()
    ]
    return sorted(rows, key=lambda row: (-row.raised, row.path))


def _bins(
    facts: Sequence[Fact], since: float, now: float, timezone: tzinfo
) -> tuple[list[Bin], str]:
    span_s = now - since
    by = "hour" if span_s <= 2 * DAY_S else "day" if span_s <= 93 * DAY_S else "week"
    moment = datetime.fromtimestamp(since, timezone)
    edges = [moment.replace(minute=0, second=0, microsecond=0)]
    if by != "hour":
        edges = [edges[0].replace(hour=0)]
    if by == "week":
        edges = [edges[0] - timedelta(days=edges[0].weekday())]
    step = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}[by]
    while (following := edges[-1] + step).timestamp() <= now:
        edges.append(following)
    starts = [edge.timestamp() for edge in edges]
    counts: list[Counter[str]] = [Counter() for _ in starts]
    place = 0
    for fact in sorted(facts, key=lambda one: one.raised_t):
        while place + 1 < len(starts) and starts[place + 1] <= fact.raised_t:
            place += 1
        counts[place][fact.scenario] += 1
    form = "%m-%d %H:00" if by == "hour" else "%m-%d" if by == "day" else "%Y-%m-%d"
    return [
        Bin(start, f"{edge:{form}}", dict(count))
        for start, edge, count in zip(starts, edges, counts, strict=True)
    ], by


def _heat(facts: Sequence[Fact], parent: str, timezone: tzinfo) -> dict[str, Heat]:
    depth = _telling_depth({fact.grid for fact in facts}, parent)
    tables: dict[str, dict[str, list[int]]] = {
        "weekday": {str(day): [0] * 24 for day in range(7)},
        "scenario": {},
        "grid": {},
    }
    for fact in facts:
        moment = datetime.fromtimestamp(fact.raised_t, timezone)
        grid = "/".join(fact.grid.split("/")[:depth])
        for table, name in (
            ("weekday", str(moment.weekday())),
            ("scenario", fact.scenario),
            ("grid", grid),
        ):
            tables[table].setdefault(name, [0] * 24)[moment.hour] += 1
    found = {}
    for name, rows_of in tables.items():
        rows = list(rows_of.items())
        if name != "weekday":
            rows = sorted(rows, key=lambda row: (-sum(row[1]), row[0]))[:12]
        found[name] = Heat(rows, max((max(counts) for _, counts in rows), default=0))
    return found
