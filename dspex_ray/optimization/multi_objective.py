"""MultiObjective: the programs that no other beats in quality, speed and cost together.

A population of configurations, instructions and demo sets grows by generations: Optuna's sampler
and variation propose (`study`), all are measured on the same examples, losers are dropped early.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Annotated

from pydantic import BeforeValidator, Field

from dspex_ray.core.objectives import Limit, Objective
from dspex_ray.datasets.model import Example
from dspex_ray.optimization.budget import RunHalted
from dspex_ray.optimization.demos import balanced_order, labels_of
from dspex_ray.optimization.figures import DEFAULT_OBJECTIVES, check_names, objectives_given
from dspex_ray.optimization.model import Candidate, Needs, Outcome, Problem
from dspex_ray.optimization.palette import Palette, PaletteParameters
from dspex_ray.optimization.record import Record, measure_all
from dspex_ray.optimization.searching import Search
from dspex_ray.optimization.study import SamplerName, Study
from dspex_ray.optimization.workbench import Workbench

_WAVES = 4  #: parts of a generation: each races against what the parts before came to


class MultiObjectiveParameters(PaletteParameters):
    objectives: Annotated[
        tuple[Objective, ...],
        BeforeValidator(
            objectives_given, json_schema_input_type=dict[str, float] | list[Objective]
        ),
    ] = Field(
        default=DEFAULT_OBJECTIVES,
        min_length=1,
        max_length=5,
        description="figures that count, with their weights in the pick: accuracy, latency, "
        "latency_p95, cost, tokens, lm_calls, failures, or a further metric",
    )
    limits: tuple[Limit, ...] = Field(
        default=(), description="figures that must hold, such as latency_p95 at_most 800"
    )
    population_size: int = Field(default=20, ge=2, le=1000, description="candidates a generation")
    iterations: int = Field(default=10, ge=1, le=1000, description="generations")
    examples: int = Field(
        default=20, ge=1, description="dev examples that every candidate is measured on, at most"
    )
    racing: bool = Field(default=True, description="drop clearly dominated candidates early")
    patience: int | None = Field(
        default=3, ge=1, description="generations that add nothing to the front; null: all are made"
    )
    front_size: int = Field(
        default=20, ge=1, le=100, description="programs of the front that are kept, at most"
    )
    sampler: SamplerName = Field(default="portfolio", description="what proposes candidates")


class MultiObjective:
    name = "MultiObjective"
    aliases: tuple[str, ...] = ()
    description = (
        "Searches settings, models, module types, instructions and demos for the programs that no "
        "other beats in several objectives, within limits, and picks one by weights."
    )
    source = "dspex_ray"
    needs = Needs()
    parameters = MultiObjectiveParameters
    refused: str | None = None

    async def optimize(
        self, problem: Problem, parameters: MultiObjectiveParameters, bench: Workbench
    ) -> Outcome:
        others = [metric.name for metric in problem.others]
        check_names(parameters.objectives, parameters.limits, others)
        record = Record(problem, bench.ledger, bench.on_trial)
        palette = Palette(problem, parameters, bench)
        try:
            await palette.propose()
        except RunHalted as halt:
            return record.outcome(halt=halt)
        order = same_examples(problem, parameters.examples)
        record.compete_on([example.hash for example in order])
        study = Study(
            palette.space,
            parameters.objectives,
            parameters.limits,
            seed=problem.seed,
            sampler=parameters.sampler,
            start=palette.start,
            growing=palette.growing,
            mint=palette.mint,
        )
        search = Search(
            self.name,
            problem,
            bench,
            record,
            palette,
            study,
            order,
            limits=parameters.limits,
            racing=parameters.racing,
        )
        return await _searched(search, study, parameters, problem, bench, record)


def same_examples(problem: Problem, most: int | None = None) -> list[Example]:
    """The examples that all candidates of a run are measured on, in the same seeded order; labels
    in turn, so that each prefix holds about as many of each."""
    rng = random.Random(problem.seed)  # noqa: S311 - an order of examples
    labels = labels_of(problem.artifact, [*problem.train, *problem.dev])
    return balanced_order(problem.selection, labels, rng)[:most]


async def _searched(
    search: Search,
    study: Study,
    parameters: MultiObjectiveParameters,
    problem: Problem,
    bench: Workbench,
    record: Record,
) -> Outcome:
    best: Candidate | None = None
    generations = _Generations(search, study, parameters)
    halt = await search.run(generations.ask)
    try:
        if halt is None:
            await _measure_rest(search, study, problem, bench, record)
    except RunHalted as ended:
        halt = ended
    pick = study.pick()
    if pick is not None:
        best = search.candidate(pick)
    outcome = search.outcome(best, halt, {"generations": generations.begun})
    if pick is None:
        return outcome
    return outcome.model_copy(update={"front": search.front(parameters.front_size)})


class _Generations:
    """The start alone, then generations, a part of one at a time."""

    def __init__(self, search: Search, study: Study, given: MultiObjectiveParameters) -> None:
        self._search, self._study, self._given = search, study, given
        self._size = math.ceil(given.population_size / _WAVES)
        self._left: Sequence[int] = ()
        self.begun = -1  # the start is no generation

    def ask(self) -> Sequence[int]:
        if not self._left and not self._over():
            self._left = self._search.ask(self._given.population_size)
            self.begun += bool(self._left)
        wave, self._left = self._left[: self._size], self._left[self._size :]
        return wave

    def _over(self) -> bool:
        given = self._given
        if self.begun >= given.iterations:
            return True
        stale = self._study.since_better()
        return given.patience is not None and stale > given.patience * given.population_size


async def _measure_rest(
    search: Search, study: Study, problem: Problem, bench: Workbench, record: Record
) -> None:
    """The pick, on the dev examples that the search left out: its score is then of all."""
    pick = study.pick()
    if pick is None or search.halt is not None:
        return
    best = search.candidate(pick)
    rest = [example for example in problem.selection if example.hash not in best.scores]
    if rest:
        await measure_all(bench.evaluator, record, [(best, rest)])
