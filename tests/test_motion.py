from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from pipeline.analyse.motion import Motion, MotionGate
from pipeline.frame import Image
from pipeline.testing import frame_at

START = 1_700_000_000.0
SIZE = (270, 480)


def scene(seed: int = 0) -> Image:
    """A view with edges, areas and fine texture."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(
        rng.integers(40, 200, (9, 16, 3), dtype=np.uint8),
        SIZE[::-1],
        interpolation=cv2.INTER_CUBIC,
    )
    for _ in range(12):
        x, y = int(rng.integers(0, SIZE[1])), int(rng.integers(0, SIZE[0]))
        colour = tuple(int(c) for c in rng.integers(30, 210, 3))
        cv2.rectangle(image, (x, y), (x + 60, y + 40), colour, -1)
    return np.asarray(image, np.uint8)


NOISE = np.random.default_rng(7).standard_normal((*SIZE, 3), dtype=np.float32)


def noisy(image: Image, sigma: float, rng: np.random.Generator, gain: float = 1.0) -> Image:
    """The picture under another light, with a fresh cut of the noise."""
    noise = np.roll(NOISE, tuple(rng.integers(0, 200, 2)), axis=(0, 1))
    light = image * np.float32(gain) + np.float32(sigma) * noise
    return np.clip(light, 0, 255).astype(np.uint8)


def compressed(image: Image, quality: int) -> Image:
    _, packet = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(packet, cv2.IMREAD_COLOR), np.uint8)


def watch(
    picture: Callable[[int], Image], count: int = 60, rate_hz: float = 5.0, key_every: int = 10
) -> list[Motion]:
    gate = MotionGate()
    return [
        gate.update(frame_at(START + i / rate_hz, picture(i), keyframe=i % key_every == 0))
        for i in range(count)
    ]


@pytest.mark.parametrize("sigma", [0.0, 2.0, 8.0, 20.0])
@pytest.mark.parametrize("rate_hz", [25.0, 5.0, 0.2])
def test_noise_is_no_motion(sigma: float, rate_hz: float) -> None:
    base, rng = scene(), np.random.default_rng(1)
    told = watch(lambda _: noisy(base, sigma, rng), rate_hz=rate_hz)
    assert not any(motion.moved for motion in told)
    assert told[-1].still_s == pytest.approx(59 / rate_hz)


@pytest.mark.parametrize("gain", [0.5, 0.8, 1.2])
def test_an_exposure_step_is_no_motion(gain: float) -> None:
    base, rng = scene(), np.random.default_rng(1)
    told = watch(lambda i: noisy(base, 3, rng, 1.0 if i < 30 else gain))
    assert not any(motion.moved for motion in told)


def test_slow_light_is_no_motion() -> None:
    base, rng = scene(), np.random.default_rng(1)
    # Sun on one side only: no common gain explains it, but it comes slowly.
    side = np.linspace(0, 1, SIZE[1], dtype=np.float32)[None, :, None]
    told = watch(
        lambda i: noisy((base * (1 - 0.003 * i * side)).astype(np.uint8), 3, rng), count=100
    )
    assert not any(motion.moved for motion in told)


def test_an_encoder_that_pumps_at_key_frames_is_no_motion() -> None:
    base, rng = scene(), np.random.default_rng(1)
    told = watch(lambda i: compressed(noisy(base, 4, rng), 12 if i % 10 == 0 else 60))
    assert not any(motion.moved for motion in told)


@pytest.mark.parametrize("rate_hz", [25.0, 5.0, 1.0])
@pytest.mark.parametrize("gain_step", [False, True], ids=["steady light", "exposure step"])
def test_a_walker_moves_from_the_first_frame_on_and_where_he_is(
    rate_hz: float, gain_step: bool
) -> None:
    base, rng = scene(), np.random.default_rng(1)
    first, last = 30, 45

    def picture(i: int) -> Image:
        image = base.copy()
        if first <= i < last:
            x = 40 + 10 * (i - first)
            image[150:190, x : x + 16] = 255 - image[150:190, x : x + 16]
        return noisy(image, 4, rng, 0.8 if gain_step and i >= first else 1.0)

    told = watch(picture, rate_hz=rate_hz)
    assert [motion.moved for motion in told[:last]] == [False] * first + [True] * (last - first)
    there = told[first].mask
    assert there.shape == (90, 160)
    rows, columns = np.nonzero(there)
    assert 48 <= rows.min() <= rows.max() <= 65
    assert 11 <= columns.min() <= columns.max() <= 21
    assert told[first].fraction == pytest.approx(there.mean())
    assert told[first].still_s == 0.0


def test_what_stops_comes_to_rest_within_seconds_at_any_rate() -> None:
    base = scene()
    parked = base.copy()
    parked[100:160, 100:200] = 230
    for rate_hz in (10.0, 5.0, 1.0):
        rng = np.random.default_rng(1)
        pictures = [
            noisy(parked if i / rate_hz >= 10 else base, 3, rng) for i in range(int(30 * rate_hz))
        ]
        told = watch(pictures.__getitem__, count=len(pictures), rate_hz=rate_hz)
        assert told[int(10 * rate_hz)].moved
        assert not any(motion.moved for motion in told[int(20 * rate_hz) :])
        assert 10 < told[-1].still_s < 20


def test_a_crowd_that_fills_the_picture_is_motion() -> None:
    base, rng = scene(), np.random.default_rng(1)
    told = watch(lambda i: noisy(base if i < 30 else scene(i), 3, rng))
    assert all(motion.fraction > 0.3 for motion in told[30:])


def test_another_view_begins_anew() -> None:
    gate = MotionGate()
    gate.update(frame_at(START, scene(0)))
    other_epoch = gate.update(frame_at(START + 5, scene(1), epoch=1))
    assert (other_epoch.fraction, other_epoch.still_s) == (0.0, 0.0)
    other_size = gate.update(frame_at(START + 6, scene(1)[:200], epoch=1))
    assert other_size.fraction == 0.0
    assert gate.update(frame_at(START + 7, scene(2)[:200], epoch=1)).moved


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_picture_is_still(level: int) -> None:
    told = watch(lambda _: np.full((*SIZE, 3), level, np.uint8), count=5)
    assert not any(motion.moved for motion in told)


def test_a_light_that_goes_on_in_the_dark_is_motion() -> None:
    base = scene()
    told = watch(lambda i: base if i >= 3 else np.zeros_like(base), count=5)
    assert [motion.moved for motion in told] == [False, False, False, True, True]
