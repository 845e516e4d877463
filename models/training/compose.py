"""Augmented copies of scarce cabin pictures: other things in the cabin, other walls, other optics, other light.

The training cabin shows e-bikes nearly always, so a detector may learn the cabin instead of the e-bike. Most copies
are therefore composed anew: on the empty cabin (the per-pixel median of a fixed camera, labelled things left out) or
on a rendered cabin of another build, with e-bikes as positives and pedal bicycles, wheelchairs and people as negatives
for the e-bike. Both kinds come from cabins, renders and streets, and are cut and pasted alike, so that neither traces
of pasting nor the place in the cabin tell anything. Boxes follow the picture's geometry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from models.training.items import Box, Copy, Item

__all__ = ["Composer", "CutOut", "cabin_composer", "cut_out", "foreground", "warp"]

Image = npt.NDArray[np.uint8]
Alpha = npt.NDArray[np.float32]
Key = TypeVar("Key")

PERSON, BICYCLE, EBIKE, WHEELCHAIR = 0, 1, 2, 6  # ids of the vehicles model
MIN_CUT_PX = 60  # smaller cut-outs look like a stain when they are pasted larger
MIN_RENDER_CUT_PX = 40  # of a rendered thing, whose outline is exact
WORK_PX = 640  # width in which copies are made: twice the training size
SHADOW_MARGIN = 0.06  # of a box's sides: contact shadows and loose boxes
MIN_DIFFERENCE = 22  # grey levels from the empty cabin: above sensor noise and JPEG blocks
ORIGINAL_SHARE = 0.25  # of the copies: the picture itself under other optics and light
EBIKE_SHARE = 0.5  # of the composed copies: as many cabins with an e-bike as without
RENDERED_SHARE = 0.5  # of the composed copies: on a rendered cabin instead of the emptied one
OCCLUDED_SHARE = 0.35  # of the composed copies: a person stands in front
# All that was pasted is labelled, but a cut-out of a two-wheeler may bring its rider's limbs along.
MAYBE_PASTED = frozenset({PERSON})
# Of what is pasted without an e-bike: what real cabins were mistaken for it with comes first.
HARMLESS_SHARES = {BICYCLE: 6.0, PERSON: 2.0, WHEELCHAIR: 1.0}
# Where a cut-out comes from: the view of a cabin's camera counts most, renders have all shapes, streets real pixels.
ORIGIN_SHARES = {"cabin": 4.0, "render": 3.0, "street": 2.0}


@dataclass(frozen=True)
class CutOut:
    """A thing to paste.

    Attributes:
        image: (height, width, 3), BGR.
        alpha: (height, width), 0 (not the thing) … 1.
        class_id: class of the vehicles model.
        scale: height relative to that of its picture if it comes from a cabin, else None.
        origin: a key of `ORIGIN_SHARES`.
    """

    image: Image
    alpha: Alpha
    class_id: int
    scale: float | None = None
    origin: str = "street"


def cut_out(item: Item, class_ids: Sequence[int], empty: Image | None = None) -> list[CutOut]:
    """Cut the large boxes of the given classes out of a picture.

    With the `empty` scene of the same fixed camera the outline is where the picture differs from it; else an
    ellipse in the box, which keeps most of the surroundings out. Boxes at the edge of the picture are half things
    and left out, except in a cabin, where they are the rule. Rendered things have exact outlines.
    """
    image = _read(item.picture)
    height, width = image.shape[:2]
    numbers = None if item.parts is None else cv2.imread(str(item.parts), cv2.IMREAD_UNCHANGED)
    least_px = MIN_CUT_PX if numbers is None else MIN_RENDER_CUT_PX
    cuts = []
    for number, box in enumerate(item.boxes, 1):
        x1, y1 = int((box.cx - box.width / 2) * width), int((box.cy - box.height / 2) * height)
        x2, y2 = int((box.cx + box.width / 2) * width), int((box.cy + box.height / 2) * height)
        whole = x1 > 2 and y1 > 2 and x2 < width - 2 and y2 < height - 2
        if box.class_id not in class_ids or min(x2 - x1, y2 - y1) < least_px:
            continue
        if numbers is None and empty is None and not whole:
            continue
        x1, y1 = max(x1, 0), max(y1, 0)
        piece = image[y1:y2, x1:x2].copy()
        if numbers is not None:
            seen = (numbers[y1:y2, x1:x2] == number).astype(np.float32)
            alpha = np.asarray(cv2.GaussianBlur(seen, (0, 0), 0.7), np.float32)
            cuts.append(CutOut(piece, alpha, box.class_id, box.height, "render"))
        elif empty is not None:
            alpha = foreground(piece, empty[y1:y2, x1:x2])
            cuts.append(CutOut(piece, alpha, box.class_id, box.height, "cabin"))
        else:
            cuts.append(CutOut(piece, _ellipse(piece.shape), box.class_id))
    return cuts


def foreground(image: Image, empty: Image) -> Alpha:
    """Where a picture differs from the empty scene, as a soft mask (height, width) in 0..1.

    Small gaps are closed, specks dropped. Poster changes and shadows count as different too: within the box of a
    thing both are rare.
    """
    difference = cv2.absdiff(cv2.GaussianBlur(image, (3, 3), 0), cv2.GaussianBlur(empty, (3, 3), 0))
    mask = (difference.max(axis=2) > MIN_DIFFERENCE).astype(np.uint8)
    size = max(3, round(0.03 * min(mask.shape)) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel)
    return np.asarray(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0), np.float32)


def cabin_composer(items: Sequence[Item]) -> Composer | None:
    """The composer for the items with `compose` > 0; all that it pastes comes from training pictures."""
    cabin = [item for item in items if item.compose]
    if not cabin:
        return None
    groups = dict.fromkeys(item.group for item in cabin)  # a group is one fixed camera
    empties = {group: _emptied([i for i in cabin if i.group == group]) for group in groups}
    pool: dict[int, list[CutOut]] = {PERSON: [], BICYCLE: [], EBIKE: [], WHEELCHAIR: []}
    for item in items:
        if item.split != "train" or (item.backdrop and item.parts is None):
            continue
        for cut in cut_out(item, tuple(pool), empties[item.group] if item.compose else None):
            pool[cut.class_id].append(cut)
    backdrops = [
        item
        for item in items
        if item.backdrop and item.split == "train" and all(b.class_id != EBIKE for b in item.boxes)
    ]
    return Composer(list(empties.values()), pool, backdrops)


class Composer:
    """Makes copies of cabin pictures; the same seed makes the same copy.

    Attributes:
        empties: the empty cabins.

    Args:
        empties: the empty cabins.
        pool: what may be pasted, by class id; `EBIKE` and at least one other class.
        backdrops: pictures of other cabins without an e-bike; their boxes are kept.

    Raises:
        ValueError: there is no e-bike or nothing harmless to paste.
    """

    def __init__(
        self,
        empties: Sequence[Image],
        pool: dict[int, list[CutOut]],
        backdrops: Sequence[Item] = (),
    ) -> None:
        self.empties = list(empties)
        self._ebikes = pool.get(EBIKE, [])
        self._persons = pool.get(PERSON, [])
        self._harmless = {key: pool[key] for key in HARMLESS_SHARES if pool.get(key)}
        self._backdrops = list(backdrops)
        if not self._ebikes or not self._harmless:
            raise ValueError(
                f"found {len(self._ebikes)} e-bikes, {len(self._harmless)} other kinds: need both"
            )

    def __call__(self, picture: Path, boxes: Sequence[Box], seed: int, out: Path) -> Copy:
        """Write one copy of `picture` to `out` and return what is in it."""
        rng = np.random.default_rng(seed)
        unsure = None
        if rng.random() < ORIGINAL_SHARE:
            image, labels = _narrow(_read(picture)), list(boxes)
        else:
            image, labels = self._compose(rng)
            unsure = MAYBE_PASTED
        image = _hide_clock(image, rng) if rng.random() < 0.5 else image
        image, labels = warp(
            image,
            labels,
            degrees=float(rng.uniform(-20, 20)),
            bulge=float(rng.uniform(-0.25, 0.35)),
            zoom=float(rng.uniform(0.9, 1.5)),
        )
        image = _light(image, rng)
        cv2.imwrite(str(out), image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 92))])
        return Copy(labels, unsure)

    def _compose(self, rng: np.random.Generator) -> tuple[Image, list[Box]]:
        labels: list[Box] = []
        if self._backdrops and rng.random() < RENDERED_SHARE:
            backdrop = self._backdrops[int(rng.integers(len(self._backdrops)))]
            image, labels = _narrow(_read(backdrop.picture)), list(backdrop.boxes)
        else:
            image = _narrow(self.empties[int(rng.integers(len(self.empties)))])
        things = []
        if rng.random() < EBIKE_SHARE:
            things.append(_any(self._ebikes, rng))
        for _ in range(int(rng.integers(0 if things else 1, 3))):
            # First the kind, then the thing: people are many, bicycles few.
            kind = _weighted({key: HARMLESS_SHARES[key] for key in self._harmless}, rng)
            things.append(_any(self._harmless[kind], rng))
        rng.shuffle(things)
        if self._persons and rng.random() < OCCLUDED_SHARE:
            things.append(_any(self._persons, rng))
        for thing in things:
            image, labels = _paste(image, labels, thing, rng)
        return image, labels


def _weighted(shares: Mapping[Key, float], rng: np.random.Generator) -> Key:
    """One of the keys, each as often as its share says."""
    weights = np.array(list(shares.values()))
    return list(shares)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def _any(cuts: Sequence[CutOut], rng: np.random.Generator) -> CutOut:
    """One of the cut-outs: first where it comes from, then which."""
    origins = {cut.origin for cut in cuts}
    origin = _weighted({key: v for key, v in ORIGIN_SHARES.items() if key in origins}, rng)
    chosen = [cut for cut in cuts if cut.origin == origin]
    return chosen[int(rng.integers(len(chosen)))]


def _paste(
    image: Image, labels: list[Box], cut: CutOut, rng: np.random.Generator
) -> tuple[Image, list[Box]]:
    height, width = image.shape[:2]
    share = rng.uniform(0.35, 0.85) if cut.scale is None else cut.scale * rng.uniform(0.75, 1.2)
    scale = min(
        height * share / cut.image.shape[0],
        0.6 * width / cut.image.shape[1],
        0.98 * height / cut.image.shape[0],
    )
    thing = cv2.resize(cut.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(cut.alpha, (thing.shape[1], thing.shape[0]))[:, :, None]
    if rng.random() < 0.5:
        thing, alpha = thing[:, ::-1], alpha[:, ::-1]
    th, tw = thing.shape[:2]
    x = int(rng.integers(0, max(1, width - tw)))
    y = int(rng.integers((height - th) // 2, max((height - th) // 2 + 1, height - th)))
    spot = image[y : y + th, x : x + tw].astype(np.float32)
    # Take over part of the place's brightness, so that the paste's light is not the cue.
    gain = np.clip(spot.mean() / max(float(thing.mean()), 1.0), 0.5, 1.6) ** 0.7
    mixed = alpha * np.clip(thing * gain, 0, 255) + (1 - alpha) * spot
    image = image.copy()
    image[y : y + th, x : x + tw] = mixed.astype(np.uint8)
    new = Box(cut.class_id, (x + tw / 2) / width, (y + th / 2) / height, tw / width, th / height)
    return image, [old for old in labels if _covered(old, new) < 0.7] + [new]


def _ellipse(shape: tuple[int, ...]) -> Alpha:
    height, width = shape[:2]
    alpha = np.zeros((height, width), np.float32)
    cv2.ellipse(
        alpha, (width // 2, height // 2), (width // 2, height // 2), 0, 0, 360, 1.0, cv2.FILLED
    )
    soft = cv2.GaussianBlur(alpha, (0, 0), max(1.0, 0.04 * min(height, width)))
    return np.asarray(soft, np.float32)


def _emptied(items: Sequence[Item]) -> Image:
    """The empty scene of a fixed camera: per pixel the median of the pictures in which no labelled thing lies there."""
    first = _read(items[0].picture)
    height, width = first.shape[:2]
    stack = np.stack([cv2.resize(_read(item.picture), (width, height)) for item in items])
    taken = np.zeros(stack.shape[:3], np.bool_)
    for mask, item in zip(taken, items, strict=True):
        for box in item.boxes:
            rows = slice(*_span(box.cy, box.height, height))
            mask[rows, slice(*_span(box.cx, box.width, width))] = True
    taken &= ~taken.all(axis=0)  # where something lies in every picture, all have to do
    empty = np.empty_like(first)
    for row in range(height):  # whole, the masked copy would take gigabytes
        values = np.where(taken[:, row, :, None], np.nan, stack[:, row].astype(np.float32))
        empty[row] = np.nanmedian(values, axis=0)
    return empty


def _span(centre: float, length: float, size: int) -> tuple[int, int]:
    """First pixel and the one behind the last of a relative extent, with a margin for its shadow."""
    margin = SHADOW_MARGIN * length
    low, high = centre - length / 2 - margin, centre + length / 2 + margin
    return max(0, int(low * size)), min(size, int(np.ceil(high * size)))


def _narrow(image: Image) -> Image:
    """The picture, at most `WORK_PX` wide."""
    scale = WORK_PX / image.shape[1]
    if scale >= 1:
        return image.copy()
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))


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
