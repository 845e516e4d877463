from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC
from typing import ClassVar

import numpy as np
import pytest
import structlog
import supervision as sv
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analyse.analyser import CameraAnalyser
from pipeline.analyse.scenario import CameraContext, Need, Scenario, ScenarioParameters, Scene
from pipeline.frame import Image
from pipeline.observation import Condition, Json, Observation
from pipeline.testing import Box, ScriptedDetector, frame_at

CAMERA = CameraContext("gate", UTC)
START = 1_700_000_000.0
CLASSES = ("car", "person")
CAR: Box = ("car", 0.8, 100.0, 100.0, 200.0, 160.0)
STILL = np.full((180, 320, 3), 90, np.uint8)


class Watcher(Scenario[ScenarioParameters]):
    """Reports every scene; its wants and failures are set from outside."""

    id: ClassVar[str] = "watcher"
    title: ClassVar[dict[str, str]] = {"en": "Watcher"}
    Parameters: ClassVar[type[ScenarioParameters]] = ScenarioParameters
    model: ClassVar[str | None] = "vehicles"

    def __init__(self, raise_after: float = 4.0, rate_hz: float = 5.0) -> None:
        super().__init__(CAMERA, ScenarioParameters(raise_after=raise_after))
        self.wants = Need(rate_hz)
        self.scenes: list[Scene] = []
        self.fails_in: set[str] = set()
        self.learnt: dict[str, Json] = {}
        self.says = CAMERA.id, self.id

    def need(self, t: float) -> Need:  # noqa: ARG002
        self._may_fail("need")
        return self.wants

    def observe(self, scene: Scene) -> list[Observation]:
        self._may_fail("observe")
        self.scenes.append(scene)
        return [self._tell(scene.frame.t, Condition.HOLDS)]

    def interrupt(self, t: float) -> list[Observation]:
        self._may_fail("interrupt")
        return [self._tell(t, Condition.UNKNOWN)]

    def state(self) -> dict[str, Json]:
        self._may_fail("state")
        return self.learnt

    def restore(self, state: dict[str, Json]) -> None:
        self._may_fail("restore")
        self.learnt = state

    def _may_fail(self, what: str) -> None:
        if what in self.fails_in:
            raise RuntimeError(f"{what} broke")

    def _tell(self, t: float, condition: Condition) -> Observation:
        camera, scenario = self.says
        return Observation(scenario, camera, "zone:a", t, condition, 1.0)


class Flame(Watcher):
    id: ClassVar[str] = "flame"
    model: ClassVar[str | None] = "fire"


class Colour(Watcher):
    id: ClassVar[str] = "colour"
    model: ClassVar[str | None] = None


class Site:
    """An analyser with scripted detectors, driven like the engine does."""

    def __init__(
        self,
        *scenarios: Watcher,
        script: Callable[[float], Iterable[Box]] = lambda _: [CAR],
        models: Sequence[str] = ("vehicles", "fire"),
    ) -> None:
        self.t = START
        thresholds = dict.fromkeys(CLASSES, 0.5)
        self.analyser = CameraAnalyser(CAMERA, scenarios, dict.fromkeys(models, thresholds))
        self.detector = ScriptedDetector(script, CLASSES, clock=lambda: self.t)
        self.inferred: list[tuple[float, str]] = []

    def show(
        self, t: float, image: Image = STILL, *, epoch: int = 0, overload: bool = False
    ) -> list[Observation]:
        self.t = START + t
        frame = frame_at(self.t, image, camera_id=CAMERA.id, epoch=epoch)
        names = self.analyser.plan(frame)
        self.inferred += [(round(t, 3), name) for name in sorted(names)]
        results: dict[str, sv.Detections] = {}
        if not overload:
            results = {name: self.detector.detect([image])[0] for name in names}
        return self.analyser.observe(frame, results)

    def run(self, seconds: float, rate_hz: float = 5.0, start: float = 0.0) -> None:
        for i in range(round(seconds * rate_hz)):
            self.show(start + i / rate_hz)

    def times(self, model: str = "vehicles") -> list[float]:
        return [t for t, name in self.inferred if name == model]


def moved(step: int) -> Image:
    image = STILL.copy()
    image[40:100, 20 + 10 * step : 60 + 10 * step] = 220
    return image


def track_ids(scene: Scene) -> list[int]:
    assert scene.detections is not None
    assert scene.detections.tracker_id is not None
    return [int(i) for i in scene.detections.tracker_id]


def test_outside_its_active_hours_nothing_holds_even_if_the_scenario_does_not_look() -> None:
    watcher = Watcher()
    watcher.parameters = ScenarioParameters.model_validate({"active": ["22:00-22:14"]})
    site = Site(watcher)  # which begins at 22:13:20 UTC
    (inside,), (outside,) = site.show(0.0), site.show(60.0)
    assert inside.condition is Condition.HOLDS
    assert outside.condition is Condition.CLEAR
    assert outside.detail["reason"] == "outside active hours"


def test_a_still_view_is_seen_twice_and_then_every_half_dwell() -> None:
    watcher = Watcher(raise_after=4.0)
    site = Site(watcher)
    site.run(10.0)
    assert site.times() == [0.0, 0.2, 2.2, 4.2, 6.2, 8.2]
    assert len(watcher.scenes) == 50  # inference is skipped, observation never
    ages = [scene.frame.t - scene.detections_t for scene in watcher.scenes]
    assert max(ages) <= 2.0 + 1e-6
    assert all(len(scene.detections or ()) == 1 for scene in watcher.scenes)


def test_motion_is_inferred_and_twice_what_has_come_to_rest() -> None:
    site = Site(Watcher(raise_after=600.0))
    for i in range(100):
        site.show(i / 5, moved(min(max(i - 10, 0), 10)))
    moving = [i / 5 for i in range(11, 21)]
    assert site.times()[:2] == [0.0, 0.2]
    assert site.times()[2:12] == moving
    rest = site.times()[12:]
    # The background takes a few seconds to take in what has stopped; then there are two looks more.
    assert rest == [pytest.approx(4.2 + 0.2 * i) for i in range(len(rest))]
    assert 4.0 < rest[-1] < 15.0


def test_a_scenario_in_doubt_is_inferred_without_motion() -> None:
    watcher = Watcher(raise_after=600.0)
    site = Site(watcher)
    site.run(2.0)
    assert site.times() == [0.0, 0.2]
    watcher.wants = Need(5.0, inference=True)
    site.run(1.0, start=2.0)
    assert site.times()[2:] == [2.0, 2.2, 2.4, 2.6, 2.8]


def test_the_refresh_follows_the_shortest_dwell_of_the_models_scenarios() -> None:
    class Second(Watcher):
        id: ClassVar[str] = "second"

    site = Site(Watcher(raise_after=100.0), Second(raise_after=2.0))
    site.run(5.0)
    assert site.times() == [0.0, 0.2, 1.2, 2.2, 3.2, 4.2]


def test_a_dwell_shorter_than_two_frames_is_inferred_at_every_frame() -> None:
    site = Site(Watcher(raise_after=0.0))
    site.run(2.0)
    assert len(site.times()) == 10


def test_each_scenario_is_shown_its_own_rate_and_its_own_model() -> None:
    watcher, flame, colour = Watcher(rate_hz=2.0), Flame(rate_hz=10.0), Colour(rate_hz=0.5)
    site = Site(watcher, flame, colour)
    assert site.analyser.rate_hz(START) == 10.0
    site.run(20.0, rate_hz=10.0)
    assert len(watcher.scenes) == pytest.approx(40, abs=1)
    assert len(flame.scenes) == 200
    assert len(colour.scenes) == pytest.approx(10, abs=1)
    assert all(scene.detections is None for scene in colour.scenes)
    assert all(scene.detections_t == scene.frame.t for scene in colour.scenes)
    assert all(scene.thresholds == {} for scene in colour.scenes)
    assert watcher.scenes[0].thresholds == {"car": 0.5, "person": 0.5}


def test_the_mean_rate_is_the_wanted_one_where_frames_do_not_divide_by_it() -> None:
    flame = Flame(rate_hz=10.0)
    site = Site(flame)
    site.run(10.0, rate_hz=25.0)
    assert len(flame.scenes) == pytest.approx(100, abs=1)


def test_live_frames_that_come_a_little_early_are_not_lost() -> None:
    watcher = Watcher(rate_hz=5.0)
    site = Site(watcher)
    rng = np.random.default_rng(3)
    for i in range(100):
        site.show(i / 5 + float(rng.uniform(-0.04, 0.04)))
    assert len(watcher.scenes) == 100


def test_a_burst_is_asked_for_at_once() -> None:
    watcher = Watcher(rate_hz=1.0)
    site = Site(watcher)
    site.show(0.0)
    assert not site.analyser.due(START + 0.2)
    site.show(0.2)
    assert len(watcher.scenes) == 1
    watcher.wants = Need(10.0, inference=True)
    assert site.analyser.rate_hz(START + 0.3) == 10.0
    assert site.analyser.due(START + 0.3)
    site.show(0.3)
    assert len(watcher.scenes) == 2


def test_after_a_pause_no_frames_are_caught_up_on() -> None:
    watcher = Watcher(rate_hz=1.0)
    site = Site(watcher)
    site.show(0.0)
    for i in range(20):
        site.show(60.0 + i / 10)
    assert [round(scene.frame.t - START, 1) for scene in watcher.scenes] == [0.0, 60.0, 60.8, 61.8]


def test_a_scenario_that_wants_nothing_is_shown_nothing() -> None:
    site = Site(Watcher(rate_hz=0.0))
    site.run(2.0)
    assert site.analyser.rate_hz(START) == 0.0
    assert site.inferred == []


def test_a_model_that_is_not_there_is_not_asked_for() -> None:
    watcher = Watcher()
    site = Site(watcher, models=())
    site.run(1.0)
    assert site.inferred == []
    assert [scene.detections for scene in watcher.scenes] == [None] * 5


def test_under_overload_the_last_result_stands_and_the_model_is_asked_again() -> None:
    watcher = Watcher(raise_after=600.0)
    site = Site(watcher)
    site.show(0.0, overload=True)
    assert watcher.scenes[0].detections is None
    site.show(0.2)
    site.show(0.4)
    site.show(0.6, moved(0), overload=True)
    assert watcher.scenes[-1].detections_t == START + 0.4
    site.show(0.8, moved(0))
    assert site.times() == [0.0, 0.2, 0.4, 0.6, 0.8]


def test_a_parked_car_keeps_its_id_over_long_stillness() -> None:
    watcher = Watcher(raise_after=300.0, rate_hz=1.0)
    site = Site(watcher)
    site.run(1000.0, rate_hz=1.0)
    assert len(site.times()) == 8
    assert {i for scene in watcher.scenes[1:] for i in track_ids(scene)} == {0}


def test_at_a_low_rate_tracks_live_for_some_frames() -> None:
    watcher = Watcher(raise_after=300.0, rate_hz=0.1)
    watcher.wants = Need(0.1, inference=True)
    site = Site(watcher, script=lambda t: [] if t - START == 30.0 else [CAR])
    for i in range(8):
        site.show(10.0 * i, moved(i))
    assert [track_ids(scene) for scene in watcher.scenes] == [[-1], [0], [0], [], *[[0]] * 4]


def test_after_a_reconnect_nothing_old_is_shown() -> None:
    watcher = Watcher(raise_after=600.0)
    site = Site(watcher)
    site.run(2.0)
    site.show(3.0, epoch=1, overload=True)
    assert watcher.scenes[-1].detections is None
    assert watcher.scenes[-1].detections_t == START + 3.0
    site.show(3.2, epoch=1)
    assert track_ids(watcher.scenes[-1]) == [0]  # the same place in the same view
    site.show(4.0, STILL[:90], epoch=2)
    site.show(4.2, STILL[:90], epoch=2)
    assert track_ids(watcher.scenes[-1]) == [1]  # another view


def test_observe_refuses_a_frame_that_was_not_planned() -> None:
    analyser = Site(Watcher()).analyser
    frame = frame_at(START, STILL, camera_id=CAMERA.id)
    with pytest.raises(ValueError, match="camera gate: found an unplanned frame"):
        analyser.observe(frame, {})
    analyser.plan(frame)
    analyser.observe(frame, {})
    with pytest.raises(ValueError, match="unplanned"):
        analyser.observe(frame, {})


@pytest.mark.parametrize("what", ["observe", "need"])
def test_a_scenario_that_fails_three_times_is_switched_off_and_the_others_go_on(what: str) -> None:
    broken, sound = Watcher(), Flame()
    site = Site(broken, sound)
    broken.fails_in = {what}
    with structlog.testing.capture_logs() as logs:
        for i in range(10):
            observations = site.show(i / 5)
            assert [o.scenario for o in observations] == ["flame"]
    assert site.analyser.faults == {
        "watcher": f"camera gate: scenario watcher: {what} failed: RuntimeError: {what} broke"
    }
    assert len(sound.scenes) == 10
    assert [log["event"] for log in logs] == ["scenario failed", "scenario switched off"]
    assert {(log["camera"], log["scenario"]) for log in logs} == {("gate", "watcher")}
    assert site.analyser.interrupt(START + 3)[0].scenario == "flame"


def test_one_failure_is_forgiven() -> None:
    watcher = Watcher()
    site = Site(watcher)
    with structlog.testing.capture_logs() as logs:
        for i in range(12):
            watcher.fails_in = {"observe"} if i % 3 else set()  # twice in a row, then well
            site.show(i / 5)
    assert site.analyser.faults == {}
    assert [log["event"] for log in logs][:2] == ["scenario failed", "scenario recovered"]


@pytest.mark.parametrize("says", [("other", "watcher"), ("gate", "other")])
def test_an_observation_in_anothers_name_is_a_failure(says: tuple[str, str]) -> None:
    watcher = Watcher()
    watcher.says = says
    site = Site(watcher)
    with structlog.testing.capture_logs():
        assert [site.show(i / 5) for i in range(3)] == [[], [], []]
    assert "found an observation of" in site.analyser.faults["watcher"]


def test_what_no_store_can_keep_is_the_plug_ins_failure_and_nobody_elses() -> None:
    class Careless(Watcher):
        def _tell(self, t: float, condition: Condition) -> Observation:
            detail: dict[str, Json] = {"share": np.float32(0.5)}  # type: ignore[dict-item]
            return Observation(self.id, CAMERA.id, "zone:a", t, condition, 1.0, detail=detail)

    careless, sound = Careless(), Flame()
    site = Site(careless, sound)
    with structlog.testing.capture_logs():
        for i in range(3):
            assert [o.scenario for o in site.show(i / 5)] == ["flame"]
        assert "is no JSON" in site.analyser.faults["watcher"]
        sound.learnt = {"usual": np.float32(0.5)}  # type: ignore[dict-item]
        assert site.analyser.state() == {}


def test_an_interruption_asks_every_scenario() -> None:
    site = Site(Watcher(), Flame(), Colour())
    told = site.analyser.interrupt(START + 5)
    assert [(o.scenario, o.condition, o.t) for o in told] == [
        (name, Condition.UNKNOWN, START + 5) for name in ("watcher", "flame", "colour")
    ]


def test_what_was_learnt_survives_by_scenario() -> None:
    colour, watcher = Colour(), Watcher()
    colour.learnt = {"baseline": [1.0, 2.0]}
    state = Site(colour, watcher).analyser.state()
    assert state == {"colour": {"baseline": [1.0, 2.0]}}
    fresh, other = Colour(), Watcher()
    Site(fresh, other).analyser.restore({**state, "unknown": {"a": 1}})
    assert fresh.learnt == colour.learnt
    assert other.learnt == {}


def test_a_state_that_breaks_is_left_out() -> None:
    colour, watcher = Colour(), Watcher()
    colour.learnt = watcher.learnt = {"a": 1}
    watcher.fails_in = {"state", "restore"}
    analyser = Site(colour, watcher).analyser
    with structlog.testing.capture_logs() as logs:
        assert analyser.state() == {"colour": {"a": 1}}
        analyser.restore({"watcher": {"a": 2}, "colour": {"a": 2}})
    assert colour.learnt == {"a": 2}
    assert len(logs) == 1


@given(
    gaps=st.lists(st.floats(0.02, 3.0), min_size=1, max_size=40),
    raise_after=st.floats(0.0, 6.0),
    rate_hz=st.floats(0.2, 10.0),
)
def test_no_result_grows_older_than_half_the_dwell_plus_a_frame(
    gaps: list[float], raise_after: float, rate_hz: float
) -> None:
    watcher = Watcher(raise_after=raise_after, rate_hz=rate_hz)
    site = Site(watcher)
    t, longest = 0.0, 0.0
    for gap in gaps:
        t += gap
        site.show(t)
    shown = [scene.frame.t for scene in watcher.scenes]
    longest = max(np.diff(shown), default=0.0)
    for scene in watcher.scenes:
        age = scene.frame.t - scene.detections_t
        assert 0 <= age <= max(raise_after / 2, 0.0) + longest + 1e-6


@given(gaps=st.lists(st.floats(0.02, 3.0), min_size=1, max_size=30))
def test_the_same_frames_lead_to_the_same_outcome(gaps: list[float]) -> None:
    def outcome() -> list[object]:
        watcher, flame = Watcher(), Flame(rate_hz=1.0)
        site = Site(watcher, flame)
        told: list[object] = []
        t = 0.0
        for i, gap in enumerate(gaps):
            t += gap
            told.append(site.show(t, moved(i % 7)))
        told.append(site.inferred)
        return told

    assert outcome() == outcome()
