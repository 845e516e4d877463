"""The warn stage's threads: tickets never wait for clips, and a full disk costs evidence alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import cast

import numpy as np
from structlog.testing import capture_logs

from alerts.dispatch import Dispatch
from alerts.evidence import EvidenceStore
from alerts.rules import AlarmKey, Change, ChangeKind
from alerts.store import Store
from alerts.tickets import Ticket, seconds
from alerts.topics import Topics
from gridwatch.config import load_config
from gridwatch.engine import Engine, Outcome
from gridwatch.metrics import Metrics
from gridwatch.warner import Warner
from pipeline.capture import CameraReader
from pipeline.capture.ring import Burn, Clip
from pipeline.capture.timeline import HostClock
from pipeline.frame import Frame
from pipeline.observation import Condition

CONFIGURATION = """\
site: {{id: demo}}
storm: {{group_window: 0s}}
evidence: {{min_free: {min_free}, pre_roll: 1s, post_roll: 0s}}
cameras:
  - id: lift
    url: rtsp://h/1
    scenarios: {{ebike_in_elevator: {{}}}}
    privacy: {{masks: [[[0, 0], [0.5, 0], [0.5, 0.5]]]}}
"""


class Ring:
    """Holds everything; writing a clip takes until `go` is set, picture by picture."""

    def __init__(self, recorded_t: float = 1e12) -> None:
        self.span: tuple[float, float] | None = (0.0, recorded_t)
        self.go = threading.Event()
        self.begun = threading.Event()
        self.about: list[float | None] = []

    def clip(
        self,
        t_from: float,
        t_to: float,
        path: Path,
        burn: Burn | None = None,
        about_t: float | None = None,
    ) -> Clip:
        self.begun.set()
        self.about.append(about_t)
        while not self.go.wait(0.02):
            if burn is not None:
                burn(np.zeros((8, 8, 3), np.uint8))
        path.write_bytes(b"clip")
        return Clip(path, t_from, t_to, 4, transcoded=True)


@contextmanager
def warner(
    folder: Path,
    ring: Ring,
    min_free: str = "0B",
    at_work: Callable[[str | None], None] = lambda _camera_id: None,
) -> Iterator[tuple[Warner, Store]]:
    file = folder / "cameras.yaml"
    file.write_text(dedent(CONFIGURATION).format(min_free=min_free), encoding="utf-8")
    config = load_config(file, {})
    topics = Topics("demo")
    reader = SimpleNamespace(ring=ring, finished=False, settings=config.cameras[0].stream)
    with Store(folder / "tickets.sqlite") as store:
        made = Warner(
            config,
            store,
            EvidenceStore(config.evidence, folder / "evidence"),
            topics,
            Dispatch(config.dispatch),
            Engine(config, {}),
            {"lift": cast(CameraReader, reader)},
            {},
            people=None,
            metrics=Metrics(list),
            clock=HostClock(),
            at_work=at_work,
        )
        made.start()
        try:
            yield made, store
        finally:
            ring.go.set()
            made.close(5.0)


def alarm(subject: str) -> Outcome:
    t = time.time()
    frame = Frame("lift", t, np.full((90, 160, 3), 90, np.uint8))
    key = AlarmKey("lift", "ebike_in_elevator", subject)
    change = Change(ChangeKind.RAISED, key, t - 3, t, Condition.HOLDS, 0.9, (0.1, 0.1, 0.4, 0.4))
    return Outcome("lift", t, frame, (), [change])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def kinds(ticket: Ticket) -> list[str]:
    return sorted({item.kind for item in ticket.evidence})


def test_a_ticket_does_not_wait_for_the_clip_of_another(tmp_path: Path) -> None:
    ring = Ring()
    with warner(tmp_path, ring) as (stage, store):
        stage.take(alarm("zone:a"))
        assert ring.begun.wait(10)
        stage.take(alarm("zone:b"))
        wait_for(lambda: len(store.tickets()) == 2)
        assert [kinds(ticket) for ticket in store.tickets()] == [["picture"], ["picture"]]
        ring.go.set()
        wait_for(lambda: [kinds(ticket) for ticket in store.tickets()] == [["clip", "picture"]] * 2)
        assert store.open_evidence() == {
            item.path for ticket in store.tickets() for item in ticket.evidence
        }


def test_the_end_does_not_wait_for_a_long_clip(tmp_path: Path) -> None:
    ring = Ring()
    with warner(tmp_path, ring) as (stage, store):
        stage.take(alarm("zone:a"))
        assert ring.begun.wait(10)
        stage.take(alarm("zone:b"))
        begun_s = time.monotonic()
        with capture_logs() as logs:
            stage.close(5.0)
        assert time.monotonic() - begun_s < 3
        assert stage.fault is None
        assert [kinds(ticket) for ticket in store.tickets()] == [["picture"]] * 2
        tickets = store.tickets()
    dropped = [(log["ticket"], log["reason"]) for log in logs if "no clip" in log["event"]]
    assert {ticket for ticket, _ in dropped} == {ticket.id for ticket in tickets}
    assert {reason for _, reason in dropped} == {"the daemon ends"}


def test_the_end_cuts_young_clips_from_what_there_is(tmp_path: Path) -> None:
    ring = Ring(recorded_t=1.0)  # the post-roll is still to come
    ring.go.set()
    told: list[str | None] = []
    with warner(tmp_path, ring, at_work=told.append) as (stage, store):
        stage.take(alarm("zone:a"))
        wait_for(lambda: len(store.tickets()) == 1)
        assert not ring.begun.is_set()
        stage.close(5.0)
        assert stage.fault is None
        (ticket,) = store.tickets()
        assert kinds(ticket) == ["clip", "picture"]
        assert ring.about == [seconds(ticket.warn.raised)]
    assert told == ["lift", None], "a crash while it was cut would have been the camera's"


def test_the_clip_of_a_killed_engine_is_cut_by_the_next_one(tmp_path: Path) -> None:
    lost = Ring()
    lost.span = None  # the packets were in its memory
    with warner(tmp_path, lost) as (stage, store), capture_logs() as logs:
        stage.take(alarm("zone:a"))
        wait_for(lambda: len(store.tickets()) == 1)
        stage.close(5.0)
        (ticket,) = store.tickets()
        assert kinds(ticket) == ["picture"]
    reasons = [log["reason"] for log in logs if log["event"] == "ticket has no clip"]
    assert reasons == ["nothing was recorded"]
    ring = Ring()
    ring.go.set()
    with warner(tmp_path, ring) as (stage, store):
        wait_for(lambda: kinds(store.tickets()[0]) == ["clip", "picture"])
    with warner(tmp_path, Ring()) as (stage, store):
        stage.close(5.0)
        assert [item.kind for item in store.tickets()[0].evidence].count("clip") == 1


def test_a_full_disk_costs_the_evidence_and_not_the_host(tmp_path: Path) -> None:
    ring = Ring()
    ring.go.set()
    with warner(tmp_path, ring, min_free="1000000GB") as (stage, store):
        stage.take(alarm("zone:a"))
        stage.take(alarm("zone:b"))
        wait_for(lambda: len(store.tickets()) == 2)
        time.sleep(1.2)  # the clips are tried
        assert stage.fault is None
        assert [ticket.evidence for ticket in store.tickets()] == [(), ()]
