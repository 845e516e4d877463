"""A camera's present picture for a console that runs where the cameras can be reached.

What must not be seen is burned in before the picture leaves this module, as everywhere. Where heads are to be hidden
nobody here can find them (a console loads no model), so such a camera's picture is not taken: the last ticket's, in
which they are hidden already, has to do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from alerts.privacy import Privacy
from gridwatch.config import CameraSettings
from pipeline.capture.probe import probe
from pipeline.exceptions import CaptureError
from pipeline.frame import Image

__all__ = ["Snapshot", "Snapshots"]

FRESH_S = 20.0  # several people at the wall must not open a camera several times
LOOK_S = 0.1  # one picture is enough
AT_ONCE = 2  # decoding takes a core for a moment, and the daemon next door wants it too
WIDTH_PX = 1280
JPEG_QUALITY = 82


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One picture.

    Attributes:
        jpeg: Masks burned in.
        t: When it was taken, seconds since the epoch.
    """

    jpeg: bytes
    t: float


class Snapshots:
    """Opens cameras, one picture at a time, and remembers the last one of each.

    Args:
        clock: Seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Lock] = {}
        self._last: dict[str, tuple[CameraSettings, Snapshot]] = {}
        self._room = threading.BoundedSemaphore(AT_ONCE)

    def last(self, camera: CameraSettings) -> Snapshot | None:
        """The last picture taken with these settings, however old."""
        with self._lock:
            known = self._last.get(camera.id)
        return known[1] if known is not None and known[0] == camera else None

    def take(self, camera: CameraSettings) -> Snapshot:
        """The camera's picture of now, or of a few seconds ago.

        Raises:
            CaptureError: if it cannot be opened, gives no picture, or its picture must not be shown unseen.
        """
        if camera.privacy.blur_heads:
            raise CaptureError(f"camera {camera.id}: heads are hidden; expected a ticket's picture")
        with self._lock:
            busy = self._busy.setdefault(camera.id, threading.Lock())
        with busy:
            known = self.last(camera)
            if known is not None and self._clock() - known.t < FRESH_S:
                return known
            with self._room:
                picture = probe(camera.stream, LOOK_S).picture
            burned = Privacy(camera.privacy).burn(_scaled(picture))
            snapshot = Snapshot(_jpeg(burned), self._clock())
            with self._lock:
                self._last[camera.id] = camera, snapshot
            return snapshot


def _scaled(image: Image) -> Image:
    height, width = image.shape[:2]
    if width <= WIDTH_PX:
        return image
    size = (WIDTH_PX, max(1, round(height * WIDTH_PX / width)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _jpeg(image: Image) -> bytes:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise CaptureError("the picture cannot be encoded")
    return data.tobytes()
