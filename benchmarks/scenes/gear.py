"""What else people take into a lift: strollers, wheelchairs, suitcases, cartons, shopping trolleys."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.scenes import palette
from benchmarks.scenes.mesh import (
    Material,
    Mesh,
    box,
    ellipsoid,
    loft,
    placement,
    rounded_box,
    torus,
    tube,
    wheel,
)
from benchmarks.scenes.palette import CHROME, PLASTIC, RUBBER, STEEL
from benchmarks.scenes.people import Look, person, sitting

__all__ = ["Gear", "carton_stack", "stroller", "suitcase", "trolley", "wheelchair"]


@dataclass(frozen=True)
class Gear:
    """A thing that may be pushed by its handles; own frame, metres."""

    mesh: Mesh
    handles: NDArray[np.float64]
    """Left and right handle, (2, 3)."""
    length: float
    width: float


def stroller(rng: np.random.Generator) -> Gear:
    """A buggy with a canopy."""
    frame = PLASTIC if rng.random() < 0.6 else CHROME
    fabric, mesh = palette.cloth(rng), Mesh()
    wide = rng.uniform(0.2, 0.26)
    handle_z = rng.uniform(0.95, 1.06)
    for side in (wide, -wide):
        for x, r in ((0.36, 0.085), (-0.3, 0.11)):
            mesh.add(*wheel([x, side, r], r, 0.022, RUBBER, PLASTIC))
        mesh.add(
            tube([[0.36, side, 0.1], [-0.2, side, 0.68], [-0.52, side, handle_z]], 0.014, frame)
        )
        mesh.add(tube([[-0.3, side, 0.12], [0.06, side, 0.44]], 0.013, frame))
    mesh.add(tube([[-0.52, wide, handle_z], [-0.52, -wide, handle_z]], 0.018, RUBBER))
    mesh.add(
        loft(
            [[0.34, 0, 0.3], [0.2, 0, 0.38], [-0.02, 0, 0.42], [-0.2, 0, 0.62], [-0.28, 0, 0.82]],
            wide * 0.9,
            [0.03, 0.05, 0.06, 0.05, 0.03],
            fabric,
            power=3,
        )
    )
    canopy = fabric if rng.random() < 0.6 else palette.cloth(rng)
    mesh.add(
        ellipsoid(
            [-0.14, 0, 0.74],
            (0.3, wide, 0.3),
            canopy,
            pitch=float(rng.uniform(-0.5, 0.1)),
            bottom=0.1,
        )
    )
    mesh.add(rounded_box([-0.1, 0, 0.22], (0.4, wide * 1.7, 0.16), 0.04, PLASTIC))
    if rng.random() < 0.6:
        mesh.extend(
            person(Look.draw(rng, child=True), sitting(Look.draw(rng, child=True), 0.45)),
            placement(x=-0.08) @ np.diag([0.62, 0.62, 0.62, 1.0]) @ placement(z=0.28),
        )
    handles = np.array([[-0.52, wide * 0.7, handle_z], [-0.52, -wide * 0.7, handle_z]])
    return Gear(mesh, handles, 0.9, 2 * wide + 0.06)


def wheelchair(rng: np.random.Generator, *, occupied: bool | None = None) -> Gear:
    """A manual wheelchair, usually with its user (part of the mesh, as the class is labelled chair with user)."""
    frame = CHROME if rng.random() < 0.6 else palette.paint(rng)
    fabric = Material((0.05, 0.06, 0.12), 0.8) if rng.random() < 0.7 else palette.cloth(rng)
    mesh, half, radius = Mesh(), rng.uniform(0.23, 0.27), rng.uniform(0.27, 0.31)
    for side in (half, -half):
        out = side * 1.14
        mesh.add(*wheel([-0.12, out, radius], radius, 0.016, RUBBER, CHROME, spokes=18))
        mesh.add(torus([-0.12, out * 1.1, radius], radius * 0.88, 0.009, CHROME))
        mesh.add(*wheel([0.34, side, 0.09], 0.09, 0.02, RUBBER, PLASTIC))
        mesh.add(tube([[0.34, side, 0.1], [0.34, side, 0.5], [-0.22, side, 0.5]], 0.013, frame))
        mesh.add(
            tube([[-0.22, side, 0.28], [-0.22, side, 0.92], [-0.36, side, 0.94]], 0.013, frame)
        )
        mesh.add(tube([[-0.22, side, 0.3], [0.34, side, 0.28]], 0.012, frame))
        mesh.add(rounded_box([0.05, side, 0.72], (0.36, 0.06, 0.04), 0.015, PLASTIC))
        mesh.add(tube([[0.2, side, 0.5], [0.2, side, 0.71]], 0.011, frame))
        mesh.add(tube([[0.34, side * 0.8, 0.46], [0.52, side * 0.7, 0.14]], 0.012, frame))
        mesh.add(box([0.56, side * 0.55, 0.13], (0.16, 0.16, 0.015), PLASTIC))
        mesh.add(tube([[-0.36, side, 0.94], [-0.3, side, 0.94]], 0.018, RUBBER))
    mesh.add(rounded_box([0.06, 0, 0.5], (0.44, half * 1.9, 0.05), 0.02, fabric))
    mesh.add(rounded_box([-0.22, 0, 0.72], (0.03, half * 1.9, 0.4), 0.012, fabric))
    if occupied if occupied is not None else rng.random() < 0.7:
        look = Look.draw(rng)
        pose = sitting(look, 0.53)
        hands = np.array([[0.18, half, 0.78], [0.18, -half, 0.78]])
        feet = np.array([[0.66, 0.14, 0.2], [0.66, -0.14, 0.2]])
        mesh.extend(person(look, type(pose)(pose.hip, -0.05, feet, hands)), placement(x=-0.06))
        if rng.random() < 0.3:
            mesh.add(
                loft(
                    [[0.0, 0, 0.68], [0.35, 0, 0.66], [0.5, 0, 0.35]],
                    0.22,
                    0.04,
                    palette.cloth(rng),
                )
            )
    handles = np.array([[-0.36, half, 0.94], [-0.36, -half, 0.94]])
    return Gear(mesh, handles, 1.05, 2 * half * 1.2)


def suitcase(rng: np.random.Generator) -> Gear:
    """A trolley case."""
    s, mesh = rng.uniform(0.75, 1.15), Mesh()
    shell = palette.paint(rng)
    mesh.add(rounded_box([0, 0, 0.06 + 0.32 * s], (0.27 * s, 0.44 * s, 0.62 * s), 0.05, shell))
    for k in np.linspace(-0.3, 0.3, 4):
        mesh.add(
            rounded_box(
                [0, k * 0.5 * s, 0.06 + 0.32 * s], (0.285 * s, 0.02, 0.55 * s), 0.008, shell
            )
        )
    for x in (-0.1, 0.1):
        for y in (-0.17, 0.17):
            mesh.add(
                tube([[x * s, y * s - 0.015, 0.03], [x * s, y * s + 0.015, 0.03]], 0.03, RUBBER)
            )
    top = 0.06 + 0.63 * s + rng.choice([0.05, 0.35])
    x = -0.1 * s
    mesh.add(
        tube([[x, 0.1, 0.6 * s], [x, 0.1, top], [x, -0.1, top], [x, -0.1, 0.6 * s]], 0.011, STEEL)
    )
    return Gear(mesh, np.array([[x, 0.05, top], [x, -0.05, top]]), 0.3 * s, 0.46 * s)


def carton_stack(rng: np.random.Generator) -> Gear:
    """One to four cartons or bags on the floor."""
    mesh, z, size = Mesh(), 0.0, 0.0
    for _ in range(int(rng.integers(1, 5))):
        a, b, c = rng.uniform(0.25, 0.5, 3)
        tone = rng.uniform(0.8, 1.1)
        if rng.random() < 0.25:
            mesh.add(
                rounded_box(
                    [0, 0, z + c / 2],
                    (a, b, c),
                    0.1,
                    palette.cloth(rng),
                    yaw=float(rng.normal(0, 0.3)),
                )
            )
        else:
            card = Material((0.55 * tone, 0.4 * tone, 0.26 * tone), 0.9)
            yaw = float(rng.normal(0, 0.2))
            mesh.add(box([0, 0, z + c / 2], (a, b, c), card, yaw=yaw))
            mesh.add(
                box(
                    [0, 0, z + c + 0.001],
                    (a * 1.002, 0.05, 0.002),
                    Material((0.75, 0.65, 0.45), 0.3),
                    yaw=yaw,
                )
            )
        z, size = z + c, max(size, a, b)
    return Gear(mesh, np.array([[-0.2, 0.1, z], [-0.2, -0.1, z]]), size, size)


def trolley(rng: np.random.Generator) -> Gear:
    """A two-wheeled shopping trolley or a flat hand cart."""
    mesh = Mesh()
    if rng.random() < 0.5:
        for side in (0.17, -0.17):
            mesh.add(*wheel([-0.05, side, 0.08], 0.08, 0.018, RUBBER, PLASTIC))
        mesh.add(
            loft(
                [[0.08, 0, 0.1], [0.06, 0, 0.4], [0.03, 0, 0.7]],
                [0.17, 0.18, 0.16],
                [0.13, 0.14, 0.11],
                palette.cloth(rng),
                power=4,
            )
        )
        mesh.add(
            tube(
                [
                    [-0.07, 0.12, 0.1],
                    [-0.14, 0.12, 0.95],
                    [-0.14, -0.12, 0.95],
                    [-0.07, -0.12, 0.1],
                ],
                0.011,
                CHROME,
            )
        )
        return Gear(mesh, np.array([[-0.14, 0.06, 0.95], [-0.14, -0.06, 0.95]]), 0.4, 0.4)
    for x in (-0.3, 0.3):
        for side in (0.2, -0.2):
            mesh.add(*wheel([x, side, 0.06], 0.06, 0.02, RUBBER, PLASTIC))
    mesh.add(rounded_box([0, 0, 0.15], (0.85, 0.52, 0.04), 0.015, palette.paint(rng)))
    mesh.add(
        tube(
            [[-0.4, 0.2, 0.15], [-0.46, 0.2, 0.95], [-0.46, -0.2, 0.95], [-0.4, -0.2, 0.15]],
            0.015,
            STEEL,
        )
    )
    mesh.extend(carton_stack(rng).mesh, placement(x=0.08, z=0.17))
    return Gear(mesh, np.array([[-0.46, 0.15, 0.95], [-0.46, -0.15, 0.95]]), 0.95, 0.54)
