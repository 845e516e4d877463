"""Running alarm accuracy and response times, from the outcomes that people gave.

**Running alarm accuracy** is confirmed / (confirmed + false alarms) of the tickets that were raised in a time, with
its one-sided 95 % Clopper-Pearson lower bound. Duplicates and tests say nothing of the analysis and are counted apart;
open tickets are undecided, and so is the figure as long as there are many of them. Tickets of simulated pictures are
never mixed with real ones, and a ticket about a camera itself (``camera_health``) is no alarm of the analysis.

Nothing here reads a clock or a store: facts go in (`Store.facts`, or `fact_of` a ticket), figures come out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Literal, TypeAlias

import numpy as np
from pydantic import Field
from scipy import stats  # type: ignore[import-untyped,unused-ignore]

from alerts.intervals import Counts, further_true_needed_each, lower_bounds, upper_bounds
from alerts.storm import HEALTH
from alerts.tickets import Act, Outcome, Ticket, seconds
from pipeline.analyse.scenario import Severity
from pipeline.units import Duration, Settings

__all__ = [
    "DEFAULT_TARGET",
    "Accuracy",
    "AccuracySettings",
    "By",
    "Fact",
    "Miss",
    "Response",
    "ResponseTargets",
    "Stage",
    "Trend",
    "Verdict",
    "accuracy",
    "accuracy_by",
    "camera_alarms",
    "fact_of",
    "fallen",
    "grid_at",
    "responses",
    "trend",
    "week_of",
    "worst_cameras",
]

DEFAULT_TARGET = 0.988  # what the district reports over 120,000 alarms

By: TypeAlias = Literal["scenario", "camera", "grid", "week"]
Stage: TypeAlias = Literal["acknowledged", "dispatched", "disposed"]

_UNDECIDED = ""
_MISSED = "missed"
_COLUMNS = (*Outcome, _UNDECIDED, _MISSED)


class ResponseTargets(Settings):
    """How soon after the alarm people should have reacted.

    Attributes:
        acknowledged: Somebody has seen it.
        dispatched: Somebody was sent.
        disposed: It is over.
    """

    acknowledged: Duration = Field(default=300.0, gt=0)
    dispatched: Duration = Field(default=900.0, gt=0)
    disposed: Duration = Field(default=86_400.0, gt=0)


class AccuracySettings(Settings):
    """Running alarm accuracy, and when it makes a camera a ticket of its own.

    Attributes:
        target: Share of true alarms that is asked for.
        camera_tickets: Whether a camera that is surely below the target becomes a ticket.
        camera_window: Over which a camera is judged, until now.
        camera_decided: With fewer decided alarms in it a camera is not judged.
        camera_confidence: A camera is surely below when its upper bound at this confidence is.
        response: Response times that are asked for.
    """

    target: float = Field(default=DEFAULT_TARGET, gt=0, lt=1)
    camera_tickets: bool = True
    camera_window: Duration = Field(default=30 * 86_400.0, gt=0)
    camera_decided: int = Field(default=10, ge=1)
    # Not 95 %: a camera is judged after every disposal, and a site has many; one false alarm of three is no proof.
    camera_confidence: float = Field(default=0.999, ge=0.5, lt=1)
    response: ResponseTargets = ResponseTargets()


@dataclass(frozen=True, slots=True)
class Fact:
    """What the statistics need of a ticket; times in seconds since the epoch, None for what has not happened."""

    ticket_id: str
    site: str
    host: str
    scenario: str
    camera: str
    grid: str
    severity: Severity
    raised_t: float
    acknowledged_t: float | None
    dispatched_t: float | None
    disposed_t: float | None
    outcome: Outcome | None
    simulated: bool


@dataclass(frozen=True, slots=True)
class Miss:
    """An event for which no ticket was raised, as an operator reported it.

    Attributes:
        id: Given when it is reported.
        t: When it happened; seconds since the epoch.
        reported_t: When it was reported.
        by: Who did.
        picture: Path of its picture in the evidence folder; empty where there is none.
    """

    id: str
    site: str
    host: str
    camera: str
    grid: str
    scenario: str
    t: float
    reported_t: float
    by: str
    note: str = ""
    picture: str = ""
    simulated: bool = False


def fact_of(ticket: Ticket) -> Fact:
    """The fact of a ticket, as the store keeps it."""

    def when(act: Act | None) -> float | None:
        return None if act is None else seconds(act.time)

    return Fact(
        ticket_id=ticket.id,
        site=ticket.site,
        host=ticket.host,
        scenario=ticket.scenario,
        camera=ticket.camera.id,
        grid=ticket.grid,
        severity=ticket.severity,
        raised_t=seconds(ticket.warn.raised),
        acknowledged_t=when(ticket.dispose.acknowledged),
        dispatched_t=when(ticket.dispose.dispatched),
        disposed_t=when(ticket.dispose.disposed),
        outcome=ticket.dispose.outcome,
        simulated=ticket.simulated,
    )


class Verdict(StrEnum):
    """Whether the target holds: the bound reaches it, only the share does, neither does, or nothing is known."""

    PROVEN = "proven"
    MET = "met"
    MISSED = "missed"
    UNDEFINED = "undefined"


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Running alarm accuracy of one set of tickets.

    Attributes:
        confirmed: True alarms.
        false_alarms: The others that were decided.
        duplicates: Disposed as such; left out.
        tests: Disposed as such; left out.
        undecided: Nobody has disposed of them.
        missed: Events without a ticket, as far as operators reported them.
        value: confirmed / (confirmed + false alarms); None without any.
        lower: Its one-sided 95 % lower bound; 0 without any.
        upper: Its one-sided 95 % upper bound; 1 without any.
        verdict: Against the target.
        further_needed: With ``met``, how many more alarms, all true, would prove the target; None otherwise.
        recall: confirmed / (confirmed + missed): at most this, for what nobody reported is not counted. None as long
            as no miss was reported, which does not mean that there was none.
    """

    confirmed: int
    false_alarms: int
    duplicates: int
    tests: int
    undecided: int
    missed: int
    value: float | None
    lower: float
    upper: float
    verdict: Verdict
    further_needed: int | None
    recall: float | None

    @property
    def decided(self) -> int:
        """How many alarms the figure is made of."""
        return self.confirmed + self.false_alarms


def accuracy(
    facts: Iterable[Fact],
    *,
    target: float = DEFAULT_TARGET,
    misses: Iterable[Miss] = (),
    simulated: bool = False,
) -> Accuracy:
    """The running alarm accuracy of all these tickets together.

    Args:
        facts: Real and simulated ones may be among them.
        target: Share of true alarms that is asked for; from 0 to below 1.
        misses: Reported misses of the same time.
        simulated: Count the simulated ones instead of the real ones.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for fact in camera_alarms(facts, simulated=simulated):
        counts["", fact.outcome or _UNDECIDED] += 1
    counts["", _MISSED] = sum(miss.simulated == simulated for miss in misses)
    return _judge([""], counts, target)[""]


def accuracy_by(
    facts: Iterable[Fact],
    by: By,
    *,
    target: float = DEFAULT_TARGET,
    level: int | None = None,
    timezone: tzinfo = UTC,
    misses: Iterable[Miss] = (),
    simulated: bool = False,
) -> dict[str, Accuracy]:
    """The running alarm accuracy of each scenario, camera, grid or ISO week, by its name in order.

    Args:
        facts: As for `accuracy`.
        by: What is told apart. Cameras of several sites are ``site/camera``; weeks are ``2026-W09``.
        target: As for `accuracy`.
        level: For grids: 1 for the total grids, 2 for the general ones and so on; None for the cameras' own.
        timezone: In which weeks begin.
        misses: As for `accuracy`.
        simulated: As for `accuracy`.
    """
    chosen = camera_alarms(facts, simulated=simulated)
    missing = [miss for miss in misses if miss.simulated == simulated]
    several = len({f.site for f in chosen} | {m.site for m in missing}) > 1
    times = [fact.raised_t for fact in chosen]
    names = _names(chosen, times, by, level, timezone, several=several)
    counts = Counter(zip(names, (fact.outcome or _UNDECIDED for fact in chosen), strict=True))
    times = [miss.t for miss in missing]
    missed = _names(missing, times, by, level, timezone, several=several)
    counts.update((name, _MISSED) for name in missed)
    return _judge(sorted({*names, *missed}), counts, target)


def camera_alarms(facts: Iterable[Fact], *, simulated: bool = False) -> list[Fact]:
    """The alarms of the analysis among them: real or simulated ones, without those about a camera itself."""
    return [fact for fact in facts if fact.simulated == simulated and fact.scenario != HEALTH]


def worst_cameras(
    facts: Iterable[Fact],
    *,
    target: float = DEFAULT_TARGET,
    limit: int = 10,
    simulated: bool = False,
) -> list[tuple[str, Accuracy]]:
    """Cameras with false alarms, the one that is most surely bad first: by the upper bound of their accuracy."""
    cameras = accuracy_by(facts, "camera", target=target, simulated=simulated)
    bad = [item for item in cameras.items() if item[1].false_alarms]
    return sorted(bad, key=lambda item: (item[1].upper, -item[1].false_alarms, item[0]))[:limit]


def fallen(counted: Accuracy, settings: AccuracySettings) -> bool:
    """Whether these alarms show at the settings' confidence that the target is missed."""
    if counted.decided < settings.camera_decided:
        return False
    true, total = np.array([counted.confirmed]), np.array([counted.decided])
    return bool(upper_bounds(true, total, settings.camera_confidence)[0] < settings.target)


@dataclass(frozen=True, slots=True)
class Response:
    """How soon people reacted; seconds after the alarm.

    Attributes:
        n: Tickets on which they did.
        late_open: Tickets that wait for it, longer than the target already.
        p50_s: Median; None without any.
        p95_s: 95th percentile.
        target_s: What is asked for.
        within: Share within the target, of those that were answered or are late; None without any.
    """

    n: int
    late_open: int
    p50_s: float | None
    p95_s: float | None
    target_s: float
    within: float | None


def responses(
    facts: Iterable[Fact],
    now_t: float,
    targets: ResponseTargets | None = None,
    *,
    simulated: bool = False,
) -> dict[Stage, Response]:
    """Response times of all tickets, those about cameras too, by what people did.

    Whoever dispatches or disposes of a ticket at once has seen it: that counts as acknowledged. Nobody need be
    dispatched, so a ticket that was disposed of without it is not waiting for it.

    Args:
        facts: Real and simulated ones may be among them.
        now_t: The present, in seconds since the epoch.
        targets: What is asked for.
        simulated: Count the simulated ones instead of the real ones.
    """
    targets = targets or ResponseTargets()
    chosen = [fact for fact in facts if fact.simulated == simulated]
    raised = _times(fact.raised_t for fact in chosen)
    disposed = _times(fact.disposed_t for fact in chosen)
    dispatched = _times(fact.dispatched_t for fact in chosen)
    acknowledged = _times(fact.acknowledged_t for fact in chosen)
    first = np.fmin(np.fmin(acknowledged, dispatched), disposed)
    return {
        "acknowledged": _response(first - raised, now_t - raised, targets.acknowledged),
        "dispatched": _response(
            dispatched - raised,
            np.where(np.isnan(disposed), now_t - raised, -np.inf),
            targets.dispatched,
        ),
        "disposed": _response(disposed - raised, now_t - raised, targets.disposed),
    }


@dataclass(frozen=True, slots=True)
class Trend:
    """This week against the last one, both from Monday 00:00 local time to the same moment of the week.

    Attributes:
        raised: Alarms of this week so far.
        raised_before: Alarms of the last week until then.
        now: Running accuracy of this week.
        before: The same of the last week until then.
        change: Difference of the two; None where one of them is undefined.
        p_value: How often chance alone makes a difference so large (Fisher's exact test); None where undefined.
    """

    raised: int
    raised_before: int
    now: Accuracy
    before: Accuracy
    change: float | None
    p_value: float | None


def trend(
    facts: Iterable[Fact],
    now_t: float,
    timezone: tzinfo,
    *,
    target: float = DEFAULT_TARGET,
    simulated: bool = False,
) -> Trend:
    """How this week compares with the last one."""
    monday, before = _monday(now_t, timezone, 0), _monday(now_t, timezone, -1)
    until = before + (now_t - monday)
    alarms = camera_alarms(facts, simulated=simulated)
    this = [fact for fact in alarms if monday <= fact.raised_t <= now_t]
    last = [fact for fact in alarms if before <= fact.raised_t <= until]
    now, then = (accuracy(part, target=target, simulated=simulated) for part in (this, last))
    change = p_value = None
    if now.value is not None and then.value is not None:
        change = now.value - then.value
        table = [[now.confirmed, now.false_alarms], [then.confirmed, then.false_alarms]]
        p_value = float(stats.fisher_exact(table).pvalue)
    return Trend(len(this), len(last), now, then, change, p_value)


def grid_at(path: str, level: int | None) -> str:
    """The grid above (or at) `path` at a level: ``a/b/c`` at 2 is ``a/b``; None gives the path itself."""
    return path if level is None else "/".join(path.split("/")[:level])


def week_of(t: float, timezone: tzinfo) -> str:
    """The ISO week of a moment, such as ``2026-W09``."""
    year, week, _ = datetime.fromtimestamp(t, timezone).isocalendar()
    return f"{year}-W{week:02d}"


# Inside


def _names(
    items: Sequence[Fact] | Sequence[Miss],
    times: Sequence[float],
    by: By,
    level: int | None,
    timezone: tzinfo,
    *,
    several: bool,
) -> list[str]:
    match by:
        case "scenario":
            return [item.scenario for item in items]
        case "camera":
            return [f"{item.site}/{item.camera}" if several else item.camera for item in items]
        case "grid":
            return [grid_at(item.grid, level) for item in items]
        case "week":
            return _weeks(times, timezone)


def _weeks(times: Sequence[float], timezone: tzinfo) -> list[str]:
    if not times:
        return []
    # Local Mondays first: a calendar for each of 120,000 moments would take longer than all the rest.
    mondays = [_monday(min(times), timezone, 0)]
    while (following := _monday(mondays[-1], timezone, 1)) <= max(times):
        mondays.append(following)
    names = [week_of(monday, timezone) for monday in mondays]
    places = np.searchsorted(np.array(mondays), np.array(times), side="right") - 1
    return [names[place] for place in places.tolist()]


def _monday(t: float, timezone: tzinfo, weeks: int) -> float:
    """Local midnight of the Monday of a moment's week, so many weeks later; through changes of the clock."""
    moment = datetime.fromtimestamp(t, timezone)
    day = moment.date() - timedelta(days=moment.weekday()) + timedelta(weeks=weeks)
    return datetime(day.year, day.month, day.day, tzinfo=timezone).timestamp()


def _judge(
    names: Sequence[str], counts: Mapping[tuple[str, str], int], target: float
) -> dict[str, Accuracy]:
    table = np.array(
        [[counts.get((name, column), 0) for column in _COLUMNS] for name in names], np.int64
    ).reshape(len(names), len(_COLUMNS))
    confirmed = table[:, _COLUMNS.index(Outcome.CONFIRMED)]
    decided = confirmed + table[:, _COLUMNS.index(Outcome.FALSE_ALARM)]
    lower, upper = lower_bounds(confirmed, decided), upper_bounds(confirmed, decided)
    met = (decided > 0) & (confirmed >= target * decided)
    needed = np.zeros(len(names), np.int64)
    needed[met] = further_true_needed_each(confirmed[met], decided[met], target)
    return dict(zip(names, _figures(table, lower, upper, met, needed), strict=True))


def _figures(
    table: Counts,
    lower: np.ndarray[tuple[int], np.dtype[np.float64]],
    upper: np.ndarray[tuple[int], np.dtype[np.float64]],
    met: np.ndarray[tuple[int], np.dtype[np.bool_]],
    needed: Counts,
) -> Iterator[Accuracy]:
    rows = zip(
        table.tolist(), lower.tolist(), upper.tolist(), met.tolist(), needed.tolist(), strict=True
    )
    for row, low, high, is_met, further in rows:
        confirmed, false_alarms, duplicates, tests, undecided, missed = row
        decided = confirmed + false_alarms
        if not decided:
            verdict = Verdict.UNDEFINED
        elif not is_met:
            verdict = Verdict.MISSED
        else:
            verdict = Verdict.MET if further else Verdict.PROVEN
        yield Accuracy(
            confirmed,
            false_alarms,
            duplicates,
            tests,
            undecided,
            missed,
            value=confirmed / decided if decided else None,
            lower=low if decided else 0.0,
            upper=high if decided else 1.0,
            verdict=verdict,
            further_needed=further if verdict is Verdict.MET else None,
            recall=confirmed / (confirmed + missed) if missed else None,
        )


def _times(values: Iterable[float | None]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _response(
    took_s: np.ndarray[tuple[int], np.dtype[np.float64]],
    waiting_s: np.ndarray[tuple[int], np.dtype[np.float64]],
    target_s: float,
) -> Response:
    answered = took_s[~np.isnan(took_s)]
    late_open = int((np.isnan(took_s) & (waiting_s > target_s)).sum())
    judged = len(answered) + late_open
    return Response(
        n=len(answered),
        late_open=late_open,
        p50_s=float(np.percentile(answered, 50)) if len(answered) else None,
        p95_s=float(np.percentile(answered, 95)) if len(answered) else None,
        target_s=target_s,
        within=float((answered <= target_s).sum()) / judged if judged else None,
    )
