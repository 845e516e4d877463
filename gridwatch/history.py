"""`gridwatch tickets history`: the audit trail of a ticket, from the store of the host that raised it."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from alerts.store import Event, Store
from alerts.tickets import Ticket
from gridwatch.config import Config, load_config
from gridwatch.present import Language, say
from pipeline.exceptions import CommandError, ConfigError, StoreError

__all__ = ["print_history", "stored_ticket"]


def stored_ticket(config: Config, text: str) -> Ticket | None:
    """The one ticket of this host's store whose id ends so, open or not; None if there is no store or no such ticket.

    Raises:
        CommandError: code ``ambiguous``, if there are several.
    """
    try:
        with Store(config.database_url(), read_only=True) as store:
            exact = store.ticket(text.upper())
            if exact is not None:
                return exact
            found = [one for one in store.tickets() if one.id.endswith(text.upper())]
    except StoreError:
        return None
    if len(found) > 1:
        raise CommandError(
            f"ticket {text!r}: found {len(found)}; expected more of the id", code="ambiguous"
        )
    return found[0] if found else None


def print_history(file: Path | None, text: str, language: str | None) -> None:
    """Print who did what to a ticket, when and from where.

    Raises:
        ConfigError: without a cameras.yaml, for the trail is in its host's store.
        CommandError: code ``unknown_ticket`` or ``ambiguous``.
    """
    if file is None:
        raise ConfigError("expected --config cameras.yaml: the history is in its host's store")
    config = load_config(file)
    ticket = stored_ticket(config, text)
    if ticket is None:
        raise CommandError(
            f"ticket {text!r}: found none in {config.host}'s store", code="unknown_ticket"
        )
    words: Language = "en" if (language or config.site.language) == "en" else "zh"
    with Store(config.database_url(), read_only=True) as store:
        events = store.events(ticket.id)
    table = Table(box=None, header_style="bold dim", pad_edge=False, title=ticket.id)
    for word in ("time", "version", "what", "who", "from", "detail"):
        table.add_column(say(word, words), overflow="fold")
    for event in events:
        moment = datetime.fromtimestamp(event.t, config.timezone)
        table.add_row(
            moment.strftime("%Y-%m-%d %H:%M:%S"),
            str(event.version),
            Text(say(event.kind, words)),
            Text(event.who),
            Text(event.source),
            Text(_detail(event)),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _detail(event: Event) -> str:
    return "  ".join(
        f"{name}={value}" for name, value in event.document.items() if name != "command_id"
    )
