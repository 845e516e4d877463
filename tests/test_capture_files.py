"""Files and pictures through the reader, the ring and the probe."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pipeline.capture import (
    CameraReader,
    DecodeLevel,
    PacketRing,
    ReaderState,
    StreamSettings,
    probe,
)
from pipeline.exceptions import CaptureError, EvidenceError
from pipeline.frame import Frame, Image
from tests.media import moving_square, scene, write_clip

START = 1_700_000_000.0
TRAPS = Path(__file__).parents[2] / "shared" / "data" / "clips" / "traps"


def read_all(reader: CameraReader, limit: int = 100_000) -> list[Frame]:
    reader.start()
    frames: list[Frame] = []
    try:
        while not reader.finished and len(frames) < limit:
            frame = reader.take(5.0)
            if frame is not None:
                frames.append(frame)
    finally:
        assert reader.stop()
    return frames


def virtual(path: Path, rate_hz: float = float("inf"), **options: object) -> CameraReader:
    settings = StreamSettings.model_validate({"url": str(path), "pace": "virtual", **options})
    return CameraReader("cam", settings, start_t=START, rate_hz=rate_hz)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(
        tmp_path_factory.mktemp("clip") / "c.mp4", moving_square(150), gop=25, b_frames=2
    )


def test_a_file_gives_every_picture_once_in_order(clip: Path) -> None:
    reader = virtual(clip)
    frames = read_all(reader)
    assert [f.t - START for f in frames] == pytest.approx([i * 0.04 for i in range(150)], abs=1e-4)
    assert frames[0].image.shape == (180, 320, 3)
    assert reader.counters.dropped == reader.counters.corrupt == 0
    assert reader.counters.packets == 150
    assert reader.state is ReaderState.ENDED
    assert reader.reason == ""


def test_pictures_are_those_that_were_encoded(clip: Path) -> None:
    frames = read_all(virtual(clip, 5.0))
    for frame in frames:
        x = round((frame.t - START) * 25) * 4 % 280
        patch = frame.image[70:90, x + 10 : x + 30].reshape(-1, 3).mean(axis=0)
        assert patch[2] > 200
        assert patch[:2].max() < 60


def test_a_rate_is_held_and_may_change_between_takes(clip: Path) -> None:
    assert len(read_all(virtual(clip, 5.0))) == pytest.approx(30, abs=1)
    times = []
    for _ in range(2):  # the sequence does not depend on timing
        reader = virtual(clip, 2.0)
        reader.start()
        taken = []
        while not reader.finished:
            frame = reader.take(5.0)
            if frame is None:
                continue
            taken.append(round(frame.t - START, 3))
            reader.set_rate(12.5 if 1.9 <= frame.t - START < 3.0 else 2.0)
        times.append(taken)
        reader.stop()
    assert times[0] == times[1]
    assert sum(2.0 < t <= 3.1 for t in times[0]) == pytest.approx(13, abs=1)


def test_key_frames_are_enough_where_their_interval_is(clip: Path) -> None:
    reader = virtual(clip, 1.0)
    frames = read_all(reader)
    assert reader.level is DecodeLevel.KEYFRAMES
    assert reader.keyframe_interval_s == pytest.approx(1.0)
    assert len(frames) == 6
    assert all(f.keyframe for f in frames[2:])
    assert [round(f.t - START) for f in frames] == list(range(6))
    assert reader.counters.decoded < 60


def test_the_level_rises_cleanly_at_the_next_key_frame(clip: Path) -> None:
    reader = virtual(clip, 1.0)
    reader.start()
    frames: list[Frame] = []
    while not reader.finished:
        frame = reader.take(5.0)
        if frame is not None:
            frames.append(frame)
            if frame.t - START > 2.5:
                reader.set_rate(float("inf"))
    reader.stop()
    late = [f for f in frames if f.t - START >= 4.0]
    assert (
        len(late) == 50
    )  # everything after the next key frame, and nothing decoded from a missing reference
    assert reader.counters.corrupt == 0
    for frame in late:
        x = round((frame.t - START) * 25) * 4 % 280
        assert frame.image[70:90, x + 10 : x + 30, 2].mean() > 200


def test_large_pictures_are_scaled_once_and_small_ones_never_enlarged(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "big.mp4", moving_square(5, 1280, 720))
    frame = read_all(virtual(path, analyse_width=640))[0]
    assert frame.image.shape == (360, 640, 3)
    assert frame.picture().shape == (720, 1280, 3)
    small = cv2.resize(frame.picture(), (640, 360), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - frame.image).mean() < 3


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_rotation_tags_are_honoured(tmp_path: Path, degrees: int) -> None:
    upright = scene(5)
    turned = np.rot90(upright, -degrees // 90)  # numpy turns counter-clockwise, as the tag does
    path = write_clip(
        tmp_path / "r.mp4", [np.ascontiguousarray(turned)] * 3, rotate_degrees=degrees
    )
    image = read_all(virtual(path))[0].image
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < 12


def test_a_wrong_rate_tag_does_not_matter(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "w.mkv", moving_square(20), rate_hz=4.0, tagged_rate=240)
    frames = read_all(virtual(path))
    assert frames[-1].t - START == pytest.approx(19 / 4, abs=0.01)


def test_stamps_that_begin_anew_in_mid_file_survive(tmp_path: Path) -> None:
    parts = [write_clip(tmp_path / f"{i}.ts", moving_square(50, seed=i)) for i in range(2)]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    times = [f.t for f in read_all(virtual(joined))]
    assert len(times) == pytest.approx(100, abs=2)
    assert all(b > a for a, b in itertools.pairwise(times))
    assert times[-1] - START == pytest.approx(4.0, abs=0.3)


def test_a_stream_without_stamps_runs_at_a_sane_rate(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "raw.h264", moving_square(50), container="h264", b_frames=2)
    times = [f.t for f in read_all(virtual(path))]
    assert len(times) == 50
    assert times[-1] - START == pytest.approx(2.0, abs=0.25)


def test_a_changed_picture_size_in_mid_stream_survives(tmp_path: Path) -> None:
    one = write_clip(tmp_path / "a.h264", moving_square(30), container="h264")
    two = write_clip(tmp_path / "b.h264", moving_square(30, 640, 360), container="h264")
    joined = tmp_path / "c.h264"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    shapes = [f.image.shape[:2] for f in read_all(virtual(joined))]
    assert shapes.count((180, 320)) >= 29
    assert shapes.count((360, 640)) >= 29


def test_damage_is_counted_and_passed_over(clip: Path, tmp_path: Path) -> None:
    data = bytearray(clip.read_bytes())
    rng = np.random.default_rng(0)
    middle = len(data) // 2
    data[middle : middle + 3000] = rng.integers(0, 256, 3000, dtype=np.uint8).tobytes()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    reader = virtual(broken)
    frames = read_all(reader)
    assert 100 < len(frames) <= 150
    assert reader.counters.corrupt > 0


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("text.mp4", b"<html>login</html>" * 30, "no video"),
        ("empty.mp4", b"", "no video"),
        ("missing.mp4", None, "no such file"),
    ],
)
def test_what_is_no_video_is_said_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    reader = virtual(path)
    assert read_all(reader) == []
    assert said in reader.reason
    assert "\n" not in reader.reason
    with pytest.raises(CaptureError, match=said):
        probe(StreamSettings(url=str(path)))


def test_a_loop_goes_on_in_time(clip: Path) -> None:
    reader = virtual(clip, 5.0, loop=True)
    frames = read_all(reader, limit=70)
    steps = np.diff([f.t for f in frames])
    assert steps.min() > 0.1
    assert steps.max() < 0.3
    assert frames[-1].t - START > 12
    assert frames[-1].epoch == 0


def test_done_lets_a_waiting_file_go_on(clip: Path) -> None:
    reader = virtual(clip)
    reader.start()
    try:
        first = reader.take(5.0)
        assert first is not None
        assert not reader.waiting
        reader.done()
        deadline = time.monotonic() + 5
        while not reader.waiting:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        second = reader.take()
        assert second is not None
        assert second.t > first.t
    finally:
        assert reader.stop()


def test_a_loop_at_key_frame_level_goes_on(clip: Path) -> None:
    reader = virtual(clip, 0.5, loop=True)
    frames = read_all(reader, limit=12)  # of which the clip holds three
    steps = np.diff([f.t for f in frames])
    assert reader.level is DecodeLevel.KEYFRAMES
    assert steps.min() > 1.5
    assert steps.max() < 4.5


def test_a_loop_of_pictures_goes_on(tmp_path: Path) -> None:
    for index in range(3):
        cv2.imencode(".jpg", scene(index))[1].tofile(tmp_path / f"{index}.jpg")
    frames = read_all(virtual(tmp_path, 1.0, loop=True), limit=9)
    assert [f.t - START for f in frames] == pytest.approx(list(range(9)))


def test_key_frames_are_still_due_after_stamps_began_anew(tmp_path: Path) -> None:
    one = write_clip(tmp_path / "a.ts", moving_square(150), gop=25, stamps_s=lambda i: 900 + i / 25)
    two = write_clip(tmp_path / "b.ts", moving_square(150), gop=25)
    joined = tmp_path / "c.ts"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    reader = virtual(joined, 1.0)
    frames = read_all(reader)
    assert reader.level is DecodeLevel.KEYFRAMES
    assert frames[-1].t - START == pytest.approx(11.0, abs=2.0)  # of the jump, an interval is lost


def test_real_time_paces_a_file_and_keeps_only_the_newest(clip: Path) -> None:
    arrived = threading.Event()
    settings = StreamSettings(url=str(clip), pace="realtime")
    reader = CameraReader("cam", settings, rate_hz=25.0, on_frame=lambda _: arrived.set())
    started = time.monotonic()
    reader.start()
    assert arrived.wait(5)
    while reader.counters.converted < 25:
        time.sleep(0.01)
    assert time.monotonic() - started > 0.9
    first = reader.take()
    assert first is not None
    assert reader.counters.dropped >= 20
    assert reader.stop()


def test_a_folder_of_pictures_is_a_stream(tmp_path: Path) -> None:
    for index in range(3):
        cv2.imencode(".jpg", scene(index))[1].tofile(tmp_path / f"图{index}.jpg")
    (tmp_path / "图9.jpg").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("x")
    reader = virtual(tmp_path, picture_interval="2s")
    frames = read_all(reader)
    assert [f.t - START for f in frames] == [0.0, 2.0, 4.0]
    assert reader.counters.corrupt == 1
    assert probe(StreamSettings(url=str(tmp_path))).codec == "pictures"


def test_probe_measures_instead_of_believing(clip: Path) -> None:
    report = probe(StreamSettings(url=str(clip)), seconds=4.0)
    assert report.codec == "h264"
    assert (report.width_px, report.height_px) == (320, 180)
    assert report.rate_hz == pytest.approx(25.0, rel=0.05)
    assert report.keyframe_interval_s == pytest.approx(1.0, abs=0.1)
    assert report.picture.shape == (180, 320, 3)


# -- the ring ------------------------------------------------------------------------------------------------------


def ring_of(path: Path, seconds: float = 60.0, max_bytes: int = 10**8) -> PacketRing:
    ring = PacketRing(seconds, max_bytes)
    settings = StreamSettings(url=str(path), pace="virtual")
    read_all(CameraReader("cam", settings, start_t=START, rate_hz=1.0, ring=ring))
    return ring


def decoded(path: Path) -> tuple[list[Image], list[float], bool, str]:
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        stream = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.size]
        first_is_key, codec = packets[0].is_keyframe, stream.codec_context.name
        dts = [p.dts for p in packets if p.dts is not None]
        assert dts == sorted(set(dts))
        frames = [f for p in packets for f in p.decode()] + stream.decode(None)
    images = [f.to_ndarray(format="bgr24").astype(np.uint8) for f in frames]
    times = [float((f.pts or 0) * packets[0].time_base) for f in frames]
    return images, times, first_is_key, codec


def test_a_clip_is_cut_at_the_key_frame_before_and_plays(clip: Path, tmp_path: Path) -> None:
    made = ring_of(clip).clip(START + 2.4, START + 4.2, tmp_path / "out.mp4")
    assert made.t_from == pytest.approx(START + 2.0, abs=0.13)
    assert made.t_to == pytest.approx(START + 4.2, abs=0.13)
    assert not made.transcoded
    images, times, first_is_key, codec = decoded(made.path)
    assert first_is_key
    assert codec == "h264"
    assert times[0] == pytest.approx(0.0, abs=0.13)
    assert times[-1] - times[0] == pytest.approx(made.t_to - made.t_from, abs=0.13)
    assert images[0].shape == (180, 320, 3)
    head = made.path.read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")  # plays before it is loaded
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_a_clip_from_mpeg_ts_is_repacked_for_mp4(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "s.ts", moving_square(100), b_frames=2)
    made = ring_of(source).clip(START + 1.0, START + 3.0, tmp_path / "out.mp4")
    images, _, first_is_key, _ = decoded(made.path)
    assert first_is_key
    assert len(images) == pytest.approx(50, abs=28)


def test_masks_are_burned_into_every_picture(clip: Path, tmp_path: Path) -> None:
    def burn(image: Image) -> Image:
        masked = image.copy()
        masked[:, :160] = 0
        return masked

    made = ring_of(clip).clip(START + 1.0, START + 3.0, tmp_path / "out.mp4", burn)
    assert made.transcoded
    images, times, first_is_key, codec = decoded(made.path)
    assert (first_is_key, codec) == (True, "h264")
    assert times[-1] == pytest.approx(2.0, abs=0.15)
    assert len(images) >= 48
    for image in images:
        assert image[:, :150].max() < 30
        assert image[:, 170:].mean() > 40


def test_other_codecs_are_encoded_anew(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "s.avi", moving_square(50), codec="mpeg4")
    made = ring_of(source).clip(START, START + 2.0, tmp_path / "out.mp4")
    assert made.transcoded
    images, times, _, codec = decoded(made.path)
    assert codec == "h264"
    assert len(images) == pytest.approx(50, abs=2)
    assert times[-1] == pytest.approx(2.0, abs=0.1)


def test_the_ring_is_bounded_in_time_and_bytes_and_begins_with_a_key_frame(clip: Path) -> None:
    ring = ring_of(clip, seconds=2.0)
    span = ring.span
    assert span is not None
    assert 2.0 <= span[1] - span[0] <= 3.1
    size = clip.stat().st_size
    small = ring_of(clip, max_bytes=size // 3)
    assert 0 < small.bytes <= size // 3
    assert ring_of(clip, max_bytes=100).span is None


def test_a_reconnect_keeps_what_came_before_until_it_is_too_old(tmp_path: Path) -> None:
    ring = PacketRing(15, 10**8)
    small = write_clip(tmp_path / "small.mp4", moving_square(100))
    large = write_clip(tmp_path / "large.mp4", moving_square(100, 640, 360))

    def connect(path: Path, t: float) -> None:
        settings = StreamSettings(url=str(path), pace="virtual")
        read_all(CameraReader("cam", settings, start_t=t, rate_hz=1.0, ring=ring))

    def cut(about_t: float) -> tuple[int, int, int]:
        made = ring.clip(START + 1, START + 9, tmp_path / "out.mp4", about_t=START + about_t)
        height = decoded(made.path)[0][0].shape[0]
        return round(made.t_from - START), round(made.t_to - START), height

    connect(small, START)
    connect(large, START + 6)
    assert cut(3) == (1, 4, 180)  # the alarm, then the loss
    assert cut(7) == (6, 9, 360)  # the loss, then the alarm
    assert cut(5) == (1, 4, 180)  # nobody saw it: what led to it
    connect(small, START + 18)
    span = ring.span
    assert span is not None
    assert span[0] >= START + 6, "the oldest has aged out"


def test_a_clip_of_a_time_that_is_not_held_is_refused(clip: Path, tmp_path: Path) -> None:
    ring = ring_of(clip)
    with pytest.raises(EvidenceError, match="no packets"):
        ring.clip(START - 100, START - 90, tmp_path / "out.mp4")
    with pytest.raises(EvidenceError, match="no packets"):
        PacketRing(5, 1000).clip(START, START + 1, tmp_path / "out.mp4")
    (tmp_path / "file").write_text("")
    with pytest.raises(EvidenceError, match="could not be written"):
        ring.clip(START, START + 1, tmp_path / "file" / "out.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# -- odd files from the field ----------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not TRAPS.is_dir(), reason=f"NOT TESTED: the odd files of {TRAPS.name} are not here"
)
@pytest.mark.parametrize(
    ("name", "count", "seconds", "shape"),
    [
        ("cv2_abort_rawvideo_48x48.avi", 51, 3.33, (48, 48, 3)),
        ("fps1000_wmv2_named.mp4", 341, 11.65, (480, 640, 3)),
        ("msmpeg4v2.avi", 374, 12.43, (360, 640, 3)),
        ("rotate_minus90.mp4", 140, 5.79, (480, 270, 3)),
        ("short_read_mpeg4.avi", 748, 29.96, (240, 320, 3)),
    ],
)
def test_odd_files(name: str, count: int, seconds: float, shape: tuple[int, int, int]) -> None:
    frames = read_all(virtual(TRAPS / name))
    assert len(frames) == count
    assert frames[-1].t - START == pytest.approx(seconds, abs=0.05)
    assert frames[-1].image.shape == shape
