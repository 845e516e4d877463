"""Tiny ONNX models that really look: every 32 px cell that is red, green or blue is a detection of that class.

They have the inputs and outputs of Ultralytics exports, so that colour order, letterbox, batches and layouts are tested
by what is found, without weights.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from pipeline.analyse.weights import WeightsEntry

CLASSES = ("red", "green", "blue")
CELL_PX = 32


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name


def build(
    path: Path,
    *,
    task: str = "detect",
    layout: str = "yolo",
    input_px: tuple[int, int] = (128, 192),
    dynamic: bool = False,
    half: bool = False,
    box_px: float = CELL_PX,
) -> Path:
    """Write such a model.

    Args:
        box_px: Side of the box around a cell's centre; wider ones overlap, so that suppression has work.
    """
    graph = _Graph()
    image = graph.add("Cast", "images", to=TensorProto.FLOAT) if half else "images"
    # Colourfulness per class: the channel less the mean of the other two; grey is 0.
    mixing = np.eye(3, dtype=np.float32) * 1.5 - 0.5
    colour = graph.add("Conv", image, graph.constant(mixing.reshape(3, 3, 1, 1)))
    cells = graph.add("AveragePool", colour, kernel_shape=[CELL_PX] * 2, strides=[CELL_PX] * 2)
    one = graph.add(
        "Add",
        graph.add(
            "Mul",
            graph.add("ReduceMax", cells, axes=[1], keepdims=1),
            graph.constant(0.0),
        ),
        graph.constant(1.0),
    )
    centres = [
        graph.add(
            "Mul",
            graph.add(
                "Sub",
                graph.add("CumSum", one, graph.constant(axis, np.int64)),
                graph.constant(0.5),
            ),
            graph.constant(float(CELL_PX)),
        )
        for axis in (3, 2)
    ]
    flat = graph.constant([0, 0, -1], np.int64)
    side = graph.add("Mul", one, graph.constant(box_px))
    if layout == "yolo":
        parts = [*centres, side, side, cells]
    else:
        half_side = graph.add("Mul", side, graph.constant(0.5))
        parts = [graph.add("Sub", centre, half_side) for centre in centres]
        parts += [graph.add("Add", centre, half_side) for centre in centres]
        parts.append(graph.add("ReduceMax", cells, axes=[1], keepdims=1))
        parts.append(
            graph.add("Cast", graph.add("ArgMax", cells, axis=1, keepdims=1), to=TensorProto.FLOAT)
        )
    if task == "segment":
        parts.append(one)  # the one coefficient of every box
    rows = graph.add("Reshape", graph.add("Concat", *parts, axis=1), flat)
    outputs = [rows if layout == "yolo" else graph.add("Transpose", rows, perm=[0, 2, 1])]
    if task == "segment":
        blue = graph.constant(np.array([0, 0, 1], np.float32).reshape(1, 3, 1, 1))
        fine = graph.add("AveragePool", colour, kernel_shape=[4, 4], strides=[4, 4])
        prototype = graph.add("Conv", fine, blue)
        outputs.append(graph.add("Sub", prototype, graph.constant(0.5)))
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    finished = [graph.add("Cast", name, to=kind) for name in outputs]
    shape = ["batch", 3, "height", "width"] if dynamic else [1, 3, *input_px]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "colours",
            [helper.make_tensor_value_info("images", kind, shape)],
            [
                helper.make_tensor_value_info(name, kind, shape)
                for name, shape in zip(
                    finished, (["b", "c", "n"], ["b", "m", "y", "x"]), strict=False
                )
            ],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def entry_for(path: Path, **changes: object) -> WeightsEntry:
    """The registry entry of a model written by `build` with its defaults."""
    fields = {
        "name": "colours",
        "folder": path.parent,
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "input_px": (128, 192),
        "classes": CLASSES,
        "licence": "Apache-2.0",
    }
    return WeightsEntry.model_validate({**fields, **changes})


def write_registry(path: Path, models: dict[str, Any], schema: int = 1) -> Path:
    """A registry file."""
    path.write_text(yaml.safe_dump({"schema": schema, "models": models}), encoding="utf-8")
    return path
