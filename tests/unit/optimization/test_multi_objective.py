"""MultiObjective on programs whose quality, latency and cost are known beforehand."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from dspex_ray.core.errors import Invalid
from dspex_ray.core.objectives import Limit
from dspex_ray.optimization.front import FrontPoint
from dspex_ray.optimization.model import Candidate, Outcome, Problem, StopReason, Trial
from dspex_ray.optimization.registry import builtin_registry
from dspex_ray.optimization.workbench import local_workbench
from dspex_ray.programs.model import Artifact, ModulesArtifact
from dspex_ray.testing.fake_lm import fake_lm
from tests.unit.optimization.parts import engine, problem, program
from tests.unit.optimization.simulated import Simulated, simulated_bench, worth

SMALL: dict[str, Any] = {
    "models": ["small", "big"],
    "population_size": 8,
    "iterations": 4,
    "max_demos": 4,
    "demo_sets": 4,
}


async def search(case: Problem, given: Any = None, **how: Any) -> tuple[Outcome, Simulated]:
    bench, evaluator = simulated_bench(case, **how)
    found = await builtin_registry().optimize("MultiObjective", case, bench, SMALL | (given or {}))
    return found, evaluator


def spacious(**variables: Any) -> dict[str, Any]:
    return {"space": {"name": "own", "variables": variables}}


def points(outcome: Outcome) -> tuple[FrontPoint, ...]:
    assert outcome.front is not None
    return outcome.front.points


def whole(outcome: Outcome) -> list[Candidate]:
    return [c for c in outcome.candidates if "figures" in c.facts and "dropped" not in c.facts]


def beats(one: dict[str, float], other: dict[str, float]) -> bool:
    """The definition: nowhere worse, somewhere better."""
    signs = {"accuracy": 1, "latency": -1, "cost": -1}
    gains = [sign * (one[name] - other[name]) for name, sign in signs.items()]
    return min(gains) >= 0 and max(gains) > 0


def alike(one: dict[str, float], other: dict[str, float]) -> bool:
    return all(one[name] == other[name] for name in ("accuracy", "latency", "cost"))


# --- what it finds -------------------------------------------------------------------------------


async def test_the_front_is_what_no_other_beats_and_the_pick_is_on_it() -> None:
    outcome, _ = await search(problem(train=24, dev=20))
    figures = [candidate.facts["figures"] for candidate in whole(outcome)]
    on_front = {point.candidate for point in points(outcome)}
    for candidate in whole(outcome):
        own = candidate.facts["figures"]
        beaten = any(beats(other, own) for other in figures)
        same = [point for point in points(outcome) if alike(point.figures, own)]
        assert (candidate.hash in on_front) <= (not beaten)
        assert bool(same) == (not beaten)
    (pick,) = [point for point in points(outcome) if point.picked]
    assert pick.candidate == outcome.best.hash
    scores = [point.figures["accuracy"] for point in points(outcome)]
    assert scores == sorted(scores, reverse=True)
    assert outcome.front is not None
    assert outcome.front.examples == 20
    assert [o.name for o in outcome.front.objectives] == ["accuracy", "latency", "cost"]


async def test_the_front_spans_models_and_module_types() -> None:
    outcome, _ = await search(problem(train=24, dev=20), {"iterations": 8})
    found = {c.hash: c.artifact for c in outcome.candidates}
    artifacts = [found[point.candidate] for point in points(outcome)]
    assert {a.models.get("") for a in artifacts} >= {"small", "big"}
    assert {main(a).type.value for a in artifacts} == {"predict", "chain_of_thought"}
    assert any(main(a).demos for a in artifacts)
    best = max(points(outcome), key=lambda point: point.figures["accuracy"])
    assert best.figures["accuracy"] > outcome.candidates[0].facts["figures"]["accuracy"] + 0.3


async def test_all_are_measured_on_the_same_examples_in_the_same_order() -> None:
    outcome, evaluator = await search(problem(train=24, dev=30), {"examples": 12}, jitter_s=0.001)
    hashes = evaluator.seen[outcome.candidates[0].hash][:12]
    for candidate in outcome.candidates:
        seen = evaluator.seen[candidate.hash]
        rest = len(set(seen)) if candidate.hash == outcome.best.hash else 12
        assert seen[:12] == hashes[: len(seen)]
        assert len(seen) <= rest
        assert len(seen) == 12 or "dropped" in candidate.facts or rest == 30
    assert outcome.score == outcome.best.mean_on({e.hash for e in problem(dev=30).dev})


async def test_the_same_seed_finds_the_same_however_many_run_at_once() -> None:
    first, _ = await search(problem(train=24, dev=16, threads=1), jitter_s=0.001)
    second, _ = await search(problem(train=24, dev=16, threads=8), jitter_s=0.001)
    assert first == second.model_copy(update={"spent": first.spent})
    assert first.spent.lm_calls == second.spent.lm_calls
    other, _ = await search(problem(train=24, dev=16, seed=3))
    assert {c.hash for c in other.candidates} != {c.hash for c in first.candidates}


async def test_candidates_say_what_they_are_made_of() -> None:
    outcome, _ = await search(problem(train=24, dev=16))
    start, *others = outcome.candidates
    assert (start.made_by, start.facts["generation"], start.parents) == ("start", 0, ())
    assert "temperature" not in start.facts["configuration"]  # it leaves it to its models
    known = {candidate.hash for candidate in outcome.candidates}
    for candidate in others:
        facts = candidate.facts
        assert facts["configuration"]["model"] == candidate.artifact.models[""]
        assert 1 <= facts["generation"] <= 4
        assert set(candidate.parents) <= known
        assert set(facts["figures"]) >= {"accuracy", "latency", "latency_p95", "cost", "failures"}
    bred = {c.facts["made_by"] for c in others}
    assert bred >= {"sobol"}
    assert bred & {"crossover", "mutation"}
    assert any(len(candidate.parents) == 2 for candidate in others)


async def test_trials_come_one_by_one_and_the_hypervolume_only_grows() -> None:
    told: list[Trial] = []
    outcome, _ = await search(
        problem(train=24, dev=16), on_trial=lambda trial, candidate: told.append(trial)
    )
    assert tuple(told) == outcome.trials
    assert [trial.number for trial in told] == list(range(1, len(told) + 1))
    assert outcome.front is not None
    marks = [mark.value for mark in outcome.front.hypervolume]
    assert marks == sorted(marks)
    assert marks[-1] > marks[0]
    assert set(outcome.front.reference) == {"accuracy", "latency", "cost"}


async def test_racing_saves_runs_and_drops_nobody_from_the_front() -> None:
    def judge(artifact: Artifact) -> Any:
        return worth(artifact)._replace(quality=0.95 if artifact.models.get("") == "small" else 0.1)

    case = problem(train=24, dev=40)
    raced, _ = await search(case, {"examples": 40}, judge=judge)
    full, _ = await search(case, {"examples": 40, "racing": False}, judge=judge)
    dropped = [c for c in raced.candidates if "dropped" in c.facts]
    assert dropped
    assert all(len(c.scores) == c.facts["dropped_after"] < 40 for c in dropped)
    assert not {c.hash for c in dropped} & {point.candidate for point in points(raced)}
    assert not any("dropped" in c.facts for c in full.candidates)
    assert raced.program_runs / len(raced.candidates) < full.program_runs / len(full.candidates)


async def test_a_prompt_model_writes_what_crossover_and_mutation_only_plan() -> None:
    writer = engine("teacher")
    outcome, _ = await search(problem(train=24, dev=16), prompt_lm=fake_lm(writer))
    texts = {main(c.artifact).signature.instructions or "" for c in outcome.candidates}
    assert any(text.startswith("teacher proposed_instruction") for text in texts)
    assert len(writer.requests) > 1  # the proposals, and what was bred later


async def test_the_parameters_bound_the_front() -> None:
    outcome, _ = await search(problem(train=24, dev=20), {"front_size": 2})
    assert len(points(outcome)) == 2
    assert [p.picked for p in points(outcome)].count(True) == 1


async def test_patience_ends_it() -> None:
    one_better = {"models": [], "max_demos": 0, "module_types": ["predict"], "patience": 1}
    space = spacious(temperature={"kind": "float", "low": 0.0, "high": 1.0})
    flat = {**one_better, **space, "iterations": 50}
    outcome, _ = await search(
        problem(train=8, dev=8), flat, judge=lambda artifact: worth(program())
    )
    assert outcome.facts["generations"] < 6
    assert outcome.stopped_because is StopReason.FINISHED


# --- limits and prices ---------------------------------------------------------------------------


async def test_limits_hold_for_every_point_and_the_pick() -> None:
    limits = [{"name": "latency_p95", "at_most": 250}, {"name": "accuracy", "at_least": 0.3}]
    outcome, _ = await search(problem(train=24, dev=20), {"limits": limits})
    for point in points(outcome):
        assert point.figures["latency_p95"] <= 250
        assert point.figures["accuracy"] >= 0.3
    assert outcome.front is not None
    assert outcome.front.limits[0] == Limit(name="latency_p95", at_most=250)


async def test_limits_that_nobody_keeps_leave_those_that_break_them_least() -> None:
    outcome, _ = await search(problem(dev=12), {"limits": [{"name": "latency", "at_most": 1}]})
    latencies = [c.facts["figures"]["latency"] for c in whole(outcome)]
    assert {point.figures["latency"] for point in points(outcome)} == {min(latencies)}


async def test_a_model_without_a_price_is_refused_by_name_when_the_cost_counts() -> None:
    with pytest.raises(Invalid, match="model 'gift' has no known price") as refused:
        await search(problem(), {"models": ["small", "gift"]})
    assert (refused.value.field, refused.value.rule) == ("parameters.objectives", "known price")


async def test_a_model_without_a_price_is_fine_when_it_does_not() -> None:
    outcome, _ = await search(
        problem(), {"models": ["small", "gift"], "objectives": {"accuracy": 1, "latency": 1}}
    )
    gifted = [c for c in whole(outcome) if c.artifact.models.get("") == "gift"]
    assert gifted
    assert all("cost" not in c.facts["figures"] for c in gifted)


async def test_an_unknown_figure_is_refused_before_anything_is_called() -> None:
    case = problem()
    bench, evaluator = simulated_bench(case)
    with pytest.raises(Invalid, match=r"nothing measures 'speed' \(known figures: accuracy, "):
        await builtin_registry().optimize(
            "MultiObjective", case, bench, {"objectives": {"speed": 1}}
        )
    assert evaluator.seen == {}


async def test_further_metrics_are_objectives() -> None:
    class Style:
        name = "style"

        async def score(self, example: Any, outputs: Any, context: Any) -> float:
            raise AssertionError("the simulation scores by itself")

    case = problem(dev=12)
    case = Problem(**{**case.__dict__, "others": (Style(),)})
    outcome, _ = await search(case, {"objectives": {"accuracy": 1, "style": 1}})
    best = max(worth(c.artifact).quality for c in whole(outcome))
    assert max(point.figures["style"] for point in points(outcome)) == pytest.approx(best)


# --- what may go wrong ---------------------------------------------------------------------------


async def test_a_space_without_any_configuration_is_refused() -> None:
    space = spacious(temperature={"kind": "float", "low": 0.0, "high": 1.0})
    never = {"kind": "compare", "variable": "temperature", "op": ">", "value": 2}
    space["space"]["constraints"] = [{"name": "never", "rule": never}]
    case = problem()
    bench, evaluator = simulated_bench(case)
    with pytest.raises(Invalid) as refused:
        await builtin_registry().optimize("MultiObjective", case, bench, space)
    assert refused.value.rule == "satisfiable"
    assert evaluator.seen == {}


async def test_a_variable_that_changes_nothing_is_refused() -> None:
    with pytest.raises(Invalid, match="changes nothing of this program"):
        await search(problem(), spacious(nothing={"kind": "choice", "choices": ["a"]}))


async def test_a_program_that_always_fails_is_refused_early() -> None:
    with pytest.raises(Invalid, match="the program failed in all of its 30 runs"):
        await search(problem(dev=30), {"examples": 30}, failing=lambda artifact: True)


async def test_candidates_that_fail_lose() -> None:
    outcome, _ = await search(
        problem(dev=16), failing=lambda artifact: artifact.models.get("") == "big"
    )
    assert outcome.failed_runs > 0
    assert all(point.figures["failures"] == 0 for point in points(outcome))


async def test_one_example_and_one_configuration_are_enough() -> None:
    alone = {"models": [], "max_demos": 0, "module_types": ["predict"], **spacious()}
    outcome, _ = await search(problem(train=1, dev=1), alone)
    assert outcome.best.hash == outcome.candidates[0].hash or len(outcome.candidates) > 1
    assert [len(c.scores) for c in outcome.candidates] == [1] * len(outcome.candidates)
    assert len(points(outcome)) >= 1


@pytest.mark.parametrize("limit", ["lm_calls", "tokens", "usd", "seconds"])
async def test_no_budget_at_all_is_refused(limit: str) -> None:
    nothing: Any = {limit: 0}
    with pytest.raises(Invalid, match=f"budget.{limit} is 0"):
        await search(problem(**nothing))


@pytest.mark.parametrize("calls", [1, 11, 12, 13, 47, 100])
async def test_a_small_budget_is_kept_and_no_candidate_begun_that_it_cannot_pay(calls: int) -> None:
    outcome, evaluator = await search(problem(dev=12, lm_calls=calls))
    assert outcome.spent.lm_calls <= calls
    assert (outcome.stopped_because, outcome.detail) == (StopReason.BUDGET, "lm_calls")
    cut = [seen for seen in evaluator.seen.values() if len(seen) < 12]
    dropped = [c for c in outcome.candidates if "dropped" in c.facts]
    assert len(cut) == (1 if calls < 12 else len(dropped))
    assert (outcome.front is None) == (calls < 12)
    assert len(outcome.trials) == (calls > 2) + (calls - 12) // 12 * (calls > 12) or dropped


async def test_what_a_run_cost_so_far_says_what_it_can_still_pay() -> None:
    outcome, _ = await search(problem(dev=12, usd=Decimal("0.5")))
    assert outcome.spent.usd <= Decimal("0.5")
    assert outcome.stopped_because is StopReason.BUDGET
    assert outcome.detail == "usd"
    assert points(outcome)


async def test_a_cancel_keeps_the_front_so_far() -> None:
    case = problem(train=24, dev=12, threads=1)
    bench, _ = simulated_bench(case)
    told: list[Trial] = []

    def on_trial(trial: Trial, candidate: Candidate) -> None:
        told.append(trial)
        if trial.number == 6:
            bench.ledger.cancel("cancelled")

    bench = bench.__class__(**{**bench.__dict__, "on_trial": on_trial})
    outcome = await builtin_registry().optimize("MultiObjective", case, bench, SMALL)
    assert outcome.stopped_because is StopReason.CANCELLED
    assert points(outcome)
    assert {p.trial for p in points(outcome)} <= {trial.number for trial in told}


async def test_it_runs_on_models_as_every_optimizer_does() -> None:
    """The real evaluator: calls are metered, latencies measured."""
    case = problem(train=16, dev=8)
    bench = local_workbench(case, fake_lm(engine()))
    given = {
        "objectives": {"accuracy": 0.8, "latency": 0.2},
        "population_size": 6,
        "iterations": 2,
        "max_demos": 4,
        **spacious(adapter={"kind": "module", "choices": ["minimal"], "behaviour": "adapter"}),
    }
    outcome = await builtin_registry().optimize("MultiObjective", case, bench, given)
    assert max(point.figures["accuracy"] for point in points(outcome)) == 1.0
    assert all(point.figures["latency"] > 0 for point in points(outcome))


def main(artifact: Artifact) -> Any:
    assert isinstance(artifact, ModulesArtifact)
    return artifact.modules["main"]
