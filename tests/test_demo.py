"""`gridwatch demo`: four tickets from the shipped weights and clips alone, and none from what cannot be seen."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from alerts.rules import ChangeKind
from alerts.store import Store
from gridwatch.config import CameraSettings, Config, load_config
from gridwatch.demo import shipped_configuration
from gridwatch.engine import DetectorLike, Engine
from gridwatch.host import models_needed
from pipeline.analyse.scenario import load_scenario
from pipeline.analyse.weights import load_registry
from pipeline.capture.reader import CameraReader
from pipeline.frame import Image
from pipeline.testing import ScriptedDetector
from tests.broker import wait_for

SCENARIOS = {"ebike_in_elevator", "illegal_parking", "fire", "river_discoloration"}

# Imported by every Python of the demo before anything else: the world ends at the loopback interface.
OFFLINE = """
import socket
connect = socket.socket.connect
def local(self, address):
    if self.family != socket.AF_UNIX and not str(address[0]).startswith("127."):
        raise OSError(f"NOT OFFLINE: connect to {address}")
    return connect(self, address)
socket.socket.connect = local
"""


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(shipped_configuration())


def clip_of(camera: CameraSettings) -> Path:
    return Path(camera.stream.analysed_url)


def camera_for(config: Config, scenario: str) -> CameraSettings:
    (camera,) = (camera for camera in config.cameras if scenario in camera.scenarios)
    if not clip_of(camera).is_file():
        pytest.skip(f"THE DEMO'S CLIP IS NOT RENDERED YET: {clip_of(camera).name}")
    return camera


def play(
    config: Config,
    camera: CameraSettings,
    detectors: dict[str, DetectorLike],
    paint: Callable[[Image], Image] = lambda image: image,
) -> tuple[int, list[str]]:
    """Run a clip through the engine as the benchmark would; gives the number of frames and the scenarios raised."""
    engine = Engine(config, detectors, [camera])
    stream = camera.stream.model_copy(update={"pace": "virtual", "loop": False})
    reader = CameraReader(camera.id, stream, start_t=1_780_000_000.0)
    reader.set_rate(engine.rate_hz(camera.id, 1_780_000_000.0))
    reader.start()
    frames = 0
    raised: list[str] = []
    try:
        while not reader.finished:
            frame = reader.take(1.0)
            if frame is None:
                continue
            frames += 1
            frame = dataclasses.replace(frame, image=paint(frame.image), full_size=None)
            for outcome in engine.step([frame]):
                raised += [c.key.scenario for c in outcome.changes if c.kind is ChangeKind.RAISED]
            reader.set_rate(engine.rate_hz(camera.id, frame.t))
    finally:
        reader.stop()
    return frames, raised


def test_the_demo_shows_all_four_scenarios(config: Config) -> None:
    assert {name for camera in config.cameras for name in camera.scenarios} == SCENARIOS
    assert all(camera.simulated for camera in config.cameras)


@pytest.mark.timeout(400)
def test_the_demo_raises_one_ticket_per_event_offline(config: Config, tmp_path: Path) -> None:
    for scenario in sorted(SCENARIOS):
        camera_for(config, scenario)
    if missing := sorted(models_needed(list(config.cameras)).keys() - load_registry().keys()):
        pytest.skip(f"MODELS ARE NOT TRAINED YET: {', '.join(missing)}")
    (tmp_path / "sitecustomize.py").write_text(OFFLINE)
    done = subprocess.run(
        [sys.executable, "-m", "gridwatch.cli", "demo", "--once", "--lang", "en"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(tmp_path)},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    (folder,) = tmp_path.glob("gridwatch-demo-*")
    log = (folder / "gridwatch.log").read_text(encoding="utf-8")
    assert "NOT OFFLINE" not in log + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    entries = [json.loads(line) for line in log.splitlines()]
    # On a machine that is busy with other tests the governor may speak; nothing else may.
    unwell = [e for e in entries if e["level"] != "info" and "analysis rates" not in e["event"]]
    assert entries, log
    assert unwell == []
    with Store(folder / "tickets.sqlite") as store:
        tickets = store.tickets()
        assert store.pending_count() == 0
    events = {
        event["scenario"]: len(document["events"])
        for scenario in SCENARIOS
        for document in [labels(camera_for(config, scenario))]
        for event in document["events"]
    }
    raised = [ticket.scenario for ticket in tickets]
    assert {name: raised.count(name) for name in raised} == events
    for ticket in tickets:
        assert ticket.simulated
        assert {item.kind for item in ticket.evidence} == {"picture", "clip"}, ticket.scenario
        assert all((folder / "evidence" / item.path).is_file() for item in ticket.evidence)
        model = load_scenario(ticket.scenario).model
        assert ticket.analyse.model == model
        if model is not None:
            assert ticket.analyse.model_sha256 == load_registry()[model].sha256
        assert ticket.title.en in done.stdout
    assert re.search(rf"^{len(tickets)} tickets: ", done.stdout, re.MULTILINE)


@pytest.mark.timeout(200)
def test_a_demo_that_is_killed_leaves_nothing_running(tmp_path: Path) -> None:
    log = tmp_path / "demo.log"
    with log.open("w") as output:
        demo = subprocess.Popen(
            [sys.executable, "-m", "gridwatch.cli", "demo", "--lang", "en"],
            stdout=output,
            stderr=output,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
    family: list[int] = []
    try:
        wait_for(lambda: "operators' page: http" in log.read_text(), 120, "the page")
        wait_for(lambda: len(below(demo.pid)) == 3, 60, "supervisor, engine and page")
        family = below(demo.pid)
        demo.kill()
        demo.wait(10)
        wait_for(lambda: not any(map(runs, family)), 30, "the end of what the demo had started")
        (told,) = tmp_path.glob("gridwatch-demo-*/gridwatch.log")
        assert "is killed" not in told.read_text(), "the engine ended in order"
    finally:
        for pid in (demo.pid, *family):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        demo.wait(10)


def below(pid: int) -> list[int]:
    """The process ids of all descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return [one for child in map(int, children) for one in (child, *below(child))]


def runs(pid: int) -> bool:
    """Whether a process is alive; a zombie that nobody has waited for is not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def labels(camera: CameraSettings) -> dict[str, list[dict[str, object]]]:
    document = yaml.safe_load(clip_of(camera).with_suffix(".yaml").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("scenario", sorted(SCENARIOS - {"river_discoloration"}))
def test_no_ticket_comes_from_what_the_detector_does_not_see(config: Config, scenario: str) -> None:
    camera = camera_for(config, scenario)
    model = load_scenario(scenario).model
    assert model is not None
    blind = ScriptedDetector(lambda _t: [], ["person", "fire", "smoke", "ebike", "car"])
    frames, raised = play(config, camera, {model: blind})
    assert frames > 10
    assert blind.images_seen > 0
    assert raised == []


def test_the_river_is_told_by_its_water_alone(config: Config) -> None:
    camera = camera_for(config, "river_discoloration")
    assert play(config, camera, {})[1] == ["river_discoloration"]

    first: list[Image] = []

    def unchanged_water(image: Image) -> Image:
        first.append(image.copy()) if not first else None
        polygon = np.array(getattr(camera.scenarios["river_discoloration"], "water"))  # noqa: B009
        outline = np.rint(polygon * image.shape[1::-1]).astype(np.int32)
        water = np.zeros(image.shape[:2], np.uint8)
        cv2.fillPoly(water, [outline], 255)
        return np.where(water[..., None] > 0, first[0], image)

    frames, raised = play(config, camera, {}, unchanged_water)
    assert frames > 5
    assert raised == []
