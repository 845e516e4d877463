"""Hard cases for `river_discoloration`: discharges, and all that changes a river's look without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.scenes.blender import Stage
from benchmarks.scenes.camera import Camera
from benchmarks.scenes.clips import Clip, Event, Picture, ease, relative_box
from benchmarks.scenes.mesh import Material, Mesh, quad
from benchmarks.scenes.river import DISCHARGES, WIDTH_M, Ripples, Spill, Surface, banks
from benchmarks.scenes.sensor import Sensor, to_display, to_linear

__all__ = ["CASES"]

SECONDS, FPS = 22.0, 5.0
_STARTS_S = 8.0
_SPEED_M_S = 1.6
Light = NDArray[np.float32]
_ALGAE = np.array([0.06, 0.17, 0.035], np.float32)  # reflectance of a bloom, linear


def _light(name: str, t: float) -> Light:
    """What the sky does to the whole picture, factors of red, green and blue."""
    if name == "clouds":  # three, the second one heavy
        dim = sum(
            d * (ease(t, s, s + 1.2) - ease(t, s + 2.5, s + 3.8))
            for s, d in ((5, 0.4), (10, 0.6), (16, 0.35))
        )
        return (1 - float(dim) * np.array([1.0, 0.95, 0.85])).astype(np.float32)
    if name == "dusk":
        s = ease(t, 4.0, SECONDS)
        return (1 - s * np.array([0.5, 0.62, 0.6])).astype(np.float32)
    if name == "rain":
        s = ease(t, _STARTS_S, _STARTS_S + 2)
        return (1 - s * np.array([0.3, 0.28, 0.22])).astype(np.float32)
    return np.ones(3, np.float32)


def _rain(picture: Light, rng: np.random.Generator, strength: float) -> Light:
    """Streaks, and a veil that takes contrast."""
    if strength <= 0:
        return picture
    h, w, _ = picture.shape
    streaks = np.zeros((h, w), np.float32)
    for _ in range(int(160 * strength)):
        x, y, long = (
            int(rng.integers(2, w - 2)),
            int(rng.integers(0, h - 14)),
            int(rng.integers(5, 13)),
        )
        streaks[y : y + long, x] += np.float32(rng.uniform(0.05, 0.16))
    veil = np.float32(0.18 * strength)
    veiled: Light = picture * (1 - veil) + veil * picture.mean() * np.float32(1.3)
    return veiled + np.float32(strength) * streaks[..., None]


def _boat(picture: Light, surface: Surface, mask: NDArray[np.bool_], t: float) -> Light:
    """A brown barge with a red deck house comes down the middle of the stream."""
    x0, y0 = -9.0 + 2.2 * (t - 5.0), WIDTH_M * 0.45
    hull = (np.abs(surface.x - x0) < 3.2) & (np.abs(surface.y - y0) < 0.9)
    house = (np.abs(surface.x - x0 + 2.0) < 0.8) & (np.abs(surface.y - y0) < 0.7)
    out, values = picture.copy(), picture[mask]
    level = float(picture.mean())
    values[hull] = np.array([0.5, 0.3, 0.16], np.float32) * level * 1.6
    values[house] = np.array([0.8, 0.12, 0.08], np.float32) * level * 1.8
    out[mask] = values
    return out


def _clip(name: str, seed: int, size: tuple[int, int]) -> Clip:
    rng = np.random.default_rng([seed, 71])
    camera = Camera(
        (float(rng.uniform(-9.5, -7.5)), float(rng.uniform(-3.8, -3.0)), float(rng.uniform(4.8, 6.2))),
        (3.5, 5.2, 0.0), float(rng.uniform(60, 68)), *size,
    )  # fmt: skip
    dye = np.asarray(DISCHARGES.get(name, (0, 0, 0)), np.float32)
    events: list[Event] = []

    def frames() -> Iterator[Picture]:
        stage = Stage(*size, samples=16)
        banks(stage, np.random.default_rng([seed, 72]))
        x1, x2, y1, y2 = -60.0, 80.0, -1.0, WIDTH_M + 1
        sheet = quad(
            [[x1, y1, 0], [x2, y1, 0], [x2, y2, 0], [x1, y2, 0]],
            Material((0.97, 0.97, 0.97), 0.0, 1.0),
        )
        water = stage.add(Mesh([sheet]))
        stage.look(camera)
        still = to_linear(stage.render())
        mask = stage.identities() == water.ident
        surface = Surface(still, mask, camera, **({"clean": _ALGAE} if name == "algae" else {}))
        rough = {"slope": 0.12} if name == "rain" else {}
        ripples = Ripples.draw(rng, speed_m_s=_SPEED_M_S, **rough)
        spill = Spill(rng, x0_m=-12.0, length_m=70.0, outfall_m=(-1.4, 0.5), speed_m_s=_SPEED_M_S)
        stained: NDArray[np.bool_] = np.zeros_like(mask)
        substeps = max(1, round(20 / FPS))
        for n in range(round(SECONDS * FPS)):
            t = n / FPS
            if name in DISCHARGES:
                for k in range(substeps):
                    now = t + k / FPS / substeps
                    spill.step(now, 1 / FPS / substeps, ease(now, _STARTS_S, _STARTS_S + 1.5))
                stained[mask] = spill.at(surface.x, surface.y) > 0.25
            light = surface.shade(ripples, spill, dye, t)
            if name == "boat":
                light = _boat(light, surface, mask, t)
            light = light * _light(name, t)
            if name == "rain":
                light = _rain(light, rng, ease(t, _STARTS_S, _STARTS_S + 2))
            yield (to_display(light) * 255).astype(np.uint8)
        if name in DISCHARGES:
            ys, xs = np.nonzero(stained)
            box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
            events.append(Event("river_discoloration", _STARTS_S, SECONDS, relative_box(box, size)))

    sensor = replace(Sensor.draw(rng), text=(), infrared=False, noise=1.5, blur_px=0.4, gain=1.0)
    outline = camera.relative([[-1.0, 1.2, 0], [-1.0, 8.5, 0], [14.0, 8.5, 0], [14.0, 1.2, 0]])
    dry = camera.relative(
        [[-1.6, -2.8, 1.23], [-1.6, -1.8, 1.23], [9.0, -1.8, 1.23], [9.0, -2.8, 1.23]]
    )
    river = {"warm_up": "4s", "raise_after": "5s", "water": outline, "reference": [dry]}
    words = {"rain": ("rain",), "dusk": ("dusk",)}.get(name, ())
    return Clip(
        f"river-{name}", seed, FPS, {"river_discoloration": river}, frames, events, sensor, words
    )


CASES = {
    f"river-{name}": (lambda size, name=name, seed=560 + number: _clip(name, seed, size))
    for number, name in enumerate((*DISCHARGES, "clouds", "dusk", "rain", "boat", "algae"))
}
"""By name: a function of the picture's size. Only the discharges contain an event."""
