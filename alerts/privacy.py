"""What must not be seen: masks and heads, burned into every picture and clip before it leaves memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
import structlog
import supervision as sv

from pipeline.exceptions import ModelError
from pipeline.frame import Image
from pipeline.observation import RelativeBox
from pipeline.units import Polygon, Settings

__all__ = ["PersonDetector", "Privacy", "PrivacySettings"]

log = structlog.get_logger(__name__)

# Faces are recognised down to some 8 x 8 pixels; four cells across a head keep its colours and nothing else.
HEAD_CELLS = 4
# Of a standing person's box: a head is an eighth of the body, the rest is the detector's error and the walk.
HEAD_SHARE = 0.35
# A sitting, bent or half-hidden person's box is short, but its head is still about as high as the box is wide.
HEAD_PER_WIDTH = 0.8
# Boxes are loose by about this much of their width at either side and above.
HEAD_MARGIN = 0.1
MASK_COLOUR = (0, 0, 0)


class PrivacySettings(Settings):
    """What must not be seen of a camera's picture.

    Attributes:
        masks: Polygons that are filled with black.
        blur_heads: Pixelate the upper part of every detected person.
    """

    masks: tuple[Polygon, ...] = ()
    blur_heads: bool = False


class PersonDetector(Protocol):
    """What finds the persons whose heads are hidden; `pipeline.analyse.detector.Detector` is one."""

    def detect(self, images: Sequence[Image]) -> list[sv.Detections]:
        """Detections of each picture, in its pixels, with `data["class_name"]`."""


class Privacy:
    """Burns one camera's masks and heads into its pictures. Safe to use from any thread if `people` is.

    Args:
        settings: What to hide.
        people: Finds persons in the picture that is about to leave: boxes from analysis may be of another moment.
            Everything above the detector's floor counts, also below its operating point: a head blurred for nothing
            does less harm than one that is shown.
    """

    def __init__(self, settings: PrivacySettings, people: PersonDetector | None = None) -> None:
        self.settings = settings
        self._people = people
        self._blind = False

    @property
    def active(self) -> bool:
        """Whether `burn` changes anything; where it does not, clips need no encoding."""
        return bool(self.settings.masks) or self.settings.blur_heads

    def burn(self, image: Image, people: Sequence[RelativeBox] | None = None) -> Image:
        """A copy of `image` without what must not be seen; `image` itself where nothing is to be hidden.

        Where heads are to be hidden and nobody can tell where they are (no detector, or it fails), the whole picture
        is pixelated.

        Args:
            image: (h, w, 3) uint8 BGR, of any of the camera's streams.
            people: Boxes of all persons in it, relative, perhaps none; None asks the detector.

        Returns:
            (h, w, 3) uint8 BGR.
        """
        if not self.active:
            return image
        burned: Image = np.ascontiguousarray(image).copy()
        if self.settings.blur_heads:
            boxes = self._find(image) if people is None else people
            if boxes is None:
                _pixelate_all(burned)
            for box in boxes or ():
                _pixelate(burned, _head(box, burned.shape[1], burned.shape[0]))
        for mask in self.settings.masks:
            _fill(burned, mask)
        return burned

    def _find(self, image: Image) -> list[RelativeBox] | None:
        """Persons in a picture; None if nobody can tell."""
        found: sv.Detections | None = None
        reason = "there is no detector of persons"
        if self._people is not None:
            try:
                found = self._people.detect([image])[0]
            except ModelError as error:
                reason = str(error)
        if found is None:
            if not self._blind:
                log.error("heads cannot be found, whole pictures are pixelated", reason=reason)
            self._blind = True
            return None
        self._blind = False
        height, width = image.shape[:2]
        scale = np.array([width, height, width, height], np.float64)
        names = found.data.get("class_name", np.array([], str))
        return [
            (float(x1), float(y1), float(x2), float(y2))
            for (x1, y1, x2, y2), name in zip(found.xyxy / scale, names, strict=True)
            if name == "person"
        ]


def _head(box: RelativeBox, width_px: int, height_px: int) -> tuple[int, int, int, int]:
    """The part of a person's box in which the head is, in whole pixels of the picture."""
    x1, y1, x2, y2 = box[0] * width_px, box[1] * height_px, box[2] * width_px, box[3] * height_px
    wide, high = x2 - x1, y2 - y1
    bottom = y1 + min(high, max(HEAD_SHARE * high, HEAD_PER_WIDTH * wide))
    margin = HEAD_MARGIN * wide
    return (
        max(0, int(np.floor(x1 - margin))),
        max(0, int(np.floor(y1 - margin))),
        min(width_px, int(np.ceil(x2 + margin))),
        min(height_px, int(np.ceil(bottom))),
    )


def _pixelate(image: Image, box: tuple[int, int, int, int]) -> None:
    x1, y1, x2, y2 = box
    if x2 <= x1 or y2 <= y1:
        return
    part = image[y1:y2, x1:x2]
    cells = (min(HEAD_CELLS, x2 - x1), min(HEAD_CELLS, y2 - y1))
    coarse = cv2.resize(part, cells, interpolation=cv2.INTER_AREA)
    image[y1:y2, x1:x2] = cv2.resize(coarse, (x2 - x1, y2 - y1), interpolation=cv2.INTER_NEAREST)


def _pixelate_all(image: Image) -> None:
    """Cells of a sixteenth of the height: a person who fills the picture keeps four across the head."""
    height, width = image.shape[:2]
    cell = max(1, height // 16)
    cells = (max(1, width // cell), max(1, height // cell))
    coarse = cv2.resize(image, cells, interpolation=cv2.INTER_AREA)
    image[:] = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)


def _fill(image: Image, mask: Sequence[tuple[float, float]]) -> None:
    height, width = image.shape[:2]
    points = np.array([(x * width, y * height) for x, y in mask])
    corners = np.round(points).astype(np.int32)
    cv2.fillPoly(image, [corners], MASK_COLOUR)
    # An edge that was rounded inwards must not leave a line of what it hides.
    cv2.polylines(image, [corners], True, MASK_COLOUR, thickness=3)
