"""`gridwatch benchmark`: from clips to a report and an exit status."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from benchmarks.evaluation import Evaluation, Options, evaluate
from benchmarks.report_json import document
from benchmarks.report_text import print_report
from benchmarks.score import VerdictValue
from pipeline.exceptions import ConfigError

__all__ = ["Gate", "passes", "run_benchmark"]

Gate = Literal["proven", "met"]
PLAIN_WIDTH = 200  # of a report that goes into a file: its tables must not be cut at 80 columns


def run_benchmark(
    paths: Sequence[Path],
    *,
    settings: Path | None,
    target: float,
    window_s: float,
    rate_per_hour: float | None,
    workers: int,
    json_file: Path | None,
    gate: Gate | None,
    work: Path | None = None,
    fresh: bool = False,
) -> int:
    """Run the clips, print the report, write the JSON document.

    Args:
        paths: Video files and folders of them.
        settings: A cameras.yaml with settings for the clips.
        target: Share of true alarms that is asked for.
        window_s: How long after an event's end its alarm may come.
        rate_per_hour: Events per camera-hour to project the accuracy to.
        workers: Number of processes; 0 for one per core.
        json_file: Where the JSON document goes.
        gate: Which verdict is needed for a status of 0.
        work: Folder for results and detection logs; None keeps nothing.
        fresh: Analyse every clip again, whatever `work` holds.

    Returns:
        0, or 1 where the gate is not passed.

    Raises:
        ConfigError: if clips, settings or a label file cannot be used at all.
    """
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise ConfigError(
            f"{json_file}: found no folder {json_file.parent}, expected one to write to"
        )
    options = Options(target, window_s, rate_per_hour, workers or os.cpu_count() or 1, work, fresh)
    started_s = time.monotonic()
    evaluation = evaluate(paths, settings, options)
    wall_s = time.monotonic() - started_s
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    print_report(evaluation, wall_s, console)
    if json_file is not None:
        text = json.dumps(document(evaluation, wall_s), ensure_ascii=False, indent=1)
        try:
            json_file.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{json_file}: cannot be written: {error.strerror}") from error
    return 0 if gate is None or passes(evaluation, gate) else 1


def passes(evaluation: Evaluation, gate: Gate) -> bool:
    """Whether every clip was scored and the verdict on the most telling kind of clips is good enough."""
    if evaluation.headline is None or not evaluation.complete:
        return False
    good = {VerdictValue.PROVEN} if gate == "proven" else {VerdictValue.PROVEN, VerdictValue.MET}
    return evaluation.headline[1].overall.verdict.value in good
