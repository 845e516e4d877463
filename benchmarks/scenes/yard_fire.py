"""A courtyard with bins, a shed for e-bikes and a lamp, some of which may burn: stills and the fire clip.

Blender renders the yard twice, in its own light and in the light of the fire alone; the flame itself is a fluid
(`plume.py`) painted over it, and its glow mixes the two renders, so that walls flicker with the flame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.scenes import gear, palette, rides, vehicles
from benchmarks.scenes.blender import Stage
from benchmarks.scenes.camera import FIRE_CLASSES, Camera, Label, mask_box
from benchmarks.scenes.clips import Clip, Event, ease, relative_box
from benchmarks.scenes.mesh import (
    Material,
    Mesh,
    box,
    ellipsoid,
    placement,
    prism,
    rounded_box,
    tube,
)
from benchmarks.scenes.people import Look, person, standing, walking
from benchmarks.scenes.plume import Burn, Plume, paint_plume
from benchmarks.scenes.sensor import Sensor, to_display, to_linear

__all__ = ["Yard", "burning", "clip", "furnish", "shoot", "still"]

Picture = NDArray[np.uint8]
FIRE, SMOKE = (FIRE_CLASSES.index(n) for n in ("fire", "smoke"))

_PICTURES_PER_YARD = 6
"""Consecutive seeds share a rendered yard: the render costs far more than the flame."""
_MIN_AREA_PX = 30


@dataclass(frozen=True)
class Yard:
    """Light, camera and the place that burns."""

    daylight: Literal["sun", "overcast", "dusk", "sunset", "night"]
    sun_elevation_deg: float
    sun_azimuth_deg: float
    camera: Camera
    site: tuple[float, float, float]
    """The base of the fire, metres."""

    @classmethod
    def draw(cls, seed: int, *, size: tuple[int, int]) -> Yard:
        """The yard of a seed."""
        rng = np.random.default_rng([seed, 21])
        at = (float(rng.uniform(-4, 4)), float(rng.uniform(-10, -6)), float(rng.uniform(2.2, 5.0)))
        aim = (float(rng.uniform(-1, 1)), 0.5, float(rng.uniform(0.6, 1.4)))
        light: tuple[Literal["sun", "overcast", "dusk", "sunset", "night"], ...] = (
            "sun",
            "overcast",
            "dusk",
            "sunset",
            "night",
        )
        camera = Camera(
            at, aim, float(rng.uniform(48, 80)), *size, "perspective", float(rng.normal(0, 1.5))
        )
        site = (0.0, 0.5, 0.05)
        for _ in range(50):
            tried = (float(rng.uniform(-2.8, 2.8)), float(rng.uniform(-1.5, 1.6)), 0.05)
            x, y = camera.project(np.array([tried]))[0][0]
            if 0.12 * size[0] < x < 0.88 * size[0] and 0.3 * size[1] < y < 0.95 * size[1]:
                site = tried
                break
        return cls(
            light[int(rng.choice(5, p=[0.25, 0.25, 0.2, 0.1, 0.2]))],
            float(rng.uniform(20, 60)), float(rng.uniform(180, 360)), camera, site,
        )  # fmt: skip


def _bin(rng: np.random.Generator) -> Mesh:
    tone = ((0.1, 0.3, 0.15), (0.1, 0.2, 0.4), (0.25, 0.25, 0.26), (0.5, 0.1, 0.08))[
        int(rng.integers(4))
    ]
    shell, mesh = Material(tone, 0.5), Mesh()
    mesh.add(
        prism([[-0.25, 0.08], [0.25, 0.08], [0.32, 0.98], [-0.32, 0.98]], (-0.27, 0.27), shell)
    )
    mesh.add(rounded_box([0.0, 0, 1.0], (0.7, 0.62, 0.07), 0.03, shell))
    for y in (0.22, -0.22):
        mesh.add(tube([[-0.26, y - 0.03, 0.1], [-0.26, y + 0.03, 0.1]], 0.1, palette.RUBBER))
    return mesh


def furnish(stage: Stage, yard: Yard, rng: np.random.Generator) -> None:
    """Ground, houses, shed, bins and clutter, and the yard's own light."""
    ground = Material(
        (0.42, 0.41, 0.39),
        0.85,
        pattern=str(rng.choice(["tiles", "asphalt", "speckle"])),
        scale=float(rng.choice([0.3, 0.5])),
    )
    if ground.pattern != "tiles":
        ground = replace(ground, scale=0.05)
    mesh = Mesh([box([0, 0, -0.05], [50, 50, 0.1], ground)])
    tone = rng.uniform(0.45, 0.85)
    wall = Material(
        (float(tone), float(tone * rng.uniform(0.85, 1)), float(tone * rng.uniform(0.75, 1))),
        0.9,
        pattern=str(rng.choice(["plain", "bricks", "wall_tiles"])),
        scale=0.12,
    )
    back = float(rng.uniform(3.5, 8.0))
    mesh.add(box([0, back + 2, 5], [40, 4, 10], wall))
    lit = Material((1.0, 0.8, 0.5), 0.5, emission=1.5)
    pane = Material((0.13, 0.16, 0.2), 0.1)
    dark = yard.daylight in ("dusk", "sunset", "night")
    for x in np.arange(-14, 14, float(rng.uniform(2.5, 4))):
        for z in (1.6, 4.6, 7.6):
            mesh.add(
                box(
                    [x, back - 0.02, z],
                    [1.5, 0.08, 1.4],
                    lit if dark and rng.random() < 0.3 else pane,
                )
            )
            mesh.add(box([x, back - 0.1, z - 0.76], [1.7, 0.2, 0.06], wall))
    if rng.random() < 0.5:
        side = float(rng.choice([-1, 1]))
        mesh.add(box([side * 7, 0, 1.1], [0.25, 16, 2.2], wall))
    shed_x = float(rng.uniform(-3.5, 3.5))
    if rng.random() < 0.6:  # e-bike shed
        roof = Material((0.2, 0.35, 0.55) if rng.random() < 0.5 else (0.55, 0.56, 0.56), 0.5)
        mesh.add(box([shed_x, back - 1.4, 2.35], [4.6, 2.2, 0.06], roof))
        for x in (-2.2, 0.0, 2.2):
            mesh.add(
                tube(
                    [[shed_x + x, back - 2.4, 0], [shed_x + x, back - 2.4, 2.35]],
                    0.04,
                    palette.STEEL,
                )
            )
        for k in range(int(rng.integers(2, 6))):
            ride = rides.ebike(rng) if rng.random() < 0.8 else rides.bicycle(rng)
            mesh.extend(
                ride.mesh,
                placement(
                    x=shed_x - 1.8 + 0.75 * k, y=back - 1.4, yaw=float(rng.normal(-1.57, 0.12))
                ),
            )
    x0 = float(rng.uniform(-4, 2))
    for k in range(int(rng.integers(1, 5))):
        mesh.extend(
            _bin(rng),
            placement(
                x=x0 + 0.8 * k,
                y=back - float(rng.uniform(0.5, 1.6)),
                yaw=float(rng.normal(-1.57, 0.2)),
            ),
        )
    for _ in range(int(rng.integers(0, 4))):
        mesh.extend(
            gear.carton_stack(rng).mesh,
            placement(x=float(rng.uniform(-5, 5)), y=float(rng.uniform(0, back - 0.5))),
        )
    sx, sy, _ = yard.site
    fuel = rng.random()  # what stands at the site of the fire
    if fuel < 0.35:
        mesh.extend(_bin(rng), placement(x=sx, y=sy + 0.35, yaw=-1.57))
    elif fuel < 0.6:
        mesh.extend(
            rides.ebike(rng).mesh, placement(x=sx, y=sy + 0.3, yaw=float(rng.normal(0, 0.4)))
        )
    elif fuel < 0.85:
        for _ in range(3):
            mesh.extend(
                gear.carton_stack(rng).mesh, placement(x=sx + float(rng.normal(0, 0.3)), y=sy + 0.4)
            )
    if rng.random() < 0.3:
        car = vehicles.car(rng, lights=dark and bool(rng.random() < 0.5))
        mesh.extend(
            car.mesh,
            placement(
                x=float(rng.uniform(-7, 7)),
                y=float(rng.uniform(2.0, 3.5)),
                yaw=float(rng.normal(0, 0.3)),
            ),
        )
    # Things that look like fire and are not: red cloth on a line, lanterns, warm lamps.
    if rng.random() < 0.35:
        z = float(rng.uniform(1.6, 2.2))
        x1, y1 = float(rng.uniform(-4, 1)), float(rng.uniform(0.5, back - 1))
        mesh.add(tube([[x1, y1, z], [x1 + 3.2, y1, z]], 0.008, palette.PLASTIC, segments=4))
        for k in range(int(rng.integers(2, 5))):
            color = ((0.75, 0.08, 0.06), (0.9, 0.35, 0.05), (0.85, 0.7, 0.15), (0.8, 0.8, 0.8))[
                int(rng.integers(4))
            ]
            high = float(rng.uniform(0.5, 1.1))
            mesh.add(
                box(
                    [x1 + 0.4 + 0.75 * k, y1, z - high / 2], [0.6, 0.02, high], Material(color, 0.9)
                )
            )
    if rng.random() < 0.25:
        for _ in range(int(rng.integers(1, 4))):
            x1 = float(rng.uniform(-5, 5))
            mesh.add(
                ellipsoid(
                    [x1, back - 0.4, 2.7],
                    (0.25, 0.25, 0.2),
                    Material((0.85, 0.08, 0.04), 0.6, emission=1.5 if dark else 0.0),
                )
            )
    stage.scenery(mesh)
    for _ in range(int(rng.choice([0, 1, 2], p=[0.65, 0.25, 0.1]))):
        look = Look.draw(rng)
        pose = walking(look, float(rng.random())) if rng.random() < 0.5 else standing(rng, look)
        stage.add(
            person(look, pose).moved(
                placement(
                    x=float(rng.uniform(-4, 4)),
                    y=float(rng.uniform(-3, 3)),
                    yaw=float(rng.uniform(-3, 3)),
                )
            )
        )
    if rng.random() < 0.6 or dark:
        x, y, z = float(rng.uniform(-5, 5)), back - 0.25, float(rng.uniform(2.6, 4.0))
        warm = (1.0, 0.78, 0.45) if rng.random() < 0.6 else (1.0, 0.97, 0.9)
        glow = Mesh(
            [
                ellipsoid(
                    [x, y, z],
                    (0.13, 0.13, 0.13),
                    Material(warm, 0.5, emission=8.0 if dark else 2.0),
                )
            ]
        )
        glow.add(tube([[x, y + 0.25, z + 0.15], [x, y, z + 0.15]], 0.03, palette.PLASTIC))
        stage.scenery(glow)
        stage.point_light((x, y - 0.3, z - 0.1), 90 if dark else 15, warm, 0.15)
    if yard.daylight == "sun":
        stage.sky((0.75, 0.86, 1.0), 1.0)
        stage.sun(yard.sun_elevation_deg, yard.sun_azimuth_deg, 3.6, (1.0, 0.95, 0.87))
    elif yard.daylight == "overcast":
        stage.sky((0.88, 0.92, 0.97), 1.6)
    elif yard.daylight == "sunset":
        stage.sky((0.95, 0.55, 0.38), 0.7)
        stage.sun(8, yard.sun_azimuth_deg, 2.5, (1.0, 0.5, 0.2))
    elif yard.daylight == "dusk":
        stage.sky((0.45, 0.52, 0.75), 0.45)
    else:
        stage.sky((0.3, 0.35, 0.5), 0.06)


def shoot(stage: Stage, yard: Yard) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The yard in its own light and in the fire's light alone, both linear (h, w, 3)."""
    stage.look(yard.camera)
    own = to_linear(stage.render())
    x, y, z = yard.site
    lamps = [thing for thing in stage.scene.objects if thing.type == "LIGHT"]
    for lamp in lamps:
        lamp.hide_render = True
    stage.sky((0, 0, 0), 0.0)
    stage.point_light((x, y - 0.15, z + 0.6), 380, (1.0, 0.5, 0.18), 0.35)
    fire = to_linear(stage.render())
    # Glowing things are in both renders; they must not be counted twice.
    fire[own.max(axis=-1) > 0.98] = 0
    return own, fire


@lru_cache(maxsize=1)
def _yard(
    index: int, size: tuple[int, int], samples: int
) -> tuple[Yard, NDArray[np.float32], NDArray[np.float32]]:
    yard = Yard.draw(index, size=size)
    stage = Stage(*size, samples=samples)
    furnish(stage, yard, np.random.default_rng([index, 22]))
    return (yard, *shoot(stage, yard))


_AMBIENT = {"sun": 1.0, "overcast": 0.85, "sunset": 0.6, "dusk": 0.35, "night": 0.08}


def burning(
    yard: Yard, own: NDArray[np.float32], fire: NDArray[np.float32], plume: Plume
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """The yard with the plume at its site: sRGB picture 0..1, flame mask, smoke mask."""
    glow = min(1.6, plume.glow() * 6.0) * plume.burn.diameter_m
    pixels, depth = yard.camera.project(np.array([yard.site]))
    scale = yard.camera.focal_px / float(depth[0])
    base = (float(pixels[0, 0]), float(pixels[0, 1]))
    return paint_plume(
        to_display(own + glow * fire), plume, base, scale, ambient=_AMBIENT[yard.daylight]
    )


def _box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float] | None:
    """The box of a plume: the outermost 1 % of its pixels are wisps that nobody would draw a box around."""
    ys, xs = np.nonzero(mask)
    if len(xs) < _MIN_AREA_PX:
        return None
    x1, x2 = np.quantile(xs, (0.005, 0.995))
    y1, y2 = np.quantile(ys, (0.005, 0.995))
    return float(x1), float(y1), float(x2 + 1), float(y2 + 1)


def _labels(flame: NDArray[np.bool_], smoke: NDArray[np.bool_]) -> list[Label]:
    labels = []
    fire_box, smoke_box = _box(flame), _box(smoke)
    if fire_box is not None:
        labels.append(Label(FIRE, fire_box, 1.0, flame))
    # Smoke that stays within the flame's box is a fringe of the flame, not a plume that one would label.
    if smoke_box is not None and (fire_box is None or _area(smoke_box) > 1.4 * _area(fire_box)):
        labels.append(Label(SMOKE, smoke_box, 1.0, smoke))
    return labels


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def still(
    seed: int, *, size: tuple[int, int] = (416, 234), samples: int = 8
) -> tuple[Picture, list[Label], Sensor]:
    """One training picture as rendered (h, w, 3), its labels, and the camera to degrade it with.

    About every fourth has no fire: only the lamps, red cloth or a sunset.
    """
    rng = np.random.default_rng([seed, 23])
    yard, own, fire = _yard(seed // _PICTURES_PER_YARD, size, samples)
    sensor = Sensor.draw(rng)
    if rng.random() < 0.26:
        return (to_display(own) * 255).astype(np.uint8), [], sensor
    burn = Burn.draw(rng)
    plume = Plume(burn, rng)
    grown = float(rng.uniform(0.25, 1.0))
    smoulder = rng.random() < 0.15  # smoke before flame
    if smoulder:
        plume.burn = replace(burn, heat=0.33, soot=3.5)
    for k in range(int(rng.integers(30, 110))):
        plume.step(0.05, min(grown, k / 25))
    picture, flame, smoke = burning(yard, own, fire, plume)
    return (picture * 255).astype(np.uint8), _labels(flame, smoke), sensor


# -- clip --------------------------------------------------------------------------------------------------------------

_CATCHES_S, _GROWN_S = 4.0, 13.0


def demo_yard(stage: Stage, rng: np.random.Generator, yard: Yard) -> None:
    """A tidy yard at the end of the day: a shed with e-bikes, bins, a lamp that burns steadily."""
    paving = Material((0.45, 0.43, 0.41), 0.85, pattern="tiles", scale=0.5)
    wall = Material((0.72, 0.66, 0.58), 0.9, pattern="bricks", scale=0.1)
    mesh = Mesh(
        [
            box([0, 0, -0.05], [50, 50, 0.1], paving),
            box([0, 6.5, 4.5], [40, 3, 9], wall),
            box([-7.5, 0, 1.1], [0.25, 12, 2.2], wall),
        ]
    )
    pane, lit = Material((0.13, 0.16, 0.2), 0.1), Material((1.0, 0.82, 0.55), 0.5, emission=0.9)
    for k, x in enumerate(np.arange(-9, 10, 3.0)):
        for z in (1.7, 4.6, 7.4):
            mesh.add(
                box([x, 4.98, z], [1.4, 0.08, 1.4], lit if (k, z) in ((1, 4.6), (5, 1.7)) else pane)
            )
            mesh.add(box([x, 4.9, z - 0.76], [1.6, 0.2, 0.06], wall))
    roof = Material((0.2, 0.36, 0.5), 0.5)
    mesh.add(box([2.6, 3.4, 2.4], [5.4, 2.6, 0.06], roof))
    for x in (0.0, 2.6, 5.2):
        mesh.add(tube([[x, 2.2, 0], [x, 2.2, 2.4]], 0.045, palette.STEEL))
    for k in range(6):
        mesh.extend(
            rides.ebike(rng).mesh,
            placement(x=0.5 + 0.82 * k, y=3.3, yaw=float(rng.normal(-1.57, 0.1))),
        )
    for k in range(3):
        mesh.extend(
            _bin(rng), placement(x=-3.4 + 0.85 * k, y=4.0, yaw=-1.57 + float(rng.normal(0, 0.1)))
        )
    sx, sy, _ = yard.site
    mesh.extend(gear.carton_stack(rng).mesh, placement(x=sx - 0.35, y=sy + 0.45))
    mesh.extend(gear.carton_stack(rng).mesh, placement(x=sx + 0.3, y=sy + 0.35))
    mesh.extend(_bin(rng), placement(x=sx + 1.0, y=sy + 0.3, yaw=-1.5))
    mesh.add(tube([[-3.9, 3.0, 0], [-3.9, 3.0, 2.5]], 0.06, palette.STEEL))
    mesh.add(
        ellipsoid(
            [-3.9, 3.0, 2.6], (0.17, 0.17, 0.17), Material((1.0, 0.86, 0.62), 0.5, emission=5.0)
        )
    )
    stage.scenery(mesh)
    stage.point_light((-3.9, 2.75, 2.6), 120, (1.0, 0.82, 0.55), 0.2)
    stage.sky((0.66, 0.72, 0.86), 1.05)


def clip(seed: int, *, seconds: float, fps: float, size: tuple[int, int] = (640, 360)) -> Clip:
    """A quiet yard; at 4 s something among cartons catches fire beside the shed, grows and smokes."""
    camera = Camera((-3.2, -6.4, 3.5), (-0.1, 2.0, 1.15), 56.0, *size)
    yard = Yard("dusk", 0.0, 0.0, camera, (-0.9, 1.6, 0.1))
    rng = np.random.default_rng([seed, 25])
    events: list[Event] = []

    def frames() -> Iterator[Picture]:
        stage = Stage(*size, samples=24)
        demo_yard(stage, np.random.default_rng([seed, 26]), yard)
        own, fire = shoot(stage, yard)
        quiet = (to_display(own) * 255).astype(np.uint8)
        plume = Plume(Burn(1.0, 1.2, 1.3, 0.25, 0.2), rng)
        total, steps = round(seconds * fps), max(1, int(np.ceil(20 / fps)))
        box = None
        for n in range(total):
            t = n / fps
            if t < _CATCHES_S:
                yield quiet
                continue
            for k in range(steps):
                plume.step(
                    1 / fps / steps, 0.12 + 0.88 * ease(t + k / fps / steps, _CATCHES_S, _GROWN_S)
                )
            picture, flame, smoke = burning(yard, own, fire, plume)
            if n == total - 1:
                box = mask_box(flame | smoke)
            yield (picture * 255).astype(np.uint8)
        events.append(Event("fire", _CATCHES_S, seconds, relative_box(box, size)))

    sensor = replace(
        Sensor.draw(rng),
        gain=1.05,
        gamma=0.95,
        saturation=0.95,
        infrared=False,
        vignette=0.2,
        blur_px=0.5,
        sharpen=0.5,
        noise=1.5,
    )
    return Clip("fire", seed, fps, {"fire": {}}, frames, events, sensor)
