"""A real RTSP server (GStreamer's gst-rtsp-server) that serves MP4 files in a loop without encoding.

For tests and for the soak benchmark::

    with RtspServer({"cam": clip}, user="admin", password="p@ss") as server:
        url = server.url("cam")
        server.stop(); server.start()   # the camera reboots
        server.freeze(); server.thaw()  # the camera falls silent without closing

From the command line, with the system's Python::

    python benchmarks/rtsp_server.py --port 8554 cam1=one.mp4 cam2=two.mp4

GStreamer's bindings belong to the system's Python, not to a virtual environment: the server is a process of its own.
Debian: gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-bad python3-gi.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

__all__ = ["RtspServer", "free_port", "rtsp_missing"]

SYSTEM_PYTHON = "/usr/bin/python3"
HOST = "127.0.0.1"


def rtsp_missing() -> str | None:
    """Why no server can be run here, or None if one can."""
    code = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    try:
        done = subprocess.run(
            [SYSTEM_PYTHON, "-c", code], capture_output=True, text=True, check=False
        )
    except OSError as error:
        return f"{SYSTEM_PYTHON}: {error.strerror}"
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["unknown"])[-1]


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class RtspServer:
    """Runs this file as a server process.

    Args:
        mounts: Name of each mount point and the H.264 MP4 file behind it.
        port: TCP port; a free one if None. It stays the same over `stop` and `start`.
        user: Login of basic authentication; anybody may look if None.
        password: Its password.
    """

    def __init__(
        self,
        mounts: Mapping[str, Path],
        *,
        port: int | None = None,
        user: str | None = None,
        password: str | None = None,
    ) -> None:
        self.port = port or free_port()
        self.mounts = {name: Path(path) for name, path in mounts.items()}
        self._login = (user, password or "") if user else None
        self._process: subprocess.Popen[str] | None = None

    def url(self, name: str, *, login: bool = True) -> str:
        """Address of a mount point, with the login if there is one."""
        who = ""
        if login and self._login:
            who = ":".join(quote(part, safe="") for part in self._login) + "@"
        return f"rtsp://{who}{HOST}:{self.port}/{name}"

    @property
    def pid(self) -> int:
        """Its process id; RuntimeError while it does not run."""
        if self._process is None:
            raise RuntimeError("the RTSP server does not run")
        return self._process.pid

    def start(self, timeout_s: float = 30.0) -> None:
        """Start and wait until it accepts connections.

        Raises:
            RuntimeError: if it does not within `timeout_s` seconds.
        """
        command = [SYSTEM_PYTHON, str(Path(__file__).resolve()), "--port", str(self.port)]
        environment = dict(os.environ)
        if self._login:
            command += ["--user", self._login[0]]
            environment["RTSP_PASSWORD"] = self._login[
                1
            ]  # not on the command line, where ps shows it
        command += [f"{name}={path}" for name, path in self.mounts.items()]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        self._process = process
        ready: list[str] = []

        def read() -> None:
            if process.stdout is not None:
                ready.append(process.stdout.readline())

        reader = threading.Thread(target=read)
        reader.start()
        reader.join(timeout_s)
        if not ready or not ready[0].startswith("ready"):
            self.stop()
            raise RuntimeError(f"RTSP server did not start within {timeout_s} s: {ready}")

    def stop(self) -> None:
        """Kill the server as a power cut would."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait(10)
            if process.stdout is not None:
                process.stdout.close()

    def freeze(self) -> None:
        """Stop the process without closing its connections."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()


def serve(port: int, mounts: dict[str, str], user: str | None, password: str) -> None:
    """Serve for ever; runs under the system's Python."""
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstApp", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)

    class Looped(GstRtspServer.RTSPMediaFactory):  # type: ignore[misc]
        """Plays a file's packets on and on with running stamps: read once, then pushed at their own pace."""

        def __init__(self, path: str) -> None:
            super().__init__()
            self.samples, self.caps, self.length = load(Gst, path)
            self.set_shared(True)
            self.set_launch(
                "( appsrc name=source is-live=true format=time do-timestamp=false block=false max-bytes=0 "
                "! h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1 aggregate-mode=zero-latency )"
            )

        def do_configure(self, media: Any) -> None:  # noqa: ANN401 - gi ships no types
            source = media.get_element().get_child_by_name("source")
            source.set_property("caps", self.caps)
            stopped = threading.Event()
            media.connect("unprepared", lambda _media: stopped.set())
            threading.Thread(target=self.push, args=(source, stopped), daemon=True).start()

        def push(self, source: Any, stopped: threading.Event) -> None:  # noqa: ANN401 - the same
            start = time.monotonic()
            turn = 0
            while not stopped.is_set():
                for data, pts, dts, duration, flags in self.samples:
                    shift = turn * self.length
                    wait = start + (dts + shift) / 1e9 - time.monotonic()
                    if wait > 0 and stopped.wait(wait):
                        return
                    buffer = Gst.Buffer.new_wrapped(data)
                    buffer.pts, buffer.dts, buffer.duration = pts + shift, dts + shift, duration
                    buffer.set_flags(flags)
                    if source.emit("push-buffer", buffer) not in (
                        Gst.FlowReturn.OK,
                        Gst.FlowReturn.FLUSHING,
                    ):
                        return
                turn += 1

    server = GstRtspServer.RTSPServer(address=HOST, service=str(port))
    if user is not None:
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        server.set_auth(auth)
    points = server.get_mount_points()
    for name, path in mounts.items():
        factory = Looped(path)
        if user is not None:
            role = Gst.Structure.new_from_string(
                "viewer, media.factory.access=(boolean)true, media.factory.construct=(boolean)true"
            )
            permissions = GstRtspServer.RTSPPermissions()
            permissions.add_role_from_structure(role)
            factory.set_permissions(permissions)
        points.add_factory(f"/{name}", factory)
    if server.attach(None) == 0:
        raise SystemExit(f"port {port} is taken")
    print("ready", flush=True)
    GLib.MainLoop().run()


def load(gst: Any, path: str) -> tuple[list[tuple[bytes, int, int, int, Any]], Any, int]:  # noqa: ANN401
    """All H.264 packets of a file: (data, pts, dts, duration in ns, flags) each, their caps, their length in ns."""
    pipeline = gst.parse_launch(
        f'filesrc location="{path}" ! qtdemux ! h264parse ! video/x-h264,stream-format=byte-stream,alignment=au '
        "! appsink name=sink sync=false max-buffers=0"
    )
    sink = pipeline.get_by_name("sink")
    pipeline.set_state(gst.State.PLAYING)
    samples: list[tuple[bytes, int, int, int, Any]] = []
    caps = None
    while True:
        sample = sink.emit("pull-sample")
        if sample is None:
            break
        caps = sample.get_caps()
        buffer = sample.get_buffer()
        dts = buffer.dts if buffer.dts != gst.CLOCK_TIME_NONE else buffer.pts
        flags = buffer.get_flags() & (gst.BufferFlags.DELTA_UNIT | gst.BufferFlags.HEADER)
        samples.append(
            (buffer.extract_dup(0, buffer.get_size()), buffer.pts, dts, buffer.duration, flags)
        )
    pipeline.set_state(gst.State.NULL)
    if not samples:
        raise SystemExit(f"{path}: holds no H.264 video in an MP4")
    first = samples[0][2]
    samples = [
        (data, pts - first, dts - first, length, flags) for data, pts, dts, length, flags in samples
    ]
    step = samples[-1][2] // max(1, len(samples) - 1)
    return samples, caps, samples[-1][2] + step


def main() -> None:
    """Serve what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=8554)
    parser.add_argument(
        "--user", help="login of basic authentication; the password is read from RTSP_PASSWORD"
    )
    parser.add_argument("mounts", nargs="+", metavar="NAME=FILE.mp4")
    arguments = parser.parse_args()
    mounts = dict(mount.partition("=")[::2] for mount in arguments.mounts)
    if "gi" not in sys.modules and sys.executable != SYSTEM_PYTHON and Path(SYSTEM_PYTHON).exists():
        os.execv(SYSTEM_PYTHON, [SYSTEM_PYTHON, *sys.argv])  # noqa: S606 - our own file
    serve(arguments.port, mounts, arguments.user, os.environ.get("RTSP_PASSWORD", ""))


if __name__ == "__main__":
    main()
