"""The web application: its parts, put together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from argon2 import PasswordHasher
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import Scope

from console import auth, cockpit, feed, monitoring, tickets, wall, zones
from console.auth import LoginNeeded, SecureHeaders, check_csrf, current_user
from console.context import Console, NavEntry, page
from console.database import Database
from console.follow import follow_config
from console.mirror import Mirror
from console.queries import TicketReader
from console.relay import Relay
from console.settings import ConsoleSettings
from console.users import Role, UserStore
from pipeline.exceptions import GridwatchError

__all__ = ["create_app"]

ROUTERS = (
    auth.router,
    feed.router,
    cockpit.router,
    wall.router,
    zones.router,
    tickets.router,
    monitoring.router,
)
NAVIGATION = (
    NavEntry("/", "nav.feed"),
    NavEntry("/cockpit", "nav.cockpit"),
    NavEntry("/wall", "nav.wall"),
    NavEntry("/zones", "nav.zones", Role.ADMIN),
    NavEntry("/audit", "nav.audit", Role.ADMIN),
)


class _Assets(StaticFiles):
    """Files whose addresses carry a hash of their content: a browser asks once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        if b"v=" in scope.get("query_string", b""):
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


def create_app(
    settings: ConsoleSettings,
    database: Database,
    mirror: Mirror | None = None,
    clock: Callable[[], float] = time.time,
    *,
    registry: CollectorRegistry | None = None,
    hasher: PasswordHasher | None = None,
) -> FastAPI:
    """The console's web application.

    Args:
        settings: Of the console.
        database: Of the console.
        mirror: Sends commands and fills the database; the caller starts and closes it. None for a page without a feed.
        clock: Seconds since the epoch.
        registry: Of the metrics at ``/metrics``; the mirror's own, so that both show.
        hasher: Of passwords; tests take a cheaper one.

    Returns:
        The application; what its parts share is `Console` at ``app.state.console``.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        relay = None
        if mirror is not None and database.is_shared:
            relay = Relay(database, mirror.instance, console.hub.publish)
            relay.start()
        tasks = [asyncio.create_task(console.hub.run())]
        if settings.config_file is not None:
            tasks.append(asyncio.create_task(follow_config(console, settings.config_file)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            if relay is not None:
                relay.close()

    app = FastAPI(
        title="gridwatch console",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        dependencies=[Depends(check_csrf)],
    )
    console = Console(
        settings,
        database,
        mirror,
        TicketReader(database),
        UserStore(database, hasher),
        clock,
        database.secret("csrf"),
        registry or CollectorRegistry(),
    )
    app.state.console = console
    if mirror is not None:
        mirror.on_change = console.hub.publish
    app.mount("/static", _Assets(directory=_static_folder()))
    for router in ROUTERS:
        app.include_router(router)
    paths = {getattr(route, "path", "") for router in ROUTERS for route in router.routes}
    console.navigation = tuple(entry for entry in NAVIGATION if entry.path in paths)
    monitoring.register(console)
    app.add_middleware(SecureHeaders)
    app.add_exception_handler(LoginNeeded, _to_login)
    app.add_exception_handler(StarletteHTTPException, _refused)
    app.add_exception_handler(GridwatchError, _failed)
    return app


def _static_folder() -> Path:
    return Path(str(resources.files("console"))) / "static"


def _to_login(request: Request, _error: Exception) -> Response:
    if request.headers.get("hx-request"):
        return PlainTextResponse("", 401, {"HX-Redirect": "/login"})
    if "text/html" not in request.headers.get("accept", "text/html") or request.method != "GET":
        return PlainTextResponse("log in first\n", 401)
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/login?then={quote(asked, safe='/')}", 303)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)  # noqa: S101 - registered for it alone
    if request.headers.get("hx-request") or "text/html" not in request.headers.get("accept", ""):
        return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)
    with contextlib.suppress(LoginNeeded):
        current_user(request)
    answer = page(
        request,
        "error.html",
        status_code=error.status_code,
        code=error.status_code,
        # The standard phrase is English, and says no more than the page does in the reader's language.
        detail="" if error.detail == HTTPStatus(error.status_code).phrase else error.detail,
    )
    answer.headers.update(error.headers or {})
    return answer


def _failed(request: Request, error: Exception) -> Response:
    return _refused(request, HTTPException(503, str(error)))
