"""A sweep as a picture: accuracy with its bound against delay, one point a setting (SVG)."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from benchmarks.sweep import Cell, Grid

__all__ = ["sweep_chart"]

Scale = Callable[[float], float]
"""A value as a place in the picture, pixels."""

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 44, 52
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#2b3640}.axis{stroke:#7d8a96}.grid{stroke:#e3e8ec}"
    ".target{stroke:#1a7f5a;stroke-dasharray:5 4}.bound{stroke:#9fb3c4;stroke-width:2}"
    ".dot{fill:#2f6f9f}.best{fill:#1a7f5a}"
)


def sweep_chart(grid: Grid, target: float) -> str:
    """An SVG document; cells without an alarm or a delay are named below, not drawn.

    Args:
        grid: The sweep.
        target: Share of true alarms that is asked for, drawn as a line.
    """
    drawn = [cell for cell in grid.cells if _place(cell) is not None]
    longest_s = max((_place(cell) or (0.0, 0.0))[0] for cell in drawn) if drawn else 1.0
    span_s = max(longest_s * 1.15, 1.0)

    def x(delay_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * delay_s / span_s

    def y(share: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    title = grid.title
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" font-weight="600">{escape(title)}: accuracy and bound over delay</text>',
    ]
    for tenth in range(0, 11, 2):
        level = y(tenth / 10)
        parts.append(f'<path class="grid" d="M{LEFT} {level:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{level + 4:.1f}" text-anchor="end">{tenth * 10} %</text>'
        )
    for k in range(6):
        delay_s = span_s * k / 5
        parts.append(
            f'<text x="{x(delay_s):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{delay_s:.1f} s</text>'
        )
    parts.append(
        f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none"/>'
    )
    parts.append(f'<path class="target" d="M{LEFT} {y(target):.1f}H{WIDTH - RIGHT}"/>')
    parts.append(
        f'<text x="{WIDTH - RIGHT}" y="{y(target) - 5:.1f}" text-anchor="end">{target:.1%}</text>'
    )
    for cell in drawn:
        parts += _point(cell, x, y, best=cell is grid.best)
    missing = len(grid.cells) - len(drawn)
    note = (
        f"{missing} settings without a true alarm whose delay is known are not drawn"
        if missing
        else ""
    )
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 8}">{note}</text></svg>')
    return "\n".join(parts) + "\n"


def _place(cell: Cell) -> tuple[float, float] | None:
    score = cell.score
    if score is None or score.accuracy is None or score.delay_p50_s is None:
        return None
    return score.delay_p50_s, score.accuracy


def _point(cell: Cell, x: Scale, y: Scale, *, best: bool) -> list[str]:
    place, score = _place(cell), cell.score
    if place is None or score is None:
        return []
    delay_s, accuracy = place
    at, level = x(delay_s), y(accuracy)
    floor = y(score.accuracy_lower or 0.0)
    found = f"{score.events - score.missed} of {score.events} found"
    label = " / ".join(setting.text for setting in cell.settings)
    return [
        f"<g><title>{escape(cell.words)}: {accuracy:.1%}, {found}, {delay_s:.1f} s</title>",
        f'<path class="bound" d="M{at:.1f} {level:.1f}V{floor:.1f}"/>',
        f'<circle class="{"best" if best else "dot"}" cx="{at:.1f}" cy="{level:.1f}" r="{6 if best else 4}"/>',
        f'<text x="{at + 8:.1f}" y="{level - 6:.1f}">{escape(label)}</text></g>',
    ]
