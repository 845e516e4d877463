"""One camera's analysis: which models see a frame, and what its scenarios make of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

import structlog
import supervision as sv

from pipeline.analyse.looks import KeptLooks, Look, Shown, ShownFrame, look_now
from pipeline.analyse.motion import Motion, MotionGate
from pipeline.analyse.scenario import CameraContext, Need, Scenario, Scene
from pipeline.analyse.tracker import Tracker
from pipeline.exceptions import NotKeptError, ScenarioError
from pipeline.frame import Frame
from pipeline.observation import Condition, Json, Observation

__all__ = ["AnyScenario", "CameraAnalyser"]

log = structlog.get_logger(__name__)

T = TypeVar("T")
AnyScenario: TypeAlias = Scenario[Any]

MAX_FAILURES = 3  # in a row: one may be a freak of the picture, three are a defect
EARLY = 0.25  # of a period by which a frame may come early; live frames are never exactly on time
STILL_LOOKS = 2  # once motion has ceased: the first shows what has come to rest, the second gives it its track
LOST_S = 5.0  # an object behind a passing van keeps its track
LOST_LOOKS = 3.0  # ... but at a low rate it must be missed some times before it counts as lost


@dataclass(slots=True)
class _Running:
    """A scenario at work."""

    scenario: AnyScenario
    due_t: float = -math.inf  # nominal time of the frame that it was last shown
    need: tuple[float, Need] | None = None  # what it said it needs after that time
    failures: int = 0  # in a row
    fault: str | None = None


@dataclass(slots=True)
class _Sight:
    """What a model last saw here."""

    tracker: Tracker
    detections: sv.Detections | None = None
    t: float = -math.inf
    still_looks: int = 0  # since anything moved


class CameraAnalyser:
    """What one camera's scenarios need and see. It has no thread and reads no clock.

    For every frame, in order of time: `plan`, then the detectors, then `observe`::

        names = analyser.plan(frame)
        results = {name: detectors[name].detect([frame.image])[0] for name in names}
        observations = analyser.observe(frame, results)

    The motion gate skips inference, never observation: while nothing moves the last result stands and is refreshed at
    least every half `raise_after`, and twice after motion has ceased. A scenario that fails three times in a row is
    switched off; the others go on.

    Args:
        camera: The camera.
        scenarios: Its scenarios.
        thresholds: Operating point per class, by model; the scenarios of a model that is not named here are shown no
            detections.
        keep: Told of every observed frame what a replay needs; see `pipeline.analyse.replay`.
    """

    def __init__(
        self,
        camera: CameraContext,
        scenarios: Sequence[AnyScenario],
        thresholds: Mapping[str, Mapping[str, float]],
        keep: Callable[[ShownFrame], None] | None = None,
    ) -> None:
        self._keep = keep
        self._camera = camera
        self._running = [_Running(scenario) for scenario in scenarios]
        self._thresholds = {name: dict(points) for name, points in thresholds.items()}
        self._gate = MotionGate()
        self._sights: dict[str, _Sight] = {}
        self._moved_t = -math.inf
        self._picture: tuple[int, int, int] | None = None
        self._planned: tuple[Frame, Motion, list[_Running]] | None = None

    @property
    def faults(self) -> dict[str, str]:
        """Why scenarios were switched off, by scenario."""
        return {r.scenario.id: r.fault for r in self._running if r.fault is not None}

    def rate_hz(self, t: float) -> float:
        """Frames per second that must be captured from stream time `t` on."""
        return max((self._need(r, t).rate_hz for r in self._live()), default=0.0)

    def due(self, t: float) -> bool:
        """Whether any scenario wants a frame of stream time `t`."""
        return any(self._is_due(r, t) for r in self._live())

    def plan(self, frame: Frame) -> frozenset[str]:
        """The models that must see this frame.

        Args:
            frame: Later than the last one.
        """
        motion = self._gate.update(frame)
        self._notice_view(frame)
        if motion.moved:
            self._moved_t = frame.t
        due = [r for r in self._live() if self._is_due(r, frame.t)]
        self._planned = frame, motion, due
        return frozenset(
            model
            for r in due
            if (model := r.scenario.active_model) in self._thresholds
            and model is not None
            and self._must_infer(r, model, frame.t)
        )

    def observe(self, frame: Frame, results: Mapping[str, sv.Detections]) -> list[Observation]:
        """What the scenarios that are due say of the frame that was planned last.

        Args:
            frame: The frame given to `plan`.
            results: Detections by model. A planned model that is missing (overload, failure) is asked for again with
                the next frame, and its last result stands.

        Raises:
            ValueError: if the frame is another one than was planned.
        """
        if self._planned is None or self._planned[0] is not frame:
            raise ValueError(
                f"camera {self._camera.id}: found an unplanned frame, expected plan(frame) first"
            )
        _, motion, due = self._planned
        self._planned = None
        for model, detections in results.items():
            self._see(model, detections, frame.t)
        observations: list[Observation] = []
        looks = {r.scenario.id: KeptLooks() for r in due} if self._keep is not None else {}
        for r in due:
            self._advance(r, frame.t)
            scene = self._scene(r.scenario, frame, motion, looks.get(r.scenario.id, look_now))
            observations += self._observe(r, scene)
        if self._keep is not None:
            self._keep(self._shown(frame, motion, results, looks, observations))
        # Models that did not look again: nothing has moved for them.
        for model, sight in self._sights.items():
            if model not in results and not motion.moved:
                sight.tracker.hold(frame.t)
        return observations

    def interrupt(self, t: float) -> list[Observation]:
        """The stream broke off at stream time `t`: what is now unknown."""
        observations: list[Observation] = []
        for r in self._live():
            observations += self._guard(r, "interrupt", partial(r.scenario.interrupt, t)) or []
            r.need = None
        return observations

    def state(self) -> dict[str, dict[str, Json]]:
        """What must survive a restart, by scenario."""
        kept: dict[str, dict[str, Json]] = {}
        for r in self._running:  # a scenario that was switched off has still learnt something
            if state := self._guard(r, "state", partial(_kept, r.scenario)):
                kept[r.scenario.id] = state
        return kept

    def restore(self, state: Mapping[str, dict[str, Json]]) -> None:
        """Take back what `state` gave; scenarios without a part in it start afresh."""
        for r in self._live():
            if (part := state.get(r.scenario.id)) is not None:
                self._guard(r, "restore", partial(r.scenario.restore, part))
                r.need = None

    def _notice_view(self, frame: Frame) -> None:
        """Another view: what was seen before says nothing about it."""
        picture = frame.epoch, frame.height_px, frame.width_px
        if picture == self._picture:
            return
        for sight in self._sights.values():
            sight.detections, sight.t, sight.still_looks = None, -math.inf, 0
            if self._picture is not None and picture[1:] != self._picture[1:]:
                sight.tracker.reset()
        self._picture = picture

    def _shown(
        self,
        frame: Frame,
        motion: Motion,
        models: Iterable[str],
        looks: Mapping[str, KeptLooks],
        observations: Sequence[Observation],
    ) -> ShownFrame:
        """What a replay needs of the frame that was just observed."""
        scenarios = {
            r.scenario.id: Shown(
                self._need(r, frame.t).rate_hz,
                dict(looks[r.scenario.id].answers),
                tuple(o for o in observations if o.scenario == r.scenario.id),
            )
            for r in self._running
            if r.scenario.id in looks
        }
        seen = {
            model: sight.detections
            for model in models
            if (sight := self._sights[model]).detections is not None
        }
        return ShownFrame(
            frame.camera_id,
            frame.t,
            frame.epoch,
            frame.width_px,
            frame.height_px,
            motion.fraction,
            motion.still_s,
            seen,
            scenarios,
        )

    def _live(self) -> list[_Running]:
        return [r for r in self._running if r.fault is None]

    def _need(self, r: _Running, t: float) -> Need:
        if r.need is None or r.need[0] != t:
            need = self._guard(r, "need", partial(r.scenario.need, t)) or Need(0.0)
            r.need = t, need
        return r.need[1]

    def _period_s(self, r: _Running, t: float) -> float:
        rate_hz = self._need(r, t).rate_hz
        return 1 / rate_hz if rate_hz > 0 else math.inf

    def _is_due(self, r: _Running, t: float) -> bool:
        period_s = self._period_s(r, t)
        if math.isinf(period_s):
            return False
        return t >= r.due_t + period_s * (1 - EARLY)

    def _advance(self, r: _Running, t: float) -> None:
        """Count from when the frame was due, not from when it came, so that the mean rate is the wanted one."""
        period_s = self._period_s(r, t)
        nominal_t = r.due_t + period_s
        r.due_t = nominal_t if abs(t - nominal_t) < period_s else t

    def _must_infer(self, r: _Running, model: str, t: float) -> bool:
        sight = self._sights.get(model)
        if sight is None or sight.detections is None:
            return True
        if sight.t <= self._moved_t or sight.still_looks < STILL_LOOKS:
            return True
        need = self._need(r, t)
        # Waiting for the next frame must not make the result older than half the dwell.
        next_t = t + (1 / need.rate_hz if need.rate_hz > 0 else 0.0)
        refresh_s = r.scenario.parameters.raise_after / 2
        return need.inference or next_t - sight.t > refresh_s

    def _sight_of(self, model: str, t: float) -> _Sight:
        if model not in self._sights:
            rates = [
                self._need(r, t).rate_hz for r in self._live() if r.scenario.active_model == model
            ]
            slowest_s = 1 / min((rate for rate in rates if rate > 0), default=1.0)
            lost_s = max(LOST_S, LOST_LOOKS * slowest_s)
            self._sights[model] = _Sight(Tracker(self._thresholds.get(model, {}), lost_s=lost_s))
        return self._sights[model]

    def _see(self, model: str, detections: sv.Detections, t: float) -> None:
        sight = self._sight_of(model, t)
        known = sight.still_looks if sight.t > self._moved_t else 0
        sight.still_looks = known + (t > self._moved_t)
        sight.detections, sight.t = sight.tracker.update(detections, t), t

    def _scene(
        self, scenario: AnyScenario, frame: Frame, motion: Motion, look: Look = look_now
    ) -> Scene:
        sight = (
            self._sights.get(scenario.active_model) if scenario.active_model is not None else None
        )
        return Scene(
            frame=frame,
            motion=motion,
            detections=sight.detections if sight is not None else None,
            detections_t=sight.t if sight is not None and sight.detections is not None else frame.t,
            thresholds=self._thresholds.get(scenario.active_model or "", {}),
            look=look,
        )

    def _observe(self, r: _Running, scene: Scene) -> list[Observation]:
        found = self._guard(r, "observe", lambda: _checked(r.scenario, scene))
        r.need = None  # what it has seen may change what it wants
        if found is None:
            return []
        if r.failures:
            log.info("scenario recovered", failures=r.failures, **self._names(r))
            r.failures = 0
        return found

    def _guard(self, r: _Running, what: str, call: Callable[[], T]) -> T | None:
        """Call into a plug-in; None where it failed."""
        try:
            return call()
        except NotKeptError:  # of a replay, which cannot go on
            raise
        except Exception as error:  # a plug-in may fail in any way
            failure = ScenarioError(
                f"camera {self._camera.id}: scenario {r.scenario.id}: {what} failed:"
                f" {type(error).__name__}: {error}"
            )
            r.failures += 1
            if r.failures == 1:
                log.error("scenario failed", error=str(failure), exc_info=error, **self._names(r))
            elif r.failures == MAX_FAILURES:
                r.fault = str(failure)
                log.error("scenario switched off", failures=r.failures, **self._names(r))
            return None

    def _names(self, r: _Running) -> dict[str, str]:
        return {"camera": self._camera.id, "scenario": r.scenario.id}


def _kept(scenario: AnyScenario) -> dict[str, Json]:
    state = scenario.state()
    _check_json("state", state)
    return state


def _check_json(what: str, value: object) -> None:
    """Here it is one plug-in's fault; in the store it would be the whole batch's, with other cameras' tickets."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ScenarioError(f"{what} is no JSON: {error}") from error


def _checked(scenario: AnyScenario, scene: Scene) -> list[Observation]:
    found = scenario.observe(scene)
    for observation in found:
        named = observation.camera_id, observation.scenario
        if named != (scenario.camera.id, scenario.id):
            raise ScenarioError(
                f"found an observation of {named}, expected {(scenario.camera.id, scenario.id)}"
            )
        _check_json("detail of an observation", dict(observation.detail))
    return [_in_hours(scenario, observation) for observation in found]


def _in_hours(scenario: AnyScenario, observation: Observation) -> Observation:
    """Outside its active hours nothing holds for a scenario, whether it minds them itself or not."""
    if observation.condition is not Condition.HOLDS or scenario.is_active(observation.t):
        return observation
    return replace(
        observation,
        condition=Condition.CLEAR,
        confidence=1.0,
        box=None,
        severity=None,
        detail={**observation.detail, "reason": "outside active hours"},
    )
