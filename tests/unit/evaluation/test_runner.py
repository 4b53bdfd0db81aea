"""Running examples: the same result at any parallelism, failures apart, cancelling at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex_ray.core.errors import BudgetSpent, Conflict, OutputInvalid, Unavailable
from dspex_ray.evaluation.harness import Harness
from dspex_ray.evaluation.metrics import Metric, resolve_metric
from dspex_ray.evaluation.model import EvaluationSettings, ExampleError, ExampleResult, MetricSpec
from dspex_ray.evaluation.runner import Outcome, evaluate_example, run_items
from dspex_ray.evaluation.work import Item
from dspex_ray.testing.fake_clock import FakeClock
from tests.unit.evaluation.parts import (
    FAILED,
    DictCache,
    FakePool,
    a_result,
    a_target,
    a_work,
    example,
    examples,
)

SAMPLES = "dspex_ray.testing.sample_metrics"
AWAY = ExampleError(code="provider_down", message="every model failed")


class Scoring:
    """`runner.Scoring`; each metric of `judges` costs a cent."""

    def __init__(self, threads: Executor) -> None:
        self.inputs = frozenset({"question"})
        self.threads = threads
        self.called = False

    def lm(self, model: str) -> Any:
        raise AssertionError

    async def embed(self, model: str, texts: list[str]) -> list[list[float]]:
        self.called = True
        return [[1.0], [1.0]]

    def spent(self) -> Decimal | None:
        self.called = False
        return Decimal("0.01")


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def metrics(*names: str, **options: Any) -> list[Metric]:
    allowed = ("dspex_ray.testing",)
    return [
        resolve_metric(MetricSpec(metric=name, options=options), allowed_packages=allowed)
        for name in names
    ]


async def evaluated(
    threads: Executor, outcome: Outcome | BaseException, *chosen: Metric, timeout_s: float = 5
) -> ExampleResult:
    async def predict(item: Item) -> Outcome:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    item = Item(example=example(4, question="q", answer="yes"), repeat=1)
    return await evaluate_example(
        item, predict, chosen, Scoring(threads), FakeClock(), timeout_s=timeout_s
    )


def answered(**fields: Any) -> Outcome:
    given = {"outputs": {"answer": "yes"}, "error": None, "latency_ms": 7.0} | fields
    return Outcome(**given)


# --- one example -----------------------------------------------------------------------------


async def test_an_answer_is_scored_timed_and_priced(threads: Executor) -> None:
    outcome = answered(cost_usd=Decimal("0.002"), prompt_tokens=5, completion_tokens=2)
    embedding = {"model": "vectors"}
    chosen = [*metrics("exact_match"), *metrics("semantic_similarity", **embedding)]
    result = await evaluated(threads, outcome, *chosen)
    assert result == ExampleResult(
        number=4,
        repeat=1,
        example_hash=example(4, question="q", answer="yes").hash,
        scores={"exact_match": 1.0, "semantic_similarity": 1.0},
        latency_ms=7.0,
        cost_usd=Decimal("0.002"),
        metric_costs={"semantic_similarity": Decimal("0.01")},
        prompt_tokens=5,
        completion_tokens=2,
    )


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (OutputInvalid("Missing outputs: answer"), FAILED),
        (KeyError("secret"), ExampleError(code="error", message="the program raised KeyError")),
    ],
)
async def test_a_failing_program_scores_nothing_and_says_why(
    threads: Executor, raised: Exception, error: ExampleError
) -> None:
    result = await evaluated(threads, raised, *metrics("exact_match", "f1"))
    assert (result.scores, result.errors) == ({"exact_match": 0.0, "f1": 0.0}, (error,))
    assert not result.answered


async def test_a_failing_metric_leaves_the_others_alone(threads: Executor) -> None:
    nan = f"{SAMPLES}:not_a_number"
    result = await evaluated(threads, answered(), *metrics(nan, "exact_match"))
    assert result.scores == {nan: 0.0, "exact_match": 1.0}
    assert result.errors == (
        ExampleError(code="invalid", message=f"metric {nan!r} gave nan", metric=nan),
    )
    assert result.answered


async def test_a_metric_may_take_no_longer_than_an_example(threads: Executor) -> None:
    async def forever(*arguments: Any) -> float:
        await asyncio.Event().wait()
        raise AssertionError

    slow = Metric(name="slow", hash="", models=(), scorer=forever)
    result = await evaluated(threads, answered(), slow, timeout_s=0.01)
    assert result.errors == (
        ExampleError(
            code="deadline_exceeded",
            message="metric 'slow' gave no score within 0.01 s",
            metric="slow",
        ),
    )


async def test_what_ends_a_run_is_no_result(threads: Executor) -> None:
    class Halt(BaseException):
        pass

    with pytest.raises(Halt):
        await evaluated(threads, Halt(), *metrics("exact_match"))
    assert (await evaluated(threads, BudgetSpent("spent"))).errors[0].code == "budget_spent"


# --- many ------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), count=st.integers(1, 25), at_once=st.integers(1, 30))
@settings(max_examples=25)
def test_the_same_as_one_after_the_other(seed: int, count: int, at_once: int) -> None:
    """Whatever each takes, and some of them failing."""
    rng = random.Random(seed)
    waits = [rng.random() / 500 for _ in range(count)]

    def pool() -> FakePool:
        return FakePool(
            lambda item: FAILED if item.example.number % 5 == 3 else None,
            lambda item: waits[item.example.number],
        )

    async def run(concurrency: int) -> Any:
        chosen = EvaluationSettings(concurrency=concurrency, repeats=2, seed=seed)
        return await Harness(pool()).run(a_work(seed=seed), examples(count), chosen)

    assert asyncio.run(run(at_once)) == asyncio.run(run(1))


async def test_results_are_told_as_they_come(threads: Executor) -> None:
    told: list[tuple[int, int]] = []
    pool = FakePool(wait_s=lambda item: 0.02 if item.example.number == 0 else 0.0)
    measured = await Harness(pool).run(
        a_work(), examples(3), on_result=lambda result: told.append(result.key)
    )
    assert told == [(1, 0), (2, 0), (0, 0)]
    assert [result.key for result in measured.results] == [(0, 0), (1, 0), (2, 0)]


async def test_never_more_at_once_than_asked() -> None:
    running = most = 0

    async def evaluate(item: Item) -> ExampleResult:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return a_result(item.example.number)

    items = [Item(example=one) for one in examples(30)]
    await run_items(items, evaluate, concurrency=4)
    assert most == 4


async def test_cancelling_cancels_what_is_under_way_and_keeps_what_was_finished() -> None:
    pool, cache = FakePool(wait_s=lambda i: 60.0 if i.example.number > 2 else 0.0), DictCache()
    run = asyncio.create_task(Harness(pool, cache).run(a_work(), examples(20)))
    while len(cache.rows) < 3:
        await asyncio.sleep(0.001)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert pool.cancelled == 16
    assert pool.loads[-1].startswith("unload")


@pytest.mark.parametrize("error", [Unavailable("no actor"), Conflict("model 'm' has changed")])
async def test_what_makes_the_work_impossible_ends_it(error: Exception) -> None:
    class Broken(FakePool):
        async def evaluate(self, work: Any, item: Item) -> ExampleResult:
            if item.example.number == 3:
                raise error
            return await super().evaluate(work, item)

    with pytest.raises(type(error)):
        await Harness(Broken()).run(a_work(), examples(8))


# --- nothing twice ---------------------------------------------------------------------------


async def test_nothing_is_paid_for_twice() -> None:
    cache, first, second = DictCache(), FakePool(), FakePool()
    before = await Harness(first, cache).run(a_work(), examples(6))
    after = await Harness(second, cache).run(a_work(2), examples(8))
    assert set(second.evaluated) == {(6, 0), (7, 0)}
    assert [r.cached for r in after.results] == [True] * 6 + [False] * 2
    marked = [result.model_copy(update={"cached": True}) for result in before.results]
    assert list(after.results[:6]) == marked
    assert after.report.spent_usd == Decimal("0.02")
    assert after.report.cost_usd == Decimal("0.08")


async def test_the_cache_can_be_left_out() -> None:
    cache, pool = DictCache(), FakePool()
    off = EvaluationSettings(cache=False)
    for _ in range(2):
        await Harness(pool, cache).run(a_work(), examples(2), off)
    assert pool.evaluated == {(0, 0): 2, (1, 0): 2}
    assert cache.rows == {}


async def test_equal_examples_run_once_and_repeats_each() -> None:
    twins = [example(number, question="same", answer="x") for number in range(4)]
    pool = FakePool()
    measured = await Harness(pool, DictCache()).run(
        a_work(target=a_target(module={})), twins, EvaluationSettings(repeats=2)
    )
    assert sorted(pool.evaluated) == [(0, 0), (0, 1)]
    assert [r.key for r in measured.results] == [(n, r) for n in range(4) for r in range(2)]
    assert [r.cached for r in measured.results] == [False] * 2 + [True] * 6


async def test_failures_that_may_pass_are_neither_kept_nor_shared() -> None:
    twins = [example(number, question="same", answer="x") for number in range(3)]
    cache, pool = DictCache(), FakePool(lambda item: AWAY)
    await Harness(pool, cache).run(a_work(), twins)
    assert sorted(pool.evaluated) == [(0, 0), (1, 0), (2, 0)]
    assert cache.rows == {}


async def test_a_run_goes_on_at_what_is_done() -> None:
    pool = FakePool()
    whole = await Harness(FakePool()).run(a_work(), examples(9))
    resumed = await Harness(pool).run(a_work(), examples(9), done=whole.results[:5])
    assert sorted(pool.evaluated) == [(n, 0) for n in range(5, 9)]
    assert resumed == whole
