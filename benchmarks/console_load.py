"""How soon does a published ticket show on the page? A real broker, the real console, a real reader of its stream.

    python -m benchmarks.console_load --rate 50 --seconds 20

Mosquitto is started on a free port and the console as a process of its own. Tickets with a thumbnail are published at
a steady rate; each is timed from its publication to the moment when its row has come over the server-sent events.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from alerts.tickets import Analysed, CameraRef, Captured, Ticket, Title, Warned, instant, ticket_id
from alerts.topics import Topics

__all__ = ["main"]

SITE = "load"
SETTLE_S = 5.0
THUMBNAIL_PX = (480, 270)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its figures as JSON; 1 if a ticket did not come, or p95 is 1 s or more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rate", type=float, default=50.0, help="tickets per second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--readers", type=int, default=1, help="pages that listen")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gridwatch-load-") as name:
        result = run(Path(name), chosen.rate, chosen.seconds, chosen.readers)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0 if result["missing"] == 0 and float(result["p95_ms"]) < 1000.0 else 1


def run(folder: Path, rate: float, seconds: float, readers: int) -> dict[str, float]:
    """One run.

    Args:
        folder: For broker and console.
        rate: Tickets per second.
        seconds: For how long.
        readers: How many listen; all of them are timed.
    """
    broker_port, port, token = _free_port(), _free_port(), secrets.token_urlsafe(16)
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {broker_port} 127.0.0.1\nallow_anonymous true\n")
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if found is None:
        raise SystemExit("mosquitto is not installed: apt-get install mosquitto")
    with (folder / "log").open("w") as log:
        broker = subprocess.Popen([found, "-c", str(config)], stdout=log, stderr=log)
        _wait(broker_port)
        command = [sys.executable, "-m", "gridwatch.cli", "console", "--site", SITE]
        command += ["--broker", f"127.0.0.1:{broker_port}", "--port", str(port)]
        command += ["--folder", str(folder / "console")]
        environment = {**os.environ, "GRIDWATCH_CONSOLE_TOKEN": token}
        console = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            _wait(port)
            cookie = _log_in(port, token)
            arrivals: list[dict[str, float]] = [{} for _ in range(readers)]
            for seen in arrivals:
                threading.Thread(target=_listen, args=(port, cookie, seen), daemon=True).start()
            time.sleep(SETTLE_S)
            cpu_before = _cpu_s(console.pid)
            sent = _publish(broker_port, rate, seconds)
            deadline = time.monotonic() + 15.0
            while time.monotonic() < deadline and any(len(s) < len(sent) for s in arrivals):
                time.sleep(0.1)
            cpu_s = _cpu_s(console.pid) - cpu_before
        finally:
            for process in (console, broker):
                process.terminate()
                process.wait(10)
    delays = np.array(
        [seen[one] - t for seen in arrivals for one, t in sent.items() if one in seen]
    )
    return {
        "tickets": len(sent),
        "rate_hz": round(len(sent) / seconds, 1),
        "readers": readers,
        "missing": sum(one not in seen for seen in arrivals for one in sent),
        "p50_ms": round(float(np.percentile(delays, 50)) * 1000, 1),
        "p95_ms": round(float(np.percentile(delays, 95)) * 1000, 1),
        "max_ms": round(float(delays.max()) * 1000, 1),
        "console_cpu_ms_per_ticket": round(cpu_s / len(sent) * 1000, 2),
    }


def _publish(port: int, rate: float, seconds: float) -> dict[str, float]:
    """Publish at a steady rate; the moment of each publication by the ticket's id."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    client.loop_start()
    picture = np.random.default_rng(1).integers(0, 80, (*THUMBNAIL_PX[::-1], 3), np.uint8)
    _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 35])
    thumbnail = base64.b64encode(jpeg.tobytes()).decode()
    topics = Topics(SITE)
    sent: dict[str, float] = {}
    start = time.monotonic()
    for n in range(round(rate * seconds)):
        time.sleep(max(0.0, start + n / rate - time.monotonic()))
        ticket = _ticket(time.time(), n, thumbnail)
        payload = ticket.to_json().encode()
        sent[ticket.id] = time.monotonic()
        client.publish(topics.ticket(ticket.id), payload, qos=1, retain=True)
    client.disconnect()
    client.loop_stop()
    return sent


def _ticket(t: float, n: int, thumbnail: str) -> Ticket:
    camera = f"cam-{n % 500}"
    return Ticket(
        id=ticket_id(
            site=SITE, host="box", camera_id=camera, scenario="fire", subject=str(n), since=t, t=t
        ),
        version=1,
        site=SITE,
        host="box",
        camera=CameraRef(id=camera, name=f"Camera {camera}"),
        grid=f"town/{n % 20}/{n % 7}",
        scenario="fire",
        subject=str(n),
        severity="critical",
        title=Title(zh="火情", en="Fire"),
        capture=Captured(time=instant(t)),
        analyse=Analysed(confidence=0.9, since=instant(t - 2)),
        warn=Warned(raised=instant(t), rule="holds", published=instant(t), age_s=0.1),
        created=instant(t),
        updated=instant(t),
        thumbnail=thumbnail,
    )


def _listen(port: int, cookie: str, seen: dict[str, float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/events", headers={"Cookie": cookie, "Accept": "text/event-stream"})
    response = connection.getresponse()
    for line in iter(response.readline, b""):
        now = time.monotonic()
        for match in re.finditer(rb'<li id="t-(\w+)"', line):
            seen.setdefault(match[1].decode(), now)


def _log_in(port: int, token: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", f"/login/{token}")
    answer = connection.getresponse()
    answer.read()
    return str(answer.headers["set-cookie"]).split(";")[0]


def _cpu_s(pid: int) -> float:
    """User and system time of a process so far, in seconds (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port} after {timeout_s:.0f} s")


if __name__ == "__main__":
    raise SystemExit(main())
