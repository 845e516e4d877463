"""Procedural mannequins: a pose is hip, feet and hands; knees and elbows follow by two-bone inverse kinematics.

Body proportions are those of Drillis and Contini's table of segment lengths as fractions of body height.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.scenes import palette
from benchmarks.scenes.mesh import Material, Mesh, ellipsoid, loft, rounded_box, tube

__all__ = ["Look", "Pose", "person", "riding", "sitting", "standing", "two_bone", "walking"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Look:
    """What a person looks like; drawn once so that every frame of a clip shows the same person."""

    height: float
    girth: float
    top: Material
    bottom: Material
    shoes: Material
    skin: Material
    hair: Material
    coat: float
    """How far the upper garment hangs below the hip, metres."""
    long_hair: bool
    skirt: bool
    cap: Material | None
    helmet: Material | None
    backpack: Material | None
    mask: bool

    @classmethod
    def draw(cls, rng: np.random.Generator, *, child: bool = False, helmet: bool = False) -> Look:
        """A random adult, or a child of 4 to 10 years."""
        height = rng.uniform(1.02, 1.38) if child else rng.normal(1.67, 0.07)
        return cls(
            height=float(height),
            girth=float(rng.uniform(0.9, 1.2)),
            top=palette.cloth(rng),
            bottom=palette.cloth(rng),
            shoes=palette.cloth(rng),
            skin=palette.skin(rng),
            hair=palette.hair(rng),
            coat=float(rng.choice([0.03, 0.1, 0.3], p=[0.5, 0.35, 0.15])) * float(height) / 1.67,
            long_hair=bool(rng.random() < 0.4),
            skirt=bool(rng.random() < 0.12),
            cap=palette.cloth(rng) if rng.random() < 0.2 else None,
            helmet=palette.paint(rng) if helmet else None,
            backpack=palette.cloth(rng) if rng.random() < 0.2 else None,
            mask=bool(rng.random() < 0.25),
        )


@dataclass(frozen=True)
class Pose:
    """Joint targets in the person's own frame (x forward, metres); the ground is z = 0."""

    hip: Array
    lean: float
    """Forward lean of the trunk, radians."""
    feet: Array
    """Left and right ankle, (2, 3)."""
    hands: Array
    """Left and right hand, (2, 3)."""
    head_yaw: float = 0.0
    head_pitch: float = 0.0


def two_bone(
    root: ArrayLike, target: ArrayLike, upper: float, lower: float, bend: ArrayLike
) -> tuple[Array, Array]:
    """The middle joint and the reached end of a two-bone limb that bends towards `bend`.

    A target out of reach is pulled onto the line to it, so both bones keep their lengths.
    """
    a, b = np.asarray(root, dtype=float), np.asarray(target, dtype=float)
    reach = b - a
    distance = float(
        np.clip(np.linalg.norm(reach), abs(upper - lower) + 1e-4, upper + lower - 1e-4)
    )
    # A target at the root has no direction: fold the limb downwards.
    direction = (
        reach / np.linalg.norm(reach)
        if np.linalg.norm(reach) > 1e-9
        else np.array([0.0, 0.0, -1.0])
    )
    along = (upper**2 - lower**2 + distance**2) / (2 * distance)
    aside = float(np.sqrt(max(upper**2 - along**2, 0.0)))
    hint = np.asarray(bend, dtype=float)
    normal = hint - direction * float(hint @ direction)
    length = float(np.linalg.norm(normal))
    if length < 1e-6:
        normal = np.cross(direction, np.eye(3)[np.argmin(np.abs(direction))])
        length = float(np.linalg.norm(normal))
    return a + direction * along + normal / length * aside, a + direction * distance


def standing(rng: np.random.Generator, look: Look) -> Pose:
    """At rest: arms down, on the hip, at a phone or at the lift's buttons."""
    h = look.height
    width = 0.055 * h
    hands = np.array(
        [[0.03 * h, 0.14 * h, 0.44 * h], [0.03 * h, -0.14 * h, 0.44 * h]]
    ) + rng.normal(0, 0.02, (2, 3))
    kind = rng.random()
    if kind < 0.3:  # looks at a phone
        hands[1] = [0.22 * h, -0.03 * h, 0.68 * h]
        if rng.random() < 0.4:
            hands[0] = [0.21 * h, 0.03 * h, 0.67 * h]
    elif kind < 0.42:  # presses a button
        hands[1] = [0.36 * h, -0.1 * h, 0.72 * h]
    elif kind < 0.52:  # hands behind
        hands[:, 0] = -0.08 * h
        hands[:, 1] *= 0.3
    feet = np.array(
        [[rng.normal(0, 0.05), width, 0.045 * h], [rng.normal(0, 0.05), -width, 0.045 * h]]
    )
    return Pose(
        np.array([0, 0, 0.515 * h]),
        float(rng.normal(0.04, 0.05)),
        feet,
        hands,
        float(rng.normal(0, 0.35)),
        0.45 if kind < 0.3 else float(rng.normal(0.05, 0.15)),
    )


def walking(look: Look, phase: float, *, stride: float = 0.66, hands: Array | None = None) -> Pose:
    """A step of a walk at `phase` in cycles; `stride` is the step length in metres at 1.67 m body height."""
    h = look.height
    s = stride * h / 1.67 / 2
    feet = np.empty((2, 3))
    for i, (side, shift) in enumerate(((1, 0.0), (-1, 0.5))):
        p = (phase + shift) % 1.0
        if p < 0.6:  # on the ground, carried backwards under the body
            x, z = s * (1 - 2 * p / 0.6), 0.0
        else:
            q = (p - 0.6) / 0.4
            x, z = s * (2 * q - 1), 0.09 * h * float(np.sin(np.pi * q))
        feet[i] = x, side * 0.045 * h, 0.045 * h + z
    swing = np.cos(2 * np.pi * phase) * 0.16 * h
    free = np.array([[0.03 - swing, 0.14 * h, 0.46 * h], [0.03 + swing, -0.14 * h, 0.46 * h]])
    hip = np.array([0, 0, 0.505 * h + 0.012 * h * np.cos(4 * np.pi * phase)])
    return Pose(hip, 0.07 if hands is None else 0.16, feet, free if hands is None else hands)


def sitting(look: Look, seat_z: float, hands: Array | None = None) -> Pose:
    """On a chair whose seat is `seat_z` metres high."""
    h = look.height
    feet = np.array(
        [[0.26 * h, 0.06 * h, seat_z - 0.21 * h], [0.26 * h, -0.06 * h, seat_z - 0.21 * h]]
    )
    lap = np.array(
        [[0.17 * h, 0.08 * h, seat_z + 0.11 * h], [0.17 * h, -0.08 * h, seat_z + 0.11 * h]]
    )
    return Pose(np.array([0, 0, seat_z + 0.05 * h]), 0.02, feet, lap if hands is None else hands)


def riding(look: Look, seat: Array, feet: Array, grips: Array) -> Pose:
    """On a two-wheeler, in the two-wheeler's frame."""
    lean = float(np.clip((grips[:, 0].mean() - seat[0]) * 0.25, 0.02, 0.4))
    return Pose(
        seat + np.array([0, 0, 0.05 * look.height]), lean, feet + np.array([0, 0, 0.05]), grips
    )


def person(look: Look, pose: Pose) -> Mesh:
    """The posed mannequin."""
    h, girth = look.height, look.girth
    mesh = Mesh()
    up = np.array([np.sin(pose.lean), 0, np.cos(pose.lean)])
    forward = np.array([np.cos(pose.lean), 0, -np.sin(pose.lean)])
    hip = pose.hip
    neck = hip + up * 0.3 * h
    # Trunk: pelvis, waist, chest, shoulders. The path runs upwards, so width lies along y.
    mesh.add(
        loft(
            [
                hip - up * 0.05 * h,
                hip + up * 0.02 * h,
                hip + up * 0.11 * h,
                hip + up * 0.2 * h,
                hip + up * 0.27 * h,
                neck,
            ],
            np.array([0.085, 0.1, 0.092, 0.105, 0.108, 0.045]) * h * girth,
            np.array([0.06, 0.07, 0.062, 0.07, 0.058, 0.03]) * h * girth,
            look.top,
            power=2.4,
        )
    )
    if look.coat > 0.05 or look.skirt:
        length = max(look.coat, 0.22 * h if look.skirt else 0.0)
        knee = (pose.feet.mean(axis=0) - hip) * 0.35
        drop = hip + np.array([knee[0], 0, -length])
        mesh.add(
            loft(
                [hip + up * 0.05 * h, hip - up * 0.02 * h, drop],
                np.array([0.1, 0.11, 0.125]) * h * girth,
                np.array([0.07, 0.08, 0.1]) * h * girth,
                look.top,
                power=2.3,
            )
        )
    for i, side in enumerate((1, -1)):
        root = hip + np.array([0, side * 0.05 * h, -0.01 * h])
        knee, ankle = two_bone(root, pose.feet[i], 0.245 * h, 0.235 * h, forward)
        mesh.add(
            tube(
                [root, (root + knee) / 2, knee, (knee + ankle) / 2, ankle],
                np.array([0.058, 0.052, 0.038, 0.036, 0.027]) * h * girth,
                look.bottom,
                segments=10,
            )
        )
        toe = np.array([0.055 * h, side * 0.008 * h, -0.022 * h])
        mesh.add(rounded_box(ankle + toe, (0.155 * h, 0.058 * h, 0.045 * h), 0.02 * h, look.shoes))
        shoulder = hip + up * 0.265 * h + np.array([0, side * 0.115 * h * girth, 0])
        elbow, hand = two_bone(
            shoulder, pose.hands[i], 0.175 * h, 0.175 * h, [-0.7, side * 0.5, -0.5]
        )
        mesh.add(
            tube(
                [shoulder - [0, side * 0.03 * h, 0], shoulder, (shoulder + elbow) / 2, elbow, hand],
                np.array([0.04, 0.04, 0.034, 0.028, 0.021]) * h * girth,
                look.top,
                segments=10,
            )
        )
        mesh.add(ellipsoid(hand, (0.034 * h, 0.024 * h, 0.03 * h), look.skin, segments=8, rings=6))
    # Head.
    head_up = up * 0.6 + np.array([0.25 * np.sin(pose.head_pitch), 0, 0.6])
    head_up /= np.linalg.norm(head_up)
    center = neck + head_up * 0.085 * h
    size = max(h, 1.3)  # children's heads are nearly grown
    face = np.array([np.cos(pose.head_yaw), np.sin(pose.head_yaw), -0.6 * np.sin(pose.head_pitch)])
    mesh.add(tube([neck - up * 0.02 * h, center], 0.035 * h, look.skin))
    radii = np.array([0.06, 0.048, 0.07]) * size
    yaw, pitch = pose.head_yaw, pose.head_pitch
    mesh.add(ellipsoid(center, radii, look.skin, yaw=yaw, pitch=pitch))
    mesh.add(
        ellipsoid(
            center + face * 0.058 * size + [0, 0, -0.008 * size],
            np.array([0.012, 0.009, 0.014]) * size,
            look.skin,
            segments=8,
            rings=6,
        )
    )
    if look.mask:
        cover = Material((0.75, 0.85, 0.92), 0.8)
        mesh.add(
            ellipsoid(
                center + face * 0.018 * size - [0, 0, 0.024 * size],
                np.array([0.047, 0.044, 0.038]) * size,
                cover,
                yaw=yaw,
                pitch=pitch,
            )
        )
    if look.helmet is not None:
        mesh.add(
            ellipsoid(
                center + np.array([0, 0, 0.012 * size]),
                radii * 1.28,
                look.helmet,
                yaw=yaw,
                pitch=pitch,
                bottom=-0.25,
            )
        )
        return mesh
    back = center - face * 0.014 * size + np.array([0, 0, 0.012 * size])
    mesh.add(
        ellipsoid(
            back, radii * [1.02, 1.14, 1.0], look.hair, yaw=yaw, pitch=pitch - 0.35, bottom=-0.35
        )
    )
    if look.long_hair:
        tail = center - face * 0.05 * size
        mesh.add(
            loft(
                [
                    tail + np.array([0, 0, 0.04 * size]),
                    tail - [0, 0, 0.03 * size],
                    tail - [0.01, 0, 0.12 * size],
                ],
                [0.04 * size, 0.05 * size, 0.035 * size],
                0.02 * size,
                look.hair,
            )
        )
    if look.cap is not None:
        mesh.add(
            ellipsoid(
                center + np.array([0, 0, 0.02 * size]),
                radii * [1.12, 1.2, 0.95],
                look.cap,
                yaw=yaw,
                pitch=pitch,
                bottom=0.1,
            )
        )
        mesh.add(
            rounded_box(
                center + face * 0.085 * size + [0, 0, 0.028 * size],
                (0.06 * size, 0.08 * size, 0.008),
                0.004,
                look.cap,
                yaw=yaw,
            )
        )
    if look.backpack is not None:
        mesh.add(
            rounded_box(
                hip + up * 0.17 * h - forward * 0.11 * h * girth,
                (0.1 * h, 0.18 * h, 0.24 * h),
                0.04 * h,
                look.backpack,
                pitch=pose.lean,
            )
        )
    return mesh
