"""What moved between two analysed frames of one camera."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.frame import Frame, Image

__all__ = ["Motion", "MotionGate"]

_Grey: TypeAlias = npt.NDArray[np.float32]

WIDTH_PX = 160  # working width: an object that YOLO still finds in a 960 px picture keeps a few pixels here
BACKGROUND_S = 2.0  # time constant of the background: slow light is followed, a walker is not
NOISE_S = 20.0  # time constant of the noise estimate: longer than any single passage
WORST_NOISE = 5.0  # grey levels: a camera at full gain, σ = 30 per pixel, after the mean of 16; the rest is motion
DEVIATIONS = 6.0  # of noise that count as motion; 14,400 pixels at 5 Hz must stay silent for hours
LEAST_STEP = (
    5.0  # grey levels: 2 %, below which quantisation and compression make steps of their own
)
MIN_FRACTION = 5e-4  # 7 of 14,400 pixels, 16 × 16 px of a 960 px picture
SATURATED = (4.0, 251.0)  # grey levels beyond which a pixel does not follow a change of exposure
GAIN_RANGE = (0.4, 2.5)  # exposure steps of a camera; beyond it the light itself has changed
MAD_TO_SIGMA = 1.4826  # median absolute deviation → standard deviation of a normal distribution


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """Motion since the last analysed frame.

    Attributes:
        fraction: Share of the picture that moved, 0..1.
        mask: (h, w) bool at the gate's working size, True where it moved.
        still_s: Seconds for which nothing has moved.
    """

    fraction: float
    mask: npt.NDArray[np.bool_]
    still_s: float

    @property
    def moved(self) -> bool:
        """Whether anything moved."""
        return self.fraction > 0


class MotionGate:
    """Tells motion from changes of light, noise and compression, on a small grey picture.

    A frame is compared with a running background after the best common gain and offset between both was taken out, so
    that an exposure step moves nothing. What remains must stand out of the gate's own estimate of the noise, kept apart
    for key frames and others since encoders pump at key frames. All its memory is in seconds of stream time.
    """

    def __init__(self) -> None:
        self._background: _Grey | None = None
        self._picture = (0, (0, 0))
        self._noise: dict[bool, float] = {}
        self._t = -math.inf
        self._moved_t = -math.inf

    def update(self, frame: Frame) -> Motion:
        """Compare a frame with those before it.

        The first frame, and the first of another epoch or size, shows no motion and begins anew.
        """
        grey = _shrink(frame.image)
        picture = frame.epoch, (frame.height_px, frame.width_px)
        if self._background is None or picture != self._picture:
            self._background, self._picture = grey, picture
            self._t = self._moved_t = frame.t
            self._noise = {}
            return Motion(0.0, np.zeros(grey.shape, np.bool_), 0.0)
        dt, self._t = max(frame.t - self._t, 0.0), frame.t
        expected, blind = _expose(self._background, grey)
        difference = grey - expected
        size = np.abs(difference)
        noise = self._follow_noise(frame.keyframe, size, dt)
        mask = (size > max(DEVIATIONS * noise, LEAST_STEP)) & ~blind
        # A pixel alone is noise, at the edge of a block as well: half of its neighbourhood must agree.
        mask = cv2.medianBlur(mask.view(np.uint8), 3).view(np.bool_)
        fraction = float(np.count_nonzero(mask)) / mask.size
        if fraction < MIN_FRACTION:
            fraction = 0.0
            mask = np.zeros_like(mask)
        else:
            self._moved_t = frame.t
        self._background = expected + np.float32(1 - math.exp(-dt / BACKGROUND_S)) * difference
        return Motion(fraction, mask, frame.t - self._moved_t)

    def _follow_noise(self, keyframe: bool, size: _Grey, dt: float) -> float:
        """Standard deviation of the noise, from this frame's median and those before."""
        now = MAD_TO_SIGMA * float(np.median(size[::2, ::2]))
        known = self._noise.get(keyframe)
        if known is None:
            known = min(now, WORST_NOISE)
        else:
            # A crowd that fills the picture must not pass for noise: one frame can at most double it.
            weight = 1 - math.exp(-dt / NOISE_S)
            known += weight * (min(now, 2 * known + 1) - known)
        self._noise[keyframe] = known
        return max(known, min(now, 2 * known))


def _shrink(image: Image) -> _Grey:
    """(h, w, 3) uint8 BGR → (h', 160) float32 grey, each pixel the mean of 16 of its area."""
    height = max(round(WIDTH_PX * image.shape[0] / image.shape[1]), 3)
    # A third of the cost of the mean over all pixels; 16 are enough against noise.
    image = cv2.resize(image, (2 * WIDTH_PX, 2 * height), interpolation=cv2.INTER_LINEAR)
    small = cv2.resize(image, (WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    grey: _Grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)
    return grey


def _expose(background: _Grey, grey: _Grey) -> tuple[_Grey, npt.NDArray[np.bool_]]:
    """The background as the exposure of `grey` would show it, and where it cannot tell.

    Gain and offset are fitted by least squares, twice: the second time without the pixels that moved.
    """
    low, high = SATURATED
    sound = (background > low) & (background < high) & (grey > low) & (grey < high)
    expected = background
    for _ in range(2):
        x, y = background[sound], grey[sound]
        if len(x) < 16:  # black or white: there is nothing to fit
            break
        mean_x, mean_y = float(x.mean()), float(y.mean())
        x = x - np.float32(mean_x)
        spread = float(x @ x)
        # Without contrast a gain cannot be told from an offset.
        gain = float(x @ (y - np.float32(mean_y))) / spread if spread > len(x) else 1.0
        gain = min(max(gain, GAIN_RANGE[0]), GAIN_RANGE[1])
        expected = np.clip(
            background * np.float32(gain) + np.float32(mean_y - gain * mean_x), 0, 255
        )
        size = np.abs(grey - expected)
        sound &= size <= max(3 * MAD_TO_SIGMA * float(np.median(size[::2, ::2])), 2.0)
    # Where the background was saturated, a changed exposure uncovers what nobody has seen.
    changed = abs(float(np.median(expected[::4, ::4] - background[::4, ::4]))) > 2.0
    blind = (
        (background <= low) | (background >= high) if changed else np.zeros(grey.shape, np.bool_)
    )
    return expected, blind
