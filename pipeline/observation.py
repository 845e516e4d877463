"""What a scenario saw: the one thing that passes from analysis to the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

__all__ = ["Condition", "Json", "Observation", "RelativeBox"]

RelativeBox: TypeAlias = tuple[float, float, float, float]
"""x1, y1, x2, y2 as fractions of the picture's width and height."""

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class Condition(StrEnum):
    """Whether a scenario's condition holds for a subject."""

    HOLDS = "holds"
    CLEAR = "clear"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Observation:
    """At time `t`, the condition of `scenario` holds, does not hold or is unknown for `subject`.

    Attributes:
        scenario: Identifier, e.g. ``fire``; ``camera_health`` for the cameras themselves.
        camera_id: The camera's id.
        subject: What the condition is about, stable over reconnects and restarts, e.g. ``zone:cabin`` or
            ``zone:kerb/stay:1717000000``. Debouncing is per (camera, scenario, subject).
        t: Seconds since the Unix epoch (stream time).
        condition: holds, clear or unknown.
        confidence: 0..1, of the condition as stated.
        box: Where, relative to the picture; None for the whole view.
        severity: Scenario's hint that overrides its default for this observation (``minor``, ``major``, ``critical``).
        detail: Measured reasons for the decision record and the ticket, e.g. ``{"flicker_hz": 6.1}``.
    """

    scenario: str
    camera_id: str
    subject: str
    t: float
    condition: Condition
    confidence: float
    box: RelativeBox | None = None
    severity: str | None = None
    detail: Mapping[str, Json] = field(default_factory=dict)
