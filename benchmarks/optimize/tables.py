"""The results as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.optimize.figures import Row
from benchmarks.optimize.goals import GOALS, Goal
from benchmarks.tables import NOTHING, table


def by_who(rows: Sequence[Row], item: str) -> str:
    """A table a case: a line for everyone measured, a column a figure. A cell is the median, with
    the least and the greatest of several rounds, and how many rounds it is of if not of all."""
    own = [row for row in rows if row.item == item]
    parts = [
        _case([row for row in own if row.case == case], case)
        for case in dict.fromkeys(row.case for row in own)
    ]
    return "\n".join(parts) or NOTHING


def by_case(rows: Sequence[Row], item: str) -> str:
    """One table: a line a case and whoever was measured in it."""
    own = [row for row in rows if row.item == item]
    measures = list(dict.fromkeys((row.measure, row.unit) for row in own))
    found = {(row.case, row.who, row.measure): row for row in own}
    lines = [
        [
            f"{case}: {who}" if case else who,
            *(_cell(found.get((case, who, m))) for m, _ in measures),
        ]
        for case, who in dict.fromkeys((row.case, row.who) for row in own)
    ]
    heads = ["", *(f"{name} {unit}".strip() for name, unit in measures)]
    return table(heads, lines) if lines else NOTHING


def goals(rows: Sequence[Row]) -> str:
    return table(["target", "measured", "met"], (_goal(goal, rows) for goal in GOALS))


def _case(rows: Sequence[Row], case: str) -> str:
    measures = list(dict.fromkeys((row.measure, row.unit) for row in rows))
    found = {(row.who, row.measure): row for row in rows}
    lines = [
        [who, *(_cell(found.get((who, name))) for name, _ in measures)]
        for who in dict.fromkeys(row.who for row in rows)
    ]
    return table([case, *(f"{name} {unit}".strip() for name, unit in measures)], lines)


def _goal(goal: Goal, rows: Sequence[Row]) -> list[str]:
    said = {True: "yes", False: "**no**", None: "not measured"}[goal.is_met(rows)]
    figures = (f"{label}: {value:.2f}" for label, value in goal.figures(rows))
    return [goal.text, "; ".join(figures), said]


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    spread = f" ({_number(row.low)} to {_number(row.high)})" if row.low != row.high else ""
    some = f", {row.reached} of {row.rounds}" if row.reached < row.rounds else ""
    return f"{_number(row.value)}{spread}{some}"


def _number(value: float) -> str:
    """Three digits that mean something, no more."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}".removesuffix(".00")
