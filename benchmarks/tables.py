"""The results as Markdown tables, and the parts of RESULTS.md that no run writes anew."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from benchmarks.figures import Row
from benchmarks.goals import GOALS, Goal

OURS: Final = "**dspex-ray**"
NOTHING: Final = "Not measured.\n"


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """The first column is text, the others are figures."""
    rules = ["---", *["---:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, rules, *lines))


def by_peer(rows: Sequence[Row], section: str, ratio_of: str) -> str:
    """A table a number of connections: a line a peer, a column a figure, and one of ratios."""
    own = [row for row in rows if row.name.startswith(f"{section}.")]
    parts = []
    for connections in sorted({row.connections or 0 for row in own}):
        here = [row for row in own if row.connections == connections]
        peers = list(dict.fromkeys(row.peer for row in here))
        names = list(dict.fromkeys(row.name for row in here))
        found = {(row.peer, row.name): row for row in here}
        heads = [_head(name, here) for name in names]
        lines = [
            [
                peer or OURS,
                *(_value(found.get((peer, name))) for name in names),
                _ratio(found.get((peer, f"{section}.{ratio_of}"))),
            ]
            for peer in peers
        ]
        said = f"{connections} connection{'s' if connections > 1 else ''}"
        parts.append(table([said, *heads, "ours / theirs"], lines))
    return "\n".join(parts) or NOTHING


def listing(rows: Iterable[Row], section: str) -> str:
    """A line a figure."""
    own = [row for row in rows if row.name.startswith(f"{section}.")]
    lines = [[_words(row.name), f"{_number(row.value)} {row.unit}"] for row in own]
    return table(["", "measured"], lines) if lines else NOTHING


def memory(rows: Iterable[Row]) -> str:
    """A line a role; `-` where there is no such sum."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.name.startswith("memory."):
            _, role, kind = row.name.split(".")
            found.setdefault(role, {})[kind] = row
    kinds = ("uss", "pss", "rss")
    lines = [[role, *(_value(kept.get(kind)) for kind in kinds)] for role, kept in found.items()]
    return table(["role", "USS MB", "PSS MB", "RSS MB"], lines) if lines else NOTHING


def goals(rows: Sequence[Row]) -> str:
    return table(["target", "measured", "met"], (_goal(goal, rows) for goal in GOALS))


def kept(text: str, name: str) -> str | None:
    """What stands between the marks of a part that a run leaves alone."""
    found = re.search(_marks(name), text, re.DOTALL)
    return found[1] if found else None


def part(name: str, content: str) -> str:
    return f"<!-- {name}: kept by make bench -->\n{content.strip()}\n<!-- /{name} -->\n"


def replaced(text: str, name: str, content: str) -> str:
    """`text` with another content between the marks. Raises ValueError when it has none."""
    if kept(text, name) is None:
        raise ValueError(f"there is no part {name!r}")
    return re.sub(
        rf"{_marks(name)}\n", lambda _: part(name, content), text, count=1, flags=re.DOTALL
    )


def _marks(name: str) -> str:
    return rf"<!-- {name}: kept by make bench -->\n(.*?)\n<!-- /{name} -->"


def _goal(goal: Goal, rows: Sequence[Row]) -> list[str]:
    said = {True: "yes", False: "**no**", None: "not measured"}[goal.is_met(rows)]
    figures = (
        (f"{row.connections}: " if row.connections and goal.ratio else "")
        + (_ratio(row) if goal.ratio else f"{_number(row.value)} {row.unit}")
        for row in goal.measured(rows)
    )
    return [goal.text, ", ".join(figures), said]


def _head(name: str, rows: Iterable[Row]) -> str:
    unit = next(row.unit for row in rows if row.name == name)
    words = _words(name)
    return words if unit == "errors" else f"{words} {unit}"


def _words(name: str) -> str:
    return name.partition(".")[2].replace(".", ", ").replace("_", " ")


def _value(row: Row | None) -> str:
    return "-" if row is None else _number(row.value)


def _number(value: float) -> str:
    """Three digits that mean something, no more."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}".removesuffix(".00")


def _ratio(row: Row | None) -> str:
    return "" if row is None or row.ratio is None else f"{row.ratio:.2f}"
