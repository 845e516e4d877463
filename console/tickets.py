"""A ticket's page, and what operators do with it."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response

from console.auth import Viewer
from console.context import console_of, page

__all__ = ["router"]

router = APIRouter()


@router.get("/tickets/{ticket_id}")
def ticket_page(request: Request, user: Viewer, ticket_id: str) -> Response:
    """One ticket; asked by htmx it is the pane alone."""
    detail = console_of(request).tickets.get(ticket_id, user.grid)
    if detail is None:
        raise HTTPException(404, "there is no such ticket, or it lies in a grid that is not yours")
    template = "_ticket.html" if request.headers.get("hx-request") else "ticket.html"
    return page(request, template, detail=detail, row=detail.row, ticket=detail.ticket)


@router.get("/tickets/{ticket_id}/thumbnail")
def thumbnail(request: Request, user: Viewer, ticket_id: str) -> Response:
    """The small picture that came with the ticket; its address carries the version."""
    picture = console_of(request).tickets.thumbnail(ticket_id, user.grid)
    if picture is None:
        raise HTTPException(404, "this ticket has no picture")
    return Response(
        picture, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"}
    )
