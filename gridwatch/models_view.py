"""`gridwatch models`: what is registered, and whether the files are what the registry says."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import yaml
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from pipeline.analyse.detector import Detector
from pipeline.analyse.weights import load_registry, verify
from pipeline.exceptions import ModelError

__all__ = ["list_models", "register_command", "show_model", "train_command", "verify_models"]


def list_models(registry: Path | None) -> None:
    """Print the registry as a table."""
    table = Table(box=None, header_style="bold dim")
    for heading in ("model", "task", "input", "operating points", "stage", "licence", "sha256"):
        table.add_column(heading, overflow="fold")
    for name, entry in sorted(load_registry(registry).items()):
        height_px, width_px = entry.input_px
        points = "  ".join(f"{c} {t:.2f}" for c, t in entry.operating_points.items())
        table.add_row(
            name, entry.task, f"{width_px}x{height_px}", points, entry.stage, entry.licence, entry.sha256[:12]
        )  # fmt: skip
    Console().print(table)


def verify_models(registry: Path | None) -> bool:
    """Check hash and layout of every model, and print one line each; whether all are well."""
    console = Console(highlight=False, soft_wrap=True)
    well = True
    for name, entry in sorted(load_registry(registry).items()):
        try:
            verify(entry)
            Detector(entry)
        except ModelError as error:
            well = False
            console.print(f"[red]✗[/] {name}: ", end="")
            console.print(str(error), markup=False)
        else:
            console.print(f"[green]✓[/] {name}: sha256 and layout fit the registry")
    return well


def show_model(name: str, registry: Path | None) -> None:
    """Print what is registered about one model, and its card.

    Raises:
        ModelError: there is no model of that name.
    """
    entries = load_registry(registry)
    if name not in entries:
        raise ModelError(
            f"model {name}: found no entry, expected one of {', '.join(sorted(entries))}"
        )
    entry = entries[name]
    height_px, width_px = entry.input_px
    console = Console(highlight=False, soft_wrap=True)
    lines = {
        "task": f"{entry.task}, layout {entry.layout}",
        "input": f"{width_px}x{height_px} px" + (", least rectangle" if entry.dynamic else ""),
        "classes": ", ".join(entry.classes),
        "thresholds": "  ".join(f"{c} {t:.2f}" for c, t in entry.operating_points.items()),
        "stage": entry.stage,
        "licence": entry.licence,
        "sha256": entry.sha256,
        "file": str(entry.path),
    }
    for key, value in lines.items():
        console.print(f"{key:11}{value}", markup=False)
    card = entry.folder / entry.card if entry.card else None
    if card is not None and card.is_file():
        console.print()
        console.print(Markdown(card.read_text(encoding="utf-8")))


def train_command(
    name: str,
    data: Path,
    work: Path,
    out: Path,
    start: Path,
    renders: Path | None,
    *,
    resume: bool,
    int8: bool,
    stage: str,
    options: Sequence[str],
    splits: Sequence[str],
) -> None:
    """Train and register one model in the registry folder `out`.

    Raises:
        ModelError: the extra `train` is not installed, or the data or an option is not as expected.
    """
    if find_spec("ultralytics") is None:
        raise ModelError(
            "models train: found no ultralytics, expected the extra: pip install 'gridwatch[train]'"
        )
    from models.training.assemble import read_splits
    from models.training.workflow import train_model

    extra: dict[str, float | str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise ModelError(f"models train: --set {option}: found no '=', expected KEY=VALUE")
        extra[key] = yaml.safe_load(value)
    try:
        train_model(
            name, data, work, out, start=start, renders=renders, resume=resume, int8=int8,
            stage=stage, options=extra, splits=read_splits(splits),
        )  # fmt: skip
    except ValueError as error:  # a manifest, a label or a picture; the message names the place
        raise ModelError(str(error)) from error


def register_command(
    name: str, checkpoint: Path, dataset: Path, out: Path, *, int8: bool, stage: str
) -> None:
    """Measure a checkpoint of any epoch and register it in the registry folder `out`.

    Raises:
        ModelError: the extra `train` is not installed, or the data is not as expected.
    """
    if find_spec("ultralytics") is None:
        raise ModelError(
            "models register: found no ultralytics, expected the extra: pip install 'gridwatch[train]'"
        )
    from models.training.workflow import register_checkpoint

    try:
        register_checkpoint(name, checkpoint, dataset, out, stage=stage, int8=int8)
    except ValueError as error:
        raise ModelError(str(error)) from error
