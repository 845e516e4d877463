"""Static INT8 variant of an exported model.

`python -m models.training.quantise FLOAT.onnx DATASET OUT.onnx --input H W`

Convolutions and what lies between them compute in 8 bits (QDQ, weights per channel), which CPUs with VNNI do
several times faster. The last convolutions of the head and the box arithmetic behind them stay float: boxes are
sums of small shares of large numbers there.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from models.training.evaluate import letterbox

__all__ = ["calibration_pictures", "kept_float", "quantise"]

CALIBRATION_PICTURES = 96  # ranges of activations no longer move beyond that
OPERATORS = ["Conv", "Concat", "MaxPool", "Resize", "Add", "Mul", "Sigmoid", "Split"]
HEAD_LAST = re.compile(r"/(cv2|cv3|cv4)\.\d/\1\.\d\.2/Conv")


class _Pictures(CalibrationDataReader):  # type: ignore[misc,unused-ignore]  # untyped base
    """Feeds pictures as the run time would; the size of the model's input name is read from the file."""

    def __init__(self, pictures: Sequence[Path], name: str, input_px: tuple[int, int]) -> None:
        self._left: Iterator[Path] = iter(pictures)
        self._name, self._input_px = name, input_px

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        path = next(self._left, None)
        if path is None:
            return None
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"{path}: found no readable picture")
        return {self._name: letterbox(np.asarray(image, np.uint8), self._input_px)[0]}


def calibration_pictures(dataset: Path, count: int = CALIBRATION_PICTURES) -> list[Path]:
    """Training pictures at even steps through the list, so that every source is there."""
    listed = (dataset / "train.txt").read_text(encoding="utf-8").split("\n")
    paths = [Path(line) for line in dict.fromkeys(listed) if line]
    return paths[:: max(1, len(paths) // count)][:count]


def kept_float(model: onnx.ModelProto) -> list[str]:
    """Nodes that stay float: the last convolutions of the head and everything that follows from them."""
    made = {
        output for node in model.graph.node if HEAD_LAST.search(node.name) for output in node.output
    }
    kept = [node.name for node in model.graph.node if HEAD_LAST.search(node.name)]
    for node in model.graph.node:  # in topological order
        if made.intersection(node.input) and node.name not in kept:
            kept.append(node.name)
            made.update(node.output)
    return kept


def quantise(model: Path, out: Path, pictures: Sequence[Path], input_px: tuple[int, int]) -> None:
    """Write the INT8 variant of a float32 model to `out`, calibrated on `pictures` at `input_px` (height, width)."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(str(model), str(ready), skip_symbolic_shape=True)
        session = onnxruntime.InferenceSession(str(ready), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        quantize_static(
            str(ready),
            str(out),
            _Pictures(pictures, name, input_px),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept_float(onnx.load(str(ready))),
            calibrate_method=CalibrationMethod.MinMax,
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Quantise a model")
    parser.add_argument("model", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--input", type=int, nargs=2, required=True, metavar=("H", "W"))
    arguments = parser.parse_args()
    input_px = (arguments.input[0], arguments.input[1])
    quantise(arguments.model, arguments.out, calibration_pictures(arguments.dataset), input_px)


if __name__ == "__main__":
    main()
