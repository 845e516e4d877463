"""From alarms and events to alarm accuracy, and whether it is proven.

An alarm is true if it matches one labelled event of its scenario, one to one, from the event's start to its end plus a
window; every other alarm is false, a second one for the same event, too. An event without an alarm is missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from alerts.intervals import (
    bootstrap_lower,
    clopper_pearson_lower,
    further_true_needed,
    poisson_interval,
)

__all__ = [
    "DEFAULT_TARGET",
    "DEFAULT_WINDOW_S",
    "LABEL_TOLERANCE_S",
    "RECALL_BIAS",
    "ClipResult",
    "Score",
    "Tally",
    "Verdict",
    "VerdictValue",
    "judge",
    "match",
    "score",
    "tally",
    "weighted_f1",
]

DEFAULT_TARGET = 0.988  # what the district reports over 120,000 alarms
# An alarm comes when the condition has held for `raise_after`; an event that ends a moment before is still what it is
# about. 10 s is more than the dwell of fire (3 s) and e-bikes (1.5 s) with a sampling gap, and shorter than any pause
# between two events that a responder would take for one.
DEFAULT_WINDOW_S = 10.0
# Labels are read from the picture to half a second, and an alarm may be dated one sampling gap early.
LABEL_TOLERANCE_S = 1.0
# The recall bias of i-LIDS: 1 weighs precision and recall alike, less weighs precision more. i-LIDS states its values
# in the documents of its data sets; this one is ours: every alarm sends somebody out, so precision counts twice.
RECALL_BIAS = 0.5


class VerdictValue(StrEnum):
    """Whether the target holds."""

    PROVEN = "proven"
    MET = "met"
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer for one set of alarms.

    Attributes:
        value: ``proven``: the lower bound reaches the target; ``met``: the share does, the bound does not; ``missed``:
            neither, or there was no alarm to judge by.
        further_needed: With ``met``, how many more alarms, all true, would prove it; None otherwise.
    """

    value: VerdictValue
    further_needed: int | None


def judge(true: int, total: int, target: float) -> Verdict:
    """The three-valued verdict on `true` of `total` alarms."""
    if total == 0 or true / total < target:
        return Verdict(VerdictValue.MISSED, None)
    further = further_true_needed(true, total, target)
    if further == 0:
        return Verdict(VerdictValue.PROVEN, None)
    return Verdict(VerdictValue.MET, further)


def match(
    alarms_s: Sequence[float], events_s: Sequence[tuple[float, float]], window_s: float
) -> list[int | None]:
    """Match alarms to events one to one, as many as can be.

    Alarms are taken in order of time, each for the eligible event that ends first; for points and intervals this gives
    the largest matching (Glover, Naval Research Logistics 1967).

    Args:
        alarms_s: Times of the alarms.
        events_s: Start and end of the events.
        window_s: How long after an event's end its alarm may come.

    Returns:
        For every alarm the index of its event, or None.
    """
    matched: list[int | None] = [None] * len(alarms_s)
    free = sorted(range(len(events_s)), key=lambda i: (events_s[i][1], events_s[i][0]))
    for alarm in sorted(range(len(alarms_s)), key=lambda i: alarms_s[i]):
        t = alarms_s[alarm]
        for event in free:
            start, end = events_s[event]
            if start - LABEL_TOLERANCE_S <= t <= end + window_s:
                matched[alarm] = event
                free.remove(event)
                break
    return matched


@dataclass(frozen=True, slots=True)
class ClipResult:
    """What one scenario did on one clip.

    Attributes:
        group: Of the clip.
        hours: Length of the clip.
        alarms_s: Times of its alarms.
        events_s: Start and end of its events.
        confidences: Of its alarms, in the same order; only curves need them.
        doubtful: Whether the clip has problems: it counts, but never as right.
    """

    group: str
    hours: float
    alarms_s: Sequence[float]
    events_s: Sequence[tuple[float, float]]
    confidences: Sequence[float] = ()
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts that can be added up.

    Attributes:
        true: True alarms, which is also the number of events found.
        false: False alarms.
        events: Labelled events.
        delays_s: From the event's start to its alarm; not of events that are on from the clip's first picture.
        groups: True alarms and all alarms by group of clips.
        hours: Of camera time.
        clips: That were judged.
        clips_right: Those with every event found, no false alarm and no problem.
    """

    true: int = 0
    false: int = 0
    events: int = 0
    hours: float = 0.0
    delays_s: tuple[float, ...] = ()
    groups: dict[str, tuple[int, int]] = field(default_factory=dict)
    clips: int = 0
    clips_right: int = 0

    def plus(self, other: Tally) -> Tally:
        """Both together, on different camera time."""
        groups = dict(self.groups)
        for name, (true, total) in other.groups.items():
            before = groups.get(name, (0, 0))
            groups[name] = (before[0] + true, before[1] + total)
        return Tally(
            self.true + other.true,
            self.false + other.false,
            self.events + other.events,
            self.hours + other.hours,
            self.delays_s + other.delays_s,
            groups,
            self.clips + other.clips,
            self.clips_right + other.clips_right,
        )


def tally(results: Iterable[ClipResult], window_s: float) -> Tally:
    """Count one scenario over clips."""
    total = Tally()
    for result in results:
        matched = match(result.alarms_s, result.events_s, window_s)
        true = sum(event is not None for event in matched)
        delays = tuple(
            max(0.0, t - result.events_s[event][0])
            for t, event in zip(result.alarms_s, matched, strict=True)
            if event is not None and result.events_s[event][0] > 0
        )
        total = total.plus(
            Tally(
                true,
                len(matched) - true,
                len(result.events_s),
                result.hours,
                delays,
                {result.group: (true, len(matched))},
                1,
                int(true == len(matched) == len(result.events_s) and not result.doubtful),
            )
        )
    return total


def weighted_f1(precision: float, recall: float, recall_bias: float = RECALL_BIAS) -> float:
    """F1 with a recall bias: (a + 1) R P / (R + a P), the measure of i-LIDS.

    It is van Rijsbergen's F with beta squared = `recall_bias`. Source: UK Home Office, The i-LIDS User Guide,
    publication 10/11, version 4.9 (2011).

    Args:
        precision: True alarms / all alarms.
        recall: Events found / events.
        recall_bias: a; above 0.
    """
    weight = recall + recall_bias * precision
    return (recall_bias + 1.0) * recall * precision / weight if weight > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Score:
    """Figures of one set of alarms; None is undefined.

    Attributes:
        true: True alarms.
        false: False alarms.
        events: Labelled events.
        missed: Events without an alarm.
        accuracy: True alarms / all alarms (precision).
        accuracy_lower: Its one-sided 95 % Clopper-Pearson bound.
        accuracy_bootstrap_lower: The same by resampling groups of clips.
        recall: Events found / events.
        f1: Harmonic mean of accuracy and recall.
        weighted_f1: The same with the recall bias of i-LIDS; undefined where accuracy or recall is.
        camera_hours: Of analysed video.
        false_per_hour: False alarms per camera-hour.
        false_per_hour_interval: Its two-sided exact 95 % Poisson interval.
        delay_p50_s: Median delay from the event's start.
        delay_p95_s: 95th percentile.
        delays: Number of events with a delay.
        verdict: Against the target.
        projected_accuracy: At the stated rate of events: recall x rate / (recall x rate + false alarms per hour).
        projected_accuracy_low: The same with the upper limit of the false alarms.
        clips: Clips that were judged.
        clips_right: Clips with every event found, no false alarm and no problem.
        clip_accuracy: The one over the other.
        clip_accuracy_lower: Its one-sided 95 % Clopper-Pearson bound.
    """

    true: int
    false: int
    events: int
    missed: int
    accuracy: float | None
    accuracy_lower: float | None
    accuracy_bootstrap_lower: float | None
    recall: float | None
    f1: float | None
    weighted_f1: float | None
    camera_hours: float
    false_per_hour: float | None
    false_per_hour_interval: tuple[float, float] | None
    delay_p50_s: float | None
    delay_p95_s: float | None
    delays: int
    verdict: Verdict
    projected_accuracy: float | None
    projected_accuracy_low: float | None
    clips: int
    clips_right: int
    clip_accuracy: float | None
    clip_accuracy_lower: float | None


def score(counts: Tally, target: float, rate_per_hour: float | None = None) -> Score:
    """All figures of a tally.

    Args:
        counts: What was counted.
        target: Share of true alarms that is asked for.
        rate_per_hour: Events per camera-hour to project the accuracy to.
    """
    alarms = counts.true + counts.false
    judged = counts.true + counts.false + counts.events - counts.true
    accuracy = counts.true / alarms if alarms else None
    recall = counts.true / counts.events if counts.events else None
    interval = poisson_interval(counts.false, counts.hours)
    per_hour = counts.false / counts.hours if counts.hours > 0 else None
    return Score(
        true=counts.true,
        false=counts.false,
        events=counts.events,
        missed=counts.events - counts.true,
        accuracy=accuracy,
        accuracy_lower=clopper_pearson_lower(counts.true, alarms) if alarms else None,
        # Sorted, so that the draws do not depend on the order of the clips.
        accuracy_bootstrap_lower=bootstrap_lower(sorted(counts.groups.values())),
        recall=recall,
        f1=2 * counts.true / (alarms + counts.events) if judged else None,
        weighted_f1=None if accuracy is None or recall is None else weighted_f1(accuracy, recall),
        camera_hours=counts.hours,
        false_per_hour=per_hour,
        false_per_hour_interval=interval,
        delay_p50_s=_percentile(counts.delays_s, 50),
        delay_p95_s=_percentile(counts.delays_s, 95),
        delays=len(counts.delays_s),
        verdict=judge(counts.true, alarms, target),
        projected_accuracy=_project(recall, rate_per_hour, per_hour),
        projected_accuracy_low=_project(recall, rate_per_hour, interval[1] if interval else None),
        clips=counts.clips,
        clips_right=counts.clips_right,
        clip_accuracy=counts.clips_right / counts.clips if counts.clips else None,
        clip_accuracy_lower=clopper_pearson_lower(counts.clips_right, counts.clips)
        if counts.clips
        else None,
    )


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None


def _project(
    recall: float | None, rate_per_hour: float | None, false_per_hour: float | None
) -> float | None:
    if recall is None or rate_per_hour is None or false_per_hour is None:
        return None
    expected = recall * rate_per_hour + false_per_hour
    return recall * rate_per_hour / expected if expected > 0 else None
