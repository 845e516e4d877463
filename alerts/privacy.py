"""What must not be seen: masks and heads, burned into every picture and clip before it leaves memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.frame import Image
from pipeline.observation import RelativeBox
from pipeline.units import Polygon, Settings

__all__ = ["People", "Privacy", "PrivacySettings"]

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


class Privacy:
    """Burns one camera's masks and heads into its pictures. Safe to use from any thread."""

    def __init__(self, settings: PrivacySettings) -> None:
        self.settings = settings

    @property
    def is_needed(self) -> bool:
        """Whether `burn` changes anything; where it does not, clips need no re-encoding."""
        return bool(self.settings.masks) or self.settings.blur_heads

    def burn(self, image: Image, people: Sequence[RelativeBox] | None = None) -> Image:
        """A copy of `image` without what must not be seen; `image` itself where nothing is to be hidden.

        Args:
            image: (h, w, 3) uint8 BGR, of any of the camera's streams.
            people: Boxes of all persons in it, relative, perhaps none. None means that nobody has looked: then, if
                heads are to be hidden, the whole picture is pixelated.

        Returns:
            (h, w, 3) uint8 BGR.
        """
        if not self.is_needed:
            return image
        burned: Image = np.ascontiguousarray(image).copy()
        if self.settings.blur_heads:
            if people is None:
                _pixelate_all(burned)
            for box in people or ():
                _pixelate(burned, _head(box, burned.shape[1], burned.shape[0]))
        for mask in self.settings.masks:
            _fill(burned, mask)
        return burned


class People:
    """Where persons were seen lately, so that the frames between detections hide them too.

    Args:
        window_s: A frame hides everybody who was seen within this time of it. At 1.5 m/s a walker moves by about the
            width of a head margin per detection interval; the union of the boxes covers the path between.
    """

    def __init__(self, window_s: float = 1.5) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, tuple[RelativeBox, ...]]] = deque(maxlen=600)

    def note(self, t: float, boxes: Sequence[RelativeBox]) -> None:
        """The detector looked at stream time `t` and found these persons, perhaps none."""
        self._seen.append((t, tuple(boxes)))

    def at(self, t: float) -> list[RelativeBox] | None:
        """Everybody who was seen around `t`; None if the detector did not look within the window."""
        return self.between(t, t)

    def between(self, t_from: float, t_to: float) -> list[RelativeBox] | None:
        """Everybody who was seen from `t_from` to `t_to`, for a clip; None if the detector did not look then."""
        first, last = t_from - self._window_s, t_to + self._window_s
        near = [boxes for t, boxes in tuple(self._seen) if first <= t <= last]
        return [box for boxes in near for box in boxes] if near else None


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
