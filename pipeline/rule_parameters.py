"""What every debounced rule takes; apart from scenarios, so that capture has its rule without loading analysis."""

from __future__ import annotations

from pydantic import Field

from pipeline.units import Duration, Settings

__all__ = ["RuleParameters"]


class RuleParameters(Settings):
    """How the debounced rule turns observations into alarms; all times in seconds of stream time.

    Attributes:
        raise_after: The condition must have held this long.
        min_ratio: ... for at least this share of the known time since it first held, weighted by time.
        clear_after: The condition must have been clear this long before the alarm ends.
        cooldown: After an alarm's end the same subject raises none for this long.
        max_gap: Unknown time up to this freezes a dwell; longer, and the dwell starts again.
    """

    raise_after: Duration = 3.0
    min_ratio: float = Field(default=0.6, gt=0, le=1)
    clear_after: Duration = 10.0
    cooldown: Duration = 60.0
    max_gap: Duration = 10.0
