"""`gridwatch benchmark` from clips to verdict: the daemon's engine on clips made on the spot."""

from __future__ import annotations

import json
import os
import signal
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.command import passes
from benchmarks.evaluation import Options, evaluate
from benchmarks.labels import find_clips
from benchmarks.report_json import document as as_document
from benchmarks.report_junit import junit
from benchmarks.runner import ClipRun, Measure, analyse, measure
from benchmarks.score import VerdictValue
from benchmarks.settings import CameraTable
from benchmarks.workers import Failure, Report, Task, Workers
from gridwatch.cli import app
from gridwatch.config import CameraSettings
from pipeline.exceptions import CaptureError
from tests.benchmark_clips import RATE_HZ, SETTINGS, river, write_river
from tests.media import write_clip

RED_S = 8.0
LENGTH_S = 16.0
LABELS = f"""\
clip,kind,group,event,start_s,end_s
red.mp4,real,outfall,river_discoloration,{RED_S},{LENGTH_S}
missed.mp4,real,outfall,river_discoloration,5,9
false.mp4,simulated,pond,none,,
blue.mp4,real,pond,none,,
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_river(folder / "red.mp4", LENGTH_S, RED_S)
    write_river(folder / "missed.mp4", 10.0, None, seed=1)
    write_river(folder / "false.mp4", LENGTH_S, RED_S, seed=2)
    write_river(folder / "blue.mp4", 10.0, None, seed=3)
    (folder / "labels.csv").write_text(LABELS, encoding="utf-8")
    (folder / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of the command keeps its results in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def options(workers: int = 1) -> Options:
    return Options(target=0.988, window_s=10.0, rate_per_hour=None, workers=workers)


def camera_of(path: Path, settings: Path) -> CameraSettings:
    (clip,) = find_clips([path])
    return CameraTable(settings).camera_for(clip)


def benchmark(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["benchmark", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_alarms_become_a_verdict_whatever_the_number_of_processes(
    clips: Path, tmp_path: Path
) -> None:
    documents: list[dict[str, Any]] = []
    for workers, gate in ((1, "met"), (2, "proven")):
        out = tmp_path / f"{workers}.json"
        arguments = [
            "--settings",
            clips / "settings.yaml",
            "--workers",
            workers,
            "--rate",
            1,
            "--fresh",
        ]
        status, text = benchmark(clips, *arguments, "--json", out, "--gate", gate)
        assert status == (0 if gate == "met" else 1)
        documents.append(json.loads(out.read_text(encoding="utf-8")))
    for document in documents:
        assert document.pop("run")["video_s"] == pytest.approx(52.0, abs=1.0)
    first, second = (json.dumps(document) for document in documents)
    assert first == second

    document = documents[0]
    by_name = {clip["name"]: clip for clip in document["clips"]}
    (alarm,) = by_name["red.mp4"]["alarms"]
    # The dwell is 3 s; an observation speaks for the time since the one before it.
    assert alarm["outcome"] == "true"
    assert RED_S + 2.0 <= alarm["t_s"] <= RED_S + 5.0
    assert [e["outcome"] for e in by_name["missed.mp4"]["events"]] == ["missed"]
    assert [a["outcome"] for a in by_name["false.mp4"]["alarms"]] == ["false"]
    assert by_name["blue.mp4"]["alarms"] == []

    real = document["kinds"]["real"]["overall"]
    assert (real["true"], real["false"], real["events"], real["missed"]) == (1, 0, 2, 1)
    assert real["camera_hours"] == pytest.approx(36.0 / 3600.0, rel=0.02)
    assert real["delay_p50_s"] == pytest.approx(alarm["t_s"] - RED_S)
    # A simulated false alarm is no false alarm of the real clips, and the other way round.
    simulated = document["kinds"]["simulated"]["scenarios"]["river_discoloration"]
    assert (simulated["true"], simulated["false"]) == (0, 1)
    assert document["verdict"] == {
        "kind": "real",
        "value": "met",
        "further_needed": 248,
        "complete": True,
    }
    assert document["problems"] == []
    assert document["weights"] == {}
    assert len(document["config_sha256"]) == 64

    assert text.startswith("MET, NOT PROVEN")
    assert text.index("Real clips (3)") < text.index("Simulated clips (1)")
    for line in ("TRUE   river", "MISS   river", "FALSE  river", "248 further alarms"):
        assert line in text


def test_what_cannot_be_scored_is_reported_and_never_passes(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "cameras.yaml").write_text(SETTINGS, encoding="utf-8")  # found by itself
    write_river(tmp_path / "late.mp4", 4.0, None)
    write_river(tmp_path / "unlabelled.mp4", 2.0, None)
    (tmp_path / "broken.mp4").write_bytes(b"no video at all" * 100)
    (tmp_path / "good.mp4").write_bytes((clips / "red.mp4").read_bytes())
    (tmp_path / "labels.csv").write_text(
        "clip,event,start_s,end_s\n"
        f"good.mp4,river_discoloration,{RED_S},{LENGTH_S}\n"
        "late.mp4,river_discoloration,2,40\n"
        "broken.mp4,none,,\n"
        "absent.mp4,none,,\n",
        encoding="utf-8",
    )
    evaluation = evaluate([tmp_path], None, options())
    problems = {o.clip.name: " ".join(o.problems) for o in evaluation.clips if o.problems}
    assert problems.keys() == {"absent.mp4", "broken.mp4", "late.mp4", "unlabelled.mp4"}
    assert "found no file absent.mp4" in problems["absent.mp4"]
    assert str(tmp_path / "broken.mp4") in problems["broken.mp4"]
    assert f"{tmp_path / 'labels.csv'}:3: river_discoloration ends at 40 s" in problems["late.mp4"]
    assert "no label" in problems["unlabelled.mp4"]
    assert evaluation.headline is not None
    assert evaluation.headline[1].clips == 1  # the good one was scored all the same
    assert evaluation.headline[1].overall.verdict.value is VerdictValue.MET
    assert not evaluation.complete
    assert not passes(evaluation, "met")


def test_wrong_settings_are_one_line_and_status_two(clips: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(SETTINGS.replace("warm_up: 3s", "warm_up: soon"), encoding="utf-8")
    result = CliRunner().invoke(app, ["benchmark", str(clips), "--settings", str(wrong)])
    assert f"{wrong}:9: cameras[0].scenarios.river_discoloration.warm_up" in str(result.exception)


def test_a_process_that_dies_costs_its_clip_only(clips: Path, tmp_path: Path) -> None:
    settings = clips / "settings.yaml"
    long = write_river(tmp_path / "long.mp4", 120.0, None)  # long enough to die in the midst of it
    (tmp_path / "long.yaml").write_text("events: []\n", encoding="utf-8")
    tasks = [
        Task(0, camera_of(clips / "red.mp4", settings)),
        Task(1, camera_of(long, settings), 120.0),
        Task(2, camera_of(clips / "red.mp4", settings)),
    ]
    outcomes: dict[int, Report] = {}
    with Workers(CameraTable(settings).config, 1) as workers:
        for task, report in workers.run(tasks):
            if not isinstance(report, float):
                outcomes[task.index] = report
            if task.index < 2 and not isinstance(report, Failure):  # once idle, once at work
                os.kill(workers.processes()[0], signal.SIGKILL)
    assert outcomes[1] == Failure("its process crashed (SIGKILL)")
    assert isinstance(outcomes[0], Measure)
    assert isinstance(outcomes[2], Measure)


def test_a_lying_rate_is_noted_and_the_stamps_are_used(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "a.avi",
        river(4.0, None),
        stamps_s=lambda i: i / RATE_HZ,
        codec="mpeg4",
        tagged_rate=50,
    )
    (tmp_path / "a.yaml").write_text("events: []\n", encoding="utf-8")
    settings = tmp_path / "s.yaml"
    settings.write_text(SETTINGS.replace("*.mp4", "*.avi"), encoding="utf-8")
    measured = measure(camera_of(path, settings))
    assert measured.duration_s == pytest.approx(4.0, abs=0.25)
    assert measured.rate_hz == pytest.approx(RATE_HZ, rel=0.1)
    assert "its stamps say 5" in measured.note
    evaluation = evaluate([path], settings, options())
    assert "its stamps say 5" in evaluation.clips[0].problems[0]
    assert not evaluation.clips[0].notes  # it is said once
    assert evaluation.clips[0].scored  # by its stamps; but whose were the label's?
    assert not passes(evaluation, "met")
    assert evaluation.headline is not None
    overall = evaluation.headline[1].overall
    assert (overall.false, overall.clips, overall.clips_right) == (0, 1, 0)
    case = ET.fromstring(junit(as_document(evaluation, 1.0))).find(".//*[@name='a.avi']")  # noqa: S314 - our own
    assert case is not None
    assert case.find("error") is not None


def test_a_clip_that_breaks_off_is_a_fault(clips: Path) -> None:
    camera = camera_of(clips / "blue.mp4", clips / "settings.yaml")
    config = CameraTable(clips / "settings.yaml").config
    whole = analyse(config, camera, {}, 10.0)
    assert whole.faults == {}
    assert whole.last_s > 8.0
    cut = analyse(config, camera, {}, 60.0)
    assert "no picture after" in cut.faults[""]


def test_a_missing_model_is_a_fault_of_its_scenario_only(clips: Path, tmp_path: Path) -> None:
    settings = tmp_path / "s.yaml"
    text = SETTINGS + "      fire: {}\n"
    settings.write_text(text.replace('"*.mp4"', str(clips / "blue.mp4")), encoding="utf-8")
    run: ClipRun = analyse(
        CameraTable(settings).config, camera_of(clips / "blue.mp4", settings), {}, 10.0
    )
    assert run.faults == {"fire": "model fire is not usable"}


def test_an_empty_file_is_no_clip(tmp_path: Path, clips: Path) -> None:
    camera = camera_of(clips / "blue.mp4", clips / "settings.yaml")
    empty = tmp_path / "empty.mp4"
    empty.touch()
    stream = camera.stream.model_copy(update={"url": str(empty)})
    with pytest.raises(CaptureError, match="empty"):
        measure(camera.model_copy(update={"stream": stream}))
