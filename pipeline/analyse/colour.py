"""Colour as numbers: linear light, CIELAB, CIEDE2000, and the names people give to dirty water."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.frame import Image
from pipeline.units import Polygon

__all__ = [
    "ColourName",
    "Grid",
    "ciede2000",
    "lab_to_linear",
    "linear_to_lab",
    "name_water_colour",
    "srgb_to_linear",
]

Floats = npt.NDArray[np.float64]

# IEC 61966-2-1 (sRGB), tabulated once for the 256 levels.
_LEVELS = np.arange(256) / 255.0
_LINEAR: Floats = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)
# Linear sRGB to CIE XYZ under D65, and the white point that its rows add up to.
_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_FROM_XYZ = np.linalg.inv(_TO_XYZ)
_WHITE = _TO_XYZ.sum(axis=1)
_DELTA = 6.0 / 29.0


def srgb_to_linear(levels: npt.NDArray[np.uint8]) -> Floats:
    """Linear light 0..1 of 8-bit sRGB levels, same shape, float64 (IEC 61966-2-1)."""
    return _LINEAR[levels]


def linear_to_lab(rgb: Floats) -> Floats:
    """CIELAB (L* 0..100, a*, b*) of linear sRGB, (..., 3) float64 to (..., 3) float64; CIE 15:2004, D65.

    Values above 1 are allowed: a normalised colour may be brighter than the sensor's white.
    """
    xyz = np.maximum(rgb, 0.0) @ _TO_XYZ.T / _WHITE
    f = np.where(xyz > _DELTA**3, np.cbrt(xyz), xyz / (3 * _DELTA**2) + 4.0 / 29.0)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    lab = np.empty(f.shape)
    lab[..., 0], lab[..., 1], lab[..., 2] = 116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)
    return lab


def lab_to_linear(lab: Floats) -> Floats:
    """Linear sRGB of CIELAB, (..., 3) float64 both; the inverse of `linear_to_lab`, unclipped."""
    y = (lab[..., 0] + 16.0) / 116.0
    f = np.stack([y + lab[..., 1] / 500.0, y, y - lab[..., 2] / 200.0], axis=-1)
    xyz = np.where(f > _DELTA, f**3, 3 * _DELTA**2 * (f - 4.0 / 29.0)) * _WHITE
    return np.asarray(xyz @ _FROM_XYZ.T)


def ciede2000(first: Floats, second: Floats) -> Floats:
    """CIEDE2000 colour difference of two CIELAB arrays, (..., 3) each, result (...) float64.

    Method: G. Sharma, W. Wu, E. N. Dalal, "The CIEDE2000 color-difference formula: implementation notes,
    supplementary test data, and mathematical observations", Color Research and Application 30 (2005), with
    kL = kC = kH = 1.
    """
    l1, a1, b1 = first[..., 0], first[..., 1], first[..., 2]
    l2, a2, b2 = second[..., 0], second[..., 1], second[..., 2]
    mean_c7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    g = 0.5 * (1 - np.sqrt(mean_c7 / (mean_c7 + 25.0**7)))
    a1, a2 = a1 * (1 + g), a2 * (1 + g)
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360

    grey = c1 * c2 == 0
    dh = np.where(grey, 0.0, (h2 - h1 + 180) % 360 - 180)
    d_hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(dh / 2))
    far = np.abs(h1 - h2) > 180
    mean_h = (h1 + h2) / 2 + np.where(far, np.where(h1 + h2 < 360, 180.0, -180.0), 0.0)
    mean_h = np.where(grey, h1 + h2, mean_h)
    mean_l, mean_c = (l1 + l2) / 2, (c1 + c2) / 2

    t = (
        1
        - 0.17 * np.cos(np.radians(mean_h - 30))
        + 0.24 * np.cos(np.radians(2 * mean_h))
        + 0.32 * np.cos(np.radians(3 * mean_h + 6))
        - 0.20 * np.cos(np.radians(4 * mean_h - 63))
    )
    s_l = 1 + 0.015 * (mean_l - 50) ** 2 / np.sqrt(20 + (mean_l - 50) ** 2)
    s_c, s_h = 1 + 0.045 * mean_c, 1 + 0.015 * mean_c * t
    rotation = 2 * np.sqrt(mean_c**7 / (mean_c**7 + 25.0**7))
    r_t = -np.sin(np.radians(60 * np.exp(-(((mean_h - 275) / 25) ** 2)))) * rotation
    dl, dc, dh = (l2 - l1) / s_l, (c2 - c1) / s_c, d_hue / s_h
    return np.asarray(np.sqrt(np.maximum(dl**2 + dc**2 + dh**2 + r_t * dc * dh, 0.0)))


@dataclass(frozen=True, slots=True)
class ColourName:
    """A colour's identifier and its names for people."""

    id: str
    zh: str
    en: str


_BLACK = ColourName("black", "黑色", "black")
_WHITE_NAME = ColourName("milky_white", "乳白色", "milky white")
_GREY = ColourName("grey", "灰色", "grey")
# By CIELAB hue angle in degrees, each up to the angle given.
_HUES: tuple[tuple[float, ColourName], ...] = (
    (15.0, ColourName("red", "红色", "red")),
    (58.0, ColourName("rust_red", "锈红色", "rust-red")),
    (103.0, ColourName("mud_yellow", "泥黄色", "mud yellow")),
    (170.0, ColourName("green", "绿色", "green")),
    (225.0, ColourName("blue_green", "蓝绿色", "blue-green")),
    (305.0, ColourName("dye_blue", "蓝色", "blue")),
    (345.0, ColourName("purple", "紫色", "purple")),
    (360.0, ColourName("red", "红色", "red")),
)
_GREYISH = 9.0  # below this C*ab people call a patch of water grey, black or white
_DARKER = 8.0  # a change of L* that people see at once


def name_water_colour(lab: Floats, normal: Floats) -> ColourName:
    """The name of a water's colour, from its CIELAB (3,) and the CIELAB (3,) that it normally has.

    Hue names where there is chroma; otherwise black, milky white or grey by whether it became darker or lighter.
    """
    chroma = float(np.hypot(lab[1], lab[2]))
    if lab[0] < 16.0 or (chroma < _GREYISH and lab[0] < normal[0] - _DARKER):
        return _BLACK
    if chroma < _GREYISH:
        return _WHITE_NAME if lab[0] > normal[0] + _DARKER else _GREY
    hue = float(np.degrees(np.arctan2(lab[2], lab[1])) % 360)
    return next(name for limit, name in _HUES if hue <= limit)


class Grid:
    """Cells over a region of the picture, each read as one robust colour.

    The region's bounding box is cut into `rows` x `cols` cells; those that lie in the region to at least
    `_COVER` count. A cell's colour is the median over its pixels, so that glints, ripples and drops, which are
    few and bright, leave it alone.

    Args:
        inside: Polygons of the region in relative coordinates; empty for the whole picture.
        outside: Polygons cut out of it.
        rows: Cells downwards.
        cols: Cells across.

    Attributes:
        index: (n,) int64, row * cols + col of each counted cell.
        cover: (n,) float64, share of each counted cell that lies in the region, 0..1.
        box: x1, y1, x2, y2 of the bounding box in relative coordinates.
    """

    _SIDE = 10  # samples across a cell: 100 a cell make a steady median at little cost
    _COVER = 0.3

    def __init__(
        self,
        inside: tuple[Polygon, ...],
        outside: tuple[Polygon, ...] = (),
        *,
        rows: int,
        cols: int,
    ) -> None:
        self.rows, self.cols = rows, cols
        points = np.array([point for polygon in inside for point in polygon] or [(0, 0), (1, 1)])
        (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
        self.box = (float(x1), float(y1), float(x2), float(y2))
        height, width = rows * self._SIDE, cols * self._SIDE
        mask = np.zeros((height, width), np.uint8) if inside else np.ones((height, width), np.uint8)
        for polygons, value in ((inside, 1), (outside, 0)):
            for polygon in polygons:
                scaled = (np.array(polygon) - (x1, y1)) / (x2 - x1, y2 - y1) * (width, height)
                cv2.fillPoly(mask, [np.round(scaled - 0.5).astype(np.int32)], value)
        cells = self._cells(mask[:, :, None])[:, :, 0].astype(bool)
        cover = cells.mean(axis=1)
        self.index: npt.NDArray[np.int64] = np.flatnonzero(cover >= self._COVER)
        self.cover: Floats = cover[self.index]
        self._valid: npt.NDArray[np.bool_] = cells[self.index]

    def __len__(self) -> int:
        return len(self.index)

    def _cells(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        side, channels = self._SIDE, picture.shape[2]
        blocks = picture.reshape(self.rows, side, self.cols, side, channels)
        return blocks.transpose(0, 2, 1, 3, 4).reshape(-1, side * side, channels)

    def _crop(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        height, width = image.shape[:2]
        left, top = int(self.box[0] * width), int(self.box[1] * height)
        right, bottom = round(self.box[2] * width), round(self.box[3] * height)
        crop = image[top : max(bottom, top + 1), left : max(right, left + 1)]
        size = (self.cols * self._SIDE, self.rows * self._SIDE)
        return np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), np.uint8)

    def sample(self, image: Image) -> tuple[Floats, Floats]:
        """Each cell's colour and roughness.

        Args:
            image: (h, w, 3) uint8 BGR.

        Returns:
            (n, 3) float64 linear RGB medians; and (n,) float64 interquartile range of the green level, 0..255.
        """
        return self.colours(self.levels(image))

    def levels(self, image: Image) -> npt.NDArray[np.uint8]:
        """Each cell's median blue, green and red and the interquartile range of its green: (n, 4) uint8."""
        values = self._cells(self._crop(image))[self.index].astype(np.int16)
        values[~self._valid] = 255 + 1  # sorts behind every level
        values.sort(axis=1)
        count = self._valid.sum(axis=1)

        def quantile(share: float) -> npt.NDArray[np.int16]:
            rank = (count - 1) * share
            return np.take_along_axis(values, rank.astype(np.int64)[:, None, None], axis=1)[:, 0]

        spread = (quantile(0.75) - quantile(0.25))[:, 1:2]
        return np.concatenate([quantile(0.5), spread], axis=1).astype(np.uint8)

    @staticmethod
    def colours(levels: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """The same of what `levels` gave."""
        return srgb_to_linear(levels[:, 2::-1]), levels[:, 3].astype(np.float64)
