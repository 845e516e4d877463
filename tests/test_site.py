"""End to end: real RTSP, the real daemon as a process, a real broker, through every failure that it promises to survive.

The scenario is a third party's (see tests/site.py), so that these tests ask nothing of a model's eye, and show that a
fifth scenario needs no change in gridwatch.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import cv2
import jsonschema
import numpy as np
import pytest
import yaml

from alerts.tickets import Outcome, Ticket, TicketCondition, TicketState, json_schema
from gridwatch.daemon import STOP_TIMEOUT_S
from tests.broker import Broker, Certificates, Collector, free_port, mosquitto, wait_for
from tests.rtsp import RtspServer, rtsp_missing
from tests.site import Daemon, Inbox, gridwatch, install_plugin, square_clip

MISSING = rtsp_missing()
pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(400),
    pytest.mark.skipif(MISSING is not None, reason=f"NOT TESTED end to end: {MISSING}"),
]

SITE = "testsite"
PREFIX = f"gridwatch/{SITE}"
CAMERA_PASSWORD = "c@m:hush/9"
BROKER_PASSWORD = "br0ker-hush"
OPERATOR_PASSWORD = "0perator-hush"
PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {
        "steady": square_clip(folder / "steady.mp4"),
        "flash": square_clip(folder / "flash.mp4", dark_s=3.0, bright_s=3.0),
    }


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    plugin = install_plugin(tmp_path / "plugin")
    return {"PYTHONPATH": str(plugin), "CAMERA_PASSWORD": quote(CAMERA_PASSWORD, safe="")}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with mosquitto(tmp_path / "broker") as running:
        yield running


def site(
    mqtt: Broker,
    *cameras: dict[str, Any],
    broker: Mapping[str, object] | None = None,
    runtime: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    connection = {"host": "127.0.0.1", "port": mqtt.port, "retry_min": "200ms", "retry_max": "1s"}
    return {
        "site": {"id": SITE, "language": "en"},
        "host": "box-1",
        "storm": {"budget": 1000, "group_window": "0s"},  # storms are another test's matter
        "evidence": {"pre_roll": "1s", "post_roll": "1s"},
        "cameras": list(cameras),
        "broker": {**connection, **(broker or {})},
        "runtime": dict(runtime or {}),
    }


def camera(
    name: str, url: str, *, scenario: str = "bright_square", **rule: object
) -> dict[str, Any]:
    parameters = {
        "raise_after": "1s",
        "clear_after": "1s",
        "cooldown": "0s",
        "max_gap": "3m",  # a restart on a busy machine takes its time
        **rule,
    }
    return {
        "id": name,
        "name": f"Camera {name}",
        "url": url,
        "grid": "jinjiang/12/3",
        "health": False,
        "scenarios": {scenario: parameters},
    }


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def assert_same(daemon: Daemon, inbox: Inbox) -> None:
    """Every stored ticket is at the subscriber in its newest version, and the subscriber has no other."""

    def versions(tickets: Sequence[Ticket]) -> dict[str, int]:
        return {ticket.id: ticket.version for ticket in tickets}

    wait_for(
        lambda: versions(daemon.tickets()) == versions(list(inbox.tickets().values())),
        PATIENCE_S,
        "the subscriber has what is stored",
    )


def assert_once(tickets: Sequence[Ticket], cycle_s: float) -> None:
    """No event has two tickets: events of the flashing clip begin at least `cycle_s` apart."""
    begun = sorted(ticket.analyse.since.timestamp() for ticket in tickets)
    assert all(b - a >= cycle_s - 0.6 for a, b in itertools.pairwise(begun)), begun


def assert_silent_about(secrets: Sequence[str], folder: Path, *texts: str | bytes) -> None:
    """None of the secrets, in no way of writing them, is in `texts` or in any file under `folder`."""
    forms = {form for s in secrets for form in (s, quote(s, safe=""), quote(s))}
    forms |= {base64.b64encode(f"viewer:{s}".encode()).decode() for s in secrets}
    files = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
    for content in [*files, *(t.encode() if isinstance(t, str) else t for t in texts)]:
        for form in forms:
            assert form.encode() not in content


def test_a_ticket_travels_from_a_camera_to_its_disposal(
    tmp_path: Path, clips: dict[str, Path], environ: dict[str, str]
) -> None:
    users = {"box": BROKER_PASSWORD, "operator": OPERATOR_PASSWORD}
    secret = tmp_path / "broker-password"
    secret.write_text(BROKER_PASSWORD + "\n")
    with (
        RtspServer({"gate": clips["steady"]}, user="viewer", password=CAMERA_PASSWORD) as rtsp,
        mosquitto(tmp_path / "broker", users=users) as broker,
    ):
        url = f"rtsp://viewer:${{CAMERA_PASSWORD}}@127.0.0.1:{rtsp.port}/gate"
        login = {"username": "box", "password_file": str(secret)}
        config = site(broker, camera("gate", url), broker=login)
        inbox = Inbox(
            broker.collect(f"{PREFIX}/#", username="operator", password=OPERATOR_PASSWORD)
        )
        with Daemon(tmp_path, config, environ) as daemon:
            (ticket,) = inbox.wait_of("gate", timeout_s=PATIENCE_S)
            check_sections(ticket)
            check_picture(ticket, daemon.state / "evidence")
            wait_for(
                lambda: any(e.kind == "clip" for e in inbox.of("gate")[0].evidence),
                PATIENCE_S,
                "the clip's version",
            )
            (ticket,) = inbox.of("gate")
            assert ticket.version > 1
            check_clip(ticket, daemon.state / "evidence")
            jsonschema.validate(json.loads(ticket.to_json()), json_schema())
            topics = {message.topic for message in inbox.messages()}
            assert {
                f"{PREFIX}/tickets/{ticket.id}",
                f"{PREFIX}/events/bright_square/warned",
                f"{PREFIX}/grids/jinjiang/12/3/inbox",
                f"{PREFIX}/cameras/gate/status",
                f"{PREFIX}/hosts/box-1/status",
            } <= topics
            look = {"username": "operator", "password": OPERATOR_PASSWORD}
            kept = broker.retained(f"{PREFIX}/tickets/+", **look)
            assert list(kept) == [f"{PREFIX}/tickets/{ticket.id}"]

            remote = ["-b", f"127.0.0.1:{broker.port}", "--site", SITE, "--user", "operator"]
            password = {"GRIDWATCH_PASSWORD": OPERATOR_PASSWORD}
            listed = gridwatch("tickets", "list", "-c", str(daemon.file), environ=environ)
            assert listed.returncode == 0, listed.stderr
            assert ticket.id in listed.stdout
            assert "Bright square" in listed.stdout
            shown = gridwatch(
                "tickets", "show", ticket.id[-6:], *remote, "-l", "zh", environ=password
            )
            assert "亮方块" in shown.stdout, shown.stderr
            acked = gridwatch("tickets", "ack", ticket.id[-6:], *remote, environ=password)
            assert acked.returncode == 0, acked.stderr
            disposed = gridwatch(
                *["tickets", "dispose", ticket.id, "--outcome", "confirmed", "--note", "gone"],
                *remote,
                environ=password,
            )
            assert disposed.returncode == 0, disposed.stderr
            again = gridwatch("tickets", "ack", ticket.id, *remote, environ=password)
            assert again.returncode == 2
            assert again.stderr.startswith("error: ")
            assert "Traceback" not in again.stderr

            (stored,) = daemon.tickets()
            assert stored.state is TicketState.DISPOSED
            assert stored.dispose.outcome is Outcome.CONFIRMED
            assert stored.dispose.acknowledged is not None
            assert stored.dispose.acknowledged.by == "operator"
            wait_for(lambda: daemon.waiting() == 0, PATIENCE_S, "an empty outbox")
            assert broker.retained(f"{PREFIX}/tickets/+", **look) == {}
            assert_same(daemon, inbox)

            status, seconds = daemon.stop()
            assert status == 0
            assert seconds < 5.0
            last = [m for m in inbox.messages() if m.topic.endswith("hosts/box-1/status")][-1]
            assert json.loads(last.payload)["reason"] == "stopped"
            assert len(inbox.tickets()) == 1
            assert_silent_about(
                [CAMERA_PASSWORD, BROKER_PASSWORD, OPERATOR_PASSWORD],
                daemon.state,
                daemon.log(),
                *(message.payload for message in inbox.messages()),
                *(done.stdout + done.stderr for done in (listed, shown, acked, disposed, again)),
            )


def check_sections(ticket: Ticket) -> None:
    """The four sections of a fresh ticket are filled, and their times follow one another."""
    assert (ticket.site, ticket.host, ticket.grid) == (SITE, "box-1", "jinjiang/12/3")
    assert ticket.camera.name == "Camera gate"
    assert (ticket.title.zh, ticket.title.en) == ("亮方块", "Bright square")
    assert (ticket.severity, ticket.condition) == ("major", TicketCondition.HOLDING)
    assert (ticket.capture.width_px, ticket.capture.height_px) == (320, 180)
    since, raised = ticket.analyse.since, ticket.warn.raised
    assert since < raised <= ticket.warn.published
    assert abs((raised - ticket.capture.time).total_seconds()) < 0.01
    assert (raised - since).total_seconds() >= 0.74  # raise_after less one gap at 4 Hz
    assert abs(ticket.warn.published.timestamp() - time.time()) < 120
    assert ticket.warn.age_s < 60
    decision = ticket.analyse.decision
    assert decision is not None
    assert (decision.code, ticket.warn.rule) == ("raised", decision.reason)
    assert len(decision.samples) >= 2
    assert ticket.analyse.confidence == pytest.approx(0.9)
    (box,) = ticket.analyse.boxes
    assert box.xyxy == pytest.approx((100 / 320, 40 / 180, 200 / 320, 120 / 180), abs=0.02)
    assert ticket.dispose.outcome is None


def check_picture(ticket: Ticket, folder: Path) -> None:
    """The picture and the thumbnail show the square; the file is what the ticket says it is."""
    assert ticket.thumbnail is not None
    jpeg = base64.b64decode(ticket.thumbnail)
    assert len(jpeg) <= 64 * 1024
    pictures = [item for item in ticket.evidence if item.kind == "picture"]
    assert pictures
    for item in pictures:
        content = (folder / item.path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == item.sha256
        assert len(content) == item.size_bytes
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture[60:100, 120:180].mean() > 200
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) is not None


def check_clip(ticket: Ticket, folder: Path) -> None:
    """The clip plays from its first picture on and spans the alarm."""
    (item,) = (item for item in ticket.evidence if item.kind == "clip")
    assert item.media_type == "video/mp4"
    assert hashlib.sha256((folder / item.path).read_bytes()).hexdigest() == item.sha256
    raised_s = ticket.warn.raised.timestamp()
    assert item.end.timestamp() > raised_s
    with av.open(str(folder / item.path)) as container:
        frames = list(container.decode(video=0))
        assert frames[0].key_frame
        assert not container.streams.audio
        length_s = float(frames[-1].time - frames[0].time)
    assert length_s == pytest.approx(item.end.timestamp() - item.start.timestamp(), abs=3 / 10)
    assert length_s > 1.0
    assert frames[0].to_ndarray(format="bgr24").shape == (180, 320, 3)


def test_a_camera_that_restarts_goes_on_and_repeats_no_alarm(
    tmp_path: Path, clips: dict[str, Path], environ: dict[str, str], broker: Broker
) -> None:
    with RtspServer({"steady": clips["steady"], "flash": clips["flash"]}) as rtsp:
        cameras = [camera(name, rtsp.url(name)) for name in ("steady", "flash")]
        inbox = Inbox(broker.collect(f"{PREFIX}/#"))
        with Daemon(tmp_path, site(broker, *cameras), environ) as daemon:
            (before,) = inbox.wait_of("steady", timeout_s=PATIENCE_S)
            inbox.wait_of("flash", timeout_s=PATIENCE_S)
            rtsp.stop()
            # First it may be told that the camera ended the stream; then that nobody is there.
            inbox.wait_status(
                "steady",
                lambda s: s["state"] == "backing_off" and "refused" in s["reason"],
                PATIENCE_S,
            )
            rtsp.start()
            back_t = time.time()
            inbox.wait_status("flash", lambda s: s["reconnects"] >= 1, PATIENCE_S)
            wait_for(
                lambda: any(t.warn.raised.timestamp() > back_t for t in inbox.of("flash")),
                PATIENCE_S,
                "an alarm after the restart",
            )
            inbox.wait_status(
                "steady", lambda s: s["state"] == "running" and s["reconnects"] >= 1, PATIENCE_S
            )
            known = len(inbox.of("flash"))
            inbox.wait_of("flash", known + 1, PATIENCE_S)  # a whole cycle of pictures later
            (after,) = inbox.of("steady")
            assert after.id == before.id
            assert_once(inbox.of("flash"), 6.0 - 3.0)
            assert_same(daemon, inbox)
            assert [entry["camera"] for entry in daemon.events("camera back")].count("steady") == 1

            rtsp.freeze()  # a camera that hangs must not hold up the end
            try:
                status, seconds = daemon.stop()
            finally:
                rtsp.thaw()
            assert (status, seconds < 5.0) == (0, True), seconds


def test_no_ticket_is_lost_or_doubled_over_a_broker_that_goes_away(
    tmp_path: Path, clips: dict[str, Path], environ: dict[str, str], broker: Broker
) -> None:
    with RtspServer({"steady": clips["steady"], "flash": clips["flash"]}) as rtsp:
        cameras = [camera(name, rtsp.url(name)) for name in ("steady", "flash")]
        inbox = Inbox(broker.collect(f"{PREFIX}/#"))
        with Daemon(tmp_path, site(broker, *cameras), environ) as daemon:
            inbox.wait_of("steady", timeout_s=PATIENCE_S)
            for end in (broker.stop, broker.kill):
                end()
                known = len(daemon.tickets())
                wait_for(
                    lambda known=known: len(daemon.tickets()) > known,  # type: ignore[misc]
                    PATIENCE_S,
                    "a ticket that is stored while there is no broker",
                )
                assert daemon.waiting() > 0
                broker.start()
                assert_same(daemon, inbox)
            assert len(inbox.of("steady")) == 1
            assert_once(inbox.of("flash"), 6.0)
            open_topics = {f"{PREFIX}/tickets/{t.id}" for t in daemon.tickets() if t.is_open}
            wait_for(lambda: daemon.waiting() == 0, PATIENCE_S, "an empty outbox")
            assert set(broker.retained(f"{PREFIX}/tickets/+")) >= open_topics
            broker.stop()  # without one, too
            status, seconds = daemon.stop()
            assert (status, seconds < 5.0) == (0, True), seconds


def test_kill_9_costs_no_ticket_and_no_dwell(
    tmp_path: Path, clips: dict[str, Path], environ: dict[str, str], broker: Broker
) -> None:
    dwell_s = 12.0
    with RtspServer({"steady": clips["steady"]}) as rtsp:
        cameras = [
            camera("open", rtsp.url("steady")),
            camera("pending", rtsp.url("steady"), raise_after=dwell_s),
        ]
        inbox = Inbox(broker.collect(f"{PREFIX}/#"))
        with Daemon(tmp_path, site(broker, *cameras), environ) as daemon:
            inbox.wait_of("open", timeout_s=PATIENCE_S)
            time.sleep(dwell_s / 2 - 1)  # the pending dwell is now about half full
            assert not inbox.of("pending")
            killed_t = time.time()
            daemon.kill_engine()
            daemon.wait_for_run(2)
            (late,) = inbox.wait_of("pending", timeout_s=PATIENCE_S)
            since_t, raised_t = late.analyse.since.timestamp(), late.warn.raised.timestamp()
            decision = late.analyse.decision
            assert decision is not None
            times = [sample.t for sample in decision.samples]
            outage_s = max(b - a for a, b in itertools.pairwise(times))
            assert since_t < killed_t - 2
            # The outage is unknown time: it counts neither for nor against, and what was held before still counts.
            assert raised_t - since_t - outage_s == pytest.approx(dwell_s, abs=2.5)
            assert decision.held_s == pytest.approx(dwell_s, abs=1.0)

            daemon.kill_supervisor()
            daemon.start()
            inbox.wait_status(
                "open", lambda s: s["state"] == "running" and s["t"] > raised_t, PATIENCE_S
            )
            time.sleep(3)  # thrice raise_after: a forgotten alarm would be raised again by now
            assert_same(daemon, inbox)
            assert [len(inbox.of(name)) for name in ("open", "pending")] == [1, 1]
            status, seconds = daemon.stop()
            assert (status, seconds < 5.0) == (0, True), seconds


def test_a_camera_that_crashes_the_engine_is_set_aside_and_the_others_go_on(
    tmp_path: Path, clips: dict[str, Path], environ: dict[str, str], broker: Broker
) -> None:
    with RtspServer({"steady": clips["steady"], "bad": clips["steady"]}) as rtsp:
        bad = camera("bad", rtsp.url("bad"), scenario="native_crash")
        bad["health"] = {"dead_after": "2s", "raise_after": "1s"}
        # The dwell is longer than an engine with the bad camera lives.
        good = camera("good", rtsp.url("steady"), raise_after="4s")
        inbox = Inbox(broker.collect(f"{PREFIX}/#"))
        with Daemon(tmp_path, site(broker, good, bad), environ) as daemon:
            (ticket,) = inbox.wait_of("bad", timeout_s=150.0)
            assert (ticket.scenario, ticket.subject) == ("camera_health", "dead")
            assert "SIGSEGV" in str(ticket.analyse.detail["reason"])
            status = inbox.wait_status("bad", lambda s: s["state"] == "quarantined")
            assert "SIGSEGV" in status["reason"]
            inbox.wait_of("good", timeout_s=PATIENCE_S)
            assert {entry["camera"] for entry in daemon.events("engine died and is restarted")} <= {
                "bad",
                None,
            }
            assert inbox.statuses("good")[-1]["state"] == "running"
            assert_same(daemon, inbox)
            assert daemon.stop()[0] == 0


def test_what_is_wrong_is_said_in_a_line_and_the_rest_goes_on(
    tmp_path: Path, clips: dict[str, Path], environ: dict[str, str]
) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("This is no film.\n")
    registry = tmp_path / "registry.yaml"
    registry.write_text(
        yaml.safe_dump(
            {
                "schema": 1,
                "models": {
                    "fire": {
                        "file": "other.onnx",
                        "sha256": "0" * 64,
                        "input_px": [64, 64],
                        "classes": ["fire", "smoke"],
                        "licence": "Apache-2.0",
                    }
                },
            }
        )
    )
    (tmp_path / "other.onnx").write_bytes(b"not the registered weights")
    certificates = Certificates.make(tmp_path / "certificates")
    strangers = Certificates.make(tmp_path / "strangers")
    with (
        RtspServer({"steady": clips["steady"]}, user="viewer", password=CAMERA_PASSWORD) as rtsp,
        mosquitto(tmp_path / "imposter", certificates=strangers) as imposter,
    ):
        good_url = f"rtsp://viewer:${{CAMERA_PASSWORD}}@127.0.0.1:{rtsp.port}/steady"
        locked = camera("locked", good_url.replace(":${", ":wrong${"))
        locked["health"] = {"dead_after": "2s", "raise_after": "1s"}
        smoke = camera("smoke", good_url, scenario="fire")
        config = site(
            imposter,
            camera("good", good_url),
            locked,
            camera("text", str(text)),
            smoke,
            broker={"tls": {"ca": str(certificates.ca)}},
            runtime={"registry": str(registry)},
        )
        with Daemon(tmp_path, config, environ) as daemon:
            wait_for(
                lambda: {"good", "locked"} <= {t.camera.id for t in daemon.tickets()},
                PATIENCE_S,
                "tickets in the store",
            )
            dead = next(t for t in daemon.tickets() if t.camera.id == "locked")
            assert (dead.scenario, dead.subject) == ("camera_health", "dead")
            assert "refuses the login" in str(dead.analyse.detail["reason"])
            (unusable,) = daemon.events("model unusable")
            assert "expected 000000000000…" in unusable["reason"]
            assert unusable["cameras"] == ["smoke"]
            wait_for(lambda: "certificate" in daemon.log(), PATIENCE_S, "a word on the certificate")
            assert daemon.waiting() > 0

            # The right broker takes the place of the wrong one: what waited arrives.
            imposter.stop()
            plain = free_port()
            with mosquitto(
                tmp_path / "broker",
                port=imposter.port,
                certificates=certificates,
                extra=[f"listener {plain} 127.0.0.1"],
            ):
                wait_for(lambda: listens(plain), PATIENCE_S, "the broker's plain listener")
                collector = Collector(plain, f"{PREFIX}/#", client_id="plain")
                inbox = Inbox(collector)
                try:
                    assert_same(daemon, inbox)
                    ended = inbox.wait_status("text", lambda s: s["state"] == "ended")
                    assert str(text) in ended["reason"]
                    faults = inbox.wait_status("smoke", lambda s: s["faults"])["faults"]
                    assert "fire" in faults
                    assert inbox.wait_status("good", lambda s: s["state"] == "running")
                finally:
                    collector.close()
            second = gridwatch("run", str(daemon.file), environ=environ)
            assert second.returncode == 2
            assert f"another gridwatch (process {daemon.pid}) runs on this store" in second.stderr
            assert len(second.stderr.splitlines()) == 1
            status, seconds = daemon.stop()
            assert (status, seconds < 5.0) == (0, True), seconds
            assert "Traceback" not in daemon.log()
            for camera_id in ("locked", "text"):
                said = [
                    entry
                    for entry in map(json.loads, daemon.log().splitlines())
                    if entry.get("camera") == camera_id and entry["level"] in ("warning", "error")
                ]
                assert len(said) == 1, said
            assert_silent_about([CAMERA_PASSWORD], daemon.state, daemon.log())


def test_an_empty_polygon_is_refused_with_its_line(tmp_path: Path, environ: dict[str, str]) -> None:
    file = tmp_path / "cameras.yaml"
    file.write_text(
        "site: {id: s}\n"
        "cameras:\n"
        "  - id: gate\n"
        "    url: rtsp://viewer:${CAMERA_PASSWORD}@127.0.0.1:1/x\n"
        "    scenarios:\n"
        "      bright_square:\n"
        "        zone: []\n"
    )
    done = gridwatch("run", str(file), environ=environ)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {file}:7: cameras[0].scenarios.bright_square.zone: ")
    assert "at least 3 points, found 0" in line
    assert_silent_about([CAMERA_PASSWORD], tmp_path / "plugin", done.stderr)


def test_the_promise_of_five_seconds_leaves_the_supervisor_its_share() -> None:
    assert STOP_TIMEOUT_S < 5.0


def test_the_servers_absence_is_loud() -> None:
    if os.environ.get("CI"):
        assert MISSING is None, f"CI must install the RTSP server: {MISSING}"
