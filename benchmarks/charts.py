"""Where things stand in the charts of the page: numbers only, the markup is in the templates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Axis", "CurveChart", "Line", "Tick", "accuracy_axis", "curve_chart", "time_ticks"]


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis; `at` in percent of its length, or in pixels of a drawing."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of shares that ends at 1.

    Attributes:
        low: Where it begins.
        ticks: In percent of its length.
    """

    low: float
    ticks: tuple[Tick, ...]

    def at(self, share: float) -> float:
        """Place of a share in percent of the length."""
        return round(100.0 * (max(share, self.low) - self.low) / (1.0 - self.low), 3)


def accuracy_axis(bounds: Iterable[float], target: float) -> Axis:
    """An axis on which every bound and the target can be seen: it begins at a full tenth, at 0.9 at the latest."""
    lowest = min((*bounds, target, 0.9))
    low = min(0.9, math.floor(lowest * 10.0 + 1e-9) / 10.0)
    step = 0.02 if low >= 0.9 else 0.1 if low >= 0.5 else 0.2
    count = round((1.0 - low) / step)
    axis = Axis(low, ())
    shares = [round(1.0 - step * i, 3) for i in range(count + 1) if 1.0 - step * i >= low - 1e-9]
    return Axis(low, tuple(Tick(axis.at(share), f"{share:.0%}") for share in reversed(shares)))


def time_ticks(duration_s: float) -> list[Tick]:
    """Five to ten marks along a clip."""
    steps = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
    step = next((s for s in steps if duration_s / s <= 9), steps[-1])
    if duration_s <= 0:
        return []
    count = int(duration_s / step + 1e-9)
    return [
        Tick(round(100.0 * i * step / duration_s, 3), _clock(i * step)) for i in range(count + 1)
    ]


def _clock(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:g}"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


WIDTH_PX, HEIGHT_PX = 640, 340
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 52, 14, 14, 34
ZERO_PX = 34  # the strip at the left for no false alarm at all, which a logarithm cannot show


@dataclass(frozen=True, slots=True)
class Line:
    """One curve.

    Attributes:
        name: Scenario, or ``overall``.
        path: SVG path in pixels of the drawing.
        end: Where it ends: the run as it was.
    """

    name: str
    path: str
    end: tuple[float, float]


@dataclass(frozen=True, slots=True)
class CurveChart:
    """Misses over false alarms per camera-hour, on a logarithmic axis.

    Attributes:
        lines: All curves.
        x_ticks: False alarms per camera-hour.
        y_ticks: Share of events missed.
        limit_px: Where the area under the curve ends.
    """

    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    limit_px: float
    width_px: int = WIDTH_PX
    height_px: int = HEIGHT_PX
    left_px: int = LEFT_PX
    right_px: int = WIDTH_PX - RIGHT_PX
    top_px: int = TOP_PX
    bottom_px: int = HEIGHT_PX - BOTTOM_PX


def curve_chart(curves: Mapping[str, Mapping[str, Any] | None]) -> CurveChart | None:
    """A chart of the curves that are defined, as in the JSON document; None without any."""
    drawn = {name: one for name, one in curves.items() if one is not None}
    if not drawn:
        return None
    limit = next(iter(drawn.values()))["area_limit_per_hour"]
    rates = [p["false_per_hour"] for one in drawn.values() for p in one["points"]]
    above = [rate for rate in rates if rate > 0]
    low = math.floor(math.log10(min([*above, limit / 10.0])))
    high = math.ceil(math.log10(max([*above, limit * 1.01])))

    def x(rate: float) -> float:
        if rate <= 0:
            return LEFT_PX
        share = (math.log10(rate) - low) / (high - low)
        return round(LEFT_PX + ZERO_PX + share * (WIDTH_PX - RIGHT_PX - LEFT_PX - ZERO_PX), 1)

    def y(miss_rate: float) -> float:
        return round(TOP_PX + (1.0 - miss_rate) * (HEIGHT_PX - TOP_PX - BOTTOM_PX), 1)

    lines = []
    for name, one in drawn.items():
        places = [(x(p["false_per_hour"]), y(p["miss_rate"])) for p in one["points"]]
        lines.append(Line(name, _staircase(places), places[-1]))
    return CurveChart(
        tuple(lines),
        tuple(Tick(x(10.0**power), f"{10.0**power:g}") for power in range(low, high + 1)),
        tuple(Tick(y(share / 4), f"{share * 25}%") for share in range(5)),
        x(limit),
    )


def _staircase(places: Sequence[tuple[float, float]]) -> str:
    """Along first, then down: until the next false alarm nothing more is found."""
    (x, y), *rest = places
    steps = [f"M{x:g} {y:g}"]
    for to_x, to_y in rest:
        if to_x != x:
            steps.append(f"H{to_x:g}")
        if to_y != y:
            steps.append(f"V{to_y:g}")
        x, y = to_x, to_y
    return "".join(steps)
