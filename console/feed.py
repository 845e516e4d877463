"""The live feed: a list of tickets that moves by itself, and the stream of events behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from console.auth import Viewer
from console.context import console_of, language_of, page
from console.hub import Reader
from console.queries import TicketQuery

__all__ = ["router"]

PAGE = 60
SEVERITIES = ("critical", "major", "minor")
STATES = ("warned", "acknowledged", "dispatched", "disposed")

router = APIRouter()

Choice = Annotated[str, Query(max_length=255)]


def _query(
    scope: str,
    show: str,
    scenario: str,
    severity: str,
    grid: str,
    text: str,
    before: str = "",
) -> TicketQuery:
    states = (show,) if show in STATES else ()
    is_open = True if show in ("", "open") else None
    return TicketQuery(
        states=states,
        is_open=is_open,
        scenarios=(scenario,) if scenario else (),
        severities=(severity,) if severity in SEVERITIES else (),
        grid=grid,
        scope=scope,
        text=text,
        before_id=before,
        limit=PAGE,
    )


@router.get("/")
def feed(
    request: Request,
    user: Viewer,
    show: Choice = "",
    scenario: Choice = "",
    severity: Choice = "",
    grid: Choice = "",
    q: Choice = "",
    before: Choice = "",
) -> Response:
    """The feed; asked by htmx it is the list alone."""
    console = console_of(request)
    # Before the list is read: what comes between the two is sent twice rather than never.
    cursor = console.tickets.cursor()
    query = _query(user.grid, show, scenario, severity, grid, q, before)
    rows = console.tickets.find(query, console.clock())
    values: dict[str, Any] = {
        "rows": rows,
        "more": rows[-1].id if len(rows) == PAGE else "",
        "filters": {
            "show": show,
            "scenario": scenario,
            "severity": severity,
            "grid": grid,
            "q": q,
        },
        "cursor": cursor,
    }
    if request.headers.get("hx-request"):
        return page(request, "_rows.html" if before else "_list.html", **values)
    return page(
        request,
        "feed.html",
        counts=console.tickets.counts(user.grid),
        scenarios=console.tickets.scenarios(),
        grids=console.tickets.grids(user.grid),
        severities=SEVERITIES,
        states=STATES,
        **values,
    )


@router.get("/events")
async def events(
    request: Request,
    user: Viewer,
    show: Choice = "",
    scenario: Choice = "",
    severity: Choice = "",
    grid: Choice = "",
    q: Choice = "",
    since: float | None = None,
) -> Response:
    """Server-sent events of the tickets that this user sees; ``rows`` are those of the list's filters."""
    console = console_of(request)
    reader = Reader(
        _query(user.grid, show, scenario, severity, grid, q), language_of(request), user.name
    )

    async def bytes_of() -> AsyncIterator[bytes]:
        async for text in console.hub.stream(reader, since):
            yield text.encode()

    return StreamingResponse(
        bytes_of(),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},  # nginx must not hold events back
    )
