"""An e-bike in the cabin: what it is, where it is, whether it is still there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC
from typing import Any

import numpy as np
import pytest
import supervision as sv
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from alerts.rules import Change, ChangeKind, RuleBook
from pipeline.analyse.motion import Motion
from pipeline.analyse.scenario import CameraContext, Scene
from pipeline.analyse.scenarios.ebike_in_elevator import EbikeInElevator, EbikeInElevatorParameters
from pipeline.frame import Frame
from pipeline.observation import Condition, Observation

WIDTH, HEIGHT = 160, 120
T0 = 1_717_000_000.0
THRESHOLDS = {"ebike": 0.5, "bicycle": 0.5, "person": 0.5, "wheelchair": 0.5}
# The door is at the right: the cabin is what lies left of the sill.
CABIN = ((0.0, 0.0), (0.6, 0.0), (0.6, 1.0), (0.0, 1.0))
IN_CABIN = (0.2, 0.3, 0.5, 0.9)
ON_SILL = (0.45, 0.3, 0.75, 0.9)
IN_HALL = (0.65, 0.3, 0.95, 0.9)

Box = tuple[float, float, float, float]
Row = tuple[str, float, Box] | tuple[str, float, Box, int]
# What the detector finds at a time since T0.
Script = Callable[[float], Iterable[Row]]


def scene(t: float, rows: Iterable[Row] | None, *, light: int = 120, still_s: float = 0.0) -> Scene:
    frame = Frame("lift", T0 + t, np.full((HEIGHT, WIDTH, 3), light, np.uint8))
    motion = Motion(0.0 if still_s else 0.1, np.zeros((12, 16), np.bool_), still_s)
    detections = None
    if rows is not None:
        found = [(*row, 1)[:4] for row in rows]
        scale = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
        detections = sv.Detections(
            xyxy=np.array([np.array(r[2]) * scale for r in found], np.float32).reshape(-1, 4),
            confidence=np.array([r[1] for r in found], np.float32),
            class_id=np.zeros(len(found), dtype=int),
            tracker_id=np.array([r[3] for r in found], dtype=int),
            data={"class_name": np.array([r[0] for r in found], dtype=str)},
        )
    return Scene(frame, motion, detections, T0 + t, THRESHOLDS)


def lift(**parameters: Any) -> EbikeInElevator:  # noqa: ANN401
    settings_ = EbikeInElevatorParameters.model_validate({"cabin": CABIN} | parameters)
    return EbikeInElevator(CameraContext("lift", UTC), settings_)


def watch(
    script: Script, until_s: float, hz: float = 5.0, scenario: EbikeInElevator | None = None
) -> list[Observation]:
    scenario = scenario or lift()
    observations = []
    for i in range(int(until_s * hz) + 1):
        (observation,) = scenario.observe(scene(i / hz, script(i / hz)))
        observations.append(observation)
    return observations


def raised(observations: list[Observation]) -> list[Change]:
    parameters = lift().parameters
    book = RuleBook(lambda _camera, _name: parameters)
    changes = [change for o in observations for change in book.update(o)]
    return [c for c in changes if c.kind is ChangeKind.RAISED]


def conditions(observations: list[Observation]) -> set[Condition]:
    return {o.condition for o in observations}


RATES = [1.0, 2.0, 5.0]
each_rate = pytest.mark.parametrize("hz", RATES)


@each_rate
def test_an_ebike_in_the_cabin_raises_once(hz: float) -> None:
    observations = watch(
        lambda t: (
            [("ebike", 0.8, IN_CABIN), ("person", 0.9, (0.0, 0.1, 0.2, 1.0), 2)]
            if 3 <= t < 30
            else []
        ),
        60,
        hz,
    )
    assert {o.subject for o in observations} == {"zone:cabin"}
    (alarm,) = raised(observations)
    assert abs(alarm.t - T0 - 4.5) <= 1 / hz
    assert alarm.detail is not None
    assert alarm.detail["persons"] == 1
    assert alarm.detail["count"] == 1
    assert alarm.detail["inside_share"] == 1.0
    assert alarm.box == pytest.approx(IN_CABIN, abs=0.01)
    assert observations[-1].condition is Condition.CLEAR


@each_rate
def test_an_ebike_in_the_hall_beyond_the_door_is_clear(hz: float) -> None:
    observations = watch(lambda _t: [("ebike", 0.9, IN_HALL)], 20, hz)
    assert conditions(observations) == {Condition.CLEAR}
    assert observations[-1].detail["reason"] == "outside the cabin"


def test_on_the_sill_the_last_place_stands() -> None:
    """In, back onto the sill, in, then out; the sill itself decides nothing."""

    def at(t: float) -> Box:
        if t < 4:
            return ON_SILL
        if t < 8:
            return IN_CABIN
        if t < 12:
            return ON_SILL
        return IN_HALL

    observations = watch(lambda t: [("ebike", 0.9, at(t))], 16)
    held = [o.t - T0 for o in observations if o.condition is Condition.HOLDS]
    assert held[0] == 4.0
    assert held[-1] == pytest.approx(11.8)
    assert Condition.UNKNOWN not in conditions(observations)


@settings(max_examples=30)
@given(wobble=st.lists(st.floats(-0.025, 0.025), min_size=30, max_size=30), inside=st.booleans())
def test_wobble_on_the_sill_never_flips_the_verdict(wobble: list[float], inside: bool) -> None:
    first = IN_CABIN if inside else IN_HALL

    def script(t: float) -> list[Row]:
        if t < 2:
            return [("ebike", 0.9, first)]
        dx = wobble[int(t * 5) % 30]
        x1, y1, x2, y2 = ON_SILL
        return [("ebike", 0.9, (x1 + dx, y1, x2 + dx, y2))]

    expected = {Condition.HOLDS} if inside else {Condition.CLEAR}
    assert conditions(watch(script, 8)) == expected


def test_before_the_open_door_the_wheels_decide_for_a_wall_camera() -> None:
    """Its upper part covers the door opening (upper right), its wheels stand on the cabin floor."""
    cabin = ((0.0, 0.0), (0.3, 0.0), (0.3, 0.6), (1.0, 0.6), (1.0, 1.0), (0.0, 1.0))
    inside = watch(lambda _t: [("ebike", 0.9, (0.4, 0.35, 0.8, 0.95))], 3, 5, lift(cabin=cabin))
    assert conditions(inside) == {Condition.HOLDS}
    beyond = watch(lambda _t: [("ebike", 0.9, (0.4, 0.15, 0.8, 0.62))], 3, 5, lift(cabin=cabin))
    assert conditions(beyond) == {Condition.CLEAR}


def test_under_a_ceiling_lens_the_middle_decides() -> None:
    """The door is at the bottom; a hall e-bike leans away from the middle, its wheels at the sill."""
    cabin = ((0.0, 0.0), (1.0, 0.0), (1.0, 0.7), (0.0, 0.7))
    box = (0.3, 0.4, 0.7, 0.86)
    wall = watch(lambda _t: [("ebike", 0.9, box)], 3, 5, lift(cabin=cabin))
    ceiling = watch(lambda _t: [("ebike", 0.9, box)], 3, 5, lift(cabin=cabin, mount="ceiling"))
    assert conditions(wall) == {Condition.CLEAR}
    assert conditions(ceiling) == {Condition.HOLDS}


@each_rate
@pytest.mark.parametrize("rival", ["bicycle", "wheelchair"])
def test_a_rival_that_is_sometimes_an_ebike_does_not_hold(rival: str, hz: float) -> None:
    """A bicycle or wheelchair called e-bike in two frames of five, and both in some."""

    def script(t: float) -> list[Row]:
        turn = round(t * hz) % 5
        rows: list[Row] = [(rival, 0.7, IN_CABIN)] if turn != 2 else []
        if turn in (2, 4):
            rows.append(("ebike", 0.6, IN_CABIN))
        return rows

    assert raised(watch(script, 40, hz)) == []


@each_rate
def test_a_pram_called_ebike_weakly_does_not_hold(hz: float) -> None:
    """Under the operating point all the time, over it once in 6 s."""

    def script(t: float) -> list[Row]:
        return [("ebike", 0.55 if t % 6 < 1 / hz else 0.2, IN_CABIN)]

    assert raised(watch(script, 60, hz)) == []


@settings(max_examples=40)
@given(
    rival=st.sampled_from(["bicycle", "wheelchair"]),
    hz=st.sampled_from(RATES),
    frames=st.lists(
        st.tuples(st.floats(0.1, 0.6), st.floats(0.35, 0.95)), min_size=40, max_size=40
    ),
)
def test_overlapping_rivals_of_equal_strength_never_raise(
    rival: str, hz: float, frames: list[tuple[float, float]]
) -> None:
    def script(t: float) -> list[Row]:
        weak, strong = frames[round(t * hz) % 40]
        return [("ebike", min(weak, strong), IN_CABIN), (rival, max(weak, strong), IN_CABIN)]

    assert raised(watch(script, 20, hz)) == []


@each_rate
def test_an_ebike_called_bicycle_now_and_then_still_raises(hz: float) -> None:
    def script(t: float) -> list[Row]:
        name = "bicycle" if round(t * hz) % 6 == 3 else "ebike"
        return [(name, 0.8, IN_CABIN)]

    assert len(raised(watch(script, 20, hz))) == 1


def test_bicycles_raise_where_asked() -> None:
    script: Script = lambda _t: [("bicycle", 0.8, IN_CABIN)]  # noqa: E731
    assert conditions(watch(script, 5)) == {Condition.CLEAR}
    assert conditions(watch(script, 5, 5, lift(include_bicycles=True))) == {Condition.HOLDS}


@each_rate
def test_weak_boxes_keep_a_proven_ebike_and_start_none(hz: float) -> None:
    assert conditions(watch(lambda _t: [("ebike", 0.35, IN_CABIN)], 10, hz)) == {Condition.CLEAR}
    observations = watch(lambda t: [("ebike", 0.8 if t < 3 else 0.35, IN_CABIN)], 30, hz)
    assert conditions(observations) == {Condition.HOLDS}


def test_small_boxes_far_beyond_the_door_do_not_count() -> None:
    small = (0.3, 0.3, 0.36, 0.4)
    assert conditions(watch(lambda _t: [("ebike", 0.9, small)], 5)) == {Condition.CLEAR}


@each_rate
def test_flicker_of_the_lamps_is_unknown_not_clear(hz: float) -> None:
    """Nothing is detected for two seconds while the door closes."""

    def script(t: float) -> list[Row]:
        return [] if 5 <= t < 7 else [("ebike", 0.8, IN_CABIN)]

    observations = watch(script, 20, hz)
    assert Condition.CLEAR not in conditions(observations)
    assert len(raised(observations)) == 1


def test_behind_a_person_an_ebike_is_not_gone() -> None:
    person: Row = ("person", 0.9, (0.15, 0.1, 0.55, 1.0), 2)

    def script(t: float) -> list[Row]:
        return [person] if 5 <= t < 35 else [person, ("ebike", 0.8, IN_CABIN)]

    observations = watch(script, 40, 2.0)
    assert Condition.CLEAR not in conditions(observations)
    hidden = [o for o in observations if 5 <= o.t - T0 < 35]
    assert {o.detail["reason"] for o in hidden if o.condition is Condition.UNKNOWN} == {
        "behind a person"
    }


def test_where_nothing_moved_a_missed_ebike_still_stands() -> None:
    scenario = lift()
    watch(lambda _t: [("ebike", 0.8, IN_CABIN)], 3, 5, scenario)
    (o,) = scenario.observe(scene(12.0, [], still_s=10.0))
    assert o.condition is Condition.HOLDS
    assert o.detail["evidence"] == ["nothing moved since it was seen"]


def test_in_the_dark_it_is_unknown_and_then_clear_with_light() -> None:
    scenario = lift()
    watch(lambda _t: [("ebike", 0.8, IN_CABIN)], 3, 5, scenario)
    (dark,) = scenario.observe(scene(12.0, [], light=5))
    assert dark.condition is Condition.UNKNOWN
    assert dark.detail["reason"] == "dark"
    (light,) = scenario.observe(scene(13.0, []))
    assert light.condition is Condition.CLEAR


@each_rate
def test_an_ebike_pushed_out_is_clear_at_once(hz: float) -> None:
    def script(t: float) -> list[Row]:
        dx = 0.25 * max(0.0, t - 6)
        x1, y1, x2, y2 = IN_CABIN
        return [("ebike", 0.8, (x1 + dx, y1, min(1.0, x2 + dx), y2))] if t < 8 else []

    observations = watch(script, 12, hz)
    after = [o.condition for o in observations if o.t - T0 >= 8]
    assert Condition.HOLDS not in after
    assert after[-1] is Condition.CLEAR
    if hz == 5.0:  # often enough to be seen on its way out
        assert set(after) == {Condition.CLEAR}


@settings(max_examples=40)
@given(ids=st.lists(st.integers(-1, 4), min_size=10, max_size=10), hz=st.sampled_from(RATES))
def test_ids_do_not_matter(ids: list[int], hz: float) -> None:
    observations = watch(lambda t: [("ebike", 0.8, IN_CABIN, ids[round(t * hz) % 10])], 10, hz)
    assert conditions(observations) == {Condition.HOLDS}


def test_two_ebikes_are_one_subject_and_counted() -> None:
    other = (0.0, 0.3, 0.18, 0.9)
    observations = watch(lambda _t: [("ebike", 0.8, IN_CABIN, 1), ("ebike", 0.7, other, 2)], 5)
    assert {o.subject for o in observations} == {"zone:cabin"}
    assert observations[-1].detail["count"] == 2


def test_two_boxes_on_one_ebike_count_once() -> None:
    tight = (0.22, 0.32, 0.48, 0.88)
    observations = watch(lambda _t: [("ebike", 0.8, IN_CABIN, 1), ("ebike", 0.6, tight, 2)], 5)
    assert observations[-1].detail["count"] == 1


def test_a_result_that_stands_casts_no_new_votes_and_holds() -> None:
    scenario = lift()
    watch(lambda _t: [("ebike", 0.8, IN_CABIN)], 2, 5, scenario)
    last = scene(2.0, [("ebike", 0.8, IN_CABIN)])
    votes = []
    for t in (2.4, 3.0, 4.0):
        frame = Frame("lift", T0 + t, last.frame.image)
        standing = Scene(frame, last.motion, last.detections, T0 + 2.0, THRESHOLDS)
        (o,) = scenario.observe(standing)
        assert o.condition is Condition.HOLDS
        votes.append(o.detail["votes"])
    assert votes[0] == votes[1] == votes[2]
    frame = Frame("lift", T0 + 9.0, last.frame.image)
    (old,) = scenario.observe(Scene(frame, last.motion, last.detections, T0 + 2.0, THRESHOLDS))
    assert old.condition is Condition.UNKNOWN


def test_without_a_model_or_stream_it_is_unknown() -> None:
    (blind,) = lift().observe(scene(0.0, None))
    (broken,) = lift().interrupt(T0)
    assert blind.condition is broken.condition is Condition.UNKNOWN


def test_outside_the_hours_it_is_clear() -> None:
    """T0 is 16:26:40 UTC."""
    scenario = lift(active=["08:00-09:00"])
    observations = watch(lambda _t: [("ebike", 0.8, IN_CABIN)], 5, 5, scenario)
    assert conditions(observations) == {Condition.CLEAR}
    assert observations[-1].detail["reason"] == "outside active hours"


def test_it_asks_for_more_frames_while_something_goes_on() -> None:
    scenario = lift()
    assert scenario.need(T0).rate_hz < 2
    scenario.observe(scene(0.0, []))
    assert scenario.need(T0 + 1).rate_hz == 5
    assert scenario.need(T0 + 10).rate_hz < 2
    scenario.observe(scene(20.0, [("ebike", 0.8, IN_CABIN)]))
    assert scenario.need(T0 + 20) == scenario.need(T0 + 20)
    assert scenario.need(T0 + 20).inference
    watch(lambda _t: [("ebike", 0.8, IN_CABIN)], 3, 5, scenario)


@settings(max_examples=30)
@given(hz=st.sampled_from([1.0, 1.5, 2.5]), enter=st.floats(0, 4), stay_s=st.floats(5, 20))
def test_thinning_moves_an_alarm_by_no_more_than_one_gap(
    hz: float, enter: float, stay_s: float
) -> None:
    script: Script = (  # noqa: E731
        lambda t: [("ebike", 0.8, IN_CABIN)] if enter <= t < enter + stay_s else []
    )
    (dense,) = raised(watch(script, 30, 5.0))
    (thin,) = raised(watch(script, 30, hz))
    assert abs(dense.t - thin.t) <= 1 / hz + 0.2


def test_suspects_are_forgotten() -> None:
    scenario = lift()
    rng = np.random.default_rng(3)

    def script(t: float) -> list[Row]:
        x, y = rng.uniform(0, 0.7, 2)
        return [("ebike", 0.6, (x, y, x + 0.25, y + 0.25), int(t * 5))]

    watch(script, 60, 5, scenario)
    assert len(scenario._suspects) < 20
    scenario.observe(scene(200.0, []))
    assert scenario._suspects == []


@pytest.mark.parametrize(
    "parameters",
    [{"cabin": CABIN[:2]}, {"mount": "floor"}, {"enter_share": 0.3}, {"leave_share": math.nan}],
    ids=["two-points", "mount", "enter-below-leave", "nan"],
)
def test_parameters_are_checked(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EbikeInElevatorParameters.model_validate(parameters)
