"""Tickets as a host publishes them, for tests of the console."""

from __future__ import annotations

from typing import Any

from alerts.tickets import (
    Analysed,
    CameraRef,
    Captured,
    Ticket,
    Title,
    Warned,
    instant,
    ticket_id,
)

__all__ = ["make_ticket"]


def make_ticket(
    t: float,
    *,
    site: str = "demo",
    camera: str = "yard-2",
    scenario: str = "fire",
    grid: str = "jinjiang/12/3",
    host: str = "box-1",
    severity: str = "major",
    **changes: Any,  # noqa: ANN401 - any field of a ticket
) -> Ticket:
    """A ticket of version 1, raised at `t` seconds since the epoch."""
    return Ticket(
        id=ticket_id(
            site=site, host=host, camera_id=camera, scenario=scenario, subject=camera, since=t, t=t
        ),
        version=1,
        site=site,
        host=host,
        camera=CameraRef(id=camera, name=f"camera {camera}"),
        grid=grid,
        scenario=scenario,
        subject=camera,
        severity=severity,
        title=Title(zh="火情", en="Fire"),
        capture=Captured(time=instant(t)),
        analyse=Analysed(confidence=0.9, since=instant(t - 2)),
        warn=Warned(raised=instant(t), rule="holds for 2 s", published=instant(t), age_s=0.1),
        created=instant(t),
        updated=instant(t),
    ).model_copy(update=changes)
