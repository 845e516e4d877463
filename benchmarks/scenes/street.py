"""A street seen from a pole, with a kerb where nobody may stop: stills and the parking clip.

The road runs along x. The pavement is y < 0; the kerb lane spans y 0..2.6, then a lane to +x and one to −x.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.scenes import rides, vehicles
from benchmarks.scenes.artwork import poster
from benchmarks.scenes.blender import Item, Stage
from benchmarks.scenes.camera import VEHICLE_CLASSES, Camera, Label, mask_box
from benchmarks.scenes.clips import Clip, Event, ease, relative_box
from benchmarks.scenes.mesh import Material, Mesh, box, ellipsoid, placement, tube
from benchmarks.scenes.people import Look, person, riding, standing, walking
from benchmarks.scenes.sensor import Sensor

__all__ = ["KERB_LANE_M", "LANES_Y", "Street", "build", "clip", "merged", "still"]

Picture = NDArray[np.uint8]
PERSON, BICYCLE, EBIKE, CAR, BUS, TRUCK = (
    VEHICLE_CLASSES.index(n) for n in ("person", "bicycle", "ebike", "car", "bus", "truck")
)

KERB_LANE_M, LANE_M = 2.6, 3.3
LANES_Y = (KERB_LANE_M + LANE_M / 2, KERB_LANE_M + LANE_M * 1.5)
_ROAD_M = KERB_LANE_M + 2 * LANE_M + 0.4


@dataclass(frozen=True)
class Street:
    """Light, camera and dressing of one street."""

    daylight: Literal["sun", "overcast", "dusk", "night"]
    sun_elevation_deg: float
    sun_azimuth_deg: float
    zone_x: tuple[float, float]
    """Where the no-parking marking begins and ends along the kerb, metres."""
    camera: Camera
    trees: int

    @classmethod
    def draw(cls, seed: int, *, size: tuple[int, int]) -> Street:
        """The street of a seed."""
        rng = np.random.default_rng([seed, 11])
        from_left = rng.random() < 0.5
        x = float(rng.uniform(8, 13)) * (-1 if from_left else 1)
        y = float(rng.uniform(-5, -0.5)) if rng.random() < 0.7 else float(rng.uniform(9.5, 12))
        aim = (
            float(rng.uniform(-1, 3)) * (1 if from_left else -1),
            float(rng.uniform(1.5, 4.5)),
            0.4,
        )
        camera = Camera(
            (x, y, float(rng.uniform(3.8, 7.5))),
            aim,
            float(rng.uniform(50, 85)),
            *size,
            "perspective",
            float(rng.normal(0, 1.5)),
        )
        light: tuple[Literal["sun", "overcast", "dusk", "night"], ...] = (
            "sun",
            "overcast",
            "dusk",
            "night",
        )
        return cls(
            light[int(rng.choice(4, p=[0.4, 0.3, 0.15, 0.15]))], float(rng.uniform(25, 65)), float(rng.uniform(0, 360)),
            (float(rng.uniform(-5, -2)), float(rng.uniform(3, 7))), camera, int(rng.integers(0, 6)),
        )  # fmt: skip


def _tree(rng: np.random.Generator, x: float, y: float) -> Mesh:
    mesh = Mesh()
    high = float(rng.uniform(3.2, 5.5))
    bark = Material((0.25, 0.19, 0.14), 0.9)
    mesh.add(tube([[x, y, 0], [x + rng.normal(0, 0.1), y, high * 0.6]], [0.13, 0.08], bark))
    for _ in range(9):
        tone = rng.uniform(0.7, 1.2)
        leaf = Material((0.16 * tone, 0.27 * tone, 0.09 * tone), 0.9, pattern="grass", scale=0.12)
        at = [x + rng.normal(0, 0.6), y + rng.normal(0, 0.6), high * rng.uniform(0.6, 1.0)]
        mesh.add(ellipsoid(at, rng.uniform(0.5, 1.0, 3), leaf, segments=9, rings=6))
    return mesh


def build(stage: Stage, street: Street, rng: np.random.Generator) -> None:
    """Put road, kerb, marking, buildings, trees and light on the stage."""
    asphalt = Material((0.3, 0.3, 0.31), 0.85, pattern="asphalt", scale=0.05)
    paving = Material((0.55, 0.53, 0.5), 0.8, pattern="tiles", scale=0.4)
    line, yellow = Material((0.8, 0.8, 0.78), 0.7), Material((0.85, 0.65, 0.1), 0.7)
    ground = Mesh()
    ground.add(
        box([0, _ROAD_M / 2, -0.05], [120, _ROAD_M, 0.1], asphalt),
        box([0, -3.5, 0.0], [120, 7, 0.24], paving),
        box([0, _ROAD_M + 3, 0.0], [120, 6, 0.24], paving),
        box([0, -0.08, 0.01], [120, 0.16, 0.26], Material((0.66, 0.65, 0.62), 0.8)),
    )
    for x in np.arange(-45, 45, 4.0):
        ground.add(box([x, KERB_LANE_M + LANE_M, 0.002], [2.0, 0.12, 0.005], line))
    ground.add(box([0, KERB_LANE_M, 0.002], [110, 0.12, 0.005], line))
    ground.add(box([0, _ROAD_M - 0.25, 0.002], [110, 0.12, 0.005], line))
    a, b = street.zone_x  # yellow cross-hatching, as no-parking areas are painted
    for y in (0.15, KERB_LANE_M - 0.2):
        ground.add(box([(a + b) / 2, y, 0.004], [b - a, 0.12, 0.006], yellow))
    for x in (a, b):
        ground.add(box([x, KERB_LANE_M / 2, 0.004], [0.12, KERB_LANE_M - 0.3, 0.006], yellow))
    for x in np.arange(a + 0.9, b - 0.5, 1.3):
        ground.add(
            box([x, KERB_LANE_M / 2, 0.004], [0.1, KERB_LANE_M * 1.05, 0.006], yellow, yaw=0.65)
        )
    for _ in range(int(rng.integers(2, 6))):  # patches and stains
        tone = float(rng.uniform(0.26, 0.38))
        ground.add(
            box(
                [rng.uniform(-20, 20), rng.uniform(0.5, _ROAD_M - 1), 0.0025],
                [rng.uniform(0.6, 4), rng.uniform(0.5, 1.6), 0.002],
                Material((tone, tone, tone), 0.9),
            )
        )
    stage.scenery(ground)
    town = Mesh()
    for y, away in ((-7.5, -1.0), (_ROAD_M + 6.5, 1.0)):
        x = -50.0
        while x < 50:
            wide, high = float(rng.uniform(7, 16)), float(rng.uniform(4, 16))
            bright = rng.uniform(0.45, 0.85, 3)
            red, green, blue = (
                bright.mean() + (bright - bright.mean()) * 0.35
            )  # houses are hardly coloured
            wall = Material(
                (float(red), float(green), float(blue)),
                0.85,
                pattern=str(rng.choice(["plain", "bricks", "wall_tiles"])),
                scale=0.12,
            )
            town.add(box([x + wide / 2, y + away * 3, high / 2], [wide, 6, high], wall))
            lit = (
                Material((1.0, 0.85, 0.55), 0.5, emission=1.2)
                if street.daylight in ("dusk", "night")
                else GLASSY
            )
            for wx in np.arange(x + 1, x + wide - 1, 2.4):
                for wz in np.arange(1.6, high - 1, 3.0):
                    pane = lit if rng.random() < 0.4 else GLASSY
                    town.add(box([wx + 0.6, y + away * 0.0, wz], [1.3, 0.06, 1.5], pane))
            x += wide + float(rng.uniform(0, 2))
    pole = Material((0.35, 0.36, 0.38), 0.5, 0.6)
    for x in (-18.0, -1.5, 15.0):
        town.add(
            tube(
                [[x, _ROAD_M + 0.6, 0], [x, _ROAD_M + 0.6, 6.2], [x, _ROAD_M - 1.2, 6.5]],
                0.07,
                pole,
            )
        )
        if street.daylight in ("dusk", "night"):
            town.add(
                box(
                    [x, _ROAD_M - 1.2, 6.44],
                    [0.5, 0.3, 0.06],
                    Material((1, 0.85, 0.6), 0.5, emission=8.0),
                )
            )
            stage.area_light((x, _ROAD_M - 1.2, 6.4), (0.5, 0.3), 700, (1.0, 0.82, 0.58))
    for _ in range(street.trees):
        side = -1.4 if rng.random() < 0.6 else _ROAD_M + 1.4
        x = float(rng.uniform(-14, 16))
        if (
            np.hypot(x - street.camera.location[0], side - street.camera.location[1]) > 7
        ):  # never before the lens
            town.extend(_tree(rng, x, side))
    if rng.random() < 0.5:  # railing along the pavement
        x0, x1 = sorted(rng.uniform(-25, 20, 2))
        for z in (0.5, 0.95):
            town.add(tube([[x0, -0.5, z], [x1, -0.5, z]], 0.025, pole, segments=6))
        for x in np.arange(x0, x1, 1.5):
            town.add(tube([[x, -0.5, 0], [x, -0.5, 1.0]], 0.03, pole, segments=6))
    stage.scenery(town)
    for _ in range(int(rng.integers(1, 4))):
        x, z = float(rng.uniform(-15, 15)), 2.2
        y = _ROAD_M + 6.4
        stage.picture(
            np.array([[x, y, z], [x + 2.4, y, z], [x + 2.4, y, z + 1.2], [x, y, z + 1.2]]),
            poster(rng, width=240, height=120),
            emission=0.3,
        )
    if street.daylight == "sun":
        stage.sky((0.75, 0.86, 1.0), 1.1)
        stage.sun(street.sun_elevation_deg, street.sun_azimuth_deg, 4.2, (1.0, 0.95, 0.87))
    elif street.daylight == "overcast":
        stage.sky((0.88, 0.92, 0.97), 1.7)
    elif street.daylight == "dusk":
        stage.sky((0.5, 0.55, 0.75), 0.5)
    else:
        stage.sky((0.3, 0.35, 0.5), 0.045)


GLASSY = Material((0.12, 0.15, 0.18), 0.1)


def _traffic(stage: Stage, street: Street, rng: np.random.Generator) -> None:
    dark = street.daylight in ("dusk", "night")
    slots: list[tuple[float, float, float]] = []  # lane y, x, half length
    for lane, y in enumerate((KERB_LANE_M / 2 - 0.1, *LANES_Y)):
        heading = 0.0 if lane < 2 else np.pi
        for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.25, 0.35, 0.25, 0.15]))):
            x = float(rng.uniform(-12, 12))
            roll = rng.random()
            if roll < 0.66:
                thing, class_id = vehicles.car(rng, lights=dark and lane > 0), CAR
            elif roll < 0.76:
                thing, class_id = vehicles.truck(rng, lights=dark), TRUCK
            elif roll < 0.83 and lane > 0:
                thing, class_id = vehicles.bus(rng, lights=dark), BUS
            else:
                _rider(stage, rng, x, y + float(rng.normal(0, 0.4)), heading, dark)
                slots.append((y, x, 1.2))
                continue
            if any(oy == y and abs(ox - x) < oh + thing.length / 2 + 0.6 for oy, ox, oh in slots):
                continue
            slots.append((y, x, thing.length / 2))
            stage.add(
                thing.mesh.moved(
                    placement(
                        x=x,
                        y=y + float(rng.normal(0, 0.15)),
                        yaw=heading + float(rng.normal(0, 0.03)),
                    )
                ),
                class_id,
            )
    for _ in range(int(rng.integers(0, 5))):
        look = Look.draw(rng, child=bool(rng.random() < 0.12))
        y = float(
            rng.choice(
                [
                    rng.uniform(-4, -0.7),
                    rng.uniform(_ROAD_M + 0.8, _ROAD_M + 4),
                    rng.uniform(0.5, _ROAD_M),
                ],
                p=[0.6, 0.25, 0.15],
            )
        )
        z = 0.0 if 0 < y < _ROAD_M else 0.12
        pose = walking(look, float(rng.random())) if rng.random() < 0.7 else standing(rng, look)
        yaw = float(rng.choice([0, np.pi]) + rng.normal(0, 0.4))
        stage.add(
            person(look, pose).moved(placement(x=float(rng.uniform(-9, 9)), y=y, z=z, yaw=yaw)),
            PERSON,
        )
    for _ in range(int(rng.integers(0, 4))):
        if rng.random() < 0.55:  # parked two-wheelers
            electric = rng.random() < 0.65
            ride = rides.ebike(rng) if electric else rides.bicycle(rng)
            at = placement(
                x=float(rng.uniform(-8, 8)),
                y=float(rng.uniform(-2.2, -0.9)),
                z=0.12,
                yaw=float(rng.normal(1.57, 0.4)),
                roll=0.08,
            )
            stage.add(ride.mesh.moved(at), EBIKE if electric else BICYCLE)
        else:
            _rider(
                stage,
                rng,
                float(rng.uniform(-9, 9)),
                float(rng.uniform(0.4, _ROAD_M - 0.6)),
                float(rng.choice([0, np.pi])),
                dark,
            )


def _rider(
    stage: Stage, rng: np.random.Generator, x: float, y: float, heading: float, dark: bool
) -> None:
    electric = rng.random() < 0.75
    ride = rides.ebike(rng, lamp_on=dark) if electric else rides.bicycle(rng)
    look = Look.draw(rng, helmet=bool(rng.random() < 0.5))
    at = placement(x=x, y=y, yaw=heading + float(rng.normal(0, 0.08)))
    stage.add(ride.mesh.moved(at), EBIKE if electric else BICYCLE)
    stage.add(person(look, riding(look, ride.seat, ride.feet, ride.grips)).moved(at), PERSON)


def still(
    seed: int, *, size: tuple[int, int] = (448, 252), samples: int = 6
) -> tuple[Picture, list[Label], Sensor]:
    """One training picture as rendered (h, w, 3), its labels, and the camera to degrade it with."""
    rng = np.random.default_rng([seed, 12])
    street = Street.draw(seed, size=size)
    stage = Stage(*size, samples=samples)
    _traffic(stage, street, rng)
    build(stage, street, rng)
    stage.look(street.camera)
    infrared = street.daylight == "night" and bool(rng.random() < 0.4)
    sensor = Sensor.draw(rng, infrared=infrared)
    if street.daylight == "night":
        sensor = replace(sensor, gain=sensor.gain * 1.4, noise=sensor.noise + 2)
    return stage.render(), stage.labels(street.camera), sensor


# -- clip --------------------------------------------------------------------------------------------------------------

_PULLS_OVER_S, _STANDS_S = 1.5, 5.0
"""The offender leaves its lane; it stands."""
_STOP_X = 1.6
_MARGIN_PX = 16
"""Around a vehicle its soft shadow moves, too."""


def _passing(start_s: float, from_x: float, speed_m_s: float, t: float) -> float:
    """Where something is along the road at `t`: it enters at `start_s`; before that it waits out of sight."""
    return from_x + speed_m_s * (t - start_s)


def clip(seed: int, *, seconds: float, fps: float, size: tuple[int, int] = (640, 360)) -> Clip:
    """Traffic passes; a car pulls over into the marked zone and stays; a walker passes before it, cars behind it."""
    camera = Camera((-9.0, -3.6, 5.6), (2.0, 2.1, 0.2), 60.0, *size)
    street = Street("overcast", 45.0, 200.0, (-2.6, 6.2), camera, 3)
    rng = np.random.default_rng([seed, 15])
    events: list[Event] = []

    def frames() -> Iterator[Picture]:
        stage = Stage(*size, samples=8)
        build(stage, street, np.random.default_rng([seed, 16]))
        stage.look(camera)
        offender = stage.add(vehicles.car(rng, "sedan").mesh, CAR)
        # (item, height of its path y, start x, speed, time at start x, yaw)
        passing = [
            (stage.add(vehicles.car(rng, "suv").mesh, CAR), LANES_Y[0], -6.0, 9.0, 0.0, 0.0),
            (stage.add(vehicles.car(rng, "hatch").mesh, CAR), LANES_Y[1], 38.0, -10.0, 2.0, np.pi),
            (stage.add(vehicles.car(rng, "sedan").mesh, CAR), LANES_Y[0], -16.0, 8.5, 8.0, 0.0),
            (stage.add(vehicles.truck(rng).mesh, TRUCK), LANES_Y[1], 40.0, -9.0, 11.0, np.pi),
            (stage.add(vehicles.car(rng, "van").mesh, CAR), LANES_Y[0], -16.0, 9.0, 16.0, 0.0),
        ]
        ride, helmeted = rides.ebike(rng, "scooter"), Look.draw(rng, helmet=True)
        rider = person(helmeted, riding(helmeted, ride.seat, ride.feet, ride.grips))
        for mesh, class_id in ((ride.mesh, EBIKE), (rider, PERSON)):
            passing.append((stage.add(mesh, class_id), KERB_LANE_M + 0.5, -14.0, 5.5, 12.5, 0.0))
        look = Look.draw(rng)
        walker = stage.add(person(look, walking(look, 0.0)), PERSON)
        away = placement(x=-90.0)
        movers = [item for item, *_ in passing]
        for item in (offender, walker, *movers):
            item.place(away)
        empty = stage.render()
        parked: Picture | None = None
        box = None
        for n in range(round(seconds * fps)):
            t = n / fps
            moving = []
            for item, y, x0, speed, start, yaw in passing:
                x = _passing(start, x0, speed, t)
                seen = -14 < x < 42 and t >= start
                item.place(placement(x=x, y=y, yaw=yaw) if seen else away)
                if seen:
                    moving.append(item)
            step = 1.25 * (t - 7.0)
            if 0 <= step < 16:
                stride = placement(x=8.0 - step, y=-0.75, z=0.12, yaw=np.pi)
                walker.replace(person(look, walking(look, step / 1.3)).moved(stride))
                moving.append(walker)
            elif t >= 7.0:
                walker.place(away)
            if t <= _STANDS_S:
                s = t / _STANDS_S
                x = _STOP_X - 30.0 * (1 - s) ** 2  # constant braking
                shift = ease(t, _PULLS_OVER_S, _STANDS_S - 0.6)
                y = LANES_Y[0] + (1.25 - LANES_Y[0]) * shift
                turn = ease(t, _PULLS_OVER_S, _STANDS_S - 1.2) - ease(
                    t, _STANDS_S - 1.6, _STANDS_S - 0.3
                )
                offender.place(placement(x=x, y=y, yaw=-0.16 * turn))
                moving.append(offender)
                base = empty
            else:
                if parked is None:
                    parked = stage.render_over(
                        empty, camera.frame_box([offender.mesh], 2 * _MARGIN_PX)
                    )
                    for item in moving:
                        parked = erase(stage, parked, item, away, camera)
                base = parked
            picture = base
            for region in merged([camera.frame_box([item.mesh], _MARGIN_PX) for item in moving]):
                picture = stage.render_over(picture, region)
            if t >= _STANDS_S and box is None:
                box = mask_box(stage.identities() == offender.ident)
            yield picture
        events.append(Event("illegal_parking", _STANDS_S, seconds, relative_box(box, size)))

    a, b = street.zone_x
    zone = camera.relative([[a, 0.1, 0], [a, KERB_LANE_M, 0], [b, KERB_LANE_M, 0], [b, 0.1, 0]])
    sensor = replace(
        Sensor.draw(rng),
        gain=1.1,
        gamma=0.95,
        saturation=0.9,
        infrared=False,
        vignette=0.15,
        blur_px=0.5,
        sharpen=0.6,
        noise=1.2,
    )
    parking = {"raise_after": "6s", "zones": {"no_parking": zone}}
    return Clip("illegal_parking", seed, fps, {"illegal_parking": parking}, frames, events, sensor)


def erase(
    stage: Stage, picture: Picture, item: Item, away: NDArray[np.float64], camera: Camera
) -> Picture:
    """`picture` without a passer-by, who stays where he was on the stage."""
    region, here = camera.frame_box([item.mesh], 2 * _MARGIN_PX), item.object.matrix_world.copy()
    mesh = item.mesh
    item.place(away)
    out = stage.render_over(picture, region)
    item.object.matrix_world, item.mesh = here, mesh
    return out


def merged(
    boxes: list[tuple[float, float, float, float]],
) -> list[tuple[float, float, float, float]]:
    """Boxes with those that overlap joined, so that nothing is rendered twice or cut."""
    out: list[tuple[float, float, float, float]] = []
    for joined in boxes:
        while True:
            touching = [
                o
                for o in out
                if o[0] < joined[2] and joined[0] < o[2] and o[1] < joined[3] and joined[1] < o[3]
            ]
            if not touching:
                break
            out = [o for o in out if o not in touching]
            every = [joined, *touching]
            joined = (
                min(o[0] for o in every),
                min(o[1] for o in every),
                max(o[2] for o in every),
                max(o[3] for o in every),
            )
        out.append(joined)
    return out
