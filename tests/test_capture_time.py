"""Timeline, sampling, back-off, addresses: the parts of capture without a stream."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.capture.backoff import Backoff
from pipeline.capture.decoder import DecodeLevel, KeyframeMeter, Sampler
from pipeline.capture.settings import StreamSettings, redact
from pipeline.capture.timeline import MAX_DRIFT_S, TICK_S, FileTimeline, LiveTimeline

EPOCH = 1_700_000_000.0

stamps = st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=80)
steps = st.lists(st.floats(0.0, 5.0), min_size=80, max_size=80)


@given(stamps, steps, st.sets(st.integers(0, 79)))
def test_live_time_rises_strictly_and_stays_within_a_second_of_arrival(
    pts: list[float | None], waits: list[float], reconnects: set[int]
) -> None:
    timeline, now, last = LiveTimeline(), EPOCH, float("-inf")
    for index, stamp in enumerate(pts):
        now += waits[index]
        if index in reconnects:
            timeline.restart()
        timeline.packet(stamp, now)
        t = timeline.frame(stamp, now)
        assert t > last
        assert now - MAX_DRIFT_S - 1e-6 <= t <= now + (index + 1) * TICK_S
        last = t


@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=80), st.floats(0.0, 1e9))
def test_file_time_rises_strictly_from_its_start(pts: list[float | None], rate: float) -> None:
    timeline, last = FileTimeline(EPOCH, rate), float("-inf")
    for index, stamp in enumerate(pts):
        timeline.packet(stamp, 0.0)
        t = timeline.frame(stamp, 0.0)
        assert t > last
        assert index or t == EPOCH
        last = t


def test_live_time_follows_stamps_not_jitter() -> None:
    timeline, rng = LiveTimeline(), random.Random(1)
    times = []
    for index in range(500):
        now = EPOCH + index * 0.04 + rng.uniform(0, 0.3)
        timeline.packet(index * 0.04, now)
        times.append(timeline.frame(index * 0.04, now))
    settled = [b - a for a, b in itertools.pairwise(times[200:])]
    assert max(abs(step - 0.04) for step in settled) < 0.015


@pytest.mark.parametrize(
    "speed",
    [pytest.param(0.5, id="slow"), pytest.param(2.0, id="fast"), pytest.param(1.001, id="drift")],
)
def test_live_time_is_reanchored_when_a_camera_clock_runs_wrong(speed: float) -> None:
    timeline = LiveTimeline()
    for index in range(5000):
        now = EPOCH + index * 0.04
        timeline.packet(index * 0.04 * speed, now)
        assert abs(timeline.frame(index * 0.04 * speed, now) - now) <= MAX_DRIFT_S + TICK_S


def test_file_without_stamps_runs_at_its_tagged_rate_if_that_is_sane() -> None:
    for tag, step in ((10.0, 0.1), (1000.0, 0.04), (None, 0.04), (0.0, 0.04)):
        timeline = FileTimeline(EPOCH, tag)
        times = [timeline.frame(None, 0.0) for _ in range(11)]
        assert times[-1] - EPOCH == pytest.approx(10 * step)


def test_file_stamps_that_jump_cost_one_picture_interval() -> None:
    for jump in (-5000.0, 5000.0):
        timeline = FileTimeline(EPOCH, 1000.0)
        stamps_s = [i * 0.1 for i in range(20)] + [2.0 + jump + i * 0.1 for i in range(20)]
        times = [timeline.frame(stamp, 0.0) for stamp in stamps_s]
        assert times[-1] - EPOCH == pytest.approx(3.9, abs=0.02)


def test_a_gap_of_a_recording_is_kept() -> None:
    timeline = FileTimeline(EPOCH, 25.0)
    times = [timeline.frame(stamp, 0.0) for stamp in (0.0, 0.04, 45.0, 45.04)]
    assert times[-1] - EPOCH == pytest.approx(45.04)


def test_time_goes_on_when_a_file_begins_again() -> None:
    timeline = FileTimeline(EPOCH, 25.0)
    times = []
    for _ in range(3):
        timeline.restart()
        times += [timeline.frame(7.0 + i * 0.2, 0.0) for i in range(10)]
    assert times[-1] - EPOCH == pytest.approx(29 * 0.2)


@given(st.floats(0.5, 12.0), st.integers(0, 2**32))
def test_sampling_holds_its_mean_rate_under_jitter(rate_hz: float, seed: int) -> None:
    sampler, rng, taken = Sampler(rate_hz), random.Random(seed), 0
    for index in range(1000):
        t = EPOCH + index * 0.04 + rng.uniform(0, 0.02)
        if sampler.is_due(t):
            sampler.taken(t)
            taken += 1
    assert taken == pytest.approx(40 * rate_hz, rel=0.03, abs=2)


def test_sampling_takes_every_key_frame_that_comes_a_little_early() -> None:
    sampler, rng = Sampler(0.5), random.Random(3)
    taken = 0
    for index in range(100):
        t = EPOCH + 2.0 * index + rng.uniform(-0.03, 0.03)
        taken += sampler.is_due(t)
        if sampler.is_due(t):
            sampler.taken(t)
    assert taken == 100


def test_rates_of_nothing_and_of_everything() -> None:
    nothing, everything = Sampler(0.0), Sampler(float("inf"))
    nothing.taken(EPOCH)
    assert not nothing.is_due(EPOCH + 1e9)
    for index in range(10):
        assert everything.is_due(EPOCH + index * 0.001)
        everything.taken(EPOCH + index * 0.001)


def test_level_follows_the_measured_key_frame_interval() -> None:
    meter = KeyframeMeter()
    for index in range(101):
        meter.packet(index * 0.04, keyframe=index % 50 == 0)
        meter.decoded(DecodeLevel.ALL, 1)
    assert meter.interval_s == pytest.approx(2.0)
    assert meter.level(period_s=2.0) is DecodeLevel.KEYFRAMES
    assert meter.level(period_s=0.4) is DecodeLevel.REFERENCE
    assert meter.level(period_s=0.05) is DecodeLevel.ALL
    for index in range(101, 700):  # the camera's smart codec stretches its groups
        meter.packet(index * 0.04, keyframe=False)
    assert meter.interval_s == pytest.approx(23.96)
    assert meter.level(period_s=2.0) is not DecodeLevel.KEYFRAMES


def test_reference_level_is_left_when_it_gives_too_little() -> None:
    meter = KeyframeMeter()
    for index in range(101):
        meter.packet(index * 0.04, keyframe=index % 50 == 0)
        meter.decoded(DecodeLevel.REFERENCE, int(index % 10 == 0))
    assert meter.level(period_s=0.9) is DecodeLevel.REFERENCE
    assert meter.level(period_s=0.2) is DecodeLevel.ALL


def test_backoff_doubles_up_to_its_bound_and_begins_again() -> None:
    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return max(a, b)

    backoff = Backoff(rng=Highest())
    assert [backoff.next() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.next(retryable=False) == 300
    backoff.reset()
    assert backoff.next() == 0.5
    for _ in range(2000):
        assert backoff.next() <= 30


def test_backoff_is_jittered_over_its_whole_range() -> None:
    delays = [Backoff(rng=random.Random(seed)).next() for seed in range(200)]
    assert min(delays) < 0.05
    assert max(delays) > 0.45
    assert min(Backoff(rng=random.Random(seed)).next(retryable=False) for seed in range(50)) >= 150


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://admin:secret@10.0.0.1:554/ch1", "rtsp://***@10.0.0.1:554/ch1"),
        ("rtsp://admin:s3cr@et@10.0.0.1/ch1", "rtsp://***@10.0.0.1/ch1"),
        ("rtsp://admin:secret%40x@cam/ch1?a=b", "rtsp://***@cam/ch1?a=b"),
        ("rtsp://admin:sec/ret?x#@cam/ch1", "rtsp://***@cam/ch1"),
        ("http://cam/video?user=admin&password=secret&ch=1", "http://cam/video?user=***&password=***&ch=1"),
        ("rtsp://cam/user=admin&password=secret&channel=1", "rtsp://cam/user=***&password=***&channel=1"),
        ("http://cam/cgi?loginuse=a&loginpas=secret", "http://cam/cgi?loginuse=***&loginpas=***"),
        ("clips/one.mp4", "clips/one.mp4"),
        ("/dev/video0", "/dev/video0"),
    ],
)  # fmt: skip
def test_addresses_are_shown_without_secrets(url: str, shown: str) -> None:
    assert redact(url) == shown


@given(st.text(st.characters(codec="ascii", exclude_characters=" "), min_size=6, max_size=20))
def test_no_password_survives_redaction(password: str) -> None:
    marked = f"Zq{password}qZ"
    assert marked not in redact(f"rtsp://user:{marked}@camera.example/stream")


def test_settings_show_no_address_and_refuse_nonsense() -> None:
    settings = StreamSettings(url="rtsp://u:hush@cam/main", detect="rtsp://u:hush@cam/sub")
    assert "hush" not in repr(settings)
    assert settings.analysed_url.endswith("/sub")
    assert settings.recorded_url.endswith("/main")
    assert settings.live
    for wrong in (
        {},
        {"url": "rtsp://u:hush@cam/main", "loop": True},
        {"url": "a.mp4", "record": "rtsp://u:hush@cam/main"},
        {"url": "rtsp://u:hush@cam/main", "transport": "pigeon"},
    ):
        with pytest.raises(ValidationError) as caught:
            StreamSettings.model_validate(wrong)
        assert "hush" not in str(caught.value)
