"""One example after the other, or many at once, with the same results: free of Ray and of SQL.

A failing example is a result like any other: it scores 0 and says why. What fails the whole run
is an error of the infrastructure, which `evaluate` raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import DeadlineExceeded, DspexRayError
from dspex_ray.core.ids import ExecutionId
from dspex_ray.evaluation.metrics import Metric, MetricContext
from dspex_ray.evaluation.model import ExampleError, ExampleResult
from dspex_ray.evaluation.work import Item


@dataclass(frozen=True)
class Outcome:
    """How the program did on one example: `outputs`, or `error`. Costs in USD, None = unknown."""

    outputs: dict[str, Any] | None
    error: ExampleError | None
    latency_ms: float
    cost_usd: Decimal | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    execution_id: ExecutionId | None = None


class Scoring(MetricContext, Protocol):
    """The context of one example's metrics, and what they have cost."""

    def spent(self) -> Decimal | None:
        """USD since it was last asked; None = unknown."""
        ...

    @property
    def called(self) -> bool:
        """Whether models were called since then."""
        ...


Predict = Callable[[Item], Awaitable[Outcome]]
Evaluate = Callable[[Item], Awaitable[ExampleResult]]
OnResult = Callable[[ExampleResult], None]


async def evaluate_example(
    item: Item,
    predict: Predict,
    metrics: Sequence[Metric],
    scoring: Scoring,
    clock: Clock,
    *,
    timeout_s: float,
) -> ExampleResult:
    """The result of one example. Raises nothing that the program or a metric raised, but for a
    BaseException that is no Exception: budgets and cancelling are such."""
    outcome = await _predicted(item, predict, clock)
    scores: dict[str, float] = {metric.name: 0.0 for metric in metrics}
    costs: dict[str, Decimal | None] = {}
    errors = [] if outcome.error is None else [outcome.error]
    for metric in metrics if outcome.outputs is not None and outcome.error is None else ():
        try:
            async with asyncio.timeout(timeout_s):
                values, outputs = item.example.values, outcome.outputs or {}
                scores[metric.name] = await metric.score(values, outputs, scoring)
        except Exception as error:
            errors.append(_of_metric(error, metric.name, timeout_s))
        if scoring.called:
            costs[metric.name] = scoring.spent()
    return ExampleResult(
        number=item.example.number,
        repeat=item.repeat,
        example_hash=item.example.hash,
        scores=scores,
        errors=tuple(errors),
        latency_ms=outcome.latency_ms,
        cost_usd=outcome.cost_usd,
        metric_costs=costs,
        prompt_tokens=outcome.prompt_tokens,
        completion_tokens=outcome.completion_tokens,
        execution_id=outcome.execution_id,
    )


async def run_items(
    items: Sequence[Item],
    evaluate: Evaluate,
    *,
    concurrency: int,
    on_result: OnResult | None = None,
) -> list[ExampleResult]:
    """Results by example number and repeat, whatever order they came in; `on_result` hears of
    each as it comes. Cancelled, it cancels what is under way. Raises what `evaluate` raises."""
    results: list[ExampleResult] = []
    waiting: Iterator[Item] = iter(items)

    async def work() -> None:
        for item in waiting:
            result = await evaluate(item)
            results.append(result)
            if on_result is not None:
                on_result(result)

    tasks = [asyncio.create_task(work()) for _ in range(min(concurrency, len(items)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    return sorted(results, key=lambda result: result.key)


async def _predicted(item: Item, predict: Predict, clock: Clock) -> Outcome:
    started = clock.monotonic()
    try:
        return await predict(item)
    except Exception as error:
        return Outcome(
            outputs=None,
            error=example_error(error),
            latency_ms=(clock.monotonic() - started) * 1000,
        )


def example_error(error: Exception) -> ExampleError:
    """Our own messages name fields and rules; any other's text may hold content."""
    if isinstance(error, DspexRayError):
        return ExampleError(code=error.code, message=error.message[:500])
    message = f"the program raised {type(error).__name__}"
    return ExampleError(code=DspexRayError.code, message=message)


def _of_metric(error: Exception, name: str, timeout_s: float) -> ExampleError:
    if isinstance(error, TimeoutError):
        message = f"metric {name!r} gave no score within {timeout_s:g} s"
        return ExampleError(code=DeadlineExceeded.code, message=message, metric=name)
    return example_error(error).model_copy(update={"metric": name})
