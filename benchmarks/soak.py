"""A soak: 1080p25 cameras over real RTSP, the real daemon, a real broker, for minutes, measured from outside.

    python -m benchmarks.soak --cameras 8 --minutes 10 --size 1080p

What is measured is the daemon as it is installed: its processes through /proc, its own metrics through its Prometheus
endpoint, and its tickets as a subscriber sees them. The cameras (GStreamer) and the broker (mosquitto) run on the same
host; what they take of it is in the report. Rules are set so that each round of a clip raises its ticket again, which
gives the latencies enough samples; no detector and no rate is touched.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import paho.mqtt.client as paho
import yaml
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from paho.mqtt.enums import CallbackAPIVersion
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from alerts.tickets import Ticket
from benchmarks.rtsp_server import HOST, RtspServer, free_port, rtsp_missing
from gridwatch.config import load_config
from gridwatch.demo import shipped_configuration
from pipeline.exceptions import GridwatchError
from pipeline.frame import Image

__all__ = ["Trend", "main", "quantile", "soak", "trend"]

SIZES = {"360p": (640, 360), "720p": (1280, 720), "1080p": (1920, 1080)}
RATE_HZ = 25
KEYFRAME_S = 2.0  # what surveillance cameras are set to as they come
LOOP_S = 20.0
SAMPLE_S = 5.0
WARM_UP_SHARE = 0.2  # models warm up, caches fill: neither is growth
START_S = 120.0
SITE = "soak"
STAGE = ("frame_to_result", "frame_to_ticket")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the daemon; cumulative counters since its start, `t_s` since the first look."""

    t_s: float
    cpu_s: dict[str, float]  # user + system seconds by process
    rss_mib: dict[str, float]
    metrics: dict[tuple[str, str], float]  # by name and camera (or bucket)


@dataclass(frozen=True, slots=True)
class Trend:
    """Least squares: growth per minute with its 95 % interval."""

    per_minute: float
    low: float
    high: float

    @property
    def grows(self) -> bool:
        """Whether growth is significant."""
        return self.low > 0


def trend(times_s: Sequence[float], values: Sequence[float]) -> Trend | None:
    """Fit a line; None with fewer than five points or none that differ in time.

    Memory and latency wander, so that neighbours are alike: the interval is widened by the residuals' correlation at
    lag 1, as for an AR(1) process (n → n·(1 - r)/(1 + r)).
    """
    n = len(values)
    if n < 5 or max(times_s) == min(times_s):
        return None
    x, y = np.asarray(times_s) / 60.0, np.asarray(values)
    x = x - x.mean()
    slope = float((x * y).sum() / (x * x).sum())
    rest = y - y.mean() - slope * x
    power = float((rest * rest).sum())
    alike = float((rest[1:] * rest[:-1]).sum()) / power if power > 0 else 0.0
    alike = min(max(alike, 0.0), 0.95)
    freedom = max(2.0, n * (1 - alike) / (1 + alike) - 2)
    error = math.sqrt(power / freedom / float((x * x).sum()))
    reach = _student(freedom) * error
    return Trend(slope, slope - reach, slope + reach)


def _student(freedom: float) -> float:
    """Two-sided 95 % quantile of Student's t by the Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5)."""
    z = statistics.NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """Quantile of a Prometheus histogram, interpolated within its bucket as ``histogram_quantile`` does.

    Args:
        buckets: Cumulative counts by upper bound, infinity included.
        share: 0..1.

    Returns:
        None without observations; the largest finite bound if it lies beyond.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if not total:
        return None
    wanted = share * total
    below, start = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= wanted:
            if math.isinf(bound):
                return start
            inside = buckets[bound] - below
            return start + (bound - start) * ((wanted - below) / inside if inside else 1.0)
        below, start = buckets[bound], bound
    return start


# -- the cameras ----


def synthetic(size_px: tuple[int, int]) -> Iterator[Image]:
    """A yard with textured ground in which some bodies move all the time: nothing to raise, always motion."""
    width, height = size_px
    rng = np.random.default_rng(3)
    coarse = rng.integers(70, 170, (height // 24 + 1, width // 24 + 1, 3), dtype=np.uint8)
    yard = cv2.resize(coarse, size_px, interpolation=cv2.INTER_CUBIC)
    bodies = [(rng.random(4), tuple(int(c) for c in rng.integers(0, 255, 3))) for _ in range(6)]
    for index in range(round(LOOP_S * RATE_HZ)):
        image = yard.copy()
        turn = (
            2 * math.pi * index / (LOOP_S * RATE_HZ)
        )  # a whole round per loop: no jump at its end
        for (a, b, c, d), colour in bodies:
            x = int(width * (0.5 + 0.4 * math.sin(turn * (1 + round(2 * a)) + 6 * b)))
            y = int(height * (0.5 + 0.4 * math.cos(turn * (1 + round(2 * c)) + 6 * d)))
            cv2.rectangle(image, (x, y), (x + width // 16, y + height // 8), colour, -1)
        yield np.asarray(image, np.uint8)


def upscaled(clip: Path, size_px: tuple[int, int]) -> Iterator[Image]:
    """A clip's pictures at 25 Hz, scaled up, its last one held until the loop is over."""
    index, image = 0, None
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            while image is not None and index / RATE_HZ < float(frame.time or 0.0):
                yield image
                index += 1
            image = np.asarray(
                cv2.resize(
                    frame.to_ndarray(format="bgr24"), size_px, interpolation=cv2.INTER_CUBIC
                ),
                np.uint8,
            )
    while image is not None and index < round(LOOP_S * RATE_HZ):
        yield image
        index += 1


def encode(path: Path, images: Iterator[Image], size_px: tuple[int, int]) -> None:
    """Write H.264 as a camera does: no B-frames, a key frame every two seconds."""
    with av.open(str(path), "w", format="mp4") as output:
        options = {"preset": "superfast", "tune": "zerolatency", "crf": "25"}
        stream = output.add_stream("libx264", rate=RATE_HZ, options=options)
        if not isinstance(stream, VideoStream):
            raise GridwatchError(f"{path}: libx264 made no video stream")
        stream.width, stream.height = size_px
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = round(KEYFRAME_S * RATE_HZ)
        stream.codec_context.time_base = Fraction(1, RATE_HZ)
        for index, image in enumerate(images):
            frame = VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, RATE_HZ)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def make_clips(folder: Path, size: str, console: Console) -> dict[str, Path]:
    """The cameras' films by scenario, and one without event; made once per folder."""
    folder.mkdir(parents=True, exist_ok=True)
    sources: dict[str, Path | None] = {"quiet": None}
    for camera in load_config(shipped_configuration()).cameras:
        clip = Path(camera.stream.analysed_url)
        for scenario in camera.scenarios:
            if clip.is_file():
                sources[scenario] = clip
            else:
                console.print(f"no clip of {scenario}: {clip} is missing", style="yellow")
    made = {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("encoding the cameras' films", total=len(sources))
        for name, source in sources.items():
            made[name] = folder / f"{name}-{size}.mp4"
            if not made[name].exists():
                images = synthetic(SIZES[size]) if source is None else upscaled(source, SIZES[size])
                partial = made[name].with_suffix(".part")
                encode(partial, images, SIZES[size])
                partial.replace(made[name])
            progress.advance(task)
    return made


# -- the site ----


def configuration(
    clips: Sequence[str], rtsp: RtspServer, mqtt_port: int, metrics_port: int, state: Path
) -> dict[str, Any]:
    """cameras.yaml: the scenarios as the shipped one has them, debounced so that each round counts."""
    shipped = yaml.safe_load(shipped_configuration().read_text(encoding="utf-8"))
    parameters = {
        name: dict(own or {}, cooldown="0s", clear_after="2s")
        for camera in shipped["cameras"]
        for name, own in camera["scenarios"].items()
    }
    cameras = []
    for index, clip in enumerate(clips):
        scenario = "fire" if clip == "quiet" else clip
        cameras.append(
            {
                "id": f"cam-{index}",
                "name": f"{clip} {index}",
                "url": rtsp.url(f"cam-{index}"),
                "grid": "soak/1/1",
                "simulated": True,
                "scenarios": {scenario: parameters[scenario]},
            }
        )
    return {
        "site": {"id": SITE, "language": "en"},
        "host": "soak-host",
        "broker": {"host": HOST, "port": mqtt_port},
        "storage": {"folder": str(state)},
        "evidence": {"pre_roll": "4s", "post_roll": "4s"},
        "storm": {"budget": 100_000, "critical_budget": 100_000, "group_window": "0s"},
        "runtime": {"log_format": "json", "metrics_port": metrics_port},
        "cameras": cameras,
    }


@contextlib.contextmanager
def mosquitto(folder: Path) -> Iterator[tuple[int, int]]:
    """A broker of its own; gives its port and process id."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        raise GridwatchError(
            "mosquitto: not found, expected it installed: apt-get install mosquitto"
        )
    port = free_port()
    folder.mkdir()
    file = folder / "mosquitto.conf"
    user = "user root\n" if os.geteuid() == 0 else ""
    file.write_text(
        f"listener {port} {HOST}\nallow_anonymous true\n{user}"
        f"log_dest file {folder}/mosquitto.log\nmax_queued_messages 100000\n",
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [program, "-c", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(10)


class Subscriber:
    """Notes when each ticket's first version arrives.

    Attributes:
        latencies: (arrival, seconds from the picture to it, scenario) of each ticket.
        versions: Newest version that came, by ticket.
        doubles: Tickets whose first version came twice.
    """

    def __init__(self, port: int) -> None:
        self.latencies: list[tuple[float, float, str]] = []
        self.versions: dict[str, int] = {}
        self.doubles = 0
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe(
            f"gridwatch/{SITE}/tickets/+", qos=1
        )
        self._client.on_message = self._on_message
        deadline = time.monotonic() + 10
        while True:
            try:
                self._client.connect(HOST, port)
            except OSError:
                if time.monotonic() > deadline:
                    raise GridwatchError(f"{HOST}:{port}: no broker within 10 s") from None
                time.sleep(0.1)
            else:
                break
        self._client.loop_start()

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        now = time.time()
        if not message.payload:
            return
        ticket = Ticket.model_validate_json(message.payload)
        if ticket.version == 1:
            self.doubles += ticket.id in self.versions
            if ticket.scenario != "camera_health":
                age_s = now - ticket.capture.time.timestamp()
                self.latencies.append((now, age_s, ticket.scenario))
        self.versions[ticket.id] = max(ticket.version, self.versions.get(ticket.id, 0))

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


# -- measuring ----


def children(pid: int) -> list[int]:
    """Process ids of a process's children; none if it is gone."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def usage(pid: int) -> tuple[float, float] | None:
    """CPU seconds and resident MiB of a process; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return None
    ticks = int(fields[11]) + int(fields[12])  # utime, stime: fields 14 and 15, the name being 2
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def scrape(port: int) -> dict[tuple[str, str], float]:
    """The daemon's metrics by name and camera (or bucket); empty while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    return {
        (sample.name.removeprefix("gridwatch_"), label(sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def label(labels: Mapping[str, str]) -> str:
    return labels.get("camera", labels.get("le", ""))


@dataclass(slots=True)
class Soak:
    """What was measured.

    Attributes:
        samples: One each five seconds, of the time after the warm-up too.
        tickets: See `Subscriber.latencies`.
        stored: Tickets in the store at the end, and how many of them the subscriber has in their newest version.
        log_levels: Number of log entries by level, and the events above `info`.
    """

    cameras: dict[str, str]
    samples: list[Sample] = field(default_factory=list)
    tickets: list[tuple[float, float, str]] = field(default_factory=list)
    started_t: float = 0.0
    stored: int = 0
    delivered: int = 0
    doubled: int = 0
    restarts: int = 0
    exit_status: int | None = None
    stop_s: float = 0.0
    models: list[str] = field(default_factory=list)
    log_levels: dict[str, int] = field(default_factory=dict)
    complaints: dict[str, int] = field(default_factory=dict)

    @property
    def steady(self) -> list[Sample]:
        """The samples after the warm-up."""
        return self.samples[round(len(self.samples) * WARM_UP_SHARE) :]

    def delta(self, name: str, key: str = "") -> float:
        """Growth of a counter over the steady time."""
        first, last = self.steady[0].metrics, self.steady[-1].metrics
        return last.get((name, key), math.nan) - first.get((name, key), 0.0)

    def histogram(self, name: str, first: Sample, last: Sample) -> dict[float, float]:
        """Cumulative counts by bound between two samples."""
        bucket = f"{name}_seconds_bucket"
        return {
            float(bound): count - first.metrics.get((found, bound), 0.0)
            for (found, bound), count in last.metrics.items()
            if found == bucket
        }


def soak(
    folder: Path, *, cameras: int, minutes: float, size: str, console: Console | None = None
) -> dict[str, Any]:
    """Run it; gives the report as a document.

    Args:
        folder: Films (kept), state and logs.
        cameras: How many.
        minutes: How long after the daemon runs.
        size: ``360p``, ``720p`` or ``1080p``.
        console: Progress is shown on it.

    Raises:
        GridwatchError: if something needed is not installed, or the daemon does not run.
    """
    console = console or Console(stderr=True)
    if (missing := rtsp_missing()) is not None:
        raise GridwatchError(f"RTSP server: {missing}; expected gir1.2-gst-rtsp-server-1.0")
    clips = make_clips(folder / "films", size, console)
    chosen = [list(clips)[index % len(clips)] for index in range(cameras)]
    work = Path(tempfile.mkdtemp(prefix="soak-", dir=folder))
    mounts = {f"cam-{index}": clips[name] for index, name in enumerate(chosen)}
    result = Soak(dict(zip(mounts, chosen, strict=True)))
    with RtspServer(mounts) as rtsp, mosquitto(work / "broker") as (mqtt_port, broker_pid):
        metrics_port = free_port()
        file = work / "cameras.yaml"
        document = configuration(chosen, rtsp, mqtt_port, metrics_port, work / "state")
        file.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
        subscriber = Subscriber(mqtt_port)
        log = work / "gridwatch.log"
        with log.open("w") as output:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "gridwatch.cli", "run", str(file)],
                stdout=output,
                stderr=output,
            )
        try:
            _wait_for_run(daemon, log)
            others = {"cameras (GStreamer)": rtsp.pid, "broker (mosquitto)": broker_pid}
            _measure(result, daemon, others, metrics_port, minutes, console)
        finally:
            begun = time.monotonic()
            daemon.send_signal(signal.SIGTERM)
            result.exit_status = daemon.wait(60)
            result.stop_s = time.monotonic() - begun
        time.sleep(1.0)  # what was published last is on its way
        subscriber.close()
        result.tickets = subscriber.latencies
        result.doubled = subscriber.doubles
    _read_log(result, log)
    _compare(result, work / "state" / "tickets.sqlite", subscriber.versions)
    report = summarise(result, minutes=minutes, size=size)
    report["folder"] = str(work)
    return report


def _wait_for_run(daemon: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while '"event": "running"' not in log.read_text(encoding="utf-8"):
        if daemon.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(encoding="utf-8")[-1000:]
            raise GridwatchError(f"the daemon did not run within {START_S:g} s: {tail}")
        time.sleep(0.2)


def _measure(
    result: Soak,
    daemon: subprocess.Popen[bytes],
    others: Mapping[str, int],
    metrics_port: int,
    minutes: float,
    console: Console,
) -> None:
    begun = time.monotonic()
    result.started_t = time.time()
    stop = threading.Event()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"{len(result.cameras)} cameras", total=minutes * 60)
        while (t_s := time.monotonic() - begun) < minutes * 60 and daemon.poll() is None:
            pids = {"supervisor": daemon.pid, **others}
            pids |= dict(zip(["engine"], children(daemon.pid), strict=False))
            seen = {name: found for name, pid in pids.items() if (found := usage(pid)) is not None}
            result.samples.append(
                Sample(
                    t_s,
                    {name: cpu_s for name, (cpu_s, _) in seen.items()},
                    {name: mib for name, (_, mib) in seen.items()},
                    scrape(metrics_port),
                )
            )
            progress.update(task, completed=t_s)
            stop.wait(max(0.0, len(result.samples) * SAMPLE_S - (time.monotonic() - begun)))


def _read_log(result: Soak, log: Path) -> None:
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
        level, event = entry.get("level", "unreadable"), entry.get("event", line[:120])
        result.log_levels[level] = result.log_levels.get(level, 0) + 1
        if level != "info":
            result.complaints[event] = result.complaints.get(event, 0) + 1
        if event == "running":
            result.restarts += 1
            result.models = entry["models"]
    result.restarts -= 1  # the first is no restart


def _compare(result: Soak, database: Path, versions: Mapping[str, int]) -> None:
    from alerts.store import Store

    with Store(database) as store:
        tickets = store.tickets()
    result.stored = len(tickets)
    result.delivered = sum(versions.get(ticket.id) == ticket.version for ticket in tickets)


# -- the report ----


def summarise(result: Soak, *, minutes: float, size: str) -> dict[str, Any]:
    """The report: numbers only, rates in Hz, times in seconds, memory in MiB, CPU in percent of one core.

    Raises:
        GridwatchError: if fewer than five samples were taken after the warm-up.
    """
    steady = [sample for sample in result.steady if sample.metrics]
    if len(steady) < 5:
        raise GridwatchError(f"found {len(steady)} samples after the warm-up, expected at least 5")
    span_s = steady[-1].t_s - steady[0].t_s
    times_s = [sample.t_s for sample in steady]

    def share(name: str) -> float:
        used_s = steady[-1].cpu_s.get(name, math.nan) - steady[0].cpu_s.get(name, math.nan)
        return round(100 * used_s / span_s, 1)

    def growth(values: Sequence[float]) -> dict[str, float] | None:
        fit = trend(times_s[: len(values)], values)
        if fit is None:
            return None
        return {key: round(value, 4) for key, value in dataclasses.asdict(fit).items()}

    def spread(values: Sequence[float]) -> dict[str, float | int | None]:
        ordered = sorted(values)

        def at(part: float) -> float | None:
            return round(ordered[math.ceil(part * len(ordered)) - 1], 3) if ordered else None

        return {"n": len(ordered), "p50": at(0.5), "p95": at(0.95), "max": at(1.0)}

    stages = {}
    for name in STAGE:
        counts = result.histogram(name, steady[0], steady[-1])
        found = {f"p{round(100 * s)}": quantile(counts, s) for s in (0.5, 0.95)}
        stages[name] = {"n": round(counts.get(math.inf, 0.0)), **found}
    windows = [
        quantile(result.histogram(STAGE[0], a, b), 0.95) for a, b in itertools.pairwise(steady)
    ]
    per_camera = {
        camera: {
            "clip": clip,
            "wanted_hz": _mean(s.metrics.get(("rate_wanted_hz", camera)) for s in steady),
            "granted_hz": _mean(s.metrics.get(("rate_hz", camera)) for s in steady),
            "analysed_hz": round(
                (result.delta("converted_total", camera) - result.delta("dropped_total", camera))
                / span_s,
                2,
            ),
            "dropped": round(result.delta("dropped_total", camera)),
            "reconnects": round(result.delta("reconnects_total", camera)),
        }
        for camera, clip in result.cameras.items()
    }
    warm_t = result.started_t + steady[0].t_s
    late = [latency for arrived, latency, _ in result.tickets if arrived >= warm_t]
    return {
        "host": {"cores": os.cpu_count(), "cpu": _cpu_name(), "load_1m": os.getloadavg()[0]},
        "cameras": len(result.cameras),
        "size": size,
        "rate_hz": RATE_HZ,
        "minutes": minutes,
        "measured_s": round(span_s, 1),
        "models": result.models,
        "cpu_percent_of_a_core": {name: share(name) for name in steady[-1].cpu_s},
        "rss_mib": {name: round(mib, 1) for name, mib in steady[-1].rss_mib.items()},
        "rate_scale": spread([s.metrics.get(("rate_scale", ""), math.nan) for s in steady]),
        "per_camera": per_camera,
        "latency_s": {**stages, "frame_to_broker": spread(late)},
        "growth_per_minute": {
            "engine_rss_mib": growth([s.rss_mib.get("engine", math.nan) for s in steady]),
            "frame_to_result_p95_s": growth([w for w in windows if w is not None]),
        },
        "tickets": {
            "stored": result.stored,
            "delivered_in_their_newest_version": result.delivered,
            "first_versions_that_came_twice": result.doubled,
        },
        "engine_restarts": result.restarts,
        "exit_status": result.exit_status,
        "sigterm_to_end_s": round(result.stop_s, 2),
        "log_entries": result.log_levels,
        "log_complaints": result.complaints,
    }


def _mean(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.fmean(known), 2) if known else None


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the report as tables."""
    host = report["host"]
    console.print(
        f"{report['cameras']} cameras {report['size']}{report['rate_hz']} for {report['measured_s']:.0f} s after the "
        f"warm-up on {host['cores']} cores ({host['cpu']}), models {', '.join(report['models']) or 'none'}",
        style="bold",
    )
    table = Table(box=None, header_style="bold dim")
    for heading in ("process", "CPU % of a core", "RSS MiB"):
        table.add_column(heading, justify="left" if heading == "process" else "right")
    for name, percent in report["cpu_percent_of_a_core"].items():
        table.add_row(name, f"{percent:.1f}", f"{report['rss_mib'].get(name, math.nan):.0f}")
    console.print(table)
    table = Table(box=None, header_style="bold dim")
    for heading in (
        "camera",
        "clip",
        "wanted Hz",
        "granted Hz",
        "analysed Hz",
        "dropped",
        "reconnects",
    ):
        table.add_column(heading)
    for camera, row in report["per_camera"].items():
        table.add_row(camera, *(str(value) for value in row.values()))
    console.print(table)
    for name, row in report["latency_s"].items():
        parts = ", ".join(f"{k} {_figure(v)}{'' if k == 'n' else ' s'}" for k, v in row.items())
        console.print(f"{name.replace('_', ' ')}: {parts}")
    scale = report["rate_scale"]
    console.print(f"rate scale: median {scale['p50']}, of {scale['n']} samples")
    for name, fit in report["growth_per_minute"].items():
        text = (
            "too few samples"
            if fit is None
            else f"{fit['per_minute']:+.4f} per minute (95 % {fit['low']:+.4f} … {fit['high']:+.4f})"
        )
        console.print(f"growth of {name}: {text}")
    console.print(
        f"tickets: {report['tickets']['stored']} stored, "
        f"{report['tickets']['delivered_in_their_newest_version']} at the subscriber in their newest version, "
        f"{report['tickets']['first_versions_that_came_twice']} came twice; "
        f"engine restarts {report['engine_restarts']}; SIGTERM to end {report['sigterm_to_end_s']} s "
        f"(status {report['exit_status']})"
    )
    for event, count in report["log_complaints"].items():
        console.print(f"log: {count} × {event}", markup=False)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m benchmarks.soak``; status 1 where a ticket was lost or came twice, or the daemon did not end well."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--size", choices=sorted(SIZES), default="1080p")
    parser.add_argument(
        "--folder", type=Path, help="films, state and logs; a temporary one by default"
    )
    parser.add_argument(
        "--json", type=Path, help="write the report there; standard output by default"
    )
    options = parser.parse_args(arguments)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="gridwatch-soak-"))
    console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 140)
    try:
        report = soak(
            folder.resolve(),
            cameras=options.cameras,
            minutes=options.minutes,
            size=options.size,
            console=console,
        )
    except GridwatchError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 2
    show(report, console)
    text = json.dumps(report, indent=2, ensure_ascii=False)
    if options.json is None:
        sys.stdout.write(text + "\n")
    else:
        options.json.write_text(text + "\n", encoding="utf-8")
    tickets = report["tickets"]
    well = (
        tickets["stored"] == tickets["delivered_in_their_newest_version"]
        and not tickets["first_versions_that_came_twice"]
        and report["exit_status"] == 0
    )
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main())
