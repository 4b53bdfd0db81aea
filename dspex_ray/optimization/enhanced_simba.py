"""EnhancedSIMBA: first the settings of a program, by measured trials; then DSPy's SIMBA, as it is,
on the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from dspex_ray.core.convergence import Convergence, ConvergenceRules
from dspex_ray.optimization.bayesian import OBJECTIVES, best_of
from dspex_ray.optimization.dspy_optimizers import Simba, SimbaParameters
from dspex_ray.optimization.model import Candidate, Needs, Outcome, Problem, StopReason, Trial
from dspex_ray.optimization.multi_objective import same_examples
from dspex_ray.optimization.palette import Palette, SettingsParameters
from dspex_ray.optimization.record import Record
from dspex_ray.optimization.searching import Search
from dspex_ray.optimization.study import Study
from dspex_ray.optimization.workbench import Workbench
from dspex_ray.stats.convergence import Trial as Tried
from dspex_ray.stats.convergence import convergence

_NAME = "EnhancedSIMBA"


class EnhancedSimbaParameters(SettingsParameters, SimbaParameters):
    num_variable_candidates: int = Field(
        default=8, ge=1, le=1000, description="configurations a round of the first phase"
    )
    rounds: int = Field(
        default=3, ge=0, le=100, description="the first spread evenly, the others by its results"
    )
    convergence: ConvergenceRules = Field(
        default=ConvergenceRules(), description="what ends the first phase early"
    )


class EnhancedSimba:
    name = _NAME
    aliases: tuple[str, ...] = ("Enhanced SIMBA",)
    description = (
        "Searches the program's settings (models, module types, temperature and others) first, "
        "then lets DSPy's SIMBA add demos and rules to the best configuration."
    )
    source = "dspex_ray"
    needs = Needs(prompt_model=True)
    parameters = EnhancedSimbaParameters
    refused: str | None = None

    async def optimize(
        self, problem: Problem, parameters: EnhancedSimbaParameters, bench: Workbench
    ) -> Outcome:
        simba = Simba()
        own = SimbaParameters(**parameters.model_dump(include=set(SimbaParameters.model_fields)))
        simba.check(problem, own)
        first = await _settings_searched(problem, parameters, bench)
        if first.stopped_because is not StopReason.FINISHED:
            return first
        then = await simba.optimize(
            replace(problem, artifact=first.best.artifact), own, _following(first, bench)
        )
        return joined(first, then)


async def _settings_searched(
    problem: Problem, given: EnhancedSimbaParameters, bench: Workbench
) -> Outcome:
    """The first phase: no instructions, no demos."""
    record = Record(problem, bench.ledger, bench.on_trial)
    palette = Palette(problem, given, bench)
    study = Study(
        palette.space,
        OBJECTIVES,
        seed=problem.seed,
        start=palette.start,
        initial=given.num_variable_candidates,
    )
    search = Search(_NAME, problem, bench, record, palette, study, same_examples(problem))
    rounds = _Rounds(search, study, given)
    halt = await search.run(rounds.ask)
    facts = {
        "rounds": rounds.begun,
        "converged_because": rounds.standing.reason,
        "configurations": len(study.told),
    }
    return search.outcome(best_of(search, study), halt, facts)


class _Rounds:
    """The start alone; the rest of the first round; then the others, until it has converged."""

    def __init__(self, search: Search, study: Study, given: EnhancedSimbaParameters) -> None:
        self._search, self._study, self._given = search, study, given
        self.begun = 0
        self._started = False

    @property
    def standing(self) -> Convergence:
        values = (None if t.figures is None else t.figures[0] for t in self._study.told)
        return convergence([Tried(value) for value in values], self._given.convergence)

    def ask(self) -> Sequence[int]:
        if not self._started:
            self._started = True
            return self._search.ask(1)
        if self.begun >= self._given.rounds or self.standing.reason is not None:
            return ()
        self.begun += 1
        size = self._given.num_variable_candidates - (self.begun == 1)
        return self._search.ask(size) if size else self.ask()


def joined(first: Outcome, then: Outcome) -> Outcome:
    """One outcome of two phases, the second of which began with the best of the first. The best is
    the better by its score; the first one's where the second's was not measured on all."""
    known = {candidate.hash: candidate for candidate in first.candidates}
    for candidate in then.candidates:
        before = known.get(candidate.hash)
        known[candidate.hash] = candidate if before is None else _merged(before, candidate)
    better = then.score is not None and (first.score is None or then.score > first.score)
    chosen = then if better else first
    return then.model_copy(
        update={
            "best": known[chosen.best.hash],
            "score": chosen.score,
            "candidates": tuple(known.values()),
            "trials": (*first.trials, *(_later(trial, first) for trial in then.trials)),
            "program_runs": first.program_runs + then.program_runs,
            "failed_runs": first.failed_runs + then.failed_runs,
            "facts": {**first.facts, **then.facts, "best_phase": 2 if better else 1},
        }
    )


def _following(first: Outcome, bench: Workbench) -> Workbench:
    """Trials of the second phase go on where those of the first ended."""
    told = bench.on_trial
    if told is None:
        return bench

    def on_trial(trial: Trial, candidate: Candidate) -> None:
        told(_later(trial, first), candidate)

    return replace(bench, on_trial=on_trial)


def _later(trial: Trial, first: Outcome) -> Trial:
    return trial.model_copy(update={"number": trial.number + len(first.trials)})


def _merged(before: Candidate, after: Candidate) -> Candidate:
    scores, facts = {**before.scores, **after.scores}, {**before.facts, **after.facts}
    return before.model_copy(update={"scores": scores, "facts": facts})
