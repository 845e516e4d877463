"""A decoded picture on the host's timeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Frame", "Image"]

Image: TypeAlias = npt.NDArray[np.uint8]
"""(height, width, 3) uint8, BGR."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of one camera.

    Attributes:
        camera_id: The camera's id in cameras.yaml.
        t: Stream time in seconds since the Unix epoch: PTS deltas from an anchor (live: the wall clock read once at
            start, then monotonic). It is monotone within a camera and is the only time that scenarios and rules see.
        image: (h, w, 3) uint8 BGR, already scaled for analysis.
        arrived_s: Monotonic clock at the packet's arrival, in seconds; only for latency figures.
        keyframe: Whether it was decoded from a key frame.
        epoch: Counts reconnects of this camera; pictures of different epochs may differ in size and view.
        full_size: Makes the picture at the camera's own resolution, (h, w, 3) uint8 BGR, for evidence.
    """

    camera_id: str
    t: float
    image: Image = field(repr=False)
    arrived_s: float = 0.0
    keyframe: bool = False
    epoch: int = 0
    full_size: Callable[[], Image] | None = field(default=None, repr=False)

    @property
    def width_px(self) -> int:
        """Width of `image` in pixels."""
        return int(self.image.shape[1])

    @property
    def height_px(self) -> int:
        """Height of `image` in pixels."""
        return int(self.image.shape[0])

    def picture(self) -> Image:
        """The best picture there is, (h, w, 3) uint8 BGR."""
        return self.full_size() if self.full_size is not None else self.image
