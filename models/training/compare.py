"""Compare sizes and number formats of one model on accuracy and milliseconds.

`python -m models.training.compare DATASET CLASSES --variant fp32=a.onnx --variant int8=b.onnx --input 416 416 …`
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from models.training.evaluate import average_precision, measure, open_session
from models.training.surface import measure_surface

__all__ = ["Row", "compare", "mean_ap50", "mean_iou", "milliseconds", "table"]

RUNS = 15
THREADS = (1, 2)
SURFACE_THRESHOLD = 0.25


@dataclass(frozen=True)
class Row:
    """One variant at one input size.

    Attributes:
        variant: number format.
        input_px: height and width.
        accuracy: what `compare` was told to measure.
        cpu_ms: processor milliseconds a picture on one thread, the fastest of `RUNS`.
        wall_ms: milliseconds a picture by number of threads, the fastest of `RUNS`.
    """

    variant: str
    input_px: tuple[int, int]
    accuracy: float
    cpu_ms: float
    wall_ms: dict[int, float]


def milliseconds(
    session: onnxruntime.InferenceSession, input_px: tuple[int, int]
) -> tuple[float, float]:
    """Wall and processor milliseconds of one inference, the fastest of `RUNS`: the least disturbed one."""
    blob = np.random.default_rng(0).random((1, 3, *input_px), np.float32)
    name = session.get_inputs()[0].name
    wall, cpu = [], []
    for _ in range(RUNS):
        started, used = time.perf_counter(), time.process_time()
        session.run(None, {name: blob})
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return min(wall) * 1000, min(cpu) * 1000


def compare(
    variants: Mapping[str, Path],
    sizes: Sequence[tuple[int, int]],
    accuracy: Callable[[Path, tuple[int, int]], float],
) -> list[Row]:
    """Measure every variant at every size; `accuracy` takes the model and (height, width)."""
    rows = []
    for input_px in sizes:
        for variant, path in variants.items():
            wall, cpu = {}, 0.0
            for threads in THREADS:
                wall[threads], used = milliseconds(open_session(path, threads), input_px)
                cpu = used if threads == 1 else cpu
            rows.append(Row(variant, input_px, accuracy(path, input_px), cpu, wall))
    return rows


def mean_ap50(
    dataset: Path, classes: Sequence[str], wanted: Sequence[str] = ()
) -> Callable[[Path, tuple[int, int]], float]:
    """Accuracy for `compare`: mean AP50 of the `wanted` classes (default: all that have labels)."""

    def accuracy(model: Path, input_px: tuple[int, int]) -> float:
        pictures = measure(model, dataset, classes, input_px)
        values = [average_precision(pictures, classes.index(name))[0] for name in wanted or classes]
        return float(np.nanmean(values))

    return accuracy


def mean_iou(dataset: Path) -> Callable[[Path, tuple[int, int]], float]:
    """Accuracy for `compare`: mean IoU of the surface over the validation pictures."""

    def accuracy(model: Path, input_px: tuple[int, int]) -> float:
        pictures = measure_surface(model, dataset, input_px, SURFACE_THRESHOLD)
        return float(np.mean([picture.iou for picture in pictures]))

    return accuracy


def table(rows: Sequence[Row], measure_name: str) -> str:
    """The rows as a Markdown table; ratios are to the first row, measured in the same run."""
    lines = [
        f"| input (h×w) | format | {measure_name} | CPU ms, 1 thread | ratio | wall ms, 2 threads |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        size = f"{row.input_px[0]}×{row.input_px[1]}"
        lines.append(
            f"| {size} | {row.variant} | {row.accuracy:.3f} | {row.cpu_ms:.1f} |"
            f" {row.cpu_ms / rows[0].cpu_ms:.2f} | {row.wall_ms[2]:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Compare variants and input sizes")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("classes", help="comma-separated; `water` measures a surface")
    parser.add_argument("--variant", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument(
        "--input", type=int, nargs=2, action="append", required=True, metavar=("H", "W")
    )
    arguments = parser.parse_args()
    variants = {name: Path(file) for name, _, file in (v.partition("=") for v in arguments.variant)}
    sizes = [(height, width) for height, width in arguments.input]
    classes = arguments.classes.split(",")
    surface = (arguments.dataset / "masks").is_dir()
    accuracy = mean_iou(arguments.dataset) if surface else mean_ap50(arguments.dataset, classes)
    print(table(compare(variants, sizes, accuracy), "mean IoU" if surface else "mean AP50"))


if __name__ == "__main__":
    main()
