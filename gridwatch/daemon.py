"""The supervisor: keeps one engine process alive, and finds out which camera killed it.

A native crash in FFmpeg or in a model runtime takes the whole engine process down. The supervisor holds nothing that
can crash: it restarts the engine, reads whose thread was running (`faulthandler` writes that at the moment of the
crash) and quarantines a camera that did it twice. Tickets and dwells are in the store, so a crash costs seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TypedDict

import structlog

from gridwatch.logs import configure_logging
from gridwatch.parent import WITH_PARENT, end_with_parent
from pipeline.exceptions import GridwatchError

__all__ = ["CrashNotes", "EngineLock", "Supervisor", "become_daemon", "engine_command"]

if TYPE_CHECKING:
    from gridwatch.config import Config

log = structlog.get_logger(__name__)

RESTART_MIN_S = 0.5  # a crash should cost seconds
RESTART_MAX_S = 30.0  # an engine that cannot start (disk full) should not fill the log
STABLE_S = 60.0  # an engine that lived this long has earned a fresh back-off
HEARTBEAT_TIMEOUT_S = 30.0  # longer than any inference or fsync on an overloaded 2-core host
STARTING_S = 300.0  # on top of that, for imports and models from a cold disk or the check of a store of gigabytes
STARTING = b"s"  # the heartbeat of an engine that has a long step of its start before it
RELOAD = b"r"  # on the engine's standard input: look at cameras.yaml now
START_ANEW = 3  # the engine's exit status when a new one shall follow: a changed configuration, too much memory
RETREAT = "--retreat="  # with the state folder: start with the last text that an engine ran with
POLL_S = 0.05
# A supervisor that wakes so late was not alone: the machine slept, or swapped, and the engine with it.
LATE_S = 2.0
STOP_TIMEOUT_S = 4.5  # SIGTERM must end the daemon within five seconds
KILLED = 4  # our exit status when the engine was still busy then; what was stored is safe
QUARANTINE_KILLS = 2  # once may be chance; twice is the camera
# glibc's malloc as it comes turns pictures into holes, which reads as a leak. It gives threads up to eight arenas a
# core; and once a picture (3 MB as decoded, 6 MB as BGR at 1080p) was freed, it keeps what is smaller in the heap
# instead of giving it back, where packets and tickets lie between the pictures: 60 MiB of holes after seven minutes
# of five cameras. A threshold that is set stays; its page faults take one to two per cent more CPU time.
MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(1024 * 1024)}
MAP_BYTES = 256  # a camera's id, and one page on disk in any case
ANALYSIS = "@analysis"  # no camera's id: @ is not allowed in one
TOGETHER = "@together"  # an inference on pictures of several cameras
KILL_MEMORY_S = 86_400.0  # two kills within a day count as two; less often is cheaper to live with

# A frame of faulthandler's report that is in capture or analysis.
_WORK = re.compile(r'File ".*/pipeline/(capture|analyse)/')


class _Kills(TypedDict):
    kills: list[float]
    reason: str


class EngineLock:
    """One engine (or supervisor) per state folder, for the life of the process (`flock`, so that a crash frees it)."""

    def __init__(self, folder: Path, name: str = "engine.lock") -> None:
        self._path = folder / name
        self._handle: int | None = None

    def acquire(self, patience_s: float = 10.0) -> None:
        """Take the lock, waiting for a dying predecessor.

        Raises:
            GridwatchError: if another process still holds it after `patience_s` seconds.
        """
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    owner = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
                    os.close(handle)
                    raise GridwatchError(
                        f"{self._path}: another gridwatch (process {owner}) runs on this store; "
                        "expected to be the only one"
                    ) from error
                time.sleep(0.1)
            else:
                os.ftruncate(handle, 0)
                os.pwrite(handle, str(os.getpid()).encode(), 0)
                self._handle = handle
                return

    def release(self) -> None:
        """Free the lock."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class CrashNotes:
    """What the engine writes down beforehand so that its death can be explained.

    Files in `folder`: ``crash.txt`` (faulthandler's report), ``threads.json`` (thread ident → camera),
    ``analysing`` (cameras in the analysis thread's hands, a memory map because it changes with every frame) and
    ``quarantine.json`` (camera → times at which it killed the engine, and the last reason).
    """

    def __init__(self, folder: Path) -> None:
        self.report = folder / "crash.txt"
        self._threads = folder / "threads.json"
        self._analysing = folder / "analysing"
        self._map: mmap.mmap | None = None
        self._quarantine = folder / "quarantine.json"
        self._cameras: dict[str, str] = {}
        self._lock = threading.Lock()

    def thread_runs(self, ident: int, camera_id: str | None) -> None:
        """Thread `ident` now works for `camera_id`, or for none: said before it opens a stream or cuts a clip."""
        with self._lock:
            if self._cameras.get(str(ident)) == camera_id:
                return
            if camera_id is None:
                del self._cameras[str(ident)]
            else:
                self._cameras[str(ident)] = camera_id
            _write_atomically(self._threads, json.dumps(self._cameras))

    def analysing(self, camera_ids: Sequence[str]) -> None:
        """The calling thread now works on frames of these cameras (or none); of several none is blamed for a crash."""
        if self._map is None:
            self._analysing.write_bytes(b"\n" * MAP_BYTES)
            with self._analysing.open("r+b") as handle:
                self._map = mmap.mmap(handle.fileno(), MAP_BYTES)
            self.thread_runs(threading.get_ident(), ANALYSIS)
        name = "".join(camera_ids) if len(camera_ids) < 2 else TOGETHER
        text = name.encode()[: MAP_BYTES - 1] + b"\n"
        self._map[: len(text)] = text

    def failed(self) -> None:
        """The calling thread is about to end the engine by an exception, for which it is to blame as for a crash."""
        self.report.write_text(f"Current thread 0x{threading.get_ident():016x} (exception)\n")

    def culprit(self, *, hung: bool = False) -> str | None:
        """The camera whose thread crashed, read from the last report; ``@together`` for several, None for none.

        Args:
            hung: It did not crash but stood still: then a camera is to blame only if the thread stood in its capture
                or analysis.
        """
        try:
            report = self.report.read_text(encoding="utf-8", errors="replace")
            cameras: dict[str, str] = json.loads(self._threads.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        match = re.search(r"Current thread 0x([0-9a-fA-F]+)", report)
        if match is None or (hung and not _WORK.search(report[match.end() :].partition("\n\n")[0])):
            return None
        camera = cameras.get(str(int(match[1], 16)))
        if camera == ANALYSIS:
            with contextlib.suppress(OSError):
                return self._analysing.read_bytes().partition(b"\n")[0].decode() or None
            return None
        return camera

    def add_kill(self, camera_id: str, at_s: float, reason: str) -> bool:
        """Note that `camera_id` killed the engine at Unix time `at_s`; True when it is now quarantined."""
        notes = self._load()
        entry = notes.setdefault(camera_id, _Kills(kills=[], reason=""))
        entry["kills"] = [k for k in entry["kills"] if at_s - k < KILL_MEMORY_S] + [at_s]
        entry["reason"] = reason
        _write_atomically(self._quarantine, json.dumps(notes))
        return len(entry["kills"]) >= QUARANTINE_KILLS

    @property
    def suspicious(self) -> bool:
        """Whether something killed the engine lately: then cameras must not share an inference, to tell which."""
        return bool(self._load())

    def quarantined(self) -> dict[str, str]:
        """Reason by quarantined camera."""
        return {
            camera: entry["reason"]
            for camera, entry in self._load().items()
            if len(entry["kills"]) >= QUARANTINE_KILLS
        }

    def pardon(self) -> None:
        """Forget every kill: an operator who starts the daemon anew gives all cameras another try."""
        self._quarantine.unlink(missing_ok=True)

    def clear_report(self) -> None:
        """Forget the last crash."""
        self.report.unlink(missing_ok=True)

    def _load(self) -> dict[str, _Kills]:
        try:
            loaded = json.loads(self._quarantine.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}


@dataclass
class Supervisor:
    """Runs `command` as the engine until it ends by itself or SIGTERM comes.

    The engine's standard input is a pipe that closes when the supervisor dies, its standard output carries one
    heartbeat byte a second.

    Attributes:
        command: The engine's command line.
        notes: Where crashes are explained.
        folder: Where an engine leaves the configuration that it runs with; None where it has none to go back to.
        on_start: Called with the engine's process id at each start (tests).
    """

    command: Sequence[str]
    notes: CrashNotes
    folder: Path | None = None
    on_start: Callable[[int], None] | None = None
    restarts: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)
    _process: subprocess.Popen[bytes] | None = None
    _ever_ran: bool = False
    _late_s: float = float("-inf")
    _killed: bool = False

    def run(self) -> int:
        """Supervise until the end.

        Returns:
            The exit status for the shell: 0, 2 for an engine that could not start, and where the engine did not end
            as told 1 if it failed meanwhile, `KILLED` if it was merely too slow.
        """
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        # On a terminal that is closed it means the end; a service is told so to look at its configuration.
        hangup = self._on_signal if os.isatty(0) else self._on_hangup
        previous[signal.SIGHUP] = signal.signal(signal.SIGHUP, hangup)
        try:
            return self._loop()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _loop(self) -> int:
        delay_s = RESTART_MIN_S
        self.notes.pardon()
        retreat = False
        while True:
            started = time.monotonic()
            self.notes.clear_report()
            status, hung, started_up = self._run_engine(retreat=retreat)
            if self._stopping.is_set():
                if self._killed:
                    return KILLED
                return 0 if status in (0, START_ANEW, -signal.SIGTERM, -signal.SIGINT) else 1
            if status == 0:
                return 0
            if status == 2 and not hung and not self._ever_ran:
                return 2  # it could not start at all, and has said why on stderr
            if status == START_ANEW and not hung:
                retreat = False
                continue
            # Once only: if that does not help, it is not the configuration.
            retreat = status == 2 and not started_up and not retreat and self.folder is not None
            if retreat:
                log.error("engine cannot start with the configuration, the former goes on")
                continue
            lived_s = time.monotonic() - started
            delay_s = RESTART_MIN_S if lived_s > STABLE_S else min(delay_s * 2, RESTART_MAX_S)
            self._explain(status, hung, lived_s)
            self.restarts += 1
            if self._stopping.wait(delay_s):
                return 0

    def _run_engine(self, *, retreat: bool) -> tuple[int, bool, bool]:
        """Exit status, whether it hung, and whether its loop ever turned."""
        process = subprocess.Popen(
            [*self.command, *([f"{RETREAT}{self.folder}"] if retreat else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**MALLOC, **os.environ},
        )
        self._process = process
        if self._stopping.is_set():
            process.terminate()
        if self.on_start is not None:
            self.on_start(process.pid)
        beat = _Heartbeat(process)
        hung = False
        stop_deadline: float | None = None
        now = time.monotonic()
        while process.poll() is None:
            before = now
            time.sleep(POLL_S)
            now = time.monotonic()
            if now - before > LATE_S:
                self._late_s = now
                beat.last_s += now - before  # time that the engine did not have either
                if stop_deadline is not None:
                    stop_deadline += now - before
            if self._stopping.is_set():
                stop_deadline = stop_deadline or now + STOP_TIMEOUT_S
                if now > stop_deadline:
                    process.kill()
                    # It may have ended by itself at the last moment.
                    self._killed = process.wait() == -signal.SIGKILL
                    if self._killed:
                        log.warning(
                            "engine did not end in time and is killed, what was stored is safe",
                            after_s=STOP_TIMEOUT_S,
                        )
            elif now - beat.last_s > HEARTBEAT_TIMEOUT_S:
                hung = True
                process.send_signal(signal.SIGABRT)  # lets faulthandler say where it hangs
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(2.0)
                process.kill()
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        self._ever_ran = self._ever_ran or beat.heard
        return process.wait(), hung, beat.heard

    def _explain(self, status: int, hung: bool, lived_s: float) -> None:
        if hung:
            reason = f"did not answer for {HEARTBEAT_TIMEOUT_S:.0f} s"
        elif status < 0:
            reason = f"was killed by {signal.Signals(-status).name}"
        else:
            reason = f"ended with status {status}"
        # What made the supervisor late may have made the engine late.
        strained = hung and time.monotonic() - self._late_s < 2 * HEARTBEAT_TIMEOUT_S
        culprit = None if strained else self.notes.culprit(hung=hung)
        quarantined = culprit is not None and self.notes.add_kill(culprit, time.time(), reason)
        log.error(
            "engine died and is restarted",
            reason=reason,
            lived_s=round(lived_s, 1),
            camera=culprit,
            quarantined=quarantined,
        )

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stopping.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    def _on_hangup(self, _number: int, _frame: FrameType | None) -> None:
        process = self._process
        if process is not None and process.stdin is not None:
            # Not by a signal: one that comes before the engine has its handler would end it.
            with contextlib.suppress(OSError, ValueError):
                os.write(process.stdin.fileno(), RELOAD)


class _Heartbeat:
    """Notes when the engine last said that its loop turns."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.last_s = time.monotonic() + STARTING_S
        self.heard = False
        assert process.stdout is not None  # noqa: S101 - Popen was told to make it
        self._pipe = process.stdout
        threading.Thread(target=self._read, name="heartbeat", daemon=True).start()

    def _read(self) -> None:
        with self._pipe:
            while beats := os.read(self._pipe.fileno(), 64):
                if beats.endswith(STARTING):
                    self.last_s = time.monotonic() + STARTING_S
                else:
                    self.last_s = time.monotonic()
                    self.heard = True


def engine_command(config: Path, *options: str) -> list[str]:
    """The command line of the supervised engine."""
    return [sys.executable, "-m", "gridwatch.host", str(config), *options]


def become_daemon(
    file: Path,
    config: Config,
    *,
    once: bool,
    overrides: Sequence[str] = (),
    with_parent: bool = False,
) -> NoReturn:
    """Turn this process into the supervisor of a configuration that has just been found valid.

    By `exec`, because checking a configuration has loaded libraries (OpenCV, FFmpeg, SciPy) that a supervisor must not
    carry: it stays small, and holds nothing that can crash.
    """
    folder = config.state_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = ["--once"] if once else []
    options += [f"--set={override}" for override in overrides]
    options += [WITH_PARENT] if with_parent else []
    arguments = [config.runtime.log_format, str(folder), str(file), *options]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "gridwatch.daemon", *arguments])  # noqa: S606 - ourselves


def main() -> int:
    """Run as the supervisor: ``python -m gridwatch.daemon LOG_FORMAT STATE_FOLDER CAMERAS_YAML [OPTION…]``."""
    style, folder, file, *options = sys.argv[1:]
    configure_logging("json" if style == "json" else "human" if style == "human" else "auto")
    # A second daemon on the same store must not touch the first one's crash notes either.
    lock = EngineLock(Path(folder), "supervisor.lock")
    try:
        lock.acquire()
    except GridwatchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if WITH_PARENT in options:  # meant for us; the engine ends with the supervisor anyway
        options.remove(WITH_PARENT)
        end_with_parent()
    command = engine_command(Path(file), *options)
    return Supervisor(command, CrashNotes(Path(folder)), Path(folder)).run()


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    raise SystemExit(main())
