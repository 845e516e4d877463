"""Detection logs of the live cameras: one row of files per camera, the oldest deleted first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from gridwatch.config import CameraSettings
from gridwatch.detection_log import SUFFIX, LogWriter
from pipeline.analyse.looks import ShownFrame
from pipeline.analyse.scenario import load_scenario
from pipeline.exceptions import ConfigError, ScenarioError

__all__ = ["Recording", "camera_header", "camera_of_header", "log_files"]

log = structlog.get_logger(__name__)

# A file holds what a replay must begin with; some hours of a camera each, so that deleting one costs little.
FILE_BYTES = 8 * 1024**2
FILE_S = 6 * 3600.0


def camera_header(
    camera: CameraSettings, timezone: str, thresholds: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """What a replay must know of a camera; never an address."""
    return {
        "camera": {
            "id": camera.id,
            "stream": {"analyse_width": camera.stream.analyse_width},
            "scenarios": {
                name: parameters.model_dump(mode="json")
                for name, parameters in camera.scenarios.items()
            },
        },
        "timezone": timezone,
        "thresholds": {name: dict(classes) for name, classes in thresholds.items()},
    }


def camera_of_header(header: Mapping[str, Any], file: Path) -> tuple[CameraSettings, str]:
    """A camera's settings and the site's time zone from a log.

    Raises:
        ConfigError: if the log has none, or they fit no installed scenario.
    """
    try:
        data = header["camera"]
        camera = CameraSettings.model_validate(
            {
                "id": data.get("id", "camera"),
                "stream": {"url": file.name},
                "scenarios": {
                    name: load_scenario(name).Parameters.model_validate(parameters)
                    for name, parameters in data["scenarios"].items()
                },
                "health": None,
            }
        )
        return camera, str(header["timezone"])
    except (KeyError, TypeError, ValueError, ScenarioError) as error:
        line = " ".join(str(error).split())[:300]
        raise ConfigError(f"{file}: its camera cannot be read: {line}") from error


def log_files(path: Path) -> list[Path]:
    """The logs at `path`, a file or a folder of any depth, in order of camera and time."""
    return [path] if path.is_file() else sorted(path.rglob(f"*{SUFFIX}"))


class Recording:
    """Records all cameras of a host; a full disk costs the recording, never an alarm.

    `prepare` comes before the engine sees a frame: what a file begins with must not know of its first entry.

    Args:
        folder: Of all logs; one folder below it per camera.
        keep_bytes: Of all cameras together; the oldest files are deleted.
        header: What a camera's log begins with: `camera_header`, and under ``state`` and ``rules`` what was known.
    """

    def __init__(
        self, folder: Path, keep_bytes: int, header: Callable[[str], Mapping[str, Any]]
    ) -> None:
        self._folder = folder
        self._keep_bytes = keep_bytes
        self._header = header
        self._writers: dict[str, tuple[LogWriter, float]] = {}
        self._failing = False
        self._lock = threading.Lock()

    def prepare(self, camera_id: str, t: float) -> None:
        """Something of stream time `t` is about to be seen: begin a file if there is none or the last is full."""
        self._guard(camera_id, lambda: self._begin(camera_id, t))

    def keep(self, shown: ShownFrame) -> None:
        """A frame was observed."""
        self._write(shown.camera_id, lambda writer: writer.keep(shown))

    def interrupted(self, camera_id: str, t: float) -> None:
        """The camera's stream breaks off at stream time `t`."""
        self.prepare(camera_id, t)
        self._write(camera_id, lambda writer: writer.interrupted(camera_id, t))

    def silent(self, camera_id: str, t: float) -> None:
        """Nothing has come from the camera up to `t`."""
        self.prepare(camera_id, t)
        self._write(camera_id, lambda writer: writer.silent(camera_id, t))

    def restart(self, camera_id: str) -> None:
        """Begin a new file with the next entry: the camera has other parameters."""
        with self._lock:
            entry = self._writers.pop(camera_id, None)
            if entry is not None:
                self._close(entry[0])

    def close(self) -> None:
        """Write what is left."""
        with self._lock:
            for writer, _ in self._writers.values():
                self._close(writer)
            self._writers.clear()

    def _write(self, camera_id: str, write: Callable[[LogWriter], None]) -> None:
        entry = self._writers.get(camera_id)
        if entry is not None:
            self._guard(camera_id, lambda: write(entry[0]))

    def _guard(self, camera_id: str, work: Callable[[], None]) -> None:
        with self._lock:
            try:
                work()
            except OSError as error:
                self._writers.pop(camera_id, None)
                if not self._failing:
                    log.error("detections not recorded", camera=camera_id, reason=error.strerror)
                self._failing = True
                return
            if self._failing:
                log.info("detections recorded again", camera=camera_id)
                self._failing = False

    def _begin(self, camera_id: str, t: float) -> None:
        entry = self._writers.get(camera_id)
        if entry is not None:
            writer, begun_t = entry
            if writer.written_bytes < FILE_BYTES and 0 <= t - begun_t < FILE_S:
                return
            self._close(self._writers.pop(camera_id)[0])
        folder = self._folder / camera_id
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._prune()
        file = folder / f"{round(t * 1000):014d}{SUFFIX}"
        writer = LogWriter(file, camera_id, self._header(camera_id))
        self._writers[camera_id] = writer, t

    def _close(self, writer: LogWriter) -> None:
        try:
            writer.close({})
        except OSError as error:
            log.error("detections not recorded", file=str(writer.file), reason=error.strerror)

    def _prune(self) -> None:
        files = sorted(log_files(self._folder), key=lambda file: file.name)
        size = sum(file.stat().st_size for file in files)
        writing = {writer.file for writer, _ in self._writers.values()}
        for file in files:
            if size <= self._keep_bytes:
                return
            if file not in writing:
                size -= file.stat().st_size
                file.unlink(missing_ok=True)
