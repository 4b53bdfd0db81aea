"""BayesianOptimizer: one figure, the metric, by a model of what earlier candidates were worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from dspex_ray.core.objectives import Objective
from dspex_ray.optimization.budget import RunHalted
from dspex_ray.optimization.figures import ACCURACY
from dspex_ray.optimization.gp import Acquisition
from dspex_ray.optimization.model import Candidate, Needs, Outcome, Problem
from dspex_ray.optimization.multi_objective import same_examples
from dspex_ray.optimization.palette import Palette, PaletteParameters
from dspex_ray.optimization.record import Record
from dspex_ray.optimization.samplers import Sampler
from dspex_ray.optimization.searching import Search
from dspex_ray.optimization.study import SamplerName, Study
from dspex_ray.optimization.surrogate import gaussian_process
from dspex_ray.optimization.workbench import Workbench

OBJECTIVES = (Objective(name=ACCURACY),)


class BayesianParameters(PaletteParameters):
    num_initial_samples: int = Field(
        default=10, ge=1, le=1000, description="candidates spread over the space, the start first"
    )
    max_iterations: int = Field(default=50, ge=0, le=10_000, description="candidates after these")
    batch_size: int = Field(
        default=4, ge=1, le=100, description="candidates measured before the model learns of them"
    )
    surrogate: Literal["tpe", "gp"] = Field(
        default="tpe",
        description="the model: a tree-structured Parzen estimator, or a Gaussian process",
    )
    acquisition: Acquisition = Field(
        default="expected_improvement",
        description="what the next candidates are to maximise; other than expected_improvement "
        "for a Gaussian process only",
    )
    patience: int | None = Field(
        default=5, ge=1, description="candidates without gain before it ends; null: all are made"
    )

    @field_validator("acquisition")
    @classmethod
    def _of_its_surrogate(cls, acquisition: Acquisition, info: ValidationInfo) -> Acquisition:
        if acquisition != "expected_improvement" and info.data.get("surrogate") != "gp":
            raise ValueError("with surrogate tpe it is expected_improvement")
        return acquisition

    @property
    def sampler(self) -> SamplerName | Sampler:
        return gaussian_process(self.acquisition) if self.surrogate == "gp" else "tpe"


class BayesianOptimizer:
    name = "BayesianOptimizer"
    aliases: tuple[str, ...] = ("Bayesian",)
    description = (
        "Searches settings, models, instructions and demos by a model of what candidates so far "
        "were worth: a tree-structured Parzen estimator, or a Gaussian process."
    )
    source = "dspex_ray"
    needs = Needs()
    parameters = BayesianParameters
    refused: str | None = None

    async def optimize(
        self, problem: Problem, parameters: BayesianParameters, bench: Workbench
    ) -> Outcome:
        record = Record(problem, bench.ledger, bench.on_trial)
        palette = Palette(problem, parameters, bench)
        try:
            await palette.propose()
        except RunHalted as halt:
            return record.outcome(halt=halt)
        study = Study(
            palette.space,
            OBJECTIVES,
            seed=problem.seed,
            sampler=parameters.sampler,
            start=palette.start,
            initial=parameters.num_initial_samples,
        )
        order = same_examples(problem)
        search = Search(self.name, problem, bench, record, palette, study, order)
        batches = _Batches(search, study, parameters)
        ended = await search.run(batches.ask)
        return search.outcome(best_of(search, study), ended, {"candidates": batches.asked})


def best_of(search: Search, study: Study) -> Candidate | None:
    """The first of the best that were measured whole."""
    number = study.best()
    return None if number is None else search.candidate(number)


class _Batches:
    """The start alone, then batches; the model is asked once the initial samples are told."""

    def __init__(self, search: Search, study: Study, given: BayesianParameters) -> None:
        self._search, self._study, self._given = search, study, given
        self.asked = 0

    def ask(self) -> Sequence[int]:
        given = self._given
        initial = given.num_initial_samples - self.asked
        left = given.max_iterations + initial
        modelled = self.asked - given.num_initial_samples
        if given.patience is not None and modelled > 0:
            left = 0 if min(modelled, self._study.since_better()) >= given.patience else left
        if left < 1:
            return ()
        size = min(given.batch_size, left, initial if initial > 0 else left)
        numbers = self._search.ask(size)
        self.asked += len(numbers)
        return numbers
