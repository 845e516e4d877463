"""Hard cases for `ebike_in_elevator`: what is pushed into a lift and must, or must not, raise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.scenes import gear, rides
from benchmarks.scenes.blender import Stage
from benchmarks.scenes.cabin import Cabin, build, cabin_zone, demo_cabin, set_door
from benchmarks.scenes.camera import Camera, mask_box
from benchmarks.scenes.clips import Clip, Event, Picture, blend, ease, relative_box
from benchmarks.scenes.mesh import Mesh, placement
from benchmarks.scenes.people import Look, person, standing, walking
from benchmarks.scenes.sensor import Sensor

__all__ = ["CASES"]

_OPENS_S, _ENTERS_S, _STANDS_S, _SHUTS_S, _DOOR_S = 1.0, 2.0, 5.5, 6.0, 1.2
SECONDS, FPS = 15.0, 4.0


@dataclass(frozen=True)
class _Load:
    """What is brought in: its mesh, where it is held, and how far beside or behind it one walks."""

    mesh: Mesh
    grips: NDArray[np.float64]
    length: float
    beside: float
    """0 for what is pushed from behind."""


def _ride(ride: rides.Ride) -> _Load:
    return _Load(ride.mesh, ride.grips, ride.length, ride.width / 2 + 0.12)


def _gear(thing: gear.Gear) -> _Load:
    return _Load(thing.mesh, thing.handles, thing.length, 0.0)


_LOADS: dict[str, Callable[[np.random.Generator], _Load | None]] = {
    "ebike": lambda rng: _ride(rides.ebike(rng)),
    "bicycle": lambda rng: _ride(rides.bicycle(rng)),
    "child_bicycle": lambda rng: _ride(rides.bicycle(rng, child=True)),
    "stroller": lambda rng: _gear(gear.stroller(rng)),
    "wheelchair": lambda rng: _gear(gear.wheelchair(rng, occupied=True)),
    "suitcase": lambda rng: _gear(gear.suitcase(rng)),
    "trolley": lambda rng: _gear(gear.trolley(rng)),
    "people": lambda _rng: None,
}


def _cabin(seed: int, size: tuple[int, int], *, infrared: bool) -> Cabin:
    """A cabin of drawn surfaces and size; the camera hangs in a rear corner and sees the whole door."""
    drawn, roomy = Cabin.draw(seed, size=size), demo_cabin(seed, size)
    rng = np.random.default_rng([seed, 41])
    width, depth = float(rng.uniform(1.45, 1.75)), float(rng.uniform(1.8, 2.1))
    side = float(rng.choice([-1.0, 1.0]))
    camera = Camera(
        (side * (width / 2 - 0.06), 0.07, roomy.height - 0.06),
        (-side * 0.15, depth * 0.62, 0.5),
        float(rng.uniform(96, 108)),
        *size,
        "equisolid",
    )
    return replace(
        drawn, width=width, depth=depth, height=roomy.height, door_width=1.0, door_x=0.0,
        door_open=1.0, camera=camera, infrared=infrared,
    )  # fmt: skip


def _clip(name: str, seed: int, size: tuple[int, int]) -> Clip:
    what, _, variant = name.partition("_at_")
    infrared, in_hall = variant == "night", variant == "hall"
    cabin = _cabin(seed, size, infrared=infrared)
    rng = np.random.default_rng([seed, 42])
    load, look = _LOADS[what](rng), Look.draw(rng)
    side = 1.0 if cabin.camera.location[0] < 0 else -1.0
    events: list[Event] = []
    # What stays in the hall is left there, to be seen through the open door.
    start = np.array([0.0, cabin.depth + 2.0])
    stop = np.array([-side * 0.15, cabin.depth + 0.75 if in_hall else 0.95])

    def frames() -> Iterator[Picture]:
        stage = Stage(*size, samples=6)
        leaves = build(stage, cabin, np.random.default_rng([seed, 43]))
        stage.look(cabin.camera)
        thing = stage.add(load.mesh, 0) if load is not None else None
        walker = stage.add(person(look, standing(rng, look)), 0)
        second = stage.add(person(look, standing(rng, look)), 0) if load is None else None
        rest = replace(standing(np.random.default_rng(seed), look), head_yaw=0.0)
        last: tuple[float, ...] | None = None
        picture: Picture | None = None
        since: float | None = None
        box = None
        for n in range(round(SECONDS * FPS)):
            t = n / FPS
            moved = ease(t, _ENTERS_S, _STANDS_S)
            shut = ease(t, _SHUTS_S + 3.0 * in_hall, _SHUTS_S + _DOOR_S + 3.0 * in_hall)
            door = ease(t, _OPENS_S, _OPENS_S + _DOOR_S) - shut
            glance = ease(t, 8.0, 8.5) - ease(t, 9.5, 10.0)
            key = (round(door, 3), round(moved, 3), round(glance, 2))
            if picture is not None and key == last:
                yield picture
                continue
            last = key
            at = start + (stop - start) * moved
            spot = placement(x=at[0], y=at[1], yaw=-np.pi / 2)
            phase = float(np.linalg.norm(start - stop)) * moved
            if load is not None and thing is not None:
                thing.replace(load.mesh.moved(spot))
                back = float(load.grips[:, 0].mean()) - 0.36
                offset = np.array([back, side * load.beside])
                hands = load.grips - [offset[0], offset[1], 0]
                pose = walking(look, phase, stride=0.5, hands=hands)
                pose = blend(pose, replace(rest, hands=hands, lean=0.12), ease(t, 5.0, 5.8))
            else:
                offset = np.zeros(2)
                pose = blend(walking(look, phase), rest, ease(t, 5.0, 5.8))
            pose = replace(pose, head_yaw=pose.head_yaw + side * 1.1 * glance)
            body = person(look, pose)
            walker.replace(body.moved(spot @ placement(x=offset[0], y=offset[1])))
            if second is not None:
                second.replace(body.moved(spot @ placement(x=-0.35, y=-0.5)))
            set_door(leaves, door)
            picture = stage.render()
            inside = load is not None and at[1] - load.length / 2 < cabin.depth
            if since is None and what == "ebike" and inside and not in_hall and door > 0:
                since = t
            if t >= _STANDS_S and box is None and thing is not None:
                box = mask_box(stage.identities() == thing.ident)
            yield picture
        if since is not None:
            events.append(Event("ebike_in_elevator", since, SECONDS, relative_box(box, size)))

    sensor = replace(Sensor.draw(rng, infrared=infrared), text=(), noise=2.0, blur_px=0.5)
    return Clip(
        f"cabin-{name}",
        seed,
        FPS,
        {"ebike_in_elevator": {"cabin": cabin_zone(cabin)}},
        frames,
        events,
        sensor,
        ("night",) if infrared else (),
    )


CASES = {
    f"cabin-{name}": (lambda size, name=name, seed=seed: _clip(name, seed, size))
    for name, seed in {
        "ebike": 501,
        "ebike_at_night": 502,
        "ebike_at_hall": 503,
        "bicycle": 504,
        "child_bicycle": 505,
        "stroller": 506,
        "wheelchair": 507,
        "suitcase": 508,
        "trolley": 509,
        "people": 510,
    }.items()
}
"""By name: a function of the picture's size. Only the first two contain an event."""
