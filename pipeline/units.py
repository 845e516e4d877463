"""Units and shapes as people write them in cameras.yaml, parsed once."""

from __future__ import annotations

import math
import re
from datetime import datetime, time
from typing import Annotated, TypeAlias

import shapely
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    StringConstraints,
)
from pydantic_core import CoreSchema, core_schema

__all__ = [
    "ByteSize",
    "Duration",
    "Polygon",
    "Settings",
    "TimeWindow",
    "ZoneName",
    "parse_duration",
]

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)\s*")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", re.IGNORECASE)
_BYTES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Settings(BaseModel):
    """Base of everything that is read from cameras.yaml: unknown keys are errors, values do not change."""

    # An error of pydantic's own would quote a URL with its password; ours are built from the parts.
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True
    )


def parse_duration(value: object) -> float:
    """Seconds from ``90s``, ``5m``, ``1h30m``, ``250ms``, ``2d`` or a number of seconds.

    Raises:
        ValueError: if it is none of these, or negative or not finite.
    """
    if isinstance(value, bool):
        raise ValueError(f"expected a duration such as 90s, 5m or 1h, found {value!r}")
    if isinstance(value, int | float):
        seconds = float(value)
    elif isinstance(value, str) and value.strip():
        seconds, position = 0.0, 0
        while position < len(value):
            match = _DURATION.match(value, position)
            if match is None:
                raise ValueError(f"expected a duration such as 90s, 5m or 1h, found {value!r}")
            seconds += float(match[1]) * _SECONDS[match[2]]
            position = match.end()
    else:
        raise ValueError(f"expected a duration such as 90s, 5m or 1h, found {value!r}")
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"expected a duration of zero or more, found {value!r}")
    return seconds


def _parse_size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"expected a size such as 500MB or 20GB, found {value!r}")
    return int(float(match[1]) * _BYTES[match[2].lower()])


def _check_polygon(points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    if len(points) < 3:
        raise ValueError(f"expected a polygon of at least 3 points, found {len(points)}")
    for x, y in points:
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(f"expected relative coordinates from 0 to 1, found [{x}, {y}]")
    shape = shapely.Polygon(points)
    if not shape.is_valid or shape.area <= 0:
        raise ValueError("expected a polygon with an area whose sides do not cross")
    return points


Duration: TypeAlias = Annotated[float, BeforeValidator(parse_duration)]
"""Seconds; written as ``90s``, ``5m``, ``1h30m`` or a number of seconds."""

ByteSize: TypeAlias = Annotated[int, BeforeValidator(_parse_size)]
"""Bytes; written as ``64KB``, ``20GB`` (powers of 1024) or a number of bytes."""

Polygon: TypeAlias = Annotated[tuple[tuple[float, float], ...], AfterValidator(_check_polygon)]
"""At least three (x, y) points as fractions of the picture's width and height."""

ZoneName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[^/\s][^/]*$", max_length=64)]
"""A zone's name; no slash, because it becomes a part of subjects such as ``zone:kerb/stay:...``."""


class TimeWindow:
    """Days and hours of local time, written ``mon-fri 07:00-20:00``, ``sat,sun 00:00-24:00`` or ``22:00-06:00``.

    A window that ends before it begins runs over midnight and belongs to the day on which it begins.
    """

    __slots__ = ("_days", "_end", "_start", "text")

    def __init__(self, text: str) -> None:
        match = re.fullmatch(
            r"\s*(?:([a-z,\-]+)\s+)?(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})\s*", text.lower()
        )
        if match is None:
            raise ValueError(f"expected a window such as 'mon-fri 07:00-20:00', found {text!r}")
        self.text = text
        self._days = self._parse_days(match[1] or "mon-sun", text)
        self._start = self._minutes(int(match[2]), int(match[3]), text)
        self._end = self._minutes(int(match[4]), int(match[5]), text)

    @staticmethod
    def _parse_days(text: str, whole: str) -> frozenset[int]:
        days: set[int] = set()
        for part in text.split(","):
            first, _, last = part.partition("-")
            if first not in _DAYS or (last and last not in _DAYS):
                raise ValueError(f"expected days such as mon-fri or sat,sun, found {whole!r}")
            start = _DAYS.index(first)
            span = (_DAYS.index(last) - start) % 7 if last else 0
            days.update((start + i) % 7 for i in range(span + 1))
        return frozenset(days)

    @staticmethod
    def _minutes(hour: int, minute: int, whole: str) -> int:
        if hour > 24 or minute > 59 or (hour == 24 and minute):
            raise ValueError(f"expected times from 00:00 to 24:00, found {whole!r}")
        return hour * 60 + minute

    def contains(self, moment: datetime) -> bool:
        """Whether the local `moment` lies in the window; the start belongs to it, the end does not."""
        clock: time = moment.time()
        minute = clock.hour * 60 + clock.minute
        today, yesterday = moment.weekday(), (moment.weekday() - 1) % 7
        if self._start < self._end:
            return today in self._days and self._start <= minute < self._end
        return (today in self._days and minute >= self._start) or (
            yesterday in self._days and minute < self._end
        )

    def __repr__(self) -> str:
        return f"TimeWindow({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TimeWindow) and (self._days, self._start, self._end) == (
            other._days,
            other._start,
            other._end,
        )

    def __hash__(self) -> int:
        return hash((self._days, self._start, self._end))

    @classmethod
    def __get_pydantic_core_schema__(
        cls, _source: object, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, TimeWindow) else cls(str(value)),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda w: w.text),
        )
