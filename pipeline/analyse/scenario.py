"""What every scenario is: parameters, what it needs, how it observes."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import ClassVar, Generic, Literal, TypeVar

import supervision as sv

from pipeline.analyse.looks import Look, look_now
from pipeline.analyse.motion import Motion
from pipeline.exceptions import ScenarioError
from pipeline.frame import Frame
from pipeline.observation import Json, Observation
from pipeline.rule_parameters import RuleParameters
from pipeline.units import TimeWindow

__all__ = [
    "CameraContext",
    "Need",
    "RuleParameters",
    "Scenario",
    "ScenarioParameters",
    "Scene",
    "Severity",
    "load_scenario",
    "scenario_names",
]

Severity = Literal["minor", "major", "critical"]
ENTRY_POINT_GROUP = "gridwatch.scenarios"


class ScenarioParameters(RuleParameters):
    """What every scenario takes; a scenario's own class adds its parameters and overrides defaults.

    Attributes:
        severity: Of the ticket.
        active: Local days and hours in which the scenario applies; empty means always.
    """

    severity: Severity = "major"
    active: tuple[TimeWindow, ...] = ()


@dataclass(frozen=True, slots=True)
class CameraContext:
    """What a scenario may know of its camera."""

    id: str
    timezone: tzinfo


@dataclass(frozen=True, slots=True)
class Need:
    """What a scenario needs next.

    Attributes:
        rate_hz: Frames per second it wants to observe from now on (may rise for a burst).
        inference: True when the next frame must be inferred even if nothing moves.
    """

    rate_hz: float
    inference: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What a scenario is shown at one moment.

    Attributes:
        frame: The picture.
        motion: What moved since the camera's last analysed frame.
        detections: Tracked detections of the scenario's model in pixels of `frame.image`: `xyxy` (n, 4) float32,
            `confidence` (n,), `class_id` (n,), `tracker_id` (n,) with -1 where untracked,
            `data["class_name"]` (n,) str.
            Already cut at the registry's lowest threshold (not at the operating points, see `thresholds`).
            None when the scenario uses no model or the model is unavailable.
        detections_t: Stream time of the frame that was inferred; older than `frame.t` where the motion gate let the
            last result stand.
        thresholds: The model's operating point per class name.
        look: How to read pixels of `frame.image` so that the scenario can be replayed without them.
    """

    frame: Frame
    motion: Motion
    detections: sv.Detections | None
    detections_t: float
    thresholds: dict[str, float]
    look: Look = look_now


P = TypeVar("P", bound=ScenarioParameters)


class Scenario(ABC, Generic[P]):
    """One scenario on one camera. It never reads a clock: time is `scene.frame.t`.

    Class attributes:
        id: Identifier in cameras.yaml, tickets and topics.
        title: Ticket title by language (``zh``, ``en``).
        Parameters: Its parameter class.
        model: Name of the model in the registry that it needs, or None; where it depends on the parameters, see
            `model_for`.
        replayed: Parameters of its own that a replay of a detection log may change beside those of the rule: none of
            them steers what is measured in pixels. None where it cannot be replayed: it reads pixels outside of
            `Scene.look`.
        reads_rule: Parameters of the rule that its observations depend on, too.

    Attributes:
        active_model: The model that is to see this camera's frames now; a scenario that needs it for a while only
            sets it to None afterwards.
    """

    id: ClassVar[str]
    title: ClassVar[dict[str, str]]
    Parameters: ClassVar[type[ScenarioParameters]]
    model: ClassVar[str | None] = None
    replayed: ClassVar[frozenset[str] | None] = None
    reads_rule: ClassVar[frozenset[str]] = frozenset(RuleParameters.model_fields)

    def __init__(self, camera: CameraContext, parameters: P) -> None:
        self.camera = camera
        self.parameters = parameters
        self.active_model = self.model_for(parameters)

    @classmethod
    def model_for(cls, parameters: ScenarioParameters) -> str | None:  # noqa: ARG003
        """The model that a camera with these parameters needs."""
        return cls.model

    @abstractmethod
    def need(self, t: float) -> Need:
        """What it needs after stream time `t`."""

    @abstractmethod
    def observe(self, scene: Scene) -> list[Observation]:
        """Observations of every subject it knows at `scene.frame.t`; empty when it has no subject."""

    def interrupt(self, t: float) -> list[Observation]:  # noqa: ARG002
        """The stream broke off at `t`: what is now unknown. Dwells are frozen by the rules, not here."""
        return []

    def state(self) -> dict[str, Json]:
        """What must survive a restart (baselines, stays), as JSON."""
        return {}

    def restore(self, state: dict[str, Json]) -> None:
        """Take back what `state` gave, possibly after hours; unreadable state is ignored by raising nothing."""

    def is_active(self, t: float) -> bool:
        """Whether local time at `t` lies in one of the active windows."""
        if not self.parameters.active:
            return True
        moment = datetime.fromtimestamp(t, self.camera.timezone)
        return any(window.contains(moment) for window in self.parameters.active)


def scenario_names() -> list[str]:
    """Identifiers of all installed scenarios, sorted."""
    return sorted({point.name for point in _points(entry_points, tuple(sys.path))})


@cache
def _points(
    find: Callable[..., Iterable[EntryPoint]],
    path: tuple[str, ...],  # noqa: ARG001 - what is found depends on it
) -> tuple[EntryPoint, ...]:
    """Read once: every look goes through the metadata of all that is installed."""
    return tuple(find(group=ENTRY_POINT_GROUP))


def load_scenario(name: str) -> type[Scenario[ScenarioParameters]]:
    """The scenario class behind an identifier.

    Raises:
        ScenarioError: if there is none of that name, or it cannot be imported, or is no scenario, or has no title.
    """
    points = [point for point in _points(entry_points, tuple(sys.path)) if point.name == name]
    if not points:
        raise ScenarioError(
            f"scenario {name!r} is not installed; expected one of {', '.join(scenario_names())}"
        )
    try:
        loaded = points[0].load()
    except Exception as error:  # a third party's import may fail in any way
        raise ScenarioError(f"scenario {name!r} cannot be imported: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Scenario)):
        raise ScenarioError(f"scenario {name!r}: {points[0].value} is no Scenario class")
    title = getattr(loaded, "title", None)
    for language in ("zh", "en"):  # of every ticket
        if not (isinstance(title, Mapping) and title.get(language)):
            raise ScenarioError(
                f"scenario {name!r}: {points[0].value} has no title in {language!r}, "
                "expected one in 'zh' and one in 'en'"
            )
    return loaded
