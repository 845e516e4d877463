"""One command per model: data folders → data set → training → measured ONNX file in the registry, with figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from models.training.assemble import assemble
from models.training.evaluate import measure, report
from models.training.manifest import Manifest, load_manifest
from models.training.surface import measure_surface, report_surface

__all__ = ["choose_thresholds", "entry_of", "manifest_path", "register_checkpoint", "train_model"]

MIN_PRECISION = (
    0.95  # at image level, on validation: an alarm that is wrong costs more than one that is late
)
FALLBACK = 0.5
SURFACE_THRESHOLD = 0.25
NMS_IOU = 0.6


def manifest_path(name: str) -> Path:
    """The shipped manifest of a model.

    Raises:
        ValueError: there is none of that name.
    """
    folder = Path(str(files("models") / "training"))
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ValueError(f"model {name}: found no manifest, expected one of {known}")
    return path


def choose_thresholds(
    figures: Mapping[str, Any], min_precision: float = MIN_PRECISION
) -> dict[str, float]:
    """Operating point per class: the lowest with the wanted image-level precision, else the most precise one.

    Args:
        figures: what `evaluate.report` returns.
        min_precision: wanted share of right ones among the pictures that show the class.
    """
    chosen = {}
    for name, figure in figures["classes"].items():
        levels = [level for level in figure["levels"] if level["true"]]
        good = [level for level in levels if level["precision"] >= min_precision]
        if good:
            chosen[name] = float(min(level["threshold"] for level in good))
        elif levels:
            best = max(levels, key=lambda level: (level["precision"], level["recall"]))
            chosen[name] = float(best["threshold"])
        else:
            chosen[name] = FALLBACK
    return chosen


def entry_of(
    manifest: Manifest,
    weights: Path,
    thresholds: Mapping[str, float],
    stage: str,
) -> dict[str, Any]:
    """The registry entry of an exported model whose file lies in `weights/`."""
    entry: dict[str, Any] = {
        "file": f"weights/{weights.name}",
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "task": manifest.task,
        "layout": "yolo",
        "input_px": list(manifest.input_px),
        "dynamic": True,
        "classes": list(manifest.classes),
        "thresholds": {name: thresholds[name] for name in manifest.classes},
        "nms_iou": NMS_IOU,
        "licence": "AGPL-3.0",
        "card": f"cards/{manifest.name}.md",
        "stage": stage,
    }
    if manifest.rivals:
        entry["rivals"] = {name: list(rivals) for name, rivals in manifest.rivals.items()}
    return entry


def register_checkpoint(
    name: str,
    checkpoint: Path,
    dataset: Path,
    models: Path,
    *,
    stage: str,
    int8: bool = False,
) -> dict[str, Any]:
    """Export a checkpoint of any epoch, measure it, choose operating points, write it into `models/registry.yaml`.

    An ONNX file (a mean of exported ones) is taken as it is.

    The figures go to `figures/NAME.json` beside the registry, for the card. Returns them.
    """
    from models.training.export import export, register  # torch is needed from here on

    manifest = load_manifest(manifest_path(name))
    input_px = manifest.input_px
    (models / "weights").mkdir(parents=True, exist_ok=True)
    out = models / "weights" / f"{name}.onnx"
    if checkpoint.suffix == ".onnx":
        out.write_bytes(checkpoint.read_bytes())
    else:
        export(checkpoint, out)
    figures: dict[str, Any]
    if manifest.task == "segment":
        figures = report_surface(measure_surface(out, dataset, input_px, SURFACE_THRESHOLD))
        thresholds = dict.fromkeys(manifest.classes, SURFACE_THRESHOLD)
    else:
        pictures = measure(out, dataset, manifest.classes, input_px, rivals=manifest.rivals)
        thresholds = choose_thresholds(report(pictures, manifest.classes, rounds=0))
        figures = report(pictures, manifest.classes, thresholds)
    register(models / "registry.yaml", name, entry_of(manifest, out, thresholds, stage))
    if int8:
        from models.training.quantise import calibration_pictures, quantise

        small = out.with_name(f"{name}-int8.onnx")
        quantise(out, small, calibration_pictures(dataset), input_px)
        entry = entry_of(manifest, small, thresholds, stage)
        register(models / "registry.yaml", f"{name}-int8", entry)
    target = models / "figures" / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    card = models / "cards" / f"{name}.md"
    if not card.is_file():
        card.parent.mkdir(exist_ok=True)
        text = yaml.safe_dump(entry_of(manifest, out, thresholds, stage), sort_keys=False)
        card.write_text(
            f"# {name}\n\n```yaml\n{text}```\n\nFigures: `figures/{name}.json`.\n", "utf-8"
        )
    return figures


def train_model(
    name: str,
    data: Path,
    work: Path,
    models: Path,
    *,
    start: Path,
    renders: Path | None = None,
    resume: bool = False,
    stage: str = "trial",
    int8: bool = False,
    options: Mapping[str, float | str] | None = None,
    splits: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Assemble, train, measure and register one model; returns the figures.

    Args:
        name: the model.
        data: the folders that the manifest names.
        work: data sets and runs; what stands there is taken up again with `resume`.
        models: where `registry.yaml` and `weights/` are written.
        start: start weights (`yolo11n.pt` is fetched by Ultralytics where the internet is there).
        renders: the folder of rendered sets.
        resume: go on where the last run stopped.
        stage: how far the model has come, for the registry.
        int8: make an 8-bit variant too.
        options: training options over those of the manifest.
        splits: group → `train` or `val`, over what the data's lists say.

    Raises:
        ValueError: the start weights are not there, or a manifest, a label or a picture is not as expected.
    """
    if start.parent != Path() and not start.is_file():  # a bare name may be fetched
        raise ValueError(f"{start}: no such file; expected start weights (.pt or .onnx)")
    from models.training.compose import cabin_composer
    from models.training.teacher import make_teacher
    from models.training.train import train

    path = manifest_path(name)
    manifest = load_manifest(path)
    dataset = work / "sets" / name
    if not (resume and (dataset / "data.yaml").is_file()):
        teacher = make_teacher(start, manifest) if manifest.teacher else None
        assemble(
            manifest, data, dataset, renders=renders, teacher=teacher, composer=cabin_composer,
            splits=splits,
        )  # fmt: skip
    last = train(path, dataset, start, work / "runs", resume=resume, **(options or {}))
    return register_checkpoint(name, last, dataset, models, stage=stage, int8=int8)
