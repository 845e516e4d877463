"""Stays: what a vehicle's standing must survive, and what must not become one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
import supervision as sv
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from alerts.rules import Change, ChangeKind, RuleBook
from pipeline.analyse.motion import Motion
from pipeline.analyse.scenario import CameraContext, Scene
from pipeline.analyse.scenarios.illegal_parking import IllegalParking, IllegalParkingParameters
from pipeline.frame import Frame, Image
from pipeline.observation import Condition, Observation

WIDTH, HEIGHT = 160, 90
T0 = 1_717_000_000.0
KERB = ((0.1, 0.5), (0.9, 0.5), (0.9, 1.0), (0.1, 1.0))
Position = tuple[float, float]
# Where a vehicle's centre is at a time since T0, relative; None while it is not in the picture.
Path = Callable[[float], Position | None]


@cache
def texture(seed: int, width: int, height: int, cells: int = 6) -> Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 235, (cells, cells, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


ROAD = (texture(1, WIDTH, HEIGHT, 12) // 6 + 90).astype(np.uint8)


def always(tracker_id: int) -> Callable[[float], int]:
    return lambda _t: tracker_id


@dataclass
class Actor:
    """Something in the street. `seen` says whether the detector finds it, `tracker` which id it has."""

    path: Path
    seed: int = 7
    name: str = "car"
    size: tuple[float, float] = (0.2, 0.2)
    seen: Callable[[float], bool] = lambda _t: True
    tracker: Callable[[float], int] = lambda _t: 1
    confidence: float = 0.8

    def box(self, t: float) -> tuple[float, float, float, float] | None:
        centre = self.path(t)
        if centre is None:
            return None
        (x, y), (w, h) = centre, self.size
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2


@dataclass
class Street:
    """Draws the actors in order, the last in front, and shows the scenario what a detector would find."""

    actors: list[Actor]
    jitter: float = 0.01
    light: Callable[[float], float] = lambda _t: 1.0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))

    def scene(self, t: float) -> Scene:
        image = ROAD.copy()
        rows: list[tuple[list[float], float, int, str]] = []
        for actor in self.actors:
            box = actor.box(t)
            if box is None:
                continue
            scale = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
            x1, y1, x2, y2 = np.round(np.array(box) * scale).astype(int)
            if min(x2, WIDTH) <= max(x1, 0) or min(y2, HEIGHT) <= max(y1, 0):
                continue
            paint = texture(actor.seed, x2 - x1, y2 - y1)
            left, top = max(0, x1), max(0, y1)
            right, bottom = min(WIDTH, x2), min(HEIGHT, y2)
            image[top:bottom, left:right] = paint[top - y1 : bottom - y1, left - x1 : right - x1]
            if actor.seen(t):
                noise = self.rng.normal(0, self.jitter, 4) * np.array([x2 - x1, y2 - y1] * 2)
                row = np.clip(np.array([left, top, right, bottom]) + noise, 0, scale)
                rows.append((row.tolist(), actor.confidence, actor.tracker(t), actor.name))
        noisy = image * self.light(t) + self.rng.integers(-4, 5, image.shape, dtype=np.int8)
        picture = np.clip(noisy, 0, 255).astype(np.uint8)
        detections = sv.Detections(
            xyxy=np.array([row[0] for row in rows], dtype=np.float32).reshape(-1, 4),
            confidence=np.array([row[1] for row in rows], dtype=np.float32),
            class_id=np.zeros(len(rows), dtype=int),
            tracker_id=np.array([row[2] for row in rows], dtype=int),
            data={"class_name": np.array([row[3] for row in rows], dtype=str)},
        )
        still = Motion(0.1, np.ones((9, 16), np.bool_), 0.0)
        frame = Frame("gate", T0 + t, picture)
        thresholds = {"car": 0.4, "truck": 0.4, "bus": 0.4, "person": 0.4}
        return Scene(frame, still, detections, T0 + t, thresholds)


def parking(**parameters: Any) -> IllegalParking:  # noqa: ANN401
    given_ = {"zones": {"kerb": KERB}, "raise_after": 20, "max_gap": 15, "clear_after": 6}
    settings_ = IllegalParkingParameters.model_validate(given_ | parameters)
    return IllegalParking(CameraContext("gate", UTC), settings_)


def watch(
    street: Street,
    until_s: float,
    hz: float,
    scenario: IllegalParking | None = None,
    start_s: float = 0.0,
) -> list[Observation]:
    scenario = scenario or parking()
    observations: list[Observation] = []
    for i in range(int((until_s - start_s) * hz) + 1):
        observations += scenario.observe(street.scene(start_s + i / hz))
    return observations


def changes(
    observations: list[Observation], scenario: IllegalParking | None = None
) -> list[Change]:
    parameters = (scenario or parking()).parameters
    book = RuleBook(lambda _camera, _name: parameters)
    return [change for o in observations for change in book.update(o)]


def raised(observations: list[Observation]) -> list[Change]:
    return [c for c in changes(observations) if c.kind is ChangeKind.RAISED]


def subjects(observations: list[Observation]) -> list[str]:
    return list(dict.fromkeys(o.subject for o in observations))


def at(x: float, y: float, since: float = -1e9, until: float = 1e9) -> Path:
    return lambda t: (x, y) if since <= t < until else None


def passing(offset: float, speed: float, y: float) -> Path:
    return lambda t: (-0.2 + speed * (t - offset), y) if 0 <= speed * (t - offset) <= 1.4 else None


RATES = [0.2, 0.5, 1.0, 2.0, 5.0]
each_rate = pytest.mark.parametrize("hz", RATES)


@each_rate
def test_a_parked_car_is_one_stay_from_the_first_frame(hz: float) -> None:
    observations = watch(Street([Actor(at(0.5, 0.7))]), 60, hz)
    assert subjects(observations) == [f"zone:kerb/stay:{T0:.1f}"]
    (alarm,) = raised(observations)
    assert alarm.since == T0
    assert 20 <= alarm.t - T0 <= 20 + max(1 / hz, 0.2) + 1e-6
    assert alarm.detail is not None
    assert alarm.detail["class"] == "car"
    assert alarm.detail["since_s"] == T0


@each_rate
def test_passing_traffic_is_no_stay(hz: float) -> None:
    stream = [Actor(passing(3 * i, 0.25, 0.75), seed=i, tracker=always(i)) for i in range(40)]
    assert watch(Street(stream), 90, hz) == []


@settings(max_examples=10, deadline=None)
@given(
    hz=st.sampled_from(RATES),
    headway=st.floats(0.9, 6.0),
    speed=st.floats(0.15, 1.0),
    tracked=st.booleans(),
)
def test_no_stream_of_cars_adds_up_to_a_long_stay(
    hz: float, headway: float, speed: float, tracked: bool
) -> None:
    count = int(55 / headway)
    stream = [
        Actor(
            passing(headway * i, speed, 0.75),
            seed=i,
            tracker=always(i if tracked else -1),
        )
        for i in range(count)
    ]
    assert raised(watch(Street(stream), 50, hz)) == []


@each_rate
def test_a_queue_that_rolls_on_by_car_lengths_is_no_long_stay(hz: float) -> None:
    """Every 8 s each car takes, within 2 s, the place of the one before it."""

    def queue(place: int) -> Path:
        def path(t: float) -> Position | None:
            step, into = divmod(t, 8.0)
            x = 0.8 - 0.25 * (place - step - min(1.0, into / 2.0) + 1)
            return (x, 0.75) if -0.1 < x < 1.1 else None

        return path

    cars = [Actor(queue(i), seed=i, tracker=always(i)) for i in range(14)]
    assert raised(watch(Street(cars), 80, hz)) == []


@each_rate
def test_id_switches_do_not_split_a_stay(hz: float) -> None:
    car = Actor(at(0.5, 0.7), tracker=lambda t: int(t / 1.5))
    assert len(subjects(watch(Street([car]), 60, hz))) == 1


@settings(max_examples=10, deadline=None)
@given(
    hz=st.sampled_from(RATES),
    ids=st.lists(st.integers(-1, 5), min_size=7, max_size=7),
    flicker=st.lists(st.booleans(), min_size=11, max_size=11),
)
def test_neither_ids_nor_flicker_split_or_reset_a_stay(
    hz: float, ids: list[int], flicker: list[bool]
) -> None:
    """Up to half of all frames missed: the picture holds the stay."""
    car = Actor(
        at(0.5, 0.7),
        tracker=lambda t: ids[int(t * 5) % 7],
        seen=lambda t: t < 6 or int(t * 5) % 2 == 0 or flicker[int(t * 5) % 11],
    )
    observations = watch(Street([car]), 45, hz)
    assert len(subjects(observations)) == 1
    assert all(o.condition is Condition.HOLDS for o in observations)
    assert len(raised(observations)) == 1


@each_rate
def test_occlusion_by_a_passing_bus_does_not_reset(hz: float) -> None:
    """It is hidden from 12 to 17 s, by a bus the detector sees instead of it."""
    car = Actor(at(0.5, 0.7), seen=lambda t: not 12 <= t < 17)
    bus = Actor(at(0.5, 0.72, 12, 17), seed=9, name="bus", size=(0.5, 0.4), tracker=lambda _t: 2)
    observations = watch(Street([car, bus]), 40, hz)
    car_key = subjects(observations)[0]
    assert Condition.CLEAR not in {o.condition for o in observations if o.subject == car_key}
    (alarm,) = raised(observations)
    assert alarm.key.subject == car_key
    assert alarm.since == T0
    assert alarm.t - T0 <= 20 + 5 + 3 / hz


@each_rate
def test_occlusion_by_something_undetected_does_not_end_the_stay(hz: float) -> None:
    """A crowd stands before it for 4 s and is no class of the model."""
    car = Actor(at(0.5, 0.7), seen=lambda t: not 12 <= t < 16)
    crowd = Actor(at(0.5, 0.7, 12, 16), seed=9, size=(0.3, 0.3), seen=lambda _t: False)
    observations = watch(Street([car, crowd]), 45, hz)
    assert len(subjects(observations)) == 1
    (alarm,) = raised(observations)
    assert alarm.since == T0


@each_rate
def test_a_vehicle_that_leaves_clears_and_its_return_is_another_stay(hz: float) -> None:
    def path(t: float) -> Position | None:
        if t < 35:
            return 0.5, 0.7
        if t < 38:
            return 0.5 + 0.25 * (t - 35), 0.7
        return (0.52, 0.71) if t >= 70 else None

    observations = watch(Street([Actor(path)]), 110, hz)
    first, second = subjects(observations)
    mine = changes([o for o in observations if o.subject == first])
    assert [c.kind for c in mine] == [ChangeKind.RAISED, ChangeKind.CLEARED]
    assert mine[1].t - T0 <= 38 + 6 + 2 + 3 / hz
    later = raised([o for o in observations if o.subject == second])
    assert [T0 + 70 <= c.since <= T0 + 70 + 1 / hz for c in later] == [True]


@each_rate
def test_moving_up_a_little_keeps_the_stay(hz: float) -> None:
    def path(t: float) -> Position:
        return 0.4 + 0.08 * min(1.0, max(0.0, (t - 10) / 2)), 0.7

    observations = watch(Street([Actor(path)]), 60, hz)
    assert len(subjects(observations)) == 1
    assert len(raised(observations)) == 1


@each_rate
def test_another_vehicle_in_the_same_place_is_another_stay(hz: float) -> None:
    first = Actor(at(0.5, 0.7, 0, 30.1), seed=3)
    second = Actor(at(0.5, 0.7, 40.1), seed=4, tracker=lambda _t: 2)
    keys = subjects(watch(Street([first, second]), 80, hz))
    assert len(keys) == 2


@pytest.mark.parametrize("hz", [0.2, 0.5])
def test_a_vehicle_replaced_between_two_key_frames_is_another_stay(hz: float) -> None:
    """The tracker sees boxes only and keeps its id; the picture tells."""
    first = Actor(at(0.5, 0.7, 0, 30.1), seed=3)
    second = Actor(at(0.5, 0.7, 30.1), seed=4)
    observations = watch(Street([first, second]), 80, hz)
    assert len(subjects(observations)) == 2
    assert observations[-1].condition is Condition.HOLDS


@each_rate
def test_changing_light_does_not_split_a_stay(hz: float) -> None:
    street = Street([Actor(at(0.5, 0.7))], light=lambda t: 0.65 + 0.35 * np.cos(t / 3))
    observations = watch(street, 60, hz)
    assert len(subjects(observations)) == 1
    assert len(raised(observations)) == 1


@each_rate
def test_a_restart_keeps_the_subject(hz: float) -> None:
    street = Street([Actor(at(0.5, 0.7))])
    before = parking()
    first = watch(street, 20, hz, before)
    after = parking()
    after.restore(json.loads(json.dumps(before.state())))
    second = watch(street, 60, hz, after, start_s=25)
    assert subjects(first + second) == [f"zone:kerb/stay:{T0:.1f}"]
    assert second[0].condition is Condition.HOLDS


def test_an_end_during_a_restart_is_told_until_the_rule_can_close() -> None:
    street = Street([Actor(at(0.5, 0.7, until=41))])
    before = parking()
    first = watch(street, 40, 1.0, before)
    after = parking()
    after.restore(before.state())
    second = watch(street, 80, 1.0, after, start_s=45)
    kinds = [c.kind for c in changes(first + second)]
    assert kinds == [ChangeKind.RAISED, ChangeKind.CLEARED]
    assert after.state() == {"stays": []}


def test_state_that_cannot_be_read_is_left_out() -> None:
    before = parking()
    watch(Street([Actor(at(0.5, 0.7))]), 20, 1.0, before)
    stays = before.state()["stays"]
    assert isinstance(stays, list)
    (stay,) = stays
    assert isinstance(stay, dict)
    broken: list[Any] = [None, 3, {}, stay | {"reference": "no"}, stay | {"home": [1, 2]}]
    after = parking()
    after.restore({"stays": [*broken, stay]})
    assert after.state() == {"stays": [stay]}
    for nonsense in ({}, {"stays": None}, {"stays": "x"}):
        parking().restore(nonsense)  # type: ignore[arg-type]


@each_rate
def test_ground_contact_decides_not_the_box(hz: float) -> None:
    """A lorry beside the zone towers into it in the picture; its wheels stand outside."""
    zone = ((0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 0.5))
    lorry = Actor(at(0.5, 0.45), name="truck", size=(0.3, 0.5))
    assert watch(Street([lorry]), 30, hz, parking(zones={"lane": zone})) == []


def test_car_and_truck_boxes_at_one_place_are_one_stay() -> None:
    car = Actor(at(0.5, 0.7), confidence=0.6)
    truck = Actor(at(0.505, 0.705), name="truck", confidence=0.55, tracker=lambda _t: 2)
    assert len(subjects(watch(Street([car, truck]), 30, 2.0))) == 1


def test_a_row_of_cars_from_the_first_frame_has_a_subject_each() -> None:
    row = [Actor(at(0.2 + 0.2 * i, 0.8), seed=i, tracker=always(i)) for i in range(4)]
    observations = watch(Street(row), 30, 1.0)
    assert len(subjects(observations)) == 4
    assert len(raised(observations)) == 4


def test_only_chosen_classes_stand() -> None:
    person = Actor(at(0.3, 0.7), name="person", size=(0.05, 0.2))
    bicycle = Actor(at(0.6, 0.7), name="bicycle", seed=5)
    assert watch(Street([person, bicycle]), 30, 1.0) == []
    with_bicycles = parking(classes=("car", "bicycle"))
    assert len(subjects(watch(Street([person, bicycle]), 30, 1.0, with_bicycles))) == 1


def test_weak_boxes_keep_a_stay_and_start_none() -> None:
    weak = Actor(at(0.5, 0.7), confidence=0.2)
    assert watch(Street([weak]), 30, 1.0) == []
    scenario = parking()
    watch(Street([Actor(at(0.5, 0.7))]), 30, 1.0, scenario)
    later = watch(Street([weak]), 55, 1.0, scenario, start_s=31)
    assert {o.condition for o in later} == {Condition.HOLDS}


@pytest.mark.parametrize(("strong_every", "holds"), [(1, True), (2, True), (4, False)])
def test_a_stay_must_reach_the_operating_point_in_half_of_its_sightings(
    strong_every: int, holds: bool
) -> None:
    """A road sign that now and then looks like a car is none that stands."""
    scenario = parking()
    observations = []
    for second in range(40):
        confidence = 0.6 if second % strong_every == 0 else 0.2
        sign = Street([Actor(at(0.5, 0.7), confidence=confidence)])
        observations += watch(sign, second, 1.0, scenario, start_s=second)
    assert bool(raised(observations)) is holds


def test_a_place_that_is_seen_badly_nearly_always_does_not_hold() -> None:
    scenario = parking()
    watch(Street([Actor(at(0.5, 0.7))]), 5, 1.0, scenario)
    later = watch(Street([Actor(at(0.5, 0.7), confidence=0.2)]), 60, 1.0, scenario, start_s=6)
    assert later[-1].condition is Condition.UNKNOWN
    assert later[-1].detail["reason"] == "weakly detected"


def test_outside_the_hours_stays_are_clear_and_remembered() -> None:
    """T0 is a Wednesday, 16:26:40 UTC."""
    scenario = parking(active=["16:27-17:00"])
    observations = watch(Street([Actor(at(0.5, 0.7))]), 60, 1.0, scenario)
    assert len(subjects(observations)) == 1
    for o in observations:
        inside = o.t >= T0 + 20
        assert o.condition is (Condition.HOLDS if inside else Condition.CLEAR)
        assert inside or o.detail["reason"] == "outside active hours"
    (alarm,) = raised(observations)
    assert alarm.since == pytest.approx(T0 + 20, abs=1)


def test_without_a_model_or_stream_stays_are_unknown() -> None:
    street = Street([Actor(at(0.5, 0.7))])
    scenario = parking()
    watch(street, 10, 1.0, scenario)
    scene = street.scene(11)
    (blind,) = scenario.observe(Scene(scene.frame, scene.motion, None, scene.detections_t, {}))
    (broken,) = scenario.interrupt(T0 + 12)
    assert blind.condition is broken.condition is Condition.UNKNOWN
    assert blind.subject == broken.subject == f"zone:kerb/stay:{T0:.1f}"


def test_black_pictures_are_judged_by_boxes_alone() -> None:
    street = Street([Actor(at(0.5, 0.7, until=40))], light=lambda _t: 0.0)
    observations = watch(street, 70, 1.0)
    kinds = [c.kind for c in changes(observations)]
    assert kinds == [ChangeKind.RAISED, ChangeKind.CLEARED]


def test_memory_is_bounded() -> None:
    scenario = parking()
    for round_ in range(12):
        rng = np.random.default_rng(round_)
        spots = rng.uniform((0.1, 0.55), (0.9, 0.95), (30, 2))
        cars = [
            Actor(at(float(x), float(y)), seed=i, size=(0.03, 0.05))
            for i, (x, y) in enumerate(spots)
        ]
        watch(Street(cars), round_ * 5 + 4, 1.0, scenario, start_s=round_ * 5)
    assert len(scenario._places) <= 64


@settings(max_examples=8, deadline=None)
@given(hz=st.sampled_from([0.2, 0.4, 1.0, 2.5]), arrive=st.floats(0, 10), stay_s=st.floats(30, 60))
def test_thinning_moves_an_alarm_by_no_more_than_one_gap(
    hz: float, arrive: float, stay_s: float
) -> None:
    def path(t: float) -> Position | None:
        if t < arrive - 2:
            return None
        if t < arrive:
            return 0.5 - 0.3 * (arrive - t), 0.7
        leaving = max(0.0, t - arrive - stay_s)
        return (0.5 + 0.3 * leaving, 0.7) if leaving < 3 else None

    dense = changes(watch(Street([Actor(path)]), 95, 5.0))
    thin = changes(watch(Street([Actor(path)]), 95, hz))
    wanted = [ChangeKind.RAISED, ChangeKind.CLEARED]
    assert [c.kind for c in dense if c.kind in wanted] == wanted
    assert [c.kind for c in thin if c.kind in wanted] == wanted
    gap = 1 / hz + 0.2
    (dense_raised, _), (thin_raised, _) = (
        [c for c in of if c.kind in wanted] for of in (dense, thin)
    )
    assert abs(dense_raised.t - thin_raised.t) <= gap
    assert abs(dense_raised.since - thin_raised.since) <= gap


@pytest.mark.parametrize(
    ("parameters", "where"),
    [
        ({"zones": {}}, "zones"),
        ({"zones": {"a/b": KERB}}, "zones"),
        ({"zones": {"a": KERB[:2]}}, "zones"),
        ({"zones": {"a": KERB}, "classes": []}, "classes"),
        ({"zones": {"a": KERB}, "still_speed": 0}, "still_speed"),
        ({}, "zones"),
    ],
    ids=["none", "slash", "two-points", "no-class", "no-speed", "missing"],
)
def test_parameters_are_checked(parameters: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError, match=where):
        IllegalParkingParameters.model_validate(parameters)
