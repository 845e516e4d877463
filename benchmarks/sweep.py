"""Kept runs replayed with other parameters: once, or over a grid of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alerts.rules import Change
from benchmarks.evaluation import ClipOutcome, Evaluation, Options, judged
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
from benchmarks.score import Score, VerdictValue
from benchmarks.settings import CameraTable
from benchmarks.work import KeptClip, WorkFolder, read_run
from gridwatch.config import CameraSettings, Config
from gridwatch.detection_log import read_log
from pipeline.exceptions import ConfigError

__all__ = ["Cell", "Grid", "KeptRun", "parse_axis", "sweep"]

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
        """All clips once more.

        Args:
            settings: Parameters to try.
            options: What the figures are asked for.

        Returns:
            The result; and by scenario the stream seconds for which it would have looked more often than it did.

        Raises:
            ConfigError: if a value does not fit, or the logs do not hold what it asks for.
        """
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
        return judged(outcomes, CameraTable.of(self.config), options), denser_s

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
        score: Of the swept scenario on the most telling kind of clips, or of all together where several are swept;
            None where nothing could be scored.
        denser_s: Stream seconds for which the scenarios would have looked more often than the log did.
    """

    settings: tuple[Setting, ...]
    score: Score | None
    denser_s: float

    @property
    def keeps_target(self) -> bool:
        """Whether the share of true alarms reaches the target, proven or not."""
        return self.score is not None and self.score.verdict.value is not VerdictValue.MISSED


@dataclass(frozen=True, slots=True)
class Grid:
    """A sweep's outcome.

    Attributes:
        axes: Values as they were written, by parameter (``fire.raise_after``).
        cells: Every combination, the last axis fastest.
        scenario: The one that is swept; None for several together.
        kind: Of the clips that the scores are of; None where nothing could be scored.
    """

    axes: Mapping[str, tuple[str, ...]]
    cells: tuple[Cell, ...]
    scenario: str | None
    kind: str | None

    @property
    def best(self) -> Cell | None:
        """Of the cells that keep the target, that which finds most, then soonest, then surest; None if none does."""
        kept = [cell for cell in self.cells if cell.keeps_target]
        return max(kept, key=_merit, default=None)

    @property
    def nearest(self) -> Cell | None:
        """The cell with the greatest accuracy, then recall; None where no cell raised an alarm."""
        raised = [c for c in self.cells if c.score is not None and c.score.accuracy is not None]
        return max(raised, key=_accuracy, default=None)


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


def sweep(
    run: KeptRun,
    axes: Mapping[str, Sequence[Setting]],
    options: Options,
    fixed: Sequence[Setting] = (),
) -> Grid:
    """Replay a run with every combination of values.

    Args:
        run: The kept run.
        axes: Values to try, by parameter.
        options: What the figures are asked for.
        fixed: Parameters that are changed in every cell.

    Raises:
        ConfigError: if a value does not fit, a scenario did not run, or the grid is too large.
    """
    scenarios = {setting.scenario for values in axes.values() for setting in values}
    if absent := sorted(scenarios - run.scenarios):
        ran = ", ".join(sorted(run.scenarios))
        raise ConfigError(f"--sweep: {', '.join(absent)} did not run, expected one of {ran}")
    combinations = list(itertools.product(*axes.values()))
    if len(combinations) > MAX_CELLS:
        raise ConfigError(
            f"--sweep: found {len(combinations)} combinations, expected {MAX_CELLS} or fewer"
        )
    scenario = next(iter(scenarios)) if len(scenarios) == 1 else None
    cells: list[Cell] = []
    kind: str | None = None
    for values in combinations:
        evaluation, denser_s = run.replay([*fixed, *values], options)
        score: Score | None = None
        if (headline := evaluation.headline) is not None:
            kind = headline[0].value
            scores = headline[1]
            score = scores.overall if scenario is None else scores.scenarios.get(scenario)
        cells.append(Cell(values, score, sum(denser_s.get(name, 0.0) for name in scenarios)))
    written = {key: tuple(setting.text for setting in values) for key, values in axes.items()}
    return Grid(written, tuple(cells), scenario, kind)


def _merit(cell: Cell) -> tuple[float, float, float]:
    score = cell.score
    if score is None:
        return -1.0, 0.0, 0.0
    return score.recall or 0.0, -(score.delay_p50_s or 0.0), score.accuracy_lower or 0.0


def _accuracy(cell: Cell) -> tuple[float, float]:
    score = cell.score
    return (0.0, 0.0) if score is None else (score.accuracy or 0.0, score.recall or 0.0)
