"""Hard cases for `illegal_parking`: queues, drop-offs and traffic that hides what stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.scenes import vehicles
from benchmarks.scenes.blender import Stage
from benchmarks.scenes.camera import VEHICLE_CLASSES, Camera, mask_box
from benchmarks.scenes.clips import Clip, Event, Picture, ease, relative_box
from benchmarks.scenes.mesh import Mesh, placement
from benchmarks.scenes.sensor import Sensor
from benchmarks.scenes.street import KERB_LANE_M, LANES_Y, Street, build, merged

__all__ = ["CASES"]

CAR, TRUCK = VEHICLE_CLASSES.index("car"), VEHICLE_CLASSES.index("truck")
SECONDS, FPS = 24.0, 4.0
DWELL_S = 8.0
_MARGIN_PX = 14


Path = Callable[[float], tuple[float, float, float] | None]
"""Where something is at a time: x and y in metres, yaw in radians; None out of sight."""


@dataclass(frozen=True)
class _Way:
    """A vehicle and where it goes."""

    mesh: Mesh
    class_id: int
    at: Path


def _driving(lane: int, x0: float, speed: float, start_s: float) -> Path:
    def at(t: float) -> tuple[float, float, float] | None:
        x = x0 + speed * (t - start_s)
        return (
            (x, LANES_Y[lane], 0.0 if speed > 0 else np.pi)
            if -16 < x < 42 and t >= start_s
            else None
        )

    return at


def _stopping(x_stop: float, y_stop: float, leaves_s: float) -> Path:
    """Pulls over within 5 s, stands, and drives on at `leaves_s`."""

    def at(t: float) -> tuple[float, float, float] | None:
        arrive = min(1.0, t / 5.0)
        x = x_stop - 30.0 * (1 - arrive) ** 2
        y = LANES_Y[0] + (y_stop - LANES_Y[0]) * (
            ease(t, 1.5, 4.4) - ease(t, leaves_s, leaves_s + 3)
        )
        if t > leaves_s:
            x += 1.3 * (t - leaves_s) ** 2
        return (x, y, 0.0) if x < 42 else None

    return at


def _queueing(x_stop: float, start_s: float, goes_s: float) -> Path:
    """Waits in the driving lane beside the marked zone, as at a red light."""

    def at(t: float) -> tuple[float, float, float] | None:
        s = np.clip((t - start_s) / 4.0, 0, 1)
        x = x_stop - 26.0 * (1 - s) ** 2
        if t > goes_s:
            x += 1.1 * (t - goes_s) ** 2
        return (float(x), LANES_Y[0], 0.0) if t >= start_s and x < 42 else None

    return at


def _cast(name: str, rng: np.random.Generator) -> tuple[list[_Way], tuple[float, float] | None]:
    """The vehicles of a case, and when the first one stands in the zone for longer than the dwell."""

    def car(kind: str) -> Mesh:
        return vehicles.car(rng, kind).mesh

    if name == "stop":
        ways = [
            _Way(car("hatch"), CAR, _stopping(1.8, 1.25, 99.0)),
            _Way(car("suv"), CAR, _driving(0, -16.0, 9.0, 9.0)),
            _Way(car("sedan"), CAR, _driving(1, 40.0, -10.0, 6.0)),
        ]
        return ways, (5.0, SECONDS)
    if name == "stop_behind_traffic":
        ways = [_Way(car("sedan"), CAR, _stopping(2.0, 1.25, 99.0))]
        ways += [
            _Way(vehicles.truck(rng).mesh, TRUCK, _driving(0, -16.0, 6.5, start))
            for start in (5.0, 10.5, 16.0)
        ]
        ways.append(_Way(car("van"), CAR, _driving(0, -16.0, 7.0, 8.0)))
        return ways, (5.0, SECONDS)
    if name == "drop_off":
        return [
            _Way(car("sedan"), CAR, _stopping(1.8, 1.25, 5.0 + DWELL_S - 1.5)),
            _Way(car("suv"), CAR, _driving(1, 40.0, -9.0, 3.0)),
        ], None
    queue = [
        _Way(car(kind), CAR, _queueing(x, start, 18.0 + 0.8 * k))
        for k, (kind, x, start) in enumerate(
            (("suv", 7.0, 0.0), ("sedan", 1.2, 1.5), ("hatch", -4.2, 3.0))
        )
    ]
    return queue, None


def _clip(name: str, seed: int, size: tuple[int, int]) -> Clip:
    rng = np.random.default_rng([seed, 51])
    camera = Camera(
        (float(rng.uniform(-10, -8)), float(rng.uniform(-4.2, -3.2)), float(rng.uniform(5.4, 6.6))),
        (2.0, 2.1, 0.2), float(rng.uniform(58, 66)), *size,
    )  # fmt: skip
    street = Street("overcast", 45.0, 200.0, (-2.6, 6.2), camera, int(rng.integers(0, 5)))
    ways, stands = _cast(name, rng)
    events: list[Event] = []

    def frames() -> Iterator[Picture]:
        stage = Stage(*size, samples=6)
        build(stage, street, np.random.default_rng([seed, 52]))
        stage.look(camera)
        away = placement(x=-90.0)
        items = [stage.add(way.mesh, way.class_id) for way in ways]
        for item in items:
            item.place(away)
        empty = stage.render()
        last: list[tuple[float, float, float] | None] = []
        picture, box = empty, None
        for n in range(round(SECONDS * FPS)):
            t = n / FPS
            places = [way.at(t) for way in ways]
            if places != last:
                for item, place in zip(items, places, strict=True):
                    x, y, yaw = place if place is not None else (-90.0, 0.0, 0.0)
                    item.place(placement(x=x, y=y, yaw=yaw))
                seen = [i.mesh for i, p in zip(items, places, strict=True) if p is not None]
                picture = empty
                for region in merged([camera.frame_box([mesh], _MARGIN_PX) for mesh in seen]):
                    picture = stage.render_over(picture, region)
                last = places
            if stands is not None and t >= stands[0] and box is None:
                box = mask_box(stage.identities() == items[0].ident)
            yield picture
        if stands is not None:
            events.append(Event("illegal_parking", *stands, relative_box(box, size)))

    a, b = street.zone_x
    zone = camera.relative([[a, 0.1, 0], [a, KERB_LANE_M, 0], [b, KERB_LANE_M, 0], [b, 0.1, 0]])
    sensor = replace(Sensor.draw(rng), text=(), gain=1.1, noise=1.5, blur_px=0.5)
    parking = {"raise_after": f"{DWELL_S:g}s", "zones": {"no_parking": zone}}
    return Clip(f"street-{name}", seed, FPS, {"illegal_parking": parking}, frames, events, sensor)


CASES = {
    f"street-{name}": (lambda size, name=name, seed=seed: _clip(name, seed, size))
    for name, seed in {
        "stop": 521,
        "stop_behind_traffic": 522,
        "drop_off": 523,
        "queue": 524,
    }.items()
}
"""By name: a function of the picture's size. Only the stops contain an event."""
