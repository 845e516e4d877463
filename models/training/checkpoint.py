"""Networks of other class counts, and checkpoints that Ultralytics reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from models.training.manifest import Manifest

__all__ = ["narrow", "save"]


def narrow(network: torch.nn.Module, classes: Sequence[str]) -> None:
    """Give the head one new output per class, in place."""
    head = network.model[-1]
    for branch in head.cv3:
        branch[-1] = torch.nn.Conv2d(branch[-1].in_channels, len(classes), 1)
    head.no += len(classes) - head.nc
    head.nc = network.nc = network.yaml["nc"] = len(classes)
    network.names = dict(enumerate(classes))


def save(network: torch.nn.Module, manifest: Manifest, out: Path) -> None:
    """Write a network as a checkpoint, in float16 as Ultralytics does."""
    options = {"task": manifest.task, "imgsz": manifest.input_px[0]}
    network.args = options
    torch.save(
        {
            "epoch": -1,
            "model": network.half(),
            "ema": None,
            "optimizer": None,
            "train_args": options,
        },
        out,
    )
