"""Cross-fitting: groups never cross folds, a setting is scored on clips that it was not chosen on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.crossfit import CrossFit, cross_fit
from benchmarks.evaluation import Options
from benchmarks.figures import ScoredClip, count
from benchmarks.folds import split
from benchmarks.labels import Kind
from benchmarks.replay import Setting
from benchmarks.score import ClipResult
from benchmarks.sweep import Cell, Grid
from pipeline.exceptions import ConfigError

OPTIONS = Options(0.9, 10.0, None, 1)


def clip(
    group: str, found: int, missed: int = 0, false: int = 0, scenario: str = "fire"
) -> ScoredClip:
    """A quarter of an hour in which events last 10 s; the found ones raise an alarm after 2 s."""
    events = [(60.0 * i + 5, 60.0 * i + 15) for i in range(found + missed)]
    alarms = [start + 2 for start, _ in events[:found]] + [800.0 + i for i in range(false)]
    result = ClipResult(group, 0.25, alarms, events, [0.9] * len(alarms))
    return ScoredClip(Kind.REAL, (), "yard", {scenario: result})


def grid(settings: dict[str, list[ScoredClip]], fold_of: dict[str, int]) -> Grid:
    """What a sweep over `fire.raise_after` would give, from each value's clips."""
    cells = []
    for text, clips in settings.items():
        folds = range(1 + max(fold_of.values()))
        parts = [count([c for c in clips if fold_of[c.group] == k], 10.0) for k in folds]
        setting = Setting("fire", "raise_after", text, text)
        score = count(clips, 10.0).breakdown(OPTIONS.target).overall
        cells.append(Cell((setting,), score, 0.0, tuple(parts)))
    return Grid({"fire.raise_after": tuple(settings)}, tuple(cells), ("fire",), "real")


def fitted(settings: dict[str, list[ScoredClip]], fold_of: dict[str, int]) -> CrossFit:
    return cross_fit(grid(settings, fold_of), fold_of, OPTIONS)


def chosen(fit: CrossFit) -> list[str]:
    return [fold.choice.cell.settings[0].text for fold in fit.folds]


def test_a_setting_that_only_suits_the_clips_that_chose_it_is_found_out() -> None:
    fold_of = {"gate": 0, "hall": 1}
    fit = fitted(
        {
            # Soon, but wrong at the hall: 6 of 8 alarms are true.
            "1s": [clip("gate", 4), clip("hall", 2, false=2)],
            # Late: never wrong, finds 3 of 6.
            "2s": [clip("gate", 1, missed=3), clip("hall", 2)],
        },
        fold_of,
    )
    # On all clips only 2s keeps 90 %: 3 of 3.
    overall = fit.in_sample.figures.overall
    assert fit.in_sample.cell.words == "fire.raise_after=2s"
    assert (overall.true, overall.false, overall.missed) == (3, 0, 3)
    # The hall alone chooses 2s, which finds 1 of 4 at the gate. The gate alone chooses 1s (it finds more), which is
    # wrong in 2 of 4 at the hall.
    assert chosen(fit) == ["2s", "1s"]
    assert [fold.groups for fold in fit.folds] == [("gate",), ("hall",)]
    assert [f.held_out.overall.accuracy for f in fit.folds] == [1.0, 0.5]
    assert [f.choice.figures.overall.accuracy for f in fit.folds] == [1.0, 1.0]
    pooled = fit.held_out.overall
    assert (pooled.true, pooled.false, pooled.missed) == (3, 2, 3)
    assert pooled.accuracy == pytest.approx(0.6)
    assert pooled.accuracy_lower == pytest.approx(0.1893, abs=1e-4)  # beta.ppf(.05, 3, 3)
    assert pooled.recall == pytest.approx(0.5)
    assert pooled.camera_hours == pytest.approx(0.5)
    assert pooled.false_per_hour == pytest.approx(4.0)
    assert pooled.delay_p50_s == pytest.approx(2.0)
    assert not fit.agree


def test_where_every_fold_chooses_alike_held_out_and_in_sample_are_the_same() -> None:
    fold_of = {"gate": 0, "hall": 1, "yard": 2}
    groups = ("gate", "hall", "yard")
    fit = fitted(
        {
            "1s": [clip(group, 2, false=1) for group in groups],
            "2s": [clip(group, 1, missed=1) for group in groups],
        },
        fold_of,
    )
    assert chosen(fit) == ["2s"] * 3
    assert fit.agree
    assert fit.held_out == fit.in_sample.figures


def test_where_no_setting_keeps_the_target_the_nearest_is_taken_and_without_an_alarm_the_first() -> (
    None
):
    fold_of = {"gate": 0, "hall": 1}
    fit = fitted(
        {
            "1s": [clip("gate", 1, false=2), clip("hall", 0, missed=1)],
            "2s": [clip("gate", 1, false=1), clip("hall", 0, missed=1)],
        },
        fold_of,
    )
    # Held out the gate, nothing at the hall speaks for either; held out the hall, 1 of 2 is nearer than 1 of 3.
    assert chosen(fit) == ["1s", "2s"]
    assert [fold.choice.keeps_target for fold in fit.folds] == [False, False]
    assert fit.in_sample.cell.words == "fire.raise_after=2s"
    undefined = fit.folds[1].held_out.overall
    assert (undefined.accuracy, undefined.recall) == (None, 0.0)  # undefined, and a miss


def test_scenarios_are_given_apart() -> None:
    fold_of = {"gate": 0, "kerb": 1}
    fit = fitted({"1s": [clip("gate", 2), clip("kerb", 0, 1, 1, "illegal_parking")]}, fold_of)
    shares = {name: score.accuracy for name, score in fit.held_out.scenarios.items()}
    assert shares == {"fire": 1.0, "illegal_parking": 0.0}
    assert fit.held_out.clips == 2


def test_folds_get_their_share_of_events_and_of_quiet_clips() -> None:
    clips = [
        *(clip(f"fire-{i}", 1) for i in range(4)),
        *(clip(f"quiet-{i}", 0) for i in range(2)),
        *(clip(f"kerb-{i}", 1, scenario="illegal_parking") for i in range(2)),
    ]
    fold_of = split(clips, 2)
    for kind, each in (("fire", 2), ("quiet", 1), ("kerb", 1)):
        folds = [fold for group, fold in fold_of.items() if group.startswith(kind)]
        assert folds.count(0) == folds.count(1) == each, kind


def test_fewer_groups_than_folds_are_refused() -> None:
    clips = [clip("gate", 1), clip("gate", 0), clip("hall", 1)]
    with pytest.raises(ConfigError, match="--folds 3: found 2 groups of scored clips, expected 3"):
        split(clips, 3)


CLIPS = st.builds(
    clip,
    st.sampled_from("abcdefgh"),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from(["fire", "illegal_parking"]),
)


@given(
    st.lists(st.tuples(CLIPS, CLIPS), min_size=2, max_size=16).flatmap(
        lambda clips: st.tuples(st.just(clips), st.permutations(clips))
    ),
    st.integers(2, 4),
)
def test_every_group_is_held_out_once_whatever_the_order_of_the_clips(
    orders: tuple[list[tuple[ScoredClip, ScoredClip]], list[tuple[ScoredClip, ScoredClip]]],
    folds: int,
) -> None:
    fits = []
    for pairs in orders:
        # The same clips under two settings: the second one's alarms are the other clip's.
        first = [one for one, _ in pairs]
        second = [_as_on(one, other) for one, other in pairs]
        groups = {one.group for one in first}
        if len(groups) < folds:
            return
        fold_of = split(first, folds)
        fit = fitted({"1s": first, "2s": second}, fold_of)
        held_out = [group for fold in fit.folds for group in fold.groups]
        assert sorted(held_out) == sorted(groups)  # each once, none on both sides
        assert all(fold.groups for fold in fit.folds)
        assert fit.held_out.clips == len(pairs)
        assert [f.choice.figures.clips + f.held_out.clips for f in fit.folds] == [
            len(pairs)
        ] * folds
        fits.append((fold_of, chosen(fit), fit.held_out, fit.in_sample.figures))
    assert fits[0] == fits[1]


def _as_on(one: ScoredClip, other: ScoredClip) -> ScoredClip:
    """The first clip with the second one's alarms."""
    (name, result), (borrowed,) = next(iter(one.results.items())), other.results.values()
    alarms = ClipResult(
        result.group, result.hours, borrowed.alarms_s, result.events_s, borrowed.confidences
    )
    return ScoredClip(one.kind, one.conditions, one.camera, {name: alarms})
