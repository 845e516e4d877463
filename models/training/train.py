"""Train one model: `python -m models.training.train MANIFEST DATASET START_WEIGHTS RUNS [--resume]`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")  # before the import: no update or font look-ups
# Threads that spin at a barrier starve each other on a busy machine: waiting passively was 14 times faster there.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import yaml
from ultralytics import YOLO
from ultralytics import settings as ultralytics_settings

from models.training.manifest import load_manifest
from models.training.masked import MaskedDetectionTrainer, SurfaceTrainer
from models.training.quantise import calibration_pictures
from models.training.unfold import unfold

__all__ = ["train"]

SEED = 20260101
SEGMENT_YAML = "yolo11n-seg.yaml"  # ships with ultralytics

# What suits small sets on a CPU: AdamW with a low rate, mosaic off at the end
# (bf16: see `masked.py`). Pictures are upright: rotation is slight, vertical flips are off.
DEFAULTS: dict[str, Any] = {
    "optimizer": "AdamW",
    "lr0": 0.002,
    "lrf": 0.05,
    "cos_lr": True,
    "warmup_epochs": 0.5,
    # Ultralytics warms biases up from 0.1, which is meant for SGD: under AdamW each step then moves each bias by a
    # tenth, and what the start weights knew is gone.
    "warmup_bias_lr": 0.0,
    "close_mosaic": 3,
    "nbs": 16,
    "degrees": 5.0,
    "scale": 0.5,
    "hsv_v": 0.5,
    "hsv_s": 0.6,
    "amp": False,
    "cache": "ram",
    "device": "cpu",
    "workers": 1,
    "plots": False,
    "seed": SEED,
    "deterministic": True,
    "patience": 100,
}


def train(
    manifest: Path,
    dataset: Path,
    start: Path,
    runs: Path,
    *,
    resume: bool = False,
    **extra: float | str,
) -> Path:
    """Train and return the path of the last weights.

    Start weights are an Ultralytics checkpoint, or an ONNX file that `export` wrote for this manifest. Options are
    `DEFAULTS`, then the manifest's `train`, then `extra`, the later winning.
    """
    ultralytics_settings.update({"sync": False})
    chosen = load_manifest(manifest)
    name = str(extra.pop("name", chosen.name))
    last = runs / name / "weights" / "last.pt"
    threads = int(extra.pop("threads", os.cpu_count() or 1))
    if start.suffix == ".onnx" and not resume:
        folded, start = start, runs / name / "start.pt"
        start.parent.mkdir(parents=True, exist_ok=True)
        unfold(folded, chosen, calibration_pictures(dataset), start)
    if chosen.task == "segment" and not resume:
        model = YOLO(SEGMENT_YAML).load(str(start))  # takes over what fits: backbone and neck
    else:
        model = YOLO(str(last if resume else start))
    if chosen.start_names and not resume:
        model.model.names = {
            number: chosen.start_names.get(old, old) for number, old in model.names.items()
        }
    # Ultralytics leaves one core idle on a CPU; it sets this itself before the callback.
    model.add_callback("on_train_start", lambda _: torch.set_num_threads(threads))
    model.train(
        trainer=SurfaceTrainer if chosen.task == "segment" else MaskedDetectionTrainer,
        data=str(dataset / "data.yaml"),
        project=str(runs.absolute()),
        name=name,
        exist_ok=True,
        resume=resume,
        **{**DEFAULTS, **chosen.train, **extra},
    )
    return last


def main() -> None:
    """Command line; `KEY=VALUE` arguments override training options."""
    parser = argparse.ArgumentParser(description="Train one model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("start", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("options", nargs="*", help="KEY=VALUE")
    arguments = parser.parse_args()
    pairs = (option.partition("=") for option in arguments.options)
    extra = {key: yaml.safe_load(value) for key, _, value in pairs}
    print(
        train(
            arguments.manifest,
            arguments.dataset,
            arguments.start,
            arguments.runs,
            resume=arguments.resume,
            **extra,
        )
    )


if __name__ == "__main__":
    main()
