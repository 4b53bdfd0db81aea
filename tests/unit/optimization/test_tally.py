"""What a program run came to, by a clock that stands still unless it is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from dspex_ray.core.clock import SystemClock
from dspex_ray.datasets.model import Example
from dspex_ray.optimization.budget import Amount, Ledger
from dspex_ray.optimization.evaluator import LocalEvaluator
from dspex_ray.optimization.memory import Asked, Calls, remembered
from dspex_ray.optimization.metering import FlatMeter, metered
from dspex_ray.optimization.model import Budget, Problem
from dspex_ray.optimization.store import Answer
from dspex_ray.optimization.tally import Called, Tally
from dspex_ray.programs.model import ProgramSource
from dspex_ray.programs.source import resolve_source
from dspex_ray.testing.fake_lm import FakeEngine, chat_answer, fake_lm
from tests.unit.optimization.parts import SAMPLES, engine, examples, problem

CENT = FlatMeter(Decimal("0.01"), tokens=7)


class Told:
    """A clock that is set."""

    def __init__(self) -> None:
        self.s = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.s


def test_the_time_of_calls_is_the_models_own_not_what_they_waited() -> None:
    clock = Told()
    tally = Tally(clock)
    clock.s = 1.0  # of its own
    with tally.calling():
        clock.s = 9.0  # 8 s for a place in the budget
    tally.add(Called(Amount(10, Decimal(1)), 500.0))
    clock.s = 9.25
    assert tally.figures() == (1750.0, Decimal(1), 10, 1)


def test_calls_side_by_side_take_as_long_as_passed() -> None:
    clock = Told()
    tally = Tally(clock)
    with tally.calling(), tally.calling():
        clock.s = 2.0
    for _ in range(2):
        tally.add(Called(Amount(1, Decimal(0)), 2000.0))
    assert tally.figures().latency_ms == 2000.0


def test_what_nobody_knows_is_not_made_up() -> None:
    tally = Tally(Told())
    tally.add(Called(Amount(5, None), None))
    tally.add(Called(Amount(5, Decimal(1)), 3.0))
    assert tally.figures() == (None, None, 10, 2)


def test_a_run_without_calls_costs_nothing() -> None:
    assert Tally(Told()).figures() == (0.0, Decimal(0), 0, 0)


class Kept:
    """`memory.Answers` in a dict."""

    def __init__(self) -> None:
        self.answers: dict[Asked, Answer] = {}

    async def find(self, asked: Asked) -> Answer | None:
        return self.answers.get(asked)

    async def keep(self, answer: Answer) -> None:
        self.answers[Asked(answer.digest, answer.nth)] = answer


class NoSink:
    def lm_call(self, call: Any) -> None:
        raise AssertionError


def _remembering(fake: FakeEngine, kept: Kept, ledger: Ledger) -> Any:
    loop = asyncio.get_running_loop()
    calls = Calls(kept, SystemClock(), NoSink(), loop, timeout_s=10)
    paid = metered(fake_lm(fake), Ledger(Budget()), CENT)
    return metered(remembered(paid, "program", calls), ledger, CENT)


async def test_a_remembered_answer_comes_to_what_it_did_the_first_time() -> None:
    fake, kept = engine(), Kept()

    async def slow() -> None:
        await asyncio.sleep(0.05)

    fake.asynchronous.before = slow
    case = problem(threads=2)
    found = []
    for _ in range(2):
        lm = _remembering(fake, kept, Ledger(Budget()))
        found.append(await LocalEvaluator(case, lm).evaluate(case.artifact, examples(4)))
    assert len(fake.requests) == len(kept.answers) == 4
    for first, again in zip(*found, strict=True):
        assert (first.cost_usd, first.tokens, first.lm_calls) == (Decimal("0.01"), 7, 1)
        assert first[:3] == again[:3]
        assert first[4:] == again[4:]
        assert first.latency_ms is not None
        assert again.latency_ms is not None
        assert first.latency_ms >= 50
        assert again.latency_ms >= 50  # though it took no time


async def test_calls_from_threads_that_dspy_starts_are_the_runs_own() -> None:
    artifact = resolve_source(
        ProgramSource(
            import_path=f"{SAMPLES}:Everywhere", signature="words: list[str] -> shouts: list[str]"
        ),
        allowed_packages=("dspex_ray.testing",),
    )
    rows = [Example(hash="0", values={"words": ["a", "b"]}, number=0)]
    case = Problem(
        artifact=artifact, train=tuple(rows), metric=Full(), allowed_packages=("dspex_ray.testing",)
    )
    fake, kept, found = FakeEngine(lambda _: chat_answer(shout="X")), Kept(), []
    for _ in range(2):
        lm = _remembering(fake, kept, Ledger(Budget()))
        found += await LocalEvaluator(case, lm).evaluate(artifact, rows)
    assert len(fake.requests) == 3
    assert [score.lm_calls for score in found] == [3, 3]
    assert [score.cost_usd for score in found] == [Decimal("0.03")] * 2


class Full:
    name = "full"

    async def score(self, example: Any, outputs: Any, context: Any) -> float:
        return float(outputs["shouts"] == ["X"] * 3)


async def test_waiting_for_the_budget_is_no_time_of_the_program() -> None:
    fake = engine()

    async def slow() -> None:
        await asyncio.sleep(0.03)

    fake.asynchronous.before = slow
    case = problem(threads=8)
    one_at_a_time = Ledger(Budget(usd=Decimal("1")))
    lm = metered(fake_lm(fake), one_at_a_time, Reserving())
    scores = await LocalEvaluator(case, lm).evaluate(case.artifact, examples(8))
    latencies = [score.latency_ms for score in scores if score.latency_ms is not None]
    assert len(latencies) == 8
    assert max(latencies) < 8 * 30  # the last one waited for seven others


class Reserving(FlatMeter):
    """A call holds more than half of a budget of 1 USD, and comes to a cent."""

    def __init__(self) -> None:
        super().__init__(Decimal("0.01"))

    def estimate(self, request: Any) -> Amount:
        return Amount(0, Decimal("0.6"))


class Length:
    name = "length"

    async def score(self, example: Any, outputs: Any, context: Any) -> float:
        return min(1.0, len(outputs["topic"]) / 10)


async def test_further_metrics_are_scored_beside_and_are_0_of_a_failed_run() -> None:
    def reply(request: Any) -> Any:
        failing = request.messages[-1].text.endswith(" 1")
        return "no JSON" if failing else {"topic": "sports"}

    case = replace(problem(), others=(Length(),))
    scores = await LocalEvaluator(case, fake_lm(reply)).evaluate(case.artifact, examples(3))
    assert [dict(score.others) for score in scores] == [
        {"length": 0.6},
        {"length": 0.0},
        {"length": 0.6},
    ]
