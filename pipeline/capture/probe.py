"""A look at a stream before it goes into service: what it is, how fast it really runs, what it shows."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pipeline.capture.decoder import DecodeLevel, KeyframeMeter, decoder_for
from pipeline.capture.settings import StreamSettings, redact
from pipeline.capture.source import open_source
from pipeline.exceptions import CaptureError
from pipeline.frame import Image

__all__ = ["StreamReport", "probe"]


@dataclass(frozen=True, slots=True, eq=False)
class StreamReport:
    """What was measured of a stream.

    Attributes:
        place: Its address without secrets.
        codec: FFmpeg's name of the codec, or ``pictures``.
        width_px: Width of the shown picture (turned as its rotation tag says).
        height_px: Height of the shown picture.
        rate_hz: Pictures per second as measured, or None with fewer than two.
        bitrate_bps: Bits per second as measured, or None.
        keyframe_interval_s: Longest measured time between key frames, or None with fewer than two: it may then be
            longer than `measured_s`.
        measured_s: Stream time that was looked at, in seconds.
        connect_s: Seconds until the first packet.
        corrupt: Damaged packets and pictures.
        picture: One picture at full size, (h, w, 3) uint8 BGR.
    """

    place: str
    codec: str
    width_px: int
    height_px: int
    rate_hz: float | None
    bitrate_bps: float | None
    keyframe_interval_s: float | None
    measured_s: float
    connect_s: float
    corrupt: int
    picture: Image


def probe(settings: StreamSettings, seconds: float = 6.0, *, record: bool = False) -> StreamReport:
    """Open a stream and look at `seconds` of it, or at a whole file if that is shorter.

    Args:
        settings: The camera's stream.
        seconds: How long to look; a key-frame interval is only measured if two key frames come in that time.
        record: Look at the record stream instead of the analysed one.

    Raises:
        CaptureError: if it cannot be opened or shows no picture.
    """
    url = settings.recorded_url if record else settings.analysed_url
    started_s = time.monotonic()
    source = open_source(settings, url)
    try:
        decoder, meter = decoder_for(source), KeyframeMeter()
        stamps: list[float] = []
        size = 0
        picture: Image | None = None
        connect_s = 0.0
        for packet in source.packets():
            arrived_s = time.monotonic() - started_s
            if not connect_s:
                connect_s = arrived_s
            # Arrival, not stamps: the first packet of an RTSP session has none, MJPEG over HTTP never has any.
            stamp = arrived_s if settings.live else (packet.pts_s or 0.0)
            stamps.append(stamp)
            size += packet.size
            meter.packet(stamp, keyframe=packet.keyframe)
            if picture is None:
                pictures = decoder.decode(packet, DecodeLevel.ALL, wanted=True)
                picture = pictures[0].full_size() if pictures else None
            span_s = max(stamps) - min(stamps)
            late = settings.live and arrived_s > connect_s + seconds + settings.read_timeout
            if late or (span_s >= seconds and (picture is not None or span_s >= 4 * seconds)):
                break
        if picture is None:
            rest = decoder.flush()
            picture = rest[0].full_size() if rest else None
        if picture is None:
            raise CaptureError(f"{redact(url)}: {len(stamps)} packets came, none gave a picture")
        span_s = max(stamps) - min(stamps) if stamps else 0.0
        return StreamReport(
            place=redact(url),
            codec=source.info.codec,
            width_px=picture.shape[1],
            height_px=picture.shape[0],
            rate_hz=(len(stamps) - 1) / span_s if span_s > 0 else None,
            bitrate_bps=8 * size / span_s if span_s > 0 else None,
            keyframe_interval_s=meter.interval_s,
            measured_s=span_s,
            connect_s=connect_s,
            corrupt=decoder.corrupt,
            picture=picture,
        )
    finally:
        source.close()
