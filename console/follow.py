"""What the page shows follows its cameras.yaml: names, masks, grids, departments, targets.

A change is noticed and checked as the daemon does it (`gridwatch.reload`). Where the page listens and whom it asks
(site, broker, database) stays as it was at the start.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from console.context import Console
from gridwatch.reload import ConfigWatch, Revision

__all__ = ["follow_config"]

log = structlog.get_logger(__name__)

LOOK_S = 0.5


async def follow_config(console: Console, file: Path) -> None:
    """Take over every valid change of `file` until cancelled."""
    # Nothing counts as known: what changed between the start's reading and now is then not missed.
    watch = ConfigWatch(file, Revision.of(b""))
    watch.start()
    try:
        while True:
            await asyncio.sleep(LOOK_S)
            candidate = watch.take()
            if candidate is None:
                continue
            if candidate.config is None:
                log.warning(
                    "configuration refused, the former goes on", problem=candidate.problems[0]
                )
            elif candidate.config != console.settings.config:
                console.reload(candidate.config)
                log.info("configuration applied")
    finally:
        watch.close()
