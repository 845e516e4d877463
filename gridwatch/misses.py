"""`gridwatch tickets miss`: an event for which no ticket was raised, as an operator reports it.

It is a row in the host's store, counted against the recall in `gridwatch accuracy`, with a picture where the evidence
of a neighbouring ticket shows that moment. Nothing of it travels: it is no ticket, and nobody need go there any more.
"""

from __future__ import annotations

import getpass
import time
from datetime import datetime, tzinfo
from pathlib import Path

import av
import numpy as np
from rich.console import Console
from rich.text import Text

from alerts.accuracy import Miss
from alerts.evidence import EvidenceStore
from alerts.store import Batch, Store
from alerts.tickets import seconds, ticket_id
from gridwatch.config import Config, load_config
from pipeline.exceptions import CommandError, ConfigError, EvidenceError
from pipeline.frame import Image

__all__ = ["moment_of", "report_miss", "run_miss"]

NEIGHBOUR_S = (
    900.0  # clips are shorter; a ticket raised earlier cannot have one that shows the moment
)


def run_miss(
    file: Path, *, camera: str, scenario: str, when: str, note: str = "", by: str = ""
) -> None:
    """Record a miss from the command line and print what was kept; for the errors see `report_miss`."""
    config = load_config(file)
    t = moment_of(when, config.timezone)
    with Store(config.database_url()) as store:
        miss = report_miss(
            config, store, camera, scenario, t, time.time(), by=by or _user(), note=note
        )
    picture = miss.picture or "no picture: no clip shows that moment"
    moment = datetime.fromtimestamp(t, config.timezone)
    line = f"{scenario} · {camera} · {moment:%Y-%m-%d %H:%M:%S} · {picture}"
    Console(highlight=False, soft_wrap=True).print(Text.assemble(("✓ ", "green"), line))


def report_miss(
    config: Config,
    store: Store,
    camera: str,
    scenario: str,
    t: float,
    now_t: float,
    *,
    by: str,
    note: str = "",
) -> Miss:
    """Store a miss.

    Args:
        config: The site.
        store: The host's, open for writing.
        camera: Its id.
        scenario: One of the camera's.
        t: When it happened; seconds since the epoch.
        now_t: The present.
        by: Who reports it.
        note: What was seen.

    Raises:
        ConfigError: if there is no such camera, or it does not look for the scenario.
        CommandError: ``duplicate``: it was reported already; ``malformed``: it lies in the future.
        StoreError: if it cannot be stored.
    """
    settings = next((one for one in config.cameras if one.id == camera), None)
    if settings is None:
        known = ", ".join(one.id for one in config.cameras)
        raise ConfigError(f"--camera {camera}: there is none of that id, expected one of {known}")
    if scenario not in settings.scenarios:
        looks = ", ".join(settings.scenarios) or "none"
        raise ConfigError(f"--scenario {scenario}: camera {camera} looks for {looks}")
    if t > now_t:
        raise CommandError(
            "--time: lies in the future, expected a moment that is past", code="malformed"
        )
    site, host = config.site.id, config.host
    name = ticket_id(
        site=site, host=host, camera_id=camera, scenario=scenario, subject="miss", since=t, t=t
    )
    if any(known.id == name for known in store.misses(t, t + 0.001)):
        raise CommandError(
            f"the miss of {scenario} at {camera} was reported already", code="duplicate"
        )
    evidence = EvidenceStore(config.evidence, config.state_folder() / "evidence")
    miss = Miss(
        id=name,
        site=site,
        host=host,
        camera=camera,
        grid=settings.grid,
        scenario=scenario,
        t=t,
        reported_t=now_t,
        by=by,
        note=note,
        picture=_picture(store, evidence, camera, t),
        simulated=settings.simulated,
    )
    store.commit(Batch(now_t, misses=[miss])).result()
    return miss


def moment_of(text: str, zone: tzinfo) -> float:
    """Seconds since the epoch of a local time such as ``2026-11-01T18:30:05``.

    Raises:
        ConfigError: if it is none.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--time {text}: expected a moment such as 2026-11-01T18:30:05") from None
    return seconds(moment if moment.tzinfo else moment.replace(tzinfo=zone))


def _picture(store: Store, evidence: EvidenceStore, camera: str, t: float) -> str:
    """Path of a picture of that moment, cut from a clip of the camera; empty where none shows it.

    A clip has been through the privacy masks, and so has its picture.
    """
    tickets = store.tickets(
        camera_id=camera, raised_from=t - NEIGHBOUR_S, raised_to=t + NEIGHBOUR_S
    )
    for ticket in tickets:
        for item in ticket.evidence:
            start_t, end_t = seconds(item.start), seconds(item.end)
            if item.kind == "clip" and start_t <= t <= end_t:
                image = _frame(evidence.folder / item.path, t - start_t)
                if image is not None:
                    kept, _ = evidence.save_picture(camera, t, image)
                    return kept[0].path
    return ""


def _frame(clip: Path, at_s: float) -> Image | None:
    """The first picture at or after `at_s` seconds of a clip, or its last; None if it cannot be read."""
    last: Image | None = None
    try:
        with av.open(str(clip)) as container:
            for frame in container.decode(video=0):
                last = np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)
                if frame.time is not None and frame.time >= at_s:
                    break
    except (OSError, av.FFmpegError, EvidenceError):
        return None
    return last


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        return "operator"
