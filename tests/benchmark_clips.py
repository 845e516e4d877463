"""A river that turns red, as clips with labels: real analysis end to end, without weights and without footage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.frame import Image
from tests.media import scene, write_clip

__all__ = ["RATE_HZ", "SETTINGS", "river", "write_river"]

RATE_HZ = 5.0
SIZE = (160, 96)  # width and height in pixels
BLUE, RED = (150, 120, 70), (50, 60, 170)

SETTINGS = """\
site: {id: rivers}
cameras:
  - id: river
    url: "*.mp4"
    scenarios:
      river_discoloration:
        water: [[0, 0.5], [1, 0.5], [1, 1], [0, 1]]
        reference: [[[0, 0], [1, 0], [1, 0.45], [0, 0.45]]]
        warm_up: 3s
        raise_after: 3s
"""


def river(seconds: float, red_from_s: float | None, seed: int = 0) -> Iterator[Image]:
    """Pictures of a bank above and water below, which turns red."""
    rng = np.random.default_rng(seed)
    width, height = SIZE
    bank = scene(seed, width, height)
    for index in range(round(seconds * RATE_HZ)):
        image = bank.copy()
        red = red_from_s is not None and index / RATE_HZ >= red_from_s
        water = np.full((height // 2, width, 3), RED if red else BLUE, np.int16)
        water += rng.integers(-8, 9, (height // 2, width, 1), dtype=np.int16)
        image[height // 2 :] = water.astype(np.uint8)
        yield image


def write_river(path: Path, seconds: float, red_from_s: float | None, seed: int = 0) -> Path:
    """The same as a clip."""
    return write_clip(path, river(seconds, red_from_s, seed), rate_hz=RATE_HZ, gop=5)
