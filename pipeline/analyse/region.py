"""A region of the picture as a segmentation model sees it again and again: what passes through it leaves no hole."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.units import Polygon

__all__ = ["RegionFinder"]

WIDTH, HEIGHT = 192, 108  # finer outlines than a mask prototype's would be made up
AGREEMENT = 0.6  # of the looks; more than half, so that a boat under way is outvoted
MIN_SHARE = 0.01  # of the picture: smaller pieces are puddles and mistakes
MARGIN_PX = 2  # of the 192: banks and their reflections are left out
TOLERANCE_PX = 1.0  # by which the outline may be simplified


class RegionFinder:
    """Adds up masks of a fixed camera until their consensus can be outlined."""

    def __init__(self) -> None:
        self.looks = 0
        self._seen = np.zeros((HEIGHT, WIDTH), np.float32)

    def add(self, mask: npt.NDArray[np.bool_]) -> None:
        """One look: (h, w) bool, True where the model sees the class."""
        share = cv2.resize(mask.astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        self._seen += share
        self.looks += 1

    def outline(self) -> tuple[tuple[Polygon, ...], tuple[Polygon, ...]]:
        """Polygons of the region and of the holes in it, in relative coordinates; none where nothing agrees."""
        agreed = (self._seen >= AGREEMENT * max(self.looks, 1)).astype(np.uint8)
        side = 2 * MARGIN_PX + 1
        # The picture's own edge is no bank.
        framed = np.pad(agreed, MARGIN_PX, mode="edge")
        inner = cv2.erode(framed, np.ones((side, side), np.uint8))
        inner = np.ascontiguousarray(inner[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX])
        contours, hierarchy = cv2.findContours(inner, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        inside: list[Polygon] = []
        holes: list[Polygon] = []
        for number, contour in enumerate(contours):
            simple = cv2.approxPolyDP(contour, TOLERANCE_PX, closed=True)[:, 0]
            is_hole = hierarchy[0][number][3] >= 0
            if len(simple) < 3 or cv2.contourArea(contour) < MIN_SHARE * WIDTH * HEIGHT:
                continue
            scaled = np.round((simple + 0.5) / (WIDTH, HEIGHT), 4)
            polygon = tuple((float(x), float(y)) for x, y in scaled)
            (holes if is_hole else inside).append(polygon)
        return tuple(inside), tuple(holes)
