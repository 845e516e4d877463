"""Pictures of moments in a clip: the frame with what was alarmed, labelled and watched drawn in, as small JPEGs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from alerts.evidence import encode_jpeg
from alerts.privacy import Privacy
from gridwatch.config import CameraSettings
from pipeline.capture.decoder import DecodeLevel, Picture, decoder_for
from pipeline.capture.source import open_source
from pipeline.capture.timeline import FileTimeline
from pipeline.frame import Image
from pipeline.observation import RelativeBox
from pipeline.units import Polygon

__all__ = ["Moment", "Shot", "shoot", "zones_of"]

WIDTH_PX = (
    560  # shows a vehicle at the far end of a street, and a page of a hundred stays below 10 MB
)
CLOSE_UP_PX = 280
QUALITY = 72
# A box that covers less of the picture's area cannot be made out in the small picture.
SMALL_AREA = 0.08
CLOSE_UP_MARGIN = 0.6  # of the box's size, at every side: what stands around it explains it
FALSE_COLOUR = (60, 60, 235)  # BGR, as in the page
TRUE_COLOUR = (90, 170, 50)
LABEL_COLOUR = (30, 180, 250)
ZONE_COLOUR = (230, 200, 120)
# Stamps are rounded to the millisecond.
ROUNDING_S = 0.0011


@dataclass(frozen=True, slots=True)
class Moment:
    """A picture that is wanted.

    Attributes:
        t_s: Seconds from the clip's first picture.
        alarm: Box of an alarm.
        event: Box of a labelled event.
        false: Whether the alarm is a false one.
        scenario: Whose zones are drawn.
    """

    t_s: float
    alarm: RelativeBox | None
    event: RelativeBox | None
    false: bool
    scenario: str


@dataclass(frozen=True, slots=True)
class Shot:
    """Pictures of one moment, JPEG.

    Attributes:
        whole: The whole frame.
        close_up: What is in a box that is small in the frame; None where it is not, or there is none.
    """

    whole: bytes
    close_up: bytes | None


def shoot(camera: CameraSettings, moments: Sequence[Moment]) -> dict[int, Shot]:
    """Take pictures from the clip that is the camera's stream, with its masks burned in.

    Where heads are to be hidden, the whole picture is pixelated: no model is loaded here that could find them.

    Args:
        camera: Settings of the clip.
        moments: In any order.

    Returns:
        By index of `moments`; those after the last picture show that one. Empty if the clip gives no picture.

    Raises:
        CaptureError: if the clip cannot be opened.
        EvidenceError: if a picture cannot be encoded.
    """
    privacy = Privacy(camera.privacy)
    due = deque(sorted(range(len(moments)), key=lambda index: moments[index].t_s))
    shots: dict[int, Shot] = {}

    def take(picture: Picture, until_s: float) -> None:
        frame = None
        while due and moments[due[0]].t_s <= until_s:
            frame = privacy.burn(picture.full_size()) if frame is None else frame
            index = due.popleft()
            shots[index] = _shot(frame, moments[index], camera)

    last: Picture | None = None
    for t_s, picture in _pictures(camera):
        take(picture, t_s + ROUNDING_S)
        last = picture
        if not due:
            break
    if last is not None:
        take(last, float("inf"))
    return shots


def _pictures(camera: CameraSettings) -> Iterator[tuple[float, Picture]]:
    """All pictures of a clip with their times, as the analysis dates them."""
    source = open_source(camera.stream, camera.stream.analysed_url)
    try:
        timeline = FileTimeline(0.0, source.info.rate_hz)
        timeline.restart()
        decoder = decoder_for(source)
        for packet in source.packets():
            timeline.packet(packet.pts_s, 0.0)
            for picture in decoder.decode(packet, DecodeLevel.ALL, wanted=True):
                yield timeline.frame(picture.pts_s, 0.0), picture
        for picture in decoder.flush():
            yield timeline.frame(picture.pts_s, 0.0), picture
    finally:
        source.close()


def zones_of(camera: CameraSettings, scenario: str) -> dict[str, Polygon]:
    """Every polygon among a scenario's parameters, by the name of its parameter or zone."""
    parameters = camera.scenarios.get(scenario)
    found: dict[str, Polygon] = {}
    for name, value in parameters.model_dump().items() if parameters is not None else ():
        if _is_polygon(value):
            found[name] = value
        elif isinstance(value, Mapping):
            found |= {key: one for key, one in value.items() if _is_polygon(one)}
        elif isinstance(value, list | tuple):
            found |= {f"{name} {i}": one for i, one in enumerate(value) if _is_polygon(one)}
    return found


def _is_polygon(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) >= 3
        and all(
            isinstance(point, list | tuple)
            and len(point) == 2
            and all(isinstance(number, int | float) for number in point)
            for point in value
        )
    )


def _shot(frame: Image, moment: Moment, camera: CameraSettings) -> Shot:
    boxes = [
        (moment.event, LABEL_COLOUR),
        (moment.alarm, FALSE_COLOUR if moment.false else TRUE_COLOUR),
    ]
    whole = _resized(frame, WIDTH_PX)
    height, width = whole.shape[:2]
    for points in zones_of(camera, moment.scenario).values():
        corners = np.round(np.array(points) * (width, height)).astype(np.int32)
        cv2.polylines(whole, [corners], True, ZONE_COLOUR, 1, cv2.LINE_AA)
    for box, colour in boxes:
        if box is not None:
            _rectangle(whole, box, colour)
    subject = moment.alarm or moment.event
    return Shot(encode_jpeg(whole, QUALITY), None if subject is None else _close_up(frame, subject))


def _close_up(frame: Image, box: RelativeBox) -> bytes | None:
    wide, high = box[2] - box[0], box[3] - box[1]
    if wide * high >= SMALL_AREA:
        return None
    height, width = frame.shape[:2]
    # A square around the box: the page shows all close-ups alike.
    side = (1 + 2 * CLOSE_UP_MARGIN) * max(wide * width, high * height)
    x, y = (box[0] + box[2]) / 2 * width, (box[1] + box[3]) / 2 * height
    x1, x2 = max(0, round(x - side / 2)), min(width, round(x + side / 2))
    y1, y2 = max(0, round(y - side / 2)), min(height, round(y + side / 2))
    part = frame[y1:y2, x1:x2]
    return encode_jpeg(_resized(part, CLOSE_UP_PX), QUALITY) if part.size else None


def _resized(image: Image, width: int) -> Image:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    how = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_CUBIC
    resized: Image = np.ascontiguousarray(cv2.resize(image, (width, height), interpolation=how))
    return resized


def _rectangle(image: Image, box: RelativeBox, colour: tuple[int, int, int]) -> None:
    height, width = image.shape[:2]
    first = (round(box[0] * width), round(box[1] * height))
    second = (round(box[2] * width) - 1, round(box[3] * height) - 1)
    cv2.rectangle(image, first, second, (0, 0, 0), 4)  # so that it is seen on any ground
    cv2.rectangle(image, first, second, colour, 2)
