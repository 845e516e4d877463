"""The host's own chores, without cameras."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import jsonschema
import pytest
from structlog.testing import capture_logs

from alerts.schemas import asyncapi
from alerts.tickets import Ticket
from gridwatch.config import load_config
from gridwatch.daemon import CrashNotes
from gridwatch.host import Host
from pipeline.capture.decoder import DecodeLevel
from pipeline.capture.reader import CaptureCounters, ReaderState
from pipeline.observation import Json

CONFIGURATION = """\
site: {{id: demo}}
storage: {{folder: {folder}}}
cameras:
  - {{id: gate, url: "rtsp://h/1"}}
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    file = tmp_path / "cameras.yaml"
    file.write_text(CONFIGURATION.format(folder=tmp_path / "state"), encoding="utf-8")
    made = Host(load_config(file, {}), tmp_path, CrashNotes(tmp_path))
    yield made
    made.store.close()


def test_rare_key_frames_are_told_once_and_again_after_a_recovery(host: Host) -> None:
    reader = SimpleNamespace(
        state=ReaderState.RUNNING,
        reason="",
        level=DecodeLevel.ALL,
        last_t=None,
        keyframe_interval_s=None,
        counters=CaptureCounters(),
    )
    cast("dict[str, object]", host.readers)["gate"] = reader

    def warnings(*intervals_s: float | None) -> list[object]:
        with capture_logs() as logs:
            for number, reader.keyframe_interval_s in enumerate(intervals_s):
                host._tell_status("gate", 1000.0 + number, repeat=number == 2)
        return [log["keyframe_interval_s"] for log in logs if "key frames" in log["event"]]

    assert warnings(None, None) == []
    assert warnings(12.0, 13.0, 14.0, 15.0) == [12.0], "measured after the status was told"
    assert warnings(2.0, 20.0, 20.0) == [20.0]


class Clock:
    def __init__(self) -> None:
        self.t = 1_700_000_000.0

    def now(self) -> float:
        return self.t

    def monotonic(self) -> float:
        return self.t


@pytest.mark.parametrize("entry", ["url: film.mp4", 'url: "rtsp://h/1", health: false'])
def test_a_quarantined_camera_is_a_ticket_whatever_it_is(tmp_path: Path, entry: str) -> None:
    file = tmp_path / "cameras.yaml"
    cameras = f"cameras: [{{id: bad, {entry}}}, {{id: good, {entry}}}]\n"
    file.write_text(f"site: {{id: demo}}\nstorage: {{folder: {tmp_path}}}\n{cameras}")
    notes = CrashNotes(tmp_path)
    for at_s in (1.0, 2.0):
        notes.add_kill("bad", at_s, "was killed by SIGSEGV")

    def run_for(seconds: int) -> list[Ticket]:
        host = Host(load_config(file, {}), tmp_path, notes, clock=clock)
        host.warner.start()
        for _ in range(seconds):
            clock.t += 1.0
            host._chores(clock.t)
        host.warner.close(10.0)
        tickets = host.store.tickets()
        host.store.close()
        return tickets

    clock = Clock()
    assert run_for(30) == [], "it may be a hiccup"
    (ticket,) = [t for t in run_for(90) if t.camera.id == "bad"]
    assert (ticket.scenario, ticket.subject) == ("camera_health", "dead")
    assert "SIGSEGV" in str(ticket.analyse.detail["reason"])
    assert [t.id for t in run_for(90) if t.camera.id == "bad"] == [ticket.id], "after a restart"


def test_an_engine_over_its_memory_limit_hands_over_once_it_is_old_enough(tmp_path: Path) -> None:
    file = tmp_path / "cameras.yaml"
    text = CONFIGURATION.format(folder=tmp_path / "state") + "runtime: {memory_limit: 1MB}\n"
    file.write_text(text, encoding="utf-8")
    clock = Clock()
    host = Host(load_config(file, {}), tmp_path, CrashNotes(tmp_path), clock=clock)
    begun_t, ended_t = clock.t, None
    with capture_logs() as logs:
        while ended_t is None and clock.t < begun_t + 3600:
            clock.t += 30.0
            host._look_at_memory(clock.t)
            ended_t = clock.t if host._anew else None
    host.store.close()
    assert ended_t == begun_t + 600
    assert [log["event"] for log in logs] == [
        "memory limit is below what these cameras need",
        "memory limit reached, a new engine takes over",
    ]
    assert logs[0]["limit_mib"] == 1
    assert logs[0]["memory_mib"] > 1


def test_without_a_memory_limit_nothing_hands_over(host: Host) -> None:
    host._look_at_memory(1e12)
    assert not host._anew


def test_the_published_contract_describes_a_cameras_whole_status(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Json]] = []

    def publish(camera_id: str, status: Mapping[str, Json]) -> None:
        told.append({"camera": camera_id, **status})

    monkeypatch.setattr(host.publisher, "publish_status", publish)
    host._tell_status("gate", 1000.0, repeat=True)
    (status,) = told
    schema = asyncapi()["components"]["schemas"]["cameraStatus"]
    jsonschema.validate(status, {**schema, "additionalProperties": False})
    assert set(schema["properties"]) == set(status)
