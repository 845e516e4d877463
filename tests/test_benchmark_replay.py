"""Detection logs: a replay is the run again to the byte, other parameters bear on what they should, the rest is refused."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision as sv
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from typer.testing import CliRunner

from alerts.rules import Change, ChangeKind
from benchmarks.evaluation import Evaluation, Options, evaluate
from benchmarks.replay import Replayable, Setting, changed, parse_setting, replay
from benchmarks.sweep import KeptRun, parse_axis, sweep
from benchmarks.sweep_report import grid_document
from gridwatch.cli import app
from gridwatch.config import CameraSettings, Config
from gridwatch.detection_log import Break, LogWriter, read_log
from gridwatch.engine import Engine
from gridwatch.recording import Recording, camera_header, camera_of_header, log_files
from pipeline.analyse.looks import Shown, ShownFrame
from pipeline.analyse.scenario import load_scenario
from pipeline.exceptions import ConfigError
from pipeline.frame import Frame
from pipeline.observation import Condition, Json, Observation
from pipeline.testing import Box, ScriptedDetector, frame_at
from tests.benchmark_clips import SETTINGS, write_river

START_T = 1_767_225_600.0
VEHICLES = ["person", "bicycle", "ebike", "car", "bus", "truck", "wheelchair"]
FIRES = ["fire", "smoke"]
OPTIONS = Options(0.988, 10.0, None, 1)


def config() -> Config:
    return Config.model_validate({"site": {"id": "test"}, "cameras": ()})


def camera(scenario: str, **parameters: object) -> CameraSettings:
    return CameraSettings.model_validate(
        {
            "id": "one",
            "stream": {"url": "a.mp4"},
            "scenarios": {scenario: load_scenario(scenario).Parameters.model_validate(parameters)},
            "health": None,
        }
    )


def flicker(t: float) -> Frame:
    """Texture everywhere, and a patch that burns."""
    rng = np.random.default_rng(round(t * 100))
    image = np.random.default_rng(0).integers(60, 120, (90, 160, 3), dtype=np.uint8)
    image[40:70, 60:100] = rng.integers(120, 255, (30, 40, 3))
    return frame_at(t, image.repeat(4, axis=0).repeat(4, axis=1), camera_id="one")


FIRE: Box = ("fire", 0.8, 240.0, 160.0, 400.0, 280.0)
CAR: Box = ("car", 0.8, 240.0, 160.0, 400.0, 280.0)
EBIKE: Box = ("ebike", 0.9, 200.0, 120.0, 420.0, 330.0)
CASES: list[tuple[CameraSettings, list[str], Box]] = [
    (camera("fire", raise_after=2.0, clear_after=4.0), FIRES, FIRE),
    (
        camera(
            "illegal_parking",
            raise_after=8.0,
            clear_after=4.0,
            zones={"kerb": [[0, 0], [1, 0], [1, 1], [0, 1]]},
        ),
        VEHICLES,
        CAR,
    ),
    (camera("ebike_in_elevator", raise_after=2.0, clear_after=4.0), VEHICLES, EBIKE),
]


def record(
    file: Path, one: CameraSettings, classes: list[str], box: Box, *, gap: bool = False
) -> list[Change]:
    """A minute of a scripted camera: the thing comes at 5 s, goes at 25 s; perhaps the stream breaks off at 40 s."""
    clock = [START_T]
    model = load_scenario(next(iter(one.scenarios))).model or ""
    detector = ScriptedDetector(
        lambda t: [box] if 5 <= t - START_T < 25 or t - START_T > 45 else [],
        classes,
        clock=lambda: clock[0],
    )
    header = camera_header(one, "Asia/Shanghai", {model: detector.thresholds})
    writer = LogWriter(file, one.id, header)
    engine = Engine(config(), {model: detector}, [one], recorder=writer)
    changes: list[Change] = []
    due_t = START_T
    for step in range(600):
        clock[0] = START_T + step / 10
        if gap and step == 400:
            changes += engine.interrupt(one.id, clock[0]).changes
        if gap and 400 <= step < 440:
            if step % 10 == 0:
                changes += engine.camera_silent(one.id, clock[0], 1.0, "gone").changes
            continue
        if clock[0] < due_t - 1e-6:
            continue
        due_t = clock[0] + 1 / engine.rate_hz(one.id, clock[0])
        for outcome in engine.step([flicker(clock[0])]):
            changes += outcome.changes
    writer.close({})
    return changes


def ready(file: Path) -> Replayable:
    log = read_log(file)
    return Replayable.of(log, camera_of_header(log.header, file)[0], config())


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize(("one", "classes", "box"), CASES, ids=lambda value: str(type(value)))
def test_a_replay_decides_the_same_to_the_byte(
    tmp_path: Path, one: CameraSettings, classes: list[str], box: Box, gap: bool
) -> None:
    changes = record(tmp_path / "a.gwlog", one, classes, box, gap=gap)
    assert ChangeKind.RAISED in {change.kind for change in changes}
    again = replay(ready(tmp_path / "a.gwlog"))
    assert list(again.changes) == changes  # alarms, updates, ends and every decision record
    assert json.dumps([repr(c) for c in again.changes]) == json.dumps([repr(c) for c in changes])


@pytest.mark.parametrize(
    ("case", "key", "value", "delay_s"),
    [(0, "fire.raise_after", "6s", 4.0), (2, "ebike_in_elevator.raise_after", "5s", 3.0)],
)
def test_a_longer_dwell_raises_later_by_as_much(
    tmp_path: Path, case: int, key: str, value: str, delay_s: float
) -> None:
    before = record(tmp_path / "a.gwlog", *CASES[case])
    after = replay(ready(tmp_path / "a.gwlog"), [parse_setting(key, value)]).changes
    first, second = (
        next(c.t for c in changes if c.kind is ChangeKind.RAISED) for changes in (before, after)
    )
    assert second - first == pytest.approx(delay_s, abs=0.7)


def test_a_cabin_elsewhere_and_an_operating_point_out_of_reach_raise_nothing(
    tmp_path: Path,
) -> None:
    record(tmp_path / "a.gwlog", *CASES[2])
    log = ready(tmp_path / "a.gwlog")
    for setting in (
        parse_setting("ebike_in_elevator.cabin", "[[0.8, 0], [1, 0], [1, 0.2]]"),
        parse_setting("ebike_in_elevator.thresholds.ebike", "0.95"),
    ):
        kinds = {change.kind for change in replay(log, [setting]).changes}
        assert ChangeKind.RAISED not in kinds, setting.key


def test_zones_may_shrink_but_what_was_never_measured_is_said_to_lack(tmp_path: Path) -> None:
    small = {"kerb": [[0, 0], [0.1, 0], [0.1, 0.1]]}
    one = camera("illegal_parking", raise_after=8.0, zones=small)
    record(tmp_path / "a.gwlog", one, VEHICLES, CAR)
    whole = parse_setting("illegal_parking.zones", "{all: [[0, 0], [1, 0], [1, 1], [0, 1]]}")
    with pytest.raises(ConfigError, match=r"illegal_parking.zones: .* run the benchmark again"):
        replay(ready(tmp_path / "a.gwlog"), [whole])
    record(tmp_path / "b.gwlog", *CASES[1])
    away = parse_setting("illegal_parking.zones", "{far: [[0, 0], [0.1, 0], [0.1, 0.1]]}")
    assert not replay(ready(tmp_path / "b.gwlog"), [away]).changes


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("river_discoloration.water", "[]", "river_discoloration.water needs the pictures: run"),
        ("fire.ignore", "[]", "fire.ignore needs the pictures: run the benchmark again"),
        ("fire.burst_rate_hz", "5", "fire.burst_rate_hz needs the pictures"),
        ("fire.raise_afer", "5", "found no parameter 'raise_afer', expected one of"),
        ("flood.raise_after", "5", "found no scenario 'flood'"),
        ("fire", "5", "expected SCENARIO.PARAMETER=VALUE"),
        ("fire.thresholds.smoke", "2", "expected a confidence from 0 to 1"),
    ],
)
def test_what_cannot_be_replayed_is_refused_by_name(key: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_setting(key, value)


def test_a_value_that_does_not_fit_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"fire.raise_after=soon: expected a duration"):
        changed(CASES[0][0], [parse_setting("fire.raise_after", "soon")])


# -- the file ----------------------------------------------------------------------------------------------------------

_number = st.floats(allow_nan=False, allow_infinity=False)
_array = hnp.arrays(st.sampled_from([np.uint8, np.float32]), st.sampled_from([(0,), (3,), (4, 2)]))
_value: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | _number | _array, lambda inner: st.lists(inner).map(tuple)
)


@st.composite
def shown_frames(draw: st.DrawFn) -> ShownFrame:
    count = draw(st.integers(0, 5))
    seen = sv.Detections(
        xyxy=draw(hnp.arrays(np.float32, (count, 4), elements=st.floats(0, 960, width=32))),
        confidence=draw(hnp.arrays(np.float32, count, elements=st.floats(0, 1, width=32))),
        class_id=draw(hnp.arrays(np.int64, count, elements=st.integers(0, 6))),
        tracker_id=draw(hnp.arrays(np.int64, count, elements=st.integers(-1, 2**31 - 1))),
        data={
            "class_name": np.array(
                draw(st.lists(st.sampled_from(VEHICLES), min_size=count, max_size=count)), np.str_
            )
        },
    )
    t = draw(st.floats(1e9, 2e9))
    key = draw(st.lists(_number, max_size=4).map(tuple))
    box = draw(st.none() | st.just((0.1, 0.2, 0.3, 0.4)))
    detail: dict[str, Json] = draw(
        st.dictionaries(st.text(max_size=4), _number | st.lists(st.text(max_size=3)))
    )
    said = Observation("fire", "one", "view", t, Condition.HOLDS, 0.5, box, None, detail)
    shown = Shown(draw(st.floats(0, 30)), {("x", key): draw(_value)}, (said,))
    return ShownFrame(
        "one",
        t,
        0,
        960,
        540,
        draw(st.floats(0, 1)),
        draw(st.floats(0, 99)),
        {"vehicles": seen},
        {"fire": shown},
    )


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and (a.dtype, a.shape, a.tobytes()) == (
            b.dtype,
            b.shape,
            b.tobytes(),
        )
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(frames=st.lists(shown_frames(), max_size=4))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, frames: list[ShownFrame]
) -> None:
    file = tmp_path_factory.mktemp("log") / "a.gwlog"
    writer = LogWriter(file, "one", {"camera": {}})
    for frame in frames:
        writer.keep(frame)
    writer.silent("one", 5.5)
    writer.close({"all": True})
    log = read_log(file)
    assert log.end == {"all": True}
    *read, last = log.entries
    assert last == Break(5.5, interrupted=False)
    assert len(read) == len(frames)
    for before, after in zip(frames, read, strict=True):
        assert isinstance(after, ShownFrame)
        assert (after.t, after.motion, after.still_s) == (before.t, before.motion, before.still_s)
        assert after.seen == before.seen
        one, other = before.scenarios["fire"], after.scenarios["fire"]
        assert (one.rate_hz, one.observations) == (other.rate_hz, other.observations)
        assert one.answers.keys() == other.answers.keys()
        assert all(same(one.answers[key], other.answers[key]) for key in one.answers)


def test_of_a_log_that_was_cut_off_the_whole_entries_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.gwlog"
    record(file, *CASES[2])
    whole = read_log(file)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])
    cut = read_log(file)
    assert cut.end is None
    assert 0 < len(cut.entries) < len(whole.entries)
    assert [e.t for e in cut.entries] == [e.t for e in whole.entries[: len(cut.entries)]]


@pytest.mark.parametrize("content", [b"", b"no log", b"\x1f\x8b\x08\x00damaged"])
def test_another_file_is_no_log(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gwlog").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a.gwlog"):
        read_log(tmp_path / "a.gwlog")


# -- a benchmark's run -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    clips, work = tmp_path_factory.mktemp("clips"), tmp_path_factory.mktemp("work")
    write_river(clips / "red.mp4", 16.0, 8.0)
    write_river(clips / "blue.mp4", 8.0, None, seed=3)
    (clips / "broken.mp4").write_bytes(b"no video")
    (clips / "labels.csv").write_text(
        "clip,event,start_s,end_s\nred.mp4,river_discoloration,8,16\nblue.mp4,none,,\nbroken.mp4,none,,\n"
    )
    (clips / "cameras.yaml").write_text(SETTINGS)
    return clips, work


def run(clips: Path, work: Path, *, fresh: bool = False) -> Evaluation:
    return evaluate([clips], None, Options(0.988, 10.0, None, 2, work, fresh))


def test_a_run_that_was_stopped_goes_on_and_its_logs_replay_it(kept: tuple[Path, Path]) -> None:
    clips, work = kept
    first = run(clips, work, fresh=True)
    assert first.kept == 0
    # Stopped after one clip: the other has no result, and half a log that nobody believes.
    by_name = {outcome.clip.name: outcome for outcome in first.clips}
    assert by_name["broken.mp4"].log is None
    log = by_name["red.mp4"].log
    assert log is not None
    log.with_suffix(".json").unlink()
    again = run(clips, work)
    assert [(o.clip.name, o.kept) for o in again.clips] == [
        ("blue.mp4", True),
        ("broken.mp4", False),
        ("red.mp4", False),
    ]
    assert [o.run for o in again.clips] == [o.run for o in first.clips]
    assert again.kinds == first.kinds
    assert again.video_s < first.video_s
    assert run(clips, work, fresh=True).kept == 0
    (clips / "cameras.yaml").write_text(SETTINGS.replace("raise_after: 3s", "raise_after: 4s"))
    assert run(clips, work).kept == 0
    (clips / "cameras.yaml").write_text(SETTINGS)
    assert run(clips, work).kept == 2

    replayed, denser_s = KeptRun(work).replay((), OPTIONS)
    assert [o.run for o in replayed.clips] == [o.run for o in first.clips]
    assert [o.problems for o in replayed.clips] == [o.problems for o in first.clips]
    assert replayed.kinds == first.kinds
    assert not replayed.complete  # the broken clip is no pass in a replay either
    assert not denser_s


def test_a_setting_under_which_a_scenario_breaks_down_is_refused(
    kept: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, work = kept
    run(clips, work)
    river = load_scenario("river_discoloration")
    observe = river.observe

    def fragile(scenario: Any, scene: Any) -> Any:  # noqa: ANN401 - a scenario and what it is shown
        if scenario.parameters.min_delta_e > 9:
            raise ZeroDivisionError("no difference")
        return observe(scenario, scene)

    monkeypatch.setattr(river, "observe", fragile)
    axes = dict([parse_axis("river_discoloration.min_delta_e=8,10")])
    with pytest.raises(ConfigError, match=r"min_delta_e=10: .* ZeroDivisionError: no difference"):
        sweep(KeptRun(work), axes, OPTIONS)


def test_rules_alone_and_scenarios_with_rules_give_the_same(kept: tuple[Path, Path]) -> None:
    clips, work = kept
    run(clips, work)
    settings = [parse_setting("river_discoloration.raise_after", "5s")]
    fast = KeptRun(work).replay(settings, OPTIONS)[0]
    same_but_slow = [*settings, parse_setting("river_discoloration.min_delta_e", "8.0")]
    slow = KeptRun(work).replay(same_but_slow, OPTIONS)[0]
    assert [o.run for o in fast.clips] == [o.run for o in slow.clips]
    assert fast.kinds == slow.kinds


def test_a_sweep_gives_the_grid_and_the_best_or_says_that_none_keeps_the_target(
    kept: tuple[Path, Path],
) -> None:
    clips, work = kept
    run(clips, work)
    axes = dict(
        [
            parse_axis("river_discoloration.raise_after=2s,3s,60s"),
            parse_axis("river_discoloration.min_delta_e=8,200"),
        ]
    )
    grid = sweep(KeptRun(work), axes, OPTIONS)
    cells = {tuple(s.text for s in cell.settings): cell for cell in grid.cells}
    assert list(cells) == [(a, b) for a in ("2s", "3s", "60s") for b in ("8", "200")]
    assert grid.best is cells["2s", "8"]  # as right as 3 s, and sooner
    for words in (("60s", "8"), ("2s", "200")):
        score = cells[words].score
        assert score is not None
        assert (score.accuracy, score.recall) == (None, 0.0)
    assert grid_document(grid, OPTIONS)["best"] == {
        "river_discoloration.raise_after": "2s",
        "river_discoloration.min_delta_e": "8",
    }
    none = sweep(
        KeptRun(work), {"x": [parse_setting("river_discoloration.raise_after", "60s")]}, OPTIONS
    )
    assert none.best is None
    assert none.nearest is None
    with pytest.raises(ConfigError, match="fire did not run, expected one of river_discoloration"):
        sweep(KeptRun(work), dict([parse_axis("fire.raise_after=1s")]), OPTIONS)


def command(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["benchmark", "replay", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_the_command_prints_a_report_or_a_grid(kept: tuple[Path, Path], tmp_path: Path) -> None:
    clips, work = kept
    run(clips, work)
    out = tmp_path / "out.json"
    assert "1/1" in command(work, "--set", "river_discoloration.raise_after=2s", "--json", out)
    assert json.loads(out.read_text())["replay"] == {"river_discoloration.raise_after": "2s"}
    text = command(work, "--sweep", "river_discoloration.raise_after=60s,90s")
    assert "No setting raised an alarm" in text
    text = command(
        work, "--sweep", "river_discoloration.raise_after=2s,60s", "--chart", tmp_path / "sweep.svg"
    )
    drawn = ET.parse(tmp_path / "sweep.svg").getroot()  # noqa: S314 - our own
    circles = drawn.findall(".//{http://www.w3.org/2000/svg}circle")
    assert [circle.get("class") for circle in circles] == ["best"]
    with pytest.raises(ConfigError, match="nothing to draw, expected --sweep"):
        command(work, "--chart", tmp_path / "none.svg")
    assert "Best that keeps 98.8% (not proven): river_discoloration.raise_after=2s" in text
    with pytest.raises(ConfigError, match=r"found neither run.json nor a log"):
        command(tmp_path)


def test_folds_score_a_setting_on_clips_that_it_was_not_chosen_on(
    kept: tuple[Path, Path], tmp_path: Path
) -> None:
    clips, work = kept
    run(clips, work)
    out = tmp_path / "out.json"
    swept = ("--sweep", "river_discoloration.raise_after=60s,2s")
    text = command(work, *swept, "--folds", "2", "--json", out)
    assert "The folds disagree" in text
    assert "Clips with problems: 1" in text  # the broken one
    found = json.loads(out.read_text())["cross_fit"]
    assert [fold["groups"] for fold in found["folds"]] == [["blue.mp4"], ["red.mp4"]]
    # The blue clip alone says nothing for 2 s, so the first is taken and the red one is missed.
    assert [fold["chosen"]["settings"] for fold in found["folds"]] == [
        {"river_discoloration.raise_after": "2s"},
        {"river_discoloration.raise_after": "60s"},
    ]
    assert (found["held_out"]["overall"]["missed"], found["agree"]) == (1, False)
    assert found["in_sample"]["figures"]["overall"]["missed"] == 0
    assert "--folds 2 scores it on others" in command(work, *swept)
    with pytest.raises(ConfigError, match=r"--folds 3: found 2 groups of scored clips"):
        command(work, *swept, "--folds", "3")
    with pytest.raises(ConfigError, match=r"fire did not run"):
        command(work, "--sweep", "fire.raise_after=2s", "--folds", "2")
    with pytest.raises(ConfigError, match=r"--folds 2: there is nothing to choose"):
        command(work, "--folds", "2")


# -- a daemon's logs ---------------------------------------------------------------------------------------------------


def recording(
    folder: Path, keep_bytes: int = 1024**3
) -> tuple[Recording, Callable[[Sequence[float]], None]]:
    one, classes, box = CASES[2]
    clock = [START_T]
    detector = ScriptedDetector(lambda _t: [box], classes, clock=lambda: clock[0])
    points = {"vehicles": detector.thresholds}
    engines: list[Engine] = []

    def header(camera_id: str) -> dict[str, Any]:
        return camera_header(one, "Asia/Shanghai", points) | {
            "state": engines[0].state(camera_id),
            "rules": engines[0].rules.snapshot(camera_id),
        }

    recorder = Recording(folder, keep_bytes, header)
    engines.append(Engine(config(), {"vehicles": detector}, [one], recorder=recorder))

    def play(times: Sequence[float]) -> None:
        for t in times:
            clock[0] = START_T + t
            recorder.prepare(one.id, clock[0])
            engines[0].step([flicker(clock[0])])

    return recorder, play


def test_the_daemons_log_replays_with_other_rules(tmp_path: Path) -> None:
    recorder, play = recording(tmp_path)
    play([i / 5 for i in range(100)])
    recorder.close()
    out = tmp_path / "out.json"
    text = command(tmp_path, "--set", "ebike_in_elevator.raise_after=1m", "--json", out)
    assert json.loads(out.read_text())["alarms"] == [
        {"camera": "one", "scenario": "ebike_in_elevator", "then": 1, "now": 0}
    ]
    assert "gone" in text
    assert "zone:cabin" in text
    with pytest.raises(ConfigError, match="no labels to sweep against"):
        command(tmp_path, "--sweep", "ebike_in_elevator.raise_after=1s")


def test_files_are_rotated_and_the_oldest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwatch.recording.FILE_S", 5.0)
    monkeypatch.setattr("gridwatch.detection_log.BLOCK_S", 0.5)
    recorder, play = recording(tmp_path, keep_bytes=9000)
    play([i / 5 for i in range(300)])
    recorder.close()
    files = log_files(tmp_path)
    assert 1 < len(files) < 12
    assert sum(file.stat().st_size for file in files[:-1]) <= 9000
    last = read_log(files[-1])
    # What was open before the file began is known in it: the alarm is not raised once more.
    assert last.header["rules"]["slots"][0]["phase"] == "raised"
    again = replay(Replayable.of(last, CASES[2][0], config()))
    assert ChangeKind.RAISED not in {change.kind for change in again.changes}


def test_a_full_disk_costs_the_recording_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, play = recording(tmp_path)

    def full(_self: LogWriter) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LogWriter, "flush", full)
        play([0.0, 0.2])
    play([0.4, 0.6])
    recorder.close()
    (file,) = log_files(tmp_path)
    assert len(read_log(file).entries) == 2


def test_a_setting_of_the_rule_is_known_as_such() -> None:
    def of_rule(key: str) -> bool:
        scenario, _, name = key.partition(".")
        return Setting(scenario, name, 1, "1").of_rule

    assert of_rule("fire.raise_after")
    assert of_rule("illegal_parking.raise_after")
    assert not of_rule("illegal_parking.clear_after")  # it forgets stays by it
    assert not of_rule("ebike_in_elevator.max_gap")
    assert not of_rule("fire.mute_after")
