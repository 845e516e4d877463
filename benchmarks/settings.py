"""Which camera settings a clip is analysed with, and what of its label can be scored under them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import shapely

from benchmarks.labels import VEHICLE_STOPPED, Event, Label, LabelledClip
from gridwatch.config import CameraSettings, Config, parse_config
from gridwatch.located_yaml import LocatedYaml, load_located
from pipeline.exceptions import ConfigError
from pipeline.observation import RelativeBox

__all__ = ["OWN_CAMERA", "CameraTable", "Scorable", "scorable"]

PARKING = "illegal_parking"
OWN_CAMERA = "clip"  # the id of a camera that a label brings along
WHOLE_AREA = 0.999  # a zone of this share of the picture holds every vehicle, wherever it stands


class CameraTable:
    """The settings of every clip.

    A clip's own label comes first (`camera`: settings as in cameras.yaml, or the id of a camera in `file`). Otherwise
    it is the first enabled camera in `file` whose `url` is the clip or a pattern for it: relative to the folder of
    `file` or to the labels (``fire/*.mp4``), or absolute. So a site's own cameras.yaml serves as it is.

    Args:
        file: A cameras.yaml.

    Raises:
        ConfigError: if `file` is wrong.
    """

    def __init__(self, file: Path | None) -> None:
        self._folder = file.resolve().parent if file is not None else None
        document = load_located(file) if file is not None else None
        self._config = parse_config(document) if document is not None else None

    @classmethod
    def of(cls, config: Config) -> CameraTable:
        """A table of a site that was read elsewhere."""
        table = cls(None)
        table._config = config
        return table

    @property
    def config(self) -> Config:
        """The site, for its time zone and its models; the defaults without a file."""
        if self._config is not None:
            return self._config
        return Config.model_validate({"site": {"id": "benchmark"}, "cameras": ()})

    def camera_for(self, clip: LabelledClip) -> CameraSettings:
        """Settings of a labelled clip, with the clip as its stream and without camera health.

        Raises:
            ConfigError: if there are none or they are wrong.
        """
        camera = self._chosen(clip)
        if not camera.scenarios:
            raise ConfigError(
                f"{clip.name}: camera {camera.id} runs no scenario, expected at least one"
            )
        stream = camera.stream.model_copy(
            update={
                "url": str(clip.path),
                "detect": None,
                "record": None,
                "pace": "virtual",
                "loop": False,
            }
        )
        return camera.model_copy(update={"stream": stream, "health": None, "enabled": True})

    def _chosen(self, clip: LabelledClip) -> CameraSettings:
        label = clip.label
        own = label.camera if label is not None else None
        if isinstance(own, str):
            return self._named(own, label)
        if own is not None and label is not None and label.document is not None:
            return _parse_camera(own, label.document, clip)
        for camera in self._config.cameras if self._config is not None else ():
            if camera.enabled and not camera.stream.live and self._matches(camera, clip):
                return camera
        raise ConfigError(
            f"{clip.name}: found no camera settings, expected `camera` in its label or a camera with "
            "a matching url in the file given by --settings"
        )

    def _named(self, name: str, label: Label | None) -> CameraSettings:
        for camera in self._config.cameras if self._config is not None else ():
            if camera.id == name:
                return camera
        document = label.document if label is not None else None
        place = document.place(("camera",)) if document is not None else "camera"
        raise ConfigError(
            f"{place}: found {name!r}, expected a camera of the file given by --settings"
        )

    def _matches(self, camera: CameraSettings, clip: LabelledClip) -> bool:
        pattern = Path(camera.stream.analysed_url)
        patterns = [(clip.path.as_posix(), pattern.as_posix())]
        if self._folder is not None and pattern.is_relative_to(self._folder):
            patterns.append((clip.name, pattern.relative_to(self._folder).as_posix()))
        return any(fnmatchcase(name, wanted) for name, wanted in patterns)


def _parse_camera(
    own: Mapping[str, Any], document: LocatedYaml, clip: LabelledClip
) -> CameraSettings:
    """The `camera` of a label as the one camera of a site, with its lines."""
    here = ("cameras", 0)
    lines = {
        (*here, *path[1:]): line for path, line in document.lines.items() if path[:1] == ("camera",)
    }
    camera = {"id": OWN_CAMERA, "url": clip.path.name, **own}
    site = LocatedYaml(document.file, {"site": {"id": "benchmark"}, "cameras": [camera]}, lines)
    try:
        return parse_config(site).cameras[0]
    except ConfigError as error:
        problems = (line.replace("cameras[0]", "camera", 1) for line in error.problems)
        raise ConfigError(*problems) from None


@dataclass(frozen=True, slots=True)
class Scorable:
    """A label's events as far as the settings can be asked for them.

    Attributes:
        events: Those that an alarm can match; their scenarios run on the clip.
        unscored: The others, each with its reason.
    """

    events: tuple[Event, ...]
    unscored: tuple[tuple[Event, str], ...]


def scorable(label: Label, camera: CameraSettings) -> Scorable:
    """Sort a label's events into those that can be scored under `camera` and those that cannot."""
    events: list[Event] = []
    unscored: list[tuple[Event, str]] = []
    for event in label.events:
        scenario = PARKING if event.scenario == VEHICLE_STOPPED else event.scenario
        reason = ""
        if scenario not in camera.scenarios:
            reason = f"{scenario} does not run on this clip"
        elif event.scenario == VEHICLE_STOPPED:
            reason = _why_legal(event, camera)
        if reason:
            unscored.append((event, reason))
        else:
            events.append(Event(scenario, event.start_s, event.end_s, event.box, event.place))
    return Scorable(tuple(events), tuple(unscored))


def _why_legal(event: Event, camera: CameraSettings) -> str:
    """Why a stopped vehicle is no illegal parking; empty when it is."""
    parameters = camera.scenarios[PARKING]
    if event.end_s - event.start_s < parameters.raise_after:
        return f"stands {event.end_s - event.start_s:g} s, less than the dwell of {parameters.raise_after:g} s"
    zones = [shapely.Polygon(points) for points in getattr(parameters, "zones", {}).values()]
    if any(zone.area >= WHOLE_AREA for zone in zones):
        return ""
    if event.box is None:
        return "the label has no box, so it cannot be said whether it stands in a zone"
    if any(zone.contains(_foot(event.box)) for zone in zones):
        return ""
    return "stands outside all zones"


def _foot(box: RelativeBox) -> shapely.Point:
    """Where a vehicle stands: the middle of its box's lower edge."""
    return shapely.Point((box[0] + box[2]) / 2, box[3])
