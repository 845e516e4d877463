"""The house plan: imports go one way, the run time stays light, names are exported on purpose."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

ORDER = ["models", "pipeline", "alerts", "gridwatch", "console", "benchmarks"]
CLI = "gridwatch/cli.py"  # the one place that may reach forward, lazily


def sources(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_one_way(package: str) -> None:
    later = set(ORDER[ORDER.index(package) + 1 :])
    if package == "console":
        later = {"benchmarks"}
    if package == "benchmarks":
        later = {"console"}
    for path in sources(package):
        if str(path.relative_to(REPOSITORY)) == CLI:
            tree: ast.AST = ast.Module(
                [
                    n
                    for n in ast.parse(path.read_text("utf-8")).body
                    if not isinstance(n, ast.FunctionDef)
                ],
                [],
            )
        else:
            tree = ast.parse(path.read_text("utf-8"))
        wrong = {name for name in imported(tree) if name.split(".")[0] in later}
        assert not wrong, f"{path.relative_to(REPOSITORY)} imports {sorted(wrong)}"


def test_no_relative_imports() -> None:
    for package in ORDER:
        for path in sources(package):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                assert not (isinstance(node, ast.ImportFrom) and node.level), path


def test_every_module_says_what_is_public() -> None:  # in order: ruff's RUF022 sees to that
    for package in ["pipeline", "alerts", "gridwatch"]:
        for path in sources(package):
            name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
            if name.endswith("__init__"):
                continue
            module = importlib.import_module(name)
            public = getattr(module, "__all__", None)
            assert public is not None, f"{name} has no __all__"
            assert all(hasattr(module, item) for item in public), name


def test_the_run_time_needs_no_torch_and_no_ultralytics() -> None:
    """The whole engine is imported in a fresh interpreter; AGPL code and torch must not come along."""
    code = (
        "import sys, gridwatch.host, gridwatch.cli, gridwatch.check, gridwatch.demo, gridwatch.watch\n"
        "bad = {'torch', 'torchvision', 'ultralytics', 'bpy'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_scenarios_and_rules_never_read_a_clock() -> None:
    clocks = {"time.time", "time.monotonic", "time.perf_counter", "datetime.now", "datetime.utcnow"}
    timeless = [
        *sources("pipeline/analyse/scenarios"),
        REPOSITORY / "pipeline/analyse/analyser.py",
        REPOSITORY / "pipeline/analyse/tracker.py",
        REPOSITORY / "alerts/rules.py",
        REPOSITORY / "alerts/storm.py",
        REPOSITORY / "alerts/tickets.py",
    ]
    for path in timeless:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in clocks, f"{path.name} reads a clock"


def test_nothing_names_a_registry_host_or_a_path_of_a_machine() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True
    ).stdout.decode()
    forbidden = [
        "python" + "hosted",
        "pypi" + ".org/simple",
        "registry." + "npmjs",
        "deb." + "debian",
    ]
    for name in filter(None, tracked.split("\0")):
        path = REPOSITORY / name
        if path.suffix in {".onnx", ".mp4", ".png", ".jpg"} or not path.is_file():
            continue
        text = path.read_text("utf-8", errors="ignore")
        assert not [word for word in forbidden if word in text], name
