"""Lines over the hours of a day as SVG, written by hand: no library is worth three panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 860, 170, 70, 24, 44, 52  # pixels
HOURS = 24
STEP = 4  # hours between two marks
MARKS = 4  # of the other axis

_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"
  width="{width}" height="{height}" font-family="sans-serif" font-size="12" fill="#333">
<title>{title}</title>
<rect width="100%" height="100%" fill="#fff"/>"""


@dataclass(frozen=True, slots=True)
class Line:
    """`points`: hours, and what the panel shows of them. `dashes` as SVG has them; "": none."""

    label: str
    color: str
    points: Sequence[tuple[float, float]]
    dashes: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram, from 0 to `top`."""

    title: str
    top: float
    lines: Sequence[Line]


def chart(title: str, panels: Sequence[Panel]) -> str:
    """The panels, one below the other."""
    height = TOP + len(panels) * (PANEL + GAP)
    parts = [_HEAD.format(width=WIDTH, height=height, title=title)]
    parts += [_text(LEFT, 20, title, "font-size='15' font-weight='bold'")]
    for number, panel in enumerate(panels):
        parts += _panel(panel, TOP + GAP // 3 + number * (PANEL + GAP))
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, top: int) -> list[str]:
    bottom, right = top + PANEL, WIDTH - RIGHT
    parts = [_text(LEFT, top - 8, panel.title, "font-weight='bold'")]
    for mark in range(MARKS + 1):
        y = bottom - PANEL * mark / MARKS
        parts.append(f"<path d='M{LEFT} {y:.1f}H{right}' stroke='#ddd'/>")
        parts.append(_text(LEFT - 8, y + 4, f"{panel.top * mark / MARKS:g}", "text-anchor='end'"))
    hours = range(0, HOURS + 1, STEP)
    parts += [_text(_x(hour), bottom + 16, f"{hour} h", "text-anchor='middle'") for hour in hours]
    for number, line in enumerate(panel.lines):
        points = " ".join(
            f"{_x(hour):.1f},{bottom - PANEL * min(value / panel.top, 1):.1f}" for hour, value in line.points
        )
        style = f"stroke='{line.color}' stroke-width='1.6' stroke-dasharray='{line.dashes}'"
        parts.append(f"<polyline points='{points}' fill='none' {style}/>")
        parts.append(
            _text(right - 130 * number, top - 8, line.label, f"text-anchor='end' fill='{line.color}'")
        )
    return parts


def _x(hour: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * hour / HOURS


def _text(x: float, y: float, text: str, style: str) -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' {style}>{text}</text>"
