"""Runs labelled clips and says what every alarm and every event came to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from benchmarks.figures import KindScores, ScoredClip, scores_by_kind
from benchmarks.labels import Event, Kind, LabelledClip, find_clips
from benchmarks.runner import Alarm, ClipRun, Measure
from benchmarks.score import ClipResult, match
from benchmarks.settings import OWN_CAMERA, CameraTable, Scorable, scorable
from benchmarks.work import KeptClip, WorkFolder
from benchmarks.workers import Failure, Task, Workers
from gridwatch.config import CameraSettings, Config
from pipeline.analyse.weights import load_registry
from pipeline.exceptions import ConfigError, ModelError

__all__ = ["ClipOutcome", "Evaluation", "Options", "evaluate", "judged", "scored_clips"]

SETTINGS_NAME = "cameras.yaml"
# Labels are read to half a second: an end that little beyond the last picture is the clip's end.
END_TOLERANCE_S = 0.5


@dataclass(frozen=True, slots=True)
class Options:
    """What the figures are asked for.

    Attributes:
        target: Share of true alarms.
        window_s: How long after an event's end its alarm may come.
        rate_per_hour: Events per camera-hour to project the accuracy to; None for no projection.
        workers: Number of processes.
        work: Folder for results and detection logs, from which a run that was stopped goes on; None keeps nothing.
        fresh: Analyse every clip again, whatever `work` holds.
    """

    target: float
    window_s: float
    rate_per_hour: float | None
    workers: int
    work: Path | None = None
    fresh: bool = False


@dataclass(slots=True)
class ClipOutcome:
    """Everything about one clip.

    Attributes:
        problems: Why it, or a scenario on it, could not be scored.
        notes: What is odd about it and does no harm.
        camera: Its settings; None without any.
        measured: Its length and rate; None if it cannot be read.
        run: What the engine made of it; None if it was not analysed.
        log: Its detection log; None where none is kept.
        kept: Whether `run` is that of an earlier run.
        scored: Scenarios that count on this clip.
        events: Labelled events that count.
        unscored: Labelled events that do not, each with its reason.
        alarm_events: For every alarm of `run` the index in `events` of the event that it found; None for a false one.
    """

    clip: LabelledClip
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    camera: CameraSettings | None = None
    measured: Measure | None = None
    run: ClipRun | None = None
    log: Path | None = None
    kept: bool = False
    scored: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    unscored: tuple[tuple[Event, str], ...] = ()
    alarm_events: tuple[int | None, ...] = ()

    @property
    def missed(self) -> list[Event]:
        """Events that no alarm found."""
        return [event for i, event in enumerate(self.events) if i not in self.alarm_events]

    @property
    def alarms(self) -> list[tuple[Alarm, int | None]]:
        """Alarms of scored scenarios with the index of their event."""
        alarms = self.run.alarms if self.run is not None and self.scored else ()
        return [
            (alarm, event)
            for alarm, event in zip(alarms, self.alarm_events, strict=False)
            if alarm.scenario in self.scored
        ]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of a run.

    Attributes:
        clips: In order of name.
        kinds: Figures by kind, the most telling first; only kinds with scored clips.
        video_s: Stream seconds that were analysed, without those of an earlier run.
        cameras: What the settings came from.
        options: What was asked for.
    """

    clips: Sequence[ClipOutcome]
    kinds: Mapping[Kind, KindScores]
    video_s: float
    cameras: CameraTable
    options: Options

    @property
    def headline(self) -> tuple[Kind, KindScores] | None:
        """The kind by which the verdict is given: the most telling one; None if nothing could be scored."""
        return next(iter(self.kinds.items()), None)

    @property
    def kept(self) -> int:
        """How many clips' results are those of an earlier run."""
        return sum(outcome.kept for outcome in self.clips)

    @property
    def complete(self) -> bool:
        """Whether every clip could be scored."""
        return not any(outcome.problems for outcome in self.clips)


def evaluate(paths: Sequence[Path], settings: Path | None, options: Options) -> Evaluation:
    """Find the clips, run them, and score them.

    Args:
        paths: Video files and folders.
        settings: A cameras.yaml with settings for clips that bring none; by default the one in a folder of `paths`.
        options: What the figures are asked for.

    Raises:
        ConfigError: if the paths hold no clip, or `settings` or a whole label file is wrong.
    """
    cameras = CameraTable(settings or _settings_in(paths))
    outcomes = [ClipOutcome(clip, list(clip.problems)) for clip in find_clips(paths)]
    for outcome in outcomes:
        if outcome.problems:
            continue
        try:
            outcome.camera = cameras.camera_for(outcome.clip)
        except ConfigError as error:
            outcome.problems.extend(error.problems)
    with Workers(cameras.config, options.workers) as workers:
        _measure(outcomes, workers)
        folder = _look_up(outcomes, cameras.config, options)
        _analyse(outcomes, workers)
    if folder is not None:
        folder.write_run(
            [
                KeptClip(
                    o.clip, o.camera, o.measured, o.problems, o.notes, o.log if o.run else None
                )
                for o in outcomes
            ]
        )
    return judged(outcomes, cameras, options)


def judged(outcomes: Sequence[ClipOutcome], cameras: CameraTable, options: Options) -> Evaluation:
    """Say of every alarm whether it is true, and score the whole.

    Args:
        outcomes: Clips that were run, or replayed; they are completed here.
        cameras: What their settings came from.
        options: What the figures are asked for.
    """
    clips = scored_clips(outcomes, options)
    return Evaluation(
        outcomes,
        scores_by_kind(clips, options.target, options.window_s, options.rate_per_hour),
        sum(
            o.measured.duration_s
            for o in outcomes
            if o.run is not None and o.measured is not None and not o.kept
        ),
        cameras,
        options,
    )


def scored_clips(outcomes: Sequence[ClipOutcome], options: Options) -> list[ScoredClip]:
    """Say of every alarm whether it is true.

    Args:
        outcomes: Clips that were run, or replayed; they are completed here.
        options: What the figures are asked for.

    Returns:
        The clips that count.
    """
    for outcome in outcomes:
        _judge(outcome, options)
    return list(_scored(outcomes))


def _settings_in(paths: Sequence[Path]) -> Path | None:
    found = [file for path in paths if (file := path / SETTINGS_NAME).is_file()]
    if len(found) > 1:
        listed = ", ".join(map(str, found))
        raise ConfigError(f"{listed}: found several, expected one or --settings")
    return found[0] if found else None


def _tasks(outcomes: Sequence[ClipOutcome], *, measured: bool) -> list[Task]:
    tasks = []
    for index, outcome in enumerate(outcomes):
        if outcome.camera is not None and not outcome.problems and outcome.run is None:
            duration_s = outcome.measured.duration_s if measured and outcome.measured else None
            tasks.append(Task(index, outcome.camera, duration_s, outcome.log))
    return tasks


def _look_up(
    outcomes: Sequence[ClipOutcome], config: Config, options: Options
) -> WorkFolder | None:
    """Take what an earlier run has done already, and say where the logs of the rest go."""
    if options.work is None:
        return None
    registry_file = config.runtime.registry
    try:
        registry = load_registry(Path(registry_file) if registry_file else None)
    except ModelError:
        return None  # every clip will say so; nothing is to be kept
    folder = WorkFolder(options.work, config, registry)
    for outcome in outcomes:
        if outcome.camera is None or outcome.measured is None or outcome.problems:
            continue
        if not outcome.measured.sha256:  # a folder of pictures
            continue
        outcome.log = folder.log_file(outcome.camera, outcome.measured.sha256)
        run = None if options.fresh else folder.result(outcome.log)
        if run is not None:
            outcome.run, outcome.kept = run, True
            outcome.notes.extend(run.notes)
    return folder


def _measure(outcomes: Sequence[ClipOutcome], workers: Workers) -> None:
    for task, report in workers.run(_tasks(outcomes, measured=False)):
        outcome = outcomes[task.index]
        if isinstance(report, Failure):
            outcome.problems.append(_named(outcome, report.reason))
        elif isinstance(report, Measure):
            outcome.measured = report
            if report.note and not report.lying_rate:  # which is a problem, see `_judge`
                outcome.notes.append(report.note)
            outcome.problems.extend(_beyond(outcome, report.duration_s))


def _beyond(outcome: ClipOutcome, duration_s: float) -> Iterable[str]:
    label = outcome.clip.label
    for event in label.events if label is not None else ():
        if event.end_s > duration_s + END_TOLERANCE_S:
            yield (
                f"{event.place}: {event.scenario} ends at {event.end_s:g} s, "
                f"expected no more than the clip's {duration_s:g} s"
            )


def _analyse(outcomes: Sequence[ClipOutcome], workers: Workers) -> None:
    # The longest first: then no process is left alone with a long clip at the end.
    tasks = sorted(_tasks(outcomes, measured=True), key=lambda task: -(task.duration_s or 0.0))
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.fields[clips]}/{task.fields[of]} clips"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[speed]} × real time"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[clip]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    total_s = sum(task.duration_s or 0.0 for task in tasks)
    with progress:
        bar = progress.add_task("", total=total_s, clips=0, of=len(tasks), speed="–", clip="")
        done_s: dict[int, float] = {}
        ended = 0
        for task, report in workers.run(tasks):
            outcome = outcomes[task.index]
            if isinstance(report, float):
                done_s[task.index] = report
            else:
                done_s[task.index] = task.duration_s or 0.0
                ended += 1
            if isinstance(report, ClipRun):
                outcome.run = report
                outcome.notes.extend(report.notes)
            elif isinstance(report, Failure):
                outcome.problems.append(_named(outcome, report.reason))
            _show(progress, bar, sum(done_s.values()), ended, outcome.clip.name)


def _show(progress: Progress, bar: TaskID, done_s: float, ended: int, clip: str) -> None:
    elapsed_s = progress.tasks[0].elapsed or 0.0
    speed = f"{done_s / elapsed_s:.1f}" if elapsed_s > 0 else "–"
    progress.update(bar, completed=done_s, clips=ended, speed=speed, clip=clip)


def _named(outcome: ClipOutcome, reason: str) -> str:
    """A reason that names its clip, whether it does so already or not."""
    path = str(outcome.clip.path)
    return reason if path in reason else f"{path}: {reason}"


def _judge(outcome: ClipOutcome, options: Options) -> None:
    """Say of every alarm whether it is true; sets what counts on this clip."""
    label, camera, run = outcome.clip.label, outcome.camera, outcome.run
    if label is None or camera is None or run is None or outcome.problems:
        return
    outcome.problems.extend(
        _named(outcome, f"{scenario}: {reason}" if scenario else reason)
        for scenario, reason in sorted(run.faults.items())
    )
    if outcome.measured is not None and outcome.measured.lying_rate:
        # It is scored by its stamps, yet nobody knows what its label went by: no gate passes.
        outcome.problems.append(_named(outcome, outcome.measured.note))
    if "" in run.faults:
        return
    outcome.scored = tuple(name for name in camera.scenarios if name not in run.faults)
    sorted_events: Scorable = scorable(label, camera)
    outcome.unscored = sorted_events.unscored + tuple(
        (event, run.faults[event.scenario])
        for event in sorted_events.events
        if event.scenario not in outcome.scored
    )
    outcome.events = tuple(e for e in sorted_events.events if e.scenario in outcome.scored)
    found: list[int | None] = [None] * len(run.alarms)
    for scenario in outcome.scored:
        alarms = [i for i, alarm in enumerate(run.alarms) if alarm.scenario == scenario]
        events = [i for i, event in enumerate(outcome.events) if event.scenario == scenario]
        matched = match(
            [run.alarms[i].t_s for i in alarms],
            [(outcome.events[i].start_s, outcome.events[i].end_s) for i in events],
            options.window_s,
        )
        for alarm, event in zip(alarms, matched, strict=True):
            found[alarm] = None if event is None else events[event]
    outcome.alarm_events = tuple(found)


def _scored(outcomes: Sequence[ClipOutcome]) -> Iterable[ScoredClip]:
    for outcome in outcomes:
        label, measured, camera = outcome.clip.label, outcome.measured, outcome.camera
        if not outcome.scored or label is None or measured is None or camera is None:
            continue
        results = {}
        for scenario in outcome.scored:
            alarms = [alarm for alarm, _ in outcome.alarms if alarm.scenario == scenario]
            results[scenario] = ClipResult(
                label.group,
                measured.duration_s / 3600.0,
                [alarm.t_s for alarm in alarms],
                [(e.start_s, e.end_s) for e in outcome.events if e.scenario == scenario],
                [alarm.confidence for alarm in alarms],
                doubtful=bool(outcome.problems),
            )
        # Clips that bring their settings along have no camera of the site: their place stands for it.
        name = label.group if camera.id == OWN_CAMERA else camera.id
        yield ScoredClip(label.kind, label.conditions, name, results)
