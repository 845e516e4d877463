"""The camera wall: every camera with its health, its newest picture, its rates and its last ticket."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse

from alerts.storm import ACCURACY, HEALTH
from console.auth import Operator, Viewer
from console.context import Console, console_of, language_of, page, render
from console.database import in_subtree, tickets
from console.queries import Status, TicketRow
from console.users import User
from console.words import say
from console.zones import snapshots_of
from gridwatch.config import CameraSettings
from pipeline.exceptions import CaptureError

__all__ = ["Card", "health_of", "router"]

router = APIRouter()

SILENT_S = 150.0  # statuses come once a minute; after two that are missing, the last says nothing
REDUCED = 0.9  # of the wanted rate: below it people should know that less is seen

Level = Literal["ok", "minor", "major", "critical", "muted"]
_LEVELS: tuple[Level, ...] = ("critical", "major", "minor", "muted", "ok")
Choice = Annotated[str, Query(max_length=255)]


@dataclass(frozen=True, slots=True)
class Card:
    """What the wall shows of one camera.

    Attributes:
        health: Key of the word, such as ``running``, ``frozen``, ``warming_up``.
        level: How bad that is.
        reason: In the host's words; may be empty.
        last_frame_t: Of its last frame when the status was sent, which is once a minute.
        is_live: Whether frames arrived then and its host has said nothing else since.
        picture: Address of its newest picture; empty if there is none.
        picture_t: When that was taken.
        ticket: Its newest ticket.
        open: How many of its tickets are open.
    """

    site: str
    id: str
    name: str
    grid: str
    simulated: bool
    scenarios: tuple[str, ...]
    health: str
    level: Level
    reason: str
    granted_hz: float | None
    wanted_hz: float | None
    last_frame_t: float | None
    is_live: bool
    picture: str
    picture_t: float | None
    ticket: TicketRow | None
    open: int
    can_look: bool

    @property
    def hash(self) -> str:
        """Changes when the card must be drawn anew."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]


@router.get("/wall")
def wall(request: Request, user: Viewer, grid: Choice = "", sort: Choice = "") -> Response:
    """The wall of a subtree."""
    console = console_of(request)
    cards = _cards(request, user, grid, sort)
    grids = sorted({path for card in _cards(request, user, "", "") for path in _above(card.grid)})
    return page(
        request,
        "wall.html",
        cards=cards,
        grids=[path for path in grids if user.sees(path)],
        grid=grid,
        sort=sort,
        totals=_totals(cards),
        now=console.clock(),
    )


@router.get("/wall/part")
def part(request: Request, user: Viewer, grid: Choice = "", sort: Choice = "") -> Response:
    """The cards alone, for a wall that refreshes itself."""
    cards = _cards(request, user, grid, sort)
    return HTMLResponse(render(request, "_wall.html", cards=cards, totals=_totals(cards)))


@router.get("/wall/{camera_id}/snapshot")
def snapshot(request: Request, user: Viewer, camera_id: str) -> Response:
    """The last picture that was taken from a camera on demand."""
    taken = snapshots_of(request).last(_configured(request, user, camera_id))
    if taken is None:
        raise HTTPException(404, say(language_of(request), "wall.no_picture"))
    return Response(taken.jpeg, media_type="image/jpeg", headers={"Cache-Control": "private"})


@router.post("/wall/{camera_id}/look")
def look(request: Request, user: Operator, camera_id: str) -> Response:
    """Open the camera and take a picture of now."""
    try:
        snapshots_of(request).take(_configured(request, user, camera_id))
    except CaptureError as error:
        raise HTTPException(503, str(error)) from error
    return Response(status_code=204)


def health_of(
    document: Mapping[str, Any] | None, host: Mapping[str, Any], trouble: str, now: float
) -> tuple[str, Level, str]:
    """A camera's health in a word, how bad that is, and the reason.

    Args:
        document: Its newest status; None if none ever came.
        host: Its host's newest status; may be empty.
        trouble: Subject of its open health ticket: ``dead``, ``frozen``, ``covered`` or ``turned``; empty without one.
        now: Seconds since the epoch.
    """
    if document is None:
        return "unheard", "muted", ""
    reason = str(document.get("reason") or "")
    if host.get("status") == "offline":
        return "host_away", "critical", str(host.get("reason") or "")
    if now - float(document.get("t") or 0.0) > SILENT_S:
        return "silent", "major", ""
    state = str(document.get("state") or "")
    if state == "quarantined":
        return state, "critical", reason
    if state != "running" or trouble == "dead":
        if state == "connecting" and trouble != "dead":
            return state, "minor", reason
        return ("dead" if trouble == "dead" else state), "critical", reason
    if trouble:
        return trouble, "major", reason
    if faults := document.get("faults"):
        return "fault", "major", "; ".join(f"{k}: {v}" for k, v in dict(faults).items())
    unknown = dict(document.get("unknown") or {})
    if any(why in ("warming_up", "finding_water") for why in unknown.values()):
        return "warming_up", "minor", ""
    wanted, granted = document.get("rate_wanted_hz"), document.get("rate_hz")
    if wanted and granted is not None and float(granted) < REDUCED * float(wanted):
        return "reduced", "minor", ""
    return "running", "ok", ""


def _cards(request: Request, user: User, grid: str, sort: str) -> list[Card]:
    console = console_of(request)
    now = console.clock()
    configured = _cameras(console)
    hosts = {(s.site, s.subject): s.document for s in console.tickets.statuses("host")}
    heard = {(s.site, s.subject): s for s in console.tickets.statuses("camera")}
    newest, pictures, opened, troubles = _tickets(console, user.grid)
    site = console.settings.config.site.id if console.settings.config else ""
    keys = {*heard, *((site, camera_id) for camera_id in configured), *newest}
    cards = []
    for key in keys:
        settings = configured.get(key[1]) if key[0] == site else None
        ticket = newest.get(key)
        where = settings.grid if settings else ticket.grid if ticket else ""
        if not user.sees(where) or (grid and not _below(where, grid)):
            continue
        status: Status | None = heard.get(key)
        document = status.document if status else None
        host = hosts.get((key[0], str((document or {}).get("host"))), {})
        health, level, reason = health_of(document, host, troubles.get(key, ""), now)
        picture, picture_t = pictures.get(key, ("", None))
        taken = snapshots_of(request).last(settings) if settings else None
        if taken is not None and taken.t > (picture_t or 0.0):
            picture, picture_t = f"/wall/{key[1]}/snapshot?t={taken.t:.0f}", taken.t
        document = document or {}
        cards.append(
            Card(
                site=key[0],
                id=key[1],
                name=(settings.name if settings else ticket.camera_name if ticket else "")
                or key[1],
                grid=where,
                simulated=bool(settings.simulated if settings else ticket and ticket.simulated),
                scenarios=tuple(settings.scenarios) if settings else (),
                health=health,
                level=level,
                reason=reason,
                granted_hz=document.get("rate_hz"),
                wanted_hz=document.get("rate_wanted_hz"),
                last_frame_t=document.get("last_frame_t"),
                is_live=level in ("ok", "minor") and document.get("state") == "running",
                picture=picture,
                picture_t=picture_t,
                ticket=ticket,
                open=opened.get(key, 0),
                can_look=settings is not None and not settings.privacy.blur_heads,
            )
        )
    if sort == "trouble":
        return sorted(cards, key=lambda card: (_LEVELS.index(card.level), card.grid, card.id))
    return sorted(cards, key=lambda card: (card.grid, card.id))


_Key = tuple[str, str]


def _tickets(
    console: Console, scope: str
) -> tuple[dict[_Key, TicketRow], dict[_Key, tuple[str, float]], dict[_Key, int], dict[_Key, str]]:
    """By camera: the newest ticket, the newest picture, how many are open, and the open trouble with itself."""
    c = tickets.c
    inside = in_subtree(c.grid, scope)
    group = (c.site, c.camera)
    with console.database.read() as connection:
        ids = list(
            connection.scalars(
                sa.select(sa.func.max(c.id)).where(inside, c.scenario != HEALTH).group_by(*group)
            )
        )
        pictured = sa.select(sa.func.max(c.id)).where(inside, c.thumbnail.is_not(None))
        shown = connection.execute(
            sa.select(c.site, c.camera, c.id, c.capture_t).where(
                c.id.in_(pictured.group_by(*group))
            )
        ).all()
        counted = connection.execute(
            sa.select(*group, sa.func.count()).where(inside, c.is_open.is_(True)).group_by(*group)
        ).all()
        unwell = connection.execute(
            sa.select(*group, c.document)
            .where(inside, c.is_open.is_(True), c.scenario == HEALTH, c.condition == "holding")
            .order_by(c.id)
        ).all()
    newest = {(row.site, row.camera): row for row in console.tickets.rows(ids)}
    pictures = {(r[0], r[1]): (f"/tickets/{r[2]}/thumbnail", float(r[3])) for r in shown}
    opened = {(r[0], r[1]): int(r[2]) for r in counted}
    subjects = [(r[0], r[1], str(json.loads(r[2]).get("subject", ""))) for r in unwell]
    # That a camera raises false alarms says nothing of its picture, and must not hide what does.
    troubles = {(site, camera): name for site, camera, name in subjects if name != ACCURACY}
    return newest, pictures, opened, troubles


def _cameras(console: Console) -> dict[str, CameraSettings]:
    config = console.settings.config
    return {one.id: one for one in config.cameras if one.enabled} if config else {}


def _configured(request: Request, user: User, camera_id: str) -> CameraSettings:
    camera = _cameras(console_of(request)).get(camera_id)
    if camera is None or not user.sees(camera.grid):
        raise HTTPException(404, say(language_of(request), "wall.no_camera"))
    return camera


def _totals(cards: list[Card]) -> dict[Level, int]:
    return {level: sum(card.level == level for card in cards) for level in _LEVELS}


def _above(grid: str) -> list[str]:
    levels = grid.split("/") if grid else []
    return ["/".join(levels[: n + 1]) for n in range(len(levels))]


def _below(grid: str, scope: str) -> bool:
    return grid == scope or grid.startswith(f"{scope}/")
