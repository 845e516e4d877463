"""Start weights out of a published ONNX file: `python -m models.training.unfold MODEL.onnx MANIFEST DATASET OUT.pt`.

An export folds each batch normalisation into its convolution, and a network without normalisation trains badly.
Here the folded convolution keeps its weights, and a normalisation is put behind it again whose mean and variance are
measured on training pictures and whose scale and shift undo both: the outputs stay the same, and training can go on.
So whoever has the shipped files alone can fine-tune them on pictures of their own cameras.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")  # before the import: no update look-ups

import cv2
import numpy as np
import onnx
import torch
from onnx import numpy_helper
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.tasks import DetectionModel, SegmentationModel

from models.training.checkpoint import narrow, save
from models.training.evaluate import letterbox
from models.training.exported import load_exported, tensor_of
from models.training.manifest import Manifest, load_manifest
from models.training.quantise import calibration_pictures

__all__ = ["unfold"]

ARCHITECTURES: dict[str, tuple[type[DetectionModel], str]] = {
    "detect": (DetectionModel, "yolo11n.yaml"),
    "segment": (SegmentationModel, "yolo11n-seg.yaml"),
}  # the descriptions ship with ultralytics
FIXED = "dfl.conv.weight"  # the same constant in every model
START_CLASSES = 80  # of COCO: the class branch keeps the width that the first start weights had

Tensors = dict[str, onnx.TensorProto]


def unfold(model: Path, manifest: Manifest, pictures: Sequence[Path], out: Path) -> None:
    """Write the ONNX file `model` as an Ultralytics checkpoint to `out`.

    Args:
        model: what `export` wrote for this manifest.
        manifest: says architecture, classes and input size.
        pictures: what the normalisation is measured on; some dozens of the training set.
        out: the checkpoint.

    Raises:
        ValueError: the file holds other layers, or layers of other shapes, than the architecture has.
    """
    stored = {t.name.removesuffix("_half"): t for t in load_exported(model).graph.initializer}
    kind, description = ARCHITECTURES[manifest.task]
    network = kind(description, nc=START_CLASSES, verbose=False).eval()
    narrow(network, manifest.classes)
    folded = {n: layer for n, layer in network.named_modules() if isinstance(layer, Conv)}
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith(FIXED) or ".bn." in name:
                continue
            value.copy_(_found(stored, name, tuple(value.shape), model))
        shifts = {
            name: _found(stored, f"{name}.conv.bias", (layer.conv.out_channels,), model)
            for name, layer in folded.items()
        }
        _measure(network, folded, shifts, pictures, manifest.input_px)
    save(network, manifest, out)


def _found(stored: Tensors, name: str, shape: tuple[int, ...], model: Path) -> torch.Tensor:
    value = numpy_helper.to_array(tensor_of(stored, name, shape, model))
    return torch.from_numpy(value.astype(np.float32))


def _measure(
    network: torch.nn.Module,
    folded: Mapping[str, Conv],
    shifts: Mapping[str, torch.Tensor],
    pictures: Sequence[Path],
    input_px: tuple[int, int],
) -> None:
    """Set each normalisation so that it does nothing but add the shift, measured per channel."""
    sums: dict[str, Any] = {}

    def noting(name: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor]], None]:
        def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
            value = inputs[0].double()
            count = value.numel() // value.shape[1]
            parts = (count, value.sum((0, 2, 3)), (value * value).sum((0, 2, 3)))
            sums[name] = tuple(a + b for a, b in zip(sums.get(name, (0, 0, 0)), parts, strict=True))

        return hook

    hooks = []
    for name, layer in folded.items():
        norm = layer.bn
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
        norm.weight.fill_(1)
        norm.bias.copy_(shifts[name])
        hooks.append(norm.register_forward_pre_hook(noting(name)))
    for path in pictures:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"{path}: found no readable picture")
        network(torch.from_numpy(letterbox(np.asarray(image, np.uint8), input_px)[0]))
    for hook in hooks:
        hook.remove()
    for name, layer in folded.items():
        count, total, squares = sums[name]
        mean = total / count
        variance = (squares / count - mean * mean).clamp(min=1e-8)
        norm = layer.bn
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(shifts[name] + mean)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make start weights out of a published ONNX file")
    parser.add_argument("model", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("dataset", type=Path, help="what `assemble` wrote")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    pictures = calibration_pictures(arguments.dataset)
    unfold(arguments.model, load_manifest(arguments.manifest), pictures, arguments.out)


if __name__ == "__main__":
    main()
