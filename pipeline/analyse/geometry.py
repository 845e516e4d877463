"""Boxes and polygons in relative coordinates: what of a box lies in a zone, and how far a box has moved.

Boxes are ``x1, y1, x2, y2`` as fractions of the picture's width and height, so that they survive a camera that
comes back with another resolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import numpy as np
import numpy.typing as npt
import shapely

from pipeline.observation import RelativeBox

__all__ = [
    "Region",
    "as_box",
    "bottom_strip",
    "box_area",
    "box_shift",
    "centre_patch",
    "median_box",
    "overlap_of_smaller",
    "relative_boxes",
    "share_covered",
    "size_ratio",
]


def relative_boxes(
    xyxy: npt.NDArray[np.generic], width_px: int, height_px: int
) -> list[RelativeBox]:
    """Relative boxes, clipped to the picture, of (n, 4) boxes in pixels."""
    pixels = np.asarray(xyxy, dtype=np.float64).reshape(-1, 4)
    relative = pixels / (width_px, height_px, width_px, height_px)
    return [as_box(row) for row in np.minimum(np.maximum(relative, 0.0), 1.0).tolist()]


def as_box(row: Sequence[float]) -> RelativeBox:
    """One row of boxes as a plain tuple."""
    x1, y1, x2, y2 = row
    return float(x1), float(y1), float(x2), float(y2)


def median_box(boxes: Sequence[RelativeBox]) -> RelativeBox:
    """Edge by edge the median of one or more boxes: the jitter of small detectors goes."""
    return as_box([median(edge) for edge in zip(*boxes, strict=True)])


def box_area(box: RelativeBox) -> float:
    """Share of the picture that the box takes, 0..1."""
    width, height = box[2] - box[0], box[3] - box[1]
    return width * height if width > 0 and height > 0 else 0.0


def bottom_strip(box: RelativeBox, share: float) -> RelativeBox:
    """The lowest `share` of the box: where an object meets the ground, seen from the side."""
    x1, y1, x2, y2 = box
    return x1, y2 - share * (y2 - y1), x2, y2


def centre_patch(box: RelativeBox, share: float) -> RelativeBox:
    """The middle of the box, `share` of its width and height."""
    x1, y1, x2, y2 = box
    margin_x, margin_y = (1 - share) / 2 * (x2 - x1), (1 - share) / 2 * (y2 - y1)
    return x1 + margin_x, y1 + margin_y, x2 - margin_x, y2 - margin_y


def box_shift(a: RelativeBox, b: RelativeBox) -> float:
    """Distance of the centres in box sizes: x in mean widths, y in mean heights, so that aspect does not matter."""
    width = (a[2] - a[0] + b[2] - b[0]) / 2
    height = (a[3] - a[1] + b[3] - b[1]) / 2
    if width <= 0 or height <= 0:
        return math.inf
    dx = (b[0] + b[2] - a[0] - a[2]) / 2
    dy = (b[1] + b[3] - a[1] - a[3]) / 2
    return math.hypot(dx / width, dy / height)


def size_ratio(a: RelativeBox, b: RelativeBox) -> float:
    """Smaller area over larger area, 0..1."""
    first, second = box_area(a), box_area(b)
    return min(first, second) / max(first, second) if max(first, second) > 0 else 0.0


def _intersection(a: RelativeBox, b: RelativeBox) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def share_covered(box: RelativeBox, by: RelativeBox) -> float:
    """Share of `box` that lies under `by`, 0..1."""
    area = box_area(box)
    return _intersection(box, by) / area if area > 0 else 0.0


def overlap_of_smaller(a: RelativeBox, b: RelativeBox) -> float:
    """Intersection over the smaller of both areas, 0..1: high where one box lies in the other."""
    smaller = min(box_area(a), box_area(b))
    return _intersection(a, b) / smaller if smaller > 0 else 0.0


class Region:
    """A polygon in relative coordinates.

    Args:
        points: At least three (x, y) points; a valid polygon (see `pipeline.units.Polygon`).
    """

    __slots__ = ("_bounds", "_polygon")

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        self._polygon = shapely.Polygon(points)
        shapely.prepare(self._polygon)
        self._bounds: RelativeBox = self._polygon.bounds

    def share(self, box: RelativeBox) -> float:
        """Share of the box's area that lies inside, 0..1; a box without area counts by its corner."""
        x1, y1, x2, y2 = box
        area = box_area(box)
        if area <= 0:
            return float(shapely.contains_xy(self._polygon, x1, y1))
        if _intersection(box, self._bounds) <= 0:  # most boxes, where zones are small
            return 0.0
        inside = shapely.area(shapely.clip_by_rect(self._polygon, x1, y1, x2, y2))
        return min(1.0, float(inside) / area)
