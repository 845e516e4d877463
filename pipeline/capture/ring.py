"""The last seconds of a stream as packets, from which evidence clips are cut without having decoded anything."""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import av
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from pipeline.capture.source import StreamPacket
from pipeline.exceptions import EvidenceError
from pipeline.frame import Image

__all__ = ["Burn", "Clip", "PacketRing"]

Burn = Callable[[Image], Image]
"""Takes and gives (h, w, 3) uint8 BGR; burns privacy masks in."""

# What browsers play from an MP4 as it is; H.265 where the hardware can.
REMUXABLE = frozenset({"h264", "hevc"})
# Fine enough for any camera, and what MP4 players expect.
TIME_BASE = Fraction(1, 90_000)
# Transcoding is for a person's look at an event: at full size it would cost a 2-core host seconds per second of clip.
TRANSCODE_WIDTH_PX = 1280
X264 = {"preset": "veryfast", "crf": "26", "threads": "1", "profile": "high"}


@dataclass(frozen=True, slots=True)
class Clip:
    """A written clip.

    Attributes:
        path: The MP4 file.
        t_from: Stream time of its first picture, seconds since the Unix epoch; a key frame, hence up to a key-frame
            interval before what was asked, or later if the ring does not reach back so far.
        t_to: Stream time of its last picture.
        size: Bytes.
        transcoded: Whether its pictures were encoded anew.
    """

    path: Path
    t_from: float
    t_to: float
    size: int
    transcoded: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Connection:
    """What the packets of one connection have in common: no clip can go from one into the next."""

    header: bytes
    codec: str


@dataclass(frozen=True, slots=True)
class _Entry:
    connection: _Connection
    data: bytes
    t: float
    pts_s: float | None
    dts_s: float | None
    keyframe: bool


class PacketRing:
    """Keeps the packets of the last `seconds`, within `max_bytes`, of one stream, across its reconnects.

    The packets are copied, so that a closed connection's memory is never touched. Safe for one writer and any readers.

    Args:
        seconds: How far back it reaches at least, if the bytes allow; it drops whole groups of pictures.
        max_bytes: Bound on the packets' bytes.
    """

    def __init__(self, seconds: float, max_bytes: int) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: deque[_Entry] = deque()
        self._bytes = 0
        self._template: VideoStream | None = None
        self._connection: _Connection | None = None

    def begin(self, stream: VideoStream) -> None:
        """A connection begins, or a file begins again; its parameters may differ from the former one's."""
        with self._lock:
            self._template, self._connection = stream, None

    def add(self, packet: StreamPacket, t: float) -> None:
        """Keep a packet that belongs to the stream given to `begin`, at stream time `t`."""
        raw = packet.raw
        if isinstance(raw, Path) or packet.corrupt:
            return
        base = raw.time_base
        data = bytes(raw)
        with self._lock:
            if self._connection is None:
                if not packet.keyframe or self._template is None:
                    return  # nothing before the first key frame can be shown
                header = _header(self._template, data)
                self._connection = _Connection(header, self._template.codec_context.name)
                self._template = None
            entry = _Entry(
                self._connection,
                data,
                t,
                None if raw.pts is None else float(raw.pts * base),
                None if raw.dts is None else float(raw.dts * base),
                packet.keyframe,
            )
            self._entries.append(entry)
            self._bytes += len(entry.data)
            self._trim(t)

    def _trim(self, t: float) -> None:
        """Drop whole groups of pictures that are too old or too many."""
        while self._bytes > self._max_bytes or self._entries[0].t < t - self._seconds:
            second = next((i for i, e in enumerate(self._entries) if i and e.keyframe), None)
            over = self._bytes > self._max_bytes
            if second is None:
                if over:  # one group alone is too large: keep nothing rather than pictures that cannot be decoded
                    self._entries.clear()
                    self._bytes = 0
                return
            if not over and self._entries[second].t > t - self._seconds:
                return  # the oldest group is still needed to reach back far enough
            for _ in range(second):
                self._bytes -= len(self._entries.popleft().data)
            if not self._entries:
                return

    @property
    def span(self) -> tuple[float, float] | None:
        """Stream times of the first and last packet held, or None while empty."""
        with self._lock:
            return (self._entries[0].t, self._entries[-1].t) if self._entries else None

    @property
    def bytes(self) -> int:
        """Bytes held."""
        with self._lock:
            return self._bytes

    def clip(
        self,
        t_from: float,
        t_to: float,
        path: Path,
        burn: Burn | None = None,
        about_t: float | None = None,
    ) -> Clip:
        """Write what lies between two stream times as an MP4 that browsers play.

        Where the stream broke off in between, the clip shows the connection that was there at `about_t`, else at
        `t_from`, else the newest. H.264 and H.265 are copied as they are; other codecs, and everything when `burn` is
        given, are encoded as H.264 picture by picture. The file appears under its name only when it is whole.

        Args:
            t_from: First moment wanted, seconds since the Unix epoch.
            t_to: Last moment wanted.
            path: Target, ending in ``.mp4``.
            burn: Applied to every picture, at most `TRANSCODE_WIDTH_PX` wide, before it is encoded.
            about_t: The moment that matters; `t_from` if None.

        Raises:
            EvidenceError: if the ring holds nothing of that time or the file cannot be written.
        """
        with self._lock:
            held = list(self._entries)
        about_t = t_from if about_t is None else about_t
        entries = _cut(_of_one_connection(held, t_from, t_to, about_t), t_from, t_to)
        if not entries:
            raise EvidenceError(f"{path.name}: no packets from {t_from:.3f} to {t_to:.3f} are held")
        header, codec = entries[0].connection.header, entries[0].connection.codec
        temporary = path.with_name(f".{path.name}.part")
        try:
            if burn is None and codec in REMUXABLE:
                t_first, t_last = _remux(entries, header, temporary)
                transcoded = False
            else:
                t_first, t_last = _transcode(entries, header, temporary, burn, t_to)
                transcoded = True
            size = temporary.stat().st_size
            temporary.replace(path)
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise EvidenceError(f"{path.name}: clip could not be written: {reason}") from None
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        return Clip(path, t_first, t_last, size, transcoded)


def _header(template: VideoStream, key_frame: bytes) -> bytes:
    """The stream's parameters in memory, verbatim: NUT keeps extradata as it is, Annex B or avcC."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="nut") as container:
        stream = container.add_stream_from_template(template)
        packet = av.Packet(key_frame)
        packet.pts = packet.dts = 0
        packet.time_base = template.time_base or TIME_BASE
        packet.is_keyframe = True
        packet.stream = stream
        container.mux(packet)
    return buffer.getvalue()


def _of_one_connection(
    entries: list[_Entry], t_from: float, t_to: float, about_t: float
) -> list[_Entry]:
    """The packets of the connection that shows `about_t`, else `t_from`, else the newest that shows anything of it."""
    connections = [list(group) for _, group in groupby(entries, key=lambda e: e.connection)]

    def shows(connection: list[_Entry], t: float) -> bool:
        return connection[0].t <= t <= connection[-1].t

    overlapping = [c for c in reversed(connections) if c[0].t <= t_to and c[-1].t >= t_from]
    return max(overlapping, key=lambda c: (shows(c, about_t), shows(c, t_from)), default=[])


def _cut(entries: list[_Entry], t_from: float, t_to: float) -> list[_Entry]:
    """From the last key frame at or before `t_from` (or the first there is) up to `t_to`."""
    start = None
    for index, entry in enumerate(entries):
        if entry.keyframe and (entry.t <= t_from or start is None):
            start = index
        if entry.t > t_from and start is not None:
            break
    if start is None:
        return []
    end = next((i for i, e in enumerate(entries) if i > start and e.t > t_to), len(entries))
    return entries[start:end] if entries[start].t <= t_to else []


def _stamps(entries: list[_Entry]) -> Iterator[tuple[_Entry, int, int]]:
    """Entries with (pts, dts) in `TIME_BASE` from zero on; DTS strictly rising and never beyond PTS."""
    first = next((e.dts_s if e.dts_s is not None else e.pts_s for e in entries), None)
    origin_t = entries[0].t
    last = -1
    for entry in entries:
        dts_s, pts_s = entry.dts_s, entry.pts_s
        if first is None or (dts_s is None and pts_s is None):
            dts_s = pts_s = entry.t - origin_t  # no stamps: the time of arrival
        else:
            dts_s = (dts_s if dts_s is not None else pts_s) - first  # type: ignore[operator]  # one of them is there
            pts_s = dts_s if pts_s is None else pts_s - first
        dts = max(round(dts_s / TIME_BASE), last + 1)
        last = dts
        yield entry, max(round(pts_s / TIME_BASE), dts), dts


def _open_output(path: Path) -> OutputContainer:
    path.parent.mkdir(parents=True, exist_ok=True)
    return av.open(path, "w", format="mp4", options={"movflags": "+faststart"})


def _remux(entries: list[_Entry], header: bytes, path: Path) -> tuple[float, float]:
    with av.open(io.BytesIO(header), "r", format="nut") as template, _open_output(path) as output:
        stream = output.add_stream_from_template(template.streams.video[0])
        if stream.codec_context.name == "hevc":
            stream.codec_tag = "hvc1"  # Safari refuses hev1
        for entry, pts, dts in _stamps(entries):
            packet = av.Packet(entry.data)
            packet.pts, packet.dts, packet.time_base = pts, dts, TIME_BASE
            packet.is_keyframe = entry.keyframe
            packet.stream = stream
            output.mux(packet)
    return entries[0].t, max(entry.t for entry in entries)


def _transcode(
    entries: list[_Entry], header: bytes, path: Path, burn: Burn | None, t_to: float
) -> tuple[float, float]:
    """Decode, burn and encode one picture at a time."""
    with av.open(io.BytesIO(header), "r", format="nut") as template:
        source = template.streams.video[0]
        decoder = source.codec_context
        decoder.thread_count = 1
        writer = _Encoder(path, burn)
        try:
            for entry, pts, dts in _stamps(entries):
                packet = av.Packet(entry.data)
                packet.pts, packet.dts, packet.time_base = pts, dts, TIME_BASE
                with suppress(
                    av.InvalidDataError
                ):  # a damaged packet costs its picture, not the clip
                    for frame in decoder.decode(packet):
                        writer.write(frame)
            with suppress(av.EOFError):
                for frame in decoder.decode(None):
                    writer.write(frame)
        finally:
            writer.close()
    if writer.last_pts is None:
        raise ValueError("no picture could be decoded")
    return entries[0].t, min(t_to, max(entry.t for entry in entries))


class _Encoder:
    """H.264 in MP4 from frames stamped in `TIME_BASE`; opened at the first picture, whose size rules the clip."""

    def __init__(self, path: Path, burn: Burn | None) -> None:
        self._path = path
        self._burn = burn
        self._reformatter = VideoReformatter()
        self._output: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self.last_pts: int | None = None

    def write(self, frame: VideoFrame) -> None:
        """Encode one decoded picture."""
        if self._output is None or self._stream is None:
            scale = min(1.0, TRANSCODE_WIDTH_PX / frame.width)
            self._output = _open_output(self._path)
            self._stream = self._output.add_stream("libx264", rate=25, options=X264)
            # 4:2:0 needs even sizes.
            self._stream.width = max(2, round(frame.width * scale / 2) * 2)
            self._stream.height = max(2, round(frame.height * scale / 2) * 2)
            self._stream.pix_fmt = "yuv420p"
            self._stream.time_base = TIME_BASE
            self._stream.codec_context.time_base = TIME_BASE
        stamp = frame.pts if frame.pts is not None else (self.last_pts or 0) + 3600
        if self.last_pts is not None and stamp <= self.last_pts:
            return
        size = {"width": self._stream.width, "height": self._stream.height}
        if self._burn is None:
            picture = self._reformatter.reformat(frame, format="yuv420p", threads=1, **size)
        else:
            plain = self._reformatter.reformat(frame, format="bgr24", threads=1, **size)
            burned = self._burn(plain.to_ndarray())  # type: ignore[arg-type]  # bgr24 is uint8
            picture = VideoFrame.from_ndarray(burned, format="bgr24")
        picture.pts, picture.time_base = stamp, TIME_BASE
        self.last_pts = stamp
        self._output.mux(self._stream.encode(picture))

    def close(self) -> None:
        """Write what the encoder holds and the index."""
        if self._output is not None and self._stream is not None:
            try:
                self._output.mux(self._stream.encode(None))
            finally:
                self._output.close()
