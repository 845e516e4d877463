"""Hard cases for `fire`: flame and smoke in other lights, and the lights and vapours that look like them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.scenes.blender import Stage
from benchmarks.scenes.camera import mask_box
from benchmarks.scenes.clips import Clip, Event, Picture, ease, relative_box
from benchmarks.scenes.plume import Burn, Plume
from benchmarks.scenes.sensor import Sensor, to_display
from benchmarks.scenes.yard_fire import Yard, burning, furnish, shoot

__all__ = ["CASES"]

SECONDS, FPS = 12.0, 10.0
_STARTS_S = 2.0
Light = NDArray[np.float32]
Daylight = Literal["sun", "overcast", "dusk", "sunset", "night"]
_WARM = np.array([1.0, 0.72, 0.36], np.float32)
_WHITE = np.array([1.0, 0.97, 0.9], np.float32)


def _disc(shape: tuple[int, ...], x: float, y: float, radius_px: float, color: Light) -> Light:
    """A light that dazzles the camera: an over-exposed disc in a halo, linear (h, w, 3)."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    away = np.hypot(columns - x, rows - y) / radius_px
    power: Light = 6.0 * np.exp(-(away**4)) + 0.35 * np.exp(-away / 2.2)
    return power[..., None] * color


def _lamp(own: Light, glow: Light, t: float) -> Light:
    """A sodium lamp strikes, flutters for two seconds and then burns steadily."""
    strikes = ease(t, _STARTS_S, _STARTS_S + 0.3)
    flutter = 1 + 0.35 * np.sin(9.0 * t) * np.sin(23.0 * t) * (1 - ease(t, 4.0, 5.0))
    power = np.float32(strikes * flutter)
    h, w, _ = own.shape
    return own + power * (0.2 * glow + _disc(own.shape, 0.7 * w, 0.22 * h, 0.018 * w, _WARM))


def _sunset(own: Light, _glow: Light, t: float) -> Light:
    """The light turns red and fades while a low sun blazes in a window."""
    s = np.float32(t / SECONDS)
    h, w, _ = own.shape
    light = own * (1 - s * np.array([0.2, 0.45, 0.62], np.float32))
    blaze = np.array([1.0, 0.42, 0.12], np.float32) * np.float32(ease(t, 1.0, 6.0))
    return light + _disc(own.shape, 0.32 * w, 0.2 * h + 4 * s, 0.02 * w, blaze)


def _headlights(own: Light, _glow: Light, t: float) -> Light:
    """Two pairs of headlights sweep through the dark yard; brake lights go the other way."""
    h, w, _ = own.shape
    out = own
    for start, colour, speed in (
        (1.0, _WHITE, 0.2),
        (5.5, _WHITE, 0.16),
        (3.0, np.array([1, 0.06, 0.04]), -0.14),
    ):
        x = (0.0 if speed > 0 else 1.0) + speed * (t - start)
        if t < start or not -0.1 < x < 1.1:
            continue
        size = 0.012 * w * (1 + 0.8 * abs(x - 0.5))
        for gap in (-0.022, 0.022):
            out = out + _disc(own.shape, (x + gap) * w, 0.62 * h, size, colour.astype(np.float32))
    return out


def _cloth(own: Light, _glow: Light, t: float) -> Light:
    """Red and orange sheets on a line flap in gusts."""
    h, w, _ = own.shape
    out = own.copy()
    mean = float(own.mean()) * 2.2
    rows, columns = np.mgrid[0:h, 0:w].astype(np.float32)
    for k, (x0, colour) in enumerate(
        ((0.35, (0.7, 0.05, 0.03)), (0.47, (0.85, 0.3, 0.03)), (0.59, (0.7, 0.06, 0.05)))
    ):
        wind = 0.6 + 0.4 * np.sin(0.7 * t + k)
        drop = np.clip((rows / h - 0.36) / 0.26, 0, 1)
        shift = 0.035 * wind * drop * np.sin(5.0 * t + 6 * drop + k)
        inside = (np.abs(columns / w - x0 - shift) < 0.045) & (rows / h > 0.36) & (rows / h < 0.62)
        folds = 0.75 + 0.35 * np.sin(60 * (columns / w - x0 - shift) + 4 * drop + 3 * t)
        out[inside] = (folds[..., None] * np.array(colour, np.float32) * mean)[inside]
    return out.astype(np.float32)


_LIGHTS: dict[str, tuple[Daylight, Callable[[Light, Light, float], Light]]] = {
    "lamp": ("night", _lamp),
    "sunset": ("sunset", _sunset),
    "headlights": ("night", _headlights),
    "red_cloth": ("sun", _cloth),
}
# Name: light of the day, what burns, what it is labelled as (steam is no smoke: it must not raise).
_PLUMES: dict[str, tuple[Daylight, Burn, str | None]] = {
    "flame_by_day": ("sun", Burn(0.8, 1.25, 0.8, 0.2, 0.25), "fire"),
    "flame_by_night": ("night", Burn(0.6, 1.1, 0.4, -0.2, 0.2), "fire"),
    "smoulder": ("overcast", Burn(0.9, 0.33, 3.5, 0.3, 0.3), "smoke"),
    "steam": ("overcast", Burn(0.35, 0.3, 0.9, 0.25, 0.95), None),
}


def _clip(name: str, seed: int, size: tuple[int, int]) -> Clip:
    daylight = (_LIGHTS[name] if name in _LIGHTS else _PLUMES[name])[0]
    yard = replace(Yard.draw(seed, size=size), daylight=daylight)
    rng = np.random.default_rng([seed, 61])
    events: list[Event] = []

    def frames() -> Iterator[Picture]:
        stage = Stage(*size, samples=12)
        furnish(stage, yard, np.random.default_rng([seed, 62]))
        own, glow = shoot(stage, yard)
        if name in _LIGHTS:
            change = _LIGHTS[name][1]
            for n in range(round(SECONDS * FPS)):
                yield (to_display(change(own, glow, n / FPS)) * 255).astype(np.uint8)
            return
        _, burn, label = _PLUMES[name]
        plume, box = Plume(burn, rng), None
        for n in range(round(SECONDS * FPS)):
            t = n / FPS
            if t >= _STARTS_S:
                for _ in range(2):
                    plume.step(0.5 / FPS, 0.15 + 0.85 * ease(t, _STARTS_S, _STARTS_S + 5))
            picture, flame, smoke = burning(yard, own, glow, plume)
            box = mask_box(flame | smoke) or box
            yield (picture * 255).astype(np.uint8)
        if label is not None:
            events.append(Event(label, _STARTS_S, SECONDS, relative_box(box, size)))

    sensor = replace(Sensor.draw(rng), text=(), noise=2.0, blur_px=0.5)
    night = ("night",) if daylight == "night" else ()
    return Clip(f"yard-{name}", seed, FPS, {"fire": {}}, frames, events, sensor, night)


CASES = {
    f"yard-{name}": (lambda size, name=name, seed=540 + number: _clip(name, seed, size))
    for number, name in enumerate((*_PLUMES, *_LIGHTS))
}
"""By name: a function of the picture's size. Only flames and the smouldering contain an event."""
