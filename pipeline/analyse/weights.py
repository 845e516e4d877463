"""The registry of models: which weight files there are, what they take and what they tell."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

import yaml
from pydantic import Field, ValidationError, model_validator

from pipeline.exceptions import ModelError
from pipeline.units import Settings

__all__ = [
    "DEFAULT_THRESHOLD",
    "Shape",
    "WeightsEntry",
    "check_input",
    "check_outputs",
    "load_registry",
    "package_registry",
    "verify",
]

Shape: TypeAlias = Sequence[int | str | None]
"""Dimensions as ONNX Runtime reports them; a free dimension is a name or None."""

SCHEMA = 1
STRIDE_PX = 32  # the coarsest grid of every YOLO head; sides of an input are multiples of it
DEFAULT_THRESHOLD = 0.25  # Ultralytics' own default, for classes whose operating point nobody chose
BYTETRACK_FLOOR = 0.1  # ByteTrack's second association still uses scores down to 0.1 (Zhang 2022)

_Fraction = Annotated[float, Field(gt=0, lt=1)]
_SidePx = Annotated[int, Field(gt=0, multiple_of=STRIDE_PX)]


class WeightsEntry(Settings):
    """One model of the registry.

    Attributes:
        name: The key in the registry, which scenarios name in `Scenario.model`.
        folder: Folder of the registry file; `file` and `card` are relative to it.
        file: ONNX file.
        sha256: Of the file, 64 hexadecimal digits.
        task: ``detect`` (boxes) or ``segment`` (boxes and masks).
        layout: ``yolo`` is (b, 4 + classes [+ coefficients], n) and needs suppression, ``end2end`` is
            (b, n, 6 [+ coefficients]) and does not.
        input_px: Height and width of the input, multiples of 32.
        dynamic: Whether height and width are free, so that a picture is padded to the least rectangle only.
        classes: Names in the order of the model's outputs.
        thresholds: Operating point per class; `DEFAULT_THRESHOLD` where none is named.
        floor: Detections below this confidence are dropped; what lies between it and the operating point only helps
            tracking. Default: 0.1, or the lowest operating point if that is lower or if the task is ``segment``.
        nms_iou: IoU above which the weaker of two boxes is suppressed (``yolo`` only).
        agnostic_nms: Whether boxes of different classes suppress each other too.
        rivals: Class → classes that it is mistaken for. Its confidence is multiplied by one minus the highest score of
            a rival at the same place: a thing that is as much a bicycle is not surely an e-bike (``yolo`` only).
        licence: SPDX expression.
        card: Model card.
        stage: How far the model has come, e.g. ``release``, ``trial``.
    """

    name: str
    folder: Path
    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    task: Literal["detect", "segment"] = "detect"
    layout: Literal["yolo", "end2end"] = "yolo"
    input_px: tuple[_SidePx, _SidePx]
    dynamic: bool = False
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    thresholds: dict[str, _Fraction] = Field(default_factory=dict)
    floor: _Fraction | None = None
    nms_iou: _Fraction = 0.7
    agnostic_nms: bool = False
    rivals: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default_factory=dict)
    licence: str
    card: str | None = None
    stage: str = "release"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(
                f"found a class twice in {list(self.classes)}, expected distinct names"
            )
        if unknown := sorted(set(self.thresholds) - set(self.classes)):
            raise ValueError(
                f"found a threshold for {', '.join(unknown)}, expected some of {', '.join(self.classes)}"
            )
        named = set(self.rivals).union(*self.rivals.values())
        if unknown := sorted(named - set(self.classes)):
            raise ValueError(
                f"found a rival {', '.join(unknown)}, expected some of {', '.join(self.classes)}"
            )
        if own := sorted(name for name, rivals in self.rivals.items() if name in rivals):
            raise ValueError(f"found {', '.join(own)} as its own rival, expected another class")
        if self.rivals and self.layout != "yolo":
            raise ValueError("found rivals with layout end2end, expected layout yolo")
        return self

    @property
    def path(self) -> Path:
        """The weight file."""
        return self.folder / self.file

    @property
    def operating_points(self) -> dict[str, float]:
        """Operating point of every class."""
        return {name: self.thresholds.get(name, DEFAULT_THRESHOLD) for name in self.classes}

    @property
    def floor_confidence(self) -> float:
        """Confidence below which nothing leaves the detector."""
        if self.floor is not None:
            return self.floor
        lowest = min(self.operating_points.values())
        return lowest if self.task == "segment" else min(BYTETRACK_FLOOR, lowest)


def package_registry() -> Path:
    """The registry that is shipped in the package `models`."""
    return Path(str(files("models") / "registry.yaml"))


def load_registry(path: Path | None = None) -> dict[str, WeightsEntry]:
    """All registered models by name.

    Args:
        path: An additional registry whose entries come on top of the package's and replace those of the same name.

    Raises:
        ModelError: if a registry cannot be read or an entry is wrong; one line.
    """
    entries = _read(package_registry())
    if path is not None:
        entries |= _read(path)
    return entries


def verify(entry: WeightsEntry) -> bytes:
    """The bytes of the weight file, after its hash was found right.

    Raises:
        ModelError: if the file is missing, cannot be read or is another one than registered.
    """
    try:
        content = entry.path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{entry.path}: model {entry.name}: found no readable file ({error.strerror}), expected ONNX weights"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise ModelError(
            f"{entry.path}: model {entry.name}: found sha256 {found[:12]}…, expected {entry.sha256[:12]}…"
        )
    return content


def check_input(entry: WeightsEntry, shapes: Sequence[Shape]) -> None:
    """Check a model's declared inputs against its entry.

    Raises:
        ModelError: unless it is one input (1 or free, 3, height, width) of the registered size.
    """
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3:
        raise _unfit(entry, f"inputs {_text(shapes)}", "one input (batch, 3, height, width)")
    batch, _, *sides = shapes[0]
    if isinstance(batch, int) and batch != 1:
        raise _unfit(entry, f"a fixed batch of {batch}", "a batch of 1 or a free one")
    for side, expected in zip(sides, entry.input_px, strict=True):
        if isinstance(side, int) and entry.dynamic:
            raise _unfit(
                entry, f"a fixed input {_text([sides])}", "free height and width (dynamic: true)"
            )
        if isinstance(side, int) and side != expected:
            raise _unfit(entry, f"input {_text([sides])}", f"input_px {list(entry.input_px)}")


def check_outputs(entry: WeightsEntry, shapes: Sequence[Shape]) -> None:
    """Check the shapes of a model's actual outputs against its entry.

    Raises:
        ModelError: if they are not those of the registered task, layout and number of classes.
    """
    wanted = 2 if entry.task == "segment" else 1
    ranks = [3, 4][:wanted]
    if [len(shape) for shape in shapes] != ranks:
        raise _unfit(
            entry, f"outputs {_text(shapes)}", f"outputs of rank {ranks} for task {entry.task}"
        )
    extra = shapes[1][1] if entry.task == "segment" else 0
    if not isinstance(extra, int):
        raise _unfit(entry, f"outputs {_text(shapes)}", "a fixed number of mask prototypes")
    if entry.layout == "yolo":
        found, expected = shapes[0][1], 4 + len(entry.classes) + extra
        meaning = f"(b, {expected}, n): 4 + {len(entry.classes)} classes"
    else:
        found, expected = shapes[0][2], 6 + extra
        meaning = f"(b, n, {expected}): x1 y1 x2 y2 confidence class"
    if found != expected:
        coefficients = f" + {extra} coefficients" if extra else ""
        raise _unfit(
            entry, f"output {_text(shapes[:1])}", f"{entry.layout} {meaning}{coefficients}"
        )


def _unfit(entry: WeightsEntry, found: str, expected: str) -> ModelError:
    return ModelError(f"{entry.path}: model {entry.name}: found {found}, expected {expected}")


def _text(shapes: Sequence[Shape]) -> str:
    return " and ".join("×".join(str(side) for side in shape) for shape in shapes) or "none"


def _read(path: Path) -> dict[str, WeightsEntry]:
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"{path}: found no readable file ({error.strerror}), expected a registry"
        ) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path}: found no YAML ({reason}), expected a registry") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise ModelError(f"{path}: found schema {found!r}, expected {SCHEMA}")
    models = content.get("models")
    if not isinstance(models, dict):
        raise ModelError(f"{path}: found models {models!r}, expected entries by name")
    return {str(name): _parse(path, str(name), entry) for name, entry in models.items()}


def _parse(path: Path, name: str, entry: object) -> WeightsEntry:
    if not isinstance(entry, dict):
        raise ModelError(f"{path}: model {name}: found {entry!r}, expected an entry")
    try:
        return WeightsEntry.model_validate({**entry, "name": name, "folder": path.parent})
    except ValidationError as error:
        first, *others = error.errors()
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "value_error":  # our own text, which says all
            reason = str(first["ctx"]["error"])
        elif first["type"] == "missing":
            reason = f"{place}: found nothing, expected a value"
        elif first["type"] == "extra_forbidden":
            reason = f"{place}: found an unknown key, expected some of {', '.join(_KEYS)}"
        else:
            reason = f"{place}: found {first['input']!r}, expected: {first['msg']}"
        more = f" (and {len(others)} more)" if others else ""
        raise ModelError(f"{path}: model {name}: {reason}{more}") from error


_KEYS = [key for key in WeightsEntry.model_fields if key not in {"name", "folder"}]
