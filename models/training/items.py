"""Pictures and boxes on their way into a training set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Box", "Item"]


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
class Item:
    """One picture with what is known about it. `complete` are the fully labelled class ids."""

    picture: Path
    source: str
    group: str
    split: str
    boxes: tuple[Box, ...]
    complete: frozenset[int]
    repeat: int = 1
    compose: int = 0
    pseudo: frozenset[int] = frozenset()
