"""What the figures are to be, and whether they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from benchmarks.optimize import evaluation, quality, resume
from benchmarks.optimize.figures import OURS, Row, find, ratio


class Said(NamedTuple):
    """A figure that a goal looks at, and of what."""

    label: str
    value: float


@dataclass(frozen=True)
class Goal:
    """Met when `meets` says so of every figure; not measured when there is none."""

    text: str
    figures: Callable[[Sequence[Row]], Iterator[Said]]
    meets: Callable[[float], bool]

    def is_met(self, rows: Sequence[Row]) -> bool | None:
        found = list(self.figures(rows))
        return all(self.meets(said.value) for said in found) if found else None


def _one_node(rows: Sequence[Row]) -> Iterator[Said]:
    """Their time by ours."""
    cases = [evaluation.DEFAULT, *(f"{at_once} at once" for at_once in evaluation.AT_ONCE)]
    for case in cases:
        theirs = find(rows, evaluation.ITEM, case, evaluation.DSPY, "time")
        ours = find(rows, evaluation.ITEM, case, evaluation.actors(1), "time")
        if (found := ratio(theirs, ours)) is not None:
            yield Said(case, found)


def _more_nodes(rows: Sequence[Row]) -> Iterator[Said]:
    """How much of so many times the speed of one node."""
    alone = find(rows, evaluation.NODES_ITEM, evaluation.nodes(1), OURS, "time")
    for count in evaluation.NODES[1:]:
        together = find(rows, evaluation.NODES_ITEM, evaluation.nodes(count), OURS, "time")
        if (found := ratio(alone, together)) is not None:
            yield Said(evaluation.nodes(count), found / count)


def _half_the_calls(rows: Sequence[Row]) -> Iterator[Said]:
    """Their calls to the mean true quality that they end with, by ours to the same."""
    for who in (quality.MIPRO, quality.RANDOM):
        row = find(rows, quality.ITEM, quality.MEAN, who, quality.ADVANTAGE)
        if row is not None:
            yield Said(who, row.value)


def _paid_twice(rows: Sequence[Row]) -> Iterator[Said]:
    """The worst of the kills."""
    for row in rows:
        if row.item == resume.ITEM and row.measure == resume.TWICE:
            yield Said(row.case, row.high)


GOALS: Final = (
    Goal(
        "one node, one actor: no slower than dspy.Evaluate (its time / ours)",
        _one_node,
        lambda figure: figure >= 1,
    ),
    Goal(
        "more nodes: at least 85 % of so many times the speed of one",
        _more_nodes,
        lambda figure: figure >= 0.85,
    ),
    Goal(
        "the true quality that they end with, in at most half their calls (theirs / ours)",
        _half_the_calls,
        lambda figure: figure >= 2,
    ),
    Goal("a killed run: no answer paid for twice", _paid_twice, lambda figure: figure == 0),
)
