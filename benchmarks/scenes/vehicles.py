"""Procedural cars, vans, buses and trucks in their own frame: x forward, origin on the ground amidships, metres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.scenes import palette
from benchmarks.scenes.mesh import Material, Mesh, box, loft, rounded_box, tube
from benchmarks.scenes.palette import CHROME, GLASS, PLASTIC, RUBBER

__all__ = ["CAR_KINDS", "Vehicle", "bus", "car", "truck"]

CAR_KINDS = ("sedan", "suv", "hatch", "van")


@dataclass(frozen=True)
class Vehicle:
    """A vehicle's mesh and outer size."""

    mesh: Mesh
    length: float
    width: float


def _road_wheel(mesh: Mesh, x: float, y: float, radius: float, wide: float, rim: Material) -> None:
    """A tyre with a rim that faces outwards, and a dark arch behind it."""
    out = np.sign(y)
    mesh.add(
        tube([[x, y - wide / 2, radius], [x, y + wide / 2, radius]], radius, RUBBER, segments=20)
    )
    face = y + out * wide / 2
    mesh.add(
        tube([[x, face, radius], [x, face + out * 0.008, radius]], radius * 0.64, rim, segments=14)
    )
    for k in range(5):
        a = 2 * np.pi * k / 5
        mesh.add(
            box(
                [
                    x + radius * 0.4 * np.cos(a),
                    face + out * 0.01,
                    radius + radius * 0.4 * np.sin(a),
                ],
                [0.06, 0.006, 0.06],
                PLASTIC,
            )
        )


def _lamps(mesh: Mesh, length: float, half: float, z: float, glow: float) -> None:
    white = Material((0.95, 0.95, 0.9), 0.1, emission=0.2 + 8 * glow)
    red = Material((0.7, 0.02, 0.02), 0.2, emission=0.1 + 2.5 * glow)
    for side in (1, -1):
        mesh.add(
            rounded_box([length / 2 - 0.1, side * half * 0.74, z], (0.22, 0.36, 0.14), 0.05, white)
        )
        mesh.add(
            rounded_box(
                [-length / 2 + 0.06, side * half * 0.78, z + 0.1], (0.14, 0.28, 0.18), 0.04, red
            )
        )
    for x, tone in (
        (length / 2 + 0.005, (0.15, 0.3, 0.75)),
        (-length / 2 - 0.005, (0.15, 0.3, 0.75)),
    ):
        mesh.add(box([x, 0, z - 0.12], [0.015, 0.44, 0.13], Material(tone, 0.4)))


def car(rng: np.random.Generator, kind: str | None = None, *, lights: bool = False) -> Vehicle:
    """A passenger car; kinds in `CAR_KINDS`."""
    kind = kind or str(rng.choice(CAR_KINDS, p=[0.42, 0.33, 0.15, 0.1]))
    shell, rim = palette.paint(rng), CHROME if rng.random() < 0.7 else PLASTIC
    long = {"sedan": (4.5, 4.95), "suv": (4.3, 4.85), "hatch": (3.5, 4.2), "van": (4.4, 5.1)}[kind]
    length, half = float(rng.uniform(*long)), float(rng.uniform(0.86, 0.95))
    roof = float(
        {"sedan": 1.46, "suv": 1.7, "hatch": 1.52, "van": 1.9}[kind] * rng.uniform(0.97, 1.04)
    )
    belt = {"sedan": 0.93, "suv": 1.08, "hatch": 0.97, "van": 1.1}[kind]
    floor = 0.2 if kind in ("sedan", "hatch") else 0.25
    hood = belt - 0.08
    rear = {"sedan": belt + 0.02, "suv": belt, "hatch": belt, "van": belt}[kind]
    mesh = Mesh()
    # Lower body: sections along x with their floor, top and half width.
    body = np.array(
        [
            [-0.5, floor + 0.2, rear - 0.18, 0.86],
            [-0.475, floor + 0.06, rear - 0.02, 0.95],
            [-0.36, floor, rear + 0.01, 1.0],
            [0.0, floor, belt, 1.0],
            [0.2, floor, belt - 0.0, 1.0],
            [0.36, floor, hood, 0.98],
            [0.46, floor + 0.03, hood - 0.12, 0.93],
            [0.5, floor + 0.12, hood - 0.28, 0.8],
        ]
    )
    path = np.stack([body[:, 0] * length, np.zeros(len(body)), (body[:, 1] + body[:, 2]) / 2], -1)
    mesh.add(
        loft(path, body[:, 3] * half, (body[:, 2] - body[:, 1]) / 2, shell, power=5.5, segments=28)
    )
    mesh.add(rounded_box([0, 0, floor], (length * 0.97, half * 1.94, 0.14), 0.06, PLASTIC))
    # Greenhouse: glass all round, then a roof and pillars over it.
    glass_rear = {
        "sedan": (-0.4, -0.22),
        "suv": (-0.485, -0.42),
        "hatch": (-0.485, -0.4),
        "van": (-0.495, -0.47),
    }[kind]
    front = {"sedan": (0.2, 0.02), "suv": (0.22, 0.06), "hatch": (0.24, 0.07), "van": (0.34, 0.2)}[
        kind
    ]
    top, low = half * (0.7 if kind != "van" else 0.84), half * 0.92
    xs = (
        np.array([glass_rear[0], glass_rear[1], (glass_rear[1] + front[1]) / 2, front[1], front[0]])
        * length
    )
    tops = np.array([belt + 0.02, roof - 0.06, roof, roof - 0.05, belt + 0.02])
    for side in (1, -1):
        side_glass = [
            [x, side * (low + (top - low) * (z - belt) / (roof - belt)), z]
            for x, z in zip(xs, tops, strict=True)
        ]
        rail = shell if kind != "van" or rng.random() < 0.6 else PLASTIC
        mesh.add(tube(side_glass, 0.045, rail, segments=6))
        for share in (0.36, 0.66) if kind != "van" else (0.3, 0.55, 0.8):
            x = xs[1] + (xs[3] - xs[1]) * share
            mesh.add(
                tube(
                    [[x, side * low, belt - 0.02], [x, side * (top + 0.01), roof - 0.05]],
                    0.045,
                    shell,
                    segments=6,
                )
            )
    base = np.stack([xs, np.zeros(5), (tops + belt - 0.08) / 2], -1)
    widths = [low * 0.98, (low + top) / 2, (low + top) / 2, (low + top) / 2, low * 0.98]
    mesh.add(loft(base, widths, (tops - belt + 0.08) / 2, GLASS, power=4.5, segments=24))
    cover = np.array([xs[1] - 0.1, xs[1] + 0.1, xs[2], xs[3] - 0.12, xs[3] + 0.06])
    heights = np.array(
        [tops[1] - 0.03, tops[1] + 0.02, roof + 0.02, tops[3] + 0.02, tops[3] - 0.02]
    )
    mesh.add(
        loft(
            np.stack([cover, np.zeros(5), heights], -1),
            (low + top) / 2 * 1.0,
            0.035,
            shell,
            power=4,
        )
    )
    if kind == "van" and rng.random() < 0.5:  # panel van: closed sides
        for side in (1, -1):
            mesh.add(
                box(
                    [xs[1] * 0.45, side * (low + top) / 2, (belt + roof) / 2],
                    [length * 0.5, 0.06, (roof - belt) * 0.9],
                    shell,
                )
            )
    # Details.
    radius = 0.33 if kind != "suv" else 0.37
    for x in (0.31 * length, -0.3 * length):
        for side in (1, -1):
            mesh.add(
                tube(
                    [
                        [x, side * half * 0.7, radius + 0.02],
                        [x, side * half * 1.004, radius + 0.02],
                    ],
                    radius + 0.06,
                    PLASTIC,
                    segments=20,
                )
            )
            _road_wheel(mesh, x, side * (half - 0.09), radius, 0.21, rim)
    for side in (1, -1):
        mesh.add(
            rounded_box(
                [front[0] * length - 0.2, side * (half + 0.08), belt + 0.06],
                (0.12, 0.2, 0.13),
                0.04,
                shell,
            )
        )
        for x in (-0.05 * length, 0.16 * length):
            mesh.add(box([x, side * half * 1.0, belt - 0.18], [0.16, 0.02, 0.03], PLASTIC))
            mesh.add(
                box(
                    [x + 0.1, side * half * 0.999, (belt + floor) / 2 + 0.06],
                    [0.012, 0.008, belt - floor - 0.2],
                    PLASTIC,
                )
            )
    mesh.add(rounded_box([0.49 * length, 0, hood - 0.3], (0.1, half * 1.1, 0.2), 0.03, PLASTIC))
    _lamps(mesh, length, half, hood - 0.16, 1.0 if lights else 0.0)
    return Vehicle(mesh, length, 2 * half)


def bus(rng: np.random.Generator, *, lights: bool = False) -> Vehicle:
    """A city bus."""
    length, half, high = float(rng.uniform(8.5, 12.0)), 1.25, float(rng.uniform(2.9, 3.2))
    shell, accent = palette.paint(rng), palette.paint(rng)
    mesh = Mesh()
    mesh.add(rounded_box([0, 0, (high + 0.3) / 2], (length, 2 * half, high - 0.3), 0.18, shell))
    mesh.add(box([0, 0, 0.75], [length * 0.985, 2 * half + 0.01, 0.5], accent))
    mesh.add(rounded_box([0, 0, high - 0.95], (length * 0.96, 2 * half + 0.02, 0.9), 0.1, GLASS))
    for x in np.arange(-length / 2 + 0.4, length / 2 - 0.3, 1.4):
        mesh.add(box([x, 0, high - 0.95], [0.09, 2 * half + 0.03, 0.95], shell))
    mesh.add(
        rounded_box([length / 2 - 0.03, 0, high - 1.05], (0.1, 2 * half * 0.94, 1.35), 0.04, GLASS)
    )
    mesh.add(
        box(
            [length / 2 + 0.03, 0, high - 0.22],
            [0.02, 1.4, 0.2],
            Material((1, 0.6, 0.1), 0.5, emission=1.5),
        )
    )
    for x in (length * 0.33, -length * 0.28):
        for side in (1, -1):
            _road_wheel(mesh, x, side * (half - 0.12), 0.48, 0.28, CHROME)
    for x in (length * 0.42, 0.0):  # doors on the kerb side
        mesh.add(box([x, -half - 0.004, 1.35], [1.1, 0.02, 2.0], GLASS))
    _lamps(mesh, length, half, 0.75, 1.0 if lights else 0.0)
    return Vehicle(mesh, length, 2 * half)


def truck(rng: np.random.Generator, *, lights: bool = False) -> Vehicle:
    """A box, flat-bed or tipper lorry."""
    length, half = float(rng.uniform(5.2, 8.5)), float(rng.uniform(0.95, 1.25))
    shell, mesh = palette.paint(rng), Mesh()
    cab_high = float(rng.uniform(2.1, 2.8))
    cab = 1.7
    mesh.add(
        rounded_box(
            [length / 2 - cab / 2, 0, (cab_high + 0.5) / 2],
            (cab, 2 * half * 0.96, cab_high - 0.5),
            0.16,
            shell,
        )
    )
    mesh.add(
        rounded_box(
            [length / 2 - 0.12, 0, cab_high - 0.55], (0.3, 2 * half * 0.86, 0.72), 0.06, GLASS
        )
    )
    mesh.add(
        rounded_box(
            [length / 2 - 0.75, 0, cab_high - 0.55], (0.8, 2 * half * 0.97, 0.6), 0.06, GLASS
        )
    )
    mesh.add(rounded_box([length / 2 - 0.02, 0, 0.95], (0.12, 2 * half * 0.7, 0.35), 0.04, PLASTIC))
    bed = length - cab - 0.15
    x = -length / 2 + bed / 2
    mesh.add(box([0, 0, 0.72], [length * 0.94, 0.8, 0.2], PLASTIC))
    kind = rng.random()
    if kind < 0.55:
        top = cab_high + float(rng.uniform(-0.1, 0.7))
        cargo = Material((0.85, 0.85, 0.83), 0.5) if rng.random() < 0.6 else palette.paint(rng)
        mesh.add(box([x, 0, (top + 0.85) / 2], [bed, 2 * half, top - 0.85], cargo))
        for k in np.linspace(-0.48, 0.48, 7):
            mesh.add(
                box([x + k * bed, 0, (top + 0.85) / 2], [0.05, 2 * half + 0.03, top - 0.85], cargo)
            )
    else:
        side_h = 0.45 if kind < 0.8 else 1.1
        cargo = shell if rng.random() < 0.5 else palette.paint(rng)
        mesh.add(box([x, 0, 0.9], [bed, 2 * half, 0.12], cargo))
        for side in (1, -1):
            mesh.add(box([x, side * half, 0.9 + side_h / 2], [bed, 0.06, side_h], cargo))
            mesh.add(
                box([x + side * bed / 2, 0, 0.9 + side_h / 2], [0.06, 2 * half, side_h], cargo)
            )
        if rng.random() < 0.6:
            mesh.add(
                rounded_box(
                    [x, 0, 0.95 + side_h * 0.7],
                    (bed * 0.8, 2 * half * 0.8, side_h),
                    0.25,
                    palette.cloth(rng),
                )
            )
    for wx in (length / 2 - 0.75, -length / 2 + 1.1):
        for side in (1, -1):
            _road_wheel(mesh, wx, side * (half - 0.16), 0.45, 0.3, PLASTIC)
    _lamps(mesh, length, half, 0.8, 1.0 if lights else 0.0)
    return Vehicle(mesh, length, 2 * half)
