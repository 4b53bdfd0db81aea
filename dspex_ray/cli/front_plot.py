"""A front drawn in the terminal: each point by the number that it has in the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.text import Text

from dspex_ray.cli.front_figures import Axis
from dspex_ray.cli.output import plain
from dspex_ray.optimization.front import FrontPoint

WIDTH, HEIGHT = 60, 15
_MARKS = "123456789abcdefghijklmnopqrstuvwxyz"
_MANY = "+"


class _Place(NamedTuple):
    column: int
    row: int  #: from the top


def mark_of(position: int) -> str:
    """Of the point at this position of the front, from 0; those beyond 35 are alike."""
    return _MARKS[position] if position < len(_MARKS) else _MANY


def scatter(points: Sequence[FrontPoint], x: Axis, y: Axis) -> Text:
    """`+` stands for several at one place. A point without one of the figures is not drawn."""
    across = {n: value for n, p in enumerate(points) if (value := x.of(p.figures)) is not None}
    up = {n: value for n, p in enumerate(points) if (value := y.of(p.figures)) is not None}
    drawn = sorted(across.keys() & up.keys())
    if not drawn:
        return Text("no point has both figures", style="dim")
    low_x, high_x = min(across[n] for n in drawn), max(across[n] for n in drawn)
    low_y, high_y = min(up[n] for n in drawn), max(up[n] for n in drawn)
    cells: dict[_Place, str] = {}
    for n in drawn:
        column = _step(across[n], low_x, high_x, WIDTH)
        place = _Place(column, HEIGHT - 1 - _step(up[n], low_y, high_y, HEIGHT))
        cells[place] = _MANY if place in cells else mark_of(n)
    picked = {mark_of(n) for n in drawn if points[n].picked}
    ends = _ends(y, low_y, high_y)
    return _lines(cells, picked, ends, _ends(x, low_x, high_x), (x.label, y.label))


def _lines(
    cells: dict[_Place, str],
    picked: set[str],
    up: tuple[str, str],
    across: tuple[str, str],
    labels: tuple[str, str],
) -> Text:
    margin = max(len(end) for end in up)
    drawn = Text(plain(labels[1]) + "\n")
    for row in range(HEIGHT):
        end = up[1] if row == 0 else up[0] if row == HEIGHT - 1 else ""
        drawn.append(f"{end:>{margin}} {'┤' if end else '│'}", style="dim")
        for column in range(WIDTH):
            mark = cells.get(_Place(column, row), " ")
            drawn.append(mark, style="bold reverse" if mark in picked else "bold")
        drawn.append("\n")
    low, high = across
    drawn.append(f"{'':>{margin}} └{'─' * WIDTH}\n", style="dim")
    drawn.append(f"{'':>{margin}}  {low}{high:>{max(0, WIDTH - len(low))}}\n", style="dim")
    drawn.append(f"{'':>{margin}}  {plain(labels[0]):^{WIDTH}}".rstrip())
    return drawn


def _ends(axis: Axis, low: float, high: float) -> tuple[str, str]:
    return axis.told(low), "" if low == high else axis.told(high)


def _step(value: float, low: float, high: float, steps: int) -> int:
    """From 0 to steps - 1; in the middle when there is but one value."""
    if low == high:
        return steps // 2
    return round((value - low) / (high - low) * (steps - 1))
