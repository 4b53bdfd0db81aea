"""An optimizer that tries demo sets of some sizes, and hands back a front of them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from dspex_ray.core.objectives import Objective
from dspex_ray.optimization.budget import RunHalted
from dspex_ray.optimization.edits import with_demos, with_instructions
from dspex_ray.optimization.front import Front, FrontPoint, HypervolumeMark
from dspex_ray.optimization.model import Candidate, Needs, Outcome, Problem
from dspex_ray.optimization.record import Record, measure_all
from dspex_ray.optimization.rules import OptimizerParameters
from dspex_ray.optimization.workbench import Workbench
from dspex_ray.stats import pareto
from tests.unit.optimization.parts import MAGIC

OBJECTIVES = (Objective(name="accuracy"), Objective(name="demos", direction="minimize", weight=0.1))


class Sizes(OptimizerParameters):
    front_size: int = Field(default=4, ge=1)
    sizes: tuple[int, ...] = (1, 2, 4)


class SmallFront:
    """`given` are all examples that it was ever given, by hash."""

    name = "SmallFront"
    aliases: tuple[str, ...] = ()
    description = "For tests."
    source = "tests"
    needs = Needs()
    parameters = Sizes
    refused: str | None = None

    def __init__(self) -> None:
        self.given: set[str] = set()
        self.budgets: list[int | None] = []

    async def optimize(self, problem: Problem, parameters: Sizes, bench: Workbench) -> Outcome:
        self.given |= {example.hash for example in (*problem.train, *problem.dev)}
        self.budgets.append(problem.budget.lm_calls)
        record = Record(problem, bench.ledger, bench.on_trial)
        points: list[FrontPoint] = []
        try:
            for size in (0, *parameters.sizes):
                points.append(await _tried(record, problem, bench, size))
        except RunHalted as halt:
            return record.outcome(halt=halt)
        rows = [(point.figures["accuracy"], point.figures["demos"]) for point in points]
        best = pareto.weighted_pick(rows, OBJECTIVES)
        kept = tuple(
            points[row].model_copy(update={"picked": row == best})
            for row in pareto.front(rows, OBJECTIVES)
        )
        front = Front(
            objectives=OBJECTIVES,
            points=tuple(sorted(kept, key=lambda point: -point.figures["accuracy"])),
            hypervolume=tuple(
                HypervolumeMark(
                    trials=n + 1, value=pareto.hypervolume(rows[: n + 1], (0.0, 9.0), OBJECTIVES)
                )
                for n in range(len(rows))
            ),
            reference={"accuracy": 0.0, "demos": 9.0},
            examples=len(problem.selection),
        )
        return record.outcome(record.get(points[best].candidate)).model_copy(
            update={"front": front}
        )


async def _tried(record: Record, problem: Problem, bench: Workbench, size: int) -> FrontPoint:
    candidate = _candidate(record, problem, size)
    (scores,) = await measure_all(bench.evaluator, record, [(candidate, problem.selection)])
    figures = {"accuracy": sum(s.value for s in scores) / len(scores), "demos": float(size)}
    record.note(candidate.hash, {"configuration": {"demos": size}, "figures": figures})
    trial = record.scored(candidate.hash, record.get(candidate.hash).scores)
    return FrontPoint(
        candidate=candidate.hash,
        trial=trial.number,
        configuration={"demos": size},
        figures=figures,
    )


def _candidate(record: Record, problem: Problem, size: int) -> Candidate:
    if not size:
        return record.start
    demos: list[dict[str, Any]] = [dict(example.values) for example in problem.train[:size]]
    told = with_instructions(problem.artifact, "main", f"Name the topic {MAGIC}, {size}.")
    return record.add(with_demos(told, "main", demos), SmallFront.name, [record.start.hash])
