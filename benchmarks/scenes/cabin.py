"""Elevator cabins: seed → parameters, stills with labels for the detector, and the `ebike_in_elevator` demo clip.

The cabin's floor spans x in ±width/2 and y in 0..depth; the door is in the wall y = depth and opens to a hall.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.scenes import gear, palette, rides
from benchmarks.scenes.artwork import poster
from benchmarks.scenes.blender import Blend, Item, Stage
from benchmarks.scenes.camera import VEHICLE_CLASSES, Camera, Label, mask_box
from benchmarks.scenes.clips import Clip, Event, Zone, blend, ease, relative_box
from benchmarks.scenes.mesh import Material, Mesh, box, placement, tube
from benchmarks.scenes.people import Look, Pose, person, riding, standing, walking
from benchmarks.scenes.sensor import Sensor

__all__ = ["Cabin", "Footprint", "build", "cabin_zone", "clip", "demo_cabin", "set_door", "still"]

Array = NDArray[np.float64]
Picture = NDArray[np.uint8]

PERSON, BICYCLE, EBIKE, WHEELCHAIR = (
    VEHICLE_CLASSES.index(n) for n in ("person", "bicycle", "ebike", "wheelchair")
)
_WALL_M = 0.07
_HALL_GAP_M = 0.22
_HALL_DEPTH_M = 2.6
_BODY_M = 0.2
"""Half the room that a standing person takes."""


@dataclass(frozen=True)
class Cabin:
    """One lift: sizes in metres, surfaces, light, camera."""

    width: float
    depth: float
    height: float
    door_width: float
    door_x: float
    door_open: float
    """0 shut … 1 open."""
    walls: Material
    back: Material
    floor: Material
    ceiling: Material
    doors: Material
    lamp_watts: float
    lamp_color: tuple[float, float, float]
    lamp_kind: Literal["panel", "spots", "strips"]
    hall_walls: Material
    hall_floor: Material
    hall_watts: float
    handrail: bool
    posters: int
    camera: Camera
    infrared: bool

    @classmethod
    def draw(cls, seed: int, *, size: tuple[int, int] = (448, 252)) -> Cabin:
        """The cabin of a seed; the picture is `size` pixels."""
        rng = np.random.default_rng([seed, 1])
        width, depth = float(rng.uniform(1.15, 1.75)), float(rng.uniform(1.25, 1.9))
        if rng.random() < 0.15:  # stretcher lift
            depth = float(rng.uniform(2.0, 2.4))
        height = float(rng.uniform(2.2, 2.5))
        door = float(rng.uniform(0.8, min(1.1, width - 0.2)))
        grey = float(rng.uniform(0.45, 0.8))
        steel = Material(
            (grey, grey, grey * rng.uniform(0.93, 1.03)),
            float(rng.uniform(0.25, 0.5)),
            float(rng.uniform(0.5, 0.95)),
            pattern="brushed",
            scale=0.01,
        )
        finish = rng.random()
        if finish < 0.5:
            walls = steel
        elif finish < 0.7:
            tone = rng.uniform(0.6, 1.1)
            walls = Material(
                (0.5 * tone, 0.33 * tone, 0.2 * tone), 0.45, pattern="wood", scale=0.06
            )
        else:
            tone = rng.uniform(0.4, 0.9)
            walls = Material(
                (
                    float(tone),
                    float(tone * rng.uniform(0.88, 1.0)),
                    float(tone * rng.uniform(0.7, 1.0)),
                ),
                0.5,
            )
        back = Material((0.85, 0.86, 0.87), 0.03, 1.0) if rng.random() < 0.2 else walls
        tone = float(rng.uniform(0.25, 0.75))
        floor = Material(
            (tone, tone * float(rng.uniform(0.85, 1)), tone * float(rng.uniform(0.75, 1))),
            float(rng.uniform(0.25, 0.8)),
            pattern=str(rng.choice(["tiles", "speckle", "plain", "asphalt"])),
            scale=float(rng.choice([0.3, 0.4, 0.6])),
        )
        if floor.pattern in ("speckle", "asphalt"):
            floor = replace(floor, scale=0.02)
        tone = float(rng.uniform(0.5, 0.92))
        hall_tone = rng.uniform(0.5, 0.95, 3) * [1, 0.97, 0.9]
        infrared = bool(rng.random() < 0.12)
        w, h = size
        place, side = rng.random(), float(rng.choice([-1, 1]))
        if place < 0.74:  # rear corner, towards the door
            at = (side * (width / 2 - 0.06), 0.07, height - 0.06)
            to = (
                -side * width * rng.uniform(0.0, 0.3),
                depth * rng.uniform(0.5, 0.8),
                rng.uniform(0.2, 0.8),
            )
        elif place < 0.88:  # corner beside the door, towards the back
            at = (side * (width / 2 - 0.07), depth - 0.08, height - 0.06)
            to = (
                -side * width * rng.uniform(0.0, 0.3),
                depth * rng.uniform(0.15, 0.45),
                rng.uniform(0.1, 0.6),
            )
        elif place < 0.95:  # middle of the back wall
            at = (rng.uniform(-0.1, 0.1), 0.07, height - 0.06)
            to = (0.0, depth * rng.uniform(0.5, 0.8), rng.uniform(0.1, 0.6))
        else:  # dome in the ceiling
            at = (rng.uniform(-0.2, 0.2), depth * rng.uniform(0.3, 0.6), height - 0.04)
            to = (0.0, depth * 0.62, 0.0)
        camera = Camera(
            (float(at[0]), float(at[1]), float(at[2])),
            (float(to[0]), float(to[1]), float(to[2])),
            float(rng.uniform(84, 112)),
            w,
            h,
            "equisolid" if rng.random() < 0.85 else "perspective",
            float(rng.normal(0, 3)),
        )
        return cls(
            width, depth, height, door, float(rng.uniform(-1, 1) * (width - door - 0.1) / 2),
            float(rng.choice([0.0, 1.0, rng.uniform(0.1, 0.9)], p=[0.5, 0.4, 0.1])),
            walls, back, floor, Material((tone, tone, tone), 0.5), steel,
            float(rng.uniform(22, 55)), (1.0, float(rng.uniform(0.88, 1.0)), float(rng.uniform(0.75, 1.0))),
            ("panel", "spots", "strips")[int(rng.integers(3))],
            Material(
                (float(hall_tone[0]), float(hall_tone[1]), float(hall_tone[2])), 0.7,
                pattern=str(rng.choice(["plain", "wall_tiles"])), scale=0.4,
            ),
            Material((0.55, 0.54, 0.5), 0.4, pattern="tiles", scale=0.6),
            float(rng.choice([8, 40, 120, 400], p=[0.15, 0.4, 0.3, 0.15])),
            bool(rng.random() < 0.5), int(rng.integers(0, 4)), camera, infrared,
        )  # fmt: skip


@dataclass(frozen=True)
class Footprint:
    """An oriented rectangle on the floor, metres."""

    x: float
    y: float
    yaw: float
    length: float
    width: float

    def outline(self, n: int = 7) -> Array:
        """Points on the edge, (4 n, 2)."""
        s = np.linspace(-0.5, 0.5, n)
        one = np.ones(n) * 0.5
        u = np.concatenate([s, one, s, -one]) * self.length
        v = np.concatenate([one, s, -one, s]) * self.width
        c, k = np.cos(self.yaw), np.sin(self.yaw)
        return np.stack([self.x + c * u - k * v, self.y + k * u + c * v], -1)

    def distance(self, points: Array) -> Array:
        """Distance of points (n, 2) from the rectangle; 0 inside."""
        c, k = np.cos(self.yaw), np.sin(self.yaw)
        d = points - [self.x, self.y]
        u, v = d[:, 0] * c + d[:, 1] * k, -d[:, 0] * k + d[:, 1] * c
        beyond = np.maximum(np.abs(u) - self.length / 2, 0)
        aside = np.maximum(np.abs(v) - self.width / 2, 0)
        return np.asarray(np.hypot(beyond, aside))


def _free(cabin: Cabin, points: Array, margin: float) -> bool:
    """Whether all floor points lie in the cabin, in the open doorway or in the hall."""
    x, y = points[:, 0], points[:, 1]
    inside = (np.abs(x) < cabin.width / 2 - margin) & (y > margin) & (y < cabin.depth - margin)
    if cabin.door_open > 0.75:
        doorway = (np.abs(x - cabin.door_x) < cabin.door_width / 2 * cabin.door_open - margin) & (
            y >= cabin.depth - margin
        )
        hall = (
            (y > cabin.depth + _HALL_GAP_M) & (y < cabin.depth + _HALL_DEPTH_M) & (np.abs(x) < 1.8)
        )
        inside |= (doorway & (y < cabin.depth + _HALL_DEPTH_M)) | hall
    return bool(inside.all())


def build(stage: Stage, cabin: Cabin, rng: np.random.Generator) -> list[tuple[Blend, float]]:
    """Put the empty lift and its hall on the stage.

    Returns the door leaves as (object, its shift along x in metres when the door is open); they stand shut.
    """
    w, d, h = cabin.width, cabin.depth, cabin.height
    t, door_h = _WALL_M, min(2.08, cabin.height - 0.1)
    left, right = cabin.door_x - cabin.door_width / 2, cabin.door_x + cabin.door_width / 2
    room = Mesh()
    room.add(
        box([0, d / 2, -t / 2], [w + 2 * t, d + 2 * t, t], cabin.floor),
        box([0, d / 2, h + t / 2], [w + 2 * t, d + 2 * t, t], cabin.ceiling),
        box([-w / 2 - t / 2, d / 2, h / 2], [t, d, h], cabin.walls),
        box([w / 2 + t / 2, d / 2, h / 2], [t, d, h], cabin.walls),
        box([0, -t / 2, h / 2], [w + 2 * t, t, h], cabin.back),
        box([(-w / 2 + left) / 2, d + t / 2, h / 2], [left + w / 2, t, h], cabin.doors),
        box([(w / 2 + right) / 2, d + t / 2, h / 2], [w / 2 - right, t, h], cabin.doors),
        box(
            [cabin.door_x, d + t / 2, (h + door_h) / 2],
            [cabin.door_width, t, h - door_h],
            cabin.doors,
        ),
    )
    dark = Material((0.12, 0.12, 0.13), 0.4, 0.5)
    for x in np.arange(-w / 2 + 0.02, w / 2, float(rng.uniform(0.35, 0.6))):  # panel joints
        room.add(box([x, 0.001, h / 2], [0.006, 0.004, h], dark))
    for y in np.arange(0.2, d, float(rng.uniform(0.35, 0.6))):
        for x in (-w / 2, w / 2):
            room.add(box([x, y, h / 2], [0.004, 0.006, h], dark))
    for side in (-1, 1):
        room.add(box([side * (w / 2 - 0.005), d / 2, 0.05], [0.01, d, 0.1], dark))
    if cabin.handrail:
        rail = palette.CHROME if rng.random() < 0.7 else Material((0.4, 0.25, 0.14), 0.4)
        for side in (-1, 1):
            x = side * (w / 2 - 0.05)
            room.add(tube([[x, 0.15, 0.88], [x, d - 0.15, 0.88]], 0.018, rail))
        room.add(tube([[-w / 2 + 0.15, 0.05, 0.88], [w / 2 - 0.15, 0.05, 0.88]], 0.018, rail))
    # Operating panel: on the wider return of the door wall, or on a side wall.
    panel = Material((0.1, 0.1, 0.11), 0.25, 0.4) if rng.random() < 0.6 else cabin.doors
    digit = Material((1.0, 0.35, 0.1), 0.5, emission=3.0)
    button = Material((0.7, 0.7, 0.68), 0.3, 0.7)
    gap_l, gap_r = left + w / 2, w / 2 - right
    px = -w / 2 + gap_l / 2 if gap_l > gap_r else w / 2 - gap_r / 2
    wide = min(0.2, max(gap_l, gap_r) * 0.8)
    room.add(box([px, d - 0.006, 1.25], [wide, 0.012, 1.1], panel))
    room.add(box([px, d - 0.014, 1.65], [wide * 0.5, 0.006, 0.07], digit))
    for i in range(9):
        for k in (-1, 1):
            room.add(
                box(
                    [px + k * wide * 0.22, d - 0.014, 0.95 + i * 0.065], [0.03, 0.008, 0.03], button
                )
            )
    glow = Material((1.0, 0.98, 0.94), 0.5, emission=4.0)
    if cabin.infrared:
        glow = replace(glow, emission=0.3)
    watts = cabin.lamp_watts * (0.12 if cabin.infrared else 1.0)
    if cabin.lamp_kind == "panel":
        room.add(box([0, d / 2, h - 0.01], [w * 0.55, d * 0.45, 0.02], glow))
        stage.area_light((0, d / 2, h - 0.04), (w * 0.5, d * 0.4), watts, cabin.lamp_color)
    elif cabin.lamp_kind == "strips":
        for x in (-w * 0.3, w * 0.3):
            room.add(box([x, d / 2, h - 0.01], [0.1, d * 0.7, 0.02], glow))
            stage.area_light((x, d / 2, h - 0.04), (0.1, d * 0.7), watts / 2, cabin.lamp_color)
    else:
        for x in (-w * 0.27, w * 0.27):
            for y in (d * 0.25, d * 0.75):
                room.add(tube([[x, y, h - 0.015], [x, y, h]], 0.06, glow, segments=14))
                stage.area_light((x, y, h - 0.03), (0.1, 0.1), watts / 4, cabin.lamp_color)
    if cabin.infrared:
        x, y, z = cabin.camera.location
        stage.point_light(
            (x * 0.97, y + 0.02, z - 0.05), float(rng.uniform(12, 30)), (1, 1, 1), 0.03
        )
    # Hall.
    y0, wide_hall, high = d + _HALL_GAP_M, 4.2, 2.7
    y1 = y0 + _HALL_DEPTH_M
    room.add(
        box(
            [0, (y0 + y1) / 2 - 0.1, -t / 2], [wide_hall, _HALL_DEPTH_M + 0.2, t], cabin.hall_floor
        ),
        box([0, y1 + 0.05, high / 2], [wide_hall, 0.1, high], cabin.hall_walls),
        box(
            [-wide_hall / 2, (y0 + y1) / 2, high / 2], [0.1, _HALL_DEPTH_M, high], cabin.hall_walls
        ),
        box([wide_hall / 2, (y0 + y1) / 2, high / 2], [0.1, _HALL_DEPTH_M, high], cabin.hall_walls),
        box([0, (y0 + y1) / 2, high + 0.05], [wide_hall, _HALL_DEPTH_M, 0.1], cabin.ceiling),
        box(
            [-wide_hall / 4 + left / 2, y0 - 0.05, high / 2],
            [wide_hall / 2 + left, 0.08, high],
            cabin.hall_walls,
        ),
        box(
            [wide_hall / 4 + right / 2, y0 - 0.05, high / 2],
            [wide_hall / 2 - right, 0.08, high],
            cabin.hall_walls,
        ),
        box(
            [cabin.door_x, y0 - 0.05, (high + door_h) / 2],
            [cabin.door_width, 0.08, high - door_h],
            cabin.hall_walls,
        ),
    )
    stage.area_light(
        (0, (y0 + y1) / 2, high - 0.05),
        (1.2, 0.6),
        cabin.hall_watts * (0.2 if cabin.infrared else 1.0),
        (1, 0.97, 0.9),
    )
    stage.scenery(room)
    _hang_posters(stage, cabin, rng, y1)
    leaves = []
    for y in (d + t + 0.015, y0 - 0.11):
        for side in (-1, 1):
            x = cabin.door_x + side * cabin.door_width / 4
            leaf = Mesh(
                [box([x, y, door_h / 2], [cabin.door_width / 2, 0.03, door_h], cabin.doors)]
            )
            leaves.append((stage.scenery(leaf), side * cabin.door_width / 2 * 0.98))
    stage.sky((1, 1, 1), 0.0)
    return leaves


def _hang_posters(stage: Stage, cabin: Cabin, rng: np.random.Generator, hall_y: float) -> None:
    w, d = cabin.width, cabin.depth
    for _ in range(cabin.posters):
        wide, high = float(rng.uniform(0.35, 0.6)), float(rng.uniform(0.45, 0.8))
        z = float(rng.uniform(1.0, 1.25))
        wall = rng.random()
        if wall < 0.4:
            x, y = -w / 2 + 0.008, float(rng.uniform(0.1, max(0.12, d - wide - 0.1)))
            corners = np.array(
                [[x, y, z], [x, y + wide, z], [x, y + wide, z + high], [x, y, z + high]]
            )
        elif wall < 0.8:
            x, y = w / 2 - 0.008, float(rng.uniform(0.1, max(0.12, d - wide - 0.1)))
            corners = np.array(
                [[x, y + wide, z], [x, y, z], [x, y, z + high], [x, y + wide, z + high]]
            )
        else:
            x = float(rng.uniform(-w / 2 + 0.05, w / 2 - wide - 0.05))
            corners = np.array(
                [
                    [x + wide, 0.008, z],
                    [x, 0.008, z],
                    [x, 0.008, z + high],
                    [x + wide, 0.008, z + high],
                ]
            )
        lit = float(rng.choice([0.0, 0.6], p=[0.75, 0.25])) * (0.2 if cabin.infrared else 1.0)
        stage.picture(corners, poster(rng), emission=lit, gloss=float(rng.uniform(0.1, 0.5)))
    for _ in range(int(rng.integers(0, 3))):  # notices in the hall
        x, z = float(rng.uniform(-1.0, 0.6)), float(rng.uniform(0.8, 1.3))
        y = hall_y - 0.006
        corners = np.array([[x, y, z], [x + 0.5, y, z], [x + 0.5, y, z + 0.7], [x, y, z + 0.7]])
        stage.picture(corners, poster(rng))


def set_door(leaves: list[tuple[Blend, float]], opening: float) -> None:
    """Move the leaves: 0 shut … 1 open."""
    for leaf, shift in leaves:
        leaf.location.x = shift * opening


# -- contents ----------------------------------------------------------------------------------------------------------


def _place(
    cabin: Cabin,
    rng: np.random.Generator,
    length: float,
    width: float,
    taken: list[Footprint],
    *,
    hall: bool = False,
) -> Footprint | None:
    """A free spot for a rectangle, or None."""
    for attempt in range(150):
        squeeze = 0.85 if attempt > 75 else 1.0  # bars and mirrors overhang walls' rails a little
        if hall:
            x, y = rng.uniform(-1.0, 1.0), rng.uniform(cabin.depth + 0.7, cabin.depth + 2.0)
        else:
            x = rng.uniform(-cabin.width / 2, cabin.width / 2)
            y = rng.uniform(0.1, cabin.depth * (1.15 if cabin.door_open > 0.75 else 1.0))
        spot = Footprint(
            float(x),
            float(y),
            float(rng.uniform(-np.pi, np.pi)),
            length * squeeze,
            width * squeeze * 0.85,
        )
        edge = spot.outline()
        if _free(cabin, edge, 0.02) and all(
            other.distance(edge).min() > 0.0 and spot.distance(other.outline()).min() > 0.0
            for other in taken
        ):
            return spot
    return None


def _beside(
    ride: rides.Ride, spot: Footprint, look: Look, rng: np.random.Generator, side: float
) -> tuple[Footprint, Pose]:
    """A person who holds a two-wheeler by its bars and stands at its left (side 1) or right."""
    local = np.array(
        [ride.grips[:, 0].mean() - rng.uniform(0.3, 0.5), side * (ride.width / 2 + 0.1)]
    )
    c, s = np.cos(spot.yaw), np.sin(spot.yaw)
    at = np.array([spot.x + c * local[0] - s * local[1], spot.y + s * local[0] + c * local[1]])
    grips = ride.grips - [local[0], local[1], 0]
    pose = replace(standing(rng, look), hands=grips, lean=float(rng.uniform(0.1, 0.35)))
    if rng.random() < 0.3:  # one hand only
        far = 1 if side > 0 else 0
        hands = pose.hands.copy()
        hands[far] = [0.03, (1 if far == 0 else -1) * 0.14 * look.height, 0.44 * look.height]
        pose = replace(pose, hands=hands)
    return Footprint(float(at[0]), float(at[1]), spot.yaw, 2 * _BODY_M, 2 * _BODY_M), pose


def _put(stage: Stage, mesh: Mesh, spot: Footprint, class_id: int | None) -> Item:
    return stage.add(mesh.moved(placement(x=spot.x, y=spot.y, yaw=spot.yaw)), class_id)


def _fill(stage: Stage, cabin: Cabin, rng: np.random.Generator, what: str) -> bool:
    """Put the contents into the lift; False when the main thing did not fit."""
    taken: list[Footprint] = []
    if what in ("ebike", "bicycle", "child_bicycle", "kick_scooter"):
        count = 2 if what == "ebike" and rng.random() < 0.06 else 1
        for i in range(count):
            if what == "ebike":
                ride, class_id = rides.ebike(rng, lamp_on=bool(rng.random() < 0.15)), EBIKE
            elif what == "kick_scooter":
                ride, class_id = rides.kick_scooter(rng), None
            else:
                ride, class_id = (
                    rides.bicycle(
                        rng, child=what == "child_bicycle", steer=float(rng.normal(0, 0.25))
                    ),
                    BICYCLE,
                )
            spot = _place(cabin, rng, ride.length, ride.width, taken)
            if spot is None:
                if i == 0:
                    return False
                break
            lean = float(rng.normal(0, 0.05))
            _put(stage, ride.mesh.moved(placement(roll=lean)), spot, class_id)
            taken.append(spot)
            roll = rng.random()
            look = Look.draw(
                rng,
                child=what in ("child_bicycle", "kick_scooter") and rng.random() < 0.6,
                helmet=what == "ebike" and rng.random() < 0.3,
            )
            if roll < 0.15 and what != "kick_scooter":
                grounded = ride.feet.copy()
                grounded[:, 1] *= 1.9
                grounded[:, 2] = 0.02
                _put(
                    stage, person(look, riding(look, ride.seat, grounded, ride.grips)), spot, PERSON
                )
            elif roll < 0.72:
                for side in rng.permutation([1.0, -1.0]):
                    stand, pose = _beside(ride, spot, look, rng, float(side))
                    if _free(cabin, stand.outline(), -0.05):
                        _put(stage, person(look, pose), stand, PERSON)
                        taken.append(stand)
                        break
    elif what in ("stroller", "wheelchair", "suitcase", "carton", "trolley"):
        make = {
            "stroller": gear.stroller,
            "wheelchair": gear.wheelchair,
            "suitcase": gear.suitcase,
            "carton": gear.carton_stack,
            "trolley": gear.trolley,
        }[what]
        thing = make(rng)
        spot = _place(cabin, rng, thing.length, thing.width, taken)
        if spot is None:
            return False
        _put(stage, thing.mesh, spot, WHEELCHAIR if what == "wheelchair" else None)
        taken.append(spot)
        if what != "carton" and rng.random() < 0.7:
            look = Look.draw(rng)
            back = thing.handles[:, 0].mean() - 0.34
            c, s = np.cos(spot.yaw), np.sin(spot.yaw)
            stand = Footprint(
                spot.x + c * back, spot.y + s * back, spot.yaw, 2 * _BODY_M, 2 * _BODY_M
            )
            if _free(cabin, stand.outline(), -0.03):
                pose = replace(standing(rng, look), hands=thing.handles - [back, 0, 0], lean=0.12)
                _put(stage, person(look, pose), stand, PERSON)
                taken.append(stand)
    crowd = 0 if what == "empty" else int(rng.choice([0, 1, 2, 3], p=[0.5, 0.3, 0.15, 0.05]))
    if what == "people":
        crowd = int(rng.integers(1, 5))
    for _ in range(crowd):
        look = Look.draw(rng, child=bool(rng.random() < 0.15))
        spot = _place(cabin, rng, 2 * _BODY_M, 2 * _BODY_M, taken)
        if spot is not None:
            _put(stage, person(look, standing(rng, look)), spot, PERSON)
            taken.append(spot)
    if what not in ("empty", "people") and rng.random() < 0.12:
        spot = _place(cabin, rng, 0.35, 0.4, taken)
        if spot is not None:
            _put(
                stage,
                (gear.suitcase if rng.random() < 0.5 else gear.carton_stack)(rng).mesh,
                spot,
                None,
            )
            taken.append(spot)
    if cabin.door_open > 0.75 and rng.random() < 0.4:  # somebody or something waits in the hall
        if rng.random() < 0.5:
            look = Look.draw(rng)
            spot = _place(cabin, rng, 0.4, 0.4, taken, hall=True)
            if spot is not None:
                _put(stage, person(look, standing(rng, look)), spot, PERSON)
        else:
            electric = rng.random() < 0.4
            ride = rides.ebike(rng) if electric else rides.bicycle(rng)
            spot = _place(cabin, rng, ride.length, ride.width, taken, hall=True)
            if spot is not None:
                _put(stage, ride.mesh, spot, EBIKE if electric else BICYCLE)
    return True


_CONTENTS = (
    "ebike",
    "bicycle",
    "child_bicycle",
    "kick_scooter",
    "stroller",
    "wheelchair",
    "suitcase",
    "carton",
    "trolley",
    "people",
    "empty",
)
# Under half with an e-bike. Real cabins that were taken for one held bicycles, children's bicycles and prams: these are
# as many together; wheelchairs and things on wheels follow.
_SHARES = (0.42, 0.12, 0.14, 0.03, 0.10, 0.06, 0.03, 0.02, 0.02, 0.04, 0.02)


def still(
    seed: int, *, size: tuple[int, int] = (448, 252), samples: int = 6
) -> tuple[Picture, list[Label], Sensor]:
    """One training picture as rendered (h, w, 3), its labels, and the camera to degrade it with."""
    for retry in range(20):
        rng = np.random.default_rng([seed, 2, retry])
        cabin = Cabin.draw(seed * 100 + retry, size=size)
        what = str(np.random.default_rng([seed, 3]).choice(_CONTENTS, p=_SHARES))
        stage = Stage(*size, samples=samples)
        if _fill(stage, cabin, rng, what):
            break
    leaves = build(stage, cabin, rng)
    set_door(leaves, cabin.door_open)
    stage.look(cabin.camera)
    return stage.render(), stage.labels(cabin.camera), Sensor.draw(rng, infrared=cabin.infrared)


# -- clip --------------------------------------------------------------------------------------------------------------

_OPENS_S, _ENTERS_S, _STANDS_S, _SHUTS_S = 2.5, 4.0, 8.0, 9.0
"""The door starts to open; the e-bike starts to move in; it stands; the door starts to shut."""
_DOOR_S = 1.5


def demo_cabin(seed: int, size: tuple[int, int]) -> Cabin:
    """A roomy steel cabin with the commonest camera: rear corner, wide lens, looking at the door."""
    drawn = Cabin.draw(seed, size=size)
    width, depth, height = 1.6, 1.95, 2.35
    camera = Camera(
        (width / 2 - 0.06, 0.07, height - 0.06),
        (-0.18, depth * 0.62, 0.55),
        104.0,
        *size,
        "equisolid",
    )
    steel = Material((0.66, 0.66, 0.64), 0.38, 0.7, pattern="brushed", scale=0.01)
    return replace(
        drawn, width=width, depth=depth, height=height, door_width=1.0, door_x=0.0, door_open=1.0,
        walls=steel, back=steel, doors=steel, floor=Material((0.5, 0.49, 0.46), 0.5, pattern="tiles", scale=0.4),
        lamp_watts=42.0, lamp_kind="panel", lamp_color=(1.0, 0.97, 0.92), hall_watts=90.0,
        handrail=True, posters=3, camera=camera, infrared=False,
    )  # fmt: skip


_MARGIN_PX = 22
"""Around a moving thing its contact shadow moves, too."""


def clip(seed: int, *, seconds: float, fps: float, size: tuple[int, int] = (640, 360)) -> Clip:
    """An empty lift; the door opens, somebody pushes an e-bike in, the door shuts; they stay to the end."""
    cabin = demo_cabin(seed, size)
    rng = np.random.default_rng([seed, 5])
    ride = rides.ebike(rng, "scooter", steer=0.05)
    look = Look.draw(rng)
    side = (
        1.0 if cabin.camera.location[0] < 0 else -1.0
    )  # the pusher walks beyond the e-bike, seen from the camera
    events: list[Event] = []
    start, stop = np.array([0.0, cabin.depth + 2.0]), np.array([-side * 0.18, 0.98])

    def frames() -> Iterator[Picture]:
        stage = Stage(*size, samples=8)
        leaves = build(stage, cabin, np.random.default_rng([seed, 6]))
        stage.look(cabin.camera)
        bike, walker = (
            stage.add(ride.mesh, EBIKE),
            stage.add(person(look, standing(rng, look)), PERSON),
        )
        last_key: tuple[float, ...] | None = None
        picture: Picture | None = None
        since: float | None = None
        box: tuple[float, float, float, float] | None = None
        for n in range(round(seconds * fps)):
            t = n / fps
            opening = ease(t, _OPENS_S, _OPENS_S + _DOOR_S) - ease(t, _SHUTS_S, _SHUTS_S + _DOOR_S)
            moved = ease(t, _ENTERS_S, _STANDS_S)
            # After the ride is parked: a glance back, then a look at the phone; still in between, as people are.
            glance = ease(t, 11.0, 11.8) - ease(t, 13.0, 13.8)
            phone = ease(t, 14.0, 15.0)
            key = (opening, round(moved, 4), round(glance, 2), round(phone, 2))
            if key == last_key and picture is not None:
                yield picture
                continue
            there = opening > 0 or t > _ENTERS_S
            bike.show(there)
            walker.show(there)
            at = start + (stop - start) * moved
            yaw = -np.pi / 2 + 0.1 * side * ease(t, 5.5, _STANDS_S)
            spot = placement(x=at[0], y=at[1], yaw=yaw)
            bike.replace(ride.mesh.moved(spot))
            offset = np.array(
                [float(ride.grips[:, 0].mean()) - 0.36, side * (ride.width / 2 + 0.12)]
            )
            hold = ride.grips - [offset[0], offset[1], 0]
            phase = float(np.linalg.norm(start - stop)) * moved / (2 * 0.5)
            pose = walking(look, phase, stride=0.5, hands=hold)
            rest = replace(
                standing(np.random.default_rng(seed), look), hands=hold, lean=0.12, head_yaw=0.0
            )
            pose = blend(pose, rest, ease(t, _STANDS_S - 0.5, _STANDS_S + 0.3))
            hands = hold.copy()
            hands[1 if side > 0 else 0] = [0.22 * look.height, 0.0, 0.69 * look.height]
            pose = blend(pose, replace(rest, hands=hands, lean=0.05, head_pitch=0.5), phone)
            pose = replace(pose, head_yaw=pose.head_yaw + side * 1.1 * glance)
            walker.replace(person(look, pose).moved(spot @ placement(x=offset[0], y=offset[1])))
            set_door(leaves, opening)
            # The hall's light comes in with the door, and an e-bike darkens the whole floor: only the small
            # movements at the end can be rendered alone without an edge that shows.
            if picture is None or last_key is None or key[:2] != last_key[:2]:
                picture = stage.render()
            else:
                picture = stage.render_over(
                    picture, cabin.camera.frame_box([walker.mesh], _MARGIN_PX)
                )
            last_key = key
            if since is None and at[1] - ride.length / 2 < cabin.depth and opening > 0:
                since = t
            if t > _SHUTS_S and box is None:
                box = mask_box(stage.identities() == bike.ident)
            yield picture
        if since is not None:
            events.append(Event("ebike_in_elevator", since, seconds, relative_box(box, size)))

    sensor = replace(
        Sensor.draw(rng),
        gain=1.1,
        gamma=0.95,
        saturation=0.85,
        infrared=False,
        vignette=0.3,
        blur_px=0.5,
        sharpen=0.8,
        noise=1.2,
    )
    return Clip(
        "ebike_in_elevator",
        seed,
        fps,
        {"ebike_in_elevator": {"cabin": cabin_zone(cabin)}},
        frames,
        events,
        sensor,
    )


def cabin_zone(cabin: Cabin) -> Zone:
    """The cabin's floor up to the door, as a relative polygon: what stands on it is in the lift."""
    w, d = cabin.width / 2, cabin.depth
    edge = [(-w, 0.0), (-w, d / 2), (-w, d), (0.0, d), (w, d), (w, d / 2), (w, 0.0), (0.0, 0.0)]
    return cabin.camera.relative(np.array([[x, y, 0.0] for x, y in edge]))
