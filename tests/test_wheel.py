"""The wheel, built and run where there is no clone."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from gridwatch.config import load_config
from gridwatch.demo import shipped_configuration
from pipeline.analyse.scenario import load_scenario, scenario_names
from pipeline.analyse.weights import load_registry
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.timeout(400)


def run(
    *command: object, cwd: Path, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**kept, "COLUMNS": "200", **(environ or {})},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    # Without hatchling here, it is fetched into an environment of its own.
    options = ["--no-isolation"] if importlib.util.find_spec("hatchling") else []
    done = run(
        *[sys.executable, "-m", "build", "--wheel", *options, "--outdir", out, REPOSITORY], cwd=out
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel; it borrows our run-time dependencies, not our clone."""
    folder = tmp_path_factory.mktemp("outside") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    done = run(
        *[sys.executable, "-m", "pip", "--python", python, "install", "--quiet"],
        *["--no-deps", "--no-index", "--disable-pip-version-check", wheel],
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    (libraries,) = folder.glob("lib/python*/site-packages")
    # A plain line of a .pth is searched after the environment's own, and its .pth files (our clone) are not followed.
    (libraries / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(python, "-c", "import gridwatch; print(gridwatch.__file__)", cwd=folder)
    assert Path(where.stdout.strip()).is_relative_to(libraries), where
    return folder / "bin"


def test_the_wheel_holds_what_it_needs_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(info).decode())
        points = archive.read(info.replace("METADATA", "entry_points.txt")).decode()
    clips = {f"gridwatch/clips/{file.name}" for file in REPOSITORY.glob("gridwatch/clips/*.mp4")}
    weights = {f"models/{entry.file}" for entry in load_registry().values()}
    assert {"gridwatch/cameras.yaml", "models/registry.yaml", *clips, *weights} <= names
    assert not any(name.split("/")[0] in ("tests", "docs", "deploy", ".ci") for name in names)
    assert not any(name.endswith((".pyc", ".sqlite", ".log", ".pt")) for name in names)
    packages = {name.split("/")[0] for name in names if not name.split("/")[0].endswith("-info")}
    assert {"alerts", "benchmarks", "gridwatch", "models", "pipeline"} <= packages
    assert {f"{name}/py.typed" for name in ("alerts", "gridwatch", "models", "pipeline")} <= names
    assert any(name.endswith("licenses/models/LICENSE-WEIGHTS.md") for name in names)
    assert metadata["License-Expression"] == "Apache-2.0 AND AGPL-3.0-only"
    required = " ".join(metadata.get_all("Requires-Dist") or [])
    assert "onnxruntime" in required
    for name in ("torch", "ultralytics"):  # training only
        assert all(
            "extra ==" in line for line in metadata.get_all("Requires-Dist") or [] if name in line
        )
    for scenario in ("ebike_in_elevator", "fire", "illegal_parking", "river_discoloration"):
        assert f"{scenario} = " in points
        assert load_scenario(scenario).id in scenario_names()


def test_the_program_runs_outside_the_clone(programs: Path, tmp_path: Path) -> None:
    helped = run(programs / "gridwatch", "--help", cwd=tmp_path)
    assert helped.returncode == 0, helped.stderr
    assert "gridwatch demo" in helped.stdout
    verified = run(programs / "gridwatch", "models", "verify", cwd=tmp_path)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert verified.stdout.count("✓") == len(load_registry())


def test_the_packaged_configuration_passes_check_outside_the_clone(
    programs: Path, tmp_path: Path
) -> None:
    code = "from gridwatch.demo import shipped_configuration; print(shipped_configuration())"
    found = run(programs / "python", "-c", code, cwd=tmp_path)
    packaged = Path(found.stdout.strip())
    assert packaged.is_relative_to(programs.parent), found
    assert packaged.read_bytes() == shipped_configuration().read_bytes()
    out = tmp_path / "zones"
    done = run(
        *[programs / "gridwatch", "check", packaged, "--out", out, "--seconds", "1"], cwd=tmp_path
    )
    assert done.returncode in (0, 1), done.stderr  # 1: no broker runs here
    assert "Traceback" not in done.stderr
    for camera in load_config(shipped_configuration()).cameras:
        if Path(camera.stream.analysed_url).is_file():
            assert (out / f"{camera.id}.jpg").is_file(), done.stdout
