"""cameras.yaml changed under a running daemon: refused or applied, with no ticket and no dwell lost."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from alerts.tickets import TicketCondition
from gridwatch.config import Config
from gridwatch.daemon import CrashNotes, Supervisor
from gridwatch.reload import (
    ACCEPTED,
    ACCEPTED_GRIDS,
    Candidate,
    ConfigWatch,
    Revision,
    compare,
    keep_accepted,
    read_accepted,
    read_revision,
)
from tests.broker import Broker, mosquitto, wait_for
from tests.site import Daemon, Inbox, install_plugin, square_clip

BASE = """\
site: {id: demo}
storage: {folder: state}
cameras:
  - id: gate
    url: rtsp://h/1
    scenarios:
      fire: {zones: {yard: [[0, 0], [1, 0], [1, 1]]}, raise_after: 5s}
  - {id: yard, url: rtsp://h/2}
"""
PATIENCE_S = 90.0


def parse(text: str, folder: Path) -> Config:
    return Revision.of(text.encode()).parse(folder / "cameras.yaml")


@pytest.mark.parametrize(
    ("old", "new", "cameras", "restart", "refused"),
    [
        pytest.param("raise_after: 5s", "raise_after: 5000ms", [], [], [], id="the same in other words"),
        pytest.param("raise_after: 5s", "raise_after: 9s", ["gate"], [], [], id="a parameter"),
        pytest.param("[1, 1]]", "[0.5, 1]]", ["gate"], [], [], id="a zone"),
        pytest.param("id: gate\n", "id: gate\n    name: Gate\n", ["gate"], [], [], id="a name"),
        pytest.param("id: gate\n", "id: gate\n    privacy: {masks: [[[0,0],[1,0],[1,1]]]}\n", ["gate"], [], [], id="a mask"),
        pytest.param("id: gate\n", "id: gate\n    privacy: {blur_heads: true}\n", ["gate"], ["cameras.gate (models)"], [], id="another model"),
        pytest.param("id: gate\n", "id: gate\n    health: false\n", ["gate"], ["cameras.gate.health"], [], id="health"),
        pytest.param("/1", "/3", ["gate"], ["cameras.gate.stream"], [], id="a stream"),
        pytest.param("rtsp://h/2", "rtsp://h/2, enabled: false", ["yard"], ["cameras.yard.enabled"], [], id="switched off"),
        pytest.param("  - {id: yard, url: rtsp://h/2}\n", "", [], ["cameras.yard"], [], id="taken away"),
        pytest.param("rtsp://h/2}", "rtsp://h/2, scenarios: [fire]}", ["yard"], ["cameras.yard.scenarios"], [], id="a scenario"),
        pytest.param("{id: demo}", "{id: demo, language: en}", [], ["site"], [], id="the language"),
        pytest.param("{id: demo}", "{id: town}", [], ["site"], [], id="the site, in a named folder"),
        pytest.param("folder: state", "folder: elsewhere", [], ["storage"], ["storage.folder"], id="the state's folder"),
    ],
)  # fmt: skip
def test_a_difference_is_sorted_by_what_it_takes(
    tmp_path: Path, old: str, new: str, cameras: list[str], restart: list[str], refused: list[str]
) -> None:
    assert old in BASE
    found = compare(parse(BASE, tmp_path), parse(BASE.replace(old, new), tmp_path))
    assert [camera.id for camera in found.cameras] == cameras
    assert list(found.restart) == restart
    assert list(found.refused) == refused


class Watch:
    """A `ConfigWatch` that looks when the test says so."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.write_text(BASE)
        self.watch = ConfigWatch(file, Revision.of(BASE.encode()))

    def look(self, *, asked: bool = False) -> Candidate | None:
        self.watch._look(asked=asked)
        return self.watch.take()


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path / "cameras.yaml")


def test_a_change_counts_once_it_stands_still(watch: Watch) -> None:
    assert watch.look() is None
    half = BASE[: BASE.index("  - {id: yard")]  # valid by itself, with a camera less
    watch.file.write_text(half)
    assert watch.look() is None
    watch.file.write_text(BASE.replace("5s", "7s"))
    assert watch.look() is None
    candidate = watch.look()
    assert candidate is not None
    assert candidate.config is not None
    assert [camera.id for camera in candidate.config.cameras] == ["gate", "yard"]
    assert candidate.revision.text == watch.file.read_bytes()
    assert watch.look() is None, "it is told once"


def test_what_is_not_valid_is_told_with_its_line_and_told_once(watch: Watch) -> None:
    watch.file.write_text(BASE.replace("raise_after", "raise_aftr"))
    watch.look()
    candidate = watch.look()
    assert candidate is not None
    assert candidate.config is None
    (problem,) = candidate.problems
    assert problem.startswith(f"{watch.file}:7: cameras[0].scenarios.fire.raise_aftr: unknown key")
    assert "did you mean 'raise_after'" in problem
    assert watch.look() is None
    watch.file.write_text(BASE)
    watch.look()
    candidate = watch.look()
    assert candidate is not None
    assert candidate.config is not None, "back to what it was is a change too"


def test_a_file_that_is_away_for_a_moment_is_no_change(watch: Watch) -> None:
    watch.file.unlink()
    assert watch.look() is None
    candidate = watch.look(asked=True)
    assert candidate is not None
    assert "cannot be read" in candidate.problems[0]


def test_asked_it_looks_at_once_and_reads_the_secrets_again(watch: Watch) -> None:
    secret = watch.file.parent / "password"
    secret.write_text("old")
    watch.file.write_text(BASE + "broker: {username: box, password_file: password}\n")
    first = watch.look(asked=True)
    secret.write_text("new")
    second = watch.look(asked=True)
    assert first is not None
    assert second is not None
    assert first.config is not None
    assert second.config is not None
    assert list(compare(first.config, second.config).restart) == ["broker"]


def test_without_polling_only_a_question_wakes_it(tmp_path: Path) -> None:
    file = tmp_path / "cameras.yaml"
    file.write_text(BASE)
    watch = ConfigWatch(file, Revision.of(BASE.encode()), poll=False)
    watch.start()
    file.write_text(BASE.replace("5s", "6s"))
    watch.ask()
    found: list[Candidate] = []

    def taken() -> bool:
        candidate = watch.take()
        found.extend([candidate] if candidate is not None else [])
        return bool(found)

    wait_for(taken, 20, "the changed file")
    watch.close()
    assert found[0].config is not None


def test_the_accepted_text_is_for_its_owner_alone(tmp_path: Path) -> None:
    keep_accepted(tmp_path, Revision.of(b"a: 1\n"))
    keep_accepted(tmp_path, Revision.of(b"a: 2\n"))
    path = tmp_path / ACCEPTED
    assert path.read_bytes() == b"a: 2\n"
    assert path.stat().st_mode & 0o077 == 0
    keep_accepted(tmp_path / "missing", Revision.of(b""))  # a full disk ends no daemon


GRIDS = "grids: {jinjiang: {name: 锦江}}\n"


@pytest.fixture
def with_grids(tmp_path: Path) -> Watch:
    watch = Watch(tmp_path / "cameras.yaml")
    (tmp_path / "grids.yaml").write_text(GRIDS)
    watch.file.write_text(BASE + "dispatch: {grids_file: grids.yaml}\n")
    watch.watch = ConfigWatch(watch.file, read_revision(watch.file))
    return watch


def test_a_change_of_the_grids_file_alone_counts_once_it_stands_still(with_grids: Watch) -> None:
    watch, grids = with_grids, with_grids.file.parent / "grids.yaml"
    assert watch.look() is None
    grids.write_text("grids: {jinj")
    assert watch.look() is None
    grids.write_text(GRIDS.replace("锦江", "锦江社区"))
    assert watch.look() is None
    candidate = watch.look()
    assert candidate is not None
    assert candidate.config is not None
    assert candidate.config.dispatch.grids["jinjiang"].name.say("zh") == "锦江社区"
    before = Revision.of(watch.file.read_bytes(), grids=GRIDS.encode()).parse(watch.file)
    assert list(compare(before, candidate.config).restart) == ["dispatch"]
    assert watch.look() is None, "it is told once"

    grids.write_text("grids: {}\npeople: [{id: li, serve: [nowhere]}]\n")
    watch.look()
    candidate = watch.look()
    assert candidate is not None
    assert candidate.config is None
    assert candidate.problems[0].startswith(f"{grids}:2: ")
    grids.write_text(GRIDS)
    watch.look()
    candidate = watch.look()
    assert candidate is not None
    assert candidate.config is not None


def test_another_grids_file_is_followed_from_then_on(with_grids: Watch) -> None:
    watch, other = with_grids, with_grids.file.parent / "other.yaml"
    watch.file.write_text(BASE + "dispatch: {grids_file: other.yaml}\n")
    watch.look()
    candidate = watch.look()
    assert candidate is not None
    assert "other.yaml: cannot be read" in candidate.problems[0]
    other.write_text(GRIDS)
    watch.look()
    candidate = watch.look()
    assert candidate is not None
    assert candidate.config is not None
    assert list(candidate.config.dispatch.grids) == ["jinjiang"]


def test_the_accepted_grids_are_kept_with_the_accepted_text(with_grids: Watch) -> None:
    folder, file = with_grids.file.parent, with_grids.file
    keep_accepted(folder, read_revision(file))
    (folder / "grids.yaml").write_text("half: [")
    accepted = read_accepted(folder)
    assert accepted is not None
    assert list(accepted.parse(file).dispatch.grids) == ["jinjiang"]
    assert (folder / ACCEPTED_GRIDS).stat().st_mode & 0o077 == 0
    keep_accepted(folder, Revision.of(BASE.encode()))
    assert not (folder / ACCEPTED_GRIDS).exists()
    assert read_accepted(folder / "missing") is None


# Stands for the engine: notes what it is told and how it was started, ends as the arguments say.
ENGINE = """
import os, sys
from pathlib import Path
folder = Path(sys.argv[1])
with (folder / "starts").open("a") as starts:
    starts.write("retreat" if sys.argv[-1] == f"--retreat={folder}" else "file")
    starts.write(" ")
number = len((folder / "starts").read_text().split())
status = int(sys.argv[2].split(",")[number - 1])
if status != 2:
    os.write(1, b".")
if status == 3 and os.read(0, 1) != b"r":
    status = 9
raise SystemExit(status)
"""


def supervisor(folder: Path, *statuses: int) -> Supervisor:
    command = [sys.executable, "-c", ENGINE, str(folder), ",".join(map(str, statuses))]
    return Supervisor(command, CrashNotes(folder), folder)


def test_a_hangup_reaches_the_engine_and_its_wish_for_a_new_one_is_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "isatty", lambda _handle: False)
    watch = supervisor(tmp_path, 3, 0)
    started: list[int] = []

    def hang_up(pid: int) -> None:
        started.append(pid)
        if len(started) == 1:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGHUP)).start()

    watch.on_start = hang_up
    before = signal.getsignal(signal.SIGHUP)
    assert watch.run() == 0
    assert signal.getsignal(signal.SIGHUP) == before
    assert len(started) == 2
    assert watch.restarts == 0


def test_a_configuration_that_no_engine_can_start_with_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "isatty", lambda _handle: False)
    monkeypatch.setattr("gridwatch.daemon.RESTART_MIN_S", 0.01)
    watch = supervisor(tmp_path, 7, 2, 2, 2, 0)
    assert watch.run() == 0
    # A crash; the file; what was accepted; when that fails too, it is not the configuration: the file again.
    assert (tmp_path / "starts").read_text().split() == [
        "file",
        "file",
        "retreat",
        "file",
        "retreat",
    ]


# With the real daemon


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return square_clip(tmp_path_factory.mktemp("clips") / "steady.mp4")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if shutil.which("mosquitto") is None:
        pytest.skip("NOT TESTED with a daemon: there is no mosquitto")
    with mosquitto(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def inbox(broker: Broker) -> Inbox:
    return Inbox(broker.collect("gridwatch/town/#"))


SQUARE_INSIDE = [[0.25, 0.1], [0.7, 0.1], [0.7, 0.8], [0.25, 0.8]]
SQUARE_OUTSIDE = [[0.75, 0.1], [1, 0.1], [1, 1], [0.75, 1]]


def site(broker: Broker, *cameras: dict[str, Any]) -> dict[str, Any]:
    return {
        "site": {"id": "town", "language": "en"},
        "host": "box-1",
        "storm": {"budget": 1000, "group_window": "0s"},
        "evidence": {"clip": False},
        "broker": {"host": "127.0.0.1", "port": broker.port, "retry_min": "200ms"},
        "cameras": list(cameras),
    }


def camera(name: str, clip: Path, **rule: object) -> dict[str, Any]:
    rules = {"raise_after": "1s", "clear_after": "1s", "cooldown": "0s", "max_gap": "3m", **rule}
    return {
        "id": name,
        "url": str(clip),
        "loop": True,
        "health": False,
        "scenarios": {"bright_square": rules},
    }


@pytest.fixture
def daemon(tmp_path: Path, broker: Broker, clip: Path) -> Iterator[Daemon]:
    environ = {"PYTHONPATH": str(install_plugin(tmp_path / "plugin"))}
    cameras = [camera("open", clip), camera("pending", clip, raise_after="9s")]
    with Daemon(tmp_path, site(broker, *cameras), environ) as running:
        yield running


def change(daemon: Daemon, how: Callable[[dict[str, Any]], None]) -> None:
    """Change cameras.yaml as an editor does: the new file takes the place of the old."""
    document = yaml.safe_load(daemon.file.read_text())
    how(document)
    new = daemon.file.with_suffix(".new")
    new.write_text(yaml.safe_dump(document))
    new.replace(daemon.file)


def in_force(daemon: Daemon, inbox: Inbox) -> None:
    """Wait until the host says that what stands in the file is in force."""
    sha256 = Revision.of(daemon.file.read_bytes()).sha256
    wait_for(
        lambda: inbox.host("box-1").get("config", {}).get("sha256") == sha256,
        PATIENCE_S,
        f"the new configuration, found {inbox.host('box-1')}; {daemon.log()[-1500:]}",
    )


@pytest.mark.real
@pytest.mark.timeout(300)
def test_a_zone_is_applied_in_the_running_engine_and_a_pending_dwell_goes_on(
    daemon: Daemon, inbox: Inbox
) -> None:
    (ticket,) = inbox.wait_of("open", timeout_s=PATIENCE_S)
    engines = daemon.engines()

    def shrink(document: dict[str, Any]) -> None:
        pending = document["cameras"][1]
        pending["scenarios"]["bright_square"]["zone"] = SQUARE_INSIDE
        pending["grid"] = "jinjiang/12/4"

    begun_t = time.time()
    change(daemon, shrink)
    in_force(daemon, inbox)
    applied_t = time.time()
    (late,) = inbox.wait_of("pending", timeout_s=PATIENCE_S)
    assert late.analyse.since.timestamp() < begun_t, "the dwell had begun before"
    assert late.grid == "jinjiang/12/4"
    decision = late.analyse.decision
    assert decision is not None
    assert decision.held_s == pytest.approx(9.0, abs=1.0)
    blind_s = max(b.t - a.t for a, b in itertools.pairwise(decision.samples))
    assert daemon.engines() == engines
    assert [entry["cameras"] for entry in daemon.events("configuration applied")] == [["pending"]]

    def move_away(document: dict[str, Any]) -> None:
        for item in document["cameras"]:
            item["scenarios"]["bright_square"]["zone"] = SQUARE_OUTSIDE

    change(daemon, move_away)
    in_force(daemon, inbox)
    wait_for(
        lambda: all(t.condition is TicketCondition.CLEARED for t in inbox.tickets().values()),
        PATIENCE_S,
        "both clear: the square is outside the zones now",
    )
    assert [t.id for t in inbox.of("open")] == [ticket.id]
    assert daemon.engines() == engines
    print(f"in place: in force after {applied_t - begun_t:.1f} s, largest gap {blind_s:.2f} s")
    assert daemon.stop()[0] == 0


@pytest.mark.real
@pytest.mark.timeout(300)
def test_a_new_camera_takes_a_new_engine_and_costs_no_ticket_and_no_dwell(
    daemon: Daemon, inbox: Inbox, clip: Path
) -> None:
    (ticket,) = inbox.wait_of("open", timeout_s=PATIENCE_S)
    engines = daemon.engines()
    begun_t = time.time()
    change(daemon, lambda document: document["cameras"].append(camera("new", clip)))
    in_force(daemon, inbox)
    assert daemon.engines() != engines
    (asked,) = daemon.events("configuration changed, a new engine starts")
    assert asked["because"] == ["cameras.new"]
    inbox.wait_of("new", timeout_s=PATIENCE_S)
    (late,) = inbox.wait_of("pending", timeout_s=PATIENCE_S)
    decision = late.analyse.decision
    assert decision is not None
    assert late.analyse.since.timestamp() < begun_t
    assert decision.held_s == pytest.approx(9.0, abs=1.5)
    blind_s = max(b.t - a.t for a, b in itertools.pairwise(decision.samples))
    assert [t.id for t in inbox.of("open")] == [ticket.id]
    assert daemon.events("engine died and is restarted") == []
    print(f"new engine: cameras were blind for {blind_s:.1f} s")
    assert daemon.stop()[0] == 0


@pytest.mark.real
@pytest.mark.timeout(400)
def test_what_is_wrong_is_refused_in_a_line_and_the_old_goes_on_even_over_a_crash(
    daemon: Daemon, inbox: Inbox, tmp_path: Path
) -> None:
    (ticket,) = inbox.wait_of("open", timeout_s=PATIENCE_S)
    engines = daemon.engines()
    good = daemon.file.read_text()
    daemon.file.write_text(good.replace("raise_after", "raise_aftr", 1))
    line = next(
        n for n, text in enumerate(daemon.file.read_text().splitlines(), 1) if "aftr" in text
    )

    def problem() -> str:
        return str(inbox.host("box-1").get("config", {}).get("problem"))

    wait_for(lambda: f"{daemon.file}:{line}: " in problem(), PATIENCE_S, "the refusal's place")
    assert "unknown key; did you mean 'raise_after'?" in problem()
    (refused,) = daemon.events("configuration refused, the former goes on")
    assert refused["problem"] == problem()
    assert daemon.engines() == engines

    runs = len(daemon.events("running"))
    daemon.kill_engine()
    daemon.wait_for_run(runs + 1)
    wait_for(lambda: "raise_aftr" in problem(), PATIENCE_S, "the new engine knows of it too")
    sha256 = inbox.host("box-1")["config"]["sha256"]
    assert sha256 == Revision.of(good.encode()).sha256

    # Valid by itself, but no engine can start with it.
    def lock_out(document: dict[str, Any]) -> None:
        document["broker"]["tls"] = {"ca": str(tmp_path / "missing.pem")}

    daemon.file.write_text(good)
    in_force(daemon, inbox)
    runs = len(daemon.events("running"))
    change(daemon, lock_out)
    daemon.wait_for_run(runs + 1)
    wait_for(lambda: "could not start" in problem(), PATIENCE_S, "the retreat")
    inbox.wait_of("pending", timeout_s=PATIENCE_S)

    daemon.file.write_text(good)
    in_force(daemon, inbox)
    assert [t.id for t in inbox.of("open")] == [ticket.id]
    assert daemon.stop()[0] == 0


@pytest.mark.real
@pytest.mark.timeout(300)
def test_the_daemon_follows_its_grids_file_and_survives_a_half_edited_one(
    tmp_path: Path, broker: Broker, inbox: Inbox, clip: Path
) -> None:
    environ = {"PYTHONPATH": str(install_plugin(tmp_path / "plugin"))}
    document = site(broker, {**camera("open", clip), "grid": "jinjiang"})
    document["dispatch"] = {"grids_file": "grids.yaml"}
    grids = tmp_path / "grids.yaml"
    grids.write_text(GRIDS)
    with Daemon(tmp_path, document, environ) as daemon:
        (ticket,) = inbox.wait_of("open", timeout_s=PATIENCE_S)
        grids.write_text("grids: {jinj")

        def problem() -> str:
            return str(inbox.host("box-1").get("config", {}).get("problem"))

        wait_for(lambda: f"{grids}:1: " in problem(), PATIENCE_S, "the refusal's place")
        runs = len(daemon.events("running"))
        daemon.kill_engine()
        daemon.wait_for_run(runs + 1)
        wait_for(lambda: f"{grids}:1: " in problem(), PATIENCE_S, "the new engine knows of it too")
        runs = len(daemon.events("running"))
        grids.write_text(GRIDS.replace("锦江", "锦江社区"))
        daemon.wait_for_run(runs + 1)
        (asked,) = daemon.events("configuration changed, a new engine starts")
        assert asked["because"] == ["dispatch"]
        wait_for(lambda: problem() == "None", PATIENCE_S, "nothing is refused any more")
        assert [t.id for t in inbox.of("open")] == [ticket.id]
        assert daemon.stop()[0] == 0
