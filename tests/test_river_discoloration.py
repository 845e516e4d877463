from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import supervision as sv
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.rules import ChangeKind, RuleBook
from pipeline.analyse.colour import (
    Grid,
    ciede2000,
    lab_to_linear,
    linear_to_lab,
    name_water_colour,
    srgb_to_linear,
)
from pipeline.analyse.motion import Motion
from pipeline.analyse.region import RegionFinder
from pipeline.analyse.scenario import CameraContext, Scene
from pipeline.analyse.scenarios.river_discoloration import RiverDiscoloration, RiverParameters
from pipeline.frame import Frame, Image
from pipeline.observation import Condition, Json, Observation

T0 = 1_700_000_000.0  # 22:13 UTC
WIDTH, HEIGHT = 192, 108
HORIZON = 0.45
WATER = ((0.0, HORIZON), (1.0, HORIZON), (1.0, 1.0), (0.0, 1.0))
WALL = ((0.05, 0.2), (0.45, 0.2), (0.45, 0.43), (0.05, 0.43))
STILL = Motion(0.0, np.zeros((9, 16), bool), 10.0)

Linear = npt.NDArray[np.float64]
Light = tuple[float, float, float]
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
Y, X = Y / HEIGHT, X / WIDTH
IN_WATER = Y >= HORIZON
GREEN_WATER = (0.07, 0.16, 0.12)
RUST = (0.30, 0.08, 0.03)

rng = np.random.default_rng(5)
GROUND = np.asarray(
    cv2.resize(rng.uniform(0.08, 0.5, (9, 16, 3)), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
)
# A few frames' worth of sensor noise and of glints, which are elsewhere in every frame.
NOISE = [
    (rng.normal(0, 0.004, (HEIGHT, WIDTH, 3)), rng.random((HEIGHT, WIDTH)) < 0.04) for _ in range(7)
]


def river(t: float, water: Light = GREEN_WATER) -> Linear:
    """Linear reflectance (h, w, 3) RGB: ground above, rippling water with glints below."""
    grain, glints = NOISE[round(t * 1000) % len(NOISE)]
    ripples = 1 + 0.15 * np.sin(60 * Y + 25 * X + 3 * t) * np.sin(40 * X - 2 * t)
    surface = np.array(water) * ripples[..., None]
    surface[glints] = 0.95
    picture = np.where(IN_WATER[..., None], surface, GROUND)
    return np.asarray(picture + grain)


def camera(picture: Linear, light: Light | float = 1.0) -> Image:
    """What an 8-bit sRGB camera makes of a linear picture under a light, (h, w, 3) uint8 BGR."""
    lit = np.clip(picture * np.array(light), 0, 1)
    encoded = np.where(lit <= 0.0031308, 12.92 * lit, 1.055 * lit ** (1 / 2.4) - 0.055)
    return np.ascontiguousarray((encoded[..., ::-1] * 255 + 0.5).astype(np.uint8))


def plume(
    t: float, start: float, colour: Light = RUST, *, speed: float = 0.05, light: Light | float = 1.0
) -> Image:
    """A half disc of colour that spreads from the right bank, `speed` picture widths a second."""
    picture = river(t)
    radius = max(0.0, t - start) * speed
    inside = IN_WATER & (np.hypot(X - 1.0, (Y - 0.75) * HEIGHT / WIDTH) < min(radius, 0.6))
    thick = 0.85 * inside[..., None]
    return camera(picture * (1 - thick) + np.array(colour) * thick, light)


@dataclass
class Watch:
    river: RiverDiscoloration
    observations: list[Observation]
    raised: list[float]

    def conditions(self, since: float = 0.0) -> set[Condition]:
        return {o.condition for o in self.observations if o.t - T0 >= since}


def make(**parameters: object) -> RiverDiscoloration:
    defaults = {"water": WATER, "reference": [WALL], "warm_up": "4s", "raise_after": "5s"}
    return RiverDiscoloration(
        CameraContext("weir", UTC), RiverParameters.model_validate(defaults | parameters)
    )


def scene(image: Image, t: float) -> Scene:
    return Scene(Frame("weir", T0 + t, image), STILL, None, T0 + t, {})


def watch(
    show: Callable[[float], Image],
    seconds: float,
    *,
    t0: float = 0.0,
    rate_hz: float = 2.0,
    river: RiverDiscoloration | None = None,
) -> Watch:
    river = river or make()
    rules = RuleBook(lambda _camera, _scenario: river.parameters)
    seen = Watch(river, [], [])
    for k in range(int(seconds * rate_hz)):
        t = t0 + k / rate_hz
        for observation in river.observe(scene(show(t), t)):
            seen.observations.append(observation)
            changes = rules.update(observation)
            seen.raised += [t for change in changes if change.kind is ChangeKind.RAISED]
    return seen


BOTH = pytest.mark.parametrize("reference", [[WALL], []], ids=["wall", "rest of the picture"])


@BOTH
@pytest.mark.parametrize(
    ("colour", "name"),
    [
        (RUST, "rust_red"),
        ((0.004, 0.004, 0.004), "black"),
        ((0.55, 0.56, 0.55), "milky_white"),
        ((0.32, 0.22, 0.09), "mud_yellow"),
        ((0.04, 0.08, 0.42), "dye_blue"),
        ((0.25, 0.04, 0.30), "purple"),
    ],
)
def test_a_plume_raises_once_and_its_colour_is_named(
    colour: Light, name: str, reference: list[object]
) -> None:
    seen = watch(lambda t: plume(t, 10, colour), 30, river=make(reference=reference))
    assert len(seen.raised) == 1
    assert 15 <= seen.raised[0] <= 24
    last = seen.observations[-1]
    assert last.detail["colour"] == name
    assert last.box is not None
    assert last.box[2] == pytest.approx(1.0)
    share = last.detail["share"]
    assert isinstance(share, float)
    assert 0.2 < share < 0.9


def cloud(t: float) -> Image:
    return camera(river(t), 0.45 if 12 < t < 20 else 1.0)


def dusk(t: float) -> Image:
    fade = max(0.15, 1 - t / 45)
    return camera(river(t), (fade, fade**1.15, fade**1.4))


def exposure_steps(t: float) -> Image:
    return camera(river(t), (1.0, 0.45, 1.3, 0.7)[int(t / 7) % 4])


def white_balance(t: float) -> Image:
    return camera(river(t), (1.3, 1.0, 0.55) if t > 12 else 1.0)


def shadow(t: float) -> Image:
    """A bridge's or a cloud's edge over a part of the water; the wall stays in the sun."""
    picture = river(t)
    if t > 12:
        picture[IN_WATER & (X > 0.4)] *= 0.35
    return camera(picture)


def boat(t: float) -> Image:
    picture = river(t)
    x = 0.04 * (t - 10)
    hull = IN_WATER & (np.abs(X - x) < 0.12) & (np.abs(Y - 0.7) < 0.1)
    picture[hull] = (0.5, 0.05, 0.04)
    picture[hull & (np.sin(150 * X) > 0.3)] = (0.8, 0.8, 0.75)
    return camera(picture)


def moored_boat(t: float) -> Image:
    picture = river(t)
    if t > 12:
        hull = IN_WATER & (np.abs(X - 0.5) < 0.16) & (np.abs(Y - 0.7) < 0.13)
        picture[hull] = (0.5, 0.05, 0.04)
        picture[hull & (np.sin(150 * X) > 0)] = (0.8, 0.8, 0.75)
    return camera(picture)


def rain(t: float) -> Image:
    picture = river(t)
    if t > 12:
        drops = np.random.default_rng(round(t * 77)).random((HEIGHT, WIDTH)) < 0.12
        picture[drops & IN_WATER] = (0.6, 0.62, 0.66)
    return camera(picture)


def leaf(t: float) -> Image:
    """Something small that stays."""
    picture = river(t)
    if t > 12:
        picture[IN_WATER & (np.hypot(X - 0.5, Y - 0.7) < 0.035)] = (0.5, 0.05, 0.02)
    return camera(picture)


@BOTH
@pytest.mark.parametrize(
    "show",
    [cloud, dusk, exposure_steps, white_balance, shadow, boat, moored_boat, rain, leaf],
)
def test_what_is_no_discoloration_never_raises(
    show: Callable[[float], Image], reference: list[object]
) -> None:
    seen = watch(show, 36, river=make(reference=reference))
    assert seen.raised == []
    assert Condition.CLEAR in seen.conditions(5)


def test_a_plume_raises_in_dimming_warm_light_too() -> None:
    def show(t: float) -> Image:
        fade = max(0.4, 1 - t / 60)
        return plume(t, 12, light=(fade, fade**1.1, fade**1.3))

    assert len(watch(show, 34).raised) == 1


def test_algae_that_are_always_there_are_normal() -> None:
    seen = watch(lambda t: camera(river(t, (0.10, 0.30, 0.03))), 20)
    assert seen.conditions(5) == {Condition.CLEAR}


def test_warming_up_is_unknown_and_says_so() -> None:
    seen = watch(lambda t: plume(t, 0), 10, river=make(warm_up="60s"))
    assert seen.conditions() == {Condition.UNKNOWN}
    assert {o.detail["reason"] for o in seen.observations} == {"warming_up"}


def test_four_seconds_of_warm_up_are_enough() -> None:
    seen = watch(lambda t: camera(river(t)), 10)
    first = next(o.t for o in seen.observations if o.condition is Condition.CLEAR)
    assert first - T0 <= 5


def test_a_restart_keeps_the_normal() -> None:
    before = watch(lambda t: camera(river(t)), 8).river
    state = json.loads(json.dumps(before.state()))
    assert len(json.dumps(state)) < 20_000

    calm = make()
    calm.restore(state)
    assert watch(lambda t: camera(river(t)), 5, t0=600, river=calm).conditions() == {
        Condition.CLEAR
    }

    # Hours later the light is another one, and the plume that came meanwhile is seen at once.
    stained = make()
    stained.restore(state)
    seen = watch(lambda t: plume(t, 0, light=0.6), 8, t0=7200, river=stained)
    assert Condition.UNKNOWN not in seen.conditions()
    assert len(seen.raised) == 1


def test_a_normal_of_other_zones_or_unreadable_is_not_taken() -> None:
    state = watch(lambda t: camera(river(t)), 8).river.state()
    unreadable: list[dict[str, Json]] = [
        {},
        {**state, "hours": {"7": ["?", 1, 2, 3]}},
        {**state, "version": 2},
        {**state, "hours": 3},
    ]
    for bad in unreadable:
        fresh = make()
        fresh.restore(bad)
        assert fresh.observe(scene(camera(river(0)), 0))[0].condition is Condition.UNKNOWN
    moved = make(water=((0.0, 0.5), (1.0, 0.5), (1.0, 1.0)))
    moved.restore(state)
    assert moved.observe(scene(camera(river(0)), 0))[0].condition is Condition.UNKNOWN


def test_the_normal_is_frozen_while_a_change_stands() -> None:
    # A normal that follows within seconds would swallow the plume; frozen, it cannot.
    seen = watch(lambda t: plume(t, 10), 45, river=make(adapt="5s"))
    assert seen.conditions(20) == {Condition.HOLDS}


def test_a_change_that_never_ends_becomes_the_normal_in_the_end() -> None:
    seen = watch(lambda t: plume(t, 10), 50, river=make(relearn_after="20s"))
    assert len(seen.raised) == 1
    assert seen.observations[-1].condition is Condition.CLEAR


def test_the_normal_follows_slow_drift() -> None:
    def season(t: float) -> Image:
        share = min(1.0, t / 60)
        water = tuple(
            a + share * (b - a) for a, b in zip(GREEN_WATER, (0.2, 0.17, 0.08), strict=True)
        )
        return camera(river(t, water))  # type: ignore[arg-type]

    assert Condition.HOLDS not in watch(season, 75, river=make(adapt="8s")).conditions()


def test_each_hour_has_its_normal_and_borrows_from_the_nearest() -> None:
    river_ = watch(lambda t: camera(river(t)), 8).river
    seen = watch(lambda t: camera(river(t)), 4, t0=3600, river=river_)
    assert seen.conditions() == {Condition.CLEAR}
    hours = seen.river.state()["hours"]
    assert isinstance(hours, dict)
    assert set(hours) == {"22", "23"}


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.full((HEIGHT, WIDTH, 3), 90, np.uint8), "monochrome"),
        (camera(river(0), 0.004), "too_dark"),
    ],
)
def test_at_night_and_in_infrared_the_colour_is_unknown(image: Image, reason: str) -> None:
    found = watch(lambda t: camera(river(t)), 8).river.observe(scene(image, 9))[0]
    assert (found.condition, found.detail["reason"]) == (Condition.UNKNOWN, reason)


def test_after_an_interruption_it_is_unknown_and_then_goes_on() -> None:
    seen = watch(lambda t: camera(river(t)), 8)
    assert [o.condition for o in seen.river.interrupt(T0 + 8)] == [Condition.UNKNOWN]
    again = watch(lambda t: camera(river(t)), 3, t0=40, river=seen.river)
    assert again.conditions() == {Condition.CLEAR}


def seen_by_model(image: Image, t: float, *masks: npt.NDArray[np.bool_]) -> Scene:
    """What the engine shows a scenario whose model segments the water."""
    plain = scene(image, t)
    found = sv.Detections(
        xyxy=np.tile(np.array([[0, 0, WIDTH, HEIGHT]], np.float32), (len(masks), 1)),
        mask=np.array(masks, bool).reshape(len(masks), HEIGHT, WIDTH),
        confidence=np.ones(len(masks), np.float32),
        class_id=np.zeros(len(masks), int),
    )
    return Scene(plain.frame, STILL, found, plain.detections_t, {"water": 0.5})


def test_without_an_outline_the_model_finds_the_water_and_is_then_asked_no_more() -> None:
    river_ = make(water=None)
    assert river_.active_model == "water"
    boat = (X > 0.3) & (X < 0.5) & (Y > 0.6) & (Y < 0.8)
    reasons, holds = [], []
    for k in range(60):
        t = k / 2
        # A boat that goes by while the water is looked for leaves no hole.
        mask = IN_WATER & ~(boat if k in {2, 3} else np.zeros_like(boat))
        shown = (
            seen_by_model(plume(t, 14), t, mask) if river_.active_model else scene(plume(t, 14), t)
        )
        found = river_.observe(shown)[0]
        reasons.append(found.detail.get("reason"))
        holds.append(found.condition is Condition.HOLDS)
        assert river_.need(T0 + t).inference is (river_.active_model is not None)
    assert reasons[0] == "finding_water"
    assert "warming_up" in reasons
    assert river_.active_model is None
    assert any(holds)
    assert not any(holds[:28])
    ((outline,), holes) = river_._found
    assert not holes
    assert min(y for _, y in outline) == pytest.approx(HORIZON, abs=0.04)

    again = make(water=None)
    again.restore(json.loads(json.dumps(river_.state())))
    assert again.active_model is None
    assert again.observe(scene(plume(40, 14), 40))[0].condition is not Condition.UNKNOWN


def test_where_the_model_sees_no_water_it_says_so_and_looks_again() -> None:
    river_ = make(water=None)
    seen = [river_.observe(seen_by_model(camera(river(k / 2)), k / 2))[0] for k in range(40)]
    assert {o.condition for o in seen} == {Condition.UNKNOWN}
    assert seen[-1].detail["reason"] in {"finding_water", "no_water_found"}
    assert "no_water_found" in [o.detail["reason"] for o in seen]
    assert river_.active_model == "water"


def test_state_of_another_kind_of_outline_is_not_taken_back() -> None:
    outlined = watch(lambda t: camera(river(t)), 8).river
    bare = make(water=None)
    bare.restore(json.loads(json.dumps(outlined.state())))
    assert bare.active_model == "water"


@given(
    mask=st.integers(0, 2**32 - 1).map(
        lambda seed: (
            cv2.resize(
                np.random.default_rng(seed).random((6, 8)).astype(np.float32), (WIDTH, HEIGHT)
            )
            > 0.5
        )
    )
)
@settings(max_examples=25)
def test_an_outline_lies_within_what_the_model_saw(mask: npt.NDArray[np.bool_]) -> None:
    finder = RegionFinder()
    for _ in range(3):
        finder.add(mask)
    inside, holes = finder.outline()
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    for polygons, value in ((inside, 1), (holes, 0)):
        for polygon in polygons:
            points = np.array(polygon) * (WIDTH, HEIGHT) - 0.5
            cv2.fillPoly(drawn, [np.round(points).astype(np.int32)], value)
    # Simplified by at most a pixel, and drawn with two to spare.
    assert not (drawn.astype(bool) & ~mask).sum() > 0.01 * mask.size
    if mask.mean() > 0.9:
        assert drawn.mean() > 0.5


@settings(max_examples=12)
@given(gains=st.tuples(*[st.floats(0.35, 1.5)] * 3), reference=st.booleans())
def test_no_change_of_light_alone_ever_holds(gains: Light, reference: bool) -> None:
    seen = watch(
        lambda t: camera(river(t), gains if t > 6 else 1.0),
        12,
        river=make(reference=[WALL] if reference else []),
    )
    assert Condition.HOLDS not in seen.conditions()


@settings(max_examples=5)
@given(rate_hz=st.floats(0.5, 3.0))
def test_the_frame_rate_moves_an_alarm_by_a_few_frames_only(rate_hz: float) -> None:
    seen = watch(lambda t: plume(t, 14), 38, rate_hz=rate_hz, river=make(warm_up="8s"))
    assert len(seen.raised) == 1
    # Seven seconds at any rate, and the median of five frames needs three that show it.
    assert 19 <= seen.raised[0] <= 26 + 4 / rate_hz


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [  # from the supplementary test data of Sharma, Wu and Dalal (2005)
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 3.1571, -77.2803), (50, 0, -82.7485), 2.8615),
        ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_ciede2000_agrees_with_the_published_pairs(
    first: Light, second: Light, expected: float
) -> None:
    found = ciede2000(np.array(first, np.float64), np.array(second, np.float64))
    assert float(found) == pytest.approx(expected, abs=1e-4)


@given(levels=st.lists(st.integers(0, 255), min_size=3, max_size=3))
def test_lab_and_back_is_the_same_light(levels: list[int]) -> None:
    light = srgb_to_linear(np.array(levels, np.uint8))
    assert lab_to_linear(linear_to_lab(light)) == pytest.approx(light, abs=1e-6)


def test_white_is_white() -> None:
    assert linear_to_lab(np.ones(3)) == pytest.approx(np.array([100.0, 0.0, 0.0]), abs=1e-6)


@given(hue=st.floats(0, 2 * math.pi), chroma=st.floats(0, 100), lightness=st.floats(0, 100))
def test_every_colour_has_a_name(hue: float, chroma: float, lightness: float) -> None:
    lab = np.array([lightness, chroma * math.cos(hue), chroma * math.sin(hue)])
    assert name_water_colour(lab, np.array([40.0, 0.0, 0.0])).zh


def test_a_grid_reads_the_median_of_each_cell_inside_its_outline() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, 100:] = (255, 0, 0)  # blue, in BGR
    grid = Grid((((0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 0.5)),), rows=2, cols=4)
    colour, roughness = grid.sample(image)
    assert len(grid) == 8
    assert colour[:, 2].tolist() == [0, 0, 1, 1] * 2
    assert roughness.max() == 0


@pytest.mark.real
@pytest.mark.parametrize(
    ("clip", "top", "expected"),
    [
        ("boging-painted_lake_mud", 0.57, 1),
        ("boging-painted_river_rust", 0.14, 1),
        ("ecooffice-painted_lake_milky", 0.51, 1),
        ("boging-painted_light_dim", 0.14, 0),
        ("boging-painted_light_warm", 0.57, 0),
    ],
)
def test_real_water_with_painted_plumes(
    clip: str, top: float, expected: int, real_material: Path
) -> None:
    import av

    water = ((0.0, top), (1.0, top), (1.0, 1.0), (0.0, 1.0))
    river = make(water=water, reference=[], warm_up="3s", raise_after="3s")
    rules = RuleBook(lambda _camera, _scenario: river.parameters)
    raised, due = 0, 0.0
    with av.open(real_material / "clips" / "rivers" / f"{clip}.mp4") as container:
        for frame in container.decode(video=0):
            if frame.time is None or frame.time < due:
                continue
            due += 0.5
            image = np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)
            for observation in river.observe(scene(image, frame.time)):
                changes = rules.update(observation)
                raised += sum(change.kind is ChangeKind.RAISED for change in changes)
    assert raised == expected
