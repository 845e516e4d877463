"""A river between banks, and what is let into it: the river clip.

Blender renders banks, trees and sky once, with the water as a mirror. Ripples, the water's own colour, the discharge
that the current carries and spreads, and the clouds' shadow are computed per frame in numpy, in world coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.scenes.blender import Stage
from benchmarks.scenes.camera import Camera
from benchmarks.scenes.clips import Clip, Event, ease, relative_box
from benchmarks.scenes.mesh import Material, Mesh, box, ellipsoid, quad, tube
from benchmarks.scenes.sensor import Sensor, to_display, to_linear

__all__ = ["DISCHARGES", "WIDTH_M", "Ripples", "Spill", "Surface", "banks", "clip"]

Picture = NDArray[np.uint8]
Field = NDArray[np.float32]

WIDTH_M = 13.0
_CLEAN = np.array([0.075, 0.105, 0.075], np.float32)
"""Diffuse reflectance of the water itself, linear: a greenish lowland river."""

DISCHARGES: dict[str, tuple[float, float, float]] = {
    "rust": (0.26, 0.055, 0.018),
    "mud": (0.3, 0.2, 0.09),
    "milky": (0.62, 0.62, 0.58),
    "black": (0.012, 0.012, 0.014),
}
"""Diffuse reflectance of the discharges, linear RGB."""


class Spill:
    """A dissolved discharge seen from above: advected by the current, spread by eddies.

    `concentration` is (rows across, columns along) float32, 1 at the outfall; x runs downstream from `x0_m`.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        x0_m: float,
        length_m: float,
        outfall_m: tuple[float, float],
        speed_m_s: float,
    ) -> None:
        self.cell_m, self.x0_m = 0.125, x0_m
        rows, columns = round(WIDTH_M / self.cell_m), round(length_m / self.cell_m)
        self._y, self._x = (a.astype(np.float32) * self.cell_m for a in np.mgrid[0:rows, 0:columns])
        self.concentration: Field = np.zeros((rows, columns), np.float32)
        self._outfall = (outfall_m[0] - x0_m, outfall_m[1])
        across = self._y / WIDTH_M
        # The current is slow at the banks and fast in midstream.
        self._u = np.float32(speed_m_s) * (0.45 + 0.55 * 4 * across * (1 - across))
        # Eddies as a moving stream function, so that they neither make nor swallow water.
        self._waves = [
            (
                float(k * np.cos(a)),
                float(k * np.sin(a)),
                float(rng.uniform(0, 2 * np.pi)),
                float(rng.uniform(0.3, 1.0)),
                0.5 / k,
            )
            for k, a in zip(
                2 * np.pi / np.geomspace(0.7, 6.0, 14), rng.uniform(0, np.pi, 14), strict=True
            )
        ]

    def step(self, t: float, dt: float, strength: float) -> None:
        """Advance by `dt` seconds to time `t` with the outfall open by `strength` 0..1."""
        u, v = self._u.copy(), np.zeros_like(self._u)
        for kx, ky, phase, rate, amplitude in self._waves:
            wave = (
                amplitude
                * 0.33
                * np.cos(kx * (self._x - 0.8 * t) + ky * self._y + phase + rate * t)
            )
            u += np.float32(1) * ky * wave
            v -= np.float32(1) * kx * wave
        ox, oy = self._outfall
        near = np.exp(-((self._x - ox - 0.5) ** 2 + (self._y - oy) ** 2) / 14.0)
        v += 3.2 * strength * near  # the jet pushes into the stream
        rows, columns = self.concentration.shape
        y = np.clip((self._y - v * dt) / self.cell_m, 0, rows - 1.001)
        x = (self._x - u * dt) / self.cell_m
        inside = x >= 0
        x = np.clip(x, 0, columns - 1.001)
        y0, x0 = y.astype(np.int32), x.astype(np.int32)
        fy, fx = y - y0, x - x0
        c = self.concentration
        c = (
            c[y0, x0] * (1 - fy) * (1 - fx) + c[y0, x0 + 1] * (1 - fy) * fx
            + c[y0 + 1, x0] * fy * (1 - fx) + c[y0 + 1, x0 + 1] * fy * fx
        ) * inside  # fmt: skip
        # No diffusion is added: the interpolation of the advection already blurs about as much as small eddies do.
        pulse = 0.75 + 0.25 * np.sin(5.1 * t) * np.sin(2.3 * t + 1)  # outfalls gush
        source = strength * pulse * np.exp(-((self._x - ox) ** 2 + (self._y - oy) ** 2) / 0.7)
        self.concentration = np.maximum(c, source.astype(np.float32)).astype(np.float32)

    def at(self, x: Field, y: Field) -> Field:
        """Concentration at world points, 0 outside the channel."""
        rows, columns = self.concentration.shape
        j = np.clip((x - self.x0_m) / self.cell_m, 0, columns - 1.001)
        i = np.clip(y / self.cell_m, 0, rows - 1.001)
        i0, j0 = i.astype(np.int32), j.astype(np.int32)
        fi, fj = i - i0, j - j0
        c = self.concentration
        value = (c[i0, j0] * (1 - fi) + c[i0 + 1, j0] * fi) * (1 - fj) + (
            c[i0, j0 + 1] * (1 - fi) + c[i0 + 1, j0 + 1] * fi
        ) * fj
        inside = (x >= self.x0_m) & (x <= self.x0_m + columns * self.cell_m)
        return np.where(inside, value, 0).astype(np.float32)


@dataclass(frozen=True)
class Ripples:
    """Wavelets of many directions that travel on a moving stream; slopes by their sum."""

    waves: NDArray[np.float64]
    """(n, 5): wave number x, y (1/m), angular frequency (1/s), phase, slope amplitude."""

    @classmethod
    def draw(cls, rng: np.random.Generator, *, speed_m_s: float, slope: float = 0.05) -> Ripples:
        """Ripples of 0.2 to 3 m with deep-water dispersion (ω² = g k), carried by the current."""
        n = 14
        k = 2 * np.pi / np.geomspace(0.22, 3.0, n)
        a = rng.normal(0.3, 0.9, n)
        kx, ky = k * np.cos(a), k * np.sin(a)
        return cls(
            np.stack(
                [
                    kx,
                    ky,
                    np.sqrt(9.81 * k) + kx * speed_m_s,
                    rng.uniform(0, 2 * np.pi, n),
                    rng.uniform(0.5, 1.0, n) * slope / np.sqrt(n / 3),
                ],
                1,
            )
        )

    def slopes(self, x: Field, y: Field, footprint_m: Field, t: float) -> tuple[Field, Field]:
        """Slopes along x and y; wavelets shorter than two pixels' footprint fade out instead of flickering."""
        sx, sy = np.zeros_like(x), np.zeros_like(x)
        for kx, ky, omega, phase, amplitude in self.waves:
            k = np.hypot(kx, ky)
            fade = np.clip(1.5 - k * footprint_m / np.pi * 2, 0, 1)
            wave = (amplitude * fade * np.cos(kx * x + ky * y - omega * t + phase)).astype(
                np.float32
            )
            sx += wave * np.float32(kx / k)
            sy += wave * np.float32(ky / k)
        return sx, sy


def banks(stage: Stage, rng: np.random.Generator) -> None:
    """Banks, trees, houses, the outfall pipe, a gauge, sky."""
    grass = Material((0.27, 0.36, 0.14), 0.95, pattern="grass", scale=0.15)
    stone = Material((0.55, 0.53, 0.5), 0.85, pattern="speckle", scale=0.06)
    mesh = Mesh()
    mesh.add(box([10, -8.2, 0.55], [140, 14, 1.3], grass))
    # Near bank: a sloping stone revetment with a dry path on it.
    mesh.add(
        quad([[-60, -1.3, 1.21], [-60, 0.15, -0.3], [80, 0.15, -0.3], [80, -1.3, 1.21]], stone)
    )
    mesh.add(
        box(
            [10, -2.1, 1.2],
            [140, 1.6, 0.06],
            Material((0.62, 0.61, 0.58), 0.85, pattern="tiles", scale=0.6),
        )
    )
    mesh.add(box([10, WIDTH_M + 8.4, 0.6], [140, 16, 1.5], grass))
    mesh.add(
        quad(
            [
                [80, WIDTH_M + 0.5, 1.36],
                [80, WIDTH_M - 0.15, -0.3],
                [-60, WIDTH_M - 0.15, -0.3],
                [-60, WIDTH_M + 0.5, 1.36],
            ],
            stone,
        )
    )
    for _ in range(34):
        x, y = float(rng.uniform(-20, 70)), WIDTH_M + float(rng.uniform(1.5, 12))
        high = float(rng.uniform(3, 8))
        mesh.add(
            tube(
                [[x, y, 1], [x, y, high * 0.6]], 0.15, Material((0.2, 0.16, 0.12), 0.9), segments=6
            )
        )
        for _ in range(6):
            tone = rng.uniform(0.6, 1.2)
            leaf = Material(
                (0.15 * tone, 0.26 * tone, 0.08 * tone), 0.95, pattern="grass", scale=0.25
            )
            at = [x + rng.normal(0, 0.8), y + rng.normal(0, 0.8), 1 + high * rng.uniform(0.45, 1.0)]
            mesh.add(ellipsoid(at, rng.uniform(0.8, 1.6, 3), leaf, segments=8, rings=6))
    for k in range(5):
        x, high = 12.0 + 13 * k + float(rng.normal(0, 2)), float(rng.uniform(6, 14))
        tone = float(rng.uniform(0.6, 0.85))
        mesh.add(
            box(
                [x, WIDTH_M + 17, high / 2],
                [9, 6, high],
                Material((tone, tone * 0.95, tone * 0.88), 0.9),
            )
        )
        for wx in np.arange(-3.2, 3.5, 2.1):
            for wz in np.arange(2.5, high - 1, 2.8):
                mesh.add(
                    box(
                        [x + wx, WIDTH_M + 13.98, wz],
                        [1.1, 0.08, 1.4],
                        Material((0.15, 0.18, 0.22), 0.1),
                    )
                )
    pipe = Material((0.4, 0.39, 0.37), 0.8)
    mesh.add(tube([[-1.5, -1.2, 0.55], [-1.5, 0.35, 0.35]], 0.32, pipe, segments=16))
    mesh.add(
        tube(
            [[-1.5, 0.33, 0.36], [-1.5, 0.37, 0.355]],
            0.26,
            Material((0.03, 0.03, 0.03), 0.9),
            segments=16,
        )
    )
    for x in np.arange(-8.0, 40, 2.0):  # railing
        mesh.add(
            tube(
                [[x, -1.5, 1.2], [x, -1.5, 2.1]],
                0.03,
                Material((0.3, 0.32, 0.33), 0.5, 0.5),
                segments=6,
            )
        )
    mesh.add(
        tube(
            [[-8, -1.5, 2.1], [40, -1.5, 2.1]],
            0.03,
            Material((0.3, 0.32, 0.33), 0.5, 0.5),
            segments=6,
        )
    )
    stage.scenery(mesh)
    stage.sky((0.82, 0.89, 0.98), 1.25)
    stage.sun(48, 230, 1.6, (1.0, 0.96, 0.9))


def clip(
    seed: int,
    *,
    seconds: float,
    fps: float,
    size: tuple[int, int] = (640, 360),
    discharge: str = "rust",
    start_s: float = 8.0,
) -> Clip:
    """A river under passing clouds; at `start_s` a discharge (see `DISCHARGES`) begins at the near bank."""
    camera = Camera((-8.5, -3.4, 5.4), (3.5, 5.2, 0.0), 64.0, *size)
    rng = np.random.default_rng([seed, 31])
    speed = 1.9
    events: list[Event] = []

    def frames() -> Iterator[Picture]:
        stage = Stage(*size, samples=24)
        banks(stage, np.random.default_rng([seed, 32]))
        mirror = Material((0.97, 0.97, 0.97), 0.0, 1.0)
        water = stage.add(
            Mesh(
                [
                    quad(
                        [
                            [-60.0, -1.0, 0.0],
                            [80.0, -1.0, 0.0],
                            [80.0, WIDTH_M + 1, 0.0],
                            [-60.0, WIDTH_M + 1, 0.0],
                        ],
                        mirror,
                    )
                ]
            )
        )
        stage.look(camera)
        still = to_linear(stage.render())
        mask = stage.identities() == water.ident
        surface = Surface(still, mask, camera)
        ripples = Ripples.draw(rng, speed_m_s=speed)
        spill = Spill(rng, x0_m=-12.0, length_m=70.0, outfall_m=(-1.4, 0.5), speed_m_s=speed)
        dye = np.asarray(DISCHARGES[discharge], np.float32)
        stained: NDArray[np.bool_] = np.zeros_like(mask)
        substeps = max(1, round(10 / fps * 2))
        for n in range(round(seconds * fps)):
            t = n / fps
            for k in range(substeps):
                now = t + k / fps / substeps
                spill.step(now, 1 / fps / substeps, ease(now, start_s, start_s + 1.5))
            # A cloud passes: the whole picture dims and turns a little blue, the water no more than the bank.
            cloud = ease(t, 2.0, 3.2) - ease(t, 5.0, 6.4)
            light = (1 - cloud * np.array([0.34, 0.31, 0.26])).astype(np.float32)
            picture = to_display(surface.shade(ripples, spill, dye, t) * light)
            stained = np.zeros_like(mask)
            stained[mask] = spill.at(surface.x, surface.y) > 0.25
            yield (picture * 255).astype(np.uint8)
        ys, xs = np.nonzero(stained)
        box = (
            (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
            if len(xs)
            else None
        )
        events.append(Event("river_discoloration", start_s, seconds, relative_box(box, size)))

    sensor = replace(
        Sensor.draw(rng),
        gain=1.0,
        gamma=1.0,
        saturation=0.95,
        infrared=False,
        vignette=0.1,
        blur_px=0.4,
        sharpen=0.4,
        noise=1.0,
    )
    water_zone = camera.relative([[-1.0, 1.2, 0], [-1.0, 8.5, 0], [14.0, 8.5, 0], [14.0, 1.2, 0]])
    dry = camera.relative(
        [[-1.6, -2.8, 1.23], [-1.6, -1.8, 1.23], [9.0, -1.8, 1.23], [9.0, -2.8, 1.23]]
    )
    return Clip(
        "river_discoloration",
        seed,
        fps,
        {
            "river_discoloration": {
                "warm_up": "4s",
                "raise_after": "3s",
                "water": water_zone,
                "reference": [dry],
            }
        },
        frames,
        events,
        sensor,
    )


class Surface:
    """Water pixels with their place in the world, and how light leaves them."""

    def __init__(
        self, still: Field, mask: NDArray[np.bool_], camera: Camera, *, clean: Field = _CLEAN
    ) -> None:
        h, w = mask.shape
        self._clean = clean
        self._still, self._mask, self._camera = still, mask, camera
        rows, columns = np.nonzero(mask)
        self._rows, self._columns = rows, columns
        right, up, back = camera.axes
        f = camera.focal_px
        ray = (
            (columns + 0.5 - w / 2)[:, None] / f * right
            - (rows + 0.5 - h / 2)[:, None] / f * up
            - back
        )
        distance = -camera.location[2] / np.minimum(ray[:, 2], -1e-4)
        self.x = (camera.location[0] + distance * ray[:, 0]).astype(np.float32)
        self.y = (camera.location[1] + distance * ray[:, 1]).astype(np.float32)
        length = np.linalg.norm(ray, axis=1)
        self._to_eye = (-ray / length[:, None]).astype(np.float32)
        # The larger side of a pixel's footprint on the water, metres.
        self._footprint = (distance * length / f / np.maximum(self._to_eye[:, 2], 0.02)).astype(
            np.float32
        )
        self._right, self._up = right.astype(np.float32), up.astype(np.float32)
        self._sky = still[mask].mean(axis=0)

    def shade(self, ripples: Ripples, spill: Spill, dye: NDArray[np.float32], t: float) -> Field:
        """Linear light (h, w, 3) of the whole picture at time `t`."""
        h, w = self._mask.shape
        sx, sy = ripples.slopes(self.x, self.y, self._footprint, t)
        cosine = np.clip(
            self._to_eye[:, 2] - self._to_eye[:, 0] * sx - self._to_eye[:, 1] * sy, 0.02, 1
        )
        fresnel = (0.02 + 0.98 * (1 - cosine) ** 5)[:, None]
        # A tilted facet mirrors what a flat one would mirror twice the tilt away.
        k = np.float32(1.1 * self._camera.focal_px)
        dx = k * (sx * self._right[0] + sy * self._right[1])
        dy = k * (sx * self._up[0] + sy * self._up[1])
        rows = np.clip(self._rows + dy, 0, h - 1).astype(np.int32)
        columns = np.clip(self._columns + dx, 0, w - 1).astype(np.int32)
        ok = self._mask[rows, columns]
        mirrored = self._still[np.where(ok, rows, self._rows), np.where(ok, columns, self._columns)]
        share = (1 - np.exp(-2.2 * spill.at(self.x, self.y)))[:, None]
        # Clouds of silt and algae keep clean water from being one flat colour.
        patch = 1 + 0.12 * np.sin(0.35 * self.x - 0.5 * t) * np.sin(0.8 * self.y + 0.2 * t)
        body = (self._clean * patch[:, None] * (1 - share) + dye * share) * (self._sky.mean() * 2.2)
        facet = (1 + 1.6 * (sx * 0.6 - sy * 0.8))[:, None]  # facets towards the light are brighter
        out = self._still.copy()
        out[self._mask] = body * facet * (1 - fresnel) + mirrored * fresnel
        return out
