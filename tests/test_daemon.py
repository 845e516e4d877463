"""The supervisor: restarts, blame, quarantine, a clean end; with small real processes as engines."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gridwatch import daemon
from gridwatch.daemon import CrashNotes, EngineLock, Supervisor
from pipeline.exceptions import GridwatchError

# Stands for the engine: beats, notes its reader's thread, then does what argv says.
ENGINE = """
import faulthandler, os, signal, sys, threading, time
from pathlib import Path
from gridwatch.daemon import CrashNotes
folder, counter = Path(sys.argv[1]), Path(sys.argv[1]) / "starts"
starts = int(counter.read_text()) + 1 if counter.exists() else 1
counter.write_text(str(starts))
notes = CrashNotes(folder)
faulthandler.enable(notes.report.open("w"))
os.write(1, b".")
def reader():
    notes.thread_runs(threading.get_ident(), "cam-7")
    if starts <= int(sys.argv[2]) and "cam-7" not in notes.quarantined():
        faulthandler._sigsegv()
thread = threading.Thread(target=reader); thread.start(); thread.join()
if sys.argv[3] == "stay":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(7)), daemon=True).start()
    while True:
        os.write(1, b"."); time.sleep(0.05)
"""


@pytest.fixture(autouse=True)
def _quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "RESTART_MIN_S", 0.01)


def supervisor(folder: Path, crashes: int, then: str = "end") -> Supervisor:
    command = [sys.executable, "-c", ENGINE, str(folder), str(crashes), then]
    return Supervisor(command, CrashNotes(folder))


def wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_an_engine_that_ends_by_itself_ends_the_daemon(tmp_path: Path) -> None:
    assert supervisor(tmp_path, crashes=0).run() == 0
    assert (tmp_path / "starts").read_text() == "1"


def test_one_native_crash_is_survived_and_blamed_on_the_camera(tmp_path: Path) -> None:
    watch = supervisor(tmp_path, crashes=1)
    assert watch.run() == 0
    assert watch.restarts == 1
    assert watch.notes.quarantined() == {}  # once may be chance


def test_a_camera_that_kills_the_engine_twice_is_quarantined(tmp_path: Path) -> None:
    watch = supervisor(tmp_path, crashes=99)
    assert watch.run() == 0
    assert watch.restarts == 2
    assert list(watch.notes.quarantined()) == ["cam-7"]
    assert "SIGSEGV" in watch.notes.quarantined()["cam-7"]


def test_a_new_start_by_the_operator_pardons(tmp_path: Path) -> None:
    notes = CrashNotes(tmp_path)
    assert not notes.add_kill("cam-7", 1000.0, "x")
    assert notes.add_kill("cam-7", 1001.0, "x")
    assert supervisor(tmp_path, crashes=0).run() == 0
    assert notes.quarantined() == {}


def test_old_kills_are_forgotten(tmp_path: Path) -> None:
    notes = CrashNotes(tmp_path)
    assert not notes.add_kill("cam-7", 0.0, "x")
    assert not notes.add_kill("cam-7", daemon.KILL_MEMORY_S + 1.0, "x")


def test_a_crash_outside_any_camera_blames_none(tmp_path: Path) -> None:
    notes = CrashNotes(tmp_path)
    notes.thread_runs(1, "cam-7")
    notes.report.write_text(
        "Fatal Python error\n\nCurrent thread 0x0000ffff (most recent call first)"
    )
    assert notes.culprit() is None
    notes.report.write_text("Current thread 0x0000000000000001 (most recent call first)")
    assert notes.culprit() == "cam-7"
    notes.thread_runs(1, None)  # its clip is cut
    assert notes.culprit() is None


def test_an_exception_in_the_analysis_is_blamed_like_a_crash(tmp_path: Path) -> None:
    notes = CrashNotes(tmp_path)
    notes.analysing(["cam-7"])
    notes.failed()
    assert notes.culprit() == "cam-7"
    notes.analysing(())
    notes.failed()
    assert notes.culprit() is None


def test_sigterm_ends_engine_and_daemon(tmp_path: Path) -> None:
    started = threading.Event()
    watch = supervisor(tmp_path, crashes=0, then="stay")
    watch.on_start = lambda _pid: started.set()

    def end() -> None:
        started.wait(20)
        wait_for((tmp_path / "starts").exists)
        time.sleep(0.3)  # the engine installs its handler right after it noted its start
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end)
    thread.start()
    begun = time.monotonic()
    assert watch.run() == 0
    thread.join()
    assert time.monotonic() - begun < 20


# Stands for an engine under load: it obeys SIGTERM, but needs `argv[2]` seconds for that.
SLOW = """
import os, signal, sys, threading, time
from pathlib import Path
told = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: told.set())
Path(sys.argv[1], "ready").touch()
while not told.wait(0.05):
    os.write(1, b".")
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize(("takes_s", "status"), [(1.0, 0), (60.0, daemon.KILLED)])
def test_an_engine_slow_to_end_has_its_time_and_is_then_killed_with_a_status_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes_s: float, status: int
) -> None:
    if status:
        monkeypatch.setattr(daemon, "STOP_TIMEOUT_S", 0.3)
    command = [sys.executable, "-c", SLOW, str(tmp_path), str(takes_s)]
    watch = Supervisor(command, CrashNotes(tmp_path))

    def end() -> None:
        wait_for((tmp_path / "ready").exists)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end)
    thread.start()
    assert watch.run() == status
    thread.join()


def test_a_hung_engine_is_killed_and_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "HEARTBEAT_TIMEOUT_S", 0.3)
    code = (
        "import os, sys, time, pathlib; p = pathlib.Path(sys.argv[1]); n = p.exists(); p.touch()\n"
        "os.write(1, b'.')\n"
        "time.sleep(0 if n else 60)"
    )
    watch = Supervisor([sys.executable, "-c", code, str(tmp_path / "seen")], CrashNotes(tmp_path))
    assert watch.run() == 0
    assert watch.restarts == 1


def test_a_long_start_is_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "HEARTBEAT_TIMEOUT_S", 0.3)
    code = (
        "import os, time\n"
        "os.write(1, b's'); time.sleep(1.5); os.write(1, b's'); time.sleep(0.5); os.write(1, b'.')"
    )
    watch = Supervisor([sys.executable, "-c", code], CrashNotes(tmp_path))
    assert watch.run() == 0
    assert watch.restarts == 0


def hung_report(folder: Path, file: str) -> CrashNotes:
    notes = CrashNotes(folder)
    notes.analysing(["cam-7"])
    ident = threading.get_ident()
    notes.report.write_text(
        f"Fatal Python error: Aborted\n\nThread 0x01 (most recent call first):\n"
        f'  File "/x/pipeline/capture/reader.py", line 9 in _read\n\n'
        f"Current thread {ident:#018x} (most recent call first):\n"
        f'  File "{file}", line 7 in f\n  File "/x/gridwatch/host.py", line 1 in main\n\n'
        f'Thread 0x02 (most recent call first):\n  File "/x/pipeline/analyse/a.py", line 1 in f\n'
    )
    return notes


def test_a_hang_is_blamed_only_on_whose_analysis_stood_still(tmp_path: Path) -> None:
    notes = hung_report(tmp_path, "/x/pipeline/analyse/detector.py")
    assert notes.culprit(hung=True) == "cam-7"
    notes = hung_report(tmp_path, "/x/alerts/store.py")
    assert notes.culprit(hung=True) is None
    assert notes.culprit() == "cam-7"


@pytest.mark.parametrize("slept", [False, True])
def test_a_machine_that_slept_is_no_hang_and_no_cameras_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slept: bool
) -> None:
    """The engine stands still for a second, inside a camera's analysis; the supervisor with it, or not."""
    monkeypatch.setattr(daemon, "HEARTBEAT_TIMEOUT_S", 0.5)
    hung_report(tmp_path, "/x/pipeline/analyse/detector.py")
    monkeypatch.setattr(CrashNotes, "clear_report", lambda _notes: None)
    code = (
        "import os, sys, time, pathlib; p = pathlib.Path(sys.argv[1]); n = p.exists(); p.touch()\n"
        "os.write(1, b'.')\n"
        "time.sleep(0 if n else 1.2)"
    )
    watch = Supervisor([sys.executable, "-c", code, str(tmp_path / "seen")], CrashNotes(tmp_path))
    if slept:
        real = time.sleep

        def sleep(seconds: float) -> None:
            real(1.0 if (tmp_path / "seen").exists() and watch._late_s < 0 else seconds)

        monkeypatch.setattr(daemon, "LATE_S", 0.5)
        monkeypatch.setattr(time, "sleep", sleep)
    assert watch.run() == 0
    assert watch.restarts == (0 if slept else 1)
    assert watch.notes.suspicious is not slept


def test_a_configuration_error_is_not_retried(tmp_path: Path) -> None:
    watch = Supervisor([sys.executable, "-c", "raise SystemExit(2)"], CrashNotes(tmp_path))
    assert watch.run() == 2
    assert watch.restarts == 0


def test_two_engines_never_share_a_store(tmp_path: Path) -> None:
    first = EngineLock(tmp_path)
    first.acquire()
    with pytest.raises(GridwatchError, match=f"process {os.getpid()}"):
        EngineLock(tmp_path).acquire(patience_s=0.0)
    first.release()
    second = EngineLock(tmp_path)
    second.acquire(patience_s=0.0)
    second.release()


def test_a_crash_in_a_shared_inference_blames_no_camera_but_parts_them(tmp_path: Path) -> None:
    notes = CrashNotes(tmp_path)
    assert not notes.suspicious
    notes.analysing(["good", "bad"])
    ident = threading.get_ident()
    notes.report.write_text(
        f"Fatal Python error\n\nCurrent thread {ident:#018x} (most recent call first)"
    )
    assert notes.culprit() == daemon.TOGETHER
    notes.analysing(["bad"])
    assert notes.culprit() == "bad"
    notes.analysing([])
    assert notes.culprit() is None
    notes.add_kill(daemon.TOGETHER, 1000.0, "x")
    assert notes.suspicious
    assert notes.quarantined() == {}


# Pictures come and go between packets that stay, as in the engine; says how many MiB of holes the heap has in the end.
PICTURES_AND_PACKETS = """
import ctypes, random, sys
from collections import deque
from pathlib import Path
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split())]
info = ctypes.CDLL(None).mallinfo2
info.restype = Info
sizes, packets = random.Random(1), deque(maxlen=200)
for _ in range(200):
    pictures = []
    for _ in range(8):
        pictures.append(bytearray(3 * 2**20))
        packets.append(bytes(sizes.randrange(1000, 60000)))
del pictures
Path(sys.argv[1], "holes").write_text(str(info().fordblks / 2**20))
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="no mallinfo2: not glibc 2.33 or later"
)
def test_pictures_that_are_gone_leave_no_holes_in_the_engines_memory(tmp_path: Path) -> None:
    def holes_mib() -> float:
        return float((tmp_path / "holes").read_text())

    command = [sys.executable, "-c", PICTURES_AND_PACKETS, str(tmp_path)]
    subprocess.run(command, check=True, env=without_malloc_settings())
    assert holes_mib() > 10, "malloc as it comes: this test would show nothing"
    assert Supervisor(command, CrashNotes(tmp_path)).run() == 0
    assert holes_mib() < 3


def without_malloc_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
