"""The soak's figures: quantiles of histograms, trends with their intervals, films, a report from samples."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.soak import Sample, Soak, encode, quantile, summarise, synthetic, trend
from pipeline.exceptions import GridwatchError


def test_a_quantile_is_interpolated_within_its_bucket() -> None:
    buckets = {0.1: 10.0, 0.2: 30.0, 0.5: 40.0, math.inf: 40.0}
    assert quantile(buckets, 0.5) == pytest.approx(0.15)
    assert quantile(buckets, 0.25) == pytest.approx(0.1)
    assert quantile(buckets, 1.0) == pytest.approx(0.5)
    assert quantile({0.1: 0.0, math.inf: 5.0}, 0.5) == 0.1  # beyond the last bound: at least that
    assert quantile({0.1: 0.0, math.inf: 0.0}, 0.5) is None
    assert quantile({}, 0.5) is None


@given(
    values=st.lists(st.floats(0.001, 9.0), min_size=1, max_size=200),
    share=st.floats(0.01, 1.0),
)
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    bounds = [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, math.inf]
    buckets = {bound: float(sum(v <= bound for v in values)) for bound in bounds}
    true = sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]
    upper = next(bound for bound in bounds if true <= bound)
    lower = max((bound for bound in bounds if bound < true), default=0.0)
    found = quantile(buckets, share)
    assert found is not None
    assert lower - 1e-9 <= found <= upper + 1e-9


def test_a_trend_finds_growth_and_its_absence() -> None:
    times_s = [5.0 * index for index in range(120)]
    noise = np.random.default_rng(1).normal(0, 1, 120)
    grown = trend(times_s, [100 + 2 * t / 60 + n for t, n in zip(times_s, noise, strict=True)])
    still = trend(times_s, [100 + n for n in noise])
    assert grown is not None
    assert grown.grows
    assert grown.low < 2.0 < grown.high
    assert still is not None
    assert not still.grows
    assert still.low < 0.0 < still.high


def test_the_interval_holds_what_it_promises_even_where_neighbours_are_alike() -> None:
    rng = np.random.default_rng(2)
    times_s = [5.0 * index for index in range(120)]
    hits = 0
    for _ in range(200):
        values, value = [], 0.0
        for _ in times_s:
            value = 0.7 * value + rng.normal()
            values.append(value)
        found = trend(times_s, values)
        assert found is not None
        hits += found.low <= 0.0 <= found.high
    assert hits >= 0.88 * 200  # by plain least squares it is about 60 %


def test_too_little_is_no_trend() -> None:
    assert trend([0, 5, 10, 15], [1, 2, 3, 4]) is None
    assert trend([0, 0, 0, 0, 0], [1, 2, 3, 4, 5]) is None
    flat = trend([0, 5, 10, 15, 20], [7, 7, 7, 7, 7])
    assert flat is not None
    assert (flat.per_minute, flat.low, flat.high) == (0, 0, 0)


def test_a_film_is_what_a_camera_sends(tmp_path: Path) -> None:
    encode(tmp_path / "film.mp4", islice(synthetic((320, 180)), 60), (320, 180))
    with av.open(str(tmp_path / "film.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert len(packets) == 60
    assert [packet.pts == packet.dts for packet in packets] == [True] * 60  # no B-frames
    assert [index for index, packet in enumerate(packets) if packet.is_keyframe] == [0, 50]


def sample(t_s: float) -> Sample:
    frames = 10 * t_s
    return Sample(
        t_s,
        {"engine": 0.5 * t_s, "supervisor": 0.0},
        {"engine": 300.0, "supervisor": 30.0},
        {
            ("converted_total", "cam-0"): frames,
            ("dropped_total", "cam-0"): t_s,
            ("reconnects_total", "cam-0"): 0.0,
            ("rate_wanted_hz", "cam-0"): 10.0,
            ("rate_hz", "cam-0"): 10.0,
            ("rate_scale", ""): 1.0,
            ("frame_to_result_seconds_bucket", "0.1"): frames / 2,
            ("frame_to_result_seconds_bucket", "0.2"): frames,
            ("frame_to_result_seconds_bucket", "+Inf"): frames,
        },
    )


def test_the_report_says_what_the_samples_say() -> None:
    result = Soak({"cam-0": "fire"}, [sample(5.0 * index) for index in range(20)], started_t=1000.0)
    result.tickets = [(1000.0 + t, 0.4 + t / 1000, "fire") for t in (1.0, 50.0, 60.0)]
    report = summarise(result, minutes=1.6, size="1080p")
    assert report["cpu_percent_of_a_core"]["engine"] == pytest.approx(50.0)
    camera = report["per_camera"]["cam-0"]
    assert (camera["wanted_hz"], camera["analysed_hz"]) == (10.0, 9.0)
    assert camera["dropped"] == report["measured_s"]
    assert report["latency_s"]["frame_to_result"]["p50"] == pytest.approx(0.1)
    assert report["latency_s"]["frame_to_broker"]["n"] == 2  # the first came during the warm-up
    assert report["latency_s"]["frame_to_broker"]["p50"] == pytest.approx(0.45)
    assert report["growth_per_minute"]["engine_rss_mib"]["per_minute"] == 0


def test_too_short_a_soak_is_refused() -> None:
    with pytest.raises(GridwatchError, match="expected at least 5"):
        summarise(Soak({"cam-0": "fire"}, [sample(0.0), sample(5.0)]), minutes=0.1, size="360p")
