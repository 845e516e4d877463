"""How soon does a published ticket show on the page? A real broker, the real console, real readers.

    python -m benchmarks.console_load --rate 50 --seconds 20
    python -m benchmarks.console_load --rate 50 --seconds 20 --browser

Mosquitto is started on a free port and the console as a process of its own. Tickets with a thumbnail are published at
a steady rate; each is timed from its publication to the moment when its row has come over the server-sent events, and
with ``--browser`` to the moment when a real Chromium has painted it (`benchmarks.console_browser`).
"""

from __future__ import annotations

import argparse
import base64
import contextlib
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
from collections.abc import Callable, Mapping, Sequence
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
PATIENCE_S = 15.0  # for what has not come when the last was published
LIMIT_MS = 1000.0
THUMBNAIL_PX = (480, 270)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its figures as JSON; 1 if a ticket did not come, or p95 is 1 s or more."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.console_load",
        description=__doc__.splitlines()[0] if __doc__ else None,
    )
    parser.add_argument("--rate", type=float, default=50.0, help="tickets per second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--readers", type=int, default=1, help="streams that are read and timed")
    parser.add_argument("--browser", action="store_true", help="time a page in Chromium too")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gridwatch-load-") as name:
        result = run(
            Path(name), chosen.rate, chosen.seconds, chosen.readers, in_browser=chosen.browser
        )
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    measured = [part for part in (result["stream"], result["browser"]) if isinstance(part, dict)]
    return 0 if all(not m["missing"] and m["p95_ms"] < LIMIT_MS for m in measured) else 1


def run(
    folder: Path, rate: float, seconds: float, readers: int, *, in_browser: bool
) -> dict[str, object]:
    """One run.

    Args:
        folder: For broker and console.
        rate: Tickets per second.
        seconds: For how long.
        readers: How many read the stream; all of them are timed.
        in_browser: Time the page in a Chromium too.

    Returns:
        Load, CPU time, and under ``stream`` and ``browser`` how many were missing and how soon the others came.
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
            with contextlib.ExitStack() as stack:
                shown: Callable[[], dict[str, float]] | None = None
                if in_browser:
                    from benchmarks.console_browser import watched_feed  # an extra of development

                    feed = watched_feed(f"http://127.0.0.1:{port}", cookie)
                    shown = stack.enter_context(feed)
                time.sleep(SETTLE_S)
                cpu_before = _cpu_s(console.pid)
                sent = _publish(broker_port, rate, seconds)
                deadline = time.monotonic() + PATIENCE_S
                while time.monotonic() < deadline and (
                    any(len(seen) < len(sent) for seen in arrivals)
                    or (shown is not None and len(shown()) < len(sent))
                ):
                    time.sleep(0.1)
                cpu_s = _cpu_s(console.pid) - cpu_before
                seen_in_browser = None if shown is None else _timed(sent, [shown()])
        finally:
            for process in (console, broker):
                process.terminate()
                process.wait(10)
    return {
        "tickets": len(sent),
        "rate_hz": round(len(sent) / seconds, 1),
        "readers": readers,
        "machine_load": round(os.getloadavg()[0], 1),
        "console_cpu_ms_per_ticket": round(cpu_s / len(sent) * 1000, 2),
        "stream": _timed(sent, arrivals),
        "browser": seen_in_browser,
    }


def _timed(sent: Mapping[str, float], arrivals: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """How soon what was sent was seen, by all who looked."""
    delays = [seen[one] - t for seen in arrivals for one, t in sent.items() if one in seen]
    found: dict[str, float] = {"missing": len(sent) * len(arrivals) - len(delays)}
    if delays:
        p50, p95, longest = np.percentile(delays, [50, 95, 100]) * 1000
        found |= {"p50_ms": round(p50, 1), "p95_ms": round(p95, 1), "max_ms": round(longest, 1)}
    return found


def _publish(port: int, rate: float, seconds: float) -> dict[str, float]:
    """Publish at a steady rate; when each ticket was published (seconds since the epoch, as a page sees it) by id."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    confirmed = threading.Semaphore(0)
    client.on_publish = lambda *_: confirmed.release()
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
        sent[ticket.id] = time.time()
        client.publish(topics.ticket(ticket.id), payload, qos=1, retain=True)
    for _ in sent:  # a disconnect drops what still waits in the client
        confirmed.acquire(timeout=PATIENCE_S)
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
    headers = {"Cookie": cookie, "Accept": "text/event-stream"}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as link:
        link.request("GET", "/events", headers=headers)
        with link.getresponse() as response:
            for line in iter(response.readline, b""):
                now = time.time()
                for match in re.finditer(rb'<li id="t-(\w+)"', line):
                    seen.setdefault(match[1].decode(), now)


def _log_in(port: int, token: str) -> str:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as link:
        link.request("GET", f"/login/{token}")
        with link.getresponse() as answer:
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
