"""What every part of the page shares, and how a page is rendered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import resources

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup
from prometheus_client import CollectorRegistry

from console.database import Database
from console.hub import Hub
from console.mirror import Mirror
from console.queries import Counts, TicketReader, TicketRow
from console.settings import ConsoleSettings, Language
from console.users import Role, User, UserStore
from console.view import age, span
from console.words import LANGUAGES, negotiate, say
from gridwatch.config import Config

__all__ = ["Console", "NavEntry", "console_of", "language_of", "local_time", "page", "render"]

LANGUAGE_COOKIE = "gridwatch_language"


@dataclass(frozen=True, slots=True)
class NavEntry:
    """A link in the head of every page.

    Attributes:
        word: Key of its name.
        role: Who sees it.
    """

    path: str
    word: str
    role: Role = Role.VIEWER


@dataclass(eq=False)
class Console:
    """The parts of one console process; on ``app.state.console``."""

    settings: ConsoleSettings
    database: Database
    mirror: Mirror | None
    tickets: TicketReader
    users: UserStore
    clock: Callable[[], float]
    csrf_key: bytes
    registry: CollectorRegistry
    navigation: tuple[NavEntry, ...] = ()
    hub: Hub = field(init=False)

    def __post_init__(self) -> None:
        self.environment = _environment(self)
        self.hub = Hub(self.tickets, self._row, self._counts, self.clock)

    def reload(self, config: Config) -> None:
        """Show what another content of cameras.yaml says, and tell the pages."""
        self.settings = self.settings.showing(config)
        if self.mirror is not None:
            self.mirror.reload(self.settings)
        self.hub.publish("config")

    def render(self, template: str, language: Language, **values: object) -> str:
        """A template in a language."""
        return self.environment.get_template(template).render(
            settings=self.settings,
            language=language,
            _=lambda key, **said: say(language, key, **said),
            _scenario=lambda name: _scenario(language, name),
            **values,
        )

    def _row(self, row: TicketRow, language: Language) -> str:
        return self.render("_row.html", language, row=row)

    def _counts(self, counts: Counts, language: Language) -> str:
        return self.render("_counts.html", language, counts=counts)


def console_of(request: Request) -> Console:
    """The console that a request reached."""
    found: Console = request.app.state.console
    return found


def language_of(request: Request) -> Language:
    """The language of a page: chosen, asked for by the browser, or the console's."""
    for chosen in (request.query_params.get("lang"), request.cookies.get(LANGUAGE_COOKIE)):
        for language in LANGUAGES:
            if chosen == language:
                return language
    return negotiate(
        request.headers.get("accept-language", ""), console_of(request).settings.language
    )


def render(request: Request, template: str, /, **values: object) -> str:
    """A template with what every page needs: user, language, csrf, navigation."""
    from console.auth import csrf_token

    console = console_of(request)
    user: User | None = getattr(request.state, "user", None)
    token = csrf_token(request)
    return console.render(
        template,
        language_of(request),
        **{
            "request": request,
            "user": user,
            "role": user.role.value if user else "",
            "csrf": token,
            "csrf_field": Markup('<input type="hidden" name="csrf" value="{}">').format(token),
            "navigation": [
                entry for entry in console.navigation if user is not None and user.may(entry.role)
            ],
            "path": request.url.path,
            "is_wall": request.query_params.get("wall") == "1",
            "connected": console.mirror is not None and console.mirror.connected,
            **values,
        },
    )


def page(
    request: Request, template: str, /, status_code: int = 200, **values: object
) -> HTMLResponse:
    """A rendered page as the answer to a request."""
    return HTMLResponse(render(request, template, **values), status_code)


def local_time(console: Console, value: float | datetime) -> datetime:
    """A moment, or seconds since the epoch, in the site's time zone."""
    moment = value if isinstance(value, datetime) else datetime.fromtimestamp(value, UTC)
    return moment.astimezone(console.settings.timezone)


def _environment(console: Console) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def local(value: float | datetime) -> datetime:
        return local_time(console, value)

    def day(value: float | datetime) -> str:
        moment, now = local(value), local(console.clock())
        return "" if moment.date() == now.date() else f"{moment:%m-%d} "

    environment.filters.update(
        clock=lambda value: f"{local(value):%H:%M:%S}",
        day_clock=lambda value: f"{day(value)}{local(value):%H:%M:%S}",
        moment=lambda value: f"{local(value):%Y-%m-%d %H:%M:%S}",
        iso=lambda value: local(value).isoformat(timespec="milliseconds"),
        ago=lambda value: age(max(0.0, console.clock() - local(value).timestamp())),
        span=span,
        json=lambda value: Markup(  # noqa: S704 - escaped here, for a data block that is never executed
            json.dumps(value, ensure_ascii=False)
            .replace("&", "\\u0026")
            .replace("<", "\\u003c")
            .replace(">", "\\u003e")
        ),
        grid_name=_grid_name,
    )
    environment.globals.update(static=_static)
    return environment


@jinja2.pass_context
def _grid_name(context: jinja2.runtime.Context, path: str) -> str:
    settings: ConsoleSettings = context["settings"]
    levels = path.split("/")
    paths = ["/".join(levels[: n + 1]) for n in range(len(levels))]
    return " › ".join(
        settings.grid_name(one, level, context["language"])
        for one, level in zip(paths, levels, strict=True)
    )


def _scenario(language: Language, name: str) -> str:
    key = f"scenario.{name}"
    word = say(language, key)
    return name.replace("_", " ") if word == key else word


@cache
def _static(name: str) -> str:
    file = resources.files("console").joinpath("static", *name.split("/"))
    return f"/static/{name}?v={hashlib.sha256(file.read_bytes()).hexdigest()[:10]}"
