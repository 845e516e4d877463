"""Export trained weights to ONNX and enter them in the registry.

`python -m models.training.export WEIGHTS.pt MANIFEST MODELS_DIR --input H W --threshold fire=0.4 --stage first`
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")  # before the import: no update look-ups

import numpy as np
import onnx
import yaml
from onnx import helper, numpy_helper
from ultralytics import YOLO

from models.training.manifest import load_manifest
from models.training.workflow import entry_of

__all__ = ["export", "halve_weights", "register"]

OPSET = 17
HALF_FROM = 1024  # elements; smaller constants (strides, biases, shapes) stay as they are


def export(weights: Path, out: Path, *, half: bool = True) -> None:
    """Write `out`: raw YOLO layout, dynamic batch, height and width, weights stored as float16 if `half`."""
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "model.pt"
        local.write_bytes(weights.read_bytes())  # the exporter writes beside its input
        made = YOLO(str(local)).export(
            format="onnx", dynamic=True, opset=OPSET, simplify=True, device="cpu", imgsz=320
        )
        model = onnx.load(str(made))
    for entry in model.metadata_props:
        if entry.key == "description":  # it ends with the data set's path on the training machine
            entry.value = entry.value.partition(" trained on ")[0]
    if half:
        halve_weights(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(out))


def halve_weights(model: onnx.ModelProto) -> None:
    """Store large float32 constants as float16 with a cast in front, in place.

    Computation stays float32: ONNX Runtime folds the casts when it loads the model. Nothing is lost, as
    Ultralytics' final checkpoint is float16 already.
    """
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < HALF_FROM:
            continue
        half = numpy_helper.to_array(tensor).astype(np.float16)
        name, stored = tensor.name, f"{tensor.name}_half"
        tensor.CopyFrom(numpy_helper.from_array(half, stored))
        casts.append(helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def register(registry: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Add or replace one entry of the registry file."""
    known = yaml.safe_load(registry.read_text(encoding="utf-8")) if registry.is_file() else None
    content = known or {"schema": 1, "models": {}}
    content["models"][name] = dict(entry)
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)
    registry.write_text(text, encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Export and register a trained model")
    parser.add_argument("weights", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("models", type=Path, help="folder with registry.yaml and weights/")
    parser.add_argument("--input", type=int, nargs=2, required=True, metavar=("H", "W"))
    parser.add_argument("--threshold", action="append", default=[], metavar="CLASS=VALUE")
    parser.add_argument("--stage", default="first")
    arguments = parser.parse_args()
    manifest = load_manifest(arguments.manifest)
    thresholds = {
        name: float(value) for name, _, value in (t.partition("=") for t in arguments.threshold)
    }
    if set(thresholds) != set(manifest.classes):
        parser.error(f"--threshold: found {sorted(thresholds)}, expected {list(manifest.classes)}")
    out = arguments.models / "weights" / f"{manifest.name}.onnx"
    export(arguments.weights, out)
    entry = entry_of(manifest, out, thresholds, arguments.stage)
    entry["input_px"] = list(arguments.input)
    register(arguments.models / "registry.yaml", manifest.name, entry)
    print(yaml.safe_dump(entry, sort_keys=False))


if __name__ == "__main__":
    main()
