"""From presentation stamps to Unix time, without ever believing a camera's clock."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "FileTimeline", "HostClock", "LiveTimeline", "Timeline"]

# Beyond this the stamps are not those of a running clock any more (design decision 1).
MAX_DRIFT_S = 1.0
# Keeps time strictly monotone where a source does not; far below picture intervals, far above a float's step (2e-7 s).
TICK_S = 0.001
# A gap in a file longer than this and far out of its own rhythm is a broken stamp (wrapped counter, splice).
MAX_FILE_GAP_S = 60.0
MAX_FILE_GAP_INTERVALS = 100.0
# Rates beyond these are wrong tags (1000 fps in ASF, 0 in raw streams), not cameras.
SANE_RATE_HZ = (0.01, 240.0)
DEFAULT_RATE_HZ = 25.0


class Clock(Protocol):
    """The host's time, of which tests make their own."""

    def now(self) -> float:
        """Seconds since the Unix epoch; never goes back."""

    def monotonic(self) -> float:
        """Seconds of the monotonic clock."""


class HostClock:
    """Unix time read once, then carried on by the monotonic clock: NTP steps do not move a dwell."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def now(self) -> float:
        """Seconds since the Unix epoch; never goes back."""
        return self._offset_s + time.monotonic()

    def monotonic(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()


class Timeline(Protocol):
    """Gives packets and pictures of one camera their stream time."""

    def packet(self, pts_s: float | None, now: float) -> float:
        """Stream time of a packet, in seconds; call it for every packet in the order of arrival.

        Args:
            pts_s: Presentation stamp in seconds, or None where the container has none.
            now: Unix time at its arrival.
        """

    def frame(self, pts_s: float | None, now: float) -> float:
        """Stream time of a decoded picture, in seconds, strictly greater than that of the one before."""

    def restart(self) -> None:
        """The stream begins anew (reconnect, loop): its stamps have nothing to do with the former ones."""


class LiveTimeline:
    """PTS deltas from an anchor, re-anchored to arrival when both drift apart by more than a second.

    A picture cannot come from the future: a stamp ahead of the clock moves the anchor back, which also settles the
    anchor on the least network delay seen, as a minimum filter does.
    """

    def __init__(self) -> None:
        self._offset_s: float | None = None
        self._last_t = float("-inf")

    def packet(self, pts_s: float | None, now: float) -> float:
        """Stream time of a packet; moves the anchor where needed."""
        if pts_s is None:
            return now
        if self._offset_s is None or not now - MAX_DRIFT_S <= self._offset_s + pts_s <= now:
            self._offset_s = now - pts_s
        return self._offset_s + pts_s

    def frame(self, pts_s: float | None, now: float) -> float:
        """Stream time of a picture, at most `MAX_DRIFT_S` before `now`."""
        t = now if pts_s is None or self._offset_s is None else self._offset_s + pts_s
        t = min(max(t, now - MAX_DRIFT_S), now)
        self._last_t = max(t, self._last_t + TICK_S)
        return self._last_t

    def restart(self) -> None:
        """Anchor at the next packet."""
        self._offset_s = None


class FileTimeline:
    """A file's own stamps from a start time; where they are missing or broken, its measured rate fills in.

    Args:
        start_t: Unix time of the first picture.
        rate_hz: The container's rate tag; used only while stamps are missing and if it is sane.
    """

    def __init__(self, start_t: float, rate_hz: float | None = None) -> None:
        self._start_t = start_t
        low, high = SANE_RATE_HZ
        sane = rate_hz if rate_hz is not None and low <= rate_hz <= high else DEFAULT_RATE_HZ
        self._interval_s = 1.0 / sane
        self._offset_s: float | None = None
        self._last_t: float | None = None
        self._last_pts_s: float | None = None
        self._unstamped = 0
        self._measured = False
        self._packet_offset_s: float | None = None
        self._packet_pts_s = 0.0

    def packet(self, pts_s: float | None, now: float) -> float:  # noqa: ARG002
        """Stream time of a packet: by the pictures' anchor, or where a loop or a broken stamp leaves none, by its own.

        Time must not stand still until the next picture: one that is only decoded when it is due would never be.
        """
        if pts_s is None:
            return self._start_t if self._last_t is None else self._last_t
        if self._packet_offset_s is None or self._is_broken(pts_s - self._packet_pts_s):
            self._packet_offset_s = self._expected_t() - pts_s
        self._packet_pts_s = pts_s
        return self._packet_offset_s + pts_s

    def _expected_t(self) -> float:
        return self._start_t if self._last_t is None else self._last_t + self._interval_s

    def frame(self, pts_s: float | None, now: float) -> float:  # noqa: ARG002
        """Stream time of the next picture."""
        last = self._last_t
        t = expected = self._expected_t()
        self._unstamped += 1
        if pts_s is not None:
            if self._offset_s is None:
                self._offset_s = expected - pts_s
            elif self._last_pts_s is not None:
                step_s = pts_s - self._last_pts_s
                if self._is_broken(step_s):
                    self._offset_s = expected - pts_s
                elif step_s > 0:
                    self._measure(step_s / self._unstamped)
            t = self._offset_s + pts_s
            self._last_pts_s, self._unstamped = pts_s, 0
            self._packet_offset_s = self._offset_s
        self._last_t = t if last is None else max(t, last + TICK_S)
        return self._last_t

    def _is_broken(self, step_s: float) -> bool:
        # A small step back is disorder that the next stamps make good; more is a counter that began anew.
        return step_s < -MAX_DRIFT_S or (
            step_s > MAX_FILE_GAP_S and step_s > MAX_FILE_GAP_INTERVALS * self._interval_s
        )

    def _measure(self, step_s: float) -> None:
        # A slow average: pictures of a file need not be evenly spaced, one gap must not become the rate.
        self._interval_s = step_s if not self._measured else 0.9 * self._interval_s + 0.1 * step_s
        self._measured = True

    def restart(self) -> None:
        """The file begins again (loop): time goes on by one picture interval."""
        self._offset_s = self._packet_offset_s = None
        self._last_pts_s = None
