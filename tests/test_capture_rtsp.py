"""The reader against a real RTSP server that dies, falls silent and refuses."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import pytest
from structlog.testing import capture_logs

from pipeline.capture import (
    CameraReader,
    DecodeLevel,
    PacketRing,
    ReaderState,
    StreamSettings,
    probe,
)
from pipeline.exceptions import CaptureError
from pipeline.frame import Frame
from tests.media import moving_square, scene, write_clip
from tests.rtsp import RtspServer, free_port, rtsp_missing

MISSING = rtsp_missing()
real = pytest.mark.skipif(MISSING is not None, reason=f"NOT TESTED against RTSP: {MISSING}")
PASSWORD = "p@ss/w:rd"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("rtsp") / "c.mp4", moving_square(100), gop=25)


@pytest.fixture
def reader_of() -> Iterator[Callable[..., CameraReader]]:
    readers: list[CameraReader] = []

    def make(
        url: str, *, rate_hz: float = 10.0, ring: PacketRing | None = None, **options: object
    ) -> CameraReader:
        settings = StreamSettings.model_validate(
            {"url": url, "open_timeout": 3, "read_timeout": 2, **options}
        )
        readers.append(CameraReader("cam", settings, rate_hz=rate_hz, ring=ring))
        readers[-1].start()
        return readers[-1]

    yield make
    for reader in readers:
        reader.stop()


def wait_for(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def take(reader: CameraReader, count: int, timeout_s: float = 20.0) -> list[Frame]:
    frames: list[Frame] = []
    end = time.monotonic() + timeout_s
    while len(frames) < count:
        assert time.monotonic() < end, (
            f"{len(frames)} of {count} frames: {reader.state} {reader.reason}"
        )
        frame = reader.take(0.2)
        if frame is not None:
            frames.append(frame)
    return frames


@real
@pytest.mark.real
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_frames_come_on_the_hosts_time(
    clip: Path, reader_of: Callable[..., CameraReader], transport: str
) -> None:
    with RtspServer({"cam": clip}) as server:
        reader = reader_of(server.url("cam"), transport=transport)
        frames = take(reader, 20)
        times = [f.t for f in frames]
        assert all(0 < b - a < 0.5 for a, b in zip(times, times[1:]))  # noqa: B905, RUF007
        assert abs(times[-1] - time.time()) < 1.2
        assert times[-1] - times[0] == pytest.approx(1.9, abs=0.5)
        assert frames[-1].image.shape == (180, 320, 3)
        assert reader.ident in {thread.ident for thread in threading.enumerate()}
        reader.set_rate(1.0)
        wait_for(lambda: reader.level is DecodeLevel.KEYFRAMES)
        assert reader.keyframe_interval_s == pytest.approx(1.0, abs=0.1)
        take(reader, 2)


@real
@pytest.mark.real
def test_a_restarted_server_is_found_again(
    clip: Path, tmp_path: Path, reader_of: Callable[..., CameraReader]
) -> None:
    ring = PacketRing(10, 10**8)
    with RtspServer({"cam": clip}) as server, capture_logs() as logs:
        reader = reader_of(server.url("cam"), ring=ring)
        before = take(reader, 5)[-1]
        server.stop()
        wait_for(lambda: reader.state is ReaderState.BACKING_OFF)
        server.start()
        after = take(reader, 15)[-1]
        assert (before.epoch, after.epoch) == (0, 1)
        assert after.t > before.t
        assert reader.counters.reconnects == 1
        assert [log["event"] for log in logs] == ["camera lost", "camera back"]
        span = ring.span
        assert span is not None
        assert span[0] < before.t < after.t
        made = ring.clip(after.t - 60, after.t + 60, tmp_path / "clip.mp4")
        assert made.t_from > before.t, "the newest connection, where none is asked for"
        lost = ring.clip(before.t - 60, after.t, tmp_path / "lost.mp4", about_t=before.t)
        assert lost.t_from < before.t < after.t
        assert lost.t_to < made.t_from
        assert probe(StreamSettings(url=str(made.path))).codec == "h264"


@real
@pytest.mark.real
def test_a_silent_server_is_noticed_and_disturbs_no_other_camera(
    clip: Path, reader_of: Callable[..., CameraReader]
) -> None:
    states: list[ReaderState] = []
    with RtspServer({"cam": clip}) as silent, RtspServer({"cam": clip}) as sound:
        other = reader_of(sound.url("cam"))
        settings = StreamSettings(url=silent.url("cam"), open_timeout=2, read_timeout=1)
        reader = CameraReader(
            "silent", settings, on_state=lambda state, _reason, _t: states.append(state)
        )
        reader.start()
        take(reader, 3)
        silent.freeze()
        try:
            wait_for(lambda: ReaderState.STALLED in states)
            assert reader.silent_s < 3
            wait_for(lambda: "no answer within 2 s" in reader.reason)
            count = other.counters.packets
            started = time.monotonic()
            assert len(take(other, 10)) == 10
            assert time.monotonic() - started < 3
            assert other.counters.packets > count
            assert other.epoch == 0
        finally:
            silent.thaw()
        reader.take()
        assert take(reader, 3)[-1].epoch >= 1
        assert reader.stop()


@real
@pytest.mark.real
def test_a_wrong_password_is_said_plainly_and_never_shown(
    clip: Path, reader_of: Callable[..., CameraReader]
) -> None:
    with (
        RtspServer({"cam": clip}, user="admin", password=PASSWORD) as server,
        capture_logs() as logs,
    ):
        assert take(reader_of(server.url("cam")), 3)
        wrong = reader_of(server.url("cam").replace("admin:", "admin:wrong"))
        wait_for(lambda: wrong.state is ReaderState.BACKING_OFF)
        assert "refuses the login" in wrong.reason
        lost = reader_of(server.url("nothing"))
        wait_for(lambda: lost.state is ReaderState.BACKING_OFF)
        assert "no stream at this path" in lost.reason
        assert wrong.stop()
        assert "p%40ss" not in f"{wrong.reason} {lost.reason} {logs} {wrong.settings!r}"


def test_stopping_while_connecting_takes_less_than_two_seconds() -> None:
    with socket.socket() as mute:  # accepts and never answers
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        settings = StreamSettings(url=f"rtsp://127.0.0.1:{mute.getsockname()[1]}/x", open_timeout=3)
        reader = CameraReader("cam", settings)
        reader.start()
        time.sleep(0.2)
        started = time.monotonic()
        reader.stop()
        assert time.monotonic() - started < 2.0
        wait_for(lambda: reader.state is ReaderState.ENDED)


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    jpeg = cv2.imencode(".jpg", scene(1))[1].tobytes()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/page":
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(b"<html>Please log in</html>" * 30)
            elif self.path == "/mjpeg":
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=part")
                self.end_headers()
                head = b"--part\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(
                    jpeg
                )
                try:
                    while True:
                        self.wfile.write(head + jpeg + b"\r\n")
                        time.sleep(0.1)
                except OSError:
                    pass
            else:
                self.send_error(int(self.path[1:]))

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://user:hush@127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "said", "retryable"),
    [
        ("/page", "no video", True),
        ("/401", "refuses the login", False),
        ("/403", "refuses the login", False),
        ("/404", "no stream at this path", False),
        ("/500", "error of its own", True),
    ],
)
def test_answers_of_a_web_server_are_told_apart(
    web: str, path: str, said: str, retryable: bool
) -> None:
    with pytest.raises(CaptureError, match=said) as caught:
        probe(StreamSettings(url=web + path, open_timeout=3))
    assert caught.value.retryable is retryable
    assert "hush" not in str(caught.value)


def test_unreachable_addresses_are_told_apart() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    for url, said in (
        (f"rtsp://u:hush@127.0.0.1:{port}/x", "connection refused"),
        ("rtsp://u:hush@no-such-host.invalid/x", "cannot be resolved"),
    ):
        with pytest.raises(CaptureError, match=said) as caught:
            probe(StreamSettings(url=url, open_timeout=3))
        assert "hush" not in str(caught.value)


def test_mjpeg_over_http_is_stamped_by_arrival(
    web: str, reader_of: Callable[..., CameraReader]
) -> None:
    reader = reader_of(f"{web}/mjpeg", rate_hz=5.0)
    frames = take(reader, 6)
    assert frames[-1].t - frames[1].t == pytest.approx(0.8, abs=0.35)
    assert abs(frames[-1].t - time.time()) < 1.0
    assert reader.stop()


def test_every_thread_says_that_it_is_the_cameras_before_it_opens_a_stream() -> None:
    nobody = f"rtsp://127.0.0.1:{free_port()}"
    settings = StreamSettings(url=f"{nobody}/small", record=f"{nobody}/large")
    told: set[str] = set()
    reader = CameraReader(
        "cam",
        settings,
        ring=PacketRing(10, 10**8),
        on_thread=lambda: told.add(threading.current_thread().name),
    )
    reader.start()
    wait_for(lambda: told == {"capture-cam", "record-cam"})
    assert reader.stop()


@real
@pytest.mark.real
def test_the_record_stream_is_kept_without_decoding(
    clip: Path, tmp_path: Path, reader_of: Callable[..., CameraReader]
) -> None:
    large = write_clip(tmp_path / "large.mp4", moving_square(50, 640, 360), gop=25)
    ring = PacketRing(10, 10**8)
    with RtspServer({"small": clip, "large": large}) as server:
        reader = reader_of(server.url("small"), record=server.url("large"), ring=ring)
        t = take(reader, 30)[-1].t
        made = ring.clip(t - 2, t, tmp_path / "clip.mp4")
        assert probe(StreamSettings(url=str(made.path))).width_px == 640
        assert reader.take(2).image.shape == (180, 320, 3)  # type: ignore[union-attr]


@real
@pytest.mark.real
def test_probe_measures_a_camera(clip: Path) -> None:
    with RtspServer({"cam": clip}) as server:
        report = probe(StreamSettings(url=server.url("cam")), seconds=3.0)
    assert (report.codec, report.width_px, report.height_px) == ("h264", 320, 180)
    assert report.rate_hz == pytest.approx(25.0, rel=0.2)
    assert report.keyframe_interval_s == pytest.approx(1.0, abs=0.2)


def test_the_servers_absence_is_loud() -> None:
    if os.environ.get("CI"):
        assert MISSING is None, f"CI must install the RTSP server: {MISSING}"
