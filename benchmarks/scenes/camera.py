"""Camera model and exact labels: projection, silhouettes, visible boxes, YOLO lines. No Blender here.

Pixels: x to the right, y down, the picture's upper left corner is (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from benchmarks.scenes.mesh import Mesh

__all__ = [
    "FIRE_CLASSES",
    "MIN_VISIBLE",
    "VEHICLE_CLASSES",
    "Camera",
    "Label",
    "label_of",
    "mask_box",
    "numbered",
    "silhouette",
    "yolo_line",
]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

VEHICLE_CLASSES = ("person", "bicycle", "ebike", "car", "bus", "truck", "wheelchair")
FIRE_CLASSES = ("fire", "smoke")

MIN_VISIBLE = 0.25
"""Boxes of which less than this share is seen are dropped: a detector cannot be asked to find them."""
_MIN_SIDE_PX = 6
"""Smaller boxes vanish at the detector's input size."""
_NEAR_M = 0.05


@dataclass(frozen=True)
class Camera:
    """A pinhole or an equisolid-angle fisheye camera (r = 2 f sin(θ/2)), as wide CCTV lenses are."""

    location: tuple[float, float, float]
    target: tuple[float, float, float]
    hfov_deg: float
    width: int
    height: int
    lens: Literal["perspective", "equisolid"] = "perspective"
    roll_deg: float = 0.0

    @property
    def axes(self) -> Array:
        """Rows right, up, back of the camera frame, (3, 3): it looks along −back."""
        back = np.asarray(self.location, dtype=float) - np.asarray(self.target, dtype=float)
        back /= np.linalg.norm(back)
        right = np.cross([0.0, 0.0, 1.0], back)
        right /= np.linalg.norm(right)
        up = np.cross(back, right)
        roll = np.radians(self.roll_deg)
        return np.stack(
            [
                np.cos(roll) * right + np.sin(roll) * up,
                np.cos(roll) * up - np.sin(roll) * right,
                back,
            ]
        )

    @property
    def focal_px(self) -> float:
        """Focal length in pixels that gives `hfov_deg` over the width."""
        half = np.radians(self.hfov_deg) / 2
        if self.lens == "perspective":
            return float(self.width / 2 / np.tan(half))
        return float(self.width / 4 / np.sin(half / 2))

    def project(self, points: ArrayLike) -> tuple[Array, Array]:
        """World points (n, 3) → pixels (n, 2) and depth along the view axis (n,) in metres.

        A pinhole cannot see points of depth ≤ 0; their pixels are NaN. The fisheye sees behind its plane.
        """
        local = (np.asarray(points, dtype=float) - self.location) @ self.axes.T
        x, y, depth = local[:, 0], local[:, 1], -local[:, 2]
        if self.lens == "perspective":
            with np.errstate(divide="ignore", invalid="ignore"):
                scale = np.where(depth > _NEAR_M, self.focal_px / depth, np.nan)
        else:
            aside = np.hypot(x, y)
            theta = np.arctan2(aside, depth)
            scale = 2 * self.focal_px * np.sin(theta / 2) / np.maximum(aside, 1e-9)
        pixels = np.stack([self.width / 2 + x * scale, self.height / 2 - y * scale], -1)
        return pixels, depth

    def frame_box(
        self, meshes: Sequence[Mesh], margin_px: float = 0.0
    ) -> tuple[float, float, float, float]:
        """The xyxy box in pixels, not clipped, of meshes that lie before the camera; the empty box if none does."""
        found = [self.project(mesh.vertices()) for mesh in meshes]
        pixels = np.concatenate([p[depth > _NEAR_M] for p, depth in found] or [np.zeros((0, 2))])
        if not len(pixels):
            return 0.0, 0.0, 0.0, 0.0
        (x1, y1), (x2, y2) = pixels.min(axis=0) - margin_px, pixels.max(axis=0) + margin_px
        return float(x1), float(y1), float(x2), float(y2)

    def relative(self, points: ArrayLike) -> tuple[tuple[float, float], ...]:
        """World points (n, 3) as a polygon in relative coordinates, clipped to the picture."""
        pixels, _ = self.project(points)
        clipped = np.clip(pixels / [self.width, self.height], 0.0, 1.0)
        return tuple((float(x), float(y)) for x, y in clipped)


@dataclass(frozen=True)
class Label:
    """A box of a class: xyxy in pixels, the share of the thing that is seen, and where it is seen, (h, w) bool."""

    class_id: int
    xyxy: tuple[float, float, float, float]
    visible: float
    seen: Mask | None = field(default=None, compare=False)


def silhouette(mesh: Mesh, camera: Camera, *, margin: float = 0.5) -> Mask:
    """Where the mesh would be seen if nothing stood before it, on a canvas `margin` frames wider on each side.

    Returns a bool array ((1 + 2 margin) h, (1 + 2 margin) w).
    """
    dx, dy = round(camera.width * margin), round(camera.height * margin)
    canvas = Image.new("1", (camera.width + 2 * dx, camera.height + 2 * dy))
    draw = ImageDraw.Draw(canvas)
    for part in mesh.parts:
        pixels, depth = camera.project(part.vertices)
        pixels = pixels + np.array([dx, dy])
        for face in part.faces:
            index = list(face)
            if depth[index].min() > _NEAR_M:
                draw.polygon([tuple(p) for p in pixels[index]], fill=1, outline=1)
    return np.asarray(canvas)


def mask_box(mask: Mask) -> tuple[float, float, float, float] | None:
    """The tight xyxy box of a mask (h, w), right and bottom exclusive; None where the mask is empty."""
    ys, xs = np.nonzero(mask)
    if not len(xs):
        return None
    return float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)


def label_of(class_id: int, seen: Mask, mesh: Mesh, camera: Camera) -> Label | None:
    """The label of a thing whose visible pixels are `seen` (h, w), or None when too little of it is seen."""
    box = mask_box(seen)
    if box is None or box[2] - box[0] < _MIN_SIDE_PX or box[3] - box[1] < _MIN_SIDE_PX:
        return None
    whole = int(silhouette(mesh, camera).sum())
    visible = min(1.0, int(seen.sum()) / max(whole, 1))
    return Label(class_id, box, visible, seen) if visible >= MIN_VISIBLE else None


def yolo_line(label: Label, width: int, height: int) -> str:
    """`class cx cy w h`, normalised to the picture."""
    x1, y1, x2, y2 = label.xyxy
    values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return f"{label.class_id} " + " ".join(f"{v:.6f}" for v in values)


def numbered(labels: Sequence[Label], height: int, width: int) -> NDArray[np.uint8]:
    """Per pixel the number of the label (its line, from 1) whose thing is seen there, else 0; (h, w) uint8."""
    numbers = np.zeros((height, width), np.uint8)
    for number, label in enumerate(labels, 1):
        if label.seen is not None:
            numbers[label.seen] = number
    return numbers
