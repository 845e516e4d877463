"""Clips spread over processes. A clip that crashes or hangs its process costs that clip, not the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import cv2
import structlog

from benchmarks.runner import ClipRun, Measure, analyse, measure
from benchmarks.work import WorkFolder, camera_to_json
from gridwatch.config import CameraSettings, Config
from gridwatch.detection_log import LogWriter
from gridwatch.engine import DetectorLike
from gridwatch.host import load_detectors, models_needed
from gridwatch.logs import configure_logging
from pipeline.exceptions import ConfigError, GridwatchError

__all__ = ["Failure", "Report", "Task", "Workers"]

log = structlog.get_logger(__name__)

# A process that has nothing to report of a clip for so long, though it reports every few stream seconds, is stuck.
STUCK_S = 300.0


@dataclass(frozen=True, slots=True)
class Task:
    """Something to do for one clip.

    Attributes:
        index: The caller's number for the clip.
        camera: Its settings.
        duration_s: As measured; None asks for the measuring, a number for the analysis.
        log: Where the detection log goes, with the result beside it; None for none.
    """

    index: int
    camera: CameraSettings
    duration_s: float | None = None
    log: Path | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A clip could not be dealt with; `reason` is one line."""

    reason: str


Report: TypeAlias = float | Measure | ClipRun | Failure
"""Stream seconds done so far, or the outcome of a task."""


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    connection: Connection
    task: Task | None = None
    heard_s: float = 0.0


class Workers:
    """Processes that deal with clips, each with its own models, one thread per inference.

    Args:
        config: The site; its cameras do not matter.
        count: How many processes.
    """

    def __init__(self, config: Config, count: int) -> None:
        runtime = config.runtime.model_copy(update={"threads": 1})
        self._config = config.model_copy(update={"cameras": (), "runtime": runtime})
        self._count = count
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.connection.close()  # an idle worker ends by this
            if worker.task is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(5.0)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers.clear()

    def processes(self) -> list[int]:
        """Identifiers of the processes that live."""
        return [worker.process.pid for worker in self._workers if worker.process.pid is not None]

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Report]]:
        """Deal with `tasks` in order, several at a time; gives progress and outcomes as they come.

        Every task ends with exactly one outcome.
        """
        waiting = list(reversed(tasks))
        while True:
            while len(self._workers) < min(self._count, len(waiting) + self._busy()):
                self._workers.append(self._start())
            for worker in list(self._workers):
                if worker.task is None and waiting:
                    if self._give(worker, waiting[-1]):
                        waiting.pop()
                    else:
                        self._bury(worker)  # it died idle; the next turn starts another
            busy = {
                worker.connection: worker for worker in self._workers if worker.task is not None
            }
            if not busy:
                if waiting:
                    continue
                return
            for ready in wait(list(busy), timeout=1.0):
                if isinstance(ready, Connection):
                    yield self._hear(busy[ready])
            for worker in list(busy.values()):
                silent_s = time.monotonic() - worker.heard_s
                if worker.task is not None and silent_s > STUCK_S:
                    task = worker.task
                    worker.process.kill()
                    self._bury(worker)
                    yield task, Failure(f"nothing came of it for {STUCK_S:g} s; given up")

    def _busy(self) -> int:
        return sum(worker.task is not None for worker in self._workers)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._config), daemon=True)
        process.start()
        theirs.close()  # then the pipe ends when the process does
        return _Worker(process, ours)

    def _give(self, worker: _Worker, task: Task) -> bool:
        """Hand a task to an idle worker; False if it is no more."""
        try:
            worker.connection.send(task)
        except OSError:
            return False
        worker.task, worker.heard_s = task, time.monotonic()
        return True

    def _hear(self, worker: _Worker) -> tuple[Task, Report]:
        task = worker.task
        assert task is not None  # noqa: S101 - only busy workers are listened to
        worker.heard_s = time.monotonic()
        try:
            report: Report = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            code = worker.process.exitcode
            self._bury(worker)
            how = signal.Signals(-code).name if code is not None and code < 0 else f"status {code}"
            return task, Failure(f"its process crashed ({how})")
        if not isinstance(report, float):
            worker.task = None
        return task, report

    def _bury(self, worker: _Worker) -> None:
        worker.process.join()
        worker.connection.close()
        self._workers.remove(worker)


def _work(connection: Connection, config: Config) -> None:
    """The worker's process: tasks in, reports out, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    configure_logging("human", "ERROR")
    cv2.setNumThreads(1)  # as in the daemon; and every core has its own process
    detectors: dict[str, DetectorLike] = {}
    tried: set[str] = set()
    while True:
        try:
            task: Task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if task.duration_s is None:
                connection.send(measure(task.camera))
                continue
            needed = {
                name: users
                for name, users in models_needed([task.camera]).items()
                if name not in tried
            }
            if needed:
                loaded, _, _ = load_detectors(config, needed, quiet=True)
                detectors |= loaded
                tried |= needed.keys()
            connection.send(_analysed(task, config, detectors, connection))
        except GridwatchError as error:
            connection.send(Failure(" ".join(str(error).split())))
        except Exception as error:  # whatever breaks here is this clip's matter only
            log.exception("analysis failed", clip=task.camera.stream.analysed_url)
            connection.send(Failure(f"analysis failed: {type(error).__name__}: {error}"))


def _analysed(
    task: Task, config: Config, detectors: Mapping[str, DetectorLike], connection: Connection
) -> ClipRun:
    """A clip's result, kept with its detection log where the task says so."""
    camera, duration_s = task.camera, task.duration_s or 0.0

    def progress(seconds: float) -> None:
        connection.send(float(seconds))

    if task.log is None:
        return analyse(config, camera, detectors, duration_s, progress)
    part = task.log.with_suffix(f".{os.getpid()}.part")
    header = {
        "camera": camera_to_json(camera),
        "timezone": config.site.timezone,
        "thresholds": {name: detector.thresholds for name, detector in detectors.items()},
    }
    try:
        writer = LogWriter(part, camera.id, header)
        try:
            run = analyse(config, camera, detectors, duration_s, progress, writer)
        finally:
            writer.close({})
        WorkFolder.keep(part, task.log, run)
    except OSError as error:
        raise ConfigError(f"{part}: cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return run
