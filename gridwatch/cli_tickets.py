"""Further commands on tickets: dispatch, reopen, reassign, note, history."""

from __future__ import annotations

from typing import Annotated

import typer

from gridwatch.cli_options import (
    BrokerOption,
    ConfigOption,
    Language,
    PhotoOption,
    SiteOption,
    UserOption,
)

__all__ = ["add_commands"]

Id = Annotated[str, typer.Argument(help="The ticket's id or its unambiguous end.")]
Note = Annotated[str, typer.Option(help="What the next one should know.")]


def add_commands(app: typer.Typer) -> None:
    """Register the commands on `gridwatch tickets`."""
    app.command("dispatch")(_dispatch)
    app.command("reopen")(_reopen)
    app.command("reassign")(_reassign)
    app.command("note")(_note)
    app.command("history")(_history)


def _dispatch(
    ticket: Id,
    to: Annotated[str, typer.Option(help="Who goes: a person's id is called, too.")] = "",
    note: Note = "",
    config: ConfigOption = None,
    broker: BrokerOption = None,
    site: SiteOption = None,
    user: UserOption = None,
) -> None:
    """Dispatch a ticket: somebody is on the way."""
    from gridwatch.watch import command_ticket, feed_settings

    command_ticket(
        feed_settings(config, broker, site, user), ticket, "dispatch", note=note, to=to or None
    )


def _reopen(
    ticket: Annotated[
        str, typer.Argument(help="The whole id; on its host, with --config, its end is enough.")
    ],
    note: Note = "",
    config: ConfigOption = None,
    broker: BrokerOption = None,
    site: SiteOption = None,
    user: UserOption = None,
) -> None:
    """Open a disposed ticket again."""
    from gridwatch.watch import command_ticket, feed_settings

    settings = feed_settings(config, broker, site, user)
    command_ticket(settings, ticket, "reopen", note=note, config=config)


def _reassign(
    ticket: Id,
    grid: Annotated[str, typer.Option(help="Path of the grid that has it from now on.")],
    note: Note = "",
    config: ConfigOption = None,
    broker: BrokerOption = None,
    site: SiteOption = None,
    user: UserOption = None,
) -> None:
    """Hand a ticket to another grid; there it waits for somebody to acknowledge it."""
    from gridwatch.watch import command_ticket, feed_settings

    settings = feed_settings(config, broker, site, user)
    command_ticket(settings, ticket, "reassign", note=note, grid=grid)


def _note(
    ticket: Id,
    note: Annotated[str, typer.Argument(help="What the next one should know.")],
    photo: PhotoOption = None,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    site: SiteOption = None,
    user: UserOption = None,
) -> None:
    """Write a note on a ticket, with photos if there are any."""
    from gridwatch.watch import command_ticket, feed_settings

    settings = feed_settings(config, broker, site, user)
    command_ticket(settings, ticket, "note", note=note, photos=photo or ())


def _history(
    ticket: Id,
    config: ConfigOption = None,
    lang: Annotated[
        Language | None,
        typer.Option("--lang", "-l", help="Language of the table; the site's by default."),
    ] = None,
) -> None:
    """Who did what to a ticket, when and from where; on the host that raised it."""
    from gridwatch.history import print_history

    print_history(config, ticket, lang.value if lang else None)
