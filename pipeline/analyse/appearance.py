"""Small pictures of a place, and whether it still looks the same.

A patch is the place's box scaled to a fixed size. Two patches are compared by normalised cross-correlation (zero mean,
unit variance, so that gain and offset of the exposure do not matter; Lewis, *Fast Normalized Cross-Correlation*, 1995),
at the best of some small shifts, so that a shaking camera does not either, less a penalty for another colour.
"""

from __future__ import annotations

import base64
import math

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.frame import Image
from pipeline.observation import RelativeBox

__all__ = [
    "PATCH_SIZE_PX",
    "Hidden",
    "Patch",
    "blend",
    "covered_share",
    "from_text",
    "hidden_by",
    "likeness",
    "looks_settled",
    "take_patch",
    "to_text",
]

Patch = npt.NDArray[np.float32]
"""(24, 24, 3) float32, BGR 0..255."""

Hidden = npt.NDArray[np.bool_]
"""(24, 24) bool, True where something else covers the place."""

# Enough to tell two cars apart, small enough to keep dozens as text in the state (1.7 KB each).
PATCH_SIZE_PX = 24
# Shifts up to 8 % of the box: wind on a pole, one pixel of jitter on the smallest boxes.
SHIFT_PX = 2
# Standard deviation in grey levels under which a patch shows noise, not structure (night, fog, covered lens).
FLAT_STD = 4.0
# Mean absolute difference in grey levels, after the offset is taken out, that noise and compression explain.
NOISE_LEVELS = 6.0
# Other paint, same shape: chromaticities differ by 0.1-0.3; exposure and dusk shift them by up to 0.03.
CHROMA_FREE = 0.03
CHROMA_PENALTY = 3.0
# Too little of the place is seen to say anything.
MIN_SEEN_SHARE = 0.25

_INNER = slice(SHIFT_PX, PATCH_SIZE_PX - SHIFT_PX)
_SIDE = PATCH_SIZE_PX - 2 * SHIFT_PX
_SHIFTS = 2 * SHIFT_PX + 1


def take_patch(image: Image, box: RelativeBox) -> Patch:
    """The picture of a relative box, (24, 24, 3) float32; at least one pixel of `image` (h, w, 3) uint8."""
    height, width = image.shape[:2]
    left = min(width - 1, max(0, int(box[0] * width)))
    top = min(height - 1, max(0, int(box[1] * height)))
    right = min(width, max(left + 1, math.ceil(box[2] * width)))
    bottom = min(height, max(top + 1, math.ceil(box[3] * height)))
    crop = image[top:bottom, left:right]
    size = (PATCH_SIZE_PX, PATCH_SIZE_PX)
    shrinks = crop.shape[0] >= PATCH_SIZE_PX and crop.shape[1] >= PATCH_SIZE_PX
    scaled = cv2.resize(crop, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(scaled, dtype=np.float32)


def hidden_by(box: RelativeBox, others: list[RelativeBox]) -> Hidden:
    """Which part of a box other boxes cover, as a mask of a patch's size."""
    hidden = np.zeros((PATCH_SIZE_PX, PATCH_SIZE_PX), dtype=np.bool_)
    width, height = box[2] - box[0], box[3] - box[1]
    if width <= 0 or height <= 0:
        return hidden
    for other in others:
        left = round(PATCH_SIZE_PX * (other[0] - box[0]) / width)
        right = round(PATCH_SIZE_PX * (other[2] - box[0]) / width)
        top = round(PATCH_SIZE_PX * (other[1] - box[1]) / height)
        bottom = round(PATCH_SIZE_PX * (other[3] - box[1]) / height)
        if right > 0 and bottom > 0:
            hidden[max(0, top) : bottom, max(0, left) : right] = True
    return hidden


def covered_share(hidden: Hidden) -> float:
    """How much of the place is covered, 0..1."""
    return float(np.count_nonzero(hidden) / hidden.size)


def likeness(reference: Patch, now: Patch, hidden: Hidden | None = None) -> float | None:
    """How much `now` looks like `reference` where nothing hides it: 1 the same, about 0 unrelated.

    Returns:
        -1..1, or None where it cannot be told: the reference shows no structure, or too little is uncovered.
    """
    # Sums instead of numpy's means and norms: on a picture this small their overhead is most of the cost.
    uncovered = None if hidden is None or not hidden.any() else ~hidden
    seen_inner = None if uncovered is None else uncovered[_INNER, _INNER]
    if seen_inner is not None and np.count_nonzero(seen_inner) < MIN_SEEN_SHARE * seen_inner.size:
        return None
    centre = _grey(reference)[_INNER, _INNER]
    wanted = centre.reshape(-1) if seen_inner is None else centre[seen_inner]
    wanted = wanted - np.add.reduce(wanted) / wanted.size
    norm = math.sqrt(wanted @ wanted)
    flat = FLAT_STD * math.sqrt(wanted.size)
    if norm < flat:
        return None
    grey = _grey(now)
    # All shifts as one view; `sliding_window_view` takes longer than all the rest.
    windows: npt.NDArray[np.float32] = np.ndarray(
        (_SHIFTS, _SHIFTS, _SIDE, _SIDE), grey.dtype, grey, strides=(*grey.strides, *grey.strides)
    )
    found = (windows if seen_inner is None else windows[:, :, seen_inner]).reshape(-1, wanted.size)
    found = found - np.add.reduce(found, axis=1, keepdims=True) / wanted.size
    # A flat picture correlates with noise; its floor keeps it at nearly zero.
    norms = np.maximum(np.sqrt(np.add.reduce(found * found, axis=1)), flat)
    best = float((found @ wanted / (norms * norm)).max())
    other_paint = float(np.abs(_chroma(reference, uncovered) - _chroma(now, uncovered)).max())
    return max(-1.0, best - CHROMA_PENALTY * max(0.0, other_paint - CHROMA_FREE))


def looks_settled(before: Patch, now: Patch, hidden: Hidden | None = None) -> bool:
    """Whether nothing happened between two patches, bare ground included."""
    seen = np.ones((PATCH_SIZE_PX, PATCH_SIZE_PX), np.bool_) if hidden is None else ~hidden
    if seen.mean() < MIN_SEEN_SHARE:
        return False
    difference = now[seen] - before[seen]
    offset = difference.mean(axis=0)
    return float(np.abs(difference - offset).mean()) < NOISE_LEVELS


def blend(reference: Patch, now: Patch, weight: float, hidden: Hidden) -> Patch:
    """The reference moved towards `now` by `weight` 0..1 where nothing hides it."""
    weights = np.where(hidden, 0.0, weight).astype(np.float32)[:, :, None]
    blended: Patch = reference + (now - reference) * weights
    return blended


def to_text(patch: Patch) -> str:
    """A patch as base64 of its 8-bit pixels."""
    return base64.b64encode(np.clip(patch, 0, 255).astype(np.uint8).tobytes()).decode("ascii")


def from_text(text: str) -> Patch:
    """A patch from `to_text`.

    Raises:
        ValueError: if it is none.
    """
    pixels = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    return pixels.reshape(PATCH_SIZE_PX, PATCH_SIZE_PX, 3).astype(np.float32)


def _grey(patch: Patch) -> npt.NDArray[np.float32]:
    """Mean of the channels, (24, 24)."""
    return (patch[:, :, 0] + patch[:, :, 1] + patch[:, :, 2]) / np.float32(3)


def _chroma(patch: Patch, seen: Hidden | None) -> npt.NDArray[np.float64]:
    """Shares of blue, green and red in the seen part (all of it with None); grey where it is black."""
    pixels = patch if seen is None else patch[seen].reshape(-1, 1, 3)
    total = np.array(cv2.sumElems(pixels)[:3]) + 1.0
    return np.asarray(total / total.sum(), dtype=np.float64)
