"""The command line as people meet it: help, errors in one line, `check` on what is shipped."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner

from gridwatch.cli import app
from gridwatch.config import load_config
from gridwatch.demo import shipped_configuration
from pipeline.analyse.weights import load_registry, package_registry
from tests.conftest import REPOSITORY
from tests.site import gridwatch


def commands_of(group: object, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in getattr(group, "commands", {}).items():
        found += [(*prefix, name), *commands_of(command, (*prefix, name))]
    return found


COMMANDS = commands_of(get_command(app))

MINIMAL = """\
site: {id: s, language: en}
broker: {host: 127.0.0.1, port: %d}
storage: {folder: %s}
cameras:
  - id: gate
    url: rtsp://u:pass-of-gate@127.0.0.1:1/x
    scenarios: {fire: {}}
"""


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def minimal(tmp_path: Path, closed_port: int) -> Path:
    file = tmp_path / "cameras.yaml"
    file.write_text(MINIMAL % (closed_port, tmp_path / "state"))
    return file


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "160", "TERM": "dumb"})
    assert done.exit_code == 0
    text = Text.from_ansi(done.output).plain
    assert "Usage:" in text
    assert " ".join(command) in text


def test_what_the_documentation_promises_is_there() -> None:
    promised = ["check", "run", "demo", "watch", "tickets", "models"]
    assert {(name,) for name in promised} <= set(COMMANDS)
    for group, names in (("tickets", "list show ack dispose"), ("models", "list verify")):
        assert {(group, name) for name in names.split()} <= set(COMMANDS)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from gridwatch.cli import app\n"
        "heavy = {'cv2', 'av', 'onnxruntime', 'supervision', 'sqlalchemy', 'numpy'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "{no}"], "{no}: cannot be read: No such file or directory"),
        (["check", "{no}"], "{no}: cannot be read"),
        (["run", "{file}", "--set", "broker"], "--set broker: expected KEY=VALUE"),
        (["run", "{file}", "--set", "broker.port=far"], "broker.port"),
        (["tickets", "list"], "expected --config cameras.yaml, or --site with --broker"),
        (
            ["tickets", "list", "--site", "s", "-b", "h:x"],
            "--broker h:x: expected HOST or HOST:PORT",
        ),
        (["tickets", "list", "-c", "{file}"], "127.0.0.1:{port}"),
        (["tickets", "ack", "ABC", "-c", "{file}"], "127.0.0.1:{port}"),
        (["models", "list", "--registry", "{no}"], "{no}: found no readable file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_lines_and_the_status_is_two(
    minimal: Path, tmp_path: Path, closed_port: int, arguments: list[str], said: str
) -> None:
    words = {"file": str(minimal), "no": str(tmp_path / "no.yaml"), "port": closed_port}
    done = gridwatch(*(argument.format(**words) for argument in arguments))
    assert done.returncode == 2, done
    assert said.format(**words) in done.stderr
    assert all(line.startswith("error: ") for line in done.stderr.splitlines()), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "pass-of-gate" not in done.stdout + done.stderr


def test_every_problem_of_a_file_is_said_at_once_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "cameras.yaml"
    file.write_text(
        "site: {id: s, langage: en}\n"
        "cameras:\n"
        "  - id: gate\n"
        "    url: rtsp://u:pass-of-gate@h/x\n"
        "    scenarios:\n"
        "      fire: {raise_after: soon}\n"
        "  - id: gate 2\n"
        "    ulr: rtsp://u:pass-of-gate@h/x\n"
    )
    done = gridwatch("run", str(file))
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    for place, suggestion in (
        (f"{file}:1: site.langage: ", "did you mean 'language'?"),
        (f"{file}:6: cameras[0].scenarios.fire.raise_after: ", "90s"),
        (f"{file}:7: cameras[1].id: ", "identifier"),
        (f"{file}:8: cameras[1].ulr: ", "did you mean 'url'?"),
    ):
        assert any(place in line and suggestion in line for line in lines), done.stderr
    assert "pass-of-gate" not in done.stderr


def test_check_says_what_is_wrong_with_cameras_and_broker(
    minimal: Path, tmp_path: Path, closed_port: int
) -> None:
    done = gridwatch("check", str(minimal), "--out", str(tmp_path / "out"), "--seconds", "1")
    assert done.returncode == 1, done.stderr
    assert "✗ gate: rtsp://***@127.0.0.1:1/x: " in done.stdout
    assert "connection refused" in done.stdout
    assert f"✗ broker: 127.0.0.1:{closed_port}: " in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "pass-of-gate" not in done.stdout + done.stderr


def test_check_draws_the_zones_of_the_shipped_configuration(tmp_path: Path) -> None:
    config = load_config(shipped_configuration())
    clips = [Path(camera.stream.analysed_url) for camera in config.cameras]
    if missing := [clip.name for clip in clips if not clip.is_file()]:
        pytest.skip(f"THE DEMO'S CLIPS ARE NOT RENDERED YET: {', '.join(missing)}")
    out = tmp_path / "zones"
    done = gridwatch("check", str(shipped_configuration()), "--out", str(out), "--seconds", "1")
    assert done.returncode in (0, 1), done.stderr  # 1: no broker runs here
    assert {file.stem for file in out.iterdir()} == {camera.id for camera in config.cameras}
    for camera in config.cameras:
        assert f"{camera.id}: zones drawn in" in done.stdout
        picture = cv2.imread(str(out / f"{camera.id}.jpg"))
        assert picture is not None
    for camera in config.cameras:
        assert f"✗ {camera.id}" not in done.stdout


def test_models_verify_passes_on_what_is_shipped_and_fails_on_a_changed_file(
    tmp_path: Path,
) -> None:
    names = sorted(load_registry())
    done = gridwatch("models", "verify")
    assert done.returncode == 0, done.stdout
    assert [line for line in done.stdout.splitlines() if line.startswith("✓")] == [
        f"✓ {name}: sha256 and layout fit the registry" for name in names
    ]
    listed = gridwatch("models", "list")
    assert all(name in listed.stdout for name in names)
    if names:
        changed = tmp_path / "registry.yaml"
        changed.write_text(package_registry().read_text())
        for entry in load_registry().values():
            (tmp_path / entry.file).parent.mkdir(exist_ok=True)
            (tmp_path / entry.file).write_bytes(b"other weights")
        done = gridwatch("models", "verify", "--registry", str(changed))
        assert done.returncode == 1
        assert done.stdout.count("✗ ") == len(names)
        assert "found sha256" in done.stdout


def test_the_readme_names_only_commands_that_exist() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    known = {command[0] for command in COMMANDS}
    used = {
        line.split("gridwatch ", 1)[1].split()[0]
        for line in text.splitlines()
        if line.startswith("$ gridwatch ")
    }
    assert used
    assert used <= known
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)
