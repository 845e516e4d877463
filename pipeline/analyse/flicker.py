"""Does a patch of the picture burn? How strongly, how fast and how unrepeatably its brightness changes.

A flame changes everywhere, at 1 to 12 Hz (Töreyin, Dedeoğlu, Güdükbay, Çetin: "Computer vision based method for
real-time fire and flame detection", Pattern Recognition Letters 27, 2006), and never returns to a picture it once was.
A lamp does not change, a beacon, a hazard light or a failing neon tube returns again and again to the same few
pictures. So two numbers separate them at any frame rate: the energy of the changes and their novelty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.frame import Image
from pipeline.observation import RelativeBox

__all__ = ["PATCH_SIDE", "Dynamics", "Patch", "measure_dynamics", "sample_patch"]

Patch = npt.NDArray[np.float32]

PATCH_SIDE = 24
# Sensor and codec noise of an area-averaged pixel, in levels.
NOISE = 1.0
# Two looks closer than this show the same tongue of flame: they are no repetition.
SAME_MOMENT_S = 0.3
# Share of the usual distance from which a picture counts as another one.
AWAY = 0.5
# Five pictures are the least in which three have a neighbour that is not the one beside them.
LEAST_PATCHES = 5
# A line through fewer would follow the flicker itself.
LEAST_FOR_TREND = 12
# Crossings of the mean within the noise are none.
CROSSING_LEVELS = 4.0


@dataclass(frozen=True, slots=True)
class Dynamics:
    """How a patch changes.

    Attributes:
        energy: Root mean square change of its liveliest quarter, in 8-bit levels, after exposure and trend.
        novelty: 0..1, how far a picture is from the nearest other one, relative to any other one: about 0 for whatever
            repeats itself (steady, blinking, rotating), 0.2 and more for flames and smoke.
        extent: 0..0.5, share of the pixels that hold half of the changes: small where something small moves.
        kurtosis: Median fourth standardised moment of the lively pixels over time: 1 to 3 for what changes all
            the time, higher for what passes once.
        flicker_hz: Mean frequency of the lively pixels, by mean crossings; None where the rate is too low to tell.
        rate_hz: Frames per second of the measurement.
        duration_s: Its length.
    """

    energy: float
    novelty: float
    extent: float
    kurtosis: float
    flicker_hz: float | None
    rate_hz: float
    duration_s: float


def sample_patch(image: Image, box: RelativeBox) -> Patch:
    """Brightness of a box of (h, w, 3) uint8 BGR `image`, (PATCH_SIDE, PATCH_SIDE) float32 levels 0..255."""
    height, width = image.shape[:2]
    left = min(max(int(box[0] * width), 0), width - 1)
    top = min(max(int(box[1] * height), 0), height - 1)
    right, bottom = max(round(box[2] * width), left + 1), max(round(box[3] * height), top + 1)
    crop = image[top:bottom, left:right]
    # Nearest rows and columns first where the box is large: averaging a million pixels tells no more.
    stride = max(1, min(crop.shape[:2]) // (4 * PATCH_SIDE))
    grey = cv2.cvtColor(np.ascontiguousarray(crop[::stride, ::stride]), cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (PATCH_SIDE, PATCH_SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


def measure_dynamics(
    times: Sequence[float], patches: Sequence[Patch], levels: Sequence[float]
) -> Dynamics | None:
    """The dynamics of one place over some seconds, at any and even an uneven rate.

    Args:
        times: n stream times in seconds, rising.
        patches: n patches from `sample_patch` of one fixed box.
        levels: n mean brightnesses of the whole picture: common changes (exposure) are no flicker.

    Returns:
        None for fewer than five patches or less than a second.
    """
    count = len(times)
    duration = times[-1] - times[0] if count else 0.0
    if count < LEAST_PATCHES or duration < 1.0:
        return None
    t = np.asarray(times, np.float64) - times[0]
    values = np.stack(patches).astype(np.float64).reshape(count, -1)
    level = np.maximum(np.asarray(levels, np.float64), 1.0)
    values *= np.clip(np.median(level) / level, 0.8, 1.25)[:, None]
    changes = values - (_trend(t, values) if count >= LEAST_FOR_TREND else values.mean(axis=0))

    spread = changes.std(axis=0)
    lively = spread >= np.quantile(spread, 0.75)
    active = changes[:, lively]
    energy = float(np.sqrt(np.mean(active**2)))
    rate = (count - 1) / duration
    return Dynamics(
        energy=max(0.0, energy - NOISE),
        novelty=_novelty(t, active),
        extent=_extent(spread),
        kurtosis=float(
            np.median((active**4).mean(axis=0) / np.maximum(spread[lively], NOISE) ** 4)
        ),
        flicker_hz=_frequency(active, duration) if rate >= 5.0 else None,
        rate_hz=rate,
        duration_s=duration,
    )


def _trend(t: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Each pixel's straight line over time: dusk, a lamp that comes nearer, a cloud."""
    centred = (t - t.mean())[:, None]
    slope = (centred * values).sum(axis=0) / (centred**2).sum()
    return np.asarray(values.mean(axis=0) + centred * slope)


def _extent(spread: npt.NDArray[np.float64]) -> float:
    power = np.sort(spread**2)[::-1].cumsum()
    return float(np.searchsorted(power, power[-1] / 2) + 1) / len(spread)


def _novelty(t: npt.NDArray[np.float64], active: npt.NDArray[np.float64]) -> float:
    """Distance to the nearest other picture over the median distance, both beyond the noise's.

    A recurrence measure (Eckmann, Kamphorst, Ruelle: "Recurrence plots of dynamical systems", 1987), read on whole
    patches: with all pixels in step there is one degree of freedom, and every state comes back soon.
    """
    square = (active**2).mean(axis=1)
    distance = square[:, None] + square[None, :] - 2 * active @ active.T / active.shape[1]
    usual = float(np.median(distance[np.abs(np.subtract.outer(t, t)) > SAME_MOMENT_S]))
    # Only what went away can return: pictures with nothing distant between them are one slow change.
    left = np.triu(np.maximum.accumulate(np.triu(distance), axis=1))
    apart = (left + left.T > AWAY * usual) & (np.abs(np.subtract.outer(t, t)) > SAME_MOMENT_S)
    noise = 2 * NOISE**2
    if usual <= 2 * noise:
        return 0.0
    rows = apart.any(axis=1)
    nearest = np.where(apart, distance, np.inf)[rows].min(axis=1)
    return float(np.clip((np.median(nearest) - noise) / (usual - noise), 0.0, 1.0))


def _frequency(active: npt.NDArray[np.float64], duration: float) -> float:
    """Mean crossings per two seconds and pixel, counted only where the swing leaves the noise (hysteresis)."""
    state = np.zeros(active.shape[1])
    crossings = np.zeros(active.shape[1])
    for row in active:
        side = np.where(row > CROSSING_LEVELS, 1.0, np.where(row < -CROSSING_LEVELS, -1.0, state))
        crossings += (side != state) & (state != 0)
        state = side
    return float(np.mean(crossings)) / 2 / duration
