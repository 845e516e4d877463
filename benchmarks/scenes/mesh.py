"""A small mesh kit in numpy: the simulator's props are built here, without Blender.

Lengths are metres, angles radians, z is up. A prop's own frame has x forward, y left, and its origin on the ground.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Material",
    "Mesh",
    "Part",
    "box",
    "ellipsoid",
    "loft",
    "placement",
    "prism",
    "quad",
    "rounded_box",
    "torus",
    "tube",
    "wheel",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Material:
    """A surface: sRGB colour 0..1 and the few knobs of a principled shader that the scenes use."""

    color: tuple[float, float, float]
    roughness: float = 0.6
    metallic: float = 0.0
    emission: float = 0.0
    """Emitted radiance as a multiple of `color`; 0 for ordinary surfaces."""
    glass: float = 0.0
    """Share of light let through, 0..1."""
    pattern: str = "plain"
    """Procedural texture: plain, brushed, wood, tiles, wall_tiles, planks, bricks, speckle, asphalt, grass."""
    scale: float = 1.0
    """Size of the pattern's feature, in metres."""


@dataclass(frozen=True)
class Part:
    """One surface: vertices (n, 3) in metres, faces as vertex indices."""

    vertices: Array
    faces: tuple[tuple[int, ...], ...]
    material: Material
    smooth: bool = True


@dataclass
class Mesh:
    """A prop: parts that move together."""

    parts: list[Part] = field(default_factory=list)

    def add(self, *parts: Part) -> None:
        """Append parts."""
        self.parts.extend(parts)

    def vertices(self) -> Array:
        """All vertices, (n, 3) metres."""
        if not self.parts:
            return np.zeros((0, 3))
        return np.concatenate([part.vertices for part in self.parts])

    def moved(self, matrix: Array) -> Mesh:
        """A copy under a (4, 4) transform."""
        return Mesh(
            [
                replace(part, vertices=part.vertices @ matrix[:3, :3].T + matrix[:3, 3])
                for part in self.parts
            ]
        )

    def extend(self, other: Mesh, matrix: Array | None = None) -> None:
        """Append another mesh, optionally under a (4, 4) transform."""
        self.parts.extend((other if matrix is None else other.moved(matrix)).parts)


def placement(
    x: float = 0.0,
    y: float = 0.0,
    z: float = 0.0,
    yaw: float = 0.0,
    roll: float = 0.0,
    pitch: float = 0.0,
) -> Array:
    """A (4, 4) transform: roll about x, then pitch about y, then yaw about z, then the shift."""
    cy, sy, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll)
    cp, sp = np.cos(pitch), np.sin(pitch)
    rz = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    ry = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    rx = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    matrix = np.eye(4)
    matrix[:3, :3] = rz @ ry @ rx
    matrix[:3, 3] = x, y, z
    return matrix


def _unit(v: ArrayLike) -> Array:
    a = np.asarray(v, dtype=float)
    n = float(np.linalg.norm(a))
    return a / n if n > 1e-12 else a


def _rings(n_rings: int, n_seg: int, closed: bool, caps: bool) -> tuple[tuple[int, ...], ...]:
    faces: list[tuple[int, ...]] = []
    for i in range(n_rings if closed else n_rings - 1):
        a, b = i * n_seg, ((i + 1) % n_rings) * n_seg
        for j in range(n_seg):
            k = (j + 1) % n_seg
            faces.append((a + j, a + k, b + k, b + j))
    if caps and not closed:
        faces.append(tuple(range(n_seg - 1, -1, -1)))
        last = (n_rings - 1) * n_seg
        faces.append(tuple(range(last, last + n_seg)))
    return tuple(faces)


def tube(
    points: ArrayLike,
    radius: ArrayLike,
    material: Material,
    *,
    segments: int = 8,
    closed: bool = False,
) -> Part:
    """A round tube along a polyline (n, 3), with one radius or one per point."""
    path = np.asarray(points, dtype=float)
    n = len(path)
    radii = np.broadcast_to(np.asarray(radius, dtype=float), (n,))
    tangents = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    angle = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    reference = np.array([0.0, 0.0, 1.0])
    if abs(_unit(tangents[0])[2]) > 0.9:
        reference = np.array([0.0, 1.0, 0.0])
    rings = []
    for p, t, r in zip(path, tangents, radii, strict=True):
        t = _unit(t)
        side = _unit(np.cross(reference, t))
        normal = np.cross(t, side)
        reference = normal
        rings.append(p + r * (np.outer(np.cos(angle), side) + np.outer(np.sin(angle), normal)))
    return Part(np.concatenate(rings), _rings(n, segments, closed, True), material)


def loft(
    points: ArrayLike,
    half_width: ArrayLike,
    half_height: ArrayLike,
    material: Material,
    *,
    power: float = 2.5,
    segments: int = 16,
    smooth: bool = True,
) -> Part:
    """A body through superellipse sections whose width lies along y: `power` 2 is an ellipse, 5 nearly a box."""
    path = np.asarray(points, dtype=float)
    n = len(path)
    widths = np.broadcast_to(np.asarray(half_width, dtype=float), (n,))
    heights = np.broadcast_to(np.asarray(half_height, dtype=float), (n,))
    tangents = np.gradient(path, axis=0)
    angle = np.linspace(0, 2 * np.pi, segments, endpoint=False) + np.pi / segments
    c, s = np.cos(angle), np.sin(angle)
    u, v = np.sign(c) * np.abs(c) ** (2 / power), np.sign(s) * np.abs(s) ** (2 / power)
    side = np.array([0.0, 1.0, 0.0])
    rings = [
        p + w * np.outer(u, side) + h * np.outer(v, _unit(np.cross(t, side)))
        for p, t, w, h in zip(path, tangents, widths, heights, strict=True)
    ]
    return Part(np.concatenate(rings), _rings(n, segments, False, True), material, smooth)


def box(center: ArrayLike, size: ArrayLike, material: Material, *, yaw: float = 0.0) -> Part:
    """An upright box."""
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    rotation = placement(yaw=yaw)[:3, :3]
    vertices = (corners * np.asarray(size, dtype=float)) @ rotation.T + np.asarray(center)
    faces = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    return Part(vertices, faces, material, smooth=False)


def rounded_box(
    center: ArrayLike,
    size: ArrayLike,
    radius: float,
    material: Material,
    *,
    yaw: float = 0.0,
    pitch: float = 0.0,
    steps: int = 3,
) -> Part:
    """A box with round edges of `radius` metres."""
    half = np.asarray(size, dtype=float) / 2
    radius = min(radius, float(half.min()) * 0.99)
    # Each face is a grid whose lines crowd into the edges, so that a large face costs no more than a small one.
    line = np.tan(np.linspace(-np.pi / 4, np.pi / 4, 2 * steps))
    grid_u, grid_v = np.meshgrid(line, line, indexing="ij")
    m = len(line)
    vertices: list[Array] = []
    faces: list[tuple[int, ...]] = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            cube = np.empty((m * m, 3))
            cube[:, axis] = sign
            cube[:, (axis + 1) % 3] = sign * grid_u.ravel()
            cube[:, (axis + 2) % 3] = grid_v.ravel()
            base = len(vertices) * m * m
            vertices.append(
                np.sign(cube) * (half - radius)
                + radius * cube / np.linalg.norm(cube, axis=1)[:, None]
            )
            faces += [
                (
                    base + i * m + j,
                    base + (i + 1) * m + j,
                    base + (i + 1) * m + j + 1,
                    base + i * m + j + 1,
                )
                for i in range(m - 1)
                for j in range(m - 1)
            ]
    rotation = placement(yaw=yaw, pitch=pitch)[:3, :3]
    return Part(np.concatenate(vertices) @ rotation.T + np.asarray(center), tuple(faces), material)


def ellipsoid(
    center: ArrayLike,
    radii: ArrayLike,
    material: Material,
    *,
    pitch: float = 0.0,
    yaw: float = 0.0,
    top: float = 1.0,
    bottom: float = -1.0,
    segments: int = 14,
    rings: int = 9,
) -> Part:
    """An ellipsoid, or the slice of it between the relative heights `bottom` and `top`."""
    heights = np.sin(np.linspace(np.arcsin(bottom), np.arcsin(top), rings))
    angle = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    ring_radius = np.sqrt(np.maximum(1 - heights**2, 1e-6))
    unit = np.stack(
        [
            np.outer(ring_radius, np.cos(angle)),
            np.outer(ring_radius, np.sin(angle)),
            np.repeat(heights[:, None], segments, 1),
        ],
        -1,
    ).reshape(-1, 3)
    rotation = placement(yaw=yaw, pitch=pitch)[:3, :3]
    vertices = (unit * np.asarray(radii, dtype=float)) @ rotation.T + np.asarray(center)
    return Part(vertices, _rings(rings, segments, False, True), material)


def torus(
    center: ArrayLike, radius: float, thickness: float, material: Material, *, segments: int = 28
) -> Part:
    """A ring in the x-z plane (a wheel that rolls along x)."""
    angle = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    path = np.stack([radius * np.cos(angle), np.zeros(segments), radius * np.sin(angle)], -1)
    cross = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    radial = np.stack([np.cos(angle), np.zeros(segments), np.sin(angle)], -1)
    rings = path[:, None, :] + thickness * (
        np.cos(cross)[None, :, None] * radial[:, None, :]
        + np.sin(cross)[None, :, None] * np.array([0.0, 1.0, 0.0])
    )
    return Part(
        rings.reshape(-1, 3) + np.asarray(center), _rings(segments, 8, True, False), material
    )


def quad(corners: ArrayLike, material: Material) -> Part:
    """A four-cornered plane."""
    return Part(np.asarray(corners, dtype=float), ((0, 1, 2, 3),), material, smooth=False)


def prism(outline: ArrayLike, y: tuple[float, float], material: Material) -> Part:
    """An outline (n, 2) of x, z drawn out along y."""
    flat = np.asarray(outline, dtype=float)
    n = len(flat)
    vertices = np.concatenate(
        [np.stack([flat[:, 0], np.full(n, side), flat[:, 1]], -1) for side in y]
    )
    faces: list[tuple[int, ...]] = [(i, (i + 1) % n, n + (i + 1) % n, n + i) for i in range(n)]
    faces += [tuple(range(n - 1, -1, -1)), tuple(range(n, 2 * n))]
    return Part(vertices, tuple(faces), material, smooth=False)


def wheel(
    center: ArrayLike,
    radius: float,
    tyre: float,
    rubber: Material,
    metal: Material,
    *,
    spokes: int = 0,
    hub: float = 0.04,
) -> list[Part]:
    """A wheel that rolls along x: thin spokes, or with `spokes` 0 a disc with a thick hub."""
    c = np.asarray(center, dtype=float)
    inner = radius - 2 * tyre
    axle = np.array([0.0, max(tyre, 0.03), 0.0])
    parts = [
        torus(c, radius - tyre, tyre, rubber),
        torus(c, inner, 0.012 if spokes else 0.02, metal),
        tube([c - axle, c + axle], hub, metal, segments=10),
    ]
    if spokes:
        for i in range(spokes):
            a = 2 * np.pi * i / spokes
            end = c + inner * np.array([np.cos(a), 0, np.sin(a)])
            parts.append(
                tube([c + axle * (0.6 if i % 2 else -0.6), end], 0.0025, metal, segments=3)
            )
    else:
        for i in range(5):
            a = 2 * np.pi * i / 5
            end = c + inner * np.array([np.cos(a), 0, np.sin(a)])
            parts.append(tube([c, end], 0.016, metal, segments=6))
        disc = np.array([0.0, 0.012, 0.0])
        parts.append(tube([c - disc, c + disc], inner * 0.45, metal, segments=14))
    return parts
