"""The whole daemon on a PostgreSQL that is killed in mid-run and again before its end: every alarm once, in store and feed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from alerts.store import Store
from tests.broker import mosquitto, wait_for
from tests.media import write_clip
from tests.postgres import postgres
from tests.site import RATE_HZ, Inbox, flashing_square, install_plugin

CAMERAS = ("a", "b", "c")
FLASHES = 12  # one alarm each
FLASH_S = 4.0  # half of it dark
AWAY = "database away, retrying"
PATIENCE_S = 90.0


@pytest.mark.real
@pytest.mark.timeout(400)
def test_a_database_that_is_killed_twice_costs_no_alarm_and_doubles_none(tmp_path: Path) -> None:
    flashes = (image for _ in range(FLASHES) for image in flashing_square(FLASH_S / 2, FLASH_S / 2))
    clip = write_clip(tmp_path / "flashes.mp4", flashes, rate_hz=RATE_HZ, gop=round(RATE_HZ))
    rule = {"raise_after": "500ms", "clear_after": "500ms", "cooldown": "0s"}
    environ = {**os.environ, "PYTHONPATH": str(install_plugin(tmp_path / "plugin"))}
    with postgres() as cluster, mosquitto(tmp_path / "broker") as broker:
        url = cluster.url(cluster.database())
        document = {
            "site": {"id": "town", "language": "en"},
            "host": "box-1",
            "storm": {"budget": 1000, "group_window": "0s"},
            "evidence": {"clip": False},
            "runtime": {"log_format": "json"},
            "broker": {"host": "127.0.0.1", "port": broker.port, "retry_min": "200ms"},
            "storage": {"folder": str(tmp_path / "state"), "database": url},
            "cameras": [
                {"id": name, "url": str(clip), "health": False, "scenarios": {"bright_square": rule}}
                for name in CAMERAS
            ],
        }  # fmt: skip
        file = tmp_path / "cameras.yaml"
        file.write_text(yaml.safe_dump(document))
        inbox = Inbox(broker.collect("gridwatch/town/#"))
        log = tmp_path / "daemon.log"
        with log.open("w") as output:
            command = [sys.executable, "-m", "gridwatch.cli", "run", str(file), "--once"]
            daemon = subprocess.Popen(command, stderr=output, env=environ)

        def kill_at(share: float) -> None:
            """Kill the server when this share of the alarms is out, and wait until the daemon has noticed."""
            enough = round(share * FLASHES * len(CAMERAS))
            wait_for(lambda: len(inbox.tickets()) >= enough, PATIENCE_S, f"{enough} tickets")
            told = log.read_text().count(AWAY)
            cluster.stop("immediate")
            wait_for(lambda: log.read_text().count(AWAY) > told, 30, AWAY)

        try:
            kill_at(0.2)
            cluster.start()
            kill_at(0.7)
            # Back only when the clips have ended: nothing is published meanwhile, so their own time has to tell.
            begun_s = time.monotonic()
            wait_for(lambda: time.monotonic() > begun_s + 0.3 * FLASHES * FLASH_S + 3.0, PATIENCE_S)
            cluster.start()
            assert daemon.wait(PATIENCE_S) == 0, log.read_text()[-3000:]
        finally:
            daemon.kill()
            daemon.wait(10)
        with Store(url, read_only=True) as store:
            stored = store.tickets()
            assert store.pending_count() == 0
        assert Counter(one.camera.id for one in stored) == dict.fromkeys(CAMERAS, FLASHES)
        assert {one.id for one in stored} == set(inbox.tickets())
