"""Candidates elsewhere: the same scores, the same budget, nothing paid for twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from dspy import lm15

from dspex_ray.core.errors import NotFound, OutputInvalid, ProviderDown
from dspex_ray.evaluation.metrics import resolve_metric
from dspex_ray.evaluation.model import MetricSpec
from dspex_ray.optimization.budget import BudgetExhausted, Ledger, RunCancelled, RunRefused
from dspex_ray.optimization.door import CallDoor
from dspex_ray.optimization.evaluator import LocalEvaluator
from dspex_ray.optimization.metering import FlatMeter, metered
from dspex_ray.optimization.model import Budget, Problem, Score
from dspex_ray.optimization.pool import CandidatePool, PoolEvaluator
from dspex_ray.optimization.remote import looks_of
from dspex_ray.optimization.wire import Ask, Told, fault_of, packed, unpacked
from dspex_ray.testing.fake_lm import FakeEngine, fake_lm
from tests.unit.optimization.parts import answer, engine, examples, problem, program
from tests.unit.optimization.wired import Served, Wired

EXACT = MetricSpec(metric="exact_match")
CENT = FlatMeter(Decimal("0.01"), tokens=5)


@pytest.fixture
def wired(monkeypatch: pytest.MonkeyPatch) -> Wired:
    return Wired(monkeypatch, CallDoor())


def a_problem(**more: Any) -> Problem:
    return problem(metric=resolve_metric(EXACT), **more)


def lm_of(fake: FakeEngine, **budget: Any) -> Any:
    return metered(fake_lm(fake), Ledger(Budget(**budget)), CENT)


@contextmanager
def evaluator(
    wired: Wired, case: Problem, lm: Any, pool: CandidatePool, metrics: Any = (EXACT,)
) -> Iterator[PoolEvaluator]:
    with wired.door.opened(Served(lm, {"judge": lm})):
        yield PoolEvaluator(
            case, pool, wired.door, run_actor="r", looks=looks_of(lm), metrics=metrics
        )


def but_the_time(scores: list[Score]) -> list[Score]:
    return [score._replace(latency_ms=None) for score in scores]


@pytest.mark.parametrize("count", [1, 2])
async def test_scores_are_those_of_one_process(wired: Wired, count: int) -> None:
    case = a_problem(threads=5)
    here = await LocalEvaluator(case, lm_of(engine())).evaluate(case.artifact, case.dev)
    fake = engine()
    async with wired.pool(count) as pool:
        with evaluator(wired, case, lm_of(fake), pool) as there:
            found = await there.evaluate(case.artifact, case.dev)
    assert but_the_time(found) == but_the_time(here)
    assert [score.lm_calls for score in found] == [1] * len(case.dev)
    assert all(score.latency_ms is not None for score in found)
    assert len(fake.requests) == len(case.dev)
    assert len(wired.actors) == count
    assert all(actor.runs for actor in wired.actors)


@pytest.mark.parametrize("limit", [{"usd": Decimal("0.4")}, {"lm_calls": 40}])
async def test_64_runs_at_the_last_cent_pass_no_ceiling(
    wired: Wired, limit: dict[str, Any]
) -> None:
    case, fake = a_problem(threads=64, dev=120), engine()

    async def slow() -> None:
        await asyncio.sleep(0.001)

    fake.asynchronous.before = slow
    async with wired.pool(2) as pool:
        with (
            evaluator(wired, case, lm_of(fake, **limit), pool) as there,
            pytest.raises(BudgetExhausted) as halt,
        ):
            await there.evaluate(case.artifact, case.dev)
    assert len(fake.requests) == 40
    assert halt.value.limit in limit


async def test_a_repeated_run_gets_what_was_answered_and_joins_what_is_under_way(
    wired: Wired,
) -> None:
    """Two calls a run: the actors die while the second ones are under way."""
    case, asked = a_problem(threads=4, train=4), 0
    two_steps = program(type="chain_of_thought")  # one call; its metric makes the second
    judged = MetricSpec(metric="llm_judge", options={"model": "judge", "rubric": "is it?"})
    waiting = asyncio.Event()

    def reply(request: Any) -> Any:
        wanted = str(request.config.response_format)
        return (
            answer(request)
            if "topic" in wanted
            else "[[ ## grounds ## ]]\nso\n[[ ## score ## ]]\n0.5"
        )

    fake = FakeEngine(reply)

    async def slow() -> None:
        nonlocal asked
        asked += 1
        if asked > 4:
            waiting.set()
            await asyncio.sleep(0.02)

    fake.asynchronous.before = slow
    async with wired.pool(2) as pool:
        with evaluator(wired, case, lm_of(fake), pool, (judged,)) as there:
            running = asyncio.create_task(there.evaluate(two_steps, case.train))
            await waiting.wait()
            first = list(wired.actors)
            for actor in first:
                actor.kill()
            found = await running
    assert len(wired.actors) == 4
    assert sum(actor.runs for actor in wired.actors) >= 8  # each anew
    assert len(fake.requests) == 8  # and no more: four programs, four judges
    assert [score.value for score in found] == [0.5] * 4
    assert [score.lm_calls for score in found] == [1] * 4


async def test_equal_calls_of_one_run_are_samples_of_their_own(wired: Wired) -> None:
    door, fake = wired.door, engine()
    with door.opened(Served(lm_of(fake))), door.run() as token:
        request = _request()
        asks = [Ask(run=token, take=take, request=request) for take in ("a", "a", "b", "b", "b")]
        told = [await door.complete(ask) for ask in asks]
    assert len(fake.requests) == 3
    assert told[0] == told[2]
    over = await door.complete(Ask(run=token, take="c", request=request))
    assert over.halt is not None
    assert len(fake.requests) == 3


async def test_an_example_that_kills_its_actors_is_a_result(wired: Wired) -> None:
    case = a_problem(threads=3)

    async def before(ask: Ask) -> None:
        if json.dumps(ask.request).count(case.dev[5].values["text"]):
            next(actor for actor in reversed(wired.actors) if actor.runs).kill()
            await asyncio.sleep(60)

    wired.before = before
    async with wired.pool(1) as pool:
        with evaluator(wired, case, lm_of(engine()), pool) as there:
            found = await there.evaluate(case.artifact, case.dev)
    assert [score.error for score in found if score.error] == ["program_crashed"]
    assert found[5].error == "program_crashed"
    assert (found[5].value, found[5].cost_usd) == (0.0, None)


async def test_halts_and_faults_cross(wired: Wired) -> None:
    case = a_problem(threads=2, dev=4)
    ledger = Ledger(Budget())
    lm = metered(fake_lm(engine()), ledger, CENT)
    async with wired.pool(1) as pool:
        with evaluator(wired, case, lm, pool) as there:
            ledger.cancel("somebody")
            with pytest.raises(RunCancelled, match="somebody"):
                await there.evaluate(case.artifact, case.dev)
        wrong = MetricSpec(metric="exact_match", expected="nothing")
        with (
            evaluator(wired, case, lm_of(engine()), pool, (wrong,)) as there,
            pytest.raises(RunRefused) as refused,
        ):
            await there.evaluate(case.artifact, case.dev)
    assert "the example has no 'nothing' to compare with" in refused.value.error.message


async def test_programs_that_fail_say_why_as_in_one_process(wired: Wired) -> None:
    case = a_problem(threads=2, dev=6)

    def reply(request: Any) -> Any:
        text = request.messages[-1].text
        if "goal" in text:
            return lm15.ServerError("away")
        return ProviderDown("all down") if "chip" in text else {"topic": "no such"}

    here = await LocalEvaluator(case, lm_of(FakeEngine(reply))).evaluate(case.artifact, case.dev)
    async with wired.pool(2) as pool:
        with evaluator(wired, case, lm_of(FakeEngine(reply)), pool) as there:
            found = await there.evaluate(case.artifact, case.dev)
    assert but_the_time(found) == but_the_time(here)
    assert {score.error for score in found} >= {"output_invalid"}


async def test_actors_keep_the_candidates_of_late(wired: Wired) -> None:
    case = a_problem(threads=2, dev=2)
    many = [program(f"Name the topic, {number}.") for number in range(40)]
    async with wired.pool(1) as pool:
        with evaluator(wired, case, lm_of(engine()), pool) as there:
            for candidate in [*many, many[-1], many[-1]]:
                await there.evaluate(candidate, case.dev)
            (actor,) = wired.actors
            assert actor.loads == 40
            await asyncio.sleep(0)
            held = actor._actor._hand._loaded
            assert len(held) == 32
            await there.evaluate(many[0], case.dev)
            assert actor.loads == 41


@pytest.mark.parametrize(
    "error",
    [
        NotFound("no model 'x'", kind="model"),
        OutputInvalid("not a number"),
        lm15.ContextLengthError("too long"),
        lm15.RateLimitError("slow down"),
    ],
)
def test_errors_are_raised_again_as_what_they_were(error: Exception) -> None:
    told = Told.model_validate(unpacked(packed(Told(fault=fault_of(error)))))
    with pytest.raises(type(error)) as raised:
        told.raised()
    assert str(error).splitlines()[0] in str(raised.value)


def test_of_other_errors_no_text_crosses() -> None:
    fault = fault_of(ValueError("the prompt was: secret"))
    assert (fault.code, fault.message) == ("ValueError", "")


def test_what_a_request_says_crosses_whole() -> None:
    from dspy._vendor.lm15.serde import request_from_dict

    from dspex_ray.routing.recall import exact_content

    there = request_from_dict(json.loads(json.dumps(_request())))
    here = request_from_dict(_request())
    assert exact_content(there) == exact_content(here)


def _request() -> dict[str, Any]:
    from dspy._vendor.lm15.serde import request_to_dict

    text = lm15.Message.user("text: goal 1")
    schema = {"type": "object", "properties": {"topic": {"type": "string"}}}
    config = lm15.Config(temperature=0.5, response_format={"type": "json_schema", "schema": schema})
    asked = lm15.Request(model="m", messages=(text,), system="Name it.", config=config)
    return dict(request_to_dict(asked))


def test_what_dspy_asks_loses_nothing_on_the_way() -> None:
    """Every request of a program: a field that the JSON left out would be another request."""
    from dspy._vendor.lm15.serde import request_from_dict, request_to_dict

    from dspex_ray.routing.recall import exact_content

    case, fake = a_problem(), engine()
    asyncio.run(LocalEvaluator(case, fake_lm(fake)).evaluate(case.artifact, examples(2)))
    for request in fake.requests:
        crossed = request_from_dict(json.loads(json.dumps(request_to_dict(request))))
        assert exact_content(crossed) == exact_content(request)
