"""The engine: wires analysis to the rules, for the live daemon and for the benchmark alike.

It has no thread and no clock of its own. Whoever drives it hands it frames in order of time, one or several cameras at
once, and gets what the rules made of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias

import structlog
import supervision as sv

from alerts.rules import Change, RuleBook
from gridwatch.config import CameraSettings, Config
from pipeline.analyse.analyser import AnyScenario, CameraAnalyser
from pipeline.analyse.looks import ShownFrame
from pipeline.analyse.scenario import CameraContext, RuleParameters, load_scenario
from pipeline.capture.health import CameraHealth, HealthParameters
from pipeline.exceptions import ModelError
from pipeline.frame import Frame, Image
from pipeline.observation import Json, Observation

__all__ = ["HEALTH", "DetectorLike", "Engine", "MakeAnalyser", "Outcome", "Recorder"]

log = structlog.get_logger(__name__)

HEALTH = "camera_health"
HEALTH_INTERVAL_S = 1.0  # a covered or turned camera is a matter of seconds, not of frames


MakeAnalyser: TypeAlias = Callable[
    [CameraContext, Sequence[AnyScenario], Mapping[str, Mapping[str, float]]], CameraAnalyser
]
"""Makes the analysis of one camera from its scenarios and the operating points by model."""


class Recorder(Protocol):
    """Keeps what a replay needs, see `gridwatch.detection_log`."""

    def keep(self, shown: ShownFrame) -> None:
        """A frame was observed."""

    def interrupted(self, camera_id: str, t: float) -> None:
        """The camera's stream broke off at stream time `t`."""

    def silent(self, camera_id: str, t: float) -> None:
        """Nothing has come from the camera up to `t`."""


class DetectorLike(Protocol):
    """What the engine needs of a detector; `pipeline.analyse.detector.Detector` is one."""

    @property
    def thresholds(self) -> dict[str, float]:
        """Operating point by class."""

    def detect(self, images: Sequence[Image]) -> list[sv.Detections]:
        """Detections of each picture, in its pixels."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one frame (or one interruption) led to.

    Attributes:
        camera_id: The camera.
        t: Stream time in seconds.
        frame: The picture; None for an interruption.
        observations: What the scenarios said.
        changes: What the rules made of it.
    """

    camera_id: str
    t: float
    frame: Frame | None
    observations: Sequence[Observation]
    changes: Sequence[Change]


@dataclass(slots=True)
class _Lane:
    settings: CameraSettings
    analyser: CameraAnalyser
    health: CameraHealth | None
    health_due_t: float = float("-inf")


class Engine:
    """All cameras of one host, from frames to alarms.

    Args:
        config: The site.
        detectors: By model name; a model that could not be loaded is simply absent.
        cameras: Which cameras to run; all enabled ones by default.
        at_work: Told whose frames are worked on from now on, so that a native crash can be attributed.
        quarantined: Cameras that are set aside. Their silence is a ticket even where their health is not looked at.
        recorder: Keeps what a replay needs.
        make_analyser: Of a replay; by default pictures are analysed.
    """

    def __init__(
        self,
        config: Config,
        detectors: Mapping[str, DetectorLike],
        cameras: Iterable[CameraSettings] | None = None,
        *,
        at_work: Callable[[Sequence[str]], None] = lambda _camera_ids: None,
        quarantined: Container[str] = (),
        recorder: Recorder | None = None,
        make_analyser: MakeAnalyser | None = None,
    ) -> None:
        self._recorder = recorder
        self._make_analyser: MakeAnalyser = make_analyser or partial(
            CameraAnalyser, keep=recorder.keep if recorder is not None else None
        )
        self._detectors = detectors
        self._at_work = at_work
        self._quarantined = quarantined
        self._lanes: dict[str, _Lane] = {}
        self._timezone = config.timezone
        chosen = [c for c in config.cameras if c.enabled] if cameras is None else list(cameras)
        for camera in chosen:
            self._lanes[camera.id] = self._lane(camera)
        self.rules = RuleBook(self._parameters_of)
        self._failing: set[str] = set()

    @property
    def camera_ids(self) -> list[str]:
        """The cameras it runs."""
        return list(self._lanes)

    def faults(self, camera_id: str) -> dict[str, str]:
        """Why scenarios of the camera cannot work, by scenario: a broken plug-in, or a model that is not there."""
        lane = self._lanes[camera_id]
        missing = {
            name: f"model {model} is not usable"
            for name, parameters in lane.settings.scenarios.items()
            if (model := load_scenario(name).model_for(parameters)) is not None
            and (model not in self._detectors or model in self._failing)
        }
        return missing | lane.analyser.faults

    def rate_hz(self, camera_id: str, t: float) -> float:
        """Frames per second that the camera's scenarios need from `t` on, or its health where they need none."""
        lane = self._lanes[camera_id]
        return lane.analyser.rate_hz(t) or (lane.health.rate_hz if lane.health is not None else 0.0)

    def step(self, frames: Sequence[Frame]) -> list[Outcome]:
        """Analyse one frame each of some cameras, batching the inference across them.

        Args:
            frames: At most one per camera, each later than that camera's last.

        Returns:
            One outcome per frame, in the same order.
        """
        wanted: dict[str, list[int]] = defaultdict(list)
        for index, frame in enumerate(frames):
            self._at_work([frame.camera_id])
            for model in self._lanes[frame.camera_id].analyser.plan(frame):
                if model in self._detectors:
                    wanted[model].append(index)
        results: list[dict[str, sv.Detections]] = [{} for _ in frames]
        for model, indices in wanted.items():
            self._at_work([frames[i].camera_id for i in indices])
            try:
                found = self._detectors[model].detect([frames[i].image for i in indices])
            except ModelError as error:
                if model not in self._failing:
                    log.error("inference fails", model=model, reason=str(error))
                    self._failing.add(model)
                continue
            self._failing.discard(model)
            for index, detections in zip(indices, found, strict=True):
                results[index][model] = detections
        return [self._judge(frame, result) for frame, result in zip(frames, results, strict=True)]

    def interrupt(self, camera_id: str, t: float) -> Outcome:
        """The camera's stream broke off at `t`: its conditions are unknown until it is back."""
        lane = self._lanes[camera_id]
        if self._recorder is not None:
            self._recorder.interrupted(camera_id, t)
        observations = lane.analyser.interrupt(t)
        changes = [change for o in observations for change in self.rules.update(o)]
        changes += self.rules.interrupt(camera_id, t)
        return Outcome(camera_id, t, None, observations, changes)

    def camera_silent(self, camera_id: str, t: float, since_s: float, reason: str) -> Outcome:
        """No frame has come from the camera for `since_s` seconds; call it about once a second while that lasts."""
        if self._recorder is not None:
            self._recorder.silent(camera_id, t)
        health = self._lanes[camera_id].health
        observations = health.silent(t, since_s, reason) if health is not None else []
        changes = [change for o in observations for change in self.rules.update(o)]
        changes += self.rules.advance(t, camera_id)
        return Outcome(camera_id, t, None, observations, changes)

    def state(self, camera_id: str) -> dict[str, dict[str, Json]]:
        """What must survive a restart, by scenario; the rules' own state is `rules.snapshot`."""
        lane = self._lanes[camera_id]
        state = dict(lane.analyser.state())
        if lane.health is not None:
            state[HEALTH] = lane.health.state()
        return state

    def restore(self, camera_id: str, state: Mapping[str, dict[str, Json]]) -> None:
        """Take back what `state` gave."""
        lane = self._lanes[camera_id]
        lane.analyser.restore({k: v for k, v in state.items() if k != HEALTH})
        if lane.health is not None and HEALTH in state:
            lane.health.restore(state[HEALTH])

    def reconfigure(self, camera: CameraSettings) -> None:
        """Go on with other parameters for one of the cameras.

        Its dwells, its alarms and what its scenarios have learnt are kept as over a restart, but there is no gap.

        Args:
            camera: With the same scenarios as before.

        Raises:
            Exception: whatever a plug-in raises that does not like its parameters; all is then as it was.
        """
        before = self._lanes[camera.id].settings
        if (before.scenarios, before.health) == (camera.scenarios, camera.health):
            self._lanes[camera.id].settings = camera
            return
        lane = self._lane(camera)
        kept = self.state(camera.id)
        self._lanes[camera.id] = lane
        self.restore(camera.id, kept)
        self.rules.restore(camera.id, self.rules.snapshot(camera.id))  # with the new parameters

    def _lane(self, camera: CameraSettings) -> _Lane:
        context = CameraContext(camera.id, self._timezone)
        scenarios = [
            load_scenario(name)(context, parameters)
            for name, parameters in camera.scenarios.items()
        ]
        thresholds = {name: detector.thresholds for name, detector in self._detectors.items()}
        health = camera.health
        if health is None and camera.id in self._quarantined:
            health = HealthParameters()
        return _Lane(
            settings=camera,
            analyser=self._make_analyser(context, scenarios, thresholds),
            health=CameraHealth(camera.id, health) if health is not None else None,
        )

    def _judge(self, frame: Frame, results: Mapping[str, sv.Detections]) -> Outcome:
        self._at_work([frame.camera_id])
        lane = self._lanes[frame.camera_id]
        observations = list(lane.analyser.observe(frame, results))
        if lane.health is not None and frame.t >= lane.health_due_t:
            lane.health_due_t = frame.t + HEALTH_INTERVAL_S
            observations += lane.health.observe(frame)
        changes = [change for o in observations for change in self.rules.update(o)]
        changes += self.rules.advance(frame.t, frame.camera_id)
        return Outcome(frame.camera_id, frame.t, frame, observations, changes)

    def is_watched(self, camera_id: str, scenario: str) -> bool:
        """Whether the configuration has this camera look for this scenario; alarms of others can never end."""
        lane = self._lanes.get(camera_id)
        if lane is None:
            return False
        return (
            lane.health is not None if scenario == HEALTH else scenario in lane.settings.scenarios
        )

    def _parameters_of(self, camera_id: str, scenario: str) -> RuleParameters:
        if not self.is_watched(camera_id, scenario):
            raise KeyError(scenario)
        settings = self._lanes[camera_id].settings
        if scenario == HEALTH:
            return settings.health or HealthParameters()
        return settings.scenarios[scenario]
