"""Stand-ins for tests of whoever builds on the pipeline: a clock, frames and a detector that follow a script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import supervision as sv

from pipeline.frame import Frame, Image

__all__ = ["Box", "FakeClock", "ScriptedDetector", "frame_at", "make_detections"]

Box: TypeAlias = tuple[str, float, float, float, float, float]
"""Class name, confidence, x1, y1, x2, y2 in pixels."""


class FakeClock:
    """A clock that moves when told: ``clock()`` is its time in seconds.

    Attributes:
        now_s: Its time.
    """

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """Its time in seconds."""
        return self.now_s

    def advance(self, seconds: float) -> float:
        """Move on, and return the new time."""
        self.now_s += seconds
        return self.now_s


def frame_at(
    t: float,
    image: Image | None = None,
    *,
    camera_id: str = "camera",
    size_px: tuple[int, int] = (360, 640),
    keyframe: bool = False,
    epoch: int = 0,
) -> Frame:
    """A frame at stream time `t`; grey, of (height, width), where no image is given."""
    if image is None:
        image = np.full((*size_px, 3), 128, np.uint8)
    return Frame(camera_id, t, image, arrived_s=t, keyframe=keyframe, epoch=epoch)


def make_detections(boxes: Iterable[Box], classes: Sequence[str]) -> sv.Detections:
    """Detections as `pipeline.analyse.detector.Detector` returns them, strongest first.

    Raises:
        ValueError: if a box is of no class in `classes`.
    """
    ranked = sorted(boxes, key=lambda box: -box[1])
    names = [name for name, *_ in ranked]
    if unknown := sorted(set(names) - set(classes)):
        raise ValueError(f"found a box of class {', '.join(unknown)}, expected {list(classes)}")
    return sv.Detections(
        xyxy=np.array([box[2:] for box in ranked], np.float32).reshape(-1, 4),
        confidence=np.array([box[1] for box in ranked], np.float32),
        class_id=np.array([classes.index(name) for name in names], np.int64),
        data={"class_name": np.array(names, np.str_)},
    )


class ScriptedDetector:
    """A detector that sees what its script says, whatever the picture shows.

    Args:
        script: The boxes at a time, either as a function of time or as a mapping whose entries hold from their time on.
        classes: Class names in the order of `class_id`.
        thresholds: Operating points; 0.5 for every class by default.
        clock: Tells the time of the picture, usually ``lambda: frame.t`` or a `FakeClock`. Without one, the time is the
            index of the picture: 0, 1, 2, ...
    """

    def __init__(
        self,
        script: Callable[[float], Iterable[Box]] | Mapping[float, Iterable[Box]],
        classes: Sequence[str],
        *,
        thresholds: Mapping[str, float] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._script = script
        self._classes = tuple(classes)
        self._clock = clock
        self.thresholds = dict(thresholds or dict.fromkeys(classes, 0.5))
        self.images_seen = 0

    def at(self, t: float) -> sv.Detections:
        """What the script says at time (or index) `t`."""
        if callable(self._script):
            return make_detections(self._script(t), self._classes)
        begun = [start for start in self._script if start <= t]
        return make_detections(self._script[max(begun)] if begun else (), self._classes)

    def detect(self, images: Sequence[Image]) -> list[sv.Detections]:
        """What the script says, once per picture."""
        found = []
        for _ in images:
            found.append(self.at(self._clock() if self._clock else float(self.images_seen)))
            self.images_seen += 1
        return found
