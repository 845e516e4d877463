from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.analyse import weights
from pipeline.analyse.weights import (
    DEFAULT_THRESHOLD,
    WeightsEntry,
    check_input,
    check_outputs,
    load_registry,
    verify,
)
from pipeline.exceptions import ModelError
from tests.onnx_models import build, entry_for, write_registry

CONTENT = b"weights"
FIELDS: dict[str, Any] = {
    "file": "m.onnx",
    "sha256": hashlib.sha256(CONTENT).hexdigest(),
    "input_px": [384, 640],
    "classes": ["fire", "smoke"],
    "thresholds": {"fire": 0.4},
    "licence": "AGPL-3.0-only",
}


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry in the place of the package's own."""
    folder = tmp_path / "packaged"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(CONTENT)
    path = write_registry(folder / "registry.yaml", {"fire": FIELDS})
    monkeypatch.setattr(weights, "package_registry", lambda: path)
    return path


def test_reads_an_entry(packaged: Path) -> None:
    entry = load_registry()["fire"]
    assert entry.path == packaged.parent / "m.onnx"
    assert entry.input_px == (384, 640)
    assert entry.operating_points == {"fire": 0.4, "smoke": DEFAULT_THRESHOLD}
    assert verify(entry) == CONTENT


def test_a_users_registry_extends_and_overrides_with_files_of_its_own_folder(
    packaged: Path, tmp_path: Path
) -> None:
    mine = write_registry(
        tmp_path / "mine.yaml",
        {
            "fire": {**FIELDS, "file": "better.onnx"},
            "boats": {**FIELDS, "classes": ["boat"], "thresholds": {}},
        },
    )
    entries = load_registry(mine)
    assert sorted(entries) == ["boats", "fire"]
    assert entries["fire"].path == tmp_path / "better.onnx"
    assert load_registry()["fire"].path == packaged.parent / "m.onnx"


def test_the_floor_leaves_bytetrack_its_weak_boxes() -> None:
    def floor(**changes: object) -> float:
        fields = {**FIELDS, "name": "m", "folder": Path(), **changes}
        return WeightsEntry.model_validate(fields).floor_confidence

    assert floor() == 0.1
    assert floor(thresholds={"fire": 0.05}) == 0.05
    assert floor(floor=0.3) == 0.3
    assert floor(task="segment") == DEFAULT_THRESHOLD


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"sha256": "abc"}, "sha256: found 'abc'", id="hash"),
        pytest.param({"task": "pose"}, "task: found 'pose', expected", id="task"),
        pytest.param({"input_px": [384, 650]}, "input_px.1: found 650", id="stride"),
        pytest.param({"thresholds": {"fire": 1.5}}, "thresholds.fire: found 1.5", id="threshold"),
        pytest.param(
            {"thresholds": {"flame": 0.5}},
            "found a threshold for flame, expected some of fire, smoke",
            id="unknown class",
        ),
        pytest.param(
            {"rivals": {"fire": ["flame"]}},
            "found a rival flame, expected some of fire, smoke",
            id="unknown rival",
        ),
        pytest.param({"rivals": {"fire": []}}, "rivals.fire: found []", id="no rival"),
        pytest.param({"rivals": {"fire": ["fire"]}}, "found fire as its own rival", id="own rival"),
        pytest.param(
            {"layout": "end2end", "rivals": {"fire": ["smoke"]}},
            "found rivals with layout end2end, expected layout yolo",
            id="rivals without scores",
        ),
        pytest.param({"classes": ["fire", "fire"]}, "found a class twice", id="double class"),
        pytest.param({"classes": []}, "classes: found []", id="no class"),
        pytest.param({"licence": None}, "licence: found None", id="licence"),
        pytest.param({"colour": 1}, "colour: found an unknown key, expected some of", id="extra"),
    ],
)
def test_a_wrong_entry_is_told_in_one_line(
    packaged: Path, change: dict[str, Any], expected: str
) -> None:
    write_registry(packaged, {"fire": {**FIELDS, **change}})
    with pytest.raises(ModelError) as raised:
        load_registry()
    text = str(raised.value)
    assert text.startswith(f"{packaged}: model fire: ")
    assert expected in text
    assert "\n" not in text


def test_a_missing_key_is_named(packaged: Path) -> None:
    write_registry(packaged, {"fire": {k: v for k, v in FIELDS.items() if k != "licence"}})
    with pytest.raises(ModelError, match="licence: found nothing, expected a value"):
        load_registry()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("schema: 2\nmodels: {}", "found schema 2, expected 1", id="schema"),
        pytest.param("- a list", "found schema 'list', expected 1", id="list"),
        pytest.param("schema: 1", "found models None", id="no models"),
        pytest.param(
            "schema: 1\nmodels: {a: 5}", "model a: found 5, expected an entry", id="entry"
        ),
        pytest.param("{", "found no YAML", id="syntax"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError) as raised:
        load_registry(path)
    assert str(raised.value).startswith(str(path))
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_registry_or_weight_file_is_told(packaged: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"found no readable file .*expected a registry"):
        load_registry(tmp_path / "none.yaml")
    (packaged.parent / "m.onnx").unlink()
    with pytest.raises(ModelError, match="model fire: found no readable file"):
        verify(load_registry()["fire"])


def test_other_weights_than_registered_are_refused_with_both_hashes(packaged: Path) -> None:
    (packaged.parent / "m.onnx").write_bytes(b"swapped")
    found, expected = hashlib.sha256(b"swapped").hexdigest(), FIELDS["sha256"]
    with pytest.raises(ModelError, match=f"found sha256 {found[:12]}…, expected {expected[:12]}…"):
        verify(load_registry()["fire"])


def entry(**changes: object) -> WeightsEntry:
    return WeightsEntry.model_validate({**FIELDS, "name": "m", "folder": Path(), **changes})


@pytest.mark.parametrize(
    ("changes", "shapes", "expected"),
    [
        pytest.param({}, [[1, 3, 384, 640]], None, id="static"),
        pytest.param({}, [["batch", 3, None, None]], None, id="free shape at a fixed size"),
        pytest.param({"dynamic": True}, [["batch", 3, "height", "width"]], None, id="dynamic"),
        pytest.param({}, [[1, 3, 640, 640]], "found input 640×640, expected input_px", id="size"),
        pytest.param({"dynamic": True}, [[1, 3, 384, 640]], "expected free height", id="not free"),
        pytest.param({}, [[4, 3, 384, 640]], "found a fixed batch of 4", id="batch"),
        pytest.param({}, [[1, 1, 384, 640]], "expected one input", id="grey"),
        pytest.param({}, [[1, 3, 384, 640], [1, 2]], "expected one input", id="two inputs"),
    ],
)
def test_inputs_must_fit_the_entry(
    changes: dict[str, Any], shapes: list[list[Any]], expected: str | None
) -> None:
    if expected is None:
        check_input(entry(**changes), shapes)
    else:
        with pytest.raises(ModelError, match=expected):
            check_input(entry(**changes), shapes)


@pytest.mark.parametrize(
    ("changes", "shapes", "expected"),
    [
        pytest.param({}, [[1, 6, 5040]], None, id="yolo"),
        pytest.param({"layout": "end2end"}, [[1, 300, 6]], None, id="end2end"),
        pytest.param({"task": "segment"}, [[1, 38, 5040], [1, 32, 96, 160]], None, id="segment"),
        pytest.param(
            {}, [[1, 84, 5040]], r"found output 1×84×5040, expected yolo \(b, 6, n\)", id="classes"
        ),
        pytest.param({}, [[1, 300, 6]], r"found output 1×300×6, expected yolo", id="layout"),
        pytest.param({"layout": "end2end"}, [[1, 6, 5040]], "expected end2end", id="other layout"),
        pytest.param({}, [[1, 6, 40], [1, 32, 96, 160]], "for task detect", id="masks unasked"),
        pytest.param({"task": "segment"}, [[1, 6, 40]], "for task segment", id="no masks"),
    ],
)
def test_outputs_must_fit_the_entry(
    changes: dict[str, Any], shapes: list[list[Any]], expected: str | None
) -> None:
    if expected is None:
        check_outputs(entry(**changes), shapes)
    else:
        with pytest.raises(ModelError, match=expected):
            check_outputs(entry(**changes), shapes)


def test_every_registered_model_of_the_package_is_whole() -> None:
    for registered in load_registry().values():
        assert verify(registered)
        assert registered.card is None or (registered.folder / registered.card).is_file()


def test_a_built_model_verifies(tmp_path: Path) -> None:
    path = build(tmp_path / "colours.onnx")
    assert verify(entry_for(path)) == path.read_bytes()
