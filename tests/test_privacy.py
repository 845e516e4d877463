"""Nothing that is masked, and no head that is to be blurred, survives in a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import supervision as sv
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from alerts.privacy import Privacy, PrivacySettings
from pipeline.exceptions import ModelError
from pipeline.frame import Image

MASK = ((0.1, 0.1), (0.4, 0.1), (0.4, 0.5), (0.1, 0.5))


def noise(height: int = 120, width: int = 160, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)


def test_nothing_to_hide_gives_the_same_picture() -> None:
    image = noise()
    privacy = Privacy(PrivacySettings())
    assert not privacy.active
    assert privacy.burn(image, None) is image


def test_a_mask_is_black_in_every_size_and_the_rest_is_untouched() -> None:
    privacy = Privacy(PrivacySettings(masks=(MASK,)))
    for height, width in ((120, 160), (1080, 1920), (121, 157)):
        image = noise(height, width)
        before = image.copy()
        burned = privacy.burn(image)
        inside = burned[
            int(np.floor(0.1 * height)) : int(np.ceil(0.5 * height)),
            int(np.floor(0.1 * width)) : int(np.ceil(0.4 * width)),
        ]
        assert inside.max() == 0
        assert np.array_equal(image, before), "the caller's picture is not changed"
        assert np.array_equal(burned[height * 6 // 10 :], image[height * 6 // 10 :])


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=3, unique=True),
    st.integers(16, 200),
    st.integers(16, 200),
)
def test_every_pixel_whose_centre_is_masked_is_black(
    triangle: list[tuple[float, float]], height: int, width: int
) -> None:
    (ax, ay), (bx, by), (cx, cy) = triangle
    doubled = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    if abs(doubled) < 0.01:
        return  # no polygon; refused by the settings
    burned = Privacy(PrivacySettings(masks=(tuple(triangle),))).burn(noise(height, width))
    ys, xs = np.mgrid[0:height, 0:width]
    x, y = (xs + 0.5) / width, (ys + 0.5) / height
    sides = [
        ((qx - px) * (y - py) - (x - px) * (qy - py)) * np.sign(doubled)
        for (px, py), (qx, qy) in (((ax, ay), (bx, by)), ((bx, by), (cx, cy)), ((cx, cy), (ax, ay)))
    ]
    inside = np.all([side >= 0 for side in sides], axis=0)
    assert burned[inside].size == 0 or burned[inside].max() == 0


@pytest.mark.parametrize(
    ("box", "head"),
    [
        pytest.param((0.4, 0.1, 0.6, 0.9), (0.4, 0.1, 0.6, 0.38), id="standing"),
        pytest.param((0.2, 0.5, 0.6, 0.9), (0.2, 0.5, 0.6, 0.82), id="sitting"),
        pytest.param((0.0, 0.0, 0.1, 0.3), (0.0, 0.0, 0.1, 0.1), id="at the edge"),
    ],
)
def test_a_head_keeps_at_most_four_by_four_colours(
    box: tuple[float, float, float, float], head: tuple[float, float, float, float]
) -> None:
    image = noise(400, 400)
    burned = Privacy(PrivacySettings(blur_heads=True)).burn(image, [box])
    x1, y1, x2, y2 = (round(value * 400) for value in head)
    part = burned[y1:y2, x1:x2].reshape(-1, 3)
    assert len(np.unique(part, axis=0)) <= 16
    feet = round(box[3] * 400) - 4
    assert np.array_equal(burned[feet:], image[feet:]) or box[3] - head[3] < 0.02


def test_detail_of_a_head_cannot_be_told_apart() -> None:
    """Two faces of the same mean colour look alike afterwards."""
    faces = []
    for seed in (1, 2):
        image = np.full((400, 400, 3), 90, np.uint8)
        image[40:150, 160:240] = noise(110, 80, seed)
        burned = Privacy(PrivacySettings(blur_heads=True)).burn(image, [(0.4, 0.1, 0.6, 0.9)])
        faces.append(burned[40:150, 160:240].astype(int))
    assert np.abs(faces[0] - faces[1]).mean() < 10, "independent noise differs by 85 on average"


def test_when_nobody_looked_the_whole_picture_is_pixelated() -> None:
    image = noise(160, 320)
    privacy = Privacy(PrivacySettings(blur_heads=True))
    burned = privacy.burn(image, None)
    assert len(np.unique(burned.reshape(-1, 3), axis=0)) <= 16 * 32
    assert np.array_equal(privacy.burn(image, []), image), "looked, and nobody is there"


def test_a_box_outside_the_picture_or_without_area_harms_nothing() -> None:
    image = noise()
    privacy = Privacy(PrivacySettings(blur_heads=True))
    assert np.array_equal(privacy.burn(image, [(0.5, 0.5, 0.5, 0.5)]), image)
    privacy.burn(image, [(-0.5, -0.5, 1.5, 1.5)])
    privacy.burn(image, [(0.999, 0.999, 1.0, 1.0)])


class Seer:
    """Finds what it is told, or fails."""

    def __init__(self, *found: tuple[str, tuple[float, float, float, float]]) -> None:
        self.found = found
        self.fails = False

    def detect(self, images: Sequence[Image]) -> list[sv.Detections]:
        if self.fails:
            raise ModelError("model vehicles: out of memory")
        return [
            sv.Detections(
                xyxy=np.array([box for _, box in self.found], np.float32).reshape(-1, 4),
                confidence=np.full(len(self.found), 0.2, np.float32),
                class_id=np.zeros(len(self.found), int),
                data={"class_name": np.array([name for name, _ in self.found], str)},
            )
            for _ in images
        ]


def test_persons_are_looked_for_in_the_picture_that_leaves() -> None:
    image = noise(400, 400)
    seer = Seer(("person", (160, 40, 240, 360)), ("car", (300, 40, 390, 360)))
    burned = Privacy(PrivacySettings(blur_heads=True), seer).burn(image)
    assert len(np.unique(burned[40:150, 160:240].reshape(-1, 3), axis=0)) <= 16
    assert np.array_equal(burned[:, 300:], image[:, 300:])


def test_a_detector_that_fails_hides_everything_and_says_so_once() -> None:
    image = noise(160, 320)
    seer = Seer()
    privacy = Privacy(PrivacySettings(blur_heads=True), seer)
    assert np.array_equal(privacy.burn(image), image), "nobody is there"
    seer.fails = True
    with capture_logs() as logs:
        for _ in range(3):
            assert len(np.unique(privacy.burn(image).reshape(-1, 3), axis=0)) <= 16 * 32
    assert [entry["reason"] for entry in logs] == ["model vehicles: out of memory"]
