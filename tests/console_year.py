"""A console's mirror with a generated year of tickets, all labelled as simulated: something to look at, no result."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import sqlalchemy as sa

from alerts.tickets import ticket_id
from console.database import Database, statuses, tickets

__all__ = ["CAMERAS", "UNWELL", "add_statuses", "add_year", "clip_picture"]

DAY_S = 86_400.0
CLIPS = Path(__file__).parent.parent / "gridwatch" / "clips"

# Camera, name, micro-grid, scenario, tickets a day, share of false alarms.
CAMERAS: Sequence[tuple[str, str, str, str, float, float]] = (
    ("elevator-3", "3 号楼电梯", "jinjiang/12/3", "ebike_in_elevator", 6.0, 0.006),
    ("elevator-7", "7 号楼电梯", "jinjiang/12/4", "ebike_in_elevator", 4.5, 0.004),
    ("elevator-11", "11 号楼电梯", "jinjiang/13/2", "ebike_in_elevator", 5.0, 0.045),
    ("gate-east", "东门消防通道", "jinjiang/12/4", "illegal_parking", 7.0, 0.009),
    ("gate-west", "西门消防通道", "jinjiang/13/1", "illegal_parking", 5.5, 0.02),
    ("lane-5", "5 号院通道", "jinjiang/14/1", "illegal_parking", 3.0, 0.01),
    ("yard-2", "2 号院车棚", "jinjiang/12/3", "fire", 0.5, 0.05),
    ("yard-9", "9 号院车棚", "jinjiang/14/2", "fire", 0.4, 0.02),
    ("river-1", "府河排口", "jinjiang/13/1", "river_discoloration", 0.8, 0.03),
)
# Cameras with each kind of trouble; the others are well.
UNWELL: dict[str, dict[str, Any]] = {
    "river-1": {"unknown": {"river_discoloration": "warming_up"}},
    "elevator-11": {"state": "quarantined", "reason": "was killed by SIGSEGV"},
    "gate-west": {"rate_hz": 1.6},
}
TITLES = {
    "ebike_in_elevator": ("电动车进入电梯", "E-bike in elevator", "major"),
    "illegal_parking": ("车辆违规停放", "Illegally parked vehicle", "minor"),
    "fire": ("火情", "Fire", "critical"),
    "river_discoloration": ("河道水体变色", "River discoloration", "major"),
}


def clip_picture(scenario: str, at_s: float = 9.0) -> bytes:
    """A picture of the demo's simulated clip, (180, 320) JPEG."""
    with av.open(str(CLIPS / f"{scenario}.mp4")) as container:
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time >= at_s:
                break
        picture = cv2.resize(frame.to_ndarray(format="bgr24"), (640, 360))
    return bytes(cv2.imencode(".jpg", picture)[1].tobytes())


def add_year(database: Database, now: float, *, days: int = 365, pictures: bool = True) -> int:
    """Fill the mirror; gives the number of tickets."""
    rng = random.Random(7)
    thumbnails = {name: clip_picture(name) for name in TITLES} if pictures else {}
    rows: list[dict[str, Any]] = []
    for camera, name, grid, scenario, per_day, wrong in CAMERAS:
        newest: dict[str, Any] = {}
        for day in range(days):
            for _ in range(_poisson(rng, per_day * (1 + 0.25 * math.sin(day / 58)))):
                hour = rng.choices(
                    range(24),
                    [
                        1 + 5 * math.exp(-((h - 8) ** 2) / 6) + 7 * math.exp(-((h - 18.5) ** 2) / 8)
                        for h in range(24)
                    ],
                )[0]
                local_midnight = math.floor((now + 8 * 3600) / DAY_S) * DAY_S - 8 * 3600
                t = local_midnight - (days - 1 - day) * DAY_S + hour * 3600 + rng.random() * 3600
                if t > now:
                    continue
                row = _row(rng, t, now, camera, name, grid, scenario, wrong)
                rows.append(row)
                if row["raised_t"] > newest.get("raised_t", 0.0):
                    newest = row
        if newest:
            newest["thumbnail"] = thumbnails.get(scenario)
    with database.write() as connection:
        for start in range(0, len(rows), 1000):
            connection.execute(sa.insert(tickets), rows[start : start + 1000])
    return len(rows)


def _row(
    rng: random.Random, t: float, now: float, camera: str, name: str, grid: str, scenario: str, wrong: float
) -> dict[str, Any]:  # fmt: skip
    zh, en, severity = TITLES[scenario]
    acknowledged = t + rng.lognormvariate(4.3, 0.9)
    dispatched = acknowledged + rng.lognormvariate(5.0, 0.8)
    disposed = dispatched + rng.lognormvariate(7.6, 1.1)
    draw = rng.random()
    outcome = "false_alarm" if draw < wrong else "duplicate" if draw > 0.985 else "confirmed"
    times = {
        "acknowledged_t": acknowledged if acknowledged <= now else None,
        "dispatched_t": dispatched if dispatched <= now else None,
        "disposed_t": disposed if disposed <= now else None,
    }
    is_open = times["disposed_t"] is None
    done = [key.removesuffix("_t") for key, value in times.items() if value is not None]
    identity = ticket_id(
        site="demo", host="demo-host", camera_id=camera, scenario=scenario, subject="s", since=t, t=t
    )  # fmt: skip
    return {
        "id": identity, "version": 1 + len(done), "site": "demo", "host": "demo-host",
        "camera": camera, "camera_name": name, "grid": grid, "scenario": scenario,
        "severity": severity, "state": done[-1] if done else "warned",
        "condition": "holding" if is_open else "cleared", "outcome": None if is_open else outcome,
        "is_open": is_open, "simulated": True, "confidence": 0.9, "title_zh": zh, "title_en": en,
        "capture_t": t, "raised_t": t, "published_t": t + 0.3, **times,
        "updated_t": max([t, *(v for v in times.values() if v)]), "received_t": t + 0.5,
        "search": f"{zh} {name} {camera}".lower(), "document": "{}", "thumbnail": None,
    }  # fmt: skip


def add_statuses(database: Database, now: float, special: dict[str, dict[str, Any]]) -> None:
    """A status of every camera, running but for what `special` says, and one of the host."""
    import json

    documents = [
        ("camera", camera, {"camera": camera, "state": "running", "reason": "", "t": now - 12,
         "host": "demo-host", "last_frame_t": now - 1.5, "rate_wanted_hz": 4.0, "rate_hz": 4.0,
         "faults": {}, "unknown": {}, **special.get(camera, {})})
        for camera, *_ in CAMERAS
    ]  # fmt: skip
    host = {"host": "demo-host", "status": "online", "reason": None, "since": now - 90_000}
    with database.write() as connection:
        for kind, subject, document in [*documents, ("host", "demo-host", host)]:
            connection.execute(
                sa.insert(statuses).values(
                    site="demo", kind=kind, subject=subject, t=now, received_t=now,
                    document=json.dumps(document),
                )
            )  # fmt: skip


def _poisson(rng: random.Random, mean: float) -> int:
    limit, product, count = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count
