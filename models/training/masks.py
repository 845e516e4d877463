"""Masks of a surface (white = surface) as the polygons that a segmentation run reads."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from models.training.items import Polygon

__all__ = ["polygons", "read_mask"]

MIN_SHARE = 0.002  # of the picture: smaller pieces are puddles and label noise
MIN_HOLE_SHARE = 0.001  # smaller holes vanish on the network's mask grid anyway
TOLERANCE_PX = 1.0  # of the outline; the network's mask grid is four pixels wide

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]


def read_mask(path: Path) -> Mask:
    """A mask picture as booleans (height, width).

    Raises:
        ValueError: there is no readable picture.
    """
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ValueError(f"{path}: found no readable mask")
    return np.asarray(image > 127, np.bool_)


def polygons(mask: Mask, class_id: int) -> tuple[Polygon, ...]:
    """One polygon per connected piece, largest first, relative to the picture (0..1).

    A label line holds one outline, so a hole (a boat, an island) is reached over a bridge of no width: under the
    even-odd rule that fills polygons the hole stays empty.
    """
    height, width = mask.shape
    found, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if not found:
        return ()
    size = np.array([width, height], np.float64)
    pieces: list[tuple[float, Polygon]] = []
    for number, outline in enumerate(found):
        _, _, child, parent = tree[0][number]
        area = cv2.contourArea(outline)
        if parent >= 0 or area < MIN_SHARE * height * width:
            continue
        points = _simple(outline)
        while child >= 0:
            if cv2.contourArea(found[child]) >= MIN_HOLE_SHARE * height * width:
                points = _bridge(points, _simple(found[child]))
            child = tree[0][child][0]
        if len(points) >= 3:
            rows = tuple((float(x), float(y)) for x, y in np.clip(points / size, 0, 1))
            pieces.append((area, Polygon(class_id, rows)))
    return tuple(polygon for _, polygon in sorted(pieces, key=lambda piece: -piece[0]))


def _simple(outline: npt.NDArray[np.generic]) -> Points:
    points = cv2.approxPolyDP(np.asarray(outline, np.int32), TOLERANCE_PX, True)
    return np.asarray(points, np.float64).reshape(-1, 2)


def _bridge(outer: Points, hole: Points) -> Points:
    gaps = np.linalg.norm(outer[:, None] - hole[None], axis=2)
    i, j = np.unravel_index(int(gaps.argmin()), gaps.shape)
    turned = np.roll(hole, -int(j), axis=0)
    return np.vstack([outer[: i + 1], turned, turned[:1], outer[i:]])
