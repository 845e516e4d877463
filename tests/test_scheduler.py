"""Earliest deadline first, nobody starves, overload is visible and spares fire."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gridwatch import scheduler
from gridwatch.scheduler import Governor, Scheduler
from pipeline.frame import Frame

PICTURE = np.zeros((2, 2, 3), np.uint8)


class Box:
    """A mailbox in which a frame of a steady camera always waits after its period."""

    def __init__(self, camera_id: str) -> None:
        self.camera_id = camera_id
        self.rate_hz = 0.0
        self.frame: Frame | None = None
        self.waiting_since_s: float | None = None
        self.in_hand = False

    def put(self, now_s: float) -> None:
        if self.frame is None:
            self.waiting_since_s = now_s
        self.frame = Frame(self.camera_id, now_s, PICTURE, arrived_s=now_s)

    @property
    def waiting(self) -> bool:
        return self.frame is not None

    def take(self) -> Frame | None:
        frame, self.frame, self.waiting_since_s = self.frame, None, None
        self.in_hand = frame is not None
        return frame

    def done(self) -> None:
        self.in_hand = False

    def set_rate(self, rate_hz: float) -> None:
        self.rate_hz = rate_hz


def site(rates: dict[str, float], fire: tuple[str, ...] = ()) -> tuple[dict[str, Box], Scheduler]:
    boxes = {camera_id: Box(camera_id) for camera_id in rates}
    plan = Scheduler(boxes, lambda camera_id, _t: rates[camera_id], fire)
    plan.start(0.0)
    return boxes, plan


def test_the_most_urgent_comes_first() -> None:
    boxes, plan = site({"slow": 0.5, "fast": 5.0})
    for box in boxes.values():
        box.put(0.0)
    plan.next_batch(0.0)
    for box in boxes.values():
        box.put(1.0)
    assert [frame.camera_id for frame in plan.next_batch(1.0)] == ["fast", "slow"]


def test_rates_follow_the_scenarios() -> None:
    rates = {"yard": 1.0}
    boxes, plan = site(rates)
    assert boxes["yard"].rate_hz == 1.0
    rates["yard"] = 10.0
    boxes["yard"].put(1.0)
    plan.analysed(plan.next_batch(1.0)[0])
    assert boxes["yard"].rate_hz == 10.0


@given(st.lists(st.floats(0.2, 20.0), min_size=5, max_size=30))
def test_nobody_starves_however_the_rates_differ(rates: list[float]) -> None:
    boxes, plan = site({f"cam-{i}": rate for i, rate in enumerate(rates)})
    served = dict.fromkeys(boxes, 0)
    now_s = 0.0
    for _ in range(len(rates) * 200):
        now_s += 0.1
        for box in boxes.values():  # newest wins: every camera has a new frame all the time
            box.put(now_s)
        for frame in plan.next_batch(now_s):
            served[frame.camera_id] += 1
    assert min(served.values()) > 0


def test_overload_lowers_all_rates_but_fire_keeps_its_floor() -> None:
    boxes, plan = site({"yard": 4.0, "gate": 4.0}, fire=("yard",))
    now_s = 0.0
    while plan.governor.scale > scheduler.LOWEST:
        now_s += 0.5
        for box in boxes.values():
            box.put(now_s - 2.0)  # waited two seconds: deadlines are missed
        plan.next_batch(now_s)
        assert now_s < 600
    assert boxes["gate"].rate_hz == 4.0 * scheduler.LOWEST
    assert boxes["yard"].rate_hz == scheduler.FIRE_FLOOR_HZ


def test_overload_is_seen_although_the_newest_frame_wins() -> None:
    boxes, plan = site({f"cam-{i}": 5.0 for i in range(8)} | {"river": 0.2})
    now_s = 0.0
    for step in range(600):
        now_s += 0.1
        for box in boxes.values():  # frames are never older than their period ...
            if step % max(1, round(10 / max(box.rate_hz, 0.01))) == 0:
                box.put(now_s)
        if step % 10 == 0:  # ... but only four a second can be analysed
            for frame in plan.next_batch(now_s):
                plan.analysed(frame)
    assert plan.governor.scale == scheduler.LOWEST
    assert boxes["cam-0"].rate_hz == 5.0 * scheduler.LOWEST
    assert (
        boxes["river"].rate_hz == 0.2
    )  # its rule could not bear longer gaps, and little would be won


def test_a_pause_of_the_stream_is_no_overload() -> None:
    boxes, plan = site({"yard": 5.0})
    for step in range(100):
        boxes["yard"].put(step * 3.0)
        plan.next_batch(step * 3.0)
    assert plan.governor.scale == 1.0


def test_a_source_that_waits_goes_on_when_its_frame_is_analysed() -> None:
    boxes, plan = site({"file": 5.0, "live": 5.0})
    boxes["file"].put(0.0)
    (frame,) = plan.next_batch(0.0)
    assert boxes["file"].in_hand
    plan.analysed(frame)
    assert not boxes["file"].in_hand


def test_relief_raises_the_rates_again() -> None:
    governor = Governor()
    now_s = 0.0
    for missed in (True, False):
        for _ in range(2000):
            now_s += 0.1
            governor.note(now_s, missed=missed)
        assert governor.scale == (scheduler.LOWEST if missed else 1.0)


def test_cameras_under_suspicion_are_taken_one_by_one() -> None:
    boxes = {camera_id: Box(camera_id) for camera_id in ("a", "b")}
    plan = Scheduler(boxes, lambda _camera_id, _t: 1.0, batch=1)
    plan.start(0.0)
    for box in boxes.values():
        box.put(0.0)
    assert [len(plan.next_batch(0.0)) for _ in range(3)] == [1, 1, 0]
