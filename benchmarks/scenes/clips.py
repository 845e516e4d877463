"""A simulated clip: frames with their events, encoded as H.264 with a label file beside it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.scenes.people import Pose
from benchmarks.scenes.sensor import Sensor, burn_text

__all__ = [
    "Clip",
    "Event",
    "Picture",
    "Zone",
    "blend",
    "ease",
    "encode",
    "label_yaml",
    "relative_box",
]

Picture = NDArray[np.uint8]
Zone = tuple[tuple[float, float], ...]
"""A polygon in relative coordinates, x to the right and y down, 0..1."""


@dataclass(frozen=True)
class Event:
    """What a clip shows: the truth that an alarm is compared with."""

    scenario: str
    start_s: float
    end_s: float
    box: tuple[float, float, float, float] | None
    """xyxy relative to the picture."""


@dataclass
class Clip:
    """Frames as the scene makes them (RGB, before the camera), and the events, known once all frames are made."""

    name: str
    seed: int
    fps: float
    scenarios: dict[str, dict[str, Any]]
    """Settings of the camera's scenarios as in cameras.yaml, with the zones that fit the picture."""
    frames: Callable[[], Iterator[Picture]]
    events: list[Event]
    sensor: Sensor
    conditions: tuple[str, ...] = ()


def relative_box(
    box: tuple[float, float, float, float] | None, size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """An xyxy box in pixels → relative to a picture of `size` (width, height)."""
    if box is None:
        return None
    return box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]


def ease(t: float, start: float, end: float) -> float:
    """A smooth ramp from 0 at `start` to 1 at `end`, all in seconds."""
    s = min(1.0, max(0.0, (t - start) / (end - start)))
    return s * s * (3 - 2 * s)


def blend(a: Pose, b: Pose, s: float) -> Pose:
    """The pose a share `s` of the way from `a` to `b`."""
    return replace(
        a,
        hip=a.hip + (b.hip - a.hip) * s,
        lean=a.lean + (b.lean - a.lean) * s,
        feet=a.feet + (b.feet - a.feet) * s,
        hands=a.hands + (b.hands - a.hands) * s,
        head_yaw=a.head_yaw + (b.head_yaw - a.head_yaw) * s,
        head_pitch=a.head_pitch + (b.head_pitch - a.head_pitch) * s,
    )


def encode(
    clip: Clip, path: Path, *, crf: int = 26, progress: Callable[[int], None] | None = None
) -> int:
    """Pass the frames through the clip's camera and write an H.264 file; returns the number of frames.

    Raises RuntimeError with ffmpeg's last line where it fails, FileNotFoundError where ffmpeg is not installed.
    """
    rng = np.random.default_rng([clip.seed, 8])
    process: subprocess.Popen[bytes] | None = None
    count = 0
    part = path.with_name(f".{path.stem}.part.mp4")
    for frame in clip.frames():
        picture = clip.sensor.expose(frame, rng)
        clock = 8 * 3600 + 15 * 60 + count / clip.fps
        stamp = (
            f"2026-03-14 {int(clock // 3600):02d}:{int(clock // 60 % 60):02d}:{int(clock % 60):02d}"
        )
        picture = burn_text(picture, (stamp, "SIMULATION"))
        if process is None:
            h, w = picture.shape[:2]
            # A key frame a second, as cameras are told to; one thread, since the renderer needs the others.
            command = (
                f"ffmpeg -hide_banner -loglevel error -y -f rawvideo -pix_fmt rgb24 -s {w}x{h} "
                f"-r {clip.fps:g} -i - -an -c:v libx264 -preset slow -crf {crf} -pix_fmt yuv420p "
                f"-g {round(clip.fps)} -sc_threshold 0 -threads 1 "
                "-colorspace smpte170m -color_primaries smpte170m -color_trc smpte170m -movflags +faststart"
            ).split()
            path.parent.mkdir(parents=True, exist_ok=True)
            process = subprocess.Popen(
                [*command, str(part)], stdin=subprocess.PIPE, stderr=subprocess.PIPE
            )
        assert process.stdin is not None
        process.stdin.write(picture.tobytes())
        count += 1
        if progress is not None:
            progress(count)
    if process is None:
        raise RuntimeError(f"clip {path.name}: the scene made no frames")
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(
            f"clip {path.name}: ffmpeg failed: {errors.decode(errors='replace').strip()[-200:]}"
        )
    part.replace(path)
    return count


def label_yaml(clip: Clip, file_name: str) -> str:
    """The label file: what happens in the clip, and camera settings that fit it."""
    document = {
        "clip": file_name,
        "simulated": True,
        "seed": clip.seed,
        "conditions": list(clip.conditions),
        "events": [
            {"scenario": event.scenario, "start_s": event.start_s, "end_s": event.end_s}
            | ({"box": _rounded(event.box)} if event.box is not None else {})
            for event in clip.events
        ],
        "camera": {"scenarios": _rounded(clip.scenarios)},
    }
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=110)


def _rounded(value: Any) -> Any:  # noqa: ANN401 - whatever YAML holds
    """Floats to a thousandth, tuples as lists."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_rounded(item) for item in value]
    return round(float(value), 3) if isinstance(value, float) else value
