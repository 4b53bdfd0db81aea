"""DSPy's optimizers with their students elsewhere: the same calls, the same programs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from decimal import Decimal
from typing import Any

import dspy
import pytest

from dspex_ray.evaluation.metrics import resolve_metric
from dspex_ray.evaluation.model import MetricSpec
from dspex_ray.optimization import pool as pools
from dspex_ray.optimization.door import CallDoor
from dspex_ray.optimization.metering import FlatMeter
from dspex_ray.optimization.model import Outcome, Problem, StopReason
from dspex_ray.optimization.pool import PoolEvaluator
from dspex_ray.optimization.registry import builtin_registry
from dspex_ray.optimization.remote import looks_of
from dspex_ray.optimization.student import run_here
from dspex_ray.optimization.workbench import local_workbench
from dspex_ray.programs.model import Artifact, ProgramSource
from dspex_ray.programs.runtime import current_predictor
from dspex_ray.programs.source import resolve_source
from dspex_ray.testing.fake_lm import FakeEngine, fake_lm
from tests.unit.optimization.parts import SAMPLES, answer, engine, examples, problem, program
from tests.unit.optimization.test_dspy_optimizers import SMALL, signed
from tests.unit.optimization.wired import Served, Wired

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

METER = FlatMeter(Decimal("0.01"), tokens=10)
EXACT = MetricSpec(metric="exact_match", field="topic")
_ALLOWED = ("dspy", "dspex_ray", "tests")


@pytest.fixture
def wired(monkeypatch: pytest.MonkeyPatch) -> Wired:
    return Wired(monkeypatch, CallDoor())


@pytest.fixture
def ran_here(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Forwards that were not sent."""
    count: Counter[str] = Counter()
    here = run_here

    def counted(*arguments: Any) -> Any:
        count["here"] += 1
        return here(*arguments)

    monkeypatch.setattr(pools, "run_here", counted)
    return count


def a_problem(artifact: Artifact | None = None, **more: Any) -> Problem:
    case = problem(artifact, metric=resolve_metric(EXACT), **more)
    return dataclasses.replace(case, allowed_packages=_ALLOWED)


async def local(name: str, case: Problem, fake: FakeEngine) -> Outcome:
    bench = local_workbench(case, fake_lm(fake), meter=METER)
    return await builtin_registry().optimize(name, case, bench, SMALL[name])


async def pooled(name: str, case: Problem, fake: FakeEngine, wired: Wired) -> Outcome:
    bench = local_workbench(case, fake_lm(fake), meter=METER)
    async with wired.pool(2) as pool:
        with wired.door.opened(Served(bench.lm)):
            there = PoolEvaluator(
                case,
                pool,
                wired.door,
                run_actor="r",
                looks=looks_of(bench.lm),
                metrics=(EXACT,),
            )
            forward = there.forward_of(case.artifact, bench.lm)
            elsewhere = dataclasses.replace(bench, evaluator=there, forward=forward)
            return await builtin_registry().optimize(name, case, elsewhere, SMALL[name])


def asked(fake: FakeEngine) -> Counter[str]:
    """Requests, in no order: threads have none."""
    return Counter(repr(request) for request in fake.requests)


@pytest.mark.parametrize("name", SMALL)
async def test_it_finds_the_same_by_the_same_calls(
    name: str, wired: Wired, ran_here: Counter[str]
) -> None:
    here, there = engine(), engine()
    case = a_problem(program(config={"temperature": 0.3, "max_tokens": 40}))
    expected = await local(name, case, here)
    found = await pooled(name, case, there, wired)
    assert signed(found) == signed(expected)
    assert found.program_runs == expected.program_runs
    assert asked(there) == asked(here)
    assert not ran_here
    assert sum(actor.runs for actor in wired.actors) == found.program_runs


@pytest.mark.parametrize("name", ["BootstrapFewShot", "SIMBA", "GEPA"])
async def test_runs_that_fail_are_seen_as_they_were(name: str, wired: Wired) -> None:
    def reply(request: Any) -> Any:
        asks = "topic" in str(request.config.response_format)
        return "no JSON" if asks and "goal" in request.messages[-1].text else answer(request)

    here, there = FakeEngine(reply), FakeEngine(reply)
    case = a_problem()
    expected = await local(name, case, here)
    found = await pooled(name, case, there, wired)
    assert expected.failed_runs > 0
    assert signed(found) == signed(expected)
    assert (found.program_runs, found.failed_runs) == (expected.program_runs, expected.failed_runs)
    assert asked(there) == asked(here)


async def test_a_budget_ends_it_at_the_call(wired: Wired) -> None:
    fake = engine()
    case = a_problem(lm_calls=25)
    found = await pooled("BootstrapFewShotWithRandomSearch", case, fake, wired)
    assert (found.stopped_because, found.detail) == (StopReason.BUDGET, "lm_calls")
    assert len(fake.requests) == 25


@pytest.mark.parametrize("name", ["Topic", "TwoSteps"])
async def test_programs_written_as_classes_run_there_too(
    name: str, wired: Wired, ran_here: Counter[str]
) -> None:
    """One with an async path and state of its own, one with a sync path and two predictors."""
    callers: Counter[str | None] = Counter()

    def reply(request: Any) -> dict[str, Any]:
        callers[current_predictor()] += 1
        return {
            key: {"boolean": True}.get(part.get("type"), "sports")
            for key, part in request.config.response_format["schema"]["properties"].items()
        }

    wanted = {"Topic": "text -> topic", "TwoSteps": "question: str -> answer: str, sure: bool"}
    source = ProgramSource(
        import_path=f"{SAMPLES}:{name}", adapter="minimal", signature=wanted[name]
    )
    artifact = resolve_source(source, allowed_packages=_ALLOWED)
    rows = tuple(
        one.model_copy(
            update={"values": {"question": one.values["text"], "answer": "sports", **one.values}}
        )
        for one in examples(6)
    )
    metric = MetricSpec(metric="exact_match", field="topic" if name == "Topic" else "answer")
    case = Problem(
        artifact=artifact,
        train=rows,
        metric=resolve_metric(metric),
        allowed_packages=_ALLOWED,
    )
    here, there = FakeEngine(reply), FakeEngine(reply)
    expected = await local("BootstrapFewShot", case, here)
    found = await pooled("BootstrapFewShot", case, there, wired)
    assert found.best.artifact == expected.best.artifact
    assert found.best.artifact != case.artifact
    assert asked(there) == asked(here)
    assert not ran_here


async def test_what_json_does_not_hold_runs_at_home(wired: Wired, ran_here: Counter[str]) -> None:
    fake, case = engine(), a_problem()
    bench = local_workbench(case, fake_lm(fake), meter=METER)
    async with wired.pool(1) as pool:
        with wired.door.opened(Served(bench.lm)):
            there = PoolEvaluator(
                case, pool, wired.door, run_actor="r", looks=looks_of(bench.lm), metrics=(EXACT,)
            )
            forward = there.forward_of(case.artifact, bench.lm)
            module = dspy.Predict("text -> topic")
            module.demos = [dspy.Example(text="t", topic={"a", "set"})]
            with dspy.context(lm=bench.lm):
                assert forward(module, lambda text: f"here: {text}", {"text": "x"}) == "here: x"
    assert ran_here == {"here": 1}
