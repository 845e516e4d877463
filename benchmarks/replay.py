"""Scenarios and rules once more over detection logs, with other parameters and without video or models."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import supervision as sv
import yaml
from pydantic import ValidationError

from alerts.rules import Change, RuleBook
from benchmarks.runner import START_T, ClipRun, decided
from gridwatch.config import CameraSettings, Config
from gridwatch.detection_log import Break, DetectionLog, Entry
from gridwatch.engine import DetectorLike, Engine
from pipeline.analyse.analyser import AnyScenario
from pipeline.analyse.replay import ReplayAnalyser, black_frame
from pipeline.analyse.scenario import (
    CameraContext,
    RuleParameters,
    ScenarioParameters,
    load_scenario,
    scenario_names,
)
from pipeline.exceptions import ConfigError, NotKeptError
from pipeline.frame import Frame, Image
from pipeline.observation import Json, Observation

__all__ = [
    "Replayable",
    "Replayed",
    "Said",
    "Setting",
    "changed",
    "judge_again",
    "parse_setting",
    "replay",
    "said_then",
]

THRESHOLDS = "thresholds"


@dataclass(frozen=True, slots=True)
class Setting:
    """One parameter to try.

    Attributes:
        scenario: Whose.
        name: The parameter; ``thresholds.<class>`` is a class's operating point.
        value: As YAML gives it.
        text: As it was written, for people.
    """

    scenario: str
    name: str
    value: Any
    text: str

    @property
    def key(self) -> str:
        """Scenario and parameter."""
        return f"{self.scenario}.{self.name}"

    @property
    def of_rule(self) -> bool:
        """Whether it bears on the rule alone: the scenario's observations stay as they are."""
        in_rule = self.name in RuleParameters.model_fields
        return in_rule and self.name not in load_scenario(self.scenario).reads_rule


@dataclass(frozen=True, slots=True)
class Said:
    """What scenarios said at one moment.

    Attributes:
        t: Stream time in seconds.
        observations: For the rules.
        interrupted: Whether the stream broke off.
    """

    t: float
    observations: Sequence[Observation]
    interrupted: bool


def parse_setting(key: str, value: str) -> Setting:
    """A parameter from ``SCENARIO.PARAMETER`` and a value in YAML.

    Raises:
        ConfigError: if there is no such scenario or parameter, or it cannot be replayed.
    """
    scenario, dot, name = key.partition(".")
    if not dot or not name:
        raise ConfigError(
            f"{key}={value}: expected SCENARIO.PARAMETER=VALUE, as fire.raise_after=3s"
        )
    if scenario not in scenario_names():
        known = ", ".join(scenario_names())
        raise ConfigError(f"{key}: found no scenario {scenario!r}, expected one of {known}")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}={value}: the value is not valid YAML") from error
    kind = load_scenario(scenario)
    if kind.replayed is None:
        raise ConfigError(
            f"{key}: {scenario} reads pixels on its own and cannot be replayed: run the benchmark again"
        )
    if name.startswith(f"{THRESHOLDS}."):
        if isinstance(parsed, bool) or not isinstance(parsed, int | float) or not 0 <= parsed <= 1:
            raise ConfigError(f"{key}: found {value!r}, expected a confidence from 0 to 1")
        return Setting(scenario, name, float(parsed), value)
    fields = kind.Parameters.model_fields
    if name not in fields:
        known = ", ".join(sorted(fields))
        raise ConfigError(
            f"{key}: found no parameter {name!r}, expected one of {known} or {THRESHOLDS}.<class>"
        )
    if name not in RuleParameters.model_fields and name not in kind.replayed:
        raise ConfigError(f"{key} needs the pictures: run the benchmark again")
    return Setting(scenario, name, parsed, value)


def changed(camera: CameraSettings, settings: Iterable[Setting]) -> CameraSettings:
    """The camera with other parameters; settings of scenarios that it does not run change nothing.

    Raises:
        ConfigError: if a value does not fit.
    """
    scenarios: dict[str, ScenarioParameters] = dict(camera.scenarios)
    for setting in settings:
        before = scenarios.get(setting.scenario)
        if before is None or setting.name.startswith(f"{THRESHOLDS}."):
            continue
        data = before.model_dump(mode="json") | {setting.name: setting.value}
        try:
            scenarios[setting.scenario] = type(before).model_validate(data)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{setting.key}={setting.text}: {message}") from None
    return camera.model_copy(update={"scenarios": scenarios})


@dataclass(frozen=True, slots=True)
class Replayable:
    """One camera's log, made ready to be shown again and again.

    Attributes:
        camera: Its settings then.
        config: The site, for its time zone.
        thresholds: Operating point per class, by model.
        entries: Frames and breaks in order of time; with every frame the black picture that stands for it.
        state: What the scenarios knew at the log's begin, by scenario.
        rules: What the rules knew then; None for nothing.
    """

    camera: CameraSettings
    config: Config
    thresholds: Mapping[str, Mapping[str, float]]
    entries: tuple[tuple[Entry, Frame | None], ...]
    state: Mapping[str, dict[str, Json]] = field(default_factory=dict)
    rules: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, log: DetectionLog, camera: CameraSettings, config: Config) -> Replayable:
        """A log that was read, of a camera whose settings are known."""
        return cls(
            camera,
            config,
            log.header.get("thresholds", {}),
            tuple((e, None if isinstance(e, Break) else black_frame(e)) for e in log.entries),
            log.header.get("state") or {},
            log.header.get("rules"),
        )


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of a replay.

    Attributes:
        changes: All that the rules decided.
        frames: Frames that were shown.
        last_t: Time of the last of them.
        denser_s: By scenario, seconds for which it would have looked more often than it did.
        said: What the rules were told, for `judge_again`.
        faults: By scenario, why it was switched off.
    """

    changes: Sequence[Change]
    said: Sequence[Said]
    frames: int
    last_t: float
    denser_s: Mapping[str, float]
    faults: Mapping[str, str] = field(default_factory=dict)

    def as_run(self, recorded: ClipRun) -> ClipRun:
        """The same as a benchmark's result, with what the recorded run says of the clip itself."""
        last_s = round(self.last_t - START_T, 3)
        return decided(self.changes, self.frames, last_s, recorded.notes, recorded.faults)

    def check(self, settings: Sequence[Setting], known: Collection[str]) -> None:
        """Refuse a replay in which a scenario broke down: that it said nothing is no result.

        Args:
            settings: What was tried.
            known: Scenarios that broke down in the run, too.

        Raises:
            ConfigError: if another one did.
        """
        for scenario, fault in sorted(self.faults.items()):
            if scenario not in known:
                tried = ", ".join(f"{setting.key}={setting.text}" for setting in settings)
                raise ConfigError(f"{tried or scenario}: {fault}")


class _OperatingPoints:
    """Stands where the detector stood: its operating points are known, and it is never asked."""

    def __init__(self, thresholds: dict[str, float]) -> None:
        self.thresholds = thresholds

    def detect(self, images: Sequence[Image]) -> list[sv.Detections]:
        """Never: a replay plans no inference."""
        raise AssertionError(f"{len(images)} pictures in a replay")


def said_then(log: Replayable, scenario: str) -> Replayed | None:
    """What one scenario said when the log was made; None where the stream broke off, of which the log says less."""
    said: list[Said] = []
    for entry, _ in log.entries:
        if isinstance(entry, Break):
            return None
        shown = entry.scenarios.get(scenario)
        said.append(Said(entry.t, shown.observations if shown is not None else (), False))
    return Replayed((), said, len(said), said[-1].t if said else START_T, {})


def judge_again(camera: CameraSettings, said: Iterable[Said]) -> list[Change]:
    """The rules once more, with the camera's parameters, over what its scenarios said."""
    rules = RuleBook(lambda _camera_id, scenario: camera.scenarios[scenario])
    changes: list[Change] = []
    for moment in said:
        for observation in moment.observations:
            changes += rules.update(observation)
        changes += (
            rules.interrupt(camera.id, moment.t)
            if moment.interrupted
            else rules.advance(moment.t, camera.id)
        )
    return changes


def replay(
    log: Replayable, settings: Sequence[Setting] = (), only: Collection[str] | None = None
) -> Replayed:
    """Show a camera's scenarios their frames again.

    With the recorded parameters the decisions are the same, to the byte. Frames, tracks and measurements are those of
    the log whatever the settings are.

    Args:
        log: From `Replayable.of`.
        settings: Parameters to try.
        only: Scenarios to show them to; all by default. They know nothing of one another.

    Raises:
        ConfigError: if a value does not fit, or the log does not hold what it asks for.
    """
    camera = changed(log.camera, settings)
    if only is not None:
        chosen = {name: camera.scenarios[name] for name in camera.scenarios if name in only}
        camera = camera.model_copy(update={"scenarios": chosen})
    analysers: list[ReplayAnalyser] = []

    def make(
        context: CameraContext,
        scenarios: Sequence[AnyScenario],
        thresholds: Mapping[str, Mapping[str, float]],
    ) -> ReplayAnalyser:
        analysers.append(ReplayAnalyser(context, scenarios, thresholds))
        return analysers[-1]

    engine = Engine(log.config, _points(log, camera, settings), [camera], make_analyser=make)
    if log.state:
        engine.restore(camera.id, log.state)
    if log.rules is not None:
        engine.rules.restore(camera.id, log.rules)
    analyser = analysers[0]
    changes: list[Change] = []
    said: list[Said] = []
    frames, last_t = 0, START_T
    try:
        for entry, frame in log.entries:
            if isinstance(entry, Break):
                outcome = (
                    engine.interrupt(camera.id, entry.t)
                    if entry.interrupted
                    else engine.camera_silent(camera.id, entry.t, 0.0, "")
                )
                changes += outcome.changes
                said.append(Said(entry.t, outcome.observations, entry.interrupted))
            elif frame is not None:
                analyser.shown = entry
                for outcome in engine.step([frame]):
                    changes += outcome.changes
                    said.append(Said(entry.t, outcome.observations, False))
                frames, last_t = frames + 1, entry.t
    except NotKeptError as error:
        tried = ", ".join(setting.key for setting in settings) or "the log"
        raise ConfigError(
            f"{tried}: the log lacks a measurement ({error}): run the benchmark again"
        ) from error
    return Replayed(changes, said, frames, last_t, dict(analyser.denser_s), analyser.faults)


def _points(
    log: Replayable, camera: CameraSettings, settings: Sequence[Setting]
) -> dict[str, DetectorLike]:
    points = {name: dict(classes) for name, classes in log.thresholds.items()}
    for setting in settings:
        mark, _, class_name = setting.name.partition(".")
        parameters = camera.scenarios.get(setting.scenario)
        if mark != THRESHOLDS or parameters is None:
            continue
        model = load_scenario(setting.scenario).model_for(parameters) or ""
        if class_name not in points.get(model, {}):
            known = ", ".join(sorted(points.get(model, {}))) or "none"
            raise ConfigError(
                f"{setting.key}: found no class {class_name!r}, expected one of {known}"
            )
        points[model][class_name] = setting.value
    return {name: _OperatingPoints(classes) for name, classes in points.items()}
