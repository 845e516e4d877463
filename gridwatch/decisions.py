"""`gridwatch decisions`: why a candidate became an alarm, or did not, from the host's store beside a running daemon."""

from __future__ import annotations

import sys
import time
from datetime import datetime, tzinfo
from pathlib import Path

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from alerts.rules import Decision
from alerts.store import Store
from gridwatch.accuracy_view import since_of
from gridwatch.config import load_config
from gridwatch.present import Language, plain, say
from pipeline.exceptions import ConfigError

__all__ = ["decision_table", "print_decisions"]

_OUTCOME_STYLE = {"raised": "bold red", "suppressed": "yellow", "cleared": "green"}


def print_decisions(
    file: Path,
    *,
    camera: str | None = None,
    scenario: str | None = None,
    outcome: str | None = None,
    since: str | None = None,
    limit: int = 50,
    language: str | None = None,
    as_json: bool = False,
) -> None:
    """Print decision records, the newest last, as a table or one JSON document per line.

    Args:
        file: cameras.yaml; its host's store is read and nothing is written.
        camera: A camera's id; None for all.
        scenario: A scenario's identifier; None for all.
        outcome: ``raised``, ``suppressed`` or ``cleared``; None for all.
        since: A date or a duration back from now, see `since_of`; None for all that are kept.
        limit: At most so many, the newest.
        language: ``zh`` or ``en``; the site's by default.
        as_json: One document per line in place of the table.

    Raises:
        ConfigError: if the file is wrong, it has no such camera, or `since` says nothing.
        StoreError: if there is no store, or it cannot be read.
    """
    config = load_config(file)
    known = [one.id for one in config.cameras]
    if camera is not None and camera not in known:
        raise ConfigError(f"--camera: found {camera!r}, expected one of {', '.join(known)}")
    t_from = None if since is None else since_of(since, time.time(), config.timezone)
    with Store(config.database_url(), read_only=True) as store:
        newest = store.decisions(
            camera_id=camera, scenario=scenario, outcome=outcome, t_from=t_from, limit=limit
        )
    records = newest[::-1]
    if as_json:
        for record in records:
            sys.stdout.write(record.model_dump_json() + "\n")
        return
    spoken: Language = config.site.language
    if language is not None:
        spoken = "en" if language == "en" else "zh"
    # Into a pipe or a file there is no width to keep to.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(decision_table(records, spoken, config.timezone))


def decision_table(records: list[Decision], language: Language, zone: tzinfo) -> RenderableType:
    """The records in their order: when, where, what came of the candidate, and why."""
    if not records:
        return Text(say("none_decided", language), style="green")
    table = Table(box=None, header_style="bold dim", pad_edge=False)
    for word in ("time", "camera", "scenario", "outcome", "code", "held", "known", "why"):
        right = word in ("held", "known")
        table.add_column(
            say(word, language), justify="right" if right else "left", no_wrap=word != "why"
        )
    for record in records:
        table.add_row(
            datetime.fromtimestamp(record.t, zone).strftime("%m-%d %H:%M:%S"),
            Text(plain(record.camera_id)),
            Text(plain(record.scenario)),
            Text(say(record.outcome, language), style=_OUTCOME_STYLE[record.outcome]),
            Text(plain(record.code)),
            f"{record.held_s:.1f} s",
            f"{record.known_s:.1f} s",
            Text(plain(record.reason), overflow="fold"),
        )
    return table
