"""`gridwatch benchmark`: from clips to a report and an exit status."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from rich.console import Console

from benchmarks.compare import compare, load_document
from benchmarks.evaluation import Evaluation, Options, evaluate
from benchmarks.report import write_report
from benchmarks.report_csv import write_alarms
from benchmarks.report_json import document
from benchmarks.report_junit import junit
from benchmarks.report_text import print_comparison, print_report
from benchmarks.score import VerdictValue
from benchmarks.texts import Language
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
    report: Path | None = None,
    csv_file: Path | None = None,
    junit_file: Path | None = None,
    baseline: Path | None = None,
    language: Language = "en",
) -> int:
    """Run the clips, print the report, write what is asked for.

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
        report: Folder for the page and all the files beside it.
        csv_file: Where a table of alarms and misses goes.
        junit_file: Where the JUnit XML goes.
        baseline: JSON document of an earlier run to compare with.
        language: Of the text, and in which the page opens.

    Returns:
        0, or 1 where the gate is not passed.

    Raises:
        ConfigError: if clips, settings or a label file cannot be used at all.
    """
    for file in (json_file, csv_file, junit_file, report):
        if file is not None and not file.absolute().parent.is_dir():
            raise ConfigError(f"{file}: found no folder {file.parent}, expected one to write to")
    before = None if baseline is None else load_document(baseline)
    options = Options(target, window_s, rate_per_hour, workers or os.cpu_count() or 1, work, fresh)
    started_s = time.monotonic()
    evaluation = evaluate(paths, settings, options)
    wall_s = time.monotonic() - started_s
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    print_report(evaluation, wall_s, console, language)
    result = document(evaluation, wall_s)
    result["comparison"] = None
    if before is not None:
        comparison = compare(before, result)
        print_comparison(comparison, console, language)
        result["comparison"] = asdict(comparison)
    _write(json_file, json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    _write(csv_file, write_alarms(result))
    _write(junit_file, junit(result))
    if report is not None:
        page = write_report(report, result, evaluation.clips, language)
        console.print(str(page), markup=False, soft_wrap=True)
    return 0 if gate is None or passes(evaluation, gate) else 1


def _write(file: Path | None, text: str) -> None:
    if file is None:
        return
    try:
        file.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error


def passes(evaluation: Evaluation, gate: Gate) -> bool:
    """Whether every clip was scored and the verdict on the most telling kind of clips is good enough."""
    if evaluation.headline is None or not evaluation.complete:
        return False
    good = {VerdictValue.PROVEN} if gate == "proven" else {VerdictValue.PROVEN, VerdictValue.MET}
    return evaluation.headline[1].overall.verdict.value in good
