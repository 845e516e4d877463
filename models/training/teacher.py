"""Pseudo-labels: a COCO detector fills in classes that a source does not label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ultralytics import YOLO

from models.training.items import Box
from models.training.manifest import Manifest

__all__ = ["make_teacher"]

TEACHER_PX = 480  # the sources are at most 448 px wide: nothing is gained above


def make_teacher(weights: Path, manifest: Manifest) -> Callable[[Path], Sequence[Box]]:
    """A function picture → boxes of the manifest's teacher classes above its confidence."""
    model = YOLO(str(weights))
    ids = {name: number for number, name in enumerate(manifest.classes)}
    wanted = {
        number: ids[manifest.teacher[name]]
        for number, name in model.names.items()
        if name in manifest.teacher
    }

    def teach(picture: Path) -> Sequence[Box]:
        result = model.predict(
            str(picture),
            imgsz=TEACHER_PX,
            conf=manifest.teacher_confidence,
            classes=list(wanted),
            device="cpu",
            verbose=False,
        )[0]
        found = zip(result.boxes.cls.tolist(), result.boxes.xywhn.tolist(), strict=True)
        return [Box(wanted[int(number)], *place) for number, place in found]

    return teach
