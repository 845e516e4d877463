"""Where a camera's newest picture waits for the analysis."""

from __future__ import annotations

import threading

from pipeline.frame import Frame

__all__ = ["Mailbox"]


class Mailbox:
    """Holds one frame. Live, the newest wins; with push-back the reader waits until its frame is dealt with."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._frame: Frame | None = None
        self._in_hand = False
        self._closed = False
        self._since_s: float | None = None

    def put(self, frame: Frame) -> bool:
        """Lay down `frame`; True if an older one was thrown away for it."""
        with self._condition:
            dropped = self._frame is not None
            if not dropped:
                self._since_s = frame.arrived_s
            self._frame = frame
            self._condition.notify_all()
            return dropped

    def wait_until_done(self) -> bool:
        """Wait until the frame was taken and the taker has come back; False if closed meanwhile."""
        with self._condition:
            self._condition.wait_for(
                lambda: self._closed or (self._frame is None and not self._in_hand)
            )
            return not self._closed

    def take(self, timeout_s: float | None = 0.0) -> Frame | None:
        """The waiting frame, or None if there is none within `timeout_s`; says that the one before is dealt with."""
        with self._condition:
            self._in_hand = False
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._frame is not None or self._closed, timeout_s)
            frame, self._frame, self._since_s = self._frame, None, None
            self._in_hand = frame is not None
            return frame

    def done(self) -> None:
        """The frame taken last is dealt with, although its taker does not come for another one yet."""
        with self._condition:
            self._in_hand = False
            self._condition.notify_all()

    @property
    def waiting(self) -> bool:
        """Whether a frame lies here."""
        with self._condition:
            return self._frame is not None

    @property
    def waiting_since_s(self) -> float | None:
        """Arrival (monotonic seconds) of the first frame since the last take, which newer ones may have replaced."""
        with self._condition:
            return self._since_s

    def close(self) -> None:
        """Nothing comes any more: wake whoever waits. A frame that lies here may still be taken."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
