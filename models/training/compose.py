"""Augmented copies of scarce cabin pictures: other things in the cabin, other optics, other light.

The training cabin shows e-bikes only, so a detector may learn the cabin instead of the e-bike. A composed copy may
therefore be emptied (the per-pixel median of a fixed camera shows the empty cabin) and get pasted things: e-bikes
as positives, pedal bicycles and people as negatives for the e-bike. Boxes follow the picture's geometry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from models.training.items import Box, Item

__all__ = ["Composer", "cabin_composer", "cut_out", "warp"]

Image = npt.NDArray[np.uint8]

PERSON, BICYCLE, EBIKE = 0, 1, 2  # ids of the vehicles model
MIN_CUT_PX = 60  # smaller cut-outs look like a stain when they are pasted larger


@dataclass(frozen=True)
class CutOut:
    """A thing to paste, with its class id."""

    image: Image
    class_id: int


def cut_out(item: Item, class_ids: Sequence[int]) -> list[CutOut]:
    """Cut the large boxes of the given classes out of a picture."""
    image = _read(item.picture)
    height, width = image.shape[:2]
    cuts = []
    for box in item.boxes:
        x1, y1 = int((box.cx - box.width / 2) * width), int((box.cy - box.height / 2) * height)
        x2, y2 = int((box.cx + box.width / 2) * width), int((box.cy + box.height / 2) * height)
        whole = x1 > 2 and y1 > 2 and x2 < width - 2 and y2 < height - 2
        if box.class_id in class_ids and whole and min(x2 - x1, y2 - y1) >= MIN_CUT_PX:
            cuts.append(CutOut(image[y1:y2, x1:x2].copy(), box.class_id))
    return cuts


def cabin_composer(items: Sequence[Item]) -> Composer | None:
    """The composer for the items with `compose` > 0; what is pasted comes from the other training pictures.

    Pasted are persons, bicycles and e-bikes, about as many of each as there are of the scarcest.
    """
    cabin = [item.picture for item in items if item.compose]
    if not cabin:
        return None
    by_class: dict[int, list[CutOut]] = {PERSON: [], BICYCLE: [], EBIKE: []}
    for item in items:
        if item.split == "train" and not item.compose:
            for cut in cut_out(item, tuple(by_class)):
                by_class[cut.class_id].append(cut)
    fewest = min(len(cuts) for cuts in by_class.values())
    return Composer(
        cabin,
        [cut for cuts in by_class.values() for cut in cuts[:: max(1, len(cuts) // max(1, fewest))]],
    )


class Composer:
    """Makes copies of cabin pictures; the same seed makes the same copy.

    Args:
        cabin: the pictures of one fixed camera; their median is the empty cabin.
        cuts: what may be pasted.
    """

    def __init__(self, cabin: Sequence[Path], cuts: Sequence[CutOut]) -> None:
        if not cabin or not cuts:
            raise ValueError(f"found {len(cabin)} cabin pictures, {len(cuts)} cut-outs: need both")
        first = _read(cabin[0])
        size = (first.shape[1], first.shape[0])
        stack = np.stack([cv2.resize(_read(path), size) for path in cabin])
        self._empty = np.median(stack, axis=0).astype(np.uint8)
        self._cuts = list(cuts)
        self._harmless = [cut for cut in cuts if cut.class_id != EBIKE] or self._cuts

    def __call__(self, picture: Path, boxes: Sequence[Box], seed: int, out: Path) -> list[Box]:
        """Write one copy of `picture` to `out` and return its boxes."""
        rng = np.random.default_rng(seed)
        image, labels = _read(picture), list(boxes)
        choice = rng.random()
        if choice < 0.6:
            # Half of the emptied cabins get no e-bike, so that a pedal bicycle there is not enough.
            cuts = self._cuts if choice < 0.3 else self._harmless
            image, labels = self._empty.copy(), []
            for _ in range(int(rng.integers(0, 4))):
                image, labels = self._paste(image, labels, cuts[int(rng.integers(len(cuts)))], rng)
        image = _hide_clock(image, rng) if rng.random() < 0.5 else image
        image, labels = warp(
            image,
            labels,
            degrees=float(rng.uniform(-20, 20)),
            bulge=float(rng.uniform(-0.25, 0.35)),
            zoom=float(rng.uniform(0.95, 1.5)),
        )
        image = _light(image, rng)
        cv2.imwrite(str(out), image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 92))])
        return labels

    def _paste(
        self, image: Image, labels: list[Box], cut: CutOut, rng: np.random.Generator
    ) -> tuple[Image, list[Box]]:
        height, width = image.shape[:2]
        scale = height * rng.uniform(0.35, 0.85) / cut.image.shape[0]
        scale = min(scale, 0.6 * width / cut.image.shape[1])
        thing = cv2.resize(cut.image, None, fx=scale, fy=scale)
        if rng.random() < 0.5:
            thing = thing[:, ::-1]
        th, tw = thing.shape[:2]
        x = int(rng.integers(0, max(1, width - tw)))
        y = int(rng.integers((height - th) // 2, max((height - th) // 2 + 1, height - th)))
        alpha = np.zeros((th, tw), np.float32)
        cv2.ellipse(alpha, (tw // 2, th // 2), (int(tw * 0.5), int(th * 0.5)), 0, 0, 360, 1.0, -1)
        alpha = cv2.GaussianBlur(alpha, (0, 0), max(1.0, 0.04 * min(th, tw)))[:, :, None]
        spot = image[y : y + th, x : x + tw].astype(np.float32)
        # Take over part of the place's brightness, so that the paste's light is not the cue.
        gain = np.clip(spot.mean() / max(float(thing.mean()), 1.0), 0.5, 1.6) ** 0.7
        mixed = alpha * np.clip(thing * gain, 0, 255) + (1 - alpha) * spot
        image[y : y + th, x : x + tw] = mixed.astype(np.uint8)
        new = Box(
            cut.class_id, (x + tw / 2) / width, (y + th / 2) / height, tw / width, th / height
        )
        return image, [old for old in labels if _covered(old, new) < 0.7] + [new]


def warp(
    image: Image, boxes: Sequence[Box], *, degrees: float, bulge: float, zoom: float
) -> tuple[Image, list[Box]]:
    """Rotate, zoom about the centre and bend radially (bulge > 0: fisheye); boxes follow.

    Boxes that lose more than 60 % of their area out of the picture are dropped.
    """
    height, width = image.shape[:2]
    half = np.hypot(width, height) / 2
    xs, ys = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    dx, dy = (xs - width / 2) / half, (ys - height / 2) / half
    angle = np.deg2rad(degrees)
    reach = (1 + bulge * (dx**2 + dy**2)) / zoom
    sx = ((np.cos(angle) * dx + np.sin(angle) * dy) * reach) * half + width / 2
    sy = ((-np.sin(angle) * dx + np.cos(angle) * dy) * reach) * half + height / 2
    maps: tuple[Any, Any] = (sx.astype(np.float32), sy.astype(np.float32))
    bent = cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    moved = []
    for box in boxes:
        left, right = (box.cx - box.width / 2) * width, (box.cx + box.width / 2) * width
        top, bottom = (box.cy - box.height / 2) * height, (box.cy + box.height / 2) * height
        inside = (sx >= left) & (sx <= right) & (sy >= top) & (sy <= bottom)
        # Mean magnification is zoom squared at the centre: enough to tell a box that left the picture.
        if inside.sum() < 0.4 * box.width * box.height * width * height * min(1.0, zoom**2):
            continue
        columns, rows = np.flatnonzero(inside.any(0)), np.flatnonzero(inside.any(1))
        x1, x2, y1, y2 = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
        moved.append(
            Box(
                box.class_id,
                (x1 + x2) / 2 / width,
                (y1 + y2) / 2 / height,
                (x2 - x1) / width,
                (y2 - y1) / height,
            )
        )
    return bent.astype(np.uint8), moved


def _covered(old: Box, new: Box) -> float:
    """Share of `old` that lies under `new`."""
    width = min(old.cx + old.width / 2, new.cx + new.width / 2) - max(
        old.cx - old.width / 2, new.cx - new.width / 2
    )
    height = min(old.cy + old.height / 2, new.cy + new.height / 2) - max(
        old.cy - old.height / 2, new.cy - new.height / 2
    )
    return max(width, 0.0) * max(height, 0.0) / (old.width * old.height)


def _hide_clock(image: Image, rng: np.random.Generator) -> Image:
    """Smear the strips at the top and the lower right, where recorders burn in clock and place."""
    height, width = image.shape[:2]
    image = image.copy()
    for rows, columns in (
        (slice(0, height // 9), slice(0, width)),
        (slice(height * 6 // 7, height), slice(width * 3 // 5, width)),
    ):
        if rng.random() < 0.7:
            image[rows, columns] = cv2.blur(image[rows, columns], (width // 12, height // 12))
    return image


def _light(image: Image, rng: np.random.Generator) -> Image:
    """Night-grey, tint, gamma, noise and blur, each now and then."""
    value: npt.NDArray[np.floating] = image.astype(np.float32)
    if rng.random() < 0.35:
        grey = np.array([[0.114], [0.587], [0.299]], np.float32)
        value = np.repeat(value @ grey, 3, axis=2)
    else:
        value = value * rng.uniform(0.85, 1.15, size=3)
    value = 255 * (np.clip(value, 0, 255) / 255) ** rng.uniform(0.6, 1.7)
    if rng.random() < 0.4:
        value = value + rng.normal(0, rng.uniform(2, 12), size=value.shape)
    lit = np.clip(value, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        lit = np.asarray(cv2.GaussianBlur(lit, (0, 0), rng.uniform(0.4, 1.3)), np.uint8)
    return lit


def _read(path: Path) -> Image:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path}: found no readable picture")
    return np.asarray(image, np.uint8)
