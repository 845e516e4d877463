"""What a higher or lower bar on the confidence would do: the share of missed events against false alarms per hour.

The curve follows NIST's ActEV (github.com/usnistgov/ActEV_Scorer): rate of misses over rate of false alarms, with the
area under it up to a limit, divided by that limit (nAUDC). It is made of the alarms that were raised: what a bar below
that of the rules would give needs another run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from benchmarks.score import ClipResult, match

__all__ = ["AREA_LIMIT_PER_HOUR", "Curve", "CurvePoint", "curve"]

# ActEV's 0.2 false alarms per minute: the limit of its leaderboard.
AREA_LIMIT_PER_HOUR = 12.0
# Where the misses are read off: ActEV's 0.2 and 0.03 per minute, and one an hour, which one grid member can go after.
READ_OFF_PER_HOUR = (1.0, 1.8, 12.0)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What is left when alarms below `threshold` are dropped.

    Attributes:
        threshold: Lowest confidence that is kept; None keeps no alarm.
        missed: Events without an alarm.
        false: False alarms.
        miss_rate: Missed events / events.
        false_per_hour: False alarms per camera-hour.
    """

    threshold: float | None
    missed: int
    false: int
    miss_rate: float
    false_per_hour: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Misses against false alarms.

    Attributes:
        points: From the highest bar (no alarm) to the lowest (all of them).
        area: Normalised area under the curve up to `area_limit_per_hour`: 0 is perfect, 1 misses everything.
        area_limit_per_hour: Up to where the area counts.
        miss_rate_at: By false alarms per camera-hour, the lowest share of misses that does not exceed them.
    """

    points: tuple[CurvePoint, ...]
    area: float
    area_limit_per_hour: float
    miss_rate_at: dict[str, float]


def curve(results: Iterable[Sequence[ClipResult]], hours: float, window_s: float) -> Curve | None:
    """Sweep the bar over the confidence of the alarms, matching anew at each.

    Args:
        results: For every scenario its clips, each with the confidences of its alarms.
        hours: Camera time of all clips together.
        window_s: As in `benchmarks.score.match`.

    Returns:
        The curve; None without events or camera time, where no rate is defined.
    """
    clips = [clip for scenario in results for clip in scenario]
    events = sum(len(clip.events_s) for clip in clips)
    if not events or hours <= 0:
        return None
    ranked = sorted(
        (
            (confidence, index, t)
            for index, clip in enumerate(clips)
            for confidence, t in zip(clip.confidences, clip.alarms_s, strict=True)
        ),
        reverse=True,
    )
    kept: list[list[float]] = [[] for _ in clips]
    true_of = [0] * len(clips)
    points = [CurvePoint(None, events, 0, 1.0, 0.0)]
    true = total = 0
    for threshold, alarms in groupby(ranked, key=lambda alarm: alarm[0]):
        touched = set()
        for _, index, t in alarms:
            kept[index].append(t)
            touched.add(index)
            total += 1
        for index in touched:
            matched = match(kept[index], clips[index].events_s, window_s)
            found = sum(event is not None for event in matched)
            true += found - true_of[index]
            true_of[index] = found
        false = total - true
        points.append(
            CurvePoint(threshold, events - true, false, (events - true) / events, false / hours)
        )
    return Curve(
        tuple(points),
        _area(points, AREA_LIMIT_PER_HOUR),
        AREA_LIMIT_PER_HOUR,
        {f"{rate:g}": _lowest(points, rate) for rate in READ_OFF_PER_HOUR},
    )


def _lowest(points: Sequence[CurvePoint], rate_per_hour: float) -> float:
    return min(p.miss_rate for p in points if p.false_per_hour <= rate_per_hour)


def _area(points: Sequence[CurvePoint], limit: float) -> float:
    """Under the staircase: between two rates that were seen, the misses of the lower one hold."""
    rates = sorted({p.false_per_hour for p in points if p.false_per_hour < limit})
    ends = [*rates[1:], limit]
    return (
        sum(_lowest(points, rate) * (end - rate) for rate, end in zip(rates, ends, strict=True))
        / limit
    )
