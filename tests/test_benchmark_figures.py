"""Curves, weighted F1 and breakdowns: against scikit-learn and hand-worked tables."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from benchmarks.curve import AREA_LIMIT_PER_HOUR, Curve, curve
from benchmarks.figures import UNMARKED, ScoredClip, scores_by_kind
from benchmarks.labels import Kind
from benchmarks.score import RECALL_BIAS, ClipResult, score, tally, weighted_f1

WINDOW_S = 10.0
TARGET = 0.988


def clip(
    alarms: list[tuple[float, float]], events: list[tuple[float, float]], hours: float = 0.5
) -> ClipResult:
    """Alarms as (time, confidence)."""
    return ClipResult("g", hours, [t for t, _ in alarms], events, [c for _, c in alarms])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1), st.floats(0.05, 20.0))
def test_the_weighted_f1_is_scikit_learns_f_beta(
    outcomes: list[tuple[bool, bool]], bias: float
) -> None:
    truth = [happened for happened, _ in outcomes]
    said = [alarmed for _, alarmed in outcomes]
    precision = metrics.precision_score(truth, said, zero_division=0.0)
    recall = metrics.recall_score(truth, said, zero_division=0.0)
    expected = metrics.fbeta_score(truth, said, beta=math.sqrt(bias), zero_division=0.0)
    assert weighted_f1(precision, recall, bias) == pytest.approx(expected, abs=1e-12)


def test_the_weighted_f1_is_stated_and_undefined_without_alarms() -> None:
    counts = tally([clip([(5, 0.9), (50, 0.4)], [(3, 8), (90, 95)])], WINDOW_S)
    # P = 1/2, R = 1/2: any weighting gives one half.
    assert score(counts, TARGET).weighted_f1 == pytest.approx(0.5)
    # P = 1/2, R = 1: (1.5 * 0.5) / (1 + 0.25) = 0.6, nearer to P than F1 (2/3).
    assert weighted_f1(0.5, 1.0, RECALL_BIAS) == pytest.approx(0.6)
    assert score(tally([clip([], [(3, 8)])], WINDOW_S), TARGET).weighted_f1 is None


def test_a_clip_is_right_only_without_misses_and_false_alarms() -> None:
    results = [
        clip([(5, 0.9)], [(3, 8)]),  # right
        clip([], []),  # right
        clip([(5, 0.9), (6, 0.9)], [(3, 8)]),  # the second alarm is false
        clip([], [(3, 8)]),  # a miss
        clip([(5, 0.9)], []),  # a false alarm
    ]
    figures = score(tally(results, WINDOW_S), TARGET)
    assert (figures.clips_right, figures.clips) == (2, 5)
    assert figures.clip_accuracy == pytest.approx(0.4)
    assert figures.clip_accuracy_lower is not None
    assert figures.clip_accuracy_lower == pytest.approx(0.0764, abs=1e-4)  # beta.ppf(.05, 2, 4)


def test_the_curve_of_a_hand_worked_table() -> None:
    # Two events in 2 h; by confidence: .9 true, .8 false, .7 a second alarm for the first event, .6 true.
    results = [
        clip([(12, 0.9), (20, 0.7)], [(10, 30)], hours=1.0),
        clip([(5, 0.8), (200, 0.6)], [(195, 220)], hours=1.0),
    ]
    found = curve([results], 2.0, WINDOW_S)
    assert found is not None
    assert [(p.threshold, p.missed, p.false) for p in found.points] == [
        (None, 2, 0),
        (0.9, 1, 0),
        (0.8, 1, 1),
        (0.7, 1, 2),
        (0.6, 0, 2),
    ]
    assert [p.false_per_hour for p in found.points] == [0, 0, 0.5, 1.0, 1.0]
    # One half of the events missed up to one false alarm an hour, none from there on.
    assert found.area == pytest.approx(0.5 * 1.0 / AREA_LIMIT_PER_HOUR)
    assert found.miss_rate_at == {"1": 0.0, "1.8": 0.0, "12": 0.0}


@st.composite
def clip_results(draw: st.DrawFn) -> list[ClipResult]:
    clips = []
    for _ in range(draw(st.integers(1, 4))):
        alarms = draw(
            st.lists(
                st.tuples(st.integers(0, 60).map(float), st.sampled_from([0.2, 0.5, 0.7, 0.9])),
                max_size=6,
            )
        )
        starts = draw(st.lists(st.integers(0, 50), max_size=3))
        clips.append(clip(alarms, [(float(s), s + 4.0) for s in starts]))
    return clips


@given(clip_results())
def test_a_curve_only_falls_and_ends_at_the_runs_own_figures(results: list[ClipResult]) -> None:
    hours = sum(r.hours for r in results)
    found = curve([results], hours, 3.0)
    counts = tally(results, 3.0)
    if counts.events == 0:
        assert found is None
        return
    assert isinstance(found, Curve)
    last = found.points[-1]
    assert (last.missed, last.false) == (counts.events - counts.true, counts.false)
    assert [p.missed for p in found.points] == sorted(
        (p.missed for p in found.points), reverse=True
    )
    assert [p.false for p in found.points] == sorted(p.false for p in found.points)
    assert 0.0 <= found.area <= 1.0


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 99)), min_size=1, max_size=30),
    st.integers(0, 5),
)
def test_one_alarm_an_event_gives_scikit_learns_curve(
    alarms: list[tuple[bool, int]], unseen: int
) -> None:
    true = [is_true for is_true, _ in alarms]
    if not any(true):
        return
    # Far apart, so that an alarm is true or false whatever the bar.
    results = [
        clip([(1000.0 * i + 5, c / 100)], [(1000.0 * i, 1000.0 * i + 9)] if is_true else [], 0.01)
        for i, (is_true, c) in enumerate(alarms)
    ]
    results += [clip([], [(0.0, 9.0)], 0.01) for _ in range(unseen)]
    found = curve([results], sum(r.hours for r in results), WINDOW_S)
    assert found is not None
    precision, recall, thresholds = metrics.precision_recall_curve(true, [c for _, c in alarms])
    share_seen = sum(true) / (sum(true) + unseen)
    by_threshold = {p.threshold: p for p in found.points if p.threshold is not None}
    assert sorted(by_threshold) == pytest.approx([t / 100 for t in thresholds])
    for t, p, r in zip(thresholds, precision, recall, strict=False):
        point = by_threshold[t / 100]
        assert 1 - point.miss_rate == pytest.approx(r * share_seen)
        kept_true = sum(true) + unseen - point.missed
        assert kept_true / (kept_true + point.false) == pytest.approx(p)


def test_kinds_conditions_and_cameras_are_kept_apart() -> None:
    def one(
        kind: Kind, conditions: tuple[str, ...], camera: str, **results: ClipResult
    ) -> ScoredClip:
        return ScoredClip(kind, conditions, camera, results)

    true = clip([(5, 0.9)], [(3, 8)])
    false = clip([(5, 0.6)], [])
    quiet = clip([], [])
    missed = clip([], [(3, 8)])
    kinds = scores_by_kind(
        [
            one(Kind.REAL, ("night", "rain"), "gate", fire=true, illegal_parking=false),
            one(Kind.REAL, ("night",), "yard", fire=quiet),
            one(Kind.REAL, (), "gate", illegal_parking=missed),
            one(Kind.SIMULATED, ("night",), "gate", fire=false),
        ],
        TARGET,
        WINDOW_S,
        None,
    )
    assert list(kinds) == [Kind.REAL, Kind.SIMULATED]
    real = kinds[Kind.REAL]
    assert (real.overall.true, real.overall.false, real.overall.missed) == (1, 1, 1)
    assert real.overall.camera_hours == pytest.approx(
        1.5
    )  # two scenarios on a clip: still one camera
    assert (real.overall.clips_right, real.overall.clips) == (
        1,
        3,
    )  # one false alarm spoils the clip
    assert real.scenarios["fire"].clips_right == 2
    assert set(real.conditions) == {"night", "rain", UNMARKED}
    assert (real.conditions["night"].clips, real.conditions["rain"].clips) == (2, 1)
    assert real.conditions[UNMARKED].overall.missed == 1
    assert real.conditions["night"].scenarios["illegal_parking"].false == 1
    assert {name: b.clips for name, b in real.cameras.items()} == {"gate": 2, "yard": 1}
    # Fire: 1 of 1, parking: 0 of 1.
    assert real.macro["accuracy"].value == pytest.approx(0.5)
    assert real.macro["accuracy"].scenarios == 2
    assert real.overall.accuracy == pytest.approx(0.5)
    assert kinds[Kind.SIMULATED].macro["recall"].value is None
    assert kinds[Kind.SIMULATED].curves["overall"] is None
    together = real.curves["overall"]
    assert together is not None
    assert [p.threshold for p in together.points] == [None, 0.9, 0.6]
