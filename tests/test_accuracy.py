"""Running accuracy: exact figures from outcomes, nothing mixed that does not belong together."""

from __future__ import annotations

import time
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.accuracy import (
    AccuracySettings,
    By,
    Fact,
    Miss,
    ResponseTargets,
    Verdict,
    accuracy,
    accuracy_by,
    fact_of,
    fallen,
    grid_at,
    responses,
    trend,
    week_of,
    worst_cameras,
)
from alerts.intervals import (
    clopper_pearson_lower,
    further_true_needed,
    further_true_needed_each,
    lower_bounds,
    upper_bounds,
)
from alerts.tickets import Action, Command, Outcome, apply
from tests.test_store import make_ticket

T0 = 1_700_000_000.0
SHANGHAI = ZoneInfo("Asia/Shanghai")
BERLIN = ZoneInfo("Europe/Berlin")
OUTCOMES = [*Outcome, None]


def fact(
    outcome: Outcome | None = Outcome.CONFIRMED,
    *,
    raised_t: float = T0,
    acknowledged: float | None = None,
    dispatched: float | None = None,
    disposed: float | None = None,
    scenario: str = "fire",
    camera: str = "lift",
    grid: str = "town/12/3",
    site: str = "town",
    simulated: bool = False,
) -> Fact:
    def when(after: float | None) -> float | None:
        return None if after is None else raised_t + after

    return Fact(
        ticket_id=f"{raised_t}",
        site=site,
        host="h1",
        scenario=scenario,
        camera=camera,
        grid=grid,
        severity="major",
        raised_t=raised_t,
        acknowledged_t=when(acknowledged),
        dispatched_t=when(dispatched),
        disposed_t=when(disposed if disposed is not None or outcome is None else 60.0),
        outcome=outcome,
        simulated=simulated,
    )


def some(true: int, false: int, **about: object) -> list[Fact]:
    outcomes = [Outcome.CONFIRMED] * true + [Outcome.FALSE_ALARM] * false
    return [fact(outcome, **about) for outcome in outcomes]  # type: ignore[arg-type]


def miss(scenario: str = "fire", *, t: float = T0, camera: str = "lift") -> Miss:
    return Miss("m", "town", "h1", camera, "town/12/3", scenario, t, t + 1, "wang")


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 40)), min_size=1))
def test_many_bounds_are_those_of_each_alone(pairs: list[tuple[int, int]]) -> None:
    true = np.array([t for t, _ in pairs])
    total = np.array([t + f for t, f in pairs])
    alone = [clopper_pearson_lower(t, t + f) for t, f in pairs]
    assert lower_bounds(true, total) == pytest.approx(alone, abs=1e-12)
    # The upper bound of the true share is what the lower bound of the false share leaves.
    mirrored = [1 - clopper_pearson_lower(f, t + f) for t, f in pairs]
    assert upper_bounds(true, total) == pytest.approx(mirrored, abs=1e-12)
    needed = [further_true_needed(t, t + f, 0.988) for t, f in pairs]
    assert further_true_needed_each(true, total, 0.988).tolist() == needed


def test_the_districts_own_figures() -> None:
    proven = accuracy(some(249, 0))
    assert (proven.value, proven.verdict, proven.further_needed) == (1.0, Verdict.PROVEN, None)
    met = accuracy(some(247, 3))
    assert met.value == 0.988
    assert met.lower == pytest.approx(0.969, abs=5e-4)
    assert met.verdict is Verdict.MET
    assert met.further_needed is not None
    assert accuracy(some(247 + met.further_needed, 3)).verdict is Verdict.PROVEN
    assert accuracy(some(246 + met.further_needed, 3)).verdict is Verdict.MET
    assert accuracy(some(246, 4)).verdict is Verdict.MISSED


def test_nothing_decided_is_undefined_and_not_zero_percent() -> None:
    counted = accuracy([fact(None), fact(Outcome.TEST), fact(Outcome.DUPLICATE)])
    assert (counted.value, counted.verdict, counted.recall) == (None, Verdict.UNDEFINED, None)
    assert (counted.undecided, counted.tests, counted.duplicates) == (1, 1, 1)
    assert (counted.lower, counted.upper) == (0.0, 1.0)
    assert accuracy([]).verdict is Verdict.UNDEFINED


def test_what_says_nothing_of_the_analysis_is_counted_apart() -> None:
    facts = [
        *some(8, 2),
        *[fact(Outcome.DUPLICATE)] * 3,
        *[fact(Outcome.TEST)] * 4,
        *[fact(None)] * 5,
        *some(0, 6, simulated=True),
        *some(0, 7, scenario="camera_health"),
    ]
    counted = accuracy(facts, misses=[miss(), miss()])
    assert (counted.confirmed, counted.false_alarms, counted.decided) == (8, 2, 10)
    assert (counted.duplicates, counted.tests, counted.undecided) == (3, 4, 5)
    assert counted.value == 0.8
    assert counted.recall == 0.8
    simulated = accuracy(facts, misses=[miss()], simulated=True)
    assert (simulated.false_alarms, simulated.decided, simulated.missed) == (6, 6, 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(OUTCOMES),
            st.sampled_from(["fire", "illegal_parking"]),
            st.sampled_from(["lift", "lane", "gate"]),
            st.sampled_from(["town/1/2", "town/1/3", "town/2/1", "city/1/1", ""]),
            st.floats(T0, T0 + 4e7),
            st.booleans(),
        )
    ),
    st.sampled_from(["scenario", "camera", "grid", "week"]),
    st.sampled_from([None, 1, 2]),
)
def test_parts_add_up_to_the_whole(
    rows: list[tuple[Outcome | None, str, str, str, float, bool]], by: str, level: int | None
) -> None:
    facts = [
        fact(outcome, scenario=scenario, camera=camera, grid=grid, raised_t=t, simulated=simulated)
        for outcome, scenario, camera, grid, t, simulated in rows
    ]
    parts = accuracy_by(facts, by, level=level, timezone=BERLIN)  # type: ignore[arg-type]
    whole = accuracy(facts)
    for name in ("confirmed", "false_alarms", "duplicates", "tests", "undecided"):
        assert sum(getattr(part, name) for part in parts.values()) == getattr(whole, name)
    assert list(parts) == sorted(parts)
    assert all(part.lower <= (part.value or 0.0) <= part.upper for part in parts.values())
    if by == "week":
        assert set(parts) == {week_of(f.raised_t, BERLIN) for f in facts if not f.simulated}
    if by == "grid":
        assert set(parts) == {grid_at(f.grid, level) for f in facts if not f.simulated}


def test_grids_are_counted_at_any_level() -> None:
    facts = [*some(1, 0, grid="a/b/c"), *some(0, 1, grid="a/b/d"), *some(1, 1, grid="a/e/f")]
    assert {k: v.value for k, v in accuracy_by(facts, "grid", level=2).items()} == {
        "a/b": 0.5,
        "a/e": 0.5,
    }
    assert accuracy_by(facts, "grid", level=1)["a"].decided == 4
    assert set(accuracy_by(facts, "grid")) == {"a/b/c", "a/b/d", "a/e/f"}


def test_cameras_of_several_sites_are_told_apart_with_their_misses() -> None:
    facts = [*some(1, 0), *some(0, 1, site="city")]
    cameras = accuracy_by(facts, "camera", misses=[miss()])
    assert {name: (c.value, c.missed) for name, c in cameras.items()} == {
        "city/lift": (0.0, 0),
        "town/lift": (1.0, 1),
    }
    assert set(accuracy_by(some(1, 0), "camera", misses=[miss(camera="lane")])) == {"lane", "lift"}


@pytest.mark.parametrize("zone", [SHANGHAI, BERLIN])
def test_weeks_begin_on_local_mondays_through_changes_of_the_clock(zone: ZoneInfo) -> None:
    def at(*moment: int) -> float:
        return datetime(*moment, tzinfo=zone).timestamp()  # type: ignore[arg-type, misc]

    times = {
        "2026-W01": [at(2025, 12, 29, 0, 0), at(2026, 1, 4, 23, 59, 59)],
        "2026-W02": [at(2026, 1, 5, 0, 0)],
        "2026-W13": [at(2026, 3, 29, 23, 59, 59)],  # the night in which Berlin's clock goes forward
        "2026-W14": [at(2026, 3, 30, 0, 0)],
        "2026-W53": [at(2027, 1, 3, 12, 0)],
    }
    facts = [fact(raised_t=t) for moments in times.values() for t in moments]
    weeks = accuracy_by(facts, "week", timezone=zone)
    assert {name: week.decided for name, week in weeks.items()} == {
        name: len(moments) for name, moments in times.items()
    }


def test_the_worst_camera_is_the_one_that_is_most_surely_bad() -> None:
    facts = [
        *some(1, 1, camera="few"),
        *some(60, 40, camera="many"),
        *some(50, 0, camera="good"),
        *some(90, 10, camera="fair"),
    ]
    worst = worst_cameras(facts)
    assert [name for name, _ in worst] == ["many", "fair", "few"]
    assert [name for name, _ in worst_cameras(facts, limit=1)] == ["many"]


def test_a_camera_has_fallen_only_when_it_is_sure() -> None:
    settings = AccuracySettings()
    assert not fallen(accuracy([]), settings)
    assert not fallen(accuracy(some(2, 1)), settings)
    assert not fallen(accuracy(some(0, 9)), settings)  # fewer than are asked for
    assert not fallen(accuracy(some(9, 1)), settings)
    assert not fallen(accuracy(some(247, 3)), settings)
    assert fallen(accuracy(some(0, 10)), settings)
    assert fallen(accuracy(some(80, 20)), settings)
    assert fallen(accuracy(some(960, 40)), settings)
    assert not fallen(accuracy(some(960, 40)), AccuracySettings(target=0.95))


def test_a_camera_at_the_target_is_hardly_ever_blamed() -> None:
    rng = np.random.default_rng(7)
    blamed = 0
    for _ in range(
        200
    ):  # cameras that are as good as is asked for, each judged after each of 200 alarms
        true = np.cumsum(rng.random(200) < 0.988, dtype=np.int64)
        total = np.arange(1, 201)
        blamed += bool(((upper_bounds(true, total, 0.999) < 0.988) & (total >= 10)).any())
    assert blamed <= 4


def test_response_times() -> None:
    facts = [fact(None)] + [
        fact(acknowledged=10.0 * n, dispatched=20.0 * n, disposed=1000.0 * n) for n in range(1, 11)
    ]
    found = responses(
        facts, T0 + 100, ResponseTargets(acknowledged=50, dispatched=50, disposed=1e6)
    )
    seen = found["acknowledged"]
    assert (seen.n, seen.p50_s, seen.late_open) == (10, 55.0, 1)
    assert seen.p95_s == pytest.approx(95.5)
    assert seen.within == pytest.approx(5 / 11)
    assert found["dispatched"].within == pytest.approx(2 / 11)
    assert found["disposed"].within == 1.0
    assert found["disposed"].late_open == 0
    nobody = responses([], T0)["acknowledged"]
    assert (nobody.n, nobody.p50_s, nobody.within) == (0, None, None)


def test_who_disposes_at_once_has_seen_it_and_sent_nobody() -> None:
    found = responses([fact(Outcome.FALSE_ALARM, disposed=30)], T0 + 1e6)
    assert (found["acknowledged"].p50_s, found["acknowledged"].within) == (30.0, 1.0)
    assert (found["dispatched"].n, found["dispatched"].late_open) == (0, 0)
    late = responses([fact(None)], T0 + 1e6)
    assert [late[stage].late_open for stage in late] == [1, 1, 1]
    assert [late[stage].within for stage in late] == [0.0, 0.0, 0.0]


def test_this_week_is_compared_with_the_last_one_until_the_same_moment() -> None:
    monday = datetime(2026, 3, 9, tzinfo=SHANGHAI).timestamp()
    week = 7 * 86400
    now = monday + 2 * 86400
    facts = [
        *some(9, 1, raised_t=monday),
        *some(5, 5, raised_t=monday - week),
        *some(0, 9, raised_t=now - week + 1),  # later in the last week
        *some(0, 9, raised_t=monday - 1),
        *some(0, 9, raised_t=now + 1),
    ]
    found = trend(facts, now, SHANGHAI)
    assert (found.raised, found.raised_before) == (10, 10)
    assert (found.now.value, found.before.value) == (0.9, 0.5)
    assert found.change == pytest.approx(0.4)
    assert found.p_value == pytest.approx(0.1409, abs=1e-3)
    alone = trend(facts[:10], now, SHANGHAI)
    assert (alone.change, alone.p_value) == (None, None)


def test_a_tickets_fact() -> None:
    ticket = make_ticket()
    for n, action in enumerate((Action.ACKNOWLEDGE, Action.DISPATCH, Action.DISPOSE), 1):
        outcome = Outcome.FALSE_ALARM if action is Action.DISPOSE else None
        command = Command(
            command_id="c", ticket_id=ticket.id, action=action, user="w", outcome=outcome
        )
        ticket = apply(ticket, command, T0 + n + 0.125)
    made = fact_of(ticket)
    assert (made.raised_t, made.acknowledged_t, made.dispatched_t, made.disposed_t) == (
        T0,
        T0 + 1.125,
        T0 + 2.125,
        T0 + 3.125,
    )
    assert (made.outcome, made.grid, made.camera) == (Outcome.FALSE_ALARM, "town/12/3", "lift")


def test_a_year_of_a_district_takes_moments() -> None:
    rng = np.random.default_rng(3)
    micro = [f"t{n % 148}/g{n % 638}/m{n}" for n in range(8667)]
    outcomes = [OUTCOMES[n] for n in rng.choice(5, 120_000, p=[0.9, 0.02, 0.02, 0.01, 0.05])]
    facts = [
        fact(outcome, raised_t=T0 + 263.0 * n, camera=micro[n % 8667], grid=micro[n % 8667])
        for n, outcome in enumerate(outcomes)
    ]
    start = time.perf_counter()
    everything: tuple[By, ...] = ("scenario", "camera", "grid", "week")
    for by in everything:
        accuracy_by(facts, by, timezone=SHANGHAI)
    responses(facts, T0 + 4e7)
    worst_cameras(facts)
    # Far more than it takes alone: the machine may be busy.
    assert time.perf_counter() - start < 15
