from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC

import cv2
import numpy as np
import pytest
import supervision as sv
from hypothesis import given
from hypothesis import strategies as st

from alerts.rules import ChangeKind, RuleBook
from pipeline.analyse.flicker import PATCH_SIDE, Patch, measure_dynamics, sample_patch
from pipeline.analyse.motion import Motion
from pipeline.analyse.scenario import CameraContext, Scene
from pipeline.analyse.scenarios.fire import Fire, FireParameters
from pipeline.frame import Frame, Image
from pipeline.observation import Condition, Observation, RelativeBox

T0 = 1_700_000_000.0
WIDTH, HEIGHT = 320, 180
THRESHOLDS = {"fire": 0.4, "smoke": 0.4}
STILL = Motion(0.0, np.zeros((9, 16), bool), 10.0)

NOISE = np.random.default_rng(1).normal(0, 2, (7, HEIGHT, WIDTH, 3)).astype(np.float32)

Found = list[tuple[str, float, RelativeBox]]
Show = Callable[[float], tuple[Image, Found]]


def night(seed: int = 0) -> Image:
    """A yard at night: soft textures, dark."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(10, 60, (18, 32, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR), np.uint8)


def grain(image: Image, t: float) -> Image:
    """Sensor noise of about two levels, the same for the same moment."""
    return np.asarray(
        cv2.add(image, NOISE[round(t * 1000) % len(NOISE)], dtype=cv2.CV_8U), np.uint8
    )


def paint(image: Image, box: RelativeBox, colour: tuple[int, int, int]) -> Image:
    out = image.copy()
    x1, y1, x2, y2 = (int(v * s) for v, s in zip(box, (WIDTH, HEIGHT) * 2, strict=True))
    cv2.ellipse(
        out,
        ((x1 + x2) // 2, (y1 + y2) // 2),
        ((x2 - x1) // 2, (y2 - y1) // 2),
        0,
        0,
        360,
        colour,
        -1,
    )
    return out


def flame(image: Image, box: RelativeBox, t: float) -> Image:
    """Tongues that rise and fall on their own, each with a few frequencies of 1 to 9 Hz."""
    out = image.copy()
    x1, y1, x2, y2 = (int(v * s) for v, s in zip(box, (WIDTH, HEIGHT) * 2, strict=True))
    rng = np.random.default_rng(7)
    for x in np.linspace(x1, x2, 7)[1:-1]:
        hz, phase, weight = rng.uniform(1, 9, 4), rng.uniform(0, 6.28, 4), rng.uniform(0.5, 1, 4)
        swing = float((weight * np.sin(6.28 * hz * t + phase)).sum() / weight.sum())
        tall = (y2 - y1) * (0.6 + 0.5 * swing)
        tip = int(y2 - max(tall, 2)), int(x + 3 * swing)
        half = max(2, (x2 - x1) // 9)
        tongue = np.array([[int(x) - half, y2], [int(x) + half, y2], [tip[1], max(tip[0], y1)]])
        cv2.fillPoly(out, [tongue], (20, 120 + int(60 * swing), 250))
    return np.asarray(cv2.GaussianBlur(out, (3, 3), 0), np.uint8)


@dataclass
class Watch:
    """What came of showing a scenario something: as the engine drives it, by its own needs."""

    fire: Fire
    observations: list[Observation] = field(default_factory=list)
    raised: list[float] = field(default_factory=list)
    severity: str | None = None

    def holding(self) -> float:
        return float(np.mean([o.condition is Condition.HOLDS for o in self.observations]))


def watch(
    show: Show, seconds: float, *, fire: Fire | None = None, t0: float = 0.0, cap_hz: float = 15.0
) -> Watch:
    fire = fire or make()
    seen = Watch(fire)
    rules = RuleBook(lambda _camera, _scenario: fire.parameters)
    t = t0
    while t <= t0 + seconds:
        image, found = show(t)
        scene = Scene(
            Frame("gate", T0 + t, grain(image, t)), STILL, detections(found), T0 + t, THRESHOLDS
        )
        for observation in fire.observe(scene):
            seen.observations.append(observation)
            for change in rules.update(observation):
                if change.kind is ChangeKind.RAISED:
                    seen.raised.append(t)
                    seen.severity = observation.severity or fire.parameters.severity
        t += 1 / min(fire.need(T0 + t).rate_hz, cap_hz)
    return seen


def detections(found: Found) -> sv.Detections:
    size = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32)
    return sv.Detections(
        xyxy=np.array(
            [np.array(box, np.float32) * size for _, _, box in found], np.float32
        ).reshape(-1, 4),
        confidence=np.array([confidence for _, confidence, _ in found], np.float32),
        class_id=np.array([0 if name == "fire" else 1 for name, _, _ in found], int),
        tracker_id=np.full(len(found), -1, int),
        data={"class_name": np.array([name for name, _, _ in found], dtype=str)},
    )


def make(**parameters: object) -> Fire:
    return Fire(CameraContext("gate", UTC), FireParameters.model_validate(parameters))


BOX = (0.4, 0.4, 0.6, 0.8)
YARD = night()


def burning(t: float, box: RelativeBox = BOX, confidence: float = 0.55) -> tuple[Image, Found]:
    return flame(YARD, box, t), [("fire", confidence, box)]


def lamp(_t: float, confidence: float = 0.7) -> tuple[Image, Found]:
    return paint(YARD, BOX, (120, 200, 255)), [("fire", confidence, BOX)]


def beacon(t: float) -> tuple[Image, Found]:
    on = (t * 1.5) % 1 < 0.5
    return (paint(YARD, BOX, (40, 140, 255)), [("fire", 0.75, BOX)]) if on else (YARD, [])


def turning_beacon(t: float) -> tuple[Image, Found]:
    level = 0.5 + 0.5 * np.sin(6.28 * 1.1 * t)
    colour = (int(40 * level), int(140 * level), int(60 + 190 * level))
    return paint(YARD, BOX, colour), [("fire", 0.7, BOX)]


def hazard_light(t: float) -> tuple[Image, Found]:
    on = (t / 0.75) % 1 < 0.5
    return paint(YARD, BOX, (30, 150, 255) if on else (10, 40, 70)), [("fire", 0.6, BOX)]


def head_lamp(t: float) -> tuple[Image, Found]:
    x = -0.1 + (t * 0.25) % 1.2
    box = (max(0.0, x), 0.5, min(1.0, x + 0.1), 0.6)
    if box[2] - box[0] < 0.03:
        return YARD, []
    return paint(YARD, box, (220, 240, 255)), [("fire", 0.7, box)]


def lightning(t: float) -> tuple[Image, Found]:
    if t % 4 < 3.4:
        return YARD, []
    bright = np.clip(YARD.astype(np.int16) + int(120 * (1 - (t % 0.2) * 3)), 0, 255)
    return bright.astype(np.uint8), [("fire", 0.8, (0.1, 0.0, 0.9, 0.6))]


def fluke(t: float) -> tuple[Image, Found]:
    return YARD, [("fire", 0.9, BOX)] if t % 2.5 < 0.1 else []


@pytest.mark.parametrize("cap_hz", [15.0, 10.0, 2.0], ids=["15hz", "10hz", "key-frames"])
def test_a_flickering_flame_raises_once_and_soon(cap_hz: float) -> None:
    seen = watch(burning, 20, cap_hz=cap_hz)
    assert len(seen.raised) == 1
    assert seen.raised[0] <= 6
    assert seen.severity == "critical"


def test_a_growing_flame_raises_although_it_outgrows_its_box() -> None:
    def growing(t: float) -> tuple[Image, Found]:
        half = 0.03 + 0.012 * t
        return burning(t, (0.5 - half, 0.8 - 3 * half, 0.5 + half, 0.8))

    assert len(watch(growing, 12).raised) == 1


@pytest.mark.parametrize("cap_hz", [15.0, 2.0], ids=["burst", "key-frames"])
@pytest.mark.parametrize(
    "show", [lamp, beacon, turning_beacon, hazard_light, head_lamp, lightning, fluke]
)
def test_what_shines_but_does_not_burn_never_raises(show: Show, cap_hz: float) -> None:
    assert watch(show, 40, cap_hz=cap_hz).raised == []


def test_a_flame_seen_at_the_operating_point_only_now_and_then_raises_by_its_flicker() -> None:
    def unsteady(t: float) -> tuple[Image, Found]:
        return burning(t, confidence=0.45 if t % 1 < 0.5 else 0.25)

    assert len(watch(unsteady, 12).raised) == 1


def test_flicker_alone_does_not_make_a_weak_candidate_a_fire() -> None:
    assert watch(lambda t: burning(t, confidence=0.3), 12).raised == []


def test_a_candidate_opens_a_burst_and_rests_after_it() -> None:
    fire = make()
    assert fire.need(T0).rate_hz <= 2
    assert not fire.need(T0).inference
    watch(burning, 0.5, fire=fire)
    assert fire.need(T0 + 0.6).rate_hz >= 10
    assert fire.need(T0 + 0.6).inference
    assert fire.need(T0 + 8).rate_hz <= 2
    assert fire.need(T0 + 8).inference


def test_a_lamp_is_learnt_then_costs_no_more_bursts() -> None:
    seen = watch(lamp, 30)
    assert seen.fire.state()["emitters"]
    assert not seen.fire.need(T0 + 31).inference
    first = sum(o.t < T0 + 10 for o in seen.observations)
    last = sum(o.t > T0 + 20 for o in seen.observations)
    assert last < first


def test_a_fire_beside_a_muted_lamp_raises() -> None:
    fire = watch(lamp, 30).fire
    beside = (0.62, 0.5, 0.8, 0.85)

    def show(t: float) -> tuple[Image, Found]:
        image, found = lamp(t)
        return flame(image, beside, t), [*found, ("fire", 0.6, beside)]

    assert len(watch(show, 12, fire=fire, t0=30.5).raised) == 1


def test_a_fire_that_grows_around_a_muted_lamp_raises() -> None:
    fire = watch(lamp, 30).fire
    around = (0.3, 0.2, 0.7, 0.9)
    assert len(watch(lambda t: burning(t, around), 12, fire=fire, t0=30.5).raised) == 1


def test_a_muted_place_that_begins_to_burn_raises() -> None:
    fire = watch(lamp, 30).fire
    assert len(watch(burning, 20, fire=fire, t0=30.5).raised) == 1


def test_static_emitters_survive_a_restart_and_are_forgotten_in_time() -> None:
    state = watch(lamp, 30).fire.state()
    again = make()
    again.restore(state)
    seen = watch(lambda t: lamp(t, 0.95), 8, fire=again, t0=40)
    assert seen.holding() == 0
    assert len(seen.observations) < 20  # no burst

    late = make(forget_after="1h")
    late.restore(state)
    watch(lambda _t: (YARD, []), 1, fire=late, t0=7200)
    assert late.state()["emitters"] == []


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"version": 1, "emitters": 3},
        {"version": 1, "emitters": [[1, 2], "x", [0, 0, 1, 1, None]]},
    ],
)
def test_unreadable_state_is_ignored(state: dict[str, object]) -> None:
    fire = make()
    fire.restore(state)  # type: ignore[arg-type]
    assert fire.state()["emitters"] == []


def haze(t: float) -> tuple[Image, Found]:
    """Smoke: a soft cloud that rises and drifts, before a textured wall."""
    rng = np.random.default_rng(3)
    wall = np.kron(
        rng.integers(40, 200, (45, 80, 1)).astype(np.uint8), np.ones((4, 4, 3), np.uint8)
    )
    if t < 6:
        return np.asarray(wall, np.uint8), []
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    billows = np.zeros((HEIGHT, WIDTH))
    for k in range(8):
        cx = 160 + 30 * np.sin(0.9 * t + 1.7 * k)
        cy = 160 - ((t - 6) * 18 + 17 * k) % 120
        billows += np.exp(-(((x - cx) / 28) ** 2 + ((y - cy) / 22) ** 2))
    alpha = np.clip(billows, 0, 0.85)[..., None]
    image = (wall * (1 - alpha) + 170 * alpha).astype(np.uint8)
    return image, [("smoke", 0.5, (0.35, 0.2, 0.65, 0.95))]


@pytest.mark.parametrize("cap_hz", [15.0, 2.0], ids=["burst", "key-frames"])
def test_smoke_that_drifts_and_veils_raises_as_major(cap_hz: float) -> None:
    seen = watch(haze, 20, cap_hz=cap_hz)
    assert len(seen.raised) == 1
    assert seen.severity == "major"
    odds = [o.detail["log_odds"] for o in seen.observations if o.detail]
    assert any(isinstance(o, dict) and float(str(o["contrast"])) > 0.5 for o in odds)


def test_a_grey_wall_called_smoke_does_not_raise() -> None:
    wall = np.full((HEIGHT, WIDTH, 3), 150, np.uint8)
    assert watch(lambda _t: (wall, [("smoke", 0.6, BOX)]), 20).raised == []


def test_people_who_pass_in_what_is_called_smoke_do_not_make_it_burn() -> None:
    haze = (0.1, 0.1, 0.9, 0.9)

    def passing(t: float) -> tuple[Image, Found]:
        image = YARD.copy()
        x = int(WIDTH * ((t * 0.15) % 1.4 - 0.2))
        image[90:130, max(x, 0) : max(x + 14, 0)] = 220
        return image, [("smoke", 0.5, haze)]

    assert watch(passing, 30).raised == []


def test_zones_are_subjects_and_ignored_outlines_are_not_looked_at() -> None:
    left = ((0.0, 0.0), (0.3, 0.0), (0.3, 1.0), (0.0, 1.0))
    middle = ((0.3, 0.0), (1.0, 0.0), (1.0, 1.0), (0.3, 1.0))
    seen = watch(burning, 8, fire=make(zones={"left": left, "middle": middle}))
    holding = {o.subject for o in seen.observations if o.condition is Condition.HOLDS}
    assert {o.subject for o in seen.observations} == {"zone:left", "zone:middle"}
    assert holding == {"zone:middle"}
    assert watch(burning, 8, fire=make(ignore=[middle])).holding() == 0


def test_without_a_model_and_after_a_break_the_condition_is_unknown() -> None:
    fire = make()
    frame = Frame("gate", T0, YARD)
    assert [o.condition for o in fire.observe(Scene(frame, STILL, None, T0, {}))] == [
        Condition.UNKNOWN
    ]
    assert [o.condition for o in fire.interrupt(T0 + 1)] == [Condition.UNKNOWN]


def test_the_reasons_stand_in_the_observation() -> None:
    last = watch(burning, 8).observations[-1]
    assert last.condition is Condition.HOLDS
    assert last.box is not None
    assert last.detail["kind"] == "flame"
    assert {"energy", "novelty", "log_odds", "detector"} <= set(last.detail)


def patches(series: np.ndarray) -> list[Patch]:
    return [np.full((PATCH_SIDE, PATCH_SIDE), v, np.float32) for v in series]


def test_flicker_frequency_is_measured_in_hertz() -> None:
    t = np.arange(0, 3, 1 / 15)
    found = measure_dynamics(list(t), patches(100 + 40 * np.sin(6.283 * 3 * t)), [50.0] * len(t))
    assert found is not None
    assert found.flicker_hz == pytest.approx(3.0, abs=0.4)
    assert found.novelty < 0.05
    assert found.energy == pytest.approx(40 / np.sqrt(2), abs=3)


def test_too_few_patches_are_no_measurement() -> None:
    assert measure_dynamics([0.0, 1.0], patches(np.array([1, 2])), [5, 5]) is None
    assert measure_dynamics([], [], []) is None


@given(
    gain=st.lists(st.floats(0.85, 1.15), min_size=20, max_size=20),
    seed=st.integers(0, 1000),
)
def test_exposure_alone_is_no_dynamics(gain: list[float], seed: int) -> None:
    scene = np.random.default_rng(seed).uniform(40, 200, (PATCH_SIDE, PATCH_SIDE))
    found = measure_dynamics(
        list(np.arange(20) / 10),
        [(scene * g).astype(np.float32) for g in gain],
        [100 * g for g in gain],
    )
    assert found is not None
    assert found.energy < 3


@given(
    box=st.tuples(*[st.floats(0, 1)] * 4), size=st.tuples(st.integers(1, 40), st.integers(1, 40))
)
def test_any_box_gives_a_patch(box: RelativeBox, size: tuple[int, int]) -> None:
    x1, x2 = sorted((box[0], box[2]))
    y1, y2 = sorted((box[1], box[3]))
    patch = sample_patch(np.zeros((*size, 3), np.uint8), (x1, y1, x2, y2))
    assert patch.shape == (PATCH_SIDE, PATCH_SIDE)
    assert patch.dtype == np.float32
