"""Flame and smoke as a small two-dimensional fluid, painted on a picture.

Hot gas rises, cools and leaves soot. The solver is Stam's stable fluids (SIGGRAPH 1999: semi-Lagrangian advection,
projection by FFT) with the vorticity confinement of Fedkiw, Stam and Jensen (2001). Pool fires puff at about 1.5/√D Hz
(Cetegen and Ahmed 1993); the sources follow that and add faster flicker up to 12 Hz.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

__all__ = ["Burn", "Plume", "paint_plume"]

Field = NDArray[np.float32]
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Burn:
    """What burns and in what air."""

    diameter_m: float
    """Width of the burning base when it is grown."""
    heat: float
    """Vigour, about 0.7..1.5: how hot the gas leaves the base, thus how high the flames reach."""
    soot: float
    """Smoke yield, 0 (clean) .. 2 (plastics)."""
    wind_m_s: float
    soot_tone: float
    """Grey of the smoke: 0.1 black .. 0.9 white."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Burn:
        """A random small fire."""
        return cls(
            float(rng.uniform(0.3, 1.3)), float(rng.uniform(0.75, 1.4)), float(rng.choice([0.15, 0.6, 1.2, 2.0])),
            float(rng.normal(0, 0.35)), float(rng.choice([0.12, 0.3, 0.55, 0.8], p=[0.3, 0.3, 0.25, 0.15])),
        )  # fmt: skip


class Plume:
    """A fire in a box of air `width_m` x `height_m`; the base is in the middle of the lower edge.

    `heat` and `soot` are (rows, columns) float32 fields, row 0 at the ground.
    """

    def __init__(
        self,
        burn: Burn,
        rng: np.random.Generator,
        *,
        cells_per_diameter: int = 22,
        columns: int = 160,
        rows: int = 216,
    ) -> None:
        self.burn, self._rng = burn, rng
        self.cell_m = burn.diameter_m / cells_per_diameter
        self.width_m, self.height_m = columns * self.cell_m, rows * self.cell_m
        shape = (rows, columns)
        self.u, self.v = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.heat, self.soot = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.t = 0.0
        self._y, self._x = (a.astype(np.float32) for a in np.mgrid[0:rows, 0:columns])
        ky, kx = np.fft.fftfreq(rows * 2)[:, None], np.fft.rfftfreq(columns)[None, :]
        k2 = (2 * np.sin(np.pi * kx)) ** 2 + (2 * np.sin(np.pi * ky)) ** 2
        k2[0, 0] = 1.0
        self._inverse = (-1.0 / k2).astype(np.float32)
        # Jets: flames of a real base stand on several tongues that flicker apart from each other.
        n = 5
        self._jets = np.linspace(-0.38, 0.38, n) + rng.normal(0, 0.04, n)
        self._phases = rng.uniform(0, 2 * np.pi, (n, 3))
        puff = 1.5 / np.sqrt(burn.diameter_m)
        self._rates_hz = np.stack(
            [np.full(n, puff), rng.uniform(3, 6, n), rng.uniform(7, 12, n)], 1
        )

    def _sample(self, field: Field, y: Field, x: Field) -> Field:
        rows, columns = field.shape
        y = np.clip(y, 0, rows - 1.001)
        x = np.clip(x, 0, columns - 1.001)
        y0, x0 = y.astype(np.int32), x.astype(np.int32)
        fy, fx = y - y0, x - x0
        flat, at = field.ravel(), y0 * columns + x0
        low = flat[at] * (1 - fx) + flat[at + 1] * fx
        high = flat[at + columns] * (1 - fx) + flat[at + columns + 1] * fx
        result: Field = low * (1 - fy) + high * fy
        return result

    def step(self, dt: float, size: float = 1.0) -> None:
        """Let `dt` seconds pass (at most about 0.06) with the base grown to the share `size` of its diameter."""
        rows, columns = self.heat.shape
        burn, cell = self.burn, self.cell_m
        self.t += dt
        if size > 0.01:
            for offset, phases, rates in zip(self._jets, self._phases, self._rates_hz, strict=True):
                beat = 0.75 + 0.35 * np.sin(2 * np.pi * rates * self.t + phases) @ np.array(
                    [0.6, 0.3, 0.25]
                )
                center = columns / 2 + offset * size * burn.diameter_m / cell
                spread = max(1.2, 0.13 * size * burn.diameter_m / cell)
                spot = np.exp(
                    -(((self._x[:8] - center) / spread) ** 2) - ((self._y[:8] - 2) / 1.8) ** 2
                )
                heat = np.float32(beat * burn.heat * min(1.0, 0.4 + size)) * spot
                self.heat[:8] = np.maximum(
                    self.heat[:8],
                    heat.astype(np.float32)
                    * self._rng.uniform(0.85, 1.15, heat.shape).astype(np.float32),
                )
        # Soot forms where gas cools below flame temperature.
        cooling = np.exp(-dt * (0.75 + 0.9 * self.heat) / np.sqrt(burn.diameter_m)).astype(
            np.float32
        )
        self.soot += burn.soot * self.heat * (1 - cooling) * 3.5
        self.heat *= cooling
        self.soot *= np.float32(np.exp(-dt * 0.1))
        # Buoyancy, wind, and the small swirls that the coarse grid loses.
        self.v += np.float32(dt) * (8.5 * self.heat + 0.9 * self.soot)
        above = np.minimum(self._y / rows * 3, 1.0)
        self.u += (np.float32(burn.wind_m_s) * above - self.u) * np.float32(min(1.0, dt * 0.35))
        curl = np.asarray(np.gradient(self.v, axis=1)) - np.asarray(np.gradient(self.u, axis=0))
        gy, gx = (np.gradient(np.abs(curl), axis=axis) for axis in (0, 1))
        length = np.hypot(gx, gy) + np.float32(1e-4)
        self.u += np.float32(dt * 7.0) * (gy / length) * curl
        self.v -= np.float32(dt * 7.0) * (gx / length) * curl
        self._project()
        back_x, back_y = (
            self._x - self.u * np.float32(dt / cell),
            self._y - self.v * np.float32(dt / cell),
        )
        self.u, self.v, self.heat, self.soot = (
            self._sample(f, back_y, back_x) for f in (self.u, self.v, self.heat, self.soot)
        )
        edge = np.minimum(1.0, np.minimum(self._x, columns - 1 - self._x) / 8.0).astype(np.float32)
        for field in (self.u, self.v, self.heat, self.soot):
            field *= (
                edge  # the FFT wraps around: nothing may leave at the left and come in at the right
            )

    def _project(self) -> None:
        """Make the flow free of divergence but for the gas's expansion; a mirrored field makes the ground a wall."""
        rows = self.u.shape[0]
        u2 = np.concatenate([self.u, self.u[::-1]])
        v2 = np.concatenate([self.v, -self.v[::-1]])
        divergence = (
            np.roll(u2, -1, 1) - np.roll(u2, 1, 1) + np.roll(v2, -1, 0) - np.roll(v2, 1, 0)
        ) * 0.5
        # Burning gas expands; without it a flat flame is pinched into a thread.
        divergence -= (
            np.float32(_EXPANSION_HZ)
            * np.concatenate([self.heat, self.heat[::-1]])
            * np.float32(self.cell_m)
        )
        pressure = np.fft.irfft2(
            np.fft.rfft2(divergence) * self._inverse, s=divergence.shape
        ).astype(np.float32)
        self.u -= ((np.roll(pressure, -1, 1) - np.roll(pressure, 1, 1)) * 0.5)[:rows]
        self.v -= ((np.roll(pressure, -1, 0) - np.roll(pressure, 1, 0)) * 0.5)[:rows]

    def glow(self) -> float:
        """Light given off, about 0..1: what flickers on the surroundings."""
        return float(
            np.clip(self.heat - 0.25, 0, None).sum() * (self.cell_m / self.burn.diameter_m) ** 2
        )


_EXPANSION_HZ = 3.0
"""Divergence per unit of heat, 1/s: set by eye so that flames stand about two base widths high."""

# Heat → colour, as an over-exposed camera sees it: red fringe, orange body, yellow to white core.
_RAMP = np.array(
    [
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [0.14, 0.35, 0.05, 0.01, 0.0],
        [0.24, 0.85, 0.22, 0.03, 0.55],
        [0.38, 1.0, 0.48, 0.08, 0.9],
        [0.58, 1.0, 0.74, 0.25, 1.0],
        [0.85, 1.0, 0.93, 0.62, 1.0],
        [1.3, 1.0, 1.0, 0.92, 1.0],
    ]
)


def paint_plume(
    picture: NDArray[np.float32],
    plume: Plume,
    base_px: tuple[float, float],
    px_per_m: float,
    *,
    ambient: float,
    hidden: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Paint the plume with its base at a pixel.

    `picture` is sRGB (h, w, 3) float 0..1, `ambient` the light that smoke scatters (0 night .. 1 day), `hidden` what
    stands before the fire. Returns the picture and the masks (h, w) of visible flame and visible smoke.
    """
    h, w = picture.shape[:2]
    scale = px_per_m * plume.cell_m

    def place(field: Field) -> Field:
        # One affine resampling puts the flipped field where it belongs, with a border of nothing.
        x0, y0 = base_px[0] - plume.heat.shape[1] / 2 * scale, base_px[1]
        image = Image.fromarray(field)
        matrix = (1 / scale, 0, -x0 / scale, 0, -1 / scale, y0 / scale)
        return np.asarray(
            image.transform((w, h), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        )

    heat, soot = place(plume.heat), place(plume.soot)
    if hidden is not None:
        heat, soot = np.where(hidden, 0, heat), np.where(hidden, 0, soot)
    thick = 1 - np.exp(-1.5 * soot)
    tone = plume.burn.soot_tone
    lit = ambient * tone + 0.02
    glow = np.clip(heat * 1.2, 0, 0.5)[..., None] * np.array([1.0, 0.45, 0.12], np.float32)
    out = picture * (1 - 0.92 * thick[..., None]) + 0.92 * thick[..., None] * (lit + glow)
    r, g, b, alpha = (
        np.interp(heat, _RAMP[:, 0], _RAMP[:, k]).astype(np.float32) for k in (1, 2, 3, 4)
    )
    flame = np.stack([r, g, b], -1)
    # Flames are clear at their edge and hide what is behind them only in the core.
    out = out * (1 - alpha[..., None] * 0.85) + flame * alpha[..., None]
    # Glare: the lens spreads the light of over-exposed pixels.
    layer = Image.fromarray((np.clip(flame * alpha[..., None], 0, 1) * 255).astype(np.uint8))
    glare = (
        np.asarray(layer.filter(ImageFilter.GaussianBlur(max(2.0, w / 90)))).astype(np.float32)
        / 255
    )
    out = np.clip(out + 0.35 * glare * (1 - alpha[..., None]), 0, 1).astype(np.float32)
    seen = np.abs(out - picture).max(axis=-1) > 0.05
    return out, alpha > 0.4, (thick > 0.16) & (alpha < 0.4) & seen
