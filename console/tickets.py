"""A ticket's page, and what operators do with it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.responses import RedirectResponse, StreamingResponse

from alerts.tickets import MAX_PHOTOS, PHOTO_BYTES, Action, Outcome
from console.auth import Operator, Viewer, address_of
from console.context import Console, console_of, language_of, local_time, page
from console.pictures import UPLOAD_BYTES, fetch, photo
from console.queries import TicketDetail
from console.users import Role, User
from console.view import ticket_view
from console.words import say
from pipeline.exceptions import EvidenceError

__all__ = ["router"]

_ENVELOPE_BYTES = 16 * 1024  # of a command without its photos

router = APIRouter()


@router.get("/tickets/{ticket_id}")
def ticket_page(request: Request, user: Viewer, ticket_id: str) -> Response:
    """One ticket; asked by htmx it is the pane alone."""
    console = console_of(request)
    detail = _detail(request, user, ticket_id)
    language = language_of(request)
    view = ticket_view(
        detail,
        settings=console.settings,
        language=language,
        reader=user.name,
        host_away=_host_away(console, detail),
        clock=lambda t: f"{local_time(console, t):%H:%M:%S}",
        now=console.clock(),
    )
    may = user.may(Role.OPERATOR)
    return page(
        request,
        "_ticket.html" if request.headers.get("hx-request") else "ticket.html",
        detail=detail,
        row=detail.row,
        ticket=detail.ticket,
        view=view,
        operator=Role.OPERATOR,
        max_photos=MAX_PHOTOS,
        people=_people(console, detail) if may else [],
        grids=_grids(console) if may else [],
    )


@router.get("/tickets/{ticket_id}/thumbnail")
def thumbnail(request: Request, user: Viewer, ticket_id: str) -> Response:
    """The small picture that came with the ticket."""
    picture = console_of(request).tickets.thumbnail(ticket_id, user.grid)
    if picture is None:
        raise HTTPException(404, say(language_of(request), "ticket.no_thumbnail"))
    return Response(
        picture, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"}
    )


@router.get("/tickets/{ticket_id}/evidence/{number}")
def evidence(request: Request, user: Viewer, ticket_id: str, number: int) -> Response:
    """A picture or clip from the ticket's host, for whom may see the ticket."""
    detail = _detail(request, user, ticket_id)
    try:
        item = detail.ticket.evidence[number] if number >= 0 else None
        if item is None:
            raise EvidenceError("evidence: there is none of that number")
        found = fetch(item, request.headers)
    except (EvidenceError, IndexError) as error:
        raise HTTPException(404, say(language_of(request), "ticket.no_evidence")) from error
    headers = {**found.headers, "Cache-Control": "private, max-age=3600"}
    return StreamingResponse(found.body, found.status, headers)


@router.post("/tickets/{ticket_id}/{action}")
def act(
    request: Request,
    user: Operator,
    ticket_id: str,
    action: str,
    version: Annotated[int, Form(ge=1)],
    note: Annotated[str, Form(max_length=2000)] = "",
    outcome: Annotated[str, Form()] = "",
    to: Annotated[str, Form(max_length=128)] = "",
    grid: Annotated[str, Form(max_length=256)] = "",
    photos: Annotated[list[UploadFile] | None, File()] = None,
) -> Response:
    """Ask the ticket's host for a change, in the user's name, on the version that the user saw."""
    console = console_of(request)
    language = language_of(request)
    detail = _detail(request, user, ticket_id)
    if action not in set(Action):
        raise HTTPException(404, say(language, "form.bad_action"))
    if action == Action.DISPOSE and outcome not in set(Outcome):
        raise HTTPException(422, say(language, "form.bad_outcome"))
    if console.mirror is None:
        raise HTTPException(503, say(language, "command.unsent", action=action))
    said: dict[str, object] = {"note": note.strip()}
    if action == Action.DISPOSE:
        said["outcome"] = outcome
    if action == Action.DISPATCH:
        said["to"] = to.strip() or user.name
    if action == Action.REASSIGN:
        said["grid"] = grid.strip("/")
    files = [one for one in photos or () if one.filename]
    if files:
        said["photos"] = _photos(console, request, files)
    command = console.mirror.command(detail.row, version, user.name, action, **said)
    kept = {key: value for key, value in said.items() if value and key != "photos"}
    kept |= {"version": version, "command_id": command.command_id, "photos": len(files)}
    console.users.audit(
        console.clock(), user.name, f"ticket.{action}", ticket_id, kept, address_of(request)
    )
    if request.headers.get("hx-request"):
        return Response(status_code=204)  # the live stream brings what became of it
    return RedirectResponse(f"/tickets/{ticket_id}", 303)


def _detail(request: Request, user: User, ticket_id: str) -> TicketDetail:
    detail = console_of(request).tickets.get(ticket_id, user.grid)
    if detail is None:
        raise HTTPException(404, say(language_of(request), "ticket.missing"))
    return detail


def _photos(console: Console, request: Request, files: list[UploadFile]) -> list[str]:
    language = language_of(request)
    if len(files) > MAX_PHOTOS:
        raise HTTPException(422, say(language, "form.too_many_photos"))
    assert console.mirror is not None  # noqa: S101 - the caller looked
    # All of them travel in one message, in base64 (4 characters for 3 bytes).
    room = (console.mirror.max_message - _ENVELOPE_BYTES) * 3 // 4 // len(files)
    try:
        return [
            photo(one.file.read(UPLOAD_BYTES + 1), max(1024, min(PHOTO_BYTES, room)))
            for one in files
        ]
    except EvidenceError as error:
        raise HTTPException(422, say(language, "form.bad_photo")) from error


def _host_away(console: Console, detail: TicketDetail) -> bool:
    return any(
        one.subject == detail.row.host and one.document.get("status") == "offline"
        for one in console.tickets.statuses("host")
    )


def _people(console: Console, detail: TicketDetail) -> list[str]:
    """To whom a ticket may go: users who see it, and the scenario's departments."""
    users = [
        one.name
        for one in console.users.all()
        if one.sees(detail.row.grid) and one.may(Role.OPERATOR) and not one.disabled
    ]
    config = console.settings.config
    departments = config.dispatch.departments.get(detail.row.scenario, ()) if config else ()
    return [*departments, *users]


def _grids(console: Console) -> list[str]:
    """Every grid that a ticket may be handed to."""
    config = console.settings.config
    return (config.dispatch.paths() if config else []) or console.tickets.grids("")
