"""`gridwatch watch` and `gridwatch tickets`: the feed in a terminal, and what operators do with it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import Self
from zoneinfo import ZoneInfo

from pydantic import SecretStr, ValidationError
from rich.console import Console
from rich.text import Text

from alerts.connection import BrokerSettings
from alerts.feed import Feed, News
from alerts.tickets import PHOTO_BYTES, Action, Outcome, Ticket
from alerts.topics import Topics
from gridwatch.config import load_config
from gridwatch.history import stored_ticket
from gridwatch.present import Language, camera_line, say, ticket_line, ticket_panel, ticket_table
from pipeline.exceptions import CommandError, ConfigError

__all__ = [
    "FeedSettings",
    "FeedView",
    "command_ticket",
    "feed_settings",
    "print_tickets",
    "show_ticket",
    "watch_feed",
]

SYNC_S = 10.0
ID_CHARACTERS = 26


@dataclass(frozen=True, slots=True)
class FeedSettings:
    """Which feed to read, and how to show it."""

    site: str
    broker: BrokerSettings
    timezone: tzinfo
    language: Language
    user: str = "operator"


class FeedView:
    """Prints the news of a feed as they come; use it as a context manager.

    Attributes:
        seen: Newest version of every ticket that was shown, by id.
    """

    def __init__(self, settings: FeedSettings, language: str | None, console: Console) -> None:
        self._feed = Feed(settings.broker, Topics(settings.site), settings.user)
        self._zone = settings.timezone
        self._language: Language = _language(language, settings)
        self._console = console
        self._statuses: dict[tuple[str, str], tuple[str, str]] = {}
        self.seen: dict[str, Ticket] = {}

    def __enter__(self) -> Self:
        self._feed.__enter__()
        self._feed.wait_until_synced(SYNC_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._feed.__exit__()

    def follow(self, seconds: float) -> None:
        """Print what comes within `seconds`."""
        deadline = time.monotonic() + seconds
        while (left_s := deadline - time.monotonic()) > 0:
            news = self._feed.news(left_s)
            if news is not None:
                self._show(news)

    def _show(self, news: News) -> None:
        if news.ticket is not None:
            before = self.seen.get(news.subject)
            self.seen[news.subject] = news.ticket
            line = ticket_line(news.ticket, self._language, self._zone, before)
            self._console.print(line)
        elif news.status is not None:
            now = (
                str(news.status.get("state", news.status.get("status", "?"))),
                str(news.status.get("reason") or ""),
            )
            if self._statuses.get((news.kind, news.subject)) != now:
                self._statuses[news.kind, news.subject] = now
                line = camera_line(news.kind, news.subject, *now, self._language)
                self._console.print(line)


def feed_settings(
    config: Path | None, broker: str | None, site: str | None, user: str | None
) -> FeedSettings:
    """Where the feed is, from a cameras.yaml or from options.

    Raises:
        ConfigError: if neither says enough.
    """
    if config is not None:
        loaded = load_config(config)
        return FeedSettings(
            site or loaded.site.id,
            loaded.broker if broker is None else _broker(broker, user),
            loaded.timezone,
            loaded.site.language,
            user or loaded.broker.username or "operator",
        )
    if site is None:
        raise ConfigError("expected --config cameras.yaml, or --site with --broker; found neither")
    zone = ZoneInfo(os.environ.get("TZ") or "Asia/Shanghai")
    return FeedSettings(site, _broker(broker or "localhost", user), zone, "zh", user or "operator")


def watch_feed(settings: FeedSettings, language: str | None) -> None:
    """Print the feed until Ctrl-C."""
    console = Console(highlight=False, soft_wrap=True)
    with FeedView(settings, language, console) as view:
        console.print(
            f"{settings.broker.address} · {settings.site} · {say('listening', _language(language, settings))}",
            style="dim",
            markup=False,
        )
        try:
            while True:
                view.follow(60.0)
        except KeyboardInterrupt:
            return


def print_tickets(settings: FeedSettings, language: str | None, *, as_json: bool) -> None:
    """Print the open tickets."""
    with _synced(settings) as feed:
        tickets = list(feed.tickets.values())
    if as_json:
        for ticket in sorted(tickets, key=lambda one: one.id):
            sys.stdout.write(ticket.to_json() + "\n")
        return
    _console().print(ticket_table(tickets, _language(language, settings), settings.timezone))


def show_ticket(settings: FeedSettings, text: str, language: str | None, *, as_json: bool) -> None:
    """Print one open ticket."""
    with _synced(settings) as feed:
        ticket = feed.find(text)
    if as_json:
        sys.stdout.write(ticket.to_json() + "\n")
        return
    _console().print(ticket_panel(ticket, _language(language, settings), settings.timezone))


def command_ticket(
    settings: FeedSettings,
    text: str,
    action: str,
    *,
    outcome: str | None = None,
    note: str = "",
    to: str | None = None,
    grid: str | None = None,
    photos: Sequence[Path] = (),
    config: Path | None = None,
) -> None:
    """Send a command and print the answer.

    Args:
        settings: The feed.
        text: The ticket's id or its end.
        action: One of `Action`.
        outcome: For dispose.
        note: For the next one.
        to: For dispatch.
        grid: For reassign.
        photos: Files, for dispose and note.
        config: Where the end of a disposed ticket's id is looked up; the feed has open ones alone.

    Raises:
        CommandError: if the host refused it, or did not answer, or a photo cannot be read.
    """
    pictures = [_photo(file) for file in photos]
    with _synced(settings) as feed:
        ticket: Ticket | str = _closed(text, config) if action == "reopen" else feed.find(text)
        reply = feed.command(
            ticket,
            Action(action),
            outcome=Outcome(outcome) if outcome else None,
            note=note,
            to=to,
            grid=grid,
            photos=pictures,
        )
    if reply is None:
        who = f"host {ticket.host}" if isinstance(ticket, Ticket) else "no host"
        told = "did not answer" if isinstance(ticket, Ticket) else "answered"
        name = ticket.id if isinstance(ticket, Ticket) else ticket
        raise CommandError(f"ticket {name}: {who} {told}; nothing has changed", code="no_answer")
    if not reply.ok:
        raise CommandError(f"{reply.message} ({reply.code})", code=reply.code)
    Console(highlight=False).print(Text.assemble(("✓ ", "green"), reply.message))


def _closed(text: str, config: Path | None) -> Ticket | str:
    """A ticket that may be closed: by its whole id, or by its end in the store of this host."""
    if len(text) == ID_CHARACTERS:
        return text.upper()
    found = stored_ticket(load_config(config), text) if config is not None else None
    if found is None:
        raise CommandError(
            f"ticket {text!r}: is no whole id and is not in a store here; "
            f"expected its {ID_CHARACTERS} characters",
            code="unknown_ticket",
        )
    return found


def _photo(file: Path) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CommandError(
            f"photo {file}: cannot be read: {error.strerror}", code="malformed"
        ) from error
    if len(data) > PHOTO_BYTES:
        raise CommandError(
            f"photo {file}: has {len(data)} bytes, expected at most {PHOTO_BYTES}", code="malformed"
        )
    return data


def _console() -> Console:
    # Into a pipe or a file there is no width to keep to, and a cut id is of no use.
    return Console(width=None if sys.stdout.isatty() else 160)


def _synced(settings: FeedSettings) -> _Synced:
    return _Synced(Feed(settings.broker, Topics(settings.site), settings.user))


class _Synced:
    """A feed that has received what is retained."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __enter__(self) -> Feed:
        self._feed.__enter__()
        try:
            self._feed.wait_until_synced(SYNC_S)
        except BaseException:
            self._feed.__exit__()
            raise
        return self._feed

    def __exit__(self, *_: object) -> None:
        self._feed.__exit__()


def _broker(text: str, user: str | None) -> BrokerSettings:
    host, _, port = text.rpartition(":") if ":" in text else (text, "", "1883")
    password = os.environ.get("GRIDWATCH_PASSWORD")
    try:
        return BrokerSettings(
            host=host,
            port=int(port),
            username=user if password else None,
            password=SecretStr(password) if password else None,
        )
    except (ValidationError, ValueError):
        raise ConfigError(f"--broker {text}: expected HOST or HOST:PORT") from None


def _language(asked: str | None, settings: FeedSettings) -> Language:
    if asked is None:
        return settings.language
    return "en" if asked == "en" else "zh"
