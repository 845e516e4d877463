"""Procedural two-wheelers: e-bikes in four builds, adult and child bicycles, kick scooters.

Proportions follow what is sold in China under GB 17761 (seats at 0.64–0.8 m, bars 0.62–0.72 m wide, wheelbase up to
1.25 m) and the moped-like builds that are older than it.
"""

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
from benchmarks.scenes.palette import BLACK, CHROME, PLASTIC, RUBBER, STEEL

__all__ = ["EBIKE_KINDS", "Ride", "bicycle", "ebike", "kick_scooter"]

Array = NDArray[np.float64]
EBIKE_KINDS = ("scooter", "light", "motor", "pedelec")


@dataclass(frozen=True)
class Ride:
    """A two-wheeler and where a rider meets it; all points in its own frame, metres."""

    mesh: Mesh
    grips: Array
    """Left and right grip, (2, 3)."""
    seat: Array
    """Top of the seat, (3,)."""
    feet: Array
    """Left and right foot rest, (2, 3)."""
    length: float
    width: float


def _steered(front: Mesh, pivot_x: float, steer: float) -> Mesh:
    """Turn the front assembly about a vertical axis at `pivot_x`."""
    return front.moved(placement(x=pivot_x, yaw=steer) @ placement(x=-pivot_x))


def _turned(points: Array, pivot_x: float, steer: float) -> Array:
    matrix = placement(x=pivot_x, yaw=steer) @ placement(x=-pivot_x)
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _bars(
    front: Mesh, rng: np.random.Generator, head: Array, half: float, rise: float, mirrors: bool
) -> Array:
    """Handlebar, levers and mirrors on `front`; returns the grips."""
    x, _, z = head
    grip = np.array([[x - 0.1, half, z + rise], [x - 0.1, -half, z + rise]])
    metal = CHROME if rng.random() < 0.4 else PLASTIC
    front.add(
        tube(
            [
                grip[0],
                [x - 0.02, half * 0.5, z + rise],
                [x, 0, z],
                [x - 0.02, -half * 0.5, z + rise],
                grip[1],
            ],
            0.013,
            metal,
        )
    )
    for side, point in zip((1, -1), grip, strict=True):
        inner = point + np.array([0.02, -side * 0.12, 0])
        front.add(tube([point, inner], 0.02, RUBBER))
        front.add(
            tube(
                [inner + np.array([0.05, 0, 0]), point + np.array([0.06, 0, -0.01])],
                0.006,
                STEEL,
                segments=5,
            )
        )
    if mirrors:
        for side in (1, -1):
            foot = np.array([x, side * half * 0.65, z + rise])
            top = foot + np.array([-0.02, side * 0.1, 0.17])
            front.add(tube([foot, top], 0.006, PLASTIC, segments=5))
            front.add(
                ellipsoid(
                    top + np.array([0, side * 0.03, 0.02]),
                    (0.02, 0.065, 0.045),
                    PLASTIC,
                    segments=10,
                    rings=6,
                )
            )
    return grip


def _arc(center: tuple[float, float], radius: float, start: float, end: float, n: int = 7) -> Array:
    a = np.radians(np.linspace(start, end, n))
    return np.stack(
        [center[0] + radius * np.cos(a), np.zeros(n), center[1] + radius * np.sin(a)], -1
    )


def _basket(center: Array, size: float, material: Material) -> Mesh:
    mesh = Mesh()
    x, y, z = center
    for level, grow in ((-0.5, 0.8), (0.0, 0.9), (0.5, 1.0)):
        h = size * grow / 2
        ring = [
            [x - h, y - h * 1.2, 0],
            [x + h, y - h * 1.2, 0],
            [x + h, y + h * 1.2, 0],
            [x - h, y + h * 1.2, 0],
        ]
        mesh.add(
            tube(
                np.array(ring) + np.array([0, 0, z + level * size * 0.75]),
                0.006,
                material,
                segments=4,
                closed=True,
            )
        )
    for fx in np.linspace(-1, 1, 5):
        for fy in (-1.2, 1.2):
            low = [x + fx * size * 0.4, y + fy * size * 0.4, z - size * 0.375]
            high = [x + fx * size * 0.5, y + fy * size * 0.5, z + size * 0.375]
            mesh.add(tube([low, high], 0.004, material, segments=3))
            low = [x + np.sign(fy) * size * 0.4, y + fx * size * 0.48, z - size * 0.375]
            high = [x + np.sign(fy) * size * 0.5, y + fx * size * 0.6, z + size * 0.375]
            mesh.add(tube([low, high], 0.004, material, segments=3))
    mesh.add(box([x, y, z - size * 0.375], [size * 0.8, size * 0.95, 0.008], material))
    return mesh


def _lamps(body: Mesh, front: Mesh, head: Array, tail: Array, on: bool) -> None:
    glow = 6.0 if on else 0.15
    front.add(ellipsoid(head, (0.05, 0.085, 0.06), Material((0.95, 0.95, 0.9), 0.1, emission=glow)))
    body.add(
        rounded_box(
            tail, (0.04, 0.16, 0.06), 0.02, Material((0.7, 0.03, 0.03), 0.2, emission=glow * 0.2)
        )
    )


def _extras(
    body: Mesh, front: Mesh, rng: np.random.Generator, grips: Array, seat: Array, rear_x: float
) -> None:
    """What owners add: top box, child seat, wind quilt, bag, a child's backrest."""
    seat_z = seat[2]
    roll = rng.random()
    if roll < 0.35:
        s = rng.uniform(0.3, 0.44)
        shell = palette.paint(rng) if rng.random() < 0.4 else PLASTIC
        body.add(
            rounded_box([rear_x, 0, seat_z + 0.08 + s * 0.38], (s, s * 1.05, s * 0.75), 0.07, shell)
        )
        body.add(
            box(
                [rear_x - s * 0.5, 0, seat_z + 0.06 + s * 0.5],
                (0.01, s * 0.6, 0.04),
                Material((0.6, 0.05, 0.05)),
            )
        )
    elif roll < 0.6:
        rack = [[rear_x + 0.12, 0.12, seat_z], [rear_x - 0.1, 0.13, seat_z + 0.26]]
        flipped = [[p[0], -p[1], p[2]] for p in reversed(rack)]
        body.add(tube(rack + flipped, 0.011, CHROME))
        body.add(
            rounded_box(
                [rear_x - 0.07, 0, seat_z + 0.24], (0.05, 0.22, 0.14), 0.02, BLACK, pitch=-0.3
            )
        )
    if rng.random() < 0.22:  # wind quilt, common from autumn to spring
        fabric = palette.cloth(rng)
        x = float(grips[:, 0].mean()) + 0.14
        path = [
            [x + 0.02, 0, 0.38],
            [x + 0.06, 0, 0.6],
            [x + 0.05, 0, 0.85],
            [x - 0.04, 0, grips[0, 2] + 0.03],
        ]
        front.add(loft(path, [0.17, 0.24, 0.27, 0.22], [0.03, 0.05, 0.06, 0.05], fabric, power=3))
        for grip in grips:
            front.add(ellipsoid(grip + np.array([0.06, 0, 0.0]), (0.15, 0.11, 0.1), fabric))
    elif rng.random() < 0.15:
        x = float(grips[:, 0].mean()) + 0.16
        pane = Material((0.75, 0.8, 0.82), 0.05, glass=0.8)
        z = grips[0, 2]
        front.add(
            loft(
                [[x + 0.05, 0, z - 0.1], [x, 0, z + 0.15], [x - 0.08, 0, z + 0.38]],
                [0.2, 0.24, 0.14],
                0.006,
                pane,
            )
        )
    if rng.random() < 0.2:
        bag = palette.cloth(rng)
        body.add(
            rounded_box(
                [seat[0] + 0.32, rng.uniform(-0.05, 0.05), 0.45], (0.24, 0.26, 0.3), 0.1, bag
            )
        )


def _scooter(rng: np.random.Generator, steer: float, lamp_on: bool) -> Ride:
    """Step-through scooter with body panels, a front shield and a long seat."""
    base, radius = rng.uniform(1.1, 1.28), rng.uniform(0.195, 0.235)
    shell = palette.paint(rng)
    accent = shell if rng.random() < 0.6 else palette.paint(rng)
    rim = CHROME if rng.random() < 0.4 else BLACK
    bulk = rng.uniform(0.85, 1.15)
    xf, xr = base / 2, -base / 2
    head = np.array([xf - rng.uniform(0.24, 0.32), 0, rng.uniform(0.9, 1.02)])
    body, front = Mesh(), Mesh()
    tyre = rng.uniform(0.035, 0.05)
    front.add(*wheel([xf, 0, radius], radius, tyre, RUBBER, rim))
    body.add(*wheel([xr, 0, radius], radius, tyre, RUBBER, rim, hub=0.09))
    front.add(
        loft(
            _arc((xf, radius), radius + 0.045, 10, 165),
            [0.03, 0.07, 0.08, 0.08, 0.08, 0.07, 0.04],
            0.014,
            accent,
        )
    )
    for side in (0.075, -0.075):
        front.add(
            tube(
                [
                    [xf, side, radius],
                    [xf - 0.1, side, radius + 0.3],
                    [head[0] + 0.02, side * 0.6, head[2] - 0.2],
                ],
                0.02,
                STEEL,
            )
        )
    front.add(
        loft(
            [
                [head[0] + 0.14, 0, head[2] - 0.14],
                [head[0] + 0.07, 0, head[2] - 0.02],
                [head[0] - 0.06, 0, head[2] + 0.03],
            ],
            np.array([0.09, 0.14, 0.1]) * bulk,
            [0.05, 0.07, 0.03],
            accent,
        )
    )
    front.add(
        rounded_box(
            [head[0] - 0.07, 0, head[2] + 0.05],
            (0.08, 0.16, 0.03),
            0.012,
            Material((0.1, 0.14, 0.16), 0.15),
        )
    )
    grips = _bars(
        front,
        rng,
        head + np.array([0, 0, 0.02]),
        rng.uniform(0.31, 0.36),
        rng.uniform(0.02, 0.1),
        rng.random() < 0.75,
    )
    # Front shield, footboard, belly.
    low = rng.uniform(0.24, 0.3)
    body.add(
        loft(
            [
                [xf - 0.24, 0, low],
                [xf - 0.14, 0, 0.45],
                [xf - 0.2, 0, 0.66],
                [head[0] + 0.05, 0, head[2] - 0.08],
            ],
            np.array([0.14, 0.2, 0.22, 0.12]) * bulk,
            [0.05, 0.075, 0.07, 0.05],
            shell,
            power=2.8,
        )
    )
    seat_x = rng.uniform(-0.02, 0.06)
    body.add(
        rounded_box(
            [(xf + seat_x) / 2 - 0.14, 0, low + 0.02],
            (xf - seat_x + 0.05, 0.27 * bulk, 0.1),
            0.04,
            PLASTIC,
        )
    )
    # Rear body under the seat.
    seat_z = rng.uniform(0.68, 0.8)
    mid = (low + seat_z) / 2
    tail_x = xr - rng.uniform(0.22, 0.36)
    body.add(
        loft(
            [
                [seat_x + 0.06, 0, mid],
                [seat_x - 0.06, 0, mid],
                [xr + 0.18, 0, mid + 0.08],
                [xr - 0.05, 0, seat_z - 0.12],
                [tail_x, 0, seat_z - 0.06],
            ],
            np.array([0.1, 0.14, 0.17, 0.15, 0.06]) * bulk,
            [(seat_z - low) * 0.42, (seat_z - low) * 0.46, 0.19, 0.11, 0.04],
            shell,
            power=3,
        )
    )
    leather = BLACK if rng.random() < 0.75 else Material((0.35, 0.2, 0.12), 0.5)
    body.add(
        loft(
            [
                [seat_x + 0.1, 0, seat_z],
                [seat_x, 0, seat_z + 0.02],
                [xr + 0.15, 0, seat_z + 0.03],
                [xr + 0.05, 0, seat_z + 0.07],
                [tail_x + 0.08, 0, seat_z + 0.08],
            ],
            np.array([0.07, 0.12, 0.15, 0.15, 0.1]) * bulk,
            [0.03, 0.05, 0.05, 0.05, 0.03],
            leather,
        )
    )
    for side in (0.1, -0.1):
        body.add(
            tube(
                [[xr, side, radius], [xr + 0.05, side, seat_z - 0.15]],
                0.022,
                CHROME if rng.random() < 0.5 else PLASTIC,
            )
        )
    body.add(loft(_arc((xr, radius), radius + 0.04, 60, 170), 0.07, 0.012, PLASTIC))
    body.add(tube([[xr + 0.25, 0.12, 0.22], [xr + 0.2, 0.22, 0.0]], 0.012, STEEL))
    body.add(
        box([tail_x - 0.03, 0, seat_z - 0.22], (0.01, 0.2, 0.14), Material((0.85, 0.9, 0.85), 0.4))
    )
    _lamps(
        body,
        front,
        head + np.array([0.13, 0, -0.05]),
        np.array([tail_x - 0.01, 0, seat_z - 0.06]),
        lamp_on,
    )
    if rng.random() < 0.25:
        front.extend(_basket(np.array([head[0] + 0.24, 0, head[2] - 0.12]), 0.26, PLASTIC))
    seat = np.array([seat_x - 0.15, 0, seat_z + 0.06])
    _extras(body, front, rng, grips, seat, tail_x + 0.1)
    body.extend(_steered(front, head[0], steer))
    feet = np.array([[seat_x + 0.28, 0.1, low + 0.07], [seat_x + 0.28, -0.1, low + 0.07]])
    return Ride(body, _turned(grips, head[0], steer), seat, feet, base + 2 * radius + 0.1, 0.7)


def _light(rng: np.random.Generator, steer: float, lamp_on: bool) -> Ride:
    """Light e-bike: an open tube frame with a battery box, pedals, small seat and pillion."""
    base, radius = rng.uniform(1.0, 1.18), rng.uniform(0.19, 0.25)
    frame = palette.paint(rng)
    rim = CHROME if rng.random() < 0.5 else BLACK
    xf, xr = base / 2, -base / 2
    head = np.array([xf - 0.22, 0, rng.uniform(0.92, 1.02)])
    body, front = Mesh(), Mesh()
    spokes = 18 if rng.random() < 0.35 else 0
    front.add(*wheel([xf, 0, radius], radius, 0.028, RUBBER, rim, spokes=spokes))
    body.add(*wheel([xr, 0, radius], radius, 0.03, RUBBER, rim, spokes=spokes, hub=0.09))
    front.add(loft(_arc((xf, radius), radius + 0.035, 0, 170), 0.04, 0.008, frame))
    body.add(loft(_arc((xr, radius), radius + 0.035, 10, 180), 0.045, 0.008, frame))
    for side in (0.06, -0.06):
        front.add(
            tube(
                [
                    [xf, side, radius],
                    [xf - 0.08, side, radius + 0.3],
                    [head[0] + 0.04, 0, head[2] - 0.25],
                ],
                0.016,
                STEEL,
            )
        )
    front.add(tube([head + np.array([0.05, 0, -0.3]), head], 0.02, STEEL))
    grips = _bars(
        front, rng, head, rng.uniform(0.28, 0.33), rng.uniform(0.03, 0.12), rng.random() < 0.5
    )
    low = rng.uniform(0.28, 0.36)
    seat_z = rng.uniform(0.66, 0.78)
    seat_x = xr + rng.uniform(0.32, 0.42)
    body.add(
        tube(
            [
                [head[0] + 0.04, 0, head[2] - 0.22],
                [head[0] + 0.0, 0, 0.6],
                [head[0] - 0.1, 0, low],
                [seat_x + 0.1, 0, low],
                [seat_x, 0, seat_z - 0.05],
            ],
            rng.uniform(0.028, 0.045),
            frame,
            segments=10,
        )
    )
    for side in (0.07, -0.07):
        body.add(
            tube(
                [
                    [seat_x + 0.05, side * 0.5, low],
                    [xr, side, radius],
                    [seat_x, side * 0.4, seat_z - 0.15],
                ],
                0.015,
                frame,
            )
        )
    battery = PLASTIC if rng.random() < 0.7 else frame
    body.add(
        rounded_box(
            [seat_x - 0.02, 0, (low + seat_z) / 2 - 0.02],
            (0.2, 0.17, seat_z - low - 0.02),
            0.04,
            battery,
        )
    )
    if rng.random() < 0.7:
        body.add(
            rounded_box(
                [(head[0] + seat_x) / 2, 0, low + 0.03],
                (head[0] - seat_x - 0.1, 0.24, 0.05),
                0.02,
                PLASTIC,
            )
        )
    if rng.random() < 0.55:
        body.add(
            loft(
                [
                    [head[0] + 0.02, 0, low + 0.05],
                    [head[0] + 0.09, 0, 0.6],
                    [head[0] + 0.06, 0, 0.82],
                ],
                [0.12, 0.18, 0.13],
                0.035,
                frame,
                power=3,
            )
        )
    body.add(
        loft(
            [
                [seat_x + 0.15, 0, seat_z],
                [seat_x, 0, seat_z + 0.02],
                [seat_x - 0.12, 0, seat_z + 0.03],
            ],
            [0.05, 0.12, 0.1],
            [0.03, 0.045, 0.03],
            BLACK,
        )
    )
    body.add(rounded_box([xr + 0.02, 0, seat_z + 0.0], (0.3, 0.2, 0.08), 0.035, BLACK))
    body.add(
        tube(
            [
                [seat_x, 0.07, seat_z - 0.06],
                [xr - 0.16, 0.08, seat_z - 0.06],
                [xr - 0.16, -0.08, seat_z - 0.06],
                [seat_x, -0.07, seat_z - 0.06],
            ],
            0.011,
            STEEL,
        )
    )
    for side in (1, -1):
        body.add(
            tube(
                [[0.0, side * 0.02, low], [side * 0.1, side * 0.12, low - side * 0.06]],
                0.012,
                STEEL,
            )
        )
        body.add(box([side * 0.1, side * 0.16, low - side * 0.06], (0.08, 0.08, 0.025), PLASTIC))
    body.add(tube([[xr + 0.2, 0.1, 0.25], [xr + 0.15, 0.2, 0.0]], 0.011, STEEL))
    _lamps(
        body,
        front,
        head + np.array([0.09, 0, -0.12]),
        np.array([xr - 0.2, 0, seat_z - 0.12]),
        lamp_on,
    )
    if rng.random() < 0.65:
        front.extend(
            _basket(np.array([head[0] + 0.22, 0, head[2] - 0.15]), rng.uniform(0.24, 0.32), PLASTIC)
        )
    seat = np.array([seat_x, 0, seat_z + 0.06])
    _extras(body, front, rng, grips, seat, xr - 0.04)
    body.extend(_steered(front, head[0], steer))
    feet = np.array([[0.08, 0.12, low + 0.06], [0.08, -0.12, low + 0.06]])
    return Ride(body, _turned(grips, head[0], steer), seat, feet, base + 2 * radius, 0.64)


def _motor(rng: np.random.Generator, steer: float, lamp_on: bool) -> Ride:
    """Motorcycle-like e-bike: big wheels, a mock tank, a closed belly."""
    base, radius = rng.uniform(1.2, 1.32), rng.uniform(0.25, 0.3)
    shell = palette.paint(rng)
    xf, xr = base / 2, -base / 2
    head = np.array([xf - 0.3, 0, rng.uniform(0.93, 1.03)])
    body, front = Mesh(), Mesh()
    front.add(*wheel([xf, 0, radius], radius, 0.045, RUBBER, BLACK))
    body.add(*wheel([xr, 0, radius], radius, 0.055, RUBBER, BLACK, hub=0.1))
    front.add(loft(_arc((xf, radius), radius + 0.04, 20, 150), 0.065, 0.012, shell))
    for side in (0.085, -0.085):
        front.add(tube([[xf, side, radius], [head[0] + 0.03, side, head[2] - 0.05]], 0.024, CHROME))
        body.add(tube([[xr, side * 1.2, radius], [xr + 0.12, side * 1.2, 0.62]], 0.025, CHROME))
        body.add(tube([[xr, side, radius], [0, side, 0.34]], 0.022, PLASTIC))
    grips = _bars(front, rng, head, rng.uniform(0.32, 0.37), 0.05, True)
    body.add(
        loft(
            [[0.34, 0, 0.34], [0.1, 0, 0.4], [-0.2, 0, 0.42]],
            [0.1, 0.13, 0.1],
            [0.1, 0.16, 0.12],
            PLASTIC,
            power=3.5,
        )
    )
    body.add(
        loft(
            [[head[0] + 0.05, 0, 0.76], [head[0] - 0.08, 0, 0.8], [0.02, 0, 0.77], [-0.1, 0, 0.72]],
            [0.06, 0.14, 0.13, 0.08],
            [0.06, 0.1, 0.09, 0.05],
            shell,
        )
    )
    if rng.random() < 0.6:
        body.add(
            loft(
                [[xf - 0.1, 0, 0.55], [head[0] + 0.08, 0, 0.7], [head[0] - 0.1, 0, 0.6]],
                [0.12, 0.19, 0.17],
                [0.12, 0.17, 0.16],
                shell,
                power=3,
            )
        )
    seat_z = rng.uniform(0.74, 0.8)
    body.add(
        loft(
            [
                [0.0, 0, seat_z - 0.02],
                [-0.2, 0, seat_z],
                [-0.5, 0, seat_z + 0.05],
                [-0.75, 0, seat_z + 0.07],
            ],
            [0.08, 0.14, 0.13, 0.08],
            [0.03, 0.05, 0.05, 0.03],
            BLACK,
        )
    )
    body.add(
        loft(
            [[-0.1, 0, 0.66], [-0.4, 0, 0.68], [-0.85, 0, seat_z + 0.02]],
            [0.1, 0.13, 0.05],
            [0.08, 0.08, 0.03],
            shell,
        )
    )
    body.add(tube([[xr + 0.3, -0.13, 0.3], [xr - 0.1, -0.17, 0.34]], 0.04, CHROME))
    body.add(box([-0.9, 0, 0.58], (0.01, 0.2, 0.14), Material((0.85, 0.8, 0.2), 0.4)))
    _lamps(body, front, head + np.array([0.12, 0, -0.08]), np.array([-0.86, 0, seat_z]), lamp_on)
    seat = np.array([-0.2, 0, seat_z + 0.05])
    _extras(body, front, rng, grips, seat, -0.72)
    body.extend(_steered(front, head[0], steer))
    feet = np.array([[0.05, 0.16, 0.33], [0.05, -0.16, 0.33]])
    return Ride(body, _turned(grips, head[0], steer), seat, feet, base + 2 * radius, 0.74)


def bicycle(
    rng: np.random.Generator,
    *,
    child: bool = False,
    steer: float = 0.0,
    electric: bool = False,
    lamp_on: bool = False,
) -> Ride:
    """A pedal bicycle, 26–28 inch or a child's 12–18 inch; `electric` adds a battery and a hub motor."""
    if child:
        radius, tyre = rng.uniform(0.15, 0.24), 0.022
    elif electric:
        radius, tyre = rng.uniform(0.25, 0.31), rng.uniform(0.025, 0.045)
    else:
        radius, tyre = rng.uniform(0.29, 0.345), rng.uniform(0.014, 0.024)
    size = radius / 0.33
    frame = palette.paint(rng)
    base = (1.06 if not child else 1.12) * (0.35 + 0.65 * size)
    xf, xr = base / 2, -base / 2
    bottom = np.array([xr + 0.42 * base, 0, radius * 0.9])
    seat_z = (0.86 if not child else 0.9) * (0.3 + 0.7 * size) + rng.uniform(-0.04, 0.06)
    head_low = np.array([xf - 0.17 * base, 0, radius * 1.95])
    head = np.array([xf - 0.24 * base, 0, seat_z + rng.uniform(0.02, 0.14)])
    seat_top = np.array([bottom[0] - 0.16 * base, 0, seat_z])
    cluster = bottom + (seat_top - bottom) * 0.72
    body, front = Mesh(), Mesh()
    rim = CHROME if rng.random() < 0.6 else BLACK
    front.add(*wheel([xf, 0, radius], radius, tyre, RUBBER, rim, spokes=20, hub=0.025))
    body.add(
        *wheel(
            [xr, 0, radius], radius, tyre, RUBBER, rim, spokes=20, hub=0.07 if electric else 0.03
        )
    )
    t = 0.02 if electric else 0.016
    for side in (0.045, -0.045):
        front.add(
            tube(
                [[xf, side, radius], [head_low[0], side * 0.6, head_low[2]]],
                0.012,
                frame,
                segments=6,
            )
        )
        body.add(tube([np.array([xr, side, radius]), bottom], 0.01, frame, segments=6))
        body.add(tube([np.array([xr, side, radius]), cluster], 0.009, frame, segments=6))
    front.add(tube([head_low, head], 0.016, frame))
    body.add(
        tube([head_low, bottom], t, frame),
        tube([bottom, cluster], t, frame),
        tube([cluster, seat_top], 0.012, CHROME),
    )
    drop = 0.5 if rng.random() < 0.45 else 0.0
    body.add(
        tube([head_low + (head - head_low) * 0.3, cluster + (bottom - cluster) * drop], t, frame)
    )
    body.add(
        loft(
            [seat_top + np.array([0.14, 0, 0.0]), seat_top, seat_top + np.array([-0.12, 0, 0.01])],
            [0.02, 0.06, 0.08],
            [0.015, 0.025, 0.03],
            BLACK,
        )
    )
    grips = _bars(
        front,
        rng,
        head,
        rng.uniform(0.25, 0.31) * (0.45 + 0.55 * size),
        rng.uniform(0.0, 0.08),
        False,
    )
    body.add(torus(bottom + np.array([0, -0.05, 0]), 0.085 * size, 0.006, BLACK, segments=16))
    crank = rng.uniform(0, 2 * np.pi)
    for side in (1, -1):
        arm = bottom + np.array(
            [side * 0.16 * size * np.cos(crank), side * 0.07, side * 0.16 * size * np.sin(crank)]
        )
        body.add(tube([bottom + np.array([0, side * 0.05, 0]), arm], 0.009, STEEL, segments=5))
        body.add(box(arm + np.array([0, side * 0.04, 0]), (0.09 * size, 0.07, 0.02), PLASTIC))
    if child or rng.random() < 0.6:
        front.add(loft(_arc((xf, radius), radius + 0.02, 20, 160), 0.025, 0.004, frame))
        body.add(loft(_arc((xr, radius), radius + 0.02, 20, 170), 0.025, 0.004, frame))
    if child and rng.random() < 0.6:
        for side in (0.17, -0.17):
            body.add(
                tube([[xr, side * 0.3, radius], [xr, side * 0.9, 0.06]], 0.007, STEEL, segments=5)
            )
            body.add(*wheel([xr, side, 0.06], 0.06, 0.015, RUBBER, frame))
    if rng.random() < (0.45 if not electric else 0.3):
        s = rng.uniform(0.24, 0.32) * (0.5 + 0.5 * size)
        front.extend(
            _basket(
                np.array([head[0] + 0.08 + s / 2, 0, head[2] - s * 0.4]),
                s,
                PLASTIC if rng.random() < 0.6 else CHROME,
            )
        )
    if rng.random() < 0.5:
        body.add(
            rounded_box(
                [xr - 0.02, 0, 2 * radius + 0.06], (0.36 * size, 0.14 * size, 0.03), 0.012, PLASTIC
            )
        )
        for side in (0.06, -0.06):
            body.add(
                tube(
                    [[xr, side, radius], [xr - 0.08, side, 2 * radius + 0.05]],
                    0.006,
                    STEEL,
                    segments=4,
                )
            )
    if electric:
        if rng.random() < 0.5:
            body.add(
                tube(
                    [
                        bottom + (head_low - bottom) * 0.2 + [-0.01, 0, 0.05],
                        bottom + (head_low - bottom) * 0.8 + [-0.01, 0, 0.05],
                    ],
                    0.05,
                    PLASTIC,
                )
            )
        else:
            middle = (bottom + seat_top) / 2
            body.add(
                rounded_box(
                    middle + np.array([-0.1, 0, 0.02]),
                    (0.12, 0.11, 0.36),
                    0.03,
                    PLASTIC,
                    pitch=-0.25,
                )
            )
        _lamps(
            body,
            front,
            head + np.array([0.07, 0, -0.06]),
            np.array([xr - 0.2, 0, 2 * radius + 0.02]),
            lamp_on,
        )
    body.extend(_steered(front, head[0], steer))
    feet = np.stack([bottom + np.array([0.1, 0.11, 0.0]), bottom + np.array([-0.1, -0.11, 0.05])])
    return Ride(
        body,
        _turned(grips, head[0], steer),
        seat_top + np.array([0, 0, 0.03]),
        feet,
        base + 2 * radius,
        2 * 0.29 * size,
    )


def ebike(
    rng: np.random.Generator,
    kind: str | None = None,
    *,
    steer: float | None = None,
    lamp_on: bool = False,
) -> Ride:
    """A random e-bike; kinds in `EBIKE_KINDS`."""
    name = kind or str(rng.choice(EBIKE_KINDS, p=[0.5, 0.27, 0.15, 0.08]))
    angle = float(rng.normal(0, 0.22)) if steer is None else steer
    if name == "pedelec":
        return bicycle(rng, electric=True, steer=angle, lamp_on=lamp_on)
    build = {"scooter": _scooter, "light": _light, "motor": _motor}[name]
    return build(rng, angle, lamp_on)


def kick_scooter(rng: np.random.Generator) -> Ride:
    """A child's kick scooter: never labelled, it must not be taken for an e-bike."""
    frame = palette.paint(rng)
    size = rng.uniform(0.7, 1.0)
    body = Mesh()
    for x in (-0.32, 0.32):
        body.add(*wheel([x * size, 0, 0.06], 0.06, 0.018, RUBBER, frame))
    body.add(rounded_box([0, 0, 0.09], (0.55 * size, 0.12, 0.03), 0.012, frame))
    top = np.array([0.2 * size, 0, 0.85 * size])
    body.add(tube([np.array([0.31 * size, 0, 0.1]), top], 0.018, CHROME))
    grips = _bars(body, rng, top, 0.17, 0.0, False)
    return Ride(
        body,
        grips,
        np.array([0, 0, 0.1]),
        np.array([[0, 0.04, 0.12], [-0.1, -0.04, 0.12]]),
        0.8 * size,
        0.36,
    )
