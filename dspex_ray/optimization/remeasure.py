"""Measures what a search ended in on the test examples, which it never saw, beside its start.

Calls are kept for that: the search may spend what is left of the budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from statistics import fmean
from typing import Any

from dspex_ray.core.errors import Invalid
from dspex_ray.datasets.model import Example
from dspex_ray.optimization.budget import BudgetExhausted, RunHalted, RunRefused
from dspex_ray.optimization.figures import figures_of, known_only
from dspex_ray.optimization.front import Front, FrontPoint
from dspex_ray.optimization.held_out import HeldOut, HeldOutStart, HeldOutVersion
from dspex_ray.optimization.model import Budget, Candidate, Outcome, Problem, Score
from dspex_ray.optimization.workbench import Workbench
from dspex_ray.stats.intervals import mean_interval
from dspex_ray.stats.paired import compare_scores

_MOST_KEPT = 0.5  #: of a ceiling that is not one of calls

#: Programs, with their mean on the examples they were chosen by.
Chosen = Sequence[tuple[Candidate, float | None]]
#: On the same examples in the same order, by the program's hash.
Measured = Mapping[str, Sequence[Score]]


def versions_planned(register_best: int, parameters: Mapping[str, Any]) -> int:
    """How many programs a run may end in: of a search for a front, as many as it has points."""
    points = parameters.get("front_size") or 0
    return max(register_best, points) if register_best else 0


def calls_kept(versions: int, examples: int, calls_a_run: int, budget: Budget) -> int:
    """LM calls for the start and so many versions on so many test examples: of a budget of calls
    half at most, unless the start and the best version alone take more.

    Raises Invalid when that leaves none for the search.
    """
    each = examples * calls_a_run
    whole, least = (1 + versions) * each, (1 + min(1, versions)) * each
    if budget.lm_calls is None or not each:
        return whole
    if budget.lm_calls <= least:
        raise Invalid(
            f"budget.lm_calls is {budget.lm_calls}: measuring the start and the best version on "
            f"{examples} test examples takes {least} calls, and leaves none for the search",
            field="budget.lm_calls",
            rule=f"above {least}",
        )
    return max(least, min(whole, budget.lm_calls // 2))


def search_budget(budget: Budget, kept: int, estimated_calls: int | None) -> Budget:
    """What the search may spend: all but the calls that are kept, and of each other ceiling all but
    the share that these are of all calls, as estimated; at least half."""
    share = min(_MOST_KEPT, kept / estimated_calls) if estimated_calls else 0.0
    return Budget(
        usd=None if budget.usd is None else budget.usd * (1 - Decimal(f"{share:.6f}")),
        lm_calls=None if budget.lm_calls is None else budget.lm_calls - kept,
        tokens=None if budget.tokens is None else math.ceil(budget.tokens * (1 - share)),
        seconds=None if budget.seconds is None else budget.seconds * (1 - share),
    )


async def remeasured(
    outcome: Outcome, chosen: Chosen, problem: Problem, test: Sequence[Example], bench: Workbench
) -> Outcome:
    """The outcome with its evidence: the start and the chosen, each on all of `test`, in turn.

    What a spent budget, a cancel or a metric at fault left unmeasured is missing there.
    """
    programs = {one.hash: one for one in (outcome.candidates[0], *(one for one, _ in chosen))}
    found: dict[str, list[Score]] = {}
    missing = None
    try:
        for key, candidate in programs.items():
            found[key] = await bench.evaluator.evaluate(candidate.artifact, test)
    except RunHalted as halt:
        missing = f"{_why(halt)}: {len(found)} of {len(programs)} programs were measured"
    runs = [score for scores in found.values() for score in scores]
    front = outcome.front
    return outcome.model_copy(
        update={
            "held_out": evidence(outcome, chosen, found, problem, len(test), missing),
            "front": None if front is None else front_on(front, found, problem, len(test)),
            "spent": bench.ledger.spent,
            "program_runs": outcome.program_runs + len(runs),
            "failed_runs": outcome.failed_runs + sum(score.error is not None for score in runs),
        }
    )


def evidence(
    outcome: Outcome,
    chosen: Chosen,
    found: Measured,
    problem: Problem,
    examples: int,
    missing: str | None = None,
) -> HeldOut:
    """`found` on so many test examples; the chosen that are not among it are left out."""
    start = outcome.candidates[0].hash
    before = found.get(start)
    versions = (
        _version(one, selection, found[one.hash], None if one.hash == start else before, problem)
        for one, selection in chosen
        if one.hash in found
    )
    return HeldOut(
        examples=examples,
        start=None if before is None else _start(before, problem),
        versions=tuple(versions),
        missing=missing,
    )


def front_on(front: Front, found: Measured, problem: Problem, examples: int) -> Front:
    """The front, each point with the figures of these test examples too that it has already."""

    def measured(point: FrontPoint) -> FrontPoint:
        if point.candidate not in found:
            return point
        figures = _figures(found[point.candidate], problem)
        held_out = {name: figures[name] for name in point.figures if name in figures}
        return point.model_copy(update={"held_out": held_out})

    points = tuple(measured(point) for point in front.points)
    return front.model_copy(update={"points": points, "held_out_examples": examples})


def _start(scores: Sequence[Score], problem: Problem) -> HeldOutStart:
    values = [score.value for score in scores]
    return HeldOutStart(
        score=fmean(values), interval=mean_interval(values), figures=_figures(scores, problem)
    )


def _version(
    candidate: Candidate,
    selection: float | None,
    scores: Sequence[Score],
    before: Sequence[Score] | None,
    problem: Problem,
) -> HeldOutVersion:
    """`before` are the start's scores; None for the start itself."""
    measured, lead = _start(scores, problem), None
    if before is not None and len(scores) > 1:
        pair = ([score.value for score in side] for side in (before, scores))
        lead = compare_scores(*pair, seed=problem.seed)
    return HeldOutVersion(
        **dict(measured),
        candidate=candidate.hash,
        selection=selection,
        flattered=None if selection is None else selection - measured.score,
        lead=lead,
    )


def _figures(scores: Sequence[Score], problem: Problem) -> dict[str, float]:
    return known_only(figures_of(scores, [metric.name for metric in problem.others]))


def _why(halt: RunHalted) -> str:
    if isinstance(halt, BudgetExhausted):
        return f"the budget of {halt.limit} ended"
    if isinstance(halt, RunRefused):
        return halt.error.message
    return "the run was cancelled"
