"""For those who watch the watchers: ``/healthz``, ``/metrics`` and the audit trail."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest

from console.auth import Admin
from console.context import Console, console_of, page
from pipeline.exceptions import StoreError

__all__ = ["register", "router"]

router = APIRouter()


def register(console: Console) -> None:
    """Put the page's own metrics into the console's registry."""
    Gauge(
        "gridwatch_console_readers",
        "Pages that listen to the live feed.",
        registry=console.registry,
    ).set_function(lambda: float(console.hub.readers))
    tickets = Gauge(
        "gridwatch_console_open_tickets",
        "Tickets that nobody has disposed of.",
        registry=console.registry,
    )
    tickets.set_function(lambda: float(console.tickets.counts("").open))


@router.get("/healthz")
def health(request: Request) -> Response:
    """200 while the console can do its work; 503 and the reason while it cannot."""
    console = console_of(request)
    problems = {}
    try:
        console.tickets.cursor()
    except StoreError as error:
        problems["database"] = str(error)
    if console.mirror is not None and not console.mirror.connected:
        problems["broker"] = console.mirror.reason or "connecting"
    body = {"status": "ok" if not problems else "failing", "problems": problems}
    return JSONResponse(body, 503 if problems else 200)


@router.get("/metrics")
def metrics(request: Request) -> Response:
    """Prometheus metrics: numbers alone, nothing about any one ticket or user."""
    return Response(generate_latest(console_of(request).registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/audit")
def audit_page(request: Request, user: Admin, who: str = "") -> Response:  # noqa: ARG001
    """What users did, the newest first."""
    console = console_of(request)
    return page(request, "audit.html", entries=console.users.audit_trail(500, who), who=who)
