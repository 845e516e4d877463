"""A label file to fill in and a contact sheet to look at, for each clip that has no label yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from alerts.evidence import encode_jpeg
from benchmarks.labels import VEHICLE_STOPPED, find_clips
from pipeline.analyse.scenario import scenario_names
from pipeline.exceptions import CaptureError, ConfigError
from pipeline.frame import Image

__all__ = ["Skeleton", "contact_sheet", "make_skeletons"]

TILES = 24
COLUMNS = 4
TILE_WIDTH_PX = 320
SHEET_QUALITY = 95  # small things are looked for on it


@dataclass(frozen=True, slots=True)
class Skeleton:
    """What was made for a clip.

    Attributes:
        clip: The file.
        label: The label file; None where the clip is labelled already.
        sheet: The contact sheet; None where the clip cannot be read.
        problem: Why not.
    """

    clip: Path
    label: Path | None
    sheet: Path | None
    problem: str = ""


def make_skeletons(paths: Sequence[Path]) -> list[Skeleton]:
    """Write ``NAME.yaml`` and ``NAME.sheet.jpg`` beside every clip that has no label; labelled ones are left alone.

    Raises:
        ConfigError: if there is no clip, or a file cannot be written.
    """
    made: list[Skeleton] = []
    for clip in find_clips(paths):
        if clip.label is not None or not any(": no label: " in p for p in clip.problems):
            made.append(Skeleton(clip.path, None, None, "; ".join(clip.problems)))
            continue
        label, sheet = clip.path.with_suffix(".yaml"), clip.path.with_suffix(".sheet.jpg")
        if label.exists():
            made.append(Skeleton(clip.path, None, None, f"{label}: has no events yet"))
            continue
        try:
            picture, length_s = contact_sheet(clip.path)
        except CaptureError as error:
            made.append(Skeleton(clip.path, None, None, str(error)))
            continue
        try:
            label.write_text(_text(clip.path, length_s), encoding="utf-8")
            sheet.write_bytes(encode_jpeg(picture, SHEET_QUALITY))
        except OSError as error:
            raise ConfigError(f"{label}: cannot be written: {error.strerror}") from error
        made.append(Skeleton(clip.path, label, sheet))
    return made


def contact_sheet(clip: Path) -> tuple[Image, float]:
    """Pictures from all of a clip with their seconds, (h, w, 3) uint8 BGR, and the clip's length in seconds.

    Raises:
        CaptureError: if it cannot be read.
    """
    try:
        with av.open(str(clip)) as container:
            stream = container.streams.video[0]
            base = float(stream.time_base or 0)
            stamps = sorted(p.pts * base for p in container.demux(stream) if p.pts is not None)
            if not stamps:
                raise CaptureError(f"{clip}: found no pictures, expected a video")
            length_s = stamps[-1] - stamps[0]
            wanted = [stamps[0] + length_s * k / (TILES - 1) for k in range(TILES)]
            container.seek(0)
            tiles: list[Image] = []
            for frame in container.decode(stream):
                while (
                    frame.time is not None
                    and len(tiles) < TILES
                    and frame.time >= wanted[len(tiles)] - base
                ):
                    tiles.append(
                        _tile(
                            np.asarray(frame.to_ndarray(format="bgr24"), np.uint8),
                            wanted[len(tiles)] - stamps[0],
                        )
                    )
                if len(tiles) == TILES:
                    break
    except (av.FFmpegError, IndexError) as error:
        raise CaptureError(f"{clip}: cannot be read: {error}") from error
    if not tiles:
        raise CaptureError(f"{clip}: found no picture that can be decoded, expected a video")
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS)
    rows = [np.hstack(tiles[k : k + COLUMNS]) for k in range(0, len(tiles), COLUMNS)]
    return np.asarray(np.vstack(rows), np.uint8), length_s


def _tile(picture: Image, t: float) -> Image:
    height = max(1, round(picture.shape[0] * TILE_WIDTH_PX / picture.shape[1]))
    tile = cv2.resize(picture, (TILE_WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    for color, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(
            tile,
            f"{t:.1f} s",
            (8, 22),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.6,
            color,
            thickness,
            cv2.LINE_AA,
        )
    return np.asarray(tile, np.uint8)


def _text(clip: Path, length_s: float) -> str:
    scenarios = ", ".join([*scenario_names(), "smoke", VEHICLE_STOPPED])
    return f"""# {clip.name}: {length_s:.1f} s. Look at {clip.stem}.sheet.jpg, then fill in.
clip: {clip.name}
kind: real            # real, derived (made from real pictures), generated (by an image model), simulated
group: {clip.stem}    # clips of one place or one incident share a group
conditions: []        # night, rain, fisheye, ...
# One line an event, seconds from the first picture: {scenarios}.
# Until `events` is there the clip counts as not labelled; `events: []` says that nothing happens in it.
# events:
#   - {{scenario: fire, start_s: 3.5, end_s: {length_s:.1f}, box: [0.1, 0.2, 0.4, 0.6]}}
# camera: settings as in cameras.yaml, or the id of a camera in the file given by --settings
# camera: {{scenarios: {{fire: {{}}}}}}
"""
