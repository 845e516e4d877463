"""Figures of a run: by kind of clip, and within a kind by scenario, condition and camera."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.curve import Curve, curve
from benchmarks.labels import Kind
from benchmarks.score import ClipResult, Score, Tally, score, tally

__all__ = [
    "UNMARKED",
    "Breakdown",
    "Counts",
    "KindScores",
    "Mean",
    "ScoredClip",
    "count",
    "most_telling",
    "scores_by_kind",
]

UNMARKED = "unmarked"  # clips whose label names no condition
MACRO = ("accuracy", "recall", "f1", "weighted_f1", "false_per_hour", "clip_accuracy")


@dataclass(frozen=True, slots=True)
class ScoredClip:
    """A clip that counts.

    Attributes:
        kind: How real it is.
        conditions: Words such as ``night`` or ``rain``.
        camera: What took it.
        results: By scenario that counts on it.
    """

    kind: Kind
    conditions: tuple[str, ...]
    camera: str
    results: Mapping[str, ClipResult]

    @property
    def group(self) -> str:
        """Clips of one place or incident, which err together."""
        return next(iter(self.results.values())).group

    def narrowed(self, scenarios: Collection[str]) -> ScoredClip:
        """The same with the results of these scenarios alone."""
        kept = {name: result for name, result in self.results.items() if name in scenarios}
        return replace(self, results=kept)


@dataclass(frozen=True, slots=True)
class Mean:
    """A figure averaged over the scenarios for which it is defined; None where there is no such scenario."""

    value: float | None
    scenarios: int


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Figures of some clips.

    Attributes:
        clips: How many.
        overall: All scenarios together: every alarm counts the same (pooled).
        scenarios: By scenario.
    """

    clips: int
    overall: Score
    scenarios: Mapping[str, Score]


@dataclass(frozen=True, slots=True)
class Counts:
    """What some clips came to, before any figure; counts of different clips can be added up.

    Attributes:
        together: All scenarios, pooled.
        scenarios: By scenario.
    """

    together: Tally = field(default_factory=Tally)
    scenarios: Mapping[str, Tally] = field(default_factory=dict)

    def plus(self, other: Counts) -> Counts:
        """Both, of different clips."""
        names = sorted({*self.scenarios, *other.scenarios})
        none = Tally()
        return Counts(
            self.together.plus(other.together),
            {n: self.scenarios.get(n, none).plus(other.scenarios.get(n, none)) for n in names},
        )

    def breakdown(self, target: float, rate_per_hour: float | None = None) -> Breakdown:
        """Their figures; see `benchmarks.score.score`."""
        return Breakdown(
            self.together.clips,
            score(self.together, target, rate_per_hour),
            {name: score(one, target, rate_per_hour) for name, one in self.scenarios.items()},
        )


@dataclass(frozen=True, slots=True)
class KindScores(Breakdown):
    """Figures of the clips of one kind.

    Attributes:
        macro: Mean over scenarios by figure: every scenario counts the same, however many alarms it has.
        conditions: By condition; a clip counts under each of its own.
        cameras: By camera.
        curves: Misses against false alarms by scenario, and of all together under ``overall``; None where undefined.
    """

    macro: Mapping[str, Mean] = field(default_factory=dict)
    conditions: Mapping[str, Breakdown] = field(default_factory=dict)
    cameras: Mapping[str, Breakdown] = field(default_factory=dict)
    curves: Mapping[str, Curve | None] = field(default_factory=dict)


def scores_by_kind(
    clips: Iterable[ScoredClip], target: float, window_s: float, rate_per_hour: float | None
) -> dict[Kind, KindScores]:
    """All figures; kinds are never added up.

    Args:
        clips: That were scored.
        target: Share of true alarms that is asked for.
        window_s: How long after an event's end its alarm may come.
        rate_per_hour: Events per camera-hour to project the accuracy to.

    Returns:
        Only kinds that have clips, the most telling first.
    """
    by_kind: dict[Kind, list[ScoredClip]] = defaultdict(list)
    for clip in clips:
        by_kind[clip.kind].append(clip)

    def figures(chosen: Sequence[ScoredClip]) -> Breakdown:
        return count(chosen, window_s).breakdown(target, rate_per_hour)

    return {kind: _of_kind(by_kind[kind], figures, window_s) for kind in Kind if kind in by_kind}


def _of_kind(
    clips: Sequence[ScoredClip],
    figures: Callable[[Sequence[ScoredClip]], Breakdown],
    window_s: float,
) -> KindScores:
    whole = figures(clips)
    conditions: dict[str, list[ScoredClip]] = defaultdict(list)
    cameras: dict[str, list[ScoredClip]] = defaultdict(list)
    for clip in clips:
        for condition in clip.conditions or (UNMARKED,):
            conditions[condition].append(clip)
        cameras[clip.camera].append(clip)
    by_scenario = _by_scenario(clips)
    curves = {
        name: curve([results], sum(r.hours for r in results), window_s)
        for name, results in by_scenario.items()
    }
    return KindScores(
        whole.clips,
        whole.overall,
        whole.scenarios,
        {name: _mean(name, whole.scenarios.values()) for name in MACRO},
        {name: figures(conditions[name]) for name in sorted(conditions)},
        {name: figures(cameras[name]) for name in sorted(cameras)},
        {"overall": curve(by_scenario.values(), whole.overall.camera_hours, window_s)} | curves,
    )


def _by_scenario(clips: Sequence[ScoredClip]) -> dict[str, list[ClipResult]]:
    names = sorted({name for clip in clips for name in clip.results})
    return {name: [clip.results[name] for clip in clips if name in clip.results] for name in names}


def most_telling(clips: Sequence[ScoredClip]) -> tuple[Kind | None, list[ScoredClip]]:
    """The most telling kind that there is, and its clips: the verdict is theirs. None without any clip."""
    kind = next((kind for kind in Kind if any(clip.kind is kind for clip in clips)), None)
    return kind, [clip for clip in clips if clip.kind is kind]


def count(clips: Sequence[ScoredClip], window_s: float) -> Counts:
    """Count alarms, events and clips.

    Args:
        clips: That were scored, of one kind.
        window_s: How long after an event's end its alarm may come.
    """
    tallies = {name: tally(results, window_s) for name, results in _by_scenario(clips).items()}
    pooled = Tally()
    for one in tallies.values():
        pooled = pooled.plus(one)
    # A clip on which two scenarios run is still one clip of one camera, right only if both are.
    right = sum(
        all(tally([result], window_s).clips_right for result in clip.results.values())
        for clip in clips
    )
    together = replace(
        pooled,
        hours=sum(next(iter(clip.results.values())).hours for clip in clips),
        clips=len(clips),
        clips_right=right,
    )
    return Counts(together, tallies)


def _mean(figure: str, scores: Iterable[Score]) -> Mean:
    values = [value for one in scores if (value := getattr(one, figure)) is not None]
    return Mean(sum(values) / len(values) if values else None, len(values))
