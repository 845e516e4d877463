"""A grid of validation pictures with what was labelled and found, for a person to look at.

`python -m models.training.gallery ONNX DATASET CLASSES OUT.jpg --input H W [--threshold T] [--wrong]`

Labels are white, right detections green, wrong ones red; a missed label has a thick white frame. Such a grid shows
the pictures of the data set: it is for looking at, not for passing on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from models.training.evaluate import Picture, add_rivals, iou_matrix, measure_asked

__all__ = ["drawn", "grid", "mistakes"]

Image = npt.NDArray[np.uint8]

TILE_PX = (240, 320)  # height and width
RIGHT_IOU = 0.5
WHITE, GREEN, RED = (255, 255, 255), (80, 200, 80), (60, 60, 230)


def _matched(
    picture: Picture, thresholds: Mapping[int, float]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which detections are right, and which labels were found, over the operating points."""
    right = np.zeros(len(picture.found), np.bool_)
    found = np.zeros(len(picture.truth), np.bool_)
    overlap = iou_matrix(picture.found[:, :4], picture.truth[:, :4])
    for row in np.argsort(-picture.found[:, 4]):
        if picture.found[row, 4] < thresholds[int(picture.found[row, 5])]:
            continue
        same = picture.truth[:, 4] == picture.found[row, 5]
        candidates = np.where(same & ~found, overlap[row], 0.0)
        if len(candidates) and candidates.max() >= RIGHT_IOU:
            right[row] = True
            found[candidates.argmax()] = True
    return right, found


def mistakes(picture: Picture, thresholds: Mapping[int, float]) -> int:
    """Wrong detections and missed labels of the completely labelled classes."""
    right, found = _matched(picture, thresholds)
    wrong = [
        not hit and row[4] >= thresholds[int(row[5])] and int(row[5]) in picture.complete
        for hit, row in zip(right, picture.found, strict=True)
    ]
    missed = [
        not hit and int(row[4]) in picture.complete
        for hit, row in zip(found, picture.truth, strict=True)
    ]
    return int(sum(wrong) + sum(missed))


def drawn(
    image: Image, picture: Picture, classes: Sequence[str], thresholds: Mapping[int, float]
) -> Image:
    """One tile: the picture with its labels and detections."""
    height, width = image.shape[:2]
    scale = min(TILE_PX[0] / height, TILE_PX[1] / width)
    tile = np.zeros((*TILE_PX, 3), np.uint8)
    small = cv2.resize(image, (int(width * scale), int(height * scale)))
    tile[: small.shape[0], : small.shape[1]] = small
    right, found = _matched(picture, thresholds)
    for row, hit in zip(picture.truth, found, strict=True):
        x1, y1, x2, y2 = (row[:4] * scale).astype(int).tolist()
        cv2.rectangle(tile, (x1, y1), (x2, y2), WHITE, 1 if hit else 3)
    for row, hit in zip(picture.found, right, strict=True):
        # What the source does not label completely can be called neither right nor wrong.
        if row[4] < thresholds[int(row[5])] or int(row[5]) not in picture.complete:
            continue
        x1, y1, x2, y2 = (row[:4] * scale).astype(int).tolist()
        color = GREEN if hit else RED
        cv2.rectangle(tile, (x1, y1), (x2, y2), color, 1)
        text = f"{classes[int(row[5])]} {row[4]:.2f}"
        cv2.putText(
            tile, text, (x1 + 2, max(10, y1 + 11)), cv2.FONT_HERSHEY_SIMPLEX, 0.38, color, 1
        )
    return tile


def grid(tiles: Sequence[Image], columns: int = 6) -> Image:
    """Tiles side by side, row by row; the rest of the last row is black."""
    blank = np.zeros_like(tiles[0])
    padded = [*tiles, *[blank] * (-len(tiles) % columns)]
    rows = [np.hstack(padded[k : k + columns]) for k in range(0, len(padded), columns)]
    return np.asarray(np.vstack(rows), np.uint8)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Draw validation pictures, right and wrong ones")
    parser.add_argument("model", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("classes", help="comma-separated, in the model's order")
    parser.add_argument("out", type=Path, help="JPEG or PNG file")
    parser.add_argument("--input", type=int, nargs=2, default=(416, 416), metavar=("H", "W"))
    parser.add_argument("--threshold", action="append", default=[], metavar="CLASS=VALUE")
    parser.add_argument("--source", help="pictures of one source alone")
    parser.add_argument("--wrong", action="store_true", help="only pictures with a mistake")
    parser.add_argument("--count", type=int, default=48)
    add_rivals(parser)
    arguments = parser.parse_args()
    classes = arguments.classes.split(",")
    given = dict(pair.split("=") for pair in arguments.threshold)
    thresholds = {k: float(given.get(name, 0.25)) for k, name in enumerate(classes)}
    pictures = measure_asked(arguments, classes)
    chosen = [p for p in pictures if not arguments.wrong or mistakes(p, thresholds)]
    chosen = chosen[:: max(1, len(chosen) // arguments.count)][: arguments.count]
    if not chosen:
        parser.exit(message="no such picture\n")
    tiles = [
        drawn(np.asarray(cv2.imread(str(p.file)), np.uint8), p, classes, thresholds) for p in chosen
    ]
    cv2.imwrite(str(arguments.out), grid(tiles))
    wrong = sum(bool(mistakes(picture, thresholds)) for picture in pictures)
    print(f"{len(chosen)} of {len(pictures)} pictures, {wrong} with a mistake")


if __name__ == "__main__":
    main()
