"""Measure an exported segmentation model: IoU of the union of its masks with the labelled surface.

`python -m models.training.surface ONNX DATASET --input H W`
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from models.training.evaluate import bootstrap, letterbox, open_session, read_part
from models.training.masks import Mask, read_mask

__all__ = ["SurfacePicture", "find_surface", "measure_surface", "report_surface"]

MAX_DETECTIONS = 50  # per picture; a river comes in a handful of pieces
NMS_IOU = 0.7


@dataclass(frozen=True)
class SurfacePicture:
    """One measured picture: pixels in both, in either, and which were found at all."""

    both: int
    either: int
    source: str
    group: str
    file: Path

    @property
    def iou(self) -> float:
        """Intersection over union; 1 where there is nothing to find and nothing was found."""
        return self.both / self.either if self.either else 1.0


def find_surface(
    session: onnxruntime.InferenceSession,
    image: npt.NDArray[np.uint8],
    input_px: tuple[int, int],
    threshold: float,
) -> Mask:
    """The union of the masks of all instances over `threshold`, (height, width) of the BGR picture."""
    height, width = image.shape[:2]
    blob, scale, (left, top) = letterbox(image, input_px)
    raw, protos = session.run(None, {session.get_inputs()[0].name: blob})
    raw, protos = raw[0], protos[0]  # (4 + 1 + 32, anchors), (32, h, w)
    anchors = np.flatnonzero(raw[4] >= threshold)
    boxes = np.hstack([raw[:2, anchors].T - raw[2:4, anchors].T / 2, raw[2:4, anchors].T])
    kept = cv2.dnn.NMSBoxes(boxes.tolist(), raw[4, anchors].tolist(), threshold, NMS_IOU)
    union = np.zeros(blob.shape[2:], np.bool_)
    for index in np.asarray(kept, np.int64).reshape(-1)[:MAX_DETECTIONS]:
        logits = np.tensordot(raw[5:, anchors[index]], protos, axes=1).astype(np.float32)
        full = cv2.resize(logits, (blob.shape[3], blob.shape[2]), interpolation=cv2.INTER_LINEAR)
        x, y, w, h = boxes[index]
        rows = slice(max(0, round(y)), max(0, round(y + h)))
        columns = slice(max(0, round(x)), max(0, round(x + w)))
        union[rows, columns] |= full[rows, columns] > 0
    inner = union[top : top + round(height * scale), left : left + round(width * scale)]
    sized = cv2.resize(inner.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(sized, np.bool_)


def measure_surface(
    model: Path, dataset: Path, input_px: tuple[int, int], threshold: float, split: str = "val"
) -> list[SurfacePicture]:
    """Run the model over one part of an assembled data set."""
    session = open_session(model)
    pictures = []
    for row, path, image in read_part(dataset, split):
        found = find_surface(session, image, input_px, threshold)
        truth = read_mask(dataset / "masks" / split / f"{path.stem}.png")
        both, either = int((found & truth).sum()), int((found | truth).sum())
        pictures.append(SurfacePicture(both, either, row["source"], row["group"], path))
    return pictures


def report_surface(pictures: Sequence[SurfacePicture]) -> dict[str, Any]:
    """Per source the mean IoU of pictures, that of cameras, bootstrap intervals over cameras, and the worst."""
    figures: dict[str, Any] = {"pictures": len(pictures), "sources": {}}
    for source in sorted({picture.source for picture in pictures}):
        part = [picture for picture in pictures if picture.source == source]
        groups = [picture.group for picture in part]

        def mean(drawn: Sequence[int], part: Sequence[SurfacePicture] = part) -> float:
            return float(np.mean([part[index].iou for index in drawn]))

        sizes = Counter(groups)

        def mean_of_cameras(
            drawn: Sequence[int],
            part: Sequence[SurfacePicture] = part,
            sizes: Mapping[str, int] = sizes,
        ) -> float:
            shares = [1 / sizes[part[index].group] for index in drawn]
            return float(np.average([part[index].iou for index in drawn], weights=shares))

        values = [picture.iou for picture in part]
        figures["sources"][source] = {
            "pictures": len(part),
            "cameras": len(set(groups)),
            "iou": mean(range(len(part))),
            "iou_interval": bootstrap(groups, mean, 2000),
            "cameras_iou": mean_of_cameras(range(len(part))),
            "cameras_iou_interval": bootstrap(groups, mean_of_cameras, 2000),
            "median": float(np.median(values)),
            "over_0.9": sum(value >= 0.9 for value in values),
            "lowest": [
                [picture.file.name, round(picture.iou, 3)]
                for picture in sorted(part, key=lambda picture: picture.iou)[:5]
            ],
        }
    return figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Measure a segmentation model")
    parser.add_argument("model", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--input", type=int, nargs=2, default=(320, 320), metavar=("H", "W"))
    parser.add_argument("--threshold", type=float, default=0.25)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    input_px = (arguments.input[0], arguments.input[1])
    pictures = measure_surface(arguments.model, arguments.dataset, input_px, arguments.threshold)
    text = json.dumps(report_surface(pictures), indent=1)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
