"""A sweep's table, the honest figures beside it, and both as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.crossfit import Choice, CrossFit
from benchmarks.evaluation import Options
from benchmarks.figures import Breakdown
from benchmarks.score import Score
from benchmarks.sweep import Cell, Grid

__all__ = ["grid_document", "print_cross_fit", "print_grid"]


def print_grid(grid: Grid, options: Options, console: Console) -> None:
    """The table of a sweep and the best setting that keeps the target."""
    table = Table(title=grid.title, title_justify="left")
    for key in grid.axes:
        table.add_column(key, justify="right")
    for name in ("accuracy", "≥ (95 %)", "found/events", "false/h", "delay p50", ""):
        table.add_column(name, justify="right")
    for cell in grid.cells:
        style = "bold green" if cell is grid.best else ""
        figures = ["undefined"] * 5 if cell.score is None else list(_brief(cell.score))
        denser = "*" if cell.denser_s > 0 else ""
        table.add_row(*(s.text for s in cell.settings), *figures, denser, style=style)
    console.print(table)
    target = f"{options.target:.1%}"
    best, nearest = grid.best, grid.nearest
    if best is not None and best.score is not None:
        proven = "proven" if best.score.verdict.further_needed is None else "not proven"
        console.print(f"Best that keeps {target} ({proven}): {best.words}")
    elif nearest is not None and nearest.score is not None and nearest.score.accuracy is not None:
        console.print(
            f"No setting keeps {target}; the nearest is {nearest.words} "
            f"with {nearest.score.accuracy:.1%}"
        )
    else:
        console.print("No setting raised an alarm")
    if any(cell.denser_s > 0 for cell in grid.cells):
        console.print(
            "* would have looked more often than the log did; run the benchmark to be sure",
            style="dim",
        )
    if grid.problems:
        console.print(
            f"Clips with problems: {grid.problems}; a replay without --sweep names them",
            style="red",
        )


def print_cross_fit(fitted: CrossFit, options: Options, console: Console) -> None:
    """What the best setting is worth on clips that it was not chosen on, and whether the folds agree on it."""
    table = Table(title=f"Cross-fitted, {len(fitted.folds)} folds", title_justify="left")
    for name in ("scored on", "setting"):
        table.add_column(name)
    for name in ("accuracy", "≥ (95 %)", "groups ≥", "found/events", "false/h", "delay p50/p95"):
        table.add_column(name, justify="right")
    chosen = fitted.in_sample
    table.add_row("the clips that chose it", chosen.cell.words, *_full(chosen.figures.overall))
    table.add_row(
        "held-out clips", "as its fold chose", *_full(fitted.held_out.overall), style="bold"
    )
    if len(fitted.held_out.scenarios) > 1:
        for scenario, score in fitted.held_out.scenarios.items():
            table.add_row(f"  {scenario}", "", *_full(score))
    for number, fold in enumerate(fitted.folds, 1):
        where = f"  fold {number} ({len(fold.groups)} groups)"
        table.add_row(where, fold.choice.cell.words, *_full(fold.held_out.overall), style="dim")
    console.print(table)
    for number, fold in enumerate(fitted.folds, 1):
        if not fold.choice.keeps_target:
            console.print(
                f"Fold {number}: no setting keeps {options.target:.1%} on the other clips; the nearest was taken",
                style="yellow",
            )
    if fitted.agree:
        console.print("All folds choose the same setting, which all clips choose too.")
    else:
        console.print(
            "The folds disagree: which setting is best depends on the clips; more clips would tell.",
            style="yellow",
        )


def _brief(score: Score) -> Iterator[str]:
    yield _percent(score.accuracy)
    yield _percent(score.accuracy_lower)
    yield f"{score.events - score.missed}/{score.events}"
    yield "undefined" if score.false_per_hour is None else f"{score.false_per_hour:.2f}"
    yield _seconds(score.delay_p50_s)


def _full(score: Score) -> Iterator[str]:
    accuracy, lower, found, false, delay = _brief(score)
    yield from (accuracy, lower, _percent(score.accuracy_bootstrap_lower), found, false)
    yield delay if score.delay_p95_s is None else f"{delay[:-2]}/{_seconds(score.delay_p95_s)}"


def _percent(share: float | None) -> str:
    return "undefined" if share is None else f"{share:.1%}"


def _seconds(delay_s: float | None) -> str:
    return "undefined" if delay_s is None else f"{delay_s:.1f} s"


def grid_document(grid: Grid, options: Options, fitted: CrossFit | None = None) -> dict[str, Any]:
    """A sweep as JSON, with its cross-fitted figures where there are any."""
    best = grid.best
    return {
        "schema": 2,
        "axes": {key: list(values) for key, values in grid.axes.items()},
        "scenarios": list(grid.scenarios),
        "kind": grid.kind,
        "target": options.target,
        "problems": grid.problems,
        "cells": [
            {
                "settings": _settings(cell),
                "keeps_target": cell.keeps_target,
                "denser_s": round(cell.denser_s, 1),
                "score": None if cell.score is None else asdict(cell.score),
            }
            for cell in grid.cells
        ],
        "best": None if best is None else _settings(best),
        "cross_fit": None if fitted is None else _cross_fit(fitted),
    }


def _cross_fit(fitted: CrossFit) -> dict[str, Any]:
    return {
        "folds": [
            {
                "groups": list(fold.groups),
                "chosen": _choice(fold.choice),
                "held_out": _figures(fold.held_out),
            }
            for fold in fitted.folds
        ],
        "agree": fitted.agree,
        "held_out": _figures(fitted.held_out),
        "in_sample": _choice(fitted.in_sample),
    }


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "settings": _settings(choice.cell),
        "keeps_target": choice.keeps_target,
        "figures": _figures(choice.figures),
    }


def _figures(figures: Breakdown) -> dict[str, Any]:
    return {
        "clips": figures.clips,
        "overall": asdict(figures.overall),
        "scenarios": {name: asdict(score) for name, score in figures.scenarios.items()},
    }


def _settings(cell: Cell) -> dict[str, str]:
    return {setting.key: setting.text for setting in cell.settings}
