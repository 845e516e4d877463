"""Boxes, zones and small pictures against plain formulas and shapely."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.analyse.appearance import PATCH_SIZE_PX, SHIFT_PX, hidden_by, likeness
from pipeline.analyse.geometry import Region, median_box, relative_boxes
from pipeline.observation import RelativeBox

ZONES = [
    [(0.05, 0.05), (0.9, 0.0), (1.0, 1.0), (0.1, 1.0)],
    [(0.2, 0.2), (0.5, 0.2), (0.5, 0.4)],
    [(0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.5, 0.4), (0.1, 0.9)],  # with a bay
]
SIDES = st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)).map(sorted)


@st.composite
def boxes(draw: st.DrawFn) -> RelativeBox:
    (x1, x2), (y1, y2) = draw(SIDES), draw(SIDES)
    return x1, y1, x2, y2


@given(st.sampled_from(ZONES), boxes())
def test_the_share_in_a_zone_is_that_of_the_areas(
    points: list[tuple[float, float]], box: RelativeBox
) -> None:
    area = (box[2] - box[0]) * (box[3] - box[1])
    if area < 1e-6:
        return
    inside = shapely.Polygon(points).intersection(shapely.box(*box)).area
    assert Region(points).share(box) == pytest.approx(inside / area, abs=1e-6)


@given(st.lists(boxes(), min_size=1, max_size=9))
def test_the_median_box_is_numpys_edge_by_edge(some: list[RelativeBox]) -> None:
    assert median_box(some) == tuple(np.median(np.array(some), axis=0).tolist())


def test_boxes_in_pixels_become_shares_of_the_picture_and_end_at_its_edge() -> None:
    pixels = np.array([[96, 54, 480, 270], [-10, 0, 970, 600]], np.float32)
    assert relative_boxes(pixels, 960, 540) == [(0.1, 0.1, 0.5, 0.5), (0.0, 0.0, 1.0, 1.0)]
    assert relative_boxes(np.empty((0, 4), np.float32), 960, 540) == []


PATCHES = hnp.arrays(np.uint8, (PATCH_SIZE_PX, PATCH_SIZE_PX, 3)).map(
    lambda levels: levels.astype(np.float32)
)


@given(PATCHES, PATCHES, st.none() | boxes())
def test_likeness_is_the_best_correlation_of_some_shifts_less_the_other_paint(
    reference: np.ndarray, now: np.ndarray, before: RelativeBox | None
) -> None:
    hidden = hidden_by((0.0, 0.0, 1.0, 1.0), [] if before is None else [before])
    found = likeness(reference, now, hidden)
    inner = slice(SHIFT_PX, PATCH_SIZE_PX - SHIFT_PX)
    seen = ~hidden[inner, inner]
    wanted = reference.astype(np.float64).mean(axis=2)[inner, inner][seen]
    if found is None:
        assert seen.mean() < 0.25 or wanted.std() < 4.001
        return
    floor = 4.0 * np.sqrt(wanted.size)
    wanted -= wanted.mean()
    grey, best = now.astype(np.float64).mean(axis=2), -1.0
    steps = range(2 * SHIFT_PX + 1)
    for top, left in ((top, left) for top in steps for left in steps):
        side = PATCH_SIZE_PX - 2 * SHIFT_PX
        window = grey[top : top + side, left : left + side][seen]
        window = window - window.mean()
        norms = max(float(np.linalg.norm(window)), floor) * float(np.linalg.norm(wanted))
        best = max(best, float(window @ wanted) / norms)
    colours = [patch[~hidden].sum(axis=0) + 1.0 for patch in (reference, now)]
    paint = np.abs(colours[0] / colours[0].sum() - colours[1] / colours[1].sum()).max()
    assert found == pytest.approx(max(-1.0, best - 3.0 * max(0.0, float(paint) - 0.03)), abs=1e-3)
