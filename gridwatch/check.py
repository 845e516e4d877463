"""`gridwatch check`: is this site ready? Cameras, models, broker, and a picture of every camera's zones."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from alerts.connection import BrokerSettings, Connection
from alerts.notify import contact_problems
from alerts.privacy import Privacy
from gridwatch.config import CameraSettings, Config
from gridwatch.host import KEYFRAME_WARNING_S, load_detectors, models_needed
from pipeline.capture.probe import StreamReport, probe
from pipeline.capture.settings import redact
from pipeline.exceptions import BrokerError, CaptureError
from pipeline.frame import Image
from pipeline.units import Settings

__all__ = ["check_site", "draw_zones"]

# BGR; the same zone has the same colour in every picture of a run.
COLOURS = ((66, 133, 244), (80, 200, 120), (0, 200, 255), (255, 128, 0), (200, 80, 255))
BROKER_S = 15.0  # two protocol versions at five seconds each, and some
PARALLEL = 8  # opening a camera is waiting, mostly


@dataclass(frozen=True, slots=True)
class _Seen:
    camera: CameraSettings
    report: StreamReport | None
    problem: str


def check_site(config: Config, out: Path, seconds: float) -> bool:
    """Look at everything that the daemon would use, print it, write ``OUT/CAMERA.jpg``; whether all is well.

    Args:
        config: The site.
        out: Folder of the pictures; made if missing.
        seconds: How long to listen to each camera, for its measured rate and key-frame interval.
    """
    console = Console(highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    well = True
    cameras = list(config.cameras)
    with (
        Progress(
            SpinnerColumn(), TextColumn("{task.description}"), transient=True, console=console
        ) as progress,
        ThreadPoolExecutor(PARALLEL) as pool,
    ):
        progress.add_task(f"listening to {len(cameras)} cameras for {seconds:g} s")
        seen = list(pool.map(lambda camera: _look(camera, seconds), cameras))
    needed = models_needed([camera for camera in cameras if camera.enabled])
    detectors, weights, faults = load_detectors(config, needed, quiet=True)
    table = Table(box=None, header_style="bold dim")
    for heading in ("camera", "stream", "codec", "size", "fps", "key frames", "scenarios"):
        table.add_column(heading, overflow="fold")
    notes: list[str] = []
    for one in seen:
        camera, report = one.camera, one.report
        name = (
            redact(camera.stream.analysed_url).rpartition("/")[2]
            if not camera.stream.live
            else redact(camera.stream.analysed_url)
        )
        if report is None:
            well = False
            table.add_row(
                camera.id, Text(name), "[red]✗[/]", "", "", "", ", ".join(camera.scenarios)
            )
            notes.append(f"✗ {camera.id}: {one.problem}")
            continue
        interval_s = report.keyframe_interval_s
        table.add_row(
            camera.id,
            Text(name),  # an IPv6 address stands in brackets
            report.codec,
            f"{report.width_px}x{report.height_px}",
            "?" if report.rate_hz is None else f"{report.rate_hz:.1f}",
            "?" if interval_s is None else f"{interval_s:.1f} s",
            ", ".join(camera.scenarios),
        )
        if interval_s is not None and interval_s > KEYFRAME_WARNING_S:
            notes.append(
                f"! {camera.id}: a key frame only every {interval_s:.0f} s; all pictures must be decoded"
            )
        if report.picture is not None:
            file = out / f"{camera.id}.jpg"
            shown = Privacy(camera.privacy, detectors.get("vehicles")).burn(report.picture)
            cv2.imwrite(str(file), draw_zones(shown, camera))
            notes.append(f"  {camera.id}: zones drawn in {file}")
    console.print(table)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    for name, users in sorted(needed.items()):
        if name in faults:
            well = False
            console.print(
                f"✗ model {name} (for {', '.join(users)}): {faults[name]}",
                markup=False,
                soft_wrap=True,
            )
        else:
            console.print(
                f"✓ model {name} {weights[name].sha256[:12]}, stage {weights[name].stage}, runs here",
                markup=False,
            )
    del detectors
    for path, problem in contact_problems(config.dispatch):
        well = False
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
        console.print(f"✗ dispatch{place}: {problem}", markup=False, soft_wrap=True)
    try:
        protocol = try_connect(config.broker)
    except BrokerError as error:
        well = False
        console.print(f"✗ broker: {error}", markup=False, soft_wrap=True)
    else:
        console.print(f"✓ broker {config.broker.address}, MQTT {protocol}", markup=False)
    return well


def try_connect(settings: BrokerSettings) -> str:
    """Connect to the broker once; gives the protocol version.

    Raises:
        BrokerError: with the reason in words.
    """
    connection = Connection(settings, client_id=f"gridwatch-check-{os.getpid()}", clean=True)
    connection.start()
    try:
        deadline = time.monotonic() + BROKER_S
        while not connection.connected.wait(0.1):
            if connection.failures or time.monotonic() > deadline:
                reason = connection.last_reason or f"no answer within {BROKER_S:g} s"
                raise BrokerError(f"{settings.address}: {reason}")
        return connection.protocol or "?"
    finally:
        connection.close(2.0)


def draw_zones(picture: Image, camera: CameraSettings) -> Image:
    """A copy of `picture`, (h, w, 3) uint8 BGR, with the camera's zones and masks drawn in."""
    canvas = picture.copy()
    height_px, width_px = canvas.shape[:2]
    scale = np.array([width_px, height_px])
    index = 0
    for scenario, parameters in camera.scenarios.items():
        for name, polygon in _polygons(parameters):
            points = np.rint(np.array(polygon) * scale).astype(np.int32)
            colour = COLOURS[index % len(COLOURS)]
            index += 1
            tinted = canvas.copy()
            cv2.fillPoly(tinted, [points], colour)
            canvas = cv2.addWeighted(tinted, 0.25, canvas, 0.75, 0.0)
            cv2.polylines(canvas, [points], isClosed=True, color=colour, thickness=2)
            anchor = (int(points[:, 0].min()) + 6, int(points[:, 1].min()) + 18)
            label = f"{scenario}: {name}"
            cv2.putText(
                canvas, label, anchor, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 3, cv2.LINE_AA
            )
            cv2.putText(
                canvas, label, anchor, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA
            )
    for mask in camera.privacy.masks:
        points = np.rint(np.array(mask) * scale).astype(np.int32)
        cv2.fillPoly(canvas, [points], (0, 0, 0))
    return np.asarray(canvas, np.uint8)


def _look(camera: CameraSettings, seconds: float) -> _Seen:
    try:
        return _Seen(camera, probe(camera.stream, seconds), "")
    except CaptureError as error:
        return _Seen(camera, None, str(error))


def _polygons(parameters: Settings) -> Iterator[tuple[str, tuple[tuple[float, float], ...]]]:
    """Every polygon among a scenario's parameters, a plug-in's too, found by its shape."""
    for field in type(parameters).model_fields:
        value = getattr(parameters, field)
        if _is_polygon(value):
            yield field, value
        elif isinstance(value, Mapping):
            yield from ((str(k), v) for k, v in value.items() if _is_polygon(v))
        elif isinstance(value, tuple):
            yield from ((f"{field}[{i}]", v) for i, v in enumerate(value) if _is_polygon(v))


def _is_polygon(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) >= 3
        and all(
            isinstance(p, tuple) and len(p) == 2 and all(isinstance(c, float | int) for c in p)
            for p in value
        )
    )
