"""`gridwatch benchmark replay`: from kept logs and other parameters to a report or a table."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table

from alerts.rules import Change, ChangeKind
from benchmarks.crossfit import cross_fit
from benchmarks.evaluation import Evaluation, Options
from benchmarks.folds import split
from benchmarks.replay import Replayable, Setting, parse_setting, replay
from benchmarks.report_json import document
from benchmarks.report_text import print_report
from benchmarks.sweep import KeptRun, parse_axis, sweep, swept_clips
from benchmarks.sweep_chart import sweep_chart
from benchmarks.sweep_report import grid_document, print_cross_fit, print_grid
from benchmarks.work import RUN_NAME, default_folder
from gridwatch.config import Config
from gridwatch.detection_log import SUFFIX, read_log
from gridwatch.recording import camera_of_header, log_files
from pipeline.exceptions import ConfigError

__all__ = ["run_replay"]

PLAIN_WIDTH = 200  # of a table that goes into a file
DENSER_SHARE = 0.01  # of the time; less is the beginning and the end of bursts


def run_replay(
    log: Path | None,
    *,
    settings: Sequence[str],
    sweeps: Sequence[str],
    options: Options,
    json_file: Path | None,
    chart: Path | None = None,
    folds: int | None = None,
) -> int:
    """Replay a benchmark's run, or what a daemon recorded, with other parameters; print what comes of it.

    Args:
        log: A work folder, a folder of a daemon's logs, or one log; None for the default work folder.
        settings: ``SCENARIO.PARAMETER=VALUE`` each.
        sweeps: ``SCENARIO.PARAMETER=VALUE,VALUE,...`` each; a grid of all of them.
        options: What the figures are asked for.
        json_file: Where the JSON document goes.
        chart: Where a sweep's picture goes, an SVG file.
        folds: In how many folds the clips are dealt out, to score a setting on clips that it was not chosen on.

    Returns:
        0.

    Raises:
        ConfigError: if a log or a parameter cannot be used.
    """
    fixed = [parse_setting(*_split(text)) for text in settings]
    axes = dict(parse_axis(text) for text in sweeps)
    if chart is not None and not axes:
        raise ConfigError(f"{chart}: there is nothing to draw, expected --sweep")
    if folds is not None and not axes:
        raise ConfigError(f"--folds {folds}: there is nothing to choose, expected --sweep")
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    folder = log or default_folder()
    if not (folder / RUN_NAME).is_file():
        if log is None:
            raise ConfigError(f"{folder}: found no run, expected one: gridwatch benchmark CLIPS")
        if axes:
            raise ConfigError(f"{log}: has no labels to sweep against, expected a benchmark's run")
        result = _replay_recorded(log, fixed, console)
        _write(json_file, result)
        return 0
    run = KeptRun(folder)
    started_s = time.monotonic()
    if axes:
        fold_of = None
        if folds is not None:
            fold_of = split(swept_clips(run, axes, options, fixed), folds)
        grid = sweep(run, axes, options, fixed, fold_of)
        fitted = None if fold_of is None else cross_fit(grid, fold_of, options)
        wall_s = time.monotonic() - started_s
        print_grid(grid, options, console)
        if fitted is not None:
            print_cross_fit(fitted, options, console)
        elif grid.nearest is not None:
            console.print(
                "Chosen on these very clips, so it looks better than it is: --folds 2 scores it on others.",
                style="dim",
            )
        times, speed = len(grid.cells), len(grid.cells) * run.video_s / max(wall_s, 1e-9)
        console.print(
            f"{times} replays of {run.video_s / 60:.1f} min in {wall_s:.2f} s ({speed:,.0f} × real time)",
            style="dim",
        )
        _write(json_file, grid_document(grid, options, fitted))
        if chart is not None:
            _write_text(chart, sweep_chart(grid, options.target))
    else:
        evaluation, denser_s = run.replay(fixed, options)
        wall_s = time.monotonic() - started_s
        print_report(evaluation, wall_s, console)
        _print_denser(denser_s, run.video_s, console)
        _write(json_file, _document(evaluation, wall_s, fixed))
    return 0


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(
            f"--set {text}: expected SCENARIO.PARAMETER=VALUE, as fire.raise_after=3s"
        )
    return key, value


def _print_denser(denser_s: Mapping[str, float], video_s: float, console: Console) -> None:
    for scenario, seconds in sorted(denser_s.items()):
        if seconds > DENSER_SHARE * video_s:
            console.print(
                f"{scenario} would have looked more often than the log did for {seconds:.0f} s: "
                "run the benchmark to be sure",
                style="yellow",
            )


def _document(evaluation: Evaluation, wall_s: float, fixed: Sequence[Setting]) -> dict[str, Any]:
    replayed = {setting.key: setting.text for setting in fixed}
    return document(evaluation, wall_s) | {"replay": replayed}


def _write(json_file: Path | None, data: Mapping[str, Any]) -> None:
    if json_file is not None:
        _write_text(json_file, json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def _write_text(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error


# -- what a daemon recorded --------------------------------------------------------------------------------------------


def _replay_recorded(log: Path, settings: Sequence[Setting], console: Console) -> dict[str, Any]:
    """Alarms with the recorded parameters against those with other ones; there are no labels to judge them by."""
    files = log_files(log)
    if not files:
        raise ConfigError(f"{log}: found neither {RUN_NAME} nor a log (*{SUFFIX})")
    table = Table(title="Alarms", title_justify="left")
    for name in ("camera", "scenario", "then", "now", "gone", "new"):
        table.add_column(name, justify="left" if name in ("camera", "scenario") else "right")
    rows: dict[tuple[str, str], tuple[set[_Alarm], set[_Alarm]]] = {}
    seconds, zone = 0.0, ZoneInfo("UTC")
    started_s = time.monotonic()
    for file in files:
        kept = read_log(file)
        camera, timezone = camera_of_header(kept.header, file)
        zone = ZoneInfo(timezone)
        config = Config.model_validate(
            {"site": {"id": "replay", "timezone": timezone}, "cameras": ()}
        )
        ready = Replayable.of(kept, camera, config)
        if ready.entries:
            seconds += ready.entries[-1][0].t - ready.entries[0][0].t
        known: Collection[str] = ()
        for index, chosen in enumerate(((), tuple(settings))):
            replayed = replay(ready, chosen)
            if index:
                replayed.check(chosen, known)
            known = replayed.faults
            for change in replayed.changes:
                if change.kind is ChangeKind.RAISED:
                    key = change.key.camera_id, change.key.scenario
                    rows.setdefault(key, (set(), set()))[index].add(_alarm(change))
    wall_s = time.monotonic() - started_s
    for (camera_id, scenario), (then, now) in sorted(rows.items()):
        counts = (len(then), len(now), len(_apart(then, now)), len(_apart(now, then)))
        table.add_row(camera_id, scenario, *map(str, counts))
    console.print(table)
    differences: list[dict[str, Any]] = []
    for (camera_id, scenario), (then, now) in sorted(rows.items()):
        for word, alarms in (("gone", _apart(then, now)), ("new", _apart(now, then))):
            for subject, since, t in sorted(alarms, key=lambda alarm: alarm[2]):
                moment = datetime.fromtimestamp(t, zone).strftime("%Y-%m-%d %H:%M:%S")
                console.print(f"  {word:4}  {moment}  {camera_id}  {scenario}  {subject}")
                differences.append(
                    {"what": word, "camera": camera_id, "scenario": scenario}
                    | {"subject": subject, "since": since, "t": t}
                )
    console.print(
        f"{seconds / 3600:.2f} camera-hours in {wall_s:.2f} s, twice "
        f"({2 * seconds / wall_s if wall_s > 0 else 0.0:,.0f} × real time)",
        style="dim",
    )
    return {
        "schema": 1,
        "settings": {setting.key: setting.text for setting in settings},
        "camera_hours": seconds / 3600,
        "alarms": [
            {"camera": c, "scenario": s, "then": len(then), "now": len(now)}
            for (c, s), (then, now) in sorted(rows.items())
        ],
        "differences": differences,
    }


_Alarm = tuple[str, float, float]  # subject, since, t


def _alarm(change: Change) -> _Alarm:
    return change.key.subject, change.since, change.t


def _apart(alarms: set[_Alarm], others: set[_Alarm]) -> list[_Alarm]:
    """Alarms without one of the same subject and beginning among the others; when it was raised does not matter."""
    known = {(subject, since) for subject, since, _ in others}
    return [alarm for alarm in alarms if alarm[:2] not in known]
