from __future__ import annotations

import asyncio
import dataclasses
import threading
from decimal import Decimal
from typing import Any

import dspy
import pytest

from dspex_ray.core.errors import Invalid
from dspex_ray.optimization.metering import FlatMeter
from dspex_ray.optimization.model import Budget, Candidate, Outcome, Problem, StopReason, Trial
from dspex_ray.optimization.registry import builtin_registry
from dspex_ray.optimization.workbench import local_workbench
from dspex_ray.programs.artifacts import artifact_hash, artifact_payload, load_artifact
from dspex_ray.programs.model import ImportArtifact, ModulesArtifact, ProgramSource
from dspex_ray.programs.runtime import current_predictor
from dspex_ray.programs.source import resolve_source
from dspex_ray.testing.fake_lm import FakeEngine, fake_lm
from tests.unit.optimization.parts import (
    MAGIC,
    SAMPLES,
    ExactTopic,
    answer,
    engine,
    examples,
    problem,
    program,
    prompts,
)

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SMALL: dict[str, dict[str, Any]] = {
    "LabeledFewShot": {"k": 8},
    "BootstrapFewShot": {},
    "BootstrapFewShotWithRandomSearch": {"num_candidate_programs": 3},
    "BootstrapFewShotWithOptuna": {"num_candidate_programs": 4},
    "COPRO": {"breadth": 3, "depth": 2},
    "MIPROv2": {"auto": None, "num_candidates": 3, "num_trials": 4},
    "SIMBA": {"bsize": 8, "max_steps": 2, "num_candidates": 3},
    "GEPA": {"max_metric_calls": 60},
}
METER = FlatMeter(Decimal("0.01"), tokens=10)


async def run(name: str, case: Problem, fake: FakeEngine | None = None, **more: Any) -> Outcome:
    bench = local_workbench(case, fake_lm(fake or engine()), meter=METER, **more)
    return await builtin_registry().optimize(name, case, bench, SMALL[name])


def asks_topic(request: Any) -> bool:
    return "topic" in request.config.response_format["schema"]["properties"]


def signed(outcome: Outcome) -> list[Any]:
    """All of an outcome that chance or the clock could change."""
    return [
        outcome.best.hash,
        outcome.score,
        [(t.candidate, t.score, t.examples, t.complete) for t in outcome.trials],
        outcome.spent.lm_calls,
    ]


@pytest.mark.parametrize("name", SMALL)
async def test_each_runs_and_gives_a_program_of_the_same_kind(name: str) -> None:
    fake = engine()
    case = problem(program(config={"temperature": 0.0, "max_tokens": 40}))
    outcome = await run(name, case, fake)
    assert outcome.stopped_because is StopReason.FINISHED
    best = outcome.best.artifact
    assert isinstance(best, ModulesArtifact)
    assert load_artifact(artifact_payload(best), outcome.best.hash) == best
    assert best.modules["main"].config.temperature == 0.0
    assert best.signature.inputs == case.artifact.signature.inputs
    assert outcome.score == outcome.best.mean_on({e.hash for e in case.dev})
    assert outcome.spent.lm_calls == len(fake.requests)
    assert outcome.spent.usd == Decimal("0.01") * len(fake.requests)
    assert (outcome.failed_runs, outcome.program_runs > 0) == (0, True)


@pytest.mark.parametrize("name", SMALL)
async def test_the_same_seed_finds_the_same_at_any_parallelism(name: str) -> None:
    first = await run(name, problem(threads=1))
    second = await run(name, problem(threads=8))
    assert signed(first) == signed(second)


@pytest.mark.parametrize(
    ("name", "at_least"),
    [
        ("LabeledFewShot", 1.0),
        ("BootstrapFewShot", 1.0),
        ("BootstrapFewShotWithRandomSearch", 1.0),
        ("COPRO", 0.5),
        ("MIPROv2", 0.75),
    ],
)
async def test_what_it_finds_is_better_than_the_start(name: str, at_least: float) -> None:
    outcome = await run(name, problem())
    assert outcome.score is not None
    assert outcome.score >= at_least > 0.34


async def test_instructions_that_a_model_wrote_reach_the_artifact() -> None:
    best = (await run("COPRO", problem())).best.artifact
    assert isinstance(best, ModulesArtifact)
    assert MAGIC in best.modules["main"].signature.instructions


async def test_demos_are_plain_values_of_the_signatures_fields() -> None:
    best = (await run("BootstrapFewShot", problem())).best.artifact
    assert isinstance(best, ModulesArtifact)
    demos = best.modules["main"].demos
    assert demos
    assert all(set(demo) == {"text", "topic"} for demo in demos)


async def test_the_prompt_model_is_asked_for_instructions_and_the_program_for_answers() -> None:
    pupil, teacher = engine("pupil"), engine("teacher")
    outcome = await run("COPRO", problem(), pupil, prompt_lm=fake_lm(teacher))
    assert all("topic (one of" in text for text in prompts(pupil))
    assert all("Answer in JSON: proposed_instruction" in text for text in prompts(teacher))
    assert outcome.spent.lm_calls == len(pupil.requests) + len(teacher.requests)


async def test_a_program_written_as_a_class_comes_back_as_one() -> None:
    def reply(request: Any) -> dict[str, str]:
        return {"topic": "sports" if "goal" in request.messages[-1].text else "tech"}

    artifact = resolve_source(
        ProgramSource(import_path=f"{SAMPLES}:Topic", adapter="minimal"),
        allowed_packages=("dspex_ray.testing",),
    )
    case = Problem(
        artifact=artifact,
        train=examples(8),
        dev=examples(4, start=50),
        metric=ExactTopic(),
        allowed_packages=("dspex_ray.testing",),
    )
    outcome = await run("BootstrapFewShot", case, FakeEngine(reply))
    best = outcome.best.artifact
    assert isinstance(best, ImportArtifact)
    assert len(best.state["classify"]["demos"]) == 8
    assert "augmented" not in str(best.state)
    assert best.structure_hash == artifact.structure_hash  # type: ignore[union-attr]
    assert load_artifact(artifact_payload(best), outcome.best.hash) == best


async def test_an_async_program_runs_from_dspys_threads() -> None:
    here = "tests.unit.optimization.parts"
    artifact = resolve_source(
        ProgramSource(import_path=f"{here}:AsyncOnly", adapter="minimal"),
        allowed_packages=("tests",),
    )
    case = dataclasses.replace(problem(artifact), allowed_packages=("tests",))
    for name in ("BootstrapFewShotWithRandomSearch", "GEPA"):
        assert (await run(name, case)).score is not None
    assert (await run("BootstrapFewShot", case)).score == 1.0


async def test_calls_know_their_predictor_in_every_copy_that_dspy_makes() -> None:
    asked: list[str | None] = []

    def reply(request: Any) -> dict[str, str]:
        asked.append(current_predictor())
        wanted = request.config.response_format["schema"]["properties"]
        return {key: "sports" if key == "topic" else "short" for key in wanted}

    modules = {
        "note": {"signature": "text -> note"},
        "name": {
            "type": "chain_of_thought",
            "signature": "text, note -> topic",
            "inputs": {"note": "note.note"},
        },
    }
    artifact = resolve_source(
        ProgramSource(modules=modules, adapter="minimal"), allowed_packages=()
    )
    outcome = await run("BootstrapFewShot", problem(artifact), FakeEngine(reply))
    assert set(asked) == {"note", "name.predict"}
    best = outcome.best.artifact
    assert isinstance(best, ModulesArtifact)
    traced = [demo for demo in best.modules["name"].demos if "reasoning" in demo]
    assert len(traced) == 4
    assert all(set(demo) == {"text", "note", "reasoning", "topic"} for demo in traced)


async def test_two_runs_at_once_see_nothing_of_each_other() -> None:
    """One task a program and model: each engine is only asked its own, under its own adapter."""
    before = dict(dspy.settings.config)
    ours, theirs = engine("ours"), FakeEngine(lambda _: "[[ ## topic ## ]]\ntech")
    plain = problem(program("Say ours."), seed=1)
    chatty = problem(program("Say theirs.", adapter="chat"), seed=2)
    first, second = await asyncio.gather(
        run("BootstrapFewShotWithRandomSearch", plain, ours),
        run("BootstrapFewShotWithRandomSearch", chatty, theirs),
    )
    assert all("Say ours." in text and "[[ ##" not in text for text in prompts(ours))
    assert all("Say theirs." in text and "[[ ##" in text for text in prompts(theirs))
    assert first.spent.lm_calls == len(ours.requests)
    assert second.spent.lm_calls == len(theirs.requests)
    assert second.score == 0.25
    assert dict(dspy.settings.config) == before


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("BootstrapFewShotWithRandomSearch", 50),
        ("BootstrapFewShotWithOptuna", 30),
        ("COPRO", 60),
        ("MIPROv2", 50),
        ("GEPA", 40),
        ("SIMBA", 70),
        ("BootstrapFewShot", 2),
    ],
)
async def test_a_spent_budget_keeps_the_best_so_far(name: str, calls: int) -> None:
    fake = engine()
    outcome = await run(name, problem(lm_calls=calls), fake)
    assert (outcome.stopped_because, outcome.detail) == (StopReason.BUDGET, "lm_calls")
    assert outcome.spent.lm_calls == len(fake.requests) == calls
    measured = [c for c in outcome.candidates if c.scores]
    assert outcome.best.scores or not measured
    whole = [t for t in outcome.trials if t.complete]
    if whole:
        top = max(t.score for t in whole)
        assert top == max(t.score for t in whole if t.candidate == outcome.best.hash)


async def test_money_and_tokens_end_a_run_as_calls_do() -> None:
    by_money = await run("BootstrapFewShotWithRandomSearch", problem(usd="0.305"))
    assert (by_money.detail, by_money.spent.usd) == ("usd", Decimal("0.30"))
    by_tokens = await run("BootstrapFewShotWithRandomSearch", problem(tokens=305))
    assert (by_tokens.detail, by_tokens.spent.tokens) == ("tokens", 300)


async def test_a_cancelled_run_stops_at_its_next_call_and_keeps_what_it_found() -> None:
    case, fake = problem(), engine()
    bench = local_workbench(case, fake_lm(fake), meter=METER, on_trial=lambda t, c: cancel(t))

    def cancel(trial: Trial) -> None:
        if trial.number == 3:
            bench.ledger.cancel("by Ada")

    outcome = await builtin_registry().optimize(
        "BootstrapFewShotWithRandomSearch", case, bench, {"num_candidate_programs": 3}
    )
    assert (outcome.stopped_because, outcome.detail) == (StopReason.CANCELLED, "by Ada")
    assert len(outcome.trials) == 3
    assert outcome.best.hash == max(outcome.trials, key=lambda t: t.score).candidate


async def test_a_cancelled_task_leaves_no_thread_that_calls() -> None:
    fake, first = engine(), threading.Event()

    def reply(request: Any) -> Any:
        first.set()
        return answer(request)

    slow = FakeEngine(reply)
    task = asyncio.create_task(run("BootstrapFewShotWithRandomSearch", problem(), slow))
    await asyncio.to_thread(first.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    made = len(slow.requests)
    await asyncio.sleep(0.05)
    assert len(slow.requests) == made < 83
    assert not fake.requests


@pytest.mark.parametrize(
    ("says", "rule"),
    [
        (ValueError("quotes content"), "does not raise"),
        (float("nan"), "finite"),
        (1.5, "0 to 1"),
        ("good", "number"),
    ],
)
@pytest.mark.parametrize("name", ["BootstrapFewShot", "MIPROv2", "SIMBA", "GEPA"])
async def test_a_metric_at_fault_ends_the_run_by_name(name: str, says: Any, rule: str) -> None:
    with pytest.raises(Invalid, match="metric 'exact_topic'") as refused:
        await run(name, problem(metric=ExactTopic(says)))
    assert (refused.value.field, refused.value.rule) == ("metric", rule)
    assert "content" not in str(refused.value)


@pytest.mark.parametrize("name", SMALL)
async def test_a_program_that_only_fails_is_an_error_and_not_a_score_of_0(name: str) -> None:
    broken = FakeEngine(lambda r: "no JSON in here: secret words" if asks_topic(r) else answer(r))
    with pytest.raises(Invalid, match=r"the program failed in all of its \d+ runs") as refused:
        await run(name, problem(failures=10), broken)
    assert (refused.value.field, refused.value.rule) == ("program", "runs")
    assert "secret" not in str(refused.value)
    assert len(broken.requests) < 40


@pytest.mark.parametrize("name", ["LabeledFewShot", "BootstrapFewShot", "COPRO", "GEPA"])
async def test_one_example_is_enough(name: str) -> None:
    outcome = await run(name, problem(train=1, dev=1))
    assert outcome.score in (0.0, 1.0)


async def test_without_dev_examples_train_stands_in() -> None:
    outcome = await run("BootstrapFewShotWithRandomSearch", problem(dev=0))
    assert outcome.score == outcome.best.mean_on({e.hash for e in examples(16)})
    assert (await run("MIPROv2", problem(dev=0))).best.scores


async def test_two_zeros_make_mipro_search_instructions_only() -> None:
    case = problem()
    none = {"max_bootstrapped_demos": 0, "max_labeled_demos": 0}
    bench = local_workbench(case, fake_lm(engine()))
    outcome = await builtin_registry().optimize("MIPRO", case, bench, SMALL["MIPROv2"] | none)
    best = outcome.best.artifact
    assert isinstance(best, ModulesArtifact)
    assert best.modules["main"].demos == ()


async def test_an_optimizer_that_gives_up_is_told_by_type_and_place() -> None:
    def no_instructions(request: Any) -> Any:
        return answer(request) if asks_topic(request) else "secret words"

    with pytest.raises(Invalid, match="the optimizer gave up: ") as refused:
        await run("COPRO", problem(), FakeEngine(no_instructions))
    assert (refused.value.field, refused.value.rule) == ("optimizer", "runs to its end")
    assert "secret" not in str(refused.value)


async def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    for name in SMALL:
        await run(name, problem())
    assert capfd.readouterr() == ("", "")


async def test_trials_are_reported_as_they_happen() -> None:
    seen: list[tuple[Trial, Candidate]] = []
    outcome = await run(
        "BootstrapFewShotWithRandomSearch", problem(), on_trial=lambda t, c: seen.append((t, c))
    )
    assert [trial for trial, _ in seen] == list(outcome.trials)
    assert [candidate.hash for _, candidate in seen] == [t.candidate for t in outcome.trials]
    assert all(artifact_hash(c.artifact) == c.hash for _, c in seen)
    assert seen[-1][0].lm_calls == outcome.spent.lm_calls


async def test_the_start_is_the_best_when_nothing_was_measured() -> None:
    case = problem(lm_calls=1)
    outcome = await run("BootstrapFewShot", case)
    assert outcome.best.artifact == case.artifact
    assert (outcome.score, outcome.trials) == (None, ())
    assert case.budget == Budget(lm_calls=1)
