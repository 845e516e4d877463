from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
import supervision as sv
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analyse.tracker import Tracker
from pipeline.testing import Box, make_detections

CLASSES = ("person", "bicycle", "car", "bus", "truck")
THRESHOLDS = dict.fromkeys(CLASSES, 0.4)
START = 1_700_000_000.0


def boxes(*rows: Box) -> sv.Detections:
    return make_detections(rows, CLASSES)


def car(x: float, confidence: float = 0.8, name: str = "car") -> Box:
    return (name, confidence, x, 100.0, x + 120.0, 180.0)


def ids(tracked: sv.Detections) -> list[int]:
    assert tracked.tracker_id is not None
    return [int(i) for i in tracked.tracker_id]


def names(tracked: sv.Detections) -> list[str]:
    return [str(name) for name in tracked.data["class_name"]]


def irregular(seconds: float) -> list[float]:
    rng = np.random.default_rng(4)
    steps = rng.choice([0.04, 0.2, 0.2, 0.5, 1.0, 1.4], size=int(seconds / 0.3))
    return [float(t) for t in np.cumsum(steps) if t < seconds]


RATES = {
    "25 Hz": [i / 25 for i in range(20 * 25)],
    "5 Hz": [i / 5 for i in range(20 * 5)],
    "1 Hz": [float(i) for i in range(20)],
    "irregular": irregular(20.0),
}


@pytest.mark.parametrize("times", RATES.values(), ids=RATES.keys())
def test_the_outcome_does_not_depend_on_the_rate(times: list[float]) -> None:
    rng = np.random.default_rng(1)
    tracker = Tracker(THRESHOLDS)
    seen: dict[str, set[int]] = {"mover": set(), "parked": set(), "walker": set()}
    for t in times:
        shake = rng.normal(0, 1.5, 4)
        rows: dict[str, Box] = {
            # drives 12 px/s, is taken for a truck by turns and only weakly seen at others
            "mover": car(
                50 + 12 * t,
                0.85 if round(t * 25) % 4 else 0.2,
                "car" if round(t * 5) % 3 else "truck",
            ),
            "walker": ("person", 0.6, 700.0, 20 * t, 730.0, 20 * t + 80),
        }
        if not 10 < t < 13.5:  # something stands before it
            x1, y1, x2, y2 = np.array([400.0, 300.0, 520.0, 380.0]) + shake
            rows["parked"] = ("car", 0.75, float(x1), float(y1), float(x2), float(y2))
        order = sorted(rows, key=lambda name: -rows[name][1])
        tracked = tracker.update(boxes(*rows.values()), START + t)
        for name, track in zip(order, ids(tracked), strict=True):
            seen[name].add(track)
    found = {name: tracks - {-1} for name, tracks in seen.items()}
    assert all(len(tracks) == 1 for tracks in found.values()), found
    assert len(set.union(*found.values())) == 3


@pytest.mark.parametrize("step", [0.04, 0.5, 1.0])
def test_a_lost_track_is_kept_for_seconds_not_frames(step: float) -> None:
    def reunite(gap_s: float) -> bool:
        tracker = Tracker(THRESHOLDS, lost_s=4.0)
        for i in range(5):
            before = ids(tracker.update(boxes(car(50)), START + i * step))
        back = START + 4 * step + gap_s
        t = START + 5 * step
        while t < back - step / 2:
            tracker.update(boxes(), t)
            t += step
        after = ids(tracker.update(boxes(car(50)), back))
        return before == after and before != [-1]

    assert reunite(3.5)
    assert not reunite(4.5)


def test_a_gap_without_frames_counts_as_well() -> None:
    tracker = Tracker(THRESHOLDS, lost_s=4.0)
    for i in range(5):
        before = ids(tracker.update(boxes(car(50)), START + i))
    assert ids(tracker.update(boxes(car(50)), START + 4 + 3.9)) == before
    assert ids(tracker.update(boxes(car(50)), START + 8 + 4.2)) == [-1]


def test_while_nothing_moves_tracks_do_not_grow_old() -> None:
    tracker = Tracker(THRESHOLDS, lost_s=4.0)
    for i in range(5):
        before = ids(tracker.update(boxes(car(50)), START + i))
    for i in range(5, 300):
        tracker.hold(START + i)
    assert ids(tracker.update(boxes(car(50)), START + 300)) == before


def test_speed_is_learnt_in_pixels_per_second() -> None:
    tracker = Tracker(THRESHOLDS)
    for i in range(8):  # 40 px per 0.5 s
        before = ids(tracker.update(boxes(car(40.0 * i)), START + i * 0.5))
    # Hidden for two seconds, it is awaited 160 px on; a car that stands where it was is another.
    found = ids(tracker.update(boxes(car(280.0 + 160, 0.9), car(280, 0.8)), START + 3.5 + 2.0))
    assert found == [before[0], -1]


def test_a_weak_box_continues_a_track_but_begins_none() -> None:
    tracker = Tracker(THRESHOLDS)
    for i in range(3):
        assert ids(tracker.update(boxes(car(50, 0.3)), START + i)) == [-1]
    tracker.update(boxes(car(50, 0.5)), START + 3)
    (track,) = ids(tracker.update(boxes(car(50, 0.5)), START + 4))
    assert track >= 0
    for i in range(5, 20):
        assert ids(tracker.update(boxes(car(50, 0.15)), START + i)) == [track]


def test_each_class_is_strong_from_its_own_operating_point() -> None:
    tracker = Tracker({"car": 0.6, "person": 0.3})
    person: Box = ("person", 0.35, 300.0, 0.0, 330.0, 80.0)
    for i in range(3):
        tracked = tracker.update(boxes(car(50, 0.55), person), START + i)
    assert dict(zip(names(tracked), ids(tracked), strict=True)) == {"car": -1, "person": 0}


def test_a_vehicle_keeps_the_kind_it_was_mostly_seen_as() -> None:
    tracker = Tracker(THRESHOLDS)
    kinds = ["truck", "car", "car", "bus", "car", "car", "truck", "car"]
    told = []
    for i, kind in enumerate(kinds):
        tracked = tracker.update(boxes(car(50, 0.8, kind)), START + i)
        told += names(tracked)
        assert tracked.class_id is not None
        assert [CLASSES[c] for c in tracked.class_id] == names(tracked)
        assert tracked.confidence is not None
        assert tracked.confidence[0] == np.float32(0.8)
    assert told[0] == "truck"
    assert told[3:] == ["car"] * 5


def test_a_person_is_never_continued_by_a_bicycle() -> None:
    tracker = Tracker(THRESHOLDS)
    for i in range(6):
        name = "person" if i % 2 else "bicycle"
        tracked = tracker.update(boxes((name, 0.8, 10.0, 10.0, 60.0, 110.0)), START + i)
    assert names(tracked) == ["person"]
    tracked = tracker.update(boxes(("bicycle", 0.8, 10.0, 10.0, 60.0, 110.0)), START + 6)
    assert names(tracked) == ["bicycle"]


def test_what_was_given_is_not_changed() -> None:
    tracker = Tracker(THRESHOLDS)
    tracker.update(boxes(car(50)), START)
    given_ = boxes(car(50, 0.5, "truck"))
    tracker.update(given_, START + 1)
    assert given_.tracker_id is None
    assert names(given_) == ["truck"]


def test_a_frame_from_the_past_is_returned_untracked_and_changes_nothing() -> None:
    tracker = Tracker(THRESHOLDS)
    for i in range(3):
        before = ids(tracker.update(boxes(car(50)), START + i))
    assert ids(tracker.update(boxes(car(50)), START + 2)) == [-1]
    assert ids(tracker.update(boxes(car(50)), START + 1)) == [-1]
    assert ids(tracker.update(boxes(car(50)), START + 3)) == before


def test_after_a_reset_no_id_comes_again() -> None:
    tracker = Tracker(THRESHOLDS)
    for i in range(3):
        before = ids(tracker.update(boxes(car(50)), START + i))
    tracker.reset()
    for i in range(3, 6):
        after = ids(tracker.update(boxes(car(50)), START + i))
    assert min(before + after) >= 0
    assert before != after


def test_no_detections_at_all() -> None:
    tracker = Tracker(THRESHOLDS)
    assert ids(tracker.update(boxes(), START)) == []
    tracker.update(boxes(car(50)), START + 1)
    assert ids(tracker.update(boxes(), START + 2)) == []


@st.composite
def scenes(draw: st.DrawFn) -> list[tuple[float, list[Box]]]:
    t = START
    told = []
    for _ in range(draw(st.integers(1, 12))):
        t += draw(st.floats(0.02, 8.0))
        rows: list[Box] = []
        for _ in range(draw(st.integers(0, 6))):
            x, y = draw(st.integers(0, 600)), draw(st.integers(0, 300))
            w, h = draw(st.integers(0, 120)), draw(st.integers(0, 120))
            name = draw(st.sampled_from(CLASSES))
            confidence = draw(st.floats(0.1, 0.99))
            rows.append((name, confidence, float(x), float(y), float(x + w), float(y + h)))
        told.append((t, rows))
    return told


def follow(told: Iterable[tuple[float, list[Box]]]) -> list[list[int]]:
    tracker = Tracker(THRESHOLDS)
    return [ids(tracker.update(boxes(*rows), t)) for t, rows in told]


@given(told=scenes())
def test_ids_are_unique_in_a_frame_and_the_outcome_is_repeatable(
    told: list[tuple[float, list[Box]]],
) -> None:
    first = follow(told)
    assert first == follow(told)
    for (_, rows), tracks in zip(told, first, strict=True):
        assert len(tracks) == len(rows)
        named = [track for track in tracks if track != -1]
        assert len(named) == len(set(named))


@given(told=scenes(), shift=st.floats(-1e6, 1e6))
def test_only_differences_of_time_matter(told: list[tuple[float, list[Box]]], shift: float) -> None:
    # Times of a multiple of 1/64 s, so that adding the shift loses nothing.
    def grid(t: float) -> float:
        return math.floor(t * 64) / 64

    exact = [(START + i + grid(t - START), rows) for i, (t, rows) in enumerate(told)]
    moved = [(t + grid(shift), rows) for t, rows in exact]
    assert follow(exact) == follow(moved)
