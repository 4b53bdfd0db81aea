"""What a candidate is worth, figure by figure, and what it could still be worth.

A figure is of the examples that a candidate ran on: compare figures of the same examples only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from scipy import stats

from dspex_ray.core.errors import Invalid
from dspex_ray.core.objectives import Limit, Objective
from dspex_ray.optimization.model import Score
from dspex_ray.stats.intervals import amount_interval, mean_interval
from dspex_ray.stats.pareto import domination

ACCURACY: Final = "accuracy"
COST: Final = "cost"
KNOWN: Mapping[str, str] = {
    ACCURACY: "mean of the metric, 0 to 1",
    "latency": "mean milliseconds a run",
    "latency_p95": "milliseconds that 95 of 100 runs stay within",
    COST: "mean USD a run",
    "tokens": "mean tokens a run, of prompts and answers",
    "lm_calls": "mean LM calls a run",
    "failures": "share of the runs that failed",
}
_SHARES = (ACCURACY, "failures")  #: of the known ones, those from 0 to 1
DEFAULT_OBJECTIVES = (
    Objective(name=ACCURACY, weight=0.6),
    Objective(name="latency", direction="minimize", weight=0.2),
    Objective(name=COST, direction="minimize", weight=0.2),
)
_OF_RUN: Mapping[str, Callable[[Score], float]] = {
    ACCURACY: lambda score: score.value,
    "tokens": lambda score: float(score.tokens),
    "lm_calls": lambda score: float(score.lm_calls),
    "failures": lambda score: float(score.error is not None),
}
_CONFIDENCE = 0.95
_ROUNDED = 1 - 1e-12  #: equal amounts must not seem less than their own mean


def figures_of(scores: Sequence[Score], others: Iterable[str] = ()) -> dict[str, float]:
    """All known figures, and the mean of each further metric; NaN: not known.

    A failed run counts as 0 in every metric. The cost is known when that of each run is; latency
    is of the runs whose latency was measured.
    """
    found = {
        ACCURACY: _mean(_amounts(scores, ACCURACY)),
        "latency": _mean(_amounts(scores, "latency")),
        "latency_p95": _p95(_amounts(scores, "latency_p95")),
        COST: _mean(_amounts(scores, COST)),
        "tokens": _mean(_amounts(scores, "tokens")),
        "lm_calls": _mean(_amounts(scores, "lm_calls")),
        "failures": _mean(_amounts(scores, "failures")),
    }
    return found | {name: _mean(_amounts(scores, name)) for name in others}


def known_only(figures: Mapping[str, float]) -> dict[str, float]:
    """Without NaN, for which JSON has no form."""
    return {name: figure for name, figure in figures.items() if not math.isnan(figure)}


def direction_of(name: str) -> Literal["maximize", "minimize"]:
    """Which way a figure is better when nobody says: metrics up, what is spent down."""
    return "minimize" if name in KNOWN and name != ACCURACY else "maximize"


def objectives_given(given: Any) -> Any:
    """Objectives as a caller may write them: weights by name, or objects whose direction may be
    left to the figure. What is neither is handed back for pydantic to refuse."""
    if isinstance(given, Mapping):
        given = [{"name": name, "weight": weight} for name, weight in given.items()]
    if not isinstance(given, list | tuple):
        return given
    return tuple(
        {"direction": direction_of(str(one.get("name"))), **one}
        if isinstance(one, Mapping)
        else one
        for one in given
    )


def check_names(
    objectives: Sequence[Objective], limits: Sequence[Limit], others: Sequence[str]
) -> None:
    """Raises Invalid for a figure that nobody measures, one named twice, or weights that are 0."""
    for name in others:
        if name in KNOWN:
            raise Invalid(
                f"a further metric is named {name!r}, as a figure is", field="others", rule="name"
            )
    named = {"objectives": [one.name for one in objectives], "limits": [one.name for one in limits]}
    for field, names in named.items():
        for name in names:
            if name not in (*KNOWN, *others):
                known = ", ".join((*KNOWN, *others))
                raise Invalid(
                    f"nothing measures {name!r} (known figures: {known})",
                    field=f"parameters.{field}",
                    rule="known figure",
                )
        if len(set(names)) < len(names):
            raise Invalid(
                f"{field} name a figure twice", field=f"parameters.{field}", rule="no name twice"
            )
    if not any(objective.weight for objective in objectives):
        raise Invalid(
            "every weight is 0: nothing could be picked",
            field="parameters.objectives",
            rule="one weight above 0",
        )


def check_measured(
    figures: Mapping[str, float],
    objectives: Sequence[Objective],
    limits: Sequence[Limit],
    model: str | None = None,
) -> None:
    """Raises Invalid when the cost counts and is not known: `model`, or one of the program's, has
    no price."""
    if math.isnan(figures[COST]) and COST in _names(objectives, limits):
        whose = "a model that the program calls" if model is None else f"model {model!r}"
        raise Invalid(
            f"the cost counts (objectives or limits name it), but {whose} has no known price: "
            "give it one, or leave the cost out",
            field="parameters.objectives",
            rule="known price",
        )


def check_priced(
    objectives: Sequence[Objective], limits: Sequence[Limit], unpriced: Sequence[str]
) -> None:
    """As `check_measured`, before anything is: `unpriced` are the models without a known price."""
    if unpriced:
        unknown = {name: math.nan for name in KNOWN}
        check_measured(unknown, objectives, limits, unpriced[0])


def violation_of(figures: Mapping[str, float], limits: Iterable[Limit]) -> float:
    """How far the figures lie outside of the limits in all, in shares of each; 0 within them."""
    return sum(limit.violation(figures[limit.name]) for limit in limits)


def hopeless(
    scores: Sequence[Score],
    of: int,
    measured: Sequence[Mapping[str, float]],
    objectives: Sequence[Objective],
    limits: Sequence[Limit],
) -> bool:
    """Whether one of the candidates `measured` on all `of` examples beats the best that a candidate
    with these scores, of the first of them, can be expected to come to (its optimistic corner).

    Each figure's best is the near end of its 95 % interval, or what is left after the remaining
    examples at their very best, whichever is worse; so a candidate that belongs on the front is
    lost with a probability of 2.5 % a figure that decides, about, each time it is looked at.
    """
    if not scores or not measured:
        return False
    reach = {name: _reach(scores, name, of) for name in _names(objectives, limits)}
    best = [
        reach[one.name].high if one.direction == "maximize" else reach[one.name].low
        for one in objectives
    ]
    broken = sum(_least_violation(limit, reach[limit.name]) for limit in limits)
    whole = [row for row in measured if not any(math.isnan(row[one.name]) for one in objectives)]
    points = [[row[one.name] for one in objectives] for row in whole]
    outside = [violation_of(row, limits) for row in whole]
    return bool(domination([*points, best], objectives, [*outside, broken])[:, -1].any())


def _names(objectives: Sequence[Objective], limits: Sequence[Limit]) -> set[str]:
    return {one.name for one in objectives} | {one.name for one in limits}


class _Reach(NamedTuple):
    """Where a figure may come to lie once all examples are run."""

    low: float
    high: float


def _reach(scores: Sequence[Score], name: str, of: int) -> _Reach:
    """By the scores of the first of `of` examples."""
    amounts, left = _amounts(scores, name), of - len(scores)
    if not amounts:
        return _Reach(0.0, math.inf)
    if name == "latency_p95":
        return _Reach(_p95_at_least(amounts), math.inf)
    total = math.fsum(amounts)
    if name in _SHARES or name not in KNOWN:
        expected = mean_interval(amounts, _CONFIDENCE)
        low, high = max(expected.low, total / of), min(expected.high, (total + left) / of)
        return _Reach(low, high)
    low, interval = total / (len(amounts) + left), amount_interval(amounts, _CONFIDENCE)
    if interval is None:
        return _Reach(low, math.inf)
    return _Reach(max(low, interval.low * _ROUNDED), interval.high)


def _least_violation(limit: Limit, reach: _Reach) -> float:
    floor = -math.inf if limit.at_least is None else limit.at_least
    ceiling = math.inf if limit.at_most is None else limit.at_most
    if reach.low <= ceiling and reach.high >= floor:
        return 0.0
    return min(limit.violation(reach.low), limit.violation(reach.high))


def _amounts(scores: Sequence[Score], name: str) -> list[float]:
    """One number a run; none at all of a cost that is not known of each, none of a run whose
    latency was not measured."""
    if name == COST:
        known = [float(score.cost_usd) for score in scores if score.cost_usd is not None]
        return known if len(known) == len(scores) else []
    if name in ("latency", "latency_p95"):
        return [score.latency_ms for score in scores if score.latency_ms is not None]
    if name in _OF_RUN:
        return [_OF_RUN[name](score) for score in scores]
    return [score.others.get(name, 0.0) for score in scores]


def _mean(amounts: Sequence[float]) -> float:
    return math.fsum(amounts) / len(amounts) if amounts else math.nan


def _p95(amounts: Sequence[float]) -> float:
    return float(np.quantile(amounts, 0.95)) if amounts else math.nan


def _p95_at_least(amounts: Sequence[float]) -> float:
    """Below the 95th percentile with 97.5 % confidence, whatever the distribution: by how many
    of the runs can be above it. 0 when all may be."""
    below = int(stats.binom.ppf((1 - _CONFIDENCE) / 2, len(amounts), 0.95))
    return sorted(amounts)[below - 1] if below else 0.0
