"""The work folder of a benchmark: the result of every clip so far, and its detection log.

A clip's files are named by a hash over all that its result depends on: the clip, the settings, the weights, the code
and the libraries. So a run that was stopped goes on where it stopped, and whatever changed is done again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs

import alerts
import benchmarks
import gridwatch
import pipeline
from benchmarks.labels import Event, Kind, Label, LabelledClip
from benchmarks.runner import ClipRun, Measure, run_from_json, run_to_json
from gridwatch.config import CameraSettings, Config
from gridwatch.detection_log import SUFFIX
from gridwatch.host import models_needed
from pipeline.analyse.scenario import load_scenario
from pipeline.analyse.weights import WeightsEntry
from pipeline.exceptions import ConfigError

__all__ = ["PACKAGES", "KeptClip", "WorkFolder", "camera_to_json", "default_folder", "read_run"]

RUN_NAME = "run.json"
SCHEMA = 1
# What bears on the alarms; a run with others is another run.
PACKAGES = (
    "gridwatch",
    "onnxruntime",
    "av",
    "opencv-python",
    "numpy",
    "scipy",
    "supervision",
    "trackers",
)
# Some hundred hours of clips; the oldest results go first.
KEEP_BYTES = 2 * 1024**3


def default_folder() -> Path:
    """Where results are kept unless a folder is given: the user's cache."""
    return platformdirs.user_cache_path("gridwatch", appauthor=False) / "benchmark"


@dataclass(frozen=True, slots=True)
class KeptClip:
    """One clip of a run, as its folder has it.

    Attributes:
        clip: With its label; its file may be gone.
        camera: Its settings; None without any.
        measured: Its length and rate; None if it could not be read.
        problems: Why it could not be scored.
        notes: What is odd about it.
        log: Its detection log; None where it was not analysed.
    """

    clip: LabelledClip
    camera: CameraSettings | None
    measured: Measure | None
    problems: Sequence[str]
    notes: Sequence[str]
    log: Path | None


class WorkFolder:
    """Results of clips by what they depend on.

    Args:
        folder: Made if it is not there.
        config: The site.
        registry: Registered models by name.

    Raises:
        ConfigError: if the folder cannot be made.
    """

    def __init__(self, folder: Path, config: Config, registry: Mapping[str, WeightsEntry]) -> None:
        self.folder = folder
        self._config = config
        self._registry = registry
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be made: {error.strerror}") from error

    def log_file(self, camera: CameraSettings, clip_sha256: str) -> Path:
        """Where the detection log of a clip belongs; its result stands beside it."""
        weights = {
            name: entry.model_dump(mode="json", exclude={"folder", "card", "licence", "stage"})
            if (entry := self._registry.get(name)) is not None
            else None
            for name in models_needed([camera])
        }
        depends = {
            "schema": SCHEMA,
            "clip": clip_sha256,
            "camera": camera_to_json(camera) | {"id": camera.id},
            "timezone": self._config.site.timezone,
            "providers": list(self._config.runtime.providers),
            "weights": weights,
            "code": _code(),
        }
        text = json.dumps(depends, sort_keys=True, ensure_ascii=False)
        return self.folder / (hashlib.sha256(text.encode()).hexdigest()[:32] + SUFFIX)

    @staticmethod
    def result(log_file: Path) -> ClipRun | None:
        """The result that belongs to a log; None where the clip has not been done."""
        file = log_file.with_suffix(".json")
        try:
            run = run_from_json(json.loads(file.read_text("utf-8")))
            os.utime(file)  # so that the oldest are those that nobody asked for
            os.utime(log_file)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return run

    @staticmethod
    def keep(part: Path, log_file: Path, run: ClipRun) -> None:
        """A clip is done: its log, written as `part`, and its result get their names; the result last."""
        part.replace(log_file)
        text = json.dumps(run_to_json(run), ensure_ascii=False)
        result_part = log_file.with_suffix(f".json.{os.getpid()}")
        result_part.write_text(text, encoding="utf-8")
        result_part.replace(log_file.with_suffix(".json"))

    def write_run(self, clips: Sequence[KeptClip]) -> None:
        """Note what belongs to the run that has just ended, and drop old results beyond `KEEP_BYTES`."""
        document = {
            "schema": SCHEMA,
            "timezone": self._config.site.timezone,
            "providers": list(self._config.runtime.providers),
            "registry": self._config.runtime.registry,
            "clips": [_clip_to_json(clip) for clip in clips],
        }
        part = self.folder / f"{RUN_NAME}.{os.getpid()}"
        part.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
        part.replace(self.folder / RUN_NAME)
        self._prune({clip.log for clip in clips if clip.log is not None})

    def _prune(self, wanted: set[Path]) -> None:
        logs = sorted(self.folder.glob(f"*{SUFFIX}"), key=lambda file: file.stat().st_mtime)
        size = sum(file.stat().st_size for file in logs)
        for file in logs:
            if size <= KEEP_BYTES:
                return
            if file not in wanted:
                size -= file.stat().st_size
                file.with_suffix(".json").unlink(missing_ok=True)
                file.unlink(missing_ok=True)


def read_run(folder: Path) -> tuple[Config, list[KeptClip]]:
    """The last run in a work folder.

    Returns:
        The site as far as it bears on the alarms, and the clips in order of name.

    Raises:
        ConfigError: if there is none, or none that can be read.
    """
    file = folder / RUN_NAME
    try:
        document = json.loads(file.read_text("utf-8"))
        if document["schema"] != SCHEMA:
            raise ConfigError(f"{file}: found schema {document['schema']}, expected {SCHEMA}")
        config = Config.model_validate(
            {
                "site": {"id": "benchmark", "timezone": document["timezone"]},
                "runtime": {
                    "providers": document["providers"],
                    "registry": document["registry"],
                },
                "cameras": (),
            }
        )
        return config, [_clip_from_json(item, folder) for item in document["clips"]]
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder}: found no {RUN_NAME}, expected the work folder of a benchmark run"
        ) from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{file}: is no run of this version: {error}") from error


def camera_to_json(camera: CameraSettings) -> dict[str, Any]:
    """What of a camera's settings bears on the alarms; never an address."""
    return {
        "stream": camera.stream.model_dump(
            mode="json", include={"analyse_width", "hwaccel", "picture_interval"}
        ),
        "scenarios": {
            name: parameters.model_dump(mode="json")
            for name, parameters in camera.scenarios.items()
        },
    }


def camera_from_json(camera_id: str, url: str, data: Mapping[str, Any]) -> CameraSettings:
    """The settings again.

    Raises:
        ValueError or ScenarioError: if they fit no installed scenario.
    """
    return CameraSettings.model_validate(
        {
            "id": camera_id,
            "stream": {**data["stream"], "url": url},
            "scenarios": {
                name: load_scenario(name).Parameters.model_validate(parameters)
                for name, parameters in data["scenarios"].items()
            },
            "health": None,
        }
    )


def _clip_to_json(kept: KeptClip) -> dict[str, Any]:
    label, measured = kept.clip.label, kept.measured
    return {
        "name": kept.clip.name,
        "path": str(kept.clip.path),
        "label": None
        if label is None
        else {
            "kind": label.kind.value,
            "group": label.group,
            "conditions": list(label.conditions),
            "events": [[e.scenario, e.start_s, e.end_s, e.box, e.place] for e in label.events],
        },
        "camera": None
        if kept.camera is None
        else {"id": kept.camera.id, **camera_to_json(kept.camera)},
        "measured": None if measured is None else list(astuple(measured)),
        "problems": list(kept.problems),
        "notes": list(kept.notes),
        "log": None if kept.log is None else kept.log.name,
    }


def _clip_from_json(data: Mapping[str, Any], folder: Path) -> KeptClip:
    label = data["label"]
    clip = LabelledClip(
        data["name"],
        Path(data["path"]),
        None
        if label is None
        else Label(
            tuple(
                Event(scenario, start_s, end_s, None if box is None else tuple(box), place)
                for scenario, start_s, end_s, box, place in label["events"]
            ),
            Kind(label["kind"]),
            label["group"],
            tuple(label["conditions"]),
        ),
    )
    camera = data["camera"]
    return KeptClip(
        clip,
        None if camera is None else camera_from_json(camera["id"], data["path"], camera),
        None if data["measured"] is None else Measure(*data["measured"]),
        tuple(data["problems"]),
        tuple(data["notes"]),
        None if data["log"] is None else folder / data["log"],
    )


@cache
def _code() -> str:
    """A hash over the code and the libraries that make alarms of pictures."""
    hashed = hashlib.sha256()
    packages = [Path(str(module.__file__)).parent for module in (pipeline, alerts, gridwatch)]
    runner = Path(str(benchmarks.__file__)).parent / "runner.py"
    wanted = [
        *packages[0].rglob("*.py"),
        packages[1] / "rules.py",
        packages[2] / "engine.py",
        packages[2] / "detection_log.py",
        runner,
    ]
    for file in sorted(wanted):
        hashed.update(file.name.encode() + b"\0" + file.read_bytes())
    hashed.update(json.dumps({name: version(name) for name in PACKAGES}).encode())
    return hashed.hexdigest()
