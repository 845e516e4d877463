"""Alarm accuracy and its bounds, against hand-worked tables and known values."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped,unused-ignore]

from alerts.intervals import (
    bootstrap_lower,
    clopper_pearson_lower,
    further_true_needed,
    poisson_interval,
)
from benchmarks.score import ClipResult, Tally, VerdictValue, judge, match, score, tally

TARGET = 0.988


@pytest.mark.parametrize(
    ("true", "total", "lower"),
    [
        pytest.param(247, 250, 0.969, id="98.8 % of 250"),
        pytest.param(249, 249, 0.988, id="none false in 249 proves it"),
        pytest.param(1, 1, 0.05, id="one alarm"),
        pytest.param(0, 10, 0.0, id="none true"),
        pytest.param(0, 0, 0.0, id="no alarm"),
    ],
)
def test_clopper_pearson_gives_the_published_values(true: int, total: int, lower: float) -> None:
    assert clopper_pearson_lower(true, total) == pytest.approx(lower, abs=5e-4)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_clopper_pearson_agrees_with_scipys_own(counts: tuple[int, int]) -> None:
    true, total = counts
    expected = stats.binomtest(true, total, alternative="greater").proportion_ci(0.95).low
    assert clopper_pearson_lower(true, total) == pytest.approx(expected, abs=1e-9)


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match="found 3 of 2"):
        clopper_pearson_lower(3, 2)


@pytest.mark.parametrize(
    ("false", "clips"), [(0, 249), (1, 394), (2, 523), (3, 644)], ids=lambda n: str(n)
)
def test_the_table_of_alarms_needed_for_a_proof(false: int, clips: int) -> None:
    # Exact binomial, one-sided 95 %: with so many errors, so many alarms in all.
    assert further_true_needed(0, false, TARGET) == clips - false


@given(st.integers(0, 300), st.integers(0, 5), st.floats(0.5, 0.99))
def test_further_alarms_are_enough_and_not_one_too_many(
    true: int, false: int, target: float
) -> None:
    further = further_true_needed(true, true + false, target)
    assert clopper_pearson_lower(true + further, true + false + further) >= target
    if further:
        assert clopper_pearson_lower(true + further - 1, true + false + further - 1) < target


def test_a_target_of_one_can_never_be_proven() -> None:
    with pytest.raises(ValueError, match="below 1"):
        further_true_needed(1, 1, 1.0)


@pytest.mark.parametrize(
    ("count", "hours", "low", "high"),
    [
        # Garwood's table of 95 % limits of a Poisson mean.
        pytest.param(0, 1.0, 0.0, 3.689, id="none in an hour"),
        pytest.param(1, 1.0, 0.0253, 5.572, id="one"),
        pytest.param(10, 1.0, 4.795, 18.390, id="ten"),
        pytest.param(10, 100.0, 0.04795, 0.18390, id="ten in a hundred hours"),
    ],
)
def test_the_poisson_interval_is_garwoods(
    count: int, hours: float, low: float, high: float
) -> None:
    assert poisson_interval(count, hours) == pytest.approx((low, high), rel=1e-3)


def test_without_camera_time_a_rate_is_undefined() -> None:
    assert poisson_interval(0, 0.0) is None


def test_the_bootstrap_sees_that_clips_of_one_group_err_together() -> None:
    spread = [(9, 10)] * 10  # every group has one false alarm of ten
    lumped = [(10, 10)] * 9 + [(0, 10)]  # one group has them all
    even, uneven = bootstrap_lower(spread), bootstrap_lower(lumped)
    assert even == pytest.approx(0.9)
    assert uneven is not None
    assert uneven < 0.8
    assert bootstrap_lower(lumped) == uneven  # the same figure in every run


def test_the_bootstrap_of_a_single_group_is_undefined() -> None:
    assert bootstrap_lower([(5, 6)]) is None
    assert bootstrap_lower([(5, 6), (0, 0), (0, 0)]) is None


@pytest.mark.parametrize(
    ("alarms", "events", "expected"),
    [
        pytest.param([5.0], [(3, 8)], [0], id="within the event"),
        pytest.param([17.9], [(3, 8)], [0], id="within the window after it"),
        pytest.param([18.1], [(3, 8)], [None], id="beyond the window"),
        pytest.param([2.1], [(3, 8)], [0], id="within the label's tolerance before it"),
        pytest.param([1.9], [(3, 8)], [None], id="before it began"),
        pytest.param([4.0, 6.0], [(3, 8)], [0, None], id="a second alarm is a false one"),
        pytest.param([6.0, 4.0], [(3, 8)], [None, 0], id="the first counts, in any order"),
        pytest.param(
            [6.0, 6.5], [(0, 100), (5, 7)], [1, 0], id="the event that ends first is served first"
        ),
        pytest.param([4.0, 30.0], [(3, 8), (28, 40)], [0, 1], id="two events, two alarms"),
        pytest.param([], [(3, 8)], [], id="a miss"),
        pytest.param([4.0], [], [None], id="a false alarm"),
    ],
)
def test_alarms_match_events_one_to_one(
    alarms: list[float], events: list[tuple[float, float]], expected: list[int | None]
) -> None:
    assert match(alarms, events, 10.0) == expected


TIMES = st.integers(0, 40).map(float)
SPANS = st.tuples(TIMES, st.integers(1, 15)).map(lambda s: (s[0], s[0] + s[1]))


@given(st.lists(TIMES, max_size=5), st.lists(SPANS, max_size=5))
def test_no_matching_finds_more_events(
    alarms: list[float], events: list[tuple[float, float]]
) -> None:
    matched = match(alarms, events, 2.0)
    used = [event for event in matched if event is not None]
    assert len(used) == len(set(used))
    slots: list[int | None] = [*range(len(events)), *([None] * len(alarms))]
    best = max(
        sum(
            event is not None and events[event][0] - 1.0 <= t <= events[event][1] + 2.0
            for t, event in zip(alarms, chosen, strict=True)
        )
        for chosen in set(permutations(slots, len(alarms)))
    )
    assert len(used) == best


@pytest.mark.parametrize(
    ("true", "total", "value", "further"),
    [
        pytest.param(249, 249, VerdictValue.PROVEN, None, id="zero false among 249"),
        pytest.param(248, 248, VerdictValue.MET, 1, id="one short of the proof"),
        pytest.param(247, 250, VerdictValue.MET, 394, id="exactly 98.8 %"),
        pytest.param(246, 250, VerdictValue.MISSED, None, id="98.4 %"),
        pytest.param(0, 0, VerdictValue.MISSED, None, id="no alarm: undefined is a miss"),
    ],
)
def test_the_verdict_has_three_values(
    true: int, total: int, value: VerdictValue, further: int | None
) -> None:
    verdict = judge(true, total, TARGET)
    assert (verdict.value, verdict.further_needed) == (value, further)


def test_a_worked_example() -> None:
    """Three clips of two groups, an hour in all: 3 alarms, 2 of them true, 3 events, 2 found."""
    results = [
        # Found after 4 s; a second alarm for the same event is false.
        ClipResult("gate", 0.25, [14.0, 20.0], [(10.0, 30.0)]),
        # Burning from the first picture: found, but its delay is undefined.
        ClipResult("gate", 0.25, [5.0], [(0.0, 60.0)]),
        ClipResult("yard", 0.5, [], [(100.0, 130.0)]),
    ]
    counts = tally(results, 10.0)
    assert (counts.true, counts.false, counts.events, counts.hours) == (2, 1, 3, 1.0)
    assert counts.groups == {"gate": (2, 3), "yard": (0, 0)}
    figures = score(counts, TARGET, rate_per_hour=2.0)
    assert figures.accuracy == pytest.approx(2 / 3)
    assert figures.recall == pytest.approx(2 / 3)
    assert figures.f1 == pytest.approx(2 / 3)
    assert figures.missed == 1
    assert figures.false_per_hour == pytest.approx(1.0)
    assert figures.delay_p50_s == pytest.approx(4.0)
    assert figures.delays == 1
    assert figures.verdict.value is VerdictValue.MISSED
    assert figures.projected_accuracy == pytest.approx((2 / 3 * 2) / (2 / 3 * 2 + 1.0))
    assert figures.projected_accuracy_low == pytest.approx(
        (2 / 3 * 2) / (2 / 3 * 2 + 5.572), rel=1e-3
    )


def test_undefined_stays_undefined() -> None:
    figures = score(Tally(hours=2.0), TARGET, rate_per_hour=1.0)
    assert figures.accuracy is None
    assert figures.accuracy_lower is None
    assert figures.recall is None
    assert figures.f1 is None
    assert figures.delay_p50_s is None
    assert figures.projected_accuracy is None
    assert figures.false_per_hour == 0.0
    assert figures.verdict.value is VerdictValue.MISSED


def test_tallies_add_up() -> None:
    one = tally([ClipResult("a", 1.0, [5.0], [(3.0, 8.0)])], 10.0)
    two = tally([ClipResult("a", 2.0, [5.0], []), ClipResult("b", 0.5, [], [(1.0, 2.0)])], 10.0)
    both = one.plus(two)
    assert (both.true, both.false, both.events, both.hours) == (1, 1, 2, 3.5)
    assert both.groups == {"a": (1, 2), "b": (0, 0)}
    assert both.delays_s == (2.0,)
