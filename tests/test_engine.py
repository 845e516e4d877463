"""The engine's wiring: frames of several cameras in, alarms out; the same in every run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from alerts.rules import Change, ChangeKind
from gridwatch.config import Config, load_config
from gridwatch.engine import Engine, Outcome
from pipeline.frame import Frame
from pipeline.testing import Box, ScriptedDetector, frame_at

VEHICLES = ["person", "bicycle", "ebike", "car", "bus", "truck", "wheelchair"]
EBIKE: Box = ("ebike", 0.9, 200.0, 120.0, 420.0, 330.0)
START_T = 1_767_225_600.0


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "cameras.yaml"
    file.write_text(
        dedent("""\
        site: {id: demo}
        cameras:
          - id: lift-1
            url: rtsp://h/1
            health: false
            scenarios: {ebike_in_elevator: {raise_after: 2s, clear_after: 4s, cooldown: 5s}}
          - id: lift-2
            url: rtsp://h/2
            health: false
            scenarios: {ebike_in_elevator: {raise_after: 2s, clear_after: 4s, cooldown: 5s}}
        """),
        encoding="utf-8",
    )
    return load_config(file, {})


def textured(t: float, camera_id: str) -> Frame:
    """Moving texture, so that the motion gate lets every frame through."""
    rng = np.random.default_rng(round(t * 10))
    image = rng.integers(0, 255, (90, 160, 3), dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    return frame_at(t, image, camera_id=camera_id)


def play(
    engine: Engine, clock: list[float], seconds: float, cameras: Iterable[str], rate_hz: float = 5.0
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for _ in range(round(seconds * rate_hz)):
        clock[0] += 1.0 / rate_hz
        outcomes += engine.step([textured(clock[0], camera_id) for camera_id in cameras])
    return outcomes


def raised(outcomes: Iterable[Outcome]) -> list[Change]:
    return [c for o in outcomes for c in o.changes if c.kind is ChangeKind.RAISED]


def site(config: Config, script: Callable[[float], list[Box]]) -> tuple[Engine, list[float]]:
    clock = [START_T]
    detector = ScriptedDetector(script, VEHICLES, clock=lambda: clock[0])
    return Engine(config, {"vehicles": detector}), clock


def test_an_ebike_in_a_cabin_is_one_alarm_per_camera(config: Config) -> None:
    engine, clock = site(config, lambda t: [EBIKE] if t > START_T + 3 else [])
    alarms = raised(play(engine, clock, 12, ["lift-1", "lift-2"]))
    assert sorted(alarm.key.camera_id for alarm in alarms) == ["lift-1", "lift-2"]
    for alarm in alarms:
        # One gap early at most: an observation speaks for the time since the one before it.
        assert 1.7 <= alarm.t - (START_T + 3) < 5.0


def test_a_detector_that_sees_nothing_raises_nothing(config: Config) -> None:
    engine, clock = site(config, lambda _t: [])
    assert not raised(play(engine, clock, 20, ["lift-1"]))


def test_a_missing_model_leaves_the_rest_at_work(config: Config) -> None:
    engine = Engine(config, {})
    assert not raised(play(engine, [START_T], 5, ["lift-1"]))


def test_the_same_frames_give_the_same_alarms(config: Config) -> None:
    def run() -> list[Change]:
        engine, clock = site(config, lambda t: [EBIKE] if t > START_T + 3 else [])
        return raised(play(engine, clock, 12, ["lift-1"]))

    assert run() == run()


def test_a_restart_in_mid_dwell_neither_loses_nor_repeats_the_alarm(config: Config) -> None:
    def script(t: float) -> list[Box]:
        return [EBIKE] if t > START_T + 3 else []

    first, clock = site(config, script)
    before = raised(play(first, clock, 4.4, ["lift-1"]))
    assert not before
    rules, scenarios = first.rules.snapshot("lift-1"), first.state("lift-1")
    second = Engine(
        config, {"vehicles": ScriptedDetector(script, VEHICLES, clock=lambda: clock[0])}
    )
    second.rules.restore("lift-1", rules)
    second.restore("lift-1", scenarios)
    clock[0] += 1.0  # the crash took a second
    after = raised(play(second, clock, 6, ["lift-1"]))
    assert len(after) == 1
    assert after[0].since < START_T + 4.4  # the dwell began before the crash

    third = Engine(config, {"vehicles": ScriptedDetector(script, VEHICLES, clock=lambda: clock[0])})
    third.rules.restore("lift-1", second.rules.snapshot("lift-1"))
    assert not raised(play(third, clock, 6, ["lift-1"]))  # it is open already


def test_an_interruption_freezes_the_dwell(config: Config) -> None:
    engine, clock = site(config, lambda t: [EBIKE] if t > START_T + 1 else [])
    play(engine, clock, 2.0, ["lift-1"])
    engine.interrupt("lift-1", clock[0])
    clock[0] += 3.0
    engine.camera_silent("lift-1", clock[0], 3.0, "stalled")
    alarms = raised(play(engine, clock, 3.0, ["lift-1"]))
    assert len(alarms) == 1


def test_a_camera_without_a_working_scenario_is_still_looked_at_for_its_health(
    tmp_path: Path,
) -> None:
    file = tmp_path / "cameras.yaml"
    file.write_text("site: {id: demo}\ncameras: [{id: gate, url: rtsp://h/1}]\n", encoding="utf-8")
    engine = Engine(load_config(file, {}), {})
    assert engine.rate_hz("gate", START_T) > 0  # or it would be reported as dead
