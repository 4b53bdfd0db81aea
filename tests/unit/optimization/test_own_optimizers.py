"""DspexSearch and AdvancedBootstrap, and the evaluator that measures for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.errors import Invalid
from dspex_ray.datasets.model import Example
from dspex_ray.optimization.budget import BudgetExhausted, Ledger, RunRefused
from dspex_ray.optimization.evaluator import LocalEvaluator
from dspex_ray.optimization.metering import FlatMeter, metered
from dspex_ray.optimization.model import Budget, Candidate, Outcome, Problem, Score, StopReason
from dspex_ray.optimization.race import Pace, affordable, heats_of, most_runs, plan_race
from dspex_ray.optimization.record import Record
from dspex_ray.optimization.registry import builtin_registry
from dspex_ray.optimization.workbench import Workbench, local_workbench
from dspex_ray.programs.model import Artifact, ModulesArtifact, ModuleType, ProgramSource
from dspex_ray.programs.source import resolve_source
from dspex_ray.testing.fake_lm import FakeEngine, fake_lm
from tests.unit.optimization.parts import (
    MAGIC,
    SAMPLES,
    TOPICS,
    ExactTopic,
    answer,
    engine,
    examples,
    problem,
    program,
    prompts,
)

OURS = ("DspexSearch", "AdvancedBootstrap")


async def run(
    name: str, case: Problem, fake: FakeEngine | None = None, given: Any = None, **more: Any
) -> Outcome:
    bench = local_workbench(case, fake_lm(fake or engine()), **more)
    return await builtin_registry().optimize(name, case, bench, given)


def main(artifact: Artifact) -> Any:
    assert isinstance(artifact, ModulesArtifact)
    return artifact.modules["main"]


# --- the evaluator -------------------------------------------------------------------------------


def _but_the_time(scores: Iterable[Score]) -> list[Score]:
    return [score._replace(latency_ms=None, others={}) for score in scores]


async def test_scores_come_in_order_whatever_the_parallelism() -> None:
    found = []
    for threads in (1, 8):
        case = problem(threads=threads)
        evaluator = LocalEvaluator(case, fake_lm(engine()))
        found.append(await evaluator.evaluate(case.artifact, case.dev))
    assert _but_the_time(found[0]) == _but_the_time(found[1])
    pairs = zip(found[0], case.dev, strict=True)
    assert all((s.outputs["topic"] == e.values["topic"]) == (s.value == 1) for s, e in pairs)


async def test_a_failing_example_scores_0_and_says_why() -> None:
    def reply(request: Any) -> Any:
        return "no JSON" if "goal" in request.messages[-1].text else answer(request)

    case = problem()
    scores = await LocalEvaluator(case, fake_lm(reply)).evaluate(case.artifact, case.dev)
    failed = [s for s in scores if s.error]
    assert failed
    expected = Score(0.0, {}, "output_invalid", None, Decimal(0), others={})
    assert all(score == expected for score in _but_the_time(failed))
    assert len(failed) < len(scores)


async def test_sync_programs_are_measured_in_threads() -> None:
    artifact = resolve_source(
        ProgramSource(import_path=f"{SAMPLES}:Careless"), allowed_packages=("dspex_ray.testing",)
    )
    rows = [
        Example(hash=str(n), values={"question": q, "topic": "x"}, number=n)
        for n, q in enumerate(("fail", "why"))
    ]
    case = Problem(
        artifact=artifact,
        train=tuple(rows),
        metric=ExactTopic(),
        allowed_packages=("dspex_ray.testing",),
    )
    found = await LocalEvaluator(case, fake_lm([])).evaluate(artifact, rows)
    assert [score.error for score in found] == ["KeyError", "output_invalid"]


async def test_a_refused_call_halts_but_lets_paid_calls_end() -> None:
    case, ledger, fake = problem(threads=8), Ledger(Budget(lm_calls=5)), engine()
    evaluator = LocalEvaluator(case, metered(fake_lm(fake), ledger, FlatMeter()))
    with pytest.raises(BudgetExhausted):
        await evaluator.evaluate(case.artifact, case.dev)
    assert (len(fake.requests), ledger.in_flight) == (5, 0)
    assert isinstance(case.metric, ExactTopic)
    assert case.metric.calls == 5


async def test_a_metric_at_fault_is_told_as_itself() -> None:
    case = problem(metric=ExactTopic(float("inf")))
    with pytest.raises(RunRefused) as refused:
        await LocalEvaluator(case, fake_lm(engine())).evaluate(case.artifact, case.dev)
    assert isinstance(refused.value.error, Invalid)
    assert refused.value.error.rule == "finite"


# --- both --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
async def test_it_finds_a_better_program_and_says_what_it_was_chosen_by(name: str) -> None:
    fake, case = engine(), problem(train=24)
    outcome = await run(name, case, fake)
    assert outcome.score == 1.0
    assert outcome.stopped_because is StopReason.FINISHED
    assert outcome.spent.lm_calls == len(fake.requests) == outcome.program_runs
    start = next(c for c in outcome.candidates if c.artifact == case.artifact)
    assert start.mean_on({e.hash for e in case.dev}) == 0.25
    assert outcome.best.parents == (start.hash,)
    shown = {demo["topic"] for demo in main(outcome.best.artifact).demos}
    assert shown == set(TOPICS)


@pytest.mark.parametrize("name", OURS)
async def test_the_same_seed_finds_the_same_at_any_parallelism(name: str) -> None:
    first = await run(name, problem(train=24, threads=1))
    second = await run(name, problem(train=24, threads=16))
    assert first.trials == second.trials
    assert first.best == second.best
    other = await run(name, problem(train=24, seed=5))
    assert {c.hash for c in other.candidates} != {c.hash for c in first.candidates}


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("calls", [1, 7, 40, 70])
async def test_the_budget_is_never_passed_and_the_best_so_far_kept(name: str, calls: int) -> None:
    fake = engine()
    outcome = await run(name, problem(train=24, lm_calls=calls), fake)
    assert outcome.spent.lm_calls == len(fake.requests) <= calls
    if outcome.stopped_because is StopReason.BUDGET:
        assert outcome.detail == "lm_calls"
    assert outcome.best in outcome.candidates


@pytest.mark.parametrize("name", OURS)
async def test_a_cancel_keeps_what_was_found(name: str) -> None:
    case = problem(train=24)
    bench = local_workbench(case, fake_lm(engine()), on_trial=lambda t, c: stop())

    def stop() -> None:
        bench.ledger.cancel("by Ada")

    outcome = await builtin_registry().optimize(name, case, bench)
    assert (outcome.stopped_because, outcome.detail) == (StopReason.CANCELLED, "by Ada")
    assert len(outcome.trials) >= 1


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(
    ("says", "rule"), [(RuntimeError("content"), "does not raise"), (float("nan"), "finite")]
)
async def test_a_metric_at_fault_ends_the_run_by_name(name: str, says: Any, rule: str) -> None:
    with pytest.raises(Invalid, match="metric 'exact_topic'") as refused:
        await run(name, problem(metric=ExactTopic(says)))
    assert (refused.value.field, refused.value.rule) == ("metric", rule)


@pytest.mark.parametrize("name", OURS)
async def test_a_program_that_only_fails_is_an_error(name: str) -> None:
    with pytest.raises(Invalid, match="failed in all of its") as refused:
        await run(name, problem(), FakeEngine(lambda _: "no JSON"))
    assert (refused.value.field, refused.value.rule) == ("program", "runs")


@pytest.mark.parametrize("name", OURS)
async def test_two_examples_are_enough(name: str) -> None:
    outcome = await run(name, problem(train=2, dev=1))
    assert outcome.score in (0.0, 1.0)
    assert outcome.best in outcome.candidates


@pytest.mark.parametrize("name", OURS)
async def test_an_evaluator_elsewhere_may_do_the_measuring(name: str) -> None:
    """The seam of an actor pool: nothing calls a model but the evaluator."""

    class Elsewhere:
        async def evaluate(self, artifact: Artifact, on: Sequence[Example]) -> list[Score]:
            await asyncio.sleep(0)
            shown = {demo["topic"] for demo in main(artifact).demos}
            return [Score(float(e.values["topic"] in shown), {}) for e in on]

    case, fake = problem(train=24), engine()
    own = local_workbench(case, fake_lm(fake))
    bench = Workbench(own.lm, own.prompt_lm, own.ledger, Elsewhere())
    outcome = await builtin_registry().optimize(name, case, bench)
    assert (outcome.score, fake.requests) == (1.0, [])


# --- DspexSearch -----------------------------------------------------------------------------


def test_a_race_costs_what_was_measured() -> None:
    record = Record(problem(), Ledger(Budget()))
    pool = [record.add(program(f"Say {n}."), "test") for n in range(16)]
    order = examples(40)
    assert plan_race(pool, order).rungs == (10, 20, 40)
    assert plan_race(pool, order).most_scores == 280
    assert len(affordable(pool, order, None)) == 16
    assert plan_race(affordable(pool, order, 200), order).most_scores <= 200
    assert affordable(pool, order, 1) == pool[:2]
    brisk = Pace(first_share=0.125, keep_start=False)
    assert plan_race(pool, order, brisk).rungs == (5, 10, 20, 40)
    assert plan_race(pool, order, brisk).most_scores == 16 * 5 + 6 * 5 + 2 * 10 + 20
    assert len(affordable(pool, order, 150, brisk)) == 16


@given(st.integers(1, 60), st.integers(2, 20))
def test_heats_are_equal_and_as_few_as_can_be(count: int, size: int) -> None:
    heats = heats_of(range(count), size)
    assert [one for heat in heats for one in heat] == list(range(count))
    lengths = {len(heat) for heat in heats}
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    assert len(heats) == -(-count // size)


async def test_heats_cost_no_more_than_was_estimated_and_no_run_twice() -> None:
    parameters = {"num_candidates": 20, "heat": 7}
    case, asked = problem(train=40, dev=40), engine()
    outcome = await run("DspexSearch", case, asked, given=parameters)
    runs = sum(len(candidate.scores) for candidate in outcome.candidates)
    assert runs == outcome.spent.lm_calls == len(asked.requests)
    assert runs <= most_runs(20, 40, Pace(0.125), 7)
    assert len(outcome.candidates) == 20
    left = [c for c in outcome.candidates if len(c.scores) < 40]
    assert left
    assert all(c.facts["dropped_after"] == len(c.scores) for c in left)
    assert len(outcome.best.scores) == 40


async def test_one_heat_is_a_race() -> None:
    parameters = {"num_candidates": 10, "heat": 10, "first_share": 0.25}
    outcome = await run("DspexSearch", problem(train=24, dev=40), given=parameters)
    assert most_runs(16, 40, Pace(), 16) == 280
    assert outcome.spent.lm_calls <= most_runs(10, 40, Pace(), 10)


async def test_a_start_that_fell_behind_may_be_left_behind() -> None:
    parameters = {"num_candidates": 6}
    kept = await run("DspexSearch", problem(train=24, dev=40), given=parameters)
    left = await run(
        "DspexSearch", problem(train=24, dev=40), given=parameters | {"keep_start": False}
    )
    seen = [len(outcome.candidates[0].scores) for outcome in (kept, left)]
    assert seen == [40, 5]
    assert (left.best.hash, left.score) == (kept.best.hash, kept.score)
    assert left.spent.lm_calls < kept.spent.lm_calls


async def test_a_small_budget_of_calls_makes_a_smaller_field_and_not_half_a_race() -> None:
    outcome = await run("DspexSearch", problem(train=24, dev=40, lm_calls=120))
    assert outcome.stopped_because is StopReason.FINISHED
    assert outcome.spent.lm_calls <= 120
    assert outcome.score is not None
    entered = [c for c in outcome.candidates if c.scores]
    assert 2 < len(entered) < 24


async def test_losers_say_when_and_why_they_left() -> None:
    outcome = await run("DspexSearch", problem(train=24))
    dropped = [c.facts for c in outcome.candidates if "dropped" in c.facts]
    assert dropped
    assert {fact["dropped"] for fact in dropped} <= {"halved", "clear_loser"}
    assert "dropped" not in outcome.best.facts
    assert outcome.best.facts["demos"]


async def test_instructions_alone_are_searched_when_demos_are_not_wanted() -> None:
    given = {"max_demos": 0, "instructions": [f"Name it {MAGIC}."]}
    outcome = await run("DspexSearch", problem(dev=24), given=given)
    assert MAGIC in main(outcome.best.artifact).signature.instructions
    assert main(outcome.best.artifact).demos == ()
    assert len(outcome.candidates) == 4


async def test_the_prompt_model_writes_instructions_when_one_is_given() -> None:
    pupil, teacher = engine("pupil"), engine("teacher")
    outcome = await run("DspexSearch", problem(), pupil, prompt_lm=fake_lm(teacher))
    assert len(teacher.requests) == 4
    assert any("work" in main(c.artifact).signature.instructions for c in outcome.candidates)
    assert any("work" in text for text in prompts(pupil))


async def test_a_prompt_model_that_cannot_write_is_no_reason_to_stop() -> None:
    mute = fake_lm(lambda _: "nothing of use")
    assert (await run("DspexSearch", problem(), prompt_lm=mute)).score == 1.0


async def test_module_types_are_raced_too() -> None:
    given = {"module_types": ["predict", "chain_of_thought"]}
    outcome = await run("DspexSearch", problem(), given=given)
    kinds = {main(c.artifact).type for c in outcome.candidates}
    assert kinds == {ModuleType.PREDICT, ModuleType.CHAIN_OF_THOUGHT}


async def test_few_examples_and_instructions_make_a_small_field() -> None:
    outcome = await run("DspexSearch", problem(train=1, dev=4), given={"max_demos": 1})
    assert len(outcome.candidates) == 4  # the start, and three instructions with the only demo
    assert len({c.hash for c in outcome.candidates}) == 4


# --- AdvancedBootstrap -----------------------------------------------------------------------


async def test_demos_say_how_they_were_found_and_what_they_are_worth() -> None:
    outcome = await run("AdvancedBootstrap", problem(train=40, dev=20))
    facts = outcome.facts
    assert facts["final_selected"] == len(facts["demonstrations"]) in (4, 8)
    assert facts["candidates_generated"] >= facts["quality_filtered"] >= facts["final_selected"]
    for demo in facts["demonstrations"]:
        assert 0 <= demo["quality_score"] <= 1
        assert demo["measured"] >= 1
        assert set(demo["strategies"]) <= {"random", "hard", "diverse"}
    by_hash = {e.hash: e.values for e in examples(40)}
    shown = [by_hash[demo["example"]] for demo in facts["demonstrations"]]
    assert list(main(outcome.best.artifact).demos) == shown


async def test_quality_is_what_a_demo_does_to_other_answers() -> None:
    """Poisoned demos name a wrong topic: runs that show them score less, and they are dropped."""

    def reply(request: Any) -> Any:
        poisoned = any("poison" in (m.text or "") for m in request.messages[:-1])
        return {"topic": "nothing"} if poisoned else answer(request)

    rows = [
        e.model_copy(update={"values": {**e.values, "text": e.values["text"] + " poison"}})
        if e.number % 8 == 0
        else e
        for e in examples(40)
    ]
    case = Problem(
        artifact=program(), train=tuple(rows), dev=examples(12, 100), metric=ExactTopic()
    )
    outcome = await run("AdvancedBootstrap", case, FakeEngine(reply), {"max_demos": 4})
    assert outcome.score == 1.0
    assert outcome.facts["quality_filtered"] < outcome.facts["candidates_generated"]
    assert not any("poison" in demo["text"] for demo in main(outcome.best.artifact).demos)


@pytest.mark.parametrize("strategy", ["random", "hard", "diverse"])
async def test_each_strategy_works_alone(strategy: str) -> None:
    given = {"strategies": [strategy], "candidates_per_strategy": 12, "measured_runs": 32}
    outcome = await run("AdvancedBootstrap", problem(train=24), given=given)
    assert outcome.facts["candidates_generated"] <= 12
    assert all(d["strategies"] == [strategy] for d in outcome.facts["demonstrations"])


async def test_hard_examples_are_those_that_the_program_gets_wrong() -> None:
    given = {"strategies": ["hard"], "measured_runs": 16}
    outcome = await run("AdvancedBootstrap", problem(train=24), given=given)
    start = next(c for c in outcome.candidates if c.made_by == "start")
    found = {d["example"] for c in outcome.candidates for d in c.facts.get("demos", [])}
    assert found
    assert all(start.scores[key] == 0 for key in found)


async def test_no_hard_examples_leave_the_start() -> None:
    case = problem(metric=ExactTopic(1.0))
    outcome = await run("AdvancedBootstrap", case, given={"strategies": ["hard"]})
    assert outcome.best.artifact == case.artifact
    assert outcome.facts["candidates_generated"] == 0


async def test_without_adaptive_sampling_demos_are_measured_alike_and_chosen_by_quality() -> None:
    even = {"adaptive_sampling": False, "measured_runs": 64}
    outcome = await run("AdvancedBootstrap", problem(train=24), given=even)
    made = [c for c in outcome.candidates if c.made_by == "AdvancedBootstrap"]
    assert {c.facts["selection"] for c in made} == {"quality"}
    counts = [d["measured"] for c in made for d in c.facts["demos"]]
    assert max(counts) - min(counts) <= 1
    adaptive = await run("AdvancedBootstrap", problem(train=24))
    ways = {c.facts.get("selection") for c in adaptive.candidates} - {None}
    assert "marginal relevance" in ways


async def test_an_embedder_of_the_callers_is_asked_for_the_vectors() -> None:
    asked: list[str] = []

    async def embed(texts: Sequence[str]) -> list[list[float]]:
        asked.extend(texts)
        return [[float(len(text)), 1.0] for text in texts]

    outcome = await run("AdvancedBootstrap", problem(train=24), embed=embed)
    assert outcome.score == 1.0
    assert set(asked) == {e.values["text"] for e in examples(24)}


async def test_labels_may_be_left_unbalanced() -> None:
    given = {"balance_labels": False, "max_demos": 3}
    outcome = await run("AdvancedBootstrap", problem(train=24), given=given)
    made: list[Candidate] = [c for c in outcome.candidates if c.made_by == "AdvancedBootstrap"]
    assert {len(c.facts["demos"]) for c in made} == {1, 3}
