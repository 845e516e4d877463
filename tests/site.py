"""A whole site on this machine: the daemon as a process, cameras with a bright square, a third party's scenarios."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml

from alerts.tickets import Ticket
from pipeline.frame import Image
from tests.broker import Collector, Received, wait_for
from tests.media import write_clip

__all__ = [
    "RATE_HZ",
    "Daemon",
    "Inbox",
    "flashing_square",
    "gridwatch",
    "install_plugin",
    "square_clip",
]

RATE_HZ = 10.0
# Other work may have both cores: a start takes seconds on an idle machine and up to a minute on a busy one.
START_S = 90.0

PLUGIN = '''
"""A third party's scenarios: one that sees bright squares, one that takes the process down."""

import ctypes

import cv2
import numpy as np

from pipeline.analyse.scenario import Need, Scenario, ScenarioParameters
from pipeline.observation import Condition, Observation
from pipeline.units import Polygon


class Parameters(ScenarioParameters):
    zone: Polygon = ((0, 0), (1, 0), (1, 1), (0, 1))


class BrightSquare(Scenario[Parameters]):
    id = "bright_square"
    title = {"zh": "亮方块", "en": "Bright square"}
    Parameters = Parameters

    def need(self, t):
        return Need(4.0)

    def observe(self, scene):
        height, width = scene.frame.image.shape[:2]
        inside = np.zeros((height, width), np.uint8)
        corners = np.rint(np.array(self.parameters.zone) * (width, height)).astype(np.int32)
        cv2.fillPoly(inside, [corners], 255)
        ys, xs = np.nonzero((scene.frame.image.min(axis=2) > 220) & (inside > 0))
        there = len(ys) > 0.01 * height * width
        return [
            Observation(
                scenario=self.id,
                camera_id=self.camera.id,
                subject="square",
                t=scene.frame.t,
                condition=Condition.HOLDS if there else Condition.CLEAR,
                confidence=0.9,
                box=(xs.min() / width, ys.min() / height, xs.max() / width, ys.max() / height)
                if there
                else None,
                detail={"share": round(len(ys) / (height * width), 4)},
            )
        ]


class NativeCrash(BrightSquare):
    id = "native_crash"
    title = {"zh": "原生崩溃", "en": "Native crash"}

    def observe(self, scene):
        ctypes.string_at(0)
'''


def install_plugin(folder: Path) -> Path:
    """Lay a distribution with two scenarios into `folder`, to be put on PYTHONPATH; as pip would have done."""
    folder.mkdir(parents=True)
    (folder / "third_party_scenarios.py").write_text(PLUGIN, encoding="utf-8")
    info = folder / "third_party_scenarios-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: third-party-scenarios\nVersion: 1.0\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(
        "[gridwatch.scenarios]\n"
        "bright_square = third_party_scenarios:BrightSquare\n"
        "native_crash = third_party_scenarios:NativeCrash\n",
        encoding="utf-8",
    )
    return folder


def flashing_square(dark_s: float, bright_s: float) -> Iterator[Image]:
    """A grey street on which a bright square is absent for `dark_s` seconds and there for `bright_s`."""
    rng = np.random.default_rng(7)
    street = rng.integers(60, 140, (36, 64, 3), dtype=np.uint8).repeat(5, axis=0).repeat(5, axis=1)
    for index in range(round((dark_s + bright_s) * RATE_HZ)):
        image = street.copy()
        if index >= round(dark_s * RATE_HZ):
            image[40:120, 100:200] = 250
        yield image


def square_clip(path: Path, *, dark_s: float = 0.0, bright_s: float = 4.0) -> Path:
    """`flashing_square` as a clip that can be played round and round."""
    return write_clip(path, flashing_square(dark_s, bright_s), rate_hz=RATE_HZ, gop=round(RATE_HZ))


def gridwatch(
    *arguments: str, environ: Mapping[str, str] | None = None, timeout_s: float = 150.0
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "gridwatch.cli", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "160", **(environ or {})},
        timeout=timeout_s,
        check=False,
    )


class Daemon:
    """`gridwatch run` on a configuration, with what it logs and stores.

    Args:
        folder: Everything is kept below it.
        config: cameras.yaml without `storage`, which is put below `folder`.
        environ: On top of this process's.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], environ: Mapping[str, str] | None = None
    ) -> None:
        self.state = folder / "state"
        self.file = folder / "cameras.yaml"
        self.environ = dict(environ or {})
        self._log = folder / "gridwatch.log"
        self._process: subprocess.Popen[bytes] | None = None
        document = {**config, "storage": {"folder": str(self.state)}}
        document["runtime"] = {"log_format": "json", **document.get("runtime", {})}
        self.file.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            for pid in (*self.engines(), self._process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait(10)

    def start(self) -> None:
        """Start it and wait until its engine runs."""
        runs = len(self.events("running"))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gridwatch.cli", "run", str(self.file)],
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environ},
            )
        self.wait_for_run(runs + 1)

    def wait_for_run(self, count: int) -> None:
        """Wait until an engine has said for the `count`-th time that it runs."""

        def runs() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, f"the daemon ended: {self.log()[-2000:]}"
            return len(self.events("running")) >= count

        wait_for(runs, START_S, f"{count} engine starts")

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self._process is not None
        return self._process.pid

    def engines(self) -> list[int]:
        """Process ids of the supervisor's children."""
        try:
            text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
        except OSError:
            return []
        return [int(part) for part in text.split()]

    def kill_engine(self) -> None:
        """SIGKILL the engine; the supervisor stays."""
        (engine,) = self.engines()
        os.kill(engine, signal.SIGKILL)

    def kill_supervisor(self) -> None:
        """SIGKILL the supervisor; the engine is left to itself."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
        self._process = None

    def stop(self) -> tuple[int, float]:
        """SIGTERM; gives the exit status and the seconds until the end."""
        assert self._process is not None
        begun = time.monotonic()
        self._process.terminate()
        status = self._process.wait(30)
        self._process = None
        return status, time.monotonic() - begun

    def log(self) -> str:
        """All that it wrote."""
        return self._log.read_text(encoding="utf-8") if self._log.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """Its log entries of this name."""
        entries = [
            json.loads(line)
            for line in self.log().splitlines()
            if line.startswith("{") and line.endswith("}")  # a killed process leaves half a line
        ]
        return [entry for entry in entries if entry.get("event") == name]

    def tickets(self) -> list[Ticket]:
        """What the store holds now, oldest first."""
        return [
            Ticket.model_validate_json(row[0])
            for row in self._query("SELECT document FROM tickets ORDER BY id")
        ]

    def waiting(self) -> int:
        """Messages that no broker has taken yet."""
        return int(self._query("SELECT count(*) FROM outbox WHERE published_t IS NULL")[0][0])

    def _query(self, sql: str) -> list[tuple[Any, ...]]:
        file = self.state / "tickets.sqlite"
        if not file.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            return connection.execute(sql).fetchall()


class Inbox:
    """What a subscriber makes of a site's tickets.

    Args:
        collector: Subscribed to at least ``gridwatch/{site}/tickets/+`` or more.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def tickets(self) -> dict[str, Ticket]:
        """The newest version of every ticket that ever came, by id."""
        newest: dict[str, Ticket] = {}
        for message in list(self._collector.messages):
            if (
                "/tickets/" in message.topic
                and "/commands/" not in message.topic
                and message.payload
            ):
                ticket = Ticket.model_validate_json(message.payload)
                known = newest.get(ticket.id)
                if known is None or ticket.version >= known.version:
                    newest[ticket.id] = ticket
        return newest

    def of(self, camera: str, scenario: str | None = None) -> list[Ticket]:
        """The tickets of a camera, oldest first."""
        return sorted(
            (
                ticket
                for ticket in self.tickets().values()
                if ticket.camera.id == camera and scenario in (None, ticket.scenario)
            ),
            key=lambda ticket: ticket.id,
        )

    def wait_of(
        self, camera: str, count: int = 1, timeout_s: float = 60.0, scenario: str | None = None
    ) -> list[Ticket]:
        """Wait until a camera has `count` tickets."""
        wait_for(
            lambda: len(self.of(camera, scenario)) >= count,
            timeout_s,
            f"{count} tickets of {camera}, found {[t.id for t in self.tickets().values()]}",
        )
        return self.of(camera, scenario)

    def statuses(self, camera: str) -> list[dict[str, Any]]:
        """The camera's statuses in order of arrival."""
        return [
            json.loads(message.payload)
            for message in list(self._collector.messages)
            if message.topic.endswith(f"/cameras/{camera}/status") and message.payload
        ]

    def wait_status(
        self, camera: str, enough: Callable[[dict[str, Any]], object], timeout_s: float = 60.0
    ) -> dict[str, Any]:
        """Wait for a status that satisfies `enough` and give it."""
        wait_for(
            lambda: any(enough(status) for status in self.statuses(camera)),
            timeout_s,
            f"status of {camera}, found {self.statuses(camera)[-3:]}",
        )
        return next(status for status in reversed(self.statuses(camera)) if enough(status))

    def host(self, name: str) -> dict[str, Any]:
        """The host's newest status; empty if none came."""
        for message in reversed(list(self._collector.messages)):
            if message.topic.endswith(f"/hosts/{name}/status") and message.payload:
                status: dict[str, Any] = json.loads(message.payload)
                return status
        return {}

    def messages(self) -> list[Received]:
        """Everything that came."""
        return list(self._collector.messages)
