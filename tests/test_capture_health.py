"""Camera health on made scenes: what must be noticed, and what must not."""

from __future__ import annotations

import json
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from pipeline.capture import CameraHealth, HealthParameters
from pipeline.frame import Frame, Image
from pipeline.observation import Condition, Json
from tests.media import scene

START = 1_700_000_000.0
View = Callable[[int], Image]


def noisy(image: Image, index: int, sigma: float = 2.0) -> Image:
    rng = np.random.default_rng(index)
    noise = rng.normal(0, sigma, image.shape)
    mixed: Image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return mixed


def live(index: int) -> Image:
    """A view with somebody walking through it."""
    image = scene(1).copy()
    x = index * 9 % 280
    image[80:150, x : x + 30] = (40, 60, 200)
    return noisy(image, index)


def other_view(index: int) -> Image:
    return noisy(scene(2), index)


def shifted(index: int) -> Image:
    matrix = np.array([[1, 0, 32], [0, 1, 9]], dtype=np.float32)
    moved: Image = cv2.warpAffine(live(index), matrix, (320, 180), borderMode=cv2.BORDER_REFLECT)
    return moved


def infrared(index: int) -> Image:
    image = live(index).astype(np.float32)
    reflected = np.clip(0.8 * image[..., 2] - 0.3 * image[..., 0] + 60, 0, 255)
    y, x = np.mgrid[:180, :320]
    spot = np.exp(-(((x - 160) / 200) ** 2) - ((y - 90) / 120) ** 2)
    return noisy(np.repeat((reflected * spot)[..., None], 3, axis=2).astype(np.uint8), index, 5.0)


def black(index: int) -> Image:
    return noisy(np.zeros((180, 320, 3), np.uint8), index, 1.5)


def cloth(index: int) -> Image:
    return noisy(np.full((180, 320, 3), (90, 120, 100), np.uint8), index, 3.0)


def defocused(index: int) -> Image:
    return noisy(cv2.GaussianBlur(live(index), (0, 0), 25), index)


def foggy(index: int) -> Image:
    return noisy((live(index) * 0.3 + 150).astype(np.uint8), index)


def half_covered(index: int) -> Image:
    image = live(index).copy()
    image[:, :100] = 30
    return image


def dimmed(index: int) -> Image:
    return (live(index) * 0.35).astype(np.uint8)


def glaring(index: int) -> Image:
    bright: Image = np.clip(live(index) * 1.4 + 15, 0, 255).astype(np.uint8)
    return bright


def watch(health: CameraHealth, view: View, count: int, start: int) -> dict[str, list[Condition]]:
    """Conditions per subject of `count` frames, one a second from second `start` on."""
    seen: dict[str, list[Condition]] = {}
    for index in range(start, start + count):
        for observation in health.observe(Frame("cam", START + index, view(index))):
            assert observation.scenario == "camera_health"
            assert observation.t == START + index
            assert 0 <= observation.confidence <= 1
            seen.setdefault(observation.subject, []).append(observation.condition)
    assert list(seen) == ["dead", "frozen", "covered", "turned"]
    return seen


@pytest.fixture
def healthy() -> CameraHealth:
    health = CameraHealth("cam")
    seen = watch(health, live, 60, 0)
    assert set(seen["covered"][:30]) == set(seen["turned"][:30]) == {Condition.UNKNOWN}
    assert set(seen["covered"][31:]) == set(seen["turned"][31:]) == {Condition.CLEAR}
    return health


@pytest.mark.parametrize(
    ("view", "covered", "turned"),
    [
        (live, Condition.CLEAR, Condition.CLEAR),
        (dimmed, Condition.CLEAR, Condition.CLEAR),
        (glaring, Condition.CLEAR, Condition.CLEAR),
        (infrared, Condition.CLEAR, Condition.CLEAR),
        (foggy, Condition.CLEAR, Condition.CLEAR),
        (half_covered, Condition.CLEAR, Condition.CLEAR),
        (black, Condition.HOLDS, Condition.UNKNOWN),
        (cloth, Condition.HOLDS, Condition.UNKNOWN),
        (defocused, Condition.HOLDS, Condition.UNKNOWN),
        (shifted, Condition.CLEAR, Condition.HOLDS),
        (other_view, Condition.CLEAR, Condition.HOLDS),
    ],
)
def test_sudden_changes(
    healthy: CameraHealth, view: View, covered: Condition, turned: Condition
) -> None:
    seen = watch(healthy, view, 20, 60)
    assert set(seen["covered"]) == {covered}
    assert set(seen["turned"]) == {turned}
    assert Condition.HOLDS not in seen["frozen"]
    back = watch(healthy, live, 5, 80)
    assert set(back["covered"]) == set(back["turned"]) == {Condition.CLEAR}


def test_nightfall_is_no_cover(healthy: CameraHealth) -> None:
    def dusk(index: int) -> Image:
        light = max(0.004, 2.0 ** (-(index - 60) / 300))  # darker by half every five minutes
        return noisy((scene(1) * light).astype(np.uint8), index, 1.5)

    seen = [watch(healthy, dusk, 1, index) for index in range(60, 3660, 10)]
    assert not any(Condition.HOLDS in conditions for step in seen for conditions in step.values())


def test_a_switched_off_light_counts_only_where_told() -> None:
    health = CameraHealth("cam", HealthParameters(dark_counts=False))
    watch(health, live, 60, 0)
    assert set(watch(health, black, 10, 60)["covered"]) == {Condition.UNKNOWN}
    assert set(watch(health, cloth, 10, 70)["covered"]) == {Condition.HOLDS}


def test_a_repeating_picture_is_frozen_and_a_quiet_night_is_not() -> None:
    group = [
        noisy(scene(1), index, 1.0) for index in range(3)
    ]  # what one group of pictures decodes to

    health = CameraHealth("cam", HealthParameters(frozen_after=120))
    watch(health, live, 40, 0)
    seen = watch(health, lambda index: group[index % 3], 140, 40)["frozen"]
    assert Condition.HOLDS not in seen[:110]
    assert set(seen[125:]) == {Condition.HOLDS}
    assert watch(health, live, 1, 180)["frozen"] == [Condition.CLEAR]

    night = watch(
        CameraHealth("cam", HealthParameters(frozen_after=120)),
        lambda index: noisy((scene(1) * 0.15).astype(np.uint8), index, 0.5),
        200,
        0,
    )["frozen"]
    assert Condition.HOLDS not in night


def test_a_clip_in_a_loop_is_not_frozen() -> None:
    health = CameraHealth("cam", HealthParameters(frozen_after=60))
    seen = watch(health, lambda index: live(index % 10), 200, 0)
    assert Condition.HOLDS not in seen["frozen"]


def test_dead_is_told_from_silence_alone(healthy: CameraHealth) -> None:
    alive = healthy.silent(START + 70, 5.0)
    assert [(o.subject, o.condition) for o in alive] == [("dead", Condition.CLEAR)]
    dead = {
        o.subject: o
        for o in healthy.silent(START + 100, 31.0, "rtsp://***@cam: no packet for 10 s")
    }
    assert dead["dead"].condition is Condition.HOLDS
    assert dead["dead"].detail["reason"] == "rtsp://***@cam: no packet for 10 s"
    assert {dead[s].condition for s in ("frozen", "covered", "turned")} == {Condition.UNKNOWN}


def test_state_survives_a_restart(healthy: CameraHealth) -> None:
    state: dict[str, Json] = json.loads(json.dumps(healthy.state()))
    again = CameraHealth("cam")
    again.restore(state)
    assert set(watch(again, shifted, 5, 70)["turned"]) == {Condition.HOLDS}
    assert set(watch(again, black, 5, 75)["covered"]) == {Condition.HOLDS}
    assert set(watch(again, live, 5, 80)["turned"]) == {Condition.CLEAR}


def test_after_a_long_absence_the_view_is_still_compared_but_the_light_is_learned_anew(
    healthy: CameraHealth,
) -> None:
    again = CameraHealth("cam")
    again.restore(healthy.state())
    seen = watch(again, black, 5, 20_000)
    assert set(seen["covered"]) == {Condition.UNKNOWN}
    assert set(watch(again, other_view, 5, 20_010)["turned"]) == {Condition.HOLDS}


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"version": 2},
        {
            "version": 1,
            "t": "x",
            "detail": [1],
            "view": "?",
            "detail_samples": 1,
            "view_samples": 1,
        },
        {
            "version": 1,
            "t": 1.0,
            "detail": [0.1] * 16,
            "detail_samples": 1,
            "view": "AAAA",
            "view_samples": 1,
            "changed_since": None,
        },
    ],
)
def test_unreadable_state_is_ignored(state: dict[str, Json]) -> None:
    health = CameraHealth("cam")
    health.restore(state)
    assert health.state() == {}
    assert set(watch(health, live, 2, 0)["covered"]) == {Condition.UNKNOWN}


def test_a_lasting_change_becomes_the_view() -> None:
    health = CameraHealth("cam", HealthParameters(adopt_after=30))
    watch(health, live, 60, 0)
    assert Condition.HOLDS in watch(health, other_view, 31, 60)["turned"]
    watch(health, other_view, 40, 91)
    assert set(watch(health, other_view, 5, 131)["turned"]) == {Condition.CLEAR}
    assert set(watch(health, live, 5, 136)["turned"]) == {Condition.HOLDS}


def test_a_view_without_structure_is_unknown() -> None:
    seen = watch(CameraHealth("cam"), cloth, 50, 0)
    assert set(seen["covered"]) == set(seen["turned"]) == {Condition.UNKNOWN}
