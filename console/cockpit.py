"""The cockpit (驾驶舱): what happened, how soon people reacted, and how much of it was true."""

from __future__ import annotations

import threading
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from alerts.accuracy import Accuracy, AccuracySettings
from console.auth import Viewer
from console.context import Console, console_of, language_of, page, render
from console.figures import AGES_S, DAY_S, Figures, figures, has_real
from console.settings import Language
from console.users import User
from console.words import say

__all__ = ["WINDOWS", "router"]

router = APIRouter()

WINDOWS = {"24h": DAY_S, "7d": 7 * DAY_S, "30d": 30 * DAY_S, "90d": 90 * DAY_S, "365d": 365 * DAY_S}
KEEP_S = 5.0  # several walls must not count the same tickets again
SEVERITIES = ("critical", "major", "minor")
STEPS = 9  # of the heat map's shade, beside none

Choice = Annotated[str, Query(max_length=255)]
_cached: dict[tuple[object, ...], tuple[float, Figures]] = {}
_lock = threading.Lock()


@router.get("/cockpit")
def cockpit(
    request: Request, user: Viewer, window: Choice = "7d", grid: Choice = "", kind: Choice = ""
) -> Response:
    """The cockpit of a subtree and a time."""
    return page(request, "cockpit.html", **_context(request, user, window, grid, kind))


@router.get("/cockpit/part")
def part(
    request: Request, user: Viewer, window: Choice = "7d", grid: Choice = "", kind: Choice = ""
) -> Response:
    """The figures alone, for a cockpit that refreshes itself."""
    return HTMLResponse(
        render(request, "_cockpit.html", **_context(request, user, window, grid, kind))
    )


def _context(request: Request, user: User, window: str, grid: str, kind: str) -> dict[str, Any]:
    console = console_of(request)
    language = language_of(request)
    window = window if window in WINDOWS else "7d"
    grid = grid.strip("/") if user.sees(grid.strip("/")) else ""
    if kind not in ("real", "simulated"):
        kind = "real" if has_real(console.database, user.grid) else "simulated"
    settings = console.settings.config.accuracy if console.settings.config else AccuracySettings()
    found = _figures(console, user, window, grid, kind, settings)
    levels = grid.split("/") if grid else []
    return {
        "window": window,
        "windows": list(WINDOWS),
        "grid": grid,
        "kind": kind,
        "crumbs": [
            path
            for path in ("/".join(levels[: n + 1]) for n in range(len(levels)))
            if user.sees(path)
        ],
        "f": found,
        "target": settings.target,
        "now": console.clock(),
        "ages": list(range(len(AGES_S) + 1)),
        "severities": SEVERITIES,
        "shade": _shade,
        "grids_of": console.tickets.grids(user.grid),
        "chart": _chart(language, found, settings),
    }


def _figures(
    console: Console, user: User, window: str, grid: str, kind: str, settings: AccuracySettings
) -> Figures:
    now = console.clock()
    key = (id(console), user.grid, window, grid, kind)
    with _lock:
        kept = _cached.get(key)
        if kept is not None and 0 <= now - kept[0] < KEEP_S:
            return kept[1]
    found = figures(
        console.database,
        scope=user.grid,
        grid=grid,
        since=now - WINDOWS[window],
        now=now,
        timezone=console.settings.timezone,
        settings=settings,
        simulated=kind == "simulated",
    )
    with _lock:
        if len(_cached) > 64:
            _cached.clear()
        _cached[key] = now, found
    return found


def _shade(count: int, most: int) -> int:
    """0 for none, else 1 to `STEPS`, by the root: counts spread over orders of magnitude."""
    return 0 if not count else max(1, round(STEPS * (count / most) ** 0.5))


def _chart(language: Language, found: Figures, settings: AccuracySettings) -> dict[str, object]:
    """What the script draws; the same is on the page as tables."""

    def scenario(name: str) -> str:
        word = say(language, f"scenario.{name}")
        return name.replace("_", " ") if word == f"scenario.{name}" else word

    def percent(value: float | None) -> float | None:
        return None if value is None else round(100 * value, 2)

    weekly: list[tuple[str, Accuracy]] = sorted(found.weekly.items())
    return {
        "bins": {
            "labels": [one.label for one in found.bins],
            "series": [
                {
                    "name": scenario(name),
                    "id": name,
                    "counts": [one.counts.get(name, 0) for one in found.bins],
                }
                for name in found.scenarios
            ],
        },
        "weekly": {
            "labels": [name for name, _ in weekly],
            "value": [percent(one.value) for _, one in weekly],
            "lower": [percent(one.lower) if one.decided else None for _, one in weekly],
            "upper": [percent(one.upper) if one.decided else None for _, one in weekly],
            "n": [one.decided for _, one in weekly],
            "target": percent(settings.target),
        },
        "ages": {
            "labels": [say(language, f"cockpit.age.{n}") for n in range(len(AGES_S) + 1)],
            "series": [
                {
                    "name": say(language, f"severity.{severity}"),
                    "id": severity,
                    "counts": [age.get(severity, 0) for age in found.ages],
                }
                for severity in SEVERITIES
            ],
        },
        "words": {
            name: say(language, f"cockpit.js.{name}")
            for name in ("accuracy", "lower", "target", "interval", "n")
        },
    }
