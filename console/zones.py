"""The zone editor: a camera's polygons drawn over its picture, written to cameras.yaml, applied by the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, Field

from console.auth import Admin, address_of
from console.config_edit import PRIVACY, Region, draft, fields_of, regions_of
from console.context import Console, console_of, language_of, page
from console.database import tickets
from console.settings import Language
from console.snapshots import Snapshots
from console.users import User
from console.words import catalogue, say
from gridwatch.config import CameraSettings, Config
from gridwatch.reload import Revision, read_revision
from pipeline.exceptions import CaptureError, ConfigError, StaleConfigError

__all__ = ["router", "snapshots_of"]

router = APIRouter()

MAX_REGIONS = 200  # of a camera; more is a mistake


class Drawing(BaseModel):
    """What the editor sends.

    Attributes:
        sha256: Of the cameras.yaml that it was drawn on.
        regions: All polygons of the camera.
    """

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    regions: Annotated[list[Region], Field(max_length=MAX_REGIONS)]


@router.get("/zones")
def editor(
    request: Request, user: Admin, camera: Annotated[str, Query(max_length=64)] = ""
) -> Response:
    """The editor on one camera."""
    console = console_of(request)
    if console.settings.config_file is None:
        return page(request, "zones.html", cameras=[], camera=None, data=None, problems=[])
    try:
        revision, config = _read(console)
    except ConfigError as error:
        return page(
            request, "zones.html", cameras=[], camera=None, data=None, problems=error.problems
        )
    cameras = [one for one in config.cameras if user.sees(one.grid)]
    chosen = next((one for one in cameras if one.id == camera), cameras[0] if cameras else None)
    data = None if chosen is None else _data(language_of(request), revision, chosen)
    return page(request, "zones.html", cameras=cameras, camera=chosen, data=data, problems=[])


@router.get("/zones/active")
def active(
    request: Request, _user: Admin, sha256: Annotated[str, Query(pattern=r"^[0-9a-f]{64}$")]
) -> dict[str, object]:
    """Whether the host runs with this content of cameras.yaml, and if not, why."""
    console = console_of(request)
    _, config = _read(console)
    for status in console.tickets.statuses("host"):
        if (status.site, status.subject) == (config.site.id, config.host):
            online = status.document.get("status") == "online"
            told = status.document.get("config") or {}
            refused = told.get("refused_sha256") == sha256
            return {
                "active": online and told.get("sha256") == sha256,
                "problem": str(told.get("problem") or "") if refused else "",
                "online": online,
            }
    return {"active": False, "problem": "", "online": False}


@router.get("/zones/{camera_id}/picture")
def picture(
    request: Request,
    user: Admin,
    camera_id: str,
    source: Annotated[str, Query(pattern="^(camera|ticket)$")] = "camera",
) -> Response:
    """The camera's picture: its present one, or that of its newest ticket."""
    console = console_of(request)
    camera = _camera(request, user, camera_id)[2]
    if source == "camera":
        try:
            taken = snapshots_of(request).take(camera)
        except CaptureError as error:
            raise HTTPException(503, str(error)) from error
        return _jpeg(taken.jpeg, taken.t)
    newest = (
        sa.select(tickets.c.thumbnail, tickets.c.capture_t)
        .where(tickets.c.camera == camera_id, tickets.c.thumbnail.is_not(None))
        .order_by(tickets.c.id.desc())
        .limit(1)
    )
    with console.database.read() as connection:
        row = connection.execute(newest).first()
    if row is None:
        raise HTTPException(404, say(language_of(request), "zones.no_picture"))
    return _jpeg(bytes(row.thumbnail), row.capture_t)


@router.post("/zones/{camera_id}/diff")
def diff(request: Request, user: Admin, camera_id: str, drawing: Drawing) -> dict[str, object]:
    """What would change in cameras.yaml; nothing is written."""
    file = _camera(request, user, camera_id)[0]
    try:
        made = draft(file, drawing.sha256, camera_id, drawing.regions)
    except StaleConfigError as error:
        raise HTTPException(409, say(language_of(request), "zones.stale")) from error
    except ConfigError as error:
        return {"diff": "", "problems": list(error.problems)}
    return {"diff": made.diff, "problems": []}


@router.post("/zones/{camera_id}/apply")
def apply(request: Request, user: Admin, camera_id: str, drawing: Drawing) -> dict[str, object]:
    """Write cameras.yaml; the daemon notices it by itself."""
    console = console_of(request)
    file = _camera(request, user, camera_id)[0]
    try:
        made = draft(file, drawing.sha256, camera_id, drawing.regions)
        if not made.diff:
            return {"sha256": made.revision.sha256, "problems": []}
        backup = made.write()
    except StaleConfigError as error:
        raise HTTPException(409, say(language_of(request), "zones.stale")) from error
    except ConfigError as error:
        return {"sha256": "", "problems": list(error.problems)}
    console.users.audit(
        console.clock(),
        user.name,
        "zones.apply",
        camera_id,
        {"sha256": made.revision.sha256, "backup": backup.name, "diff": made.diff},
        address_of(request),
    )
    return {"sha256": made.revision.sha256, "problems": []}


def snapshots_of(request: Request) -> Snapshots:
    """The console's pictures of cameras."""
    state = request.app.state
    if not hasattr(state, "snapshots"):
        state.snapshots = Snapshots(console_of(request).clock)
    found: Snapshots = state.snapshots
    return found


def _read(console: Console) -> tuple[Revision, Config]:
    file = console.settings.config_file
    if file is None:
        raise HTTPException(404, say(console.settings.language, "zones.no_file"))
    revision = read_revision(file)
    return revision, revision.parse(file)


def _camera(request: Request, user: User, camera_id: str) -> tuple[Path, Revision, CameraSettings]:
    console = console_of(request)
    revision, config = _read(console)
    file = console.settings.config_file
    for camera in config.cameras:
        if camera.id == camera_id and user.sees(camera.grid) and file is not None:
            return file, revision, camera
    raise HTTPException(404, say(language_of(request), "zones.no_camera"))


def _data(language: Language, revision: Revision, camera: CameraSettings) -> dict[str, object]:
    """What the editor's script needs to know."""
    words = {
        key.removeprefix("zones.js."): text
        for key, text in catalogue(language).items()
        if key.startswith("zones.js.")
    }
    return {
        "camera": camera.id,
        "sha256": revision.sha256,
        "fields": [
            {
                "scenario": one.scenario,
                "field": one.name,
                "shape": one.shape,
                "title": _word(language, f"zones.field.{one.name}", one.name),
                "hint": _word(language, f"zones.hint.{one.name}", ""),
                "group": say(language, "zones.privacy")
                if one.scenario == PRIVACY
                else _word(language, f"scenario.{one.scenario}", one.scenario.replace("_", " ")),
            }
            for one in fields_of(camera)
        ],
        "regions": [region.model_dump() for region in regions_of(camera)],
        "words": words,
    }


def _word(language: Language, key: str, otherwise: str) -> str:
    word = say(language, key)
    return otherwise if word == key else word


def _jpeg(content: bytes, t: float) -> Response:
    headers = {"Cache-Control": "private, no-store", "X-Picture-Time": f"{t:.3f}"}
    return Response(content, media_type="image/jpeg", headers=headers)
