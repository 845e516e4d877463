"""Weighted mean of models of one architecture: `python -m models.training.average OUT A=0.3 B=0.7`.

The mean of weights along a training run tends to generalise better than its end (Izmailov et al. 2018, SWA), and the
mean with the weights it started from keeps what fine-tuning forgets (Wortsman et al. 2022, WiSE-FT). Checkpoints are
averaged as they are; exported ONNX files with their normalisation folded in, which suits parts that were trained apart.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from models.training.exported import load_exported, tensor_of

__all__ = ["average"]

CLASS_ROWS = re.compile(r"\.cv3\.\d+\.2\.(weight|bias)")  # one row per class

Array = npt.NDArray[np.float64]


def average(parts: Mapping[Path, float], out: Path) -> None:
    """Write the mean with the given shares; all else is as in the last checkpoint or the first ONNX file.

    Raises:
        ValueError: the shares do not sum to one, or a tensor is not there in every part with the same shape.
    """
    if abs(sum(parts.values()) - 1) > 1e-6:
        raise ValueError(f"found weights that sum to {sum(parts.values()):g}, expected 1")
    if out.suffix == ".onnx":
        _average_exported(parts, out)
    else:
        _average_checkpoints(parts, out)


def _average_checkpoints(parts: Mapping[Path, float], out: Path) -> None:
    import torch

    # Checkpoints hold a pickled model: only such of one's own are to be given here.
    loaded = [torch.load(path, map_location="cpu", weights_only=False) for path in parts]
    models = [(part.get("ema") or part["model"]).float() for part in loaded]
    states = [model.state_dict() for model in models]
    mean = {
        key: sum(share * state[key] for share, state in zip(parts.values(), states, strict=True))
        if value.is_floating_point()
        else value
        for key, value in states[-1].items()
    }
    models[-1].load_state_dict(mean)
    torch.save({**loaded[-1], "model": models[-1].half(), "ema": None, "optimizer": None}, out)


def _average_exported(parts: Mapping[Path, float], out: Path) -> None:
    loaded = [load_exported(path) for path in parts]
    tensors = [{tensor.name: tensor for tensor in model.graph.initializer} for model in loaded]
    unknown = [_unknown_classes(part) for part in tensors]
    nobody_knows = np.all(unknown, axis=0)  # there the mean is of what all have
    unknown = [rows & ~nobody_knows for rows in unknown]
    for tensor in loaded[0].graph.initializer:
        if not tensor.name.startswith("model."):
            continue  # shapes, strides and other constants of the graph
        shape = tuple(tensor.dims)
        values = [
            numpy_helper.to_array(tensor_of(part, tensor.name, shape, path)).astype(np.float64)
            for path, part in zip(parts, tensors, strict=True)
        ]
        rows = unknown if CLASS_ROWS.search(tensor.name) else [None] * len(unknown)
        mean = _mean(values, list(parts.values()), rows)
        kind = np.float16 if tensor.data_type == onnx.TensorProto.FLOAT16 else np.float32
        tensor.CopyFrom(numpy_helper.from_array(mean.astype(kind), tensor.name))
    onnx.save(loaded[0], str(out))


def _unknown_classes(tensors: Mapping[str, onnx.TensorProto]) -> npt.NDArray[np.bool_]:
    """Which classes a part does not know: their rows are empty in every branch, as `baseline` writes them."""
    weights = [
        numpy_helper.to_array(tensor)
        for name, tensor in tensors.items()
        if (found := CLASS_ROWS.search(name)) and found[1] == "weight"
    ]
    return np.asarray(np.all([~weight.any(axis=(1, 2, 3)) for weight in weights], axis=0))


def _mean(
    values: Sequence[Array],
    shares: Sequence[float],
    unknown: Sequence[npt.NDArray[np.bool_] | None],
) -> Array:
    """Weighted mean; a row that a part does not know is the mean of the others."""
    total = np.zeros_like(values[0])
    weight = np.zeros(values[0].shape[:1])
    for value, share, rows in zip(values, shares, unknown, strict=True):
        known = np.ones(len(weight)) if rows is None else (~rows).astype(np.float64)
        weight += share * known
        total += value * (share * known).reshape(-1, *[1] * (value.ndim - 1))
    return np.asarray(total / weight.reshape(-1, *[1] * (total.ndim - 1)))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Average checkpoints or exported models")
    parser.add_argument("out", type=Path)
    parser.add_argument("parts", nargs="+", metavar="FILE=SHARE")
    arguments = parser.parse_args()
    pairs = (part.rpartition("=") for part in arguments.parts)
    average({Path(file): float(share) for file, _, share in pairs}, arguments.out)


if __name__ == "__main__":
    main()
