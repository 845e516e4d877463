"""Measure an exported model on the validation part of an assembled data set.

What is measured is what is shipped: the ONNX file in ONNX Runtime. A class is measured only on
pictures in which it is completely labelled.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
from scipy import stats  # type: ignore[import-untyped,unused-ignore]

__all__ = [
    "Picture",
    "add_rivals",
    "average_precision",
    "bootstrap",
    "detect",
    "exact_interval",
    "image_level",
    "iou_matrix",
    "letterbox",
    "measure",
    "measure_asked",
    "open_session",
    "read_part",
    "report",
]

Floats = npt.NDArray[np.float32]

MIN_CONFIDENCE = 0.01  # below, a box changes neither AP nor any operating point
NMS_IOU = 0.6
RIVAL_IOU = 0.5  # as at run time
STRIDE_PX = 32
PAD = 114  # grey of the letterbox in training
IOU_STEPS = np.linspace(0.5, 0.95, 10)
RESAMPLES = (
    200  # each repeats the whole AP; the ends of the interval then wander by about a hundredth
)
CONFIDENCE = 0.95
SEED = 20260101


@dataclass(frozen=True)
class Picture:
    """One measured picture.

    Attributes:
        found: detections (n, 6): xyxy in pixels, confidence, class id.
        truth: labels (m, 5): xyxy in pixels, class id.
        complete: class ids that are completely labelled.
        group: pictures of one group are near-copies (one camera, one video).
        file: where the picture lies.
    """

    found: Floats
    truth: Floats
    complete: frozenset[int]
    group: str = ""
    file: Path = Path()


def iou_matrix(a: Floats, b: Floats) -> Floats:
    """IoU of every box in `a` (n, 4) with every box in `b` (m, 4), xyxy → (n, m)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(axis=2)
    area_a = (a[:, 2:] - a[:, :2]).prod(axis=1)
    area_b = (b[:, 2:] - b[:, :2]).prod(axis=1)
    return np.asarray(both / (area_a[:, None] + area_b[None] - both + 1e-9), np.float32)


def letterbox(
    image: npt.NDArray[np.uint8], input_px: tuple[int, int]
) -> tuple[Floats, float, tuple[int, int]]:
    """A BGR picture as network input (1, 3, height, width), the scale, and the margin (left, top) in px.

    As at run time: the least rectangle of whole strides that holds the picture scaled into `input_px` (height, width).
    """
    height, width = image.shape[:2]
    scale = min(input_px[0] / height, input_px[1] / width)
    size = (round(width * scale), round(height * scale))
    rest_y, rest_x = (input_px[0] - size[1]) % STRIDE_PX, (input_px[1] - size[0]) % STRIDE_PX
    canvas = np.full((size[1] + rest_y, size[0] + rest_x, 3), PAD, np.uint8)
    top, left = rest_y // 2, rest_x // 2
    canvas[top : top + size[1], left : left + size[0]] = cv2.resize(image, size)
    blob = canvas[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255
    return np.ascontiguousarray(blob), scale, (left, top)


def open_session(model: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """The model in ONNX Runtime on `threads` CPU threads that do not spin."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def detect(
    session: onnxruntime.InferenceSession,
    image: npt.NDArray[np.uint8],
    input_px: tuple[int, int],
    classes: int,
    rivals: Mapping[int, Sequence[int]] | None = None,
) -> Floats:
    """Detections (n, 6) of a BGR picture: fit into `input_px` (height, width), infer, NMS per class.

    A class with `rivals` is lowered by their highest score at the same place, as at run time.
    """
    blob, scale, (left, top) = letterbox(image, input_px)
    name = session.get_inputs()[0].name
    raw = session.run(None, {name: blob})[0][0]  # (4 + classes, anchors)
    scores = raw[4 : 4 + classes]
    anchors = np.flatnonzero(scores.max(axis=0) > MIN_CONFIDENCE)
    class_ids = scores[:, anchors].argmax(axis=0)  # one class per box, as at run time
    confidences = scores[class_ids, anchors]
    centres, sizes = raw[:2, anchors].T, raw[2:4, anchors].T
    boxes = np.hstack([centres - sizes / 2, centres + sizes / 2])
    boxes = ((boxes - [left, top, left, top]) / scale).astype(np.float32)
    kept = cv2.dnn.NMSBoxesBatched(
        np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).tolist(),
        confidences.tolist(),
        class_ids.tolist(),
        MIN_CONFIDENCE,
        NMS_IOU,
    )
    index = np.asarray(kept, np.int64).reshape(-1)
    for class_id, others in (rivals or {}).items():
        mine = index[class_ids[index] == class_id]
        there = iou_matrix(boxes[mine], boxes) > RIVAL_IOU
        rival = np.where(there, scores[list(others)][:, anchors].max(axis=0), 0)
        confidences[mine] *= 1 - rival.max(axis=1, initial=0)
    return np.column_stack([boxes[index], confidences[index], class_ids[index]]).astype(np.float32)


@dataclass(frozen=True)
class _Hits:
    """What one picture adds to the AP of one class: confidences (n,), hits (n, IoU steps), number of labels."""

    confidences: Floats
    hits: npt.NDArray[np.bool_]
    total: int


def average_precision(pictures: Sequence[Picture], class_id: int) -> tuple[float, float, int]:
    """AP50, AP50-95 (COCO's 101-point interpolation) and the number of labelled boxes of one class."""
    return _ap([_hits(picture, class_id) for picture in pictures if class_id in picture.complete])


def _hits(picture: Picture, class_id: int) -> _Hits:
    found = picture.found[picture.found[:, 5] == class_id]
    truth = picture.truth[picture.truth[:, 4] == class_id]
    found = found[np.argsort(-found[:, 4])]
    overlap = iou_matrix(found[:, :4], truth[:, :4])
    hit = np.zeros((len(found), len(IOU_STEPS)), np.bool_)
    for step, minimum in enumerate(IOU_STEPS):
        free = np.ones(len(truth), np.bool_)
        for row in range(len(found)):
            candidates = np.where(free, overlap[row], 0.0)
            if len(truth) and candidates.max() >= minimum:
                free[candidates.argmax()] = False
                hit[row, step] = True
    return _Hits(found[:, 4], hit, len(truth))


def _ap(parts: Sequence[_Hits]) -> tuple[float, float, int]:
    total = sum(part.total for part in parts)
    if total == 0:
        return float("nan"), float("nan"), 0
    confidences = np.concatenate([part.confidences for part in parts])
    if not len(confidences):
        return 0.0, 0.0, total
    ordered = np.concatenate([part.hits for part in parts])[np.argsort(-confidences, kind="stable")]
    values = [_area(ordered[:, step], total) for step in range(len(IOU_STEPS))]
    return values[0], float(np.mean(values)), total


def bootstrap(
    groups: Sequence[str], statistic: Callable[[Sequence[int]], float], rounds: int = RESAMPLES
) -> tuple[float, float]:
    """Percentile interval of a statistic when whole groups are drawn again (Efron 1979).

    Args:
        groups: The group of each picture.
        statistic: Indices of the drawn pictures → value; NaN where the draw holds nothing to measure.
        rounds: How often to draw.

    Returns:
        Lower and upper end; NaN if there is but one group, which says nothing about others.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    names = list(members)
    if len(names) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(SEED)
    values = []
    for _ in range(rounds):
        drawn = rng.integers(len(names), size=len(names))
        values.append(statistic([index for k in drawn for index in members[names[k]]]))
    finite = np.array([value for value in values if np.isfinite(value)])
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def exact_interval(true: int, total: int) -> tuple[float, float]:
    """Two-sided exact interval of a share (Clopper and Pearson, Biometrika 1934)."""
    if total == 0:
        return 0.0, 1.0
    interval = stats.binomtest(true, total).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


def _area(hit: npt.NDArray[np.bool_], total: int) -> float:
    true = np.cumsum(hit)
    recall = true / total
    precision = np.maximum.accumulate((true / np.arange(1, len(hit) + 1))[::-1])[::-1]
    points = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    padded = np.append(precision, 0.0)
    return float(padded[np.minimum(points, len(precision))].mean())


def image_level(
    pictures: Sequence[Picture], class_id: int, threshold: float
) -> dict[str, float | int]:
    """Is the class in the picture? Counts, precision and recall at one confidence threshold."""
    true = false = positives = negatives = 0
    for picture in pictures:
        there = bool((picture.truth[:, 4] == class_id).any())
        if not there and class_id not in picture.complete:
            continue
        seen = (picture.found[:, 5] == class_id) & (picture.found[:, 4] >= threshold)
        positives += there
        negatives += not there
        true += bool(there and seen.any())
        false += bool(not there and seen.any())
    return {
        "threshold": threshold,
        "positives": positives,
        "negatives": negatives,
        "true": true,
        "false": false,
        "precision": true / (true + false) if true + false else float("nan"),
        "recall": true / positives if positives else float("nan"),
    }


def measure(
    model: Path,
    dataset: Path,
    classes: Sequence[str],
    input_px: tuple[int, int],
    *,
    source: str | None = None,
    split: str = "val",
    rivals: Mapping[str, Sequence[str]] | None = None,
) -> list[Picture]:
    """Run the model over one part of the data set (of one `source`, if given); `rivals` by name, as in a manifest."""
    numbers = {
        classes.index(name): [classes.index(rival) for rival in others]
        for name, others in (rivals or {}).items()
    }
    session = open_session(model)
    pictures = []
    for row, path, image in read_part(dataset, split, source):
        complete = frozenset(classes.index(name) for name in row["complete"].split())
        truth = _truth(dataset / "labels" / split / f"{path.stem}.txt", image.shape)
        found = detect(session, image, input_px, len(classes), numbers)
        pictures.append(Picture(found, truth, complete, row["group"], path))
    return pictures


def read_part(
    dataset: Path, split: str, source: str | None = None
) -> Iterator[tuple[dict[str, str], Path, npt.NDArray[np.uint8]]]:
    """Row of `items.csv`, file and picture (h, w, 3) uint8 BGR of one part of a data set, of one `source` if given.

    Raises:
        ValueError: if a picture cannot be read.
    """
    with (dataset / "items.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == split]
    for row in rows:
        if source is not None and row["source"] != source:
            continue
        path = dataset / "images" / split / f"{int(row['number']):05d}_{row['picture']}"
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"{path}: found no readable picture")
        yield row, path, np.asarray(image, np.uint8)


def _truth(path: Path, shape: tuple[int, ...]) -> Floats:
    rows = np.array(
        [line.split() for line in path.read_text(encoding="utf-8").splitlines()], np.float32
    ).reshape(-1, 5)
    size = np.array([shape[1], shape[0]], np.float32)
    centre, extent = rows[:, 1:3] * size, rows[:, 3:5] * size
    return np.hstack([centre - extent / 2, centre + extent / 2, rows[:, :1]])


def report(
    pictures: Sequence[Picture],
    classes: Sequence[str],
    thresholds: Mapping[str, float] | None = None,
    *,
    rounds: int = RESAMPLES,
) -> dict[str, Any]:
    """Figures of every class, with intervals: what the card and the choice of thresholds are made from."""
    figures: dict[str, Any] = {"pictures": len(pictures), "classes": {}}
    for class_id, name in enumerate(classes):
        measured = [picture for picture in pictures if class_id in picture.complete]
        parts = [_hits(picture, class_id) for picture in measured]
        ap50, ap, boxes = _ap(parts)
        groups = [picture.group for picture in measured]

        def again(drawn: Sequence[int], parts: Sequence[_Hits] = parts) -> float:
            return _ap([parts[index] for index in drawn])[0]

        steps = [step / 20 for step in range(2, 19)]
        figures["classes"][name] = {
            "boxes": boxes,
            "ap50": ap50,
            "ap50_95": ap,
            "ap50_interval": bootstrap(groups, again, rounds) if boxes and rounds else None,
            "levels": [image_level(pictures, class_id, step) for step in steps],
        }
        if thresholds is not None:
            point = image_level(pictures, class_id, thresholds[name])
            seen, alarms = int(point["true"]), int(point["true"] + point["false"])
            figures["classes"][name]["operating_point"] = point | {
                "recall_interval": exact_interval(seen, int(point["positives"])),
                "precision_interval": exact_interval(seen, alarms),
            }
    return figures


def add_rivals(parser: argparse.ArgumentParser) -> None:
    """The option `--rival CLASS=RIVAL`, for `read_rivals`."""
    parser.add_argument(
        "--rival", action="append", default=[], metavar="CLASS=RIVAL", help="as in the manifest"
    )


def read_rivals(options: Sequence[str]) -> dict[str, list[str]]:
    """`CLASS=RIVAL` options as class → rivals."""
    rivals: dict[str, list[str]] = {}
    for name, _, rival in (option.partition("=") for option in options):
        rivals.setdefault(name, []).append(rival)
    return rivals


def measure_asked(arguments: argparse.Namespace, classes: Sequence[str]) -> list[Picture]:
    """What `measure` finds with the arguments `model`, `dataset`, `input`, `source` and `rival` of a command line."""
    return measure(
        arguments.model,
        arguments.dataset,
        classes,
        (arguments.input[0], arguments.input[1]),
        source=arguments.source,
        rivals=read_rivals(arguments.rival),
    )


def main() -> None:
    """`python -m models.training.evaluate ONNX DATASET CLASSES --input H W [--source S]`."""
    parser = argparse.ArgumentParser(description="Measure an exported model")
    parser.add_argument("model", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("classes", help="comma-separated, in the model's order")
    parser.add_argument("--input", type=int, nargs=2, default=(320, 320), metavar=("H", "W"))
    parser.add_argument("--source", help="measure the pictures of one source alone")
    parser.add_argument("--json", type=Path, help="write the figures here")
    add_rivals(parser)
    arguments = parser.parse_args()
    classes = arguments.classes.split(",")
    pictures = measure_asked(arguments, classes)
    figures = report(pictures, classes) | {"input_px": list(arguments.input)}
    for name, figure in figures["classes"].items():
        print(
            f"{name}: {figure['boxes']} boxes, AP50 {figure['ap50']:.3f} {figure['ap50_interval']},"
            f" AP50-95 {figure['ap50_95']:.3f}"
        )
        for level in figure["levels"]:
            print(
                f"  {level['threshold']:.2f}: precision {level['precision']:.3f}, recall"
                f" {level['recall']:.3f} ({level['true']} of {level['positives']} seen,"
                f" {level['false']} of {level['negatives']} false)"
            )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
