"""Packets become pictures: which of them reach the decoder, and which pictures are converted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Protocol

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from pipeline.capture.source import AvSource, PictureSource, Source, StreamPacket
from pipeline.frame import Image

__all__ = [
    "AvDecoder",
    "DecodeLevel",
    "Decoder",
    "KeyframeMeter",
    "Picture",
    "PictureDecoder",
    "Sampler",
    "decoder_for",
]


class DecodeLevel(StrEnum):
    """How much of a stream is decoded, from the cheapest to the dearest."""

    KEYFRAMES = "keyframes"
    REFERENCE = "reference"
    ALL = "all"


class Sampler:
    """Says which pictures are due at a rate, on a grid in stream time so that the mean rate holds under jitter.

    Args:
        rate_hz: Pictures per second; 0 for none, infinity for all.
    """

    # A picture this much early is taken (but no more than a quarter of a period): key frames jitter by
    # milliseconds, and the next one may be seconds away.
    SLACK_S = 0.1

    def __init__(self, rate_hz: float) -> None:
        self._period_s = _period(rate_hz)
        self._due_t = float("-inf")
        self._last_t = float("-inf")

    @property
    def period_s(self) -> float:
        """Seconds between two due pictures."""
        return self._period_s

    def set_rate(self, rate_hz: float) -> None:
        """Change the rate; a higher one counts from the last taken picture."""
        period_s = _period(rate_hz)
        if period_s != self._period_s:
            self._period_s = period_s
            self._due_t = self._last_t + period_s

    def is_due(self, t: float) -> bool:
        """Whether a picture at `t` is wanted."""
        return t >= self._due_t - min(self.SLACK_S, self._period_s / 4)

    def taken(self, t: float) -> None:
        """A picture at `t` was delivered."""
        late = t - self._due_t > self._period_s
        self._due_t = (t if late else self._due_t) + self._period_s
        self._last_t = t


def _period(rate_hz: float) -> float:
    return 1.0 / rate_hz if rate_hz > 0 else float("inf")


class KeyframeMeter:
    """Measures a stream group by group: the time between key frames, and the rate that its reference frames give."""

    # Encoders vary the interval; the longest of the recent ones is what a rule must live with.
    RECENT = 5

    def __init__(self) -> None:
        self._intervals: deque[float] = deque(maxlen=self.RECENT)
        self._key_t: float | None = None
        self._now_t: float | None = None
        self._packets = 0
        self._pictures = 0
        self._levels: set[DecodeLevel] = set()
        self._packet_rate_hz: float | None = None
        self._reference_rate_hz: float | None = None

    def packet(self, t: float, *, keyframe: bool) -> None:
        """Take note of a packet at stream time `t`."""
        self._now_t = t
        if keyframe:
            if self._key_t is not None and t > self._key_t:
                self._intervals.append(t - self._key_t)
                self._packet_rate_hz = self._packets / (t - self._key_t)
                if self._levels == {DecodeLevel.REFERENCE}:
                    self._reference_rate_hz = self._pictures / (t - self._key_t)
            self._key_t = t
            self._packets = self._pictures = 0
            self._levels.clear()
        self._packets += 1

    def decoded(self, level: DecodeLevel, pictures: int) -> None:
        """Take note of how many pictures the decoder gave for that packet at `level`."""
        self._levels.add(level)
        self._pictures += pictures

    def restart(self) -> None:
        """The stream begins anew; what was measured still stands."""
        self._key_t = self._now_t = None

    @property
    def interval_s(self) -> float | None:
        """Longest of the recent intervals in seconds, growing while a key frame is overdue; None until measured."""
        if not self._intervals:
            return None
        longest = max(self._intervals)
        if self._key_t is not None and self._now_t is not None:
            longest = max(longest, self._now_t - self._key_t)
        return longest

    def level(self, period_s: float) -> DecodeLevel:
        """The cheapest level that gives a picture every `period_s` seconds."""
        interval_s = self.interval_s
        # Five per cent for jitter: a camera set to one key frame a second means it, even where it measures 1.004 s.
        if interval_s is not None and interval_s <= period_s * 1.05:
            return DecodeLevel.KEYFRAMES
        # Until it is measured, every fourth picture is taken to be a reference: encoders put at most three between.
        guess_hz = None if self._packet_rate_hz is None else self._packet_rate_hz / 4
        reference_hz = self._reference_rate_hz or guess_hz
        # Reference frames come unevenly: twice as many as wanted, or the gaps between pictures would vary too much.
        if reference_hz is not None and reference_hz * period_s >= 2.0:
            return DecodeLevel.REFERENCE
        return DecodeLevel.ALL


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture that is not yet converted.

    Attributes:
        pts_s: Its presentation stamp in seconds, or None.
        keyframe: Whether it is a key frame.
        scaled: Makes the picture at most so many pixels wide, (h, w, 3) uint8 BGR.
        full_size: Makes it at its own size; may be called later and from another thread.
    """

    pts_s: float | None
    keyframe: bool
    scaled: Callable[[int], Image]
    full_size: Callable[[], Image]


class Decoder(Protocol):
    """Decodes one stream."""

    corrupt: int

    def decode(self, packet: StreamPacket, level: DecodeLevel, *, wanted: bool) -> list[Picture]:
        """Pictures that this packet completes, in order of presentation.

        Args:
            packet: The next packet of the stream; every packet must be shown, so that gaps are known.
            level: How much to decode.
            wanted: Whether a picture at this packet's time is due; lets a lone key frame be skipped.
        """

    def flush(self) -> list[Picture]:
        """Pictures still held back at the end of the stream."""


def decoder_for(source: Source) -> Decoder:
    """The decoder of a source."""
    if isinstance(source, AvSource):
        return AvDecoder(source.stream)
    if isinstance(source, PictureSource):
        return PictureDecoder()
    raise TypeError(f"no decoder for {type(source).__name__}")


class AvDecoder:
    """FFmpeg's decoder of one stream, with damaged packets counted and passed over.

    Args:
        stream: The opened stream; its codec context is used by this object alone.
    """

    # Streams that refresh by stripes have no key frame at all: after so many packets the decoder may try on its own.
    PATIENCE_PACKETS = 300

    def __init__(self, stream: VideoStream) -> None:
        self.corrupt = 0
        self._context = stream.codec_context
        # Of the stream, not the frame: PyAV leaves it out of frames that are drained.
        self._time_base = stream.time_base or Fraction(1, 1)
        self._reformatter = VideoReformatter()
        self._stamps = _Stamps()
        self._needs_key = True
        self._waited = 0

    def decode(self, packet: StreamPacket, level: DecodeLevel, *, wanted: bool) -> list[Picture]:
        """Pictures that this packet completes."""
        assert not isinstance(packet.raw, Path)  # noqa: S101 - the source and the decoder are made as a pair
        if packet.corrupt:
            self.corrupt += 1
            self._needs_key = True
        alone = level is DecodeLevel.KEYFRAMES
        if packet.keyframe and not packet.corrupt and (wanted or not alone):
            self._needs_key = False
            self._waited = 0
        elif alone or self._needs_key:
            # Packets that nobody wanted are no sign of a stream without key frames.
            self._waited = 0 if alone else self._waited + 1
            if alone or packet.corrupt or self._waited < self.PATIENCE_PACKETS:
                self._needs_key = True
                return []
        self._context.skip_frame = "NONREF" if level is DecodeLevel.REFERENCE else "DEFAULT"
        try:
            frames = self._context.decode(packet.raw)
            if alone:
                # By itself a key frame would stay in the reorder buffer until the next one: drain it, begin afresh.
                frames += self._context.decode(None)
                self._context.flush_buffers()
                self._needs_key = True
        except av.FFmpegError:
            self.corrupt += 1
            if alone:
                self._context.flush_buffers()
            return []
        return self._pictures(frames)

    def flush(self) -> list[Picture]:
        """Pictures still held back."""
        try:
            frames = self._context.decode(None)
        except av.FFmpegError:  # EOFError where the decoder is drained already
            return []
        finally:
            self._context.flush_buffers()
            self._needs_key = True
        return self._pictures(frames)

    def _pictures(self, frames: list[VideoFrame]) -> list[Picture]:
        pictures = []
        for frame in frames:
            if frame.is_corrupt:
                self.corrupt += 1
                continue
            stamp = self._stamps.choose(frame.pts, frame.dts)
            pts_s = None if stamp is None else float(stamp * self._time_base)
            scaled = partial(_convert, frame, self._reformatter)
            full_size = partial(_convert, frame, VideoReformatter(), None)
            pictures.append(Picture(pts_s, bool(frame.key_frame), scaled, full_size))
        return pictures


class _Stamps:
    """Chooses between a picture's PTS and DTS by which of them has gone back less often.

    As FFmpeg's ``best_effort_timestamp`` does, which PyAV does not show: AVI files with packed B-frames have wrong PTS.
    """

    def __init__(self) -> None:
        self._last_pts = self._last_dts = float("-inf")
        self._faulty_pts = self._faulty_dts = 0

    def choose(self, pts: int | None, dts: int | None) -> int | None:
        if dts is not None:
            self._faulty_dts += dts <= self._last_dts
            self._last_dts = dts
        if pts is not None:
            self._faulty_pts += pts <= self._last_pts
            self._last_pts = pts
        return (
            pts
            if dts is None or (pts is not None and self._faulty_pts <= self._faulty_dts)
            else dts
        )


# Display matrix angles count counter-clockwise.
_ROTATIONS = {
    90: cv2.ROTATE_90_COUNTERCLOCKWISE,
    -90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    -180: cv2.ROTATE_180,
}


def _convert(frame: VideoFrame, reformatter: VideoReformatter, max_width: int | None) -> Image:
    """BGR in one swscale pass, turned as the display matrix says."""
    rotation = round(frame.rotation / 90) * 90
    shown_width = frame.height if rotation in (90, -90) else frame.width
    scale = 1.0 if max_width is None else min(1.0, max_width / shown_width)
    scaled = reformatter.reformat(
        frame,
        width=max(1, round(frame.width * scale)),
        height=max(1, round(frame.height * scale)),
        format="bgr24",
        # Averages over the source pixels when reducing: thin smoke and far flames do not flicker away as with bilinear.
        interpolation=Interpolation.AREA,
        threads=1,
    )
    image: Image = scaled.to_ndarray()  # type: ignore[assignment]  # bgr24 is uint8
    code = _ROTATIONS.get(rotation)
    return image if code is None else cv2.rotate(image, code)


class PictureDecoder:
    """Decodes picture files."""

    def __init__(self) -> None:
        self.corrupt = 0

    def decode(self, packet: StreamPacket, level: DecodeLevel, *, wanted: bool) -> list[Picture]:  # noqa: ARG002
        """The picture, or nothing if it is damaged or not wanted."""
        if not wanted:
            return []
        assert isinstance(packet.raw, Path)  # noqa: S101 - the source and the decoder are made as a pair
        try:
            data = np.fromfile(packet.raw, dtype=np.uint8)  # cv2.imread fails on non-ASCII names
            decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        except (OSError, cv2.error):
            decoded = None
        if decoded is None:
            self.corrupt += 1
            return []
        image: Image = decoded
        return [Picture(packet.pts_s, True, lambda width: _shrink(image, width), lambda: image)]

    def flush(self) -> list[Picture]:
        """Pictures are never held back."""
        return []


def _shrink(image: Image, max_width: int) -> Image:
    height, width = image.shape[:2]
    if width <= max_width:
        return image
    size = (max_width, max(1, round(height * max_width / width)))
    shrunk: Image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return shrunk
