"""Small clips and scenes made on the spot, so that no test needs footage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.frame import Image

__all__ = ["moving_square", "scene", "write_clip"]

# MPEG-4 Part 2 allows no finer clock than 1/65535.
TIME_BASE = Fraction(1, 50_000)


@cache
def scene(seed: int, width: int = 320, height: int = 180) -> Image:
    """A still, well-structured view: random rectangles and lines, another one for each seed."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), rng.integers(80, 150, 3), dtype=np.uint8)
    for _ in range(40):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        w, h = int(rng.integers(10, width // 4)), int(rng.integers(10, height // 3))
        colour = tuple(int(c) for c in rng.integers(20, 235, 3))
        if rng.random() < 0.6:
            cv2.rectangle(image, (x, y), (x + w, y + h), colour, -1)
        else:
            cv2.line(image, (x, y), (x + w, y + h - height // 6), colour, 3)
    image.flags.writeable = False
    return image


def moving_square(
    count: int, width: int = 320, height: int = 180, seed: int = 0
) -> Iterator[Image]:
    """`count` pictures of a red square that crosses a scene, 4 pixels a picture."""
    for index in range(count):
        image = scene(seed, width, height).copy()
        x = (index * 4) % (width - 40)
        image[height // 3 : height // 3 + 40, x : x + 40] = (0, 0, 255)
        yield image


def write_clip(
    path: Path,
    images: Iterable[Image],
    *,
    rate_hz: float = 25.0,
    gop: int = 25,
    codec: str = "libx264",
    b_frames: int = 0,
    stamps_s: Callable[[int], float | None] | None = None,
    rotate_degrees: int | None = None,
    tagged_rate: int | None = None,
    container: str | None = None,
) -> Path:
    """Encode `images` and give the path back.

    Args:
        path: Target; its suffix rules the container unless `container` does.
        images: (h, w, 3) uint8 BGR of one size.
        rate_hz: Pictures per second.
        gop: Pictures per key frame.
        codec: FFmpeg's encoder.
        b_frames: Number of consecutive B-frames.
        stamps_s: Presentation time of the picture of an index, instead of ``index / rate_hz``.
        rotate_degrees: Rotation tag, counter-clockwise.
        tagged_rate: Rate that the container claims.
        container: FFmpeg's muxer name.
    """
    options = {"preset": "ultrafast", "bf": str(b_frames)} if codec == "libx264" else {}
    if codec == "libx264":
        options |= {"g": str(gop), "keyint_min": str(gop), "sc_threshold": "0"}
    with av.open(str(path), "w", format=container) as output:
        stream: VideoStream | None = None
        for index, image in enumerate(images):
            if stream is None:
                rate = tagged_rate or Fraction(rate_hz).limit_denominator(1000)
                added = output.add_stream(codec, rate=rate, options=options)
                assert isinstance(added, VideoStream)
                stream = added
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
                stream.codec_context.time_base = TIME_BASE
                stream.codec_context.gop_size = gop
                stream.codec_context.thread_count = 1
                if rotate_degrees is not None:
                    stream.set_display_rotation(rotate_degrees)
            frame = VideoFrame.from_ndarray(image, format="bgr24")
            stamp = index / rate_hz if stamps_s is None else stamps_s(index)
            frame.pts = None if stamp is None else round(stamp / TIME_BASE)
            frame.time_base = TIME_BASE
            output.mux(stream.encode(frame))
        if stream is not None:
            output.mux(stream.encode(None))
    return path
