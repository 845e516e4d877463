"""Pictures and boxes on their way into a training set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Box", "Copy", "Item", "Polygon"]


@dataclass(frozen=True)
class Box:
    """One labelled box: class id, centre and size relative to the picture (0..1)."""

    class_id: int
    cx: float
    cy: float
    width: float
    height: float

    def line(self) -> str:
        """The box as a YOLO label line."""
        return f"{self.class_id} {self.cx:.6f} {self.cy:.6f} {self.width:.6f} {self.height:.6f}"


@dataclass(frozen=True)
class Polygon:
    """The outline of one surface: class id and points relative to the picture (0..1)."""

    class_id: int
    points: tuple[tuple[float, float], ...]

    def line(self) -> str:
        """The outline as a YOLO label line."""
        return " ".join([str(self.class_id), *(f"{v:.5f}" for point in self.points for v in point)])


@dataclass(frozen=True)
class Copy:
    """What is in a copy of a picture.

    Attributes:
        boxes: its labelled boxes.
        unsure: class ids that may be in it unlabelled; None: those of the picture that it was made of.
    """

    boxes: Sequence[Box]
    unsure: frozenset[int] | None = None


@dataclass(frozen=True)
class Item:
    """One picture with what is known about it.

    Attributes:
        complete: the fully labelled class ids.
        repeat: how often it is listed.
        compose: how many augmented copies are made of it.
        pseudo: class ids that a teacher labels.
        polygons: outlines for a segmentation run, from `mask`.
        backdrop: whether other things may be pasted into it.
        parts: a picture (h, w) whose pixels hold the number of the box, from 1, whose thing is seen there.
    """

    picture: Path
    source: str
    group: str
    split: str
    boxes: tuple[Box, ...]
    complete: frozenset[int]
    repeat: int = 1
    compose: int = 0
    pseudo: frozenset[int] = frozenset()
    polygons: tuple[Polygon, ...] = ()
    mask: Path | None = None
    backdrop: bool = False
    parts: Path | None = None
