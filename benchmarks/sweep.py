"""Kept runs replayed with other parameters: once, or over a grid of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

from alerts.rules import Change
from benchmarks.evaluation import ClipOutcome, Evaluation, Options, judged, scored_clips
from benchmarks.figures import Counts, ScoredClip, count, most_telling
from benchmarks.labels import Kind
from benchmarks.replay import (
    Replayable,
    Replayed,
    Setting,
    changed,
    judge_again,
    parse_setting,
    replay,
    said_then,
)
from benchmarks.runner import ClipRun, decided, merged
from benchmarks.score import Score, VerdictValue, score
from benchmarks.settings import CameraTable
from benchmarks.work import KeptClip, WorkFolder, read_run
from gridwatch.config import CameraSettings, Config
from gridwatch.detection_log import read_log
from pipeline.exceptions import ConfigError

__all__ = [
    "Cell",
    "Grid",
    "KeptRun",
    "best_of",
    "nearest_of",
    "parse_axis",
    "sweep",
    "swept_clips",
    "swept_scenarios",
]

MAX_CELLS = 2000  # a mistyped grid should say so, not run for hours


@dataclass(frozen=True, slots=True)
class _Kept:
    clip: KeptClip
    run: ClipRun | None
    log: Replayable | None
    said: dict[tuple[str, tuple[tuple[str, str], ...]], Replayed] = field(default_factory=dict)


class KeptRun:
    """The last run of a work folder, in memory, ready to be replayed.

    Args:
        folder: The work folder.

    Raises:
        ConfigError: if it holds no run, or a log of it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        config, clips = read_run(folder)
        self.config: Config = config
        self._clips = [self._load(clip) for clip in clips]

    @property
    def video_s(self) -> float:
        """Stream seconds that a replay goes through."""
        return sum(
            kept.clip.measured.duration_s
            for kept in self._clips
            if kept.log is not None and kept.clip.measured is not None
        )

    @property
    def scenarios(self) -> set[str]:
        """Scenarios that ran on any clip."""
        return {
            name
            for kept in self._clips
            if kept.clip.camera is not None
            for name in kept.clip.camera.scenarios
        }

    def replay(
        self, settings: Sequence[Setting], options: Options
    ) -> tuple[Evaluation, Mapping[str, float]]:
        """All clips once more, with all figures.

        Args:
            settings: Parameters to try.
            options: What the figures are asked for.

        Returns:
            The result; and by scenario the stream seconds for which it would have looked more often than it did.

        Raises:
            ConfigError: if a value does not fit, or the logs do not hold what it asks for.
        """
        outcomes, denser_s = self.outcomes(settings)
        return judged(outcomes, CameraTable.of(self.config), options), denser_s

    def outcomes(
        self, settings: Sequence[Setting]
    ) -> tuple[list[ClipOutcome], Mapping[str, float]]:
        """All clips once more, not judged yet; otherwise as `replay`."""
        outcomes: list[ClipOutcome] = []
        denser_s: dict[str, float] = {}
        for kept in self._clips:
            clip = kept.clip
            outcome = ClipOutcome(clip.clip, list(clip.problems), list(clip.notes), clip.camera)
            outcome.measured = clip.measured
            outcomes.append(outcome)
            if kept.log is None or kept.run is None:
                continue
            outcome.camera = changed(kept.log.camera, settings)
            outcome.log = clip.log
            outcome.run, denser = self._replay(kept, kept.log, kept.run, settings, outcome.camera)
            for scenario, seconds in denser.items():
                denser_s[scenario] = denser_s.get(scenario, 0.0) + seconds
        return outcomes, denser_s

    def _replay(
        self,
        kept: _Kept,
        log: Replayable,
        recorded: ClipRun,
        settings: Sequence[Setting],
        camera: CameraSettings,
    ) -> tuple[ClipRun, Mapping[str, float]]:
        """One clip: only what the settings bear on is done again, and what scenarios said is remembered."""
        if not settings:
            replayed = replay(log)
            return replayed.as_run(recorded), replayed.denser_s
        touched = {setting.scenario for setting in settings} & set(camera.scenarios)
        changes: list[Change] = []
        denser_s: dict[str, float] = {}
        for scenario in sorted(touched):
            own = [setting for setting in settings if setting.scenario == scenario]
            steering = [setting for setting in own if not setting.of_rule]
            memory = scenario, tuple(sorted((s.name, s.text) for s in steering))
            if memory not in kept.said:
                then = None if steering else said_then(log, scenario)
                kept.said[memory] = then or replay(log, steering, {scenario})
                kept.said[memory].check(steering, recorded.faults)
            replayed = kept.said[memory]
            denser_s |= replayed.denser_s
            changes += judge_again(camera, replayed.said)
        fresh = decided(changes, recorded.frames, recorded.last_s, (), {})
        return merged(fresh, recorded, touched), denser_s

    def _load(self, clip: KeptClip) -> _Kept:
        if clip.log is None or clip.camera is None:
            return _Kept(clip, None, None)
        run = WorkFolder.result(clip.log)
        if run is None or not clip.log.is_file():
            raise ConfigError(
                f"{clip.log}: found no log of {clip.clip.name}: run the benchmark again"
            )
        return _Kept(clip, run, Replayable.of(read_log(clip.log), clip.camera, self.config))


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of values.

    Attributes:
        settings: In the order of the grid's axes.
        score: Of the swept scenarios on the most telling kind of clips; None where nothing could be scored.
        denser_s: Stream seconds for which the scenarios would have looked more often than the log did.
        parts: What `score` is made of, fold by fold where clips were dealt out to folds, else in one.
    """

    settings: tuple[Setting, ...]
    score: Score | None
    denser_s: float
    parts: tuple[Counts, ...] = ()

    @property
    def keeps_target(self) -> bool:
        """Whether the share of true alarms reaches the target, proven or not."""
        return _keeps_target(self.score)

    @property
    def words(self) -> str:
        """The settings as they are written."""
        return ", ".join(f"{setting.key}={setting.text}" for setting in self.settings)


@dataclass(frozen=True, slots=True)
class Grid:
    """A sweep's outcome.

    Attributes:
        axes: Values as they were written, by parameter (``fire.raise_after``).
        cells: Every combination, the last axis fastest.
        scenarios: Those that are swept, sorted.
        kind: Of the clips that the scores are of; None where nothing could be scored.
        problems: How many of the run's clips could not be scored, or not for sure.
    """

    axes: Mapping[str, tuple[str, ...]]
    cells: tuple[Cell, ...]
    scenarios: tuple[str, ...]
    kind: str | None
    problems: int = 0

    @property
    def title(self) -> str:
        """What the scores are of."""
        return f"{' and '.join(self.scenarios)}, {self.kind or 'no'} clips"

    @property
    def best(self) -> Cell | None:
        """The cell of `best_of`."""
        index = best_of([cell.score for cell in self.cells])
        return None if index is None else self.cells[index]

    @property
    def nearest(self) -> Cell | None:
        """The cell of `nearest_of`."""
        index = nearest_of([cell.score for cell in self.cells])
        return None if index is None else self.cells[index]


def best_of(scores: Sequence[Score | None]) -> int | None:
    """Of those that keep the target, which finds most, then soonest, then surest; None if none does."""
    kept = [(i, one) for i, one in enumerate(scores) if one is not None and _keeps_target(one)]
    return max(kept, key=lambda pair: _merit(pair[1]), default=(None, None))[0]


def nearest_of(scores: Sequence[Score | None]) -> int | None:
    """Which has the greatest accuracy, then recall; None where none raised an alarm."""
    raised = [
        (i, one) for i, one in enumerate(scores) if one is not None and one.accuracy is not None
    ]
    return max(raised, key=lambda pair: _accuracy(pair[1]), default=(None, None))[0]


def parse_axis(text: str) -> tuple[str, list[Setting]]:
    """A grid's axis from ``fire.raise_after=1s,2s,3s``.

    Raises:
        ConfigError: as `parse_setting`, or if there is no value.
    """
    key, equals, values = text.partition("=")
    words = [word.strip() for word in values.split(",") if word.strip()]
    if not equals or not words:
        raise ConfigError(f"--sweep {text}: expected SCENARIO.PARAMETER=VALUE,VALUE,...")
    return key, [parse_setting(key, word) for word in words]


def swept_scenarios(run: KeptRun, axes: Mapping[str, Sequence[Setting]]) -> tuple[str, ...]:
    """Whose parameters are swept, sorted.

    Raises:
        ConfigError: if one of them did not run.
    """
    scenarios = {setting.scenario for values in axes.values() for setting in values}
    if absent := sorted(scenarios - run.scenarios):
        ran = ", ".join(sorted(run.scenarios))
        raise ConfigError(f"--sweep: {', '.join(absent)} did not run, expected one of {ran}")
    return tuple(sorted(scenarios))


def swept_clips(
    run: KeptRun,
    axes: Mapping[str, Sequence[Setting]],
    options: Options,
    fixed: Sequence[Setting] = (),
) -> list[ScoredClip]:
    """The clips that a sweep is judged by: of one kind, with the swept scenarios' results alone.

    Raises:
        ConfigError: as `sweep`.
    """
    return _swept(run.outcomes(fixed)[0], swept_scenarios(run, axes), options)[1]


def _swept(
    outcomes: Sequence[ClipOutcome], scenarios: Collection[str], options: Options
) -> tuple[Kind | None, list[ScoredClip]]:
    narrowed = [clip.narrowed(scenarios) for clip in scored_clips(outcomes, options)]
    return most_telling([clip for clip in narrowed if clip.results])


def sweep(
    run: KeptRun,
    axes: Mapping[str, Sequence[Setting]],
    options: Options,
    fixed: Sequence[Setting] = (),
    fold_of: Mapping[str, int] | None = None,
) -> Grid:
    """Replay a run with every combination of values.

    Args:
        run: The kept run.
        axes: Values to try, by parameter.
        options: What the figures are asked for.
        fixed: Parameters that are changed in every cell.
        fold_of: The fold of every group of clips, see `benchmarks.folds`; None keeps them together.

    Raises:
        ConfigError: if a value does not fit, a scenario did not run, or the grid is too large.
    """
    scenarios = swept_scenarios(run, axes)
    combinations = list(itertools.product(*axes.values()))
    if len(combinations) > MAX_CELLS:
        raise ConfigError(
            f"--sweep: found {len(combinations)} combinations, expected {MAX_CELLS} or fewer"
        )
    folds = 1 if fold_of is None else 1 + max(fold_of.values())
    cells: list[Cell] = []
    kind: Kind | None = None
    problems = 0
    for values in combinations:
        outcomes, denser_s = run.outcomes([*fixed, *values])
        kind, clips = _swept(outcomes, scenarios, options)
        parts: list[list[ScoredClip]] = [[] for _ in range(folds)]
        for clip in clips:
            parts[0 if fold_of is None else fold_of[clip.group]].append(clip)
        counts = tuple(count(part, options.window_s) for part in parts)
        together = reduce(Counts.plus, counts).together
        denser = sum(denser_s.get(name, 0.0) for name in scenarios)
        whole = score(together, options.target, options.rate_per_hour) if clips else None
        cells.append(Cell(values, whole, denser, counts))
        problems = sum(bool(outcome.problems) for outcome in outcomes)
    written = {key: tuple(setting.text for setting in values) for key, values in axes.items()}
    return Grid(written, tuple(cells), scenarios, None if kind is None else kind.value, problems)


def _keeps_target(score: Score | None) -> bool:
    return score is not None and score.verdict.value is not VerdictValue.MISSED


def _merit(score: Score) -> tuple[float, float, float]:
    delay_s = math.inf if score.delay_p50_s is None else score.delay_p50_s
    return score.recall or 0.0, -delay_s, score.accuracy_lower or 0.0


def _accuracy(score: Score) -> tuple[float, float]:
    return score.accuracy or 0.0, score.recall or 0.0
