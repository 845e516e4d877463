"""Opening a stream and reading its packets: the one border where FFmpeg's errors become `CaptureError`."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import av
import structlog
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.stream import Discard
from av.video.stream import VideoStream

from pipeline.capture.settings import StreamSettings, is_device, is_live, redact
from pipeline.exceptions import CaptureError

__all__ = ["AvSource", "PictureSource", "Source", "StreamInfo", "StreamPacket", "open_source"]

log = structlog.get_logger(__name__)

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
# Demuxers that invent stamps from an assumed rate: arrival is nearer to the truth.
STAMPLESS_FORMATS = frozenset({"mpjpeg", "mjpeg", "image2pipe", "jpeg_pipe"})
# A camera's SDP usually holds all parameters; where it does not, a key frame of a long group must be waited for.
LIVE_ANALYSE_S = 5.0


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What the container says of its video; width and height in pixels may be 0 and the rate wrong.

    Attributes:
        codec: FFmpeg's codec name, e.g. ``h264``.
        width_px: Coded width.
        height_px: Coded height.
        rate_hz: Tagged picture rate, or None.
    """

    codec: str
    width_px: int
    height_px: int
    rate_hz: float | None


@dataclass(frozen=True, slots=True, eq=False)
class StreamPacket:
    """One compressed picture.

    Attributes:
        raw: PyAV's packet, or the path of a picture file.
        pts_s: Presentation stamp in seconds of the stream's own time, or None.
        size: Bytes.
        keyframe: Whether decoding can begin here.
        corrupt: Whether the demuxer knows it to be damaged.
    """

    raw: av.Packet[VideoStream] | Path
    pts_s: float | None
    size: int
    keyframe: bool
    corrupt: bool = False


class Source(Protocol):
    """An opened stream."""

    @property
    def info(self) -> StreamInfo:
        """What the container says of its video."""

    def packets(self) -> Iterator[StreamPacket]:
        """Packets until the end of the stream.

        Raises:
            CaptureError: if reading fails or no packet came for `read_timeout`.
        """

    def close(self) -> None:
        """Release the connection; safe to call twice."""


class StalledError(CaptureError):
    """No packet came for the read time-out; the reader tells it apart from a lost connection."""


def open_source(settings: StreamSettings, url: str) -> Source:
    """Open `url`, which is one of the settings' streams.

    Raises:
        CaptureError: if it cannot be opened, saying which of address, login, path or content is wrong.
    """
    if not is_live(url):
        path = Path(url)
        if path.is_dir() or path.suffix.lower() in PICTURE_SUFFIXES:
            return PictureSource(path, interval_s=settings.picture_interval)
    return AvSource(settings, url)


class AvSource:
    """A network stream, a device or a video file, through FFmpeg.

    Args:
        settings: Time-outs, transport and hardware decoder.
        url: Which of its addresses.

    Raises:
        CaptureError: if it cannot be opened or holds no video.
    """

    def __init__(self, settings: StreamSettings, url: str) -> None:
        self._url = url
        self._place = redact(url)
        self._read_timeout_s = settings.read_timeout
        self._live = is_live(url)
        started_s = time.monotonic()
        try:
            self._container = self._open(settings, url)
        except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
            # FFmpeg calls an RTSP handshake that PyAV interrupted "invalid data".
            late = self._live and time.monotonic() - started_s >= settings.open_timeout
            cause = TimeoutError() if late else error
            raise _capture_error(url, cause, settings.open_timeout, opening=True) from None
        try:
            self._stream: VideoStream = self._container.streams.video[0]
            if self._stream.codec_context is None:
                raise CaptureError(
                    f"{self._place}: no decoder for its video codec; expected one that this FFmpeg knows",
                    retryable=False,
                )
        except IndexError:
            self._container.close()
            raise CaptureError(
                f"{self._place}: holds no video; expected at least one video stream",
                retryable=False,
            ) from None
        except CaptureError:
            self._container.close()
            raise
        # One thread per decoder: a native crash is then this camera's, and dozens of cameras stay dozens of threads.
        self._stream.codec_context.thread_count = 1
        self._stream.codec_context.thread_type = "NONE"
        self._stamped = self._container.format.name not in STAMPLESS_FORMATS
        for other in self._container.streams:
            if other is not self._stream:
                other.discard = Discard.all

    def _open(self, settings: StreamSettings, url: str) -> InputContainer:
        options: dict[str, str] = {}
        timeout: tuple[float, float] | None = None
        if self._live:
            timeout = (settings.open_timeout, settings.read_timeout)
            options["analyzeduration"] = str(int(min(LIVE_ANALYSE_S, settings.open_timeout) * 1e6))
            options["fpsprobesize"] = "0"  # or it waits for 20 pictures only to guess the rate
        if url.lower().startswith(("rtsp://", "rtsps://")):
            options["rtsp_transport"] = settings.transport
            options["allowed_media_types"] = "video"
            options["timeout"] = _socket_timeout(settings)
        elif self._live and not is_device(url):
            options["rw_timeout"] = _socket_timeout(settings)
        accelerator = None
        if settings.hwaccel is not None:
            try:
                accelerator = HWAccel(settings.hwaccel, allow_software_fallback=True)
            except (NotImplementedError, RuntimeError, ValueError) as error:
                log.warning(
                    "hardware decoder unusable, decoding in software",
                    stream=self._place,
                    hwaccel=settings.hwaccel,
                    reason=type(error).__name__,
                )
        return av.open(
            url,
            "r",
            format="video4linux2" if is_device(url) else None,
            options=options,
            timeout=timeout,
            hwaccel=accelerator,
        )

    @property
    def stream(self) -> VideoStream:
        """PyAV's stream, for its decoder and as a template for remuxing."""
        return self._stream

    @property
    def info(self) -> StreamInfo:
        """What the container says of its video."""
        context, rate = self._stream.codec_context, self._stream.average_rate
        return StreamInfo(
            context.name, context.width, context.height, float(rate) if rate else None
        )

    def packets(self) -> Iterator[StreamPacket]:
        """Packets of the video stream until its end."""
        try:
            for raw in self._container.demux(self._stream):
                if raw.size == 0:
                    continue  # PyAV's flush marker
                stamp = raw.pts if raw.pts is not None else raw.dts
                pts_s = (
                    float(stamp * raw.time_base) if self._stamped and stamp is not None else None
                )
                yield StreamPacket(raw, pts_s, raw.size, raw.is_keyframe, raw.is_corrupt)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise _capture_error(self._url, error, self._read_timeout_s, opening=False) from None

    def close(self) -> None:
        """Close the connection."""
        self._container.close()


class PictureSource:
    """A folder of pictures in the order of their names, or one picture.

    Args:
        path: The folder or the file.
        interval_s: Seconds between two pictures.

    Raises:
        CaptureError: if there is no picture.
    """

    def __init__(self, path: Path, interval_s: float) -> None:
        try:
            self._paths = (
                sorted(
                    p
                    for p in path.iterdir()
                    if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file()
                )
                if path.is_dir()
                else [path]
            )
            if not path.exists():
                raise FileNotFoundError
        except OSError as error:
            raise _capture_error(str(path), error, 0.0, opening=True) from None
        if not self._paths:
            raise CaptureError(
                f"{path}: found no picture; expected files ending in {', '.join(sorted(PICTURE_SUFFIXES))}",
                retryable=False,
            )
        self._interval_s = interval_s

    @property
    def info(self) -> StreamInfo:
        """The interval of the pictures; their sizes may differ."""
        return StreamInfo("pictures", 0, 0, 1.0 / self._interval_s)

    def packets(self) -> Iterator[StreamPacket]:
        """One packet per picture file."""
        for index, path in enumerate(self._paths):
            try:
                size = path.stat().st_size
            except OSError:
                yield StreamPacket(path, index * self._interval_s, 0, keyframe=True, corrupt=True)
            else:
                yield StreamPacket(path, index * self._interval_s, size, keyframe=True)

    def close(self) -> None:
        """Nothing is held open."""


def _socket_timeout(settings: StreamSettings) -> str:
    """In µs, above PyAV's own time-outs, which say what happened; bounds what they leave out, such as the goodbye."""
    return str(int((max(settings.open_timeout, settings.read_timeout) + 1.0) * 1e6))


def _capture_error(
    url: str, error: BaseException, timeout_s: float, *, opening: bool
) -> CaptureError:
    """FFmpeg's error in words for the operator; its own text is not used, for it may quote the address."""
    place = redact(url)
    match error:
        case av.HTTPUnauthorizedError() | av.HTTPForbiddenError():
            return CaptureError(
                f"{place}: the camera refuses the login (wrong user or password)", retryable=False
            )
        case av.HTTPNotFoundError():
            return CaptureError(
                f"{place}: the camera answers, but has no stream at this path (404)",
                retryable=False,
            )
        case av.HTTPError() | av.HTTPClientError():
            kind = (
                "an error of its own (5xx)" if isinstance(error, av.HTTPServerError) else "an error"
            )
            return CaptureError(f"{place}: the server answers with {kind}")
        case ConnectionRefusedError():
            return CaptureError(f"{place}: connection refused; expected a server at this port")
        case av.ExitError() | TimeoutError():
            if opening:
                return CaptureError(f"{place}: no answer within {timeout_s:g} s")
            return StalledError(f"{place}: no packet for {timeout_s:g} s")
        case FileNotFoundError():
            return CaptureError(f"{place}: no such file or folder", retryable=False)
        case PermissionError():
            return CaptureError(f"{place}: may not be read (permission denied)", retryable=False)
        case av.InvalidDataError():
            return CaptureError(
                f"{place}: found data that is no video; expected a stream or file that FFmpeg reads",
                retryable=not opening,
            )
        case av.ProtocolNotFoundError() | av.DemuxerNotFoundError():
            return CaptureError(
                f"{place}: this kind of address is unknown; expected rtsp, http, a file or a device",
                retryable=False,
            )
        case av.FFmpegError() | OSError():
            if opening and is_live(url) and not is_device(url) and error.errno == errno.EIO:
                return CaptureError(f"{place}: {_why_input_output_error(url)}")
            reason = getattr(error, "strerror", None) or type(error).__name__
            return CaptureError(f"{place}: {'opening' if opening else 'reading'} failed: {reason}")
        case _:
            doing = "opening" if opening else "reading"
            return CaptureError(f"{place}: {doing} failed: {type(error).__name__}")


def _why_input_output_error(url: str) -> str:
    """FFmpeg says "Input/output error" both for an unknown host and for a web page in place of a stream."""
    try:
        host = urlsplit(url).hostname
        if host:
            socket.getaddrinfo(host, None)
    except (OSError, ValueError):
        return "the host name cannot be resolved"
    return "found an answer that is no video (a web page?); expected a stream"
