"""The weights of an exported ONNX file by their names in the architecture, as `export` writes them."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

__all__ = ["load_exported", "tensor_of"]


def load_exported(path: Path) -> onnx.ModelProto:
    """The file's model.

    Raises:
        ValueError: it cannot be read, or is no ONNX file.
    """
    try:
        model = onnx.load(str(path))
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read: {error.strerror}; expected an ONNX file"
        ) from None
    except DecodeError:
        raise ValueError(
            f"{path}: found no ONNX model, expected a file that `export` wrote"
        ) from None
    return model


def tensor_of(
    tensors: dict[str, onnx.TensorProto], name: str, shape: tuple[int, ...], path: Path
) -> onnx.TensorProto:
    """A tensor of a file's.

    Raises:
        ValueError: it is not there, or has another shape.
    """
    tensor = tensors.get(name)
    found = "nothing" if tensor is None else f"shape {tuple(tensor.dims)}"
    if tensor is None or tuple(tensor.dims) != shape:
        raise ValueError(f"{path}: {name}: found {found}, expected shape {shape}")
    return tensor
