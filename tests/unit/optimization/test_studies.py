"""BayesianOptimizer and EnhancedSIMBA on programs whose quality is known beforehand."""

from __future__ import annotations

from typing import Any

import pytest

from dspex_ray.core.errors import Invalid
from dspex_ray.optimization.enhanced_simba import joined
from dspex_ray.optimization.model import Candidate, Outcome, Problem, StopReason, Trial
from dspex_ray.optimization.registry import builtin_registry
from dspex_ray.optimization.workbench import local_workbench
from dspex_ray.programs.model import Artifact, ModulesArtifact
from dspex_ray.testing.fake_lm import fake_lm
from tests.unit.optimization.parts import engine, problem
from tests.unit.optimization.simulated import Worth, simulated_bench

COOL = {
    "space": {"name": "own", "variables": {"temperature": {"kind": "float", "low": 0, "high": 2}}}
}


def main(artifact: Artifact) -> Any:
    assert isinstance(artifact, ModulesArtifact)
    return artifact.modules["main"]


def coolest(artifact: Artifact) -> Worth:
    """Best at a temperature of 1.3."""
    temperature = main(artifact).config.temperature
    off = abs(1.3 - (0.7 if temperature is None else temperature))
    return Worth(max(0.0, 1 - off), 100, 0.001)


def best_means(outcome: Outcome, case: Problem) -> list[float]:
    dev = {example.hash for example in case.dev}
    return [mean for c in outcome.candidates if (mean := c.mean_on(dev)) is not None]


async def bayes(case: Problem, given: Any = None, **how: Any) -> Outcome:
    bench, _ = simulated_bench(case, **how)
    plain = {"max_demos": 0, **COOL}
    return await builtin_registry().optimize(
        "BayesianOptimizer", case, bench, plain | (given or {})
    )


# --- BayesianOptimizer ---------------------------------------------------------------------------


async def test_it_closes_in_on_the_best() -> None:
    case = problem(train=1, dev=100)
    outcome = await bayes(case, {"patience": None, "max_iterations": 30}, judge=coolest)
    assert abs(main(outcome.best.artifact).config.temperature - 1.3) < 0.1
    assert outcome.score == outcome.best.mean_on({example.hash for example in case.dev})
    assert outcome.score == max(best_means(outcome, case))
    assert len(outcome.candidates) == 40
    assert outcome.candidates[0].made_by == "start"
    made = [c.facts["made_by"] for c in outcome.candidates]
    assert (made[0], set(made[1:10])) == ("start", {"neighbour", "sobol"})
    assert set(made[10:]) == {"tpe"}
    off = [abs(main(c.artifact).config.temperature - 1.3) for c in outcome.candidates[10:]]
    assert sum(off[15:]) < sum(off[:15])


async def test_the_same_is_found_however_many_run_at_once() -> None:
    first, second = [
        await bayes(problem(dev=20, threads=threads), judge=coolest, jitter_s=0.001)
        for threads in (1, 8)
    ]
    assert first.trials == second.trials
    assert first.best == second.best


async def test_patience_counts_what_the_model_proposed() -> None:
    flat = {"num_initial_samples": 6, "patience": 3, "batch_size": 2}
    outcome = await bayes(problem(dev=8), flat, judge=lambda artifact: Worth(0.5, 1, 0.1))
    assert outcome.facts["candidates"] == 10
    assert outcome.best.hash == outcome.candidates[0].hash  # the first of equals


async def test_a_budget_ends_it_before_a_candidate_that_it_cannot_pay() -> None:
    outcome = await bayes(problem(dev=10, lm_calls=75), judge=coolest)
    assert (outcome.stopped_because, outcome.detail) == (StopReason.BUDGET, "lm_calls")
    assert outcome.spent.lm_calls == 70
    assert all(len(candidate.scores) == 10 for candidate in outcome.candidates)


@pytest.mark.parametrize("acquisition", ["expected_improvement", "upper_confidence_bound"])
async def test_a_gaussian_process_closes_in_too(acquisition: str) -> None:
    case = problem(train=1, dev=40)
    given = {"surrogate": "gp", "acquisition": acquisition, "max_iterations": 8, "patience": None}
    outcome = await bayes(case, given, judge=coolest)
    assert [c.facts["made_by"] for c in outcome.candidates[10:]] == ["gp"] * 8
    assert abs(main(outcome.best.artifact).config.temperature - 1.3) < 0.2


async def test_a_parzen_estimator_has_one_acquisition() -> None:
    with pytest.raises(Invalid, match=r"parameters\.acquisition"):
        await bayes(problem(), {"acquisition": "upper_confidence_bound"})


# --- EnhancedSIMBA -------------------------------------------------------------------------------

MINIMAL = {"kind": "module", "choices": ["minimal", "json"], "behaviour": "adapter"}
SIMBA = {
    "bsize": 8,
    "num_candidates": 3,
    "max_steps": 3,
    "max_demos": 4,
    "num_variable_candidates": 3,
    "rounds": 2,
    "module_types": ["predict"],
    "space": {
        "name": "own",
        "variables": {
            "adapter": MINIMAL,
            "temperature": {"kind": "float", "low": 0, "high": 1},
        },
    },
}


async def simba(case: Problem, given: Any = None, told: list[Trial] | None = None) -> Outcome:
    def on_trial(trial: Trial, candidate: Candidate) -> None:
        if told is not None:
            told.append(trial)

    bench = local_workbench(
        case, fake_lm(engine()), prompt_lm=fake_lm(engine("teacher")), on_trial=on_trial
    )
    return await builtin_registry().optimize("EnhancedSIMBA", case, bench, SIMBA | (given or {}))


async def test_settings_first_then_simba_on_the_best_of_them() -> None:
    told: list[Trial] = []
    outcome = await simba(problem(train=16, dev=12), told=told)
    assert outcome.facts["configurations"] == 6
    assert outcome.facts["rounds"] == 2
    assert [trial.number for trial in outcome.trials] == list(range(1, len(outcome.trials) + 1))
    assert sorted(trial.number for trial in told) == [trial.number for trial in outcome.trials]
    makers = {candidate.made_by for candidate in outcome.candidates}
    assert makers == {"start", "EnhancedSIMBA", "SIMBA"}
    assert outcome.facts["best_phase"] == 2
    assert outcome.score == max(best_means(outcome, problem(train=16, dev=12)))


async def test_the_first_phase_ends_when_it_has_converged() -> None:
    rules = {"no_improvement": 2, "target": None}
    outcome = await simba(
        problem(train=16, dev=12), {"rounds": 20, "convergence": rules, "max_steps": 1}
    )
    assert outcome.facts["converged_because"] is not None
    assert outcome.facts["rounds"] < 20


async def test_a_budget_that_ends_the_first_phase_keeps_its_best() -> None:
    outcome = await simba(problem(train=16, dev=12, lm_calls=40))
    assert outcome.stopped_because is StopReason.BUDGET
    assert outcome.spent.lm_calls <= 40
    assert outcome.score == outcome.best.mean_on({e.hash for e in problem(train=16, dev=12).dev})


async def test_a_budget_that_ends_simba_keeps_the_best_of_both() -> None:
    outcome = await simba(problem(train=16, dev=12, lm_calls=90))
    assert outcome.stopped_because is StopReason.BUDGET
    assert outcome.score == max(best_means(outcome, problem(train=16, dev=12)))


async def test_a_batch_that_train_cannot_fill_is_refused_before_any_call() -> None:
    case, fake = problem(train=6), engine()
    bench = local_workbench(case, fake_lm(fake))
    with pytest.raises(Invalid, match="bsize is 8, of 6 train examples"):
        await builtin_registry().optimize("EnhancedSIMBA", case, bench, SIMBA)
    assert fake.requests == []


async def test_joined_keeps_the_first_phase_when_the_second_is_worse() -> None:
    case = problem(train=16, dev=12)
    outcome = await simba(case)
    worse = outcome.model_copy(update={"score": 0.0, "facts": {}})
    both = joined(outcome, worse)
    assert (both.best, both.score) == (outcome.best, outcome.score)
    assert both.facts["best_phase"] == 1
    assert len(both.trials) == 2 * len(outcome.trials)
