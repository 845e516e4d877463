"""Which cameras are analysed next, and what gives way when two cores are not enough.

Earliest deadline first (Liu & Layland 1973): a camera's deadline is one period after it was last analysed, so that one
that waits too long becomes the most urgent and none starves. Under overload EDF alone would miss deadlines at random;
the governor lowers the rates instead, of all cameras alike, but never of fire below its floor, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from pipeline.frame import Frame

__all__ = ["BATCH", "Governor", "Mailbox", "Scheduler"]

log = structlog.get_logger(__name__)

BATCH = 4  # more pictures in one inference gain little on two cores and make the others wait
WINDOW_S = 5.0  # long enough to see a pattern, short enough to act before a dwell is hurt
OVERLOAD_SHARE = 0.2  # of deadlines missed by more than a period
RELIEF_SHARE = 0.02
STEP_DOWN = 0.8
STEP_UP = 1.1
LOWEST = 0.2  # below a fifth of the wanted rates a scenario sees too little to be called running
FLOOR_HZ = 0.5  # slower cameras cost next to nothing, and a rule's `max_gap` counts on their frames
FIRE_FLOOR_HZ = 2.0  # flame and smoke must be looked at twice a second whatever else waits


class Mailbox(Protocol):
    """Where a camera's newest frame waits; `pipeline.capture.reader.CameraReader` is one."""

    @property
    def waiting(self) -> bool:
        """Whether a frame waits."""

    @property
    def waiting_since_s(self) -> float | None:
        """Since when (monotonic clock) frames have waited, however often a newer one took the place."""

    def take(self) -> Frame | None:
        """The newest frame, which is then gone; says that the one before is dealt with."""

    def done(self) -> None:
        """The frame taken last is dealt with: a source that waits for us goes on."""

    def set_rate(self, rate_hz: float) -> None:
        """Frames per second that are wanted from now on."""


@dataclass(slots=True)
class _Turn:
    wanted_hz: float = 1.0
    granted_hz: float = 0.0
    last_s: float = float("-inf")


class Governor:
    """Lowers all rates together while deadlines are missed, and raises them again.

    Attributes:
        scale: 0.2..1, what the wanted rates are multiplied with.
    """

    def __init__(self) -> None:
        self.scale = 1.0
        self._window_start_s: float | None = None
        self._met = 0
        self._missed = 0

    def note(self, now_s: float, *, missed: bool) -> bool:
        """Count one analysed frame; True when `scale` has just changed."""
        if self._window_start_s is None:
            self._window_start_s = now_s
        self._missed += missed
        self._met += not missed
        if now_s - self._window_start_s < WINDOW_S:
            return False
        share = self._missed / (self._missed + self._met)
        before = self.scale
        if share > OVERLOAD_SHARE:
            self.scale = max(LOWEST, self.scale * STEP_DOWN)
        elif share < RELIEF_SHARE:
            self.scale = min(1.0, self.scale * STEP_UP)
        self._window_start_s, self._met, self._missed = now_s, 0, 0
        if self.scale == before:
            return False
        log.warning(
            "analysis rates lowered" if self.scale < before else "analysis rates raised",
            scale=round(self.scale, 2),
            deadlines_missed=round(share, 2),
        )
        return True


class Scheduler:
    """Takes frames from the mailboxes in the order of their deadlines.

    Args:
        mailboxes: By camera id.
        rate_hz: What a camera's scenarios want at stream time t.
        fire_cameras: Those whose rate has a floor.
        governed: Whether overload lowers rates; not where sources wait for us and nothing can be lost.
        batch: Frames given out at a time.
    """

    def __init__(
        self,
        mailboxes: Mapping[str, Mailbox],
        rate_hz: Callable[[str, float], float],
        fire_cameras: Iterable[str] = (),
        *,
        governed: bool = True,
        batch: int = BATCH,
    ) -> None:
        self._mailboxes = mailboxes
        self._rate_hz = rate_hz
        self._fire = frozenset(fire_cameras)
        self._turns = {camera_id: _Turn() for camera_id in mailboxes}
        self._governed = governed
        self._batch = batch
        self.governor = Governor()

    def start(self, t: float) -> None:
        """Tell every mailbox the rate that is wanted at first."""
        for camera_id in self._mailboxes:
            self._grant(camera_id, t)

    def next_batch(self, now_s: float) -> list[Frame]:
        """Waiting frames, at most a batch, the most urgent first; empty when none waits.

        Args:
            now_s: Monotonic clock in seconds.
        """
        waiting = [camera_id for camera_id, box in self._mailboxes.items() if box.waiting]
        waiting.sort(key=self._deadline_s)
        frames: list[Frame] = []
        for camera_id in waiting[: self._batch]:
            since_s = self._mailboxes[camera_id].waiting_since_s
            frame = self._mailboxes[camera_id].take()
            if frame is None:
                continue
            turn = self._turns[camera_id]
            period_s = 1.0 / max(turn.granted_hz, 0.01)
            # A stream that paused is not overload: only waiting in the mailbox counts. The newest frame has never
            # waited long, though: what counts is when the first came that it took the place of.
            late = since_s is not None and now_s - since_s > period_s
            if self._governed and self.governor.note(now_s, missed=late):
                for other in self._mailboxes:
                    self._grant(other, frame.t)
            turn.last_s = now_s
            frames.append(frame)
        return frames

    def analysed(self, frame: Frame) -> None:
        """The frame is done: its scenarios may want another rate now."""
        self._grant(frame.camera_id, frame.t)
        self._mailboxes[frame.camera_id].done()

    def granted_hz(self, camera_id: str) -> float:
        """The rate at which the camera is analysed now."""
        return self._turns[camera_id].granted_hz

    def wanted_hz(self, camera_id: str) -> float:
        """The rate that its scenarios want."""
        return self._turns[camera_id].wanted_hz

    def _deadline_s(self, camera_id: str) -> float:
        turn = self._turns[camera_id]
        return turn.last_s + 1.0 / max(turn.granted_hz, 0.01)

    def _grant(self, camera_id: str, t: float) -> None:
        turn = self._turns[camera_id]
        turn.wanted_hz = self._rate_hz(camera_id, t)
        granted = turn.wanted_hz * self.governor.scale
        floor_hz = FIRE_FLOOR_HZ if camera_id in self._fire else FLOOR_HZ
        granted = max(granted, min(turn.wanted_hz, floor_hz))
        if granted != turn.granted_hz:
            turn.granted_hz = granted
            self._mailboxes[camera_id].set_rate(granted)
