"""The start weights under a model's own class names: `python -m models.training.baseline START.pt MANIFEST OUT.pt`.

What was won by training is only told by the same measurement before it. The rows of the head that the manifest names
(the teacher's classes, and those whose start another class is, as a motorcycle is an e-bike's) are kept; a class that
the start weights do not know is never found.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("YOLO_OFFLINE", "true")  # before the import: no update look-ups

import torch
from ultralytics import YOLO

from models.training.checkpoint import narrow, save
from models.training.manifest import Manifest, load_manifest

__all__ = ["baseline"]

NEVER = -20.0  # a logit: a score of 2e-9


def baseline(start: Path, manifest: Manifest, out: Path) -> None:
    """Write the start weights as a checkpoint with the manifest's classes, to be exported and measured like any."""
    model = YOLO(str(start))
    network = model.model.float()
    numbers = {name: number for number, name in model.names.items()}
    sources = {
        ours: theirs for theirs, ours in (*manifest.teacher.items(), *manifest.start_names.items())
    }
    rows = [numbers.get(sources.get(name, ""), -1) for name in manifest.classes]
    before = [branch[-1] for branch in network.model[-1].cv3]
    narrow(network, manifest.classes)
    with torch.no_grad():
        for branch, old in zip(network.model[-1].cv3, before, strict=True):
            for number, row in enumerate(rows):
                branch[-1].weight[number] = old.weight[row] if row >= 0 else 0.0
                branch[-1].bias[number] = old.bias[row] if row >= 0 else NEVER
    save(network, manifest, out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Start weights under a model's class names")
    parser.add_argument("start", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    baseline(arguments.start, load_manifest(arguments.manifest), arguments.out)


if __name__ == "__main__":
    main()
