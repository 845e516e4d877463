"""`gridwatch models`: what is registered, and whether the files are what the registry says."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.analyse.detector import Detector
from pipeline.analyse.weights import load_registry, verify
from pipeline.exceptions import ModelError

__all__ = ["list_models", "verify_models"]


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
