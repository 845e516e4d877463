"""The manifest of a model: which labelled sources it is trained on and how far each may be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Manifest", "ManifestError", "SourceSet", "load_manifest"]

TASKS = ("detect", "segment")


class ManifestError(ValueError):
    """A manifest is malformed; the message names the file, the place and what was expected."""


@dataclass(frozen=True)
class SourceSet:
    """One folder with `images/`, `labels/` (YOLO lines) and, unless `bare`, an `images.csv`.

    Attributes:
        path: folder, relative to the data root (or to the renders root when `bare`).
        class_map: label id in the folder → class name of the model; ids left out are dropped.
        complete: classes whose every instance is labelled, per value of the `source` column; `*` is the default.
            A class of the model that is not complete is *ignored* in that picture, never background.
        ignore_flags: flag of `images.csv` → classes that are not complete where the flag is set.
        ignore_columns: `column=value` of `images.csv` → classes that are not complete where it holds.
        only_sources: take these values of `source` alone (empty: all).
        skip_flags: leave pictures with one of these flags out.
        boxless: take the pictures without their boxes (negatives from another model's set).
        pseudo: classes that a teacher labels here where they are not complete.
        every: take each n-th training picture only.
        repeat: how often a training picture is listed (over-sampling).
        compose: how many augmented copies are made in all, spread evenly over the training pictures: what the set
            weighs does not hang on how many of its pictures are in training.
        bare: no `images.csv`: every picture is complete and a scene of its own; a hash of its name says the split.
        optional: the folder may be absent.
        group_column: column of `images.csv` whose values no two parts share and over which intervals are drawn.
        extra: a CSV file beside the manifest with boxes added by hand (file, class, x1, y1, x2, y2 in 0..1).
        backdrops: pictures whose file name matches this pattern may be pasted into (empty: none).
        masks: surfaces are labelled by the pictures of the `mask` column (`class_map` key 255: white pixels).
    """

    path: str
    class_map: Mapping[int, str] = field(default_factory=dict)
    complete: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignore_flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignore_columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    only_sources: tuple[str, ...] = ()
    skip_flags: tuple[str, ...] = ()
    boxless: bool = False
    pseudo: tuple[str, ...] = ()
    every: int = 1
    repeat: int = 1
    compose: int = 0
    bare: bool = False
    optional: bool = False
    group_column: str = "group"
    extra: str = ""
    backdrops: str = ""
    masks: bool = False


@dataclass(frozen=True)
class Manifest:
    """What one model is trained on and how.

    Attributes:
        teacher: class name of the teacher → class of the model, for pseudo-labels.
        start_names: class name of the start weights → class of the model, whose head row is taken over.
        rivals: class → classes that it is mistaken for, as in the registry.
        train: options of the training run.
        task: `detect` (boxes) or `segment` (boxes and masks).
        input_px: height and width that the registered model takes.
        folder: where the manifest lies.
    """

    name: str
    classes: tuple[str, ...]
    sets: tuple[SourceSet, ...]
    teacher: Mapping[str, str] = field(default_factory=dict)
    teacher_confidence: float = 0.4
    start_names: Mapping[str, str] = field(default_factory=dict)
    rivals: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    task: str = "detect"
    input_px: tuple[int, int] = (416, 416)
    folder: Path = Path()


def load_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        ManifestError: the file is no mapping, a key is unknown or a class is not in `classes`.
    """
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(raw, dict):
        raise ManifestError(f"{path.name}: found {type(raw).__name__}, expected a mapping")
    unknown = set(raw) - (set(Manifest.__dataclass_fields__) - {"folder"})
    missing = {"name", "classes", "sets"} - set(raw)
    if unknown or missing:
        raise ManifestError(
            f"{path.name}: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}"
        )
    if raw.get("task", "detect") not in TASKS:
        raise ManifestError(
            f"{path.name}: found task {raw['task']!r}, expected one of {list(TASKS)}"
        )
    classes = tuple(raw["classes"])
    height_px, width_px = raw.get("input_px", Manifest.input_px)
    sets = tuple(
        _source_set(entry, classes, f"{path.name}: sets[{index}]")
        for index, entry in enumerate(raw["sets"])
    )
    _check_classes(raw.get("teacher", {}).values(), classes, f"{path.name}: teacher")
    _check_classes(raw.get("start_names", {}).values(), classes, f"{path.name}: start_names")
    rivals = {name: tuple(names) for name, names in raw.get("rivals", {}).items()}
    for name, names in rivals.items():
        _check_classes((name, *names), classes, f"{path.name}: rivals")
    return Manifest(
        **{
            **raw,
            "classes": classes,
            "sets": sets,
            "rivals": rivals,
            "input_px": (height_px, width_px),
            "folder": path.parent,
        }
    )


def _source_set(entry: Mapping[str, Any], classes: tuple[str, ...], place: str) -> SourceSet:
    unknown = set(entry) - set(SourceSet.__dataclass_fields__)
    if unknown or "path" not in entry:
        raise ManifestError(f"{place}: unknown keys {sorted(unknown)}, expected at least 'path'")
    values = dict(entry)
    for key in ("complete", "ignore_flags", "ignore_columns"):
        values[key] = {str(name): tuple(group) for name, group in entry.get(key, {}).items()}
        for group in values[key].values():
            _check_classes(group, classes, f"{place}: {key}")
    for key in ("only_sources", "skip_flags", "pseudo"):
        values[key] = tuple(entry.get(key, ()))
    _check_classes(values["pseudo"], classes, f"{place}: pseudo")
    _check_classes(entry.get("class_map", {}).values(), classes, f"{place}: class_map")
    return SourceSet(**values)


def _check_classes(names: Iterable[str], classes: tuple[str, ...], place: str) -> None:
    unknown = set(names) - set(classes)
    if unknown:
        raise ManifestError(f"{place}: unknown classes {sorted(unknown)}, expected {list(classes)}")
