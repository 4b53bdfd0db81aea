"""The harness: a program on examples, by metrics, nothing paid for twice, the same result whatever
the parallelism."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from dspex_ray.datasets.model import Example
from dspex_ray.evaluation.batches import LINGER_S, Batches
from dspex_ray.evaluation.metrics import resolve_metric
from dspex_ray.evaluation.model import EvaluationSettings, ExampleResult, Report
from dspex_ray.evaluation.rules import cacheable, metric_key, run_key, summarise
from dspex_ray.evaluation.runner import OnResult, run_items
from dspex_ray.evaluation.work import Item, Work


class Pool(Protocol):
    """Where examples run: `evaluation.pool.ActorPool`, or a double."""

    def loaded(self, work: Work, at_once: int) -> AbstractAsyncContextManager[int | None]:
        """So many of its examples run at once; how many to hand over, None for as many."""
        ...

    async def evaluate(self, work: Work, item: Item) -> ExampleResult: ...


class RunCache(Protocol):
    """Results by run key. `metrics` maps the names of metrics to their keys."""

    async def find(
        self, keys: Collection[str], metrics: Mapping[str, str]
    ) -> dict[str, ExampleResult]:
        """Those that have a score of every metric and have not expired."""
        ...

    async def keep(
        self, results: Sequence[tuple[str, ExampleResult]], metrics: Mapping[str, str], ttl_s: int
    ) -> None: ...


@dataclass(frozen=True)
class Measured:
    """`results` in order of example number and repeat."""

    results: tuple[ExampleResult, ...]
    report: Report


class Harness:
    """Over one pool. `allowed_packages` are those that metrics may be imported from."""

    def __init__(
        self,
        pool: Pool,
        cache: RunCache | None = None,
        *,
        allowed_packages: Iterable[str] = ("dspy",),
    ) -> None:
        self._pool = pool
        self._cache = cache
        self._allowed = tuple(allowed_packages)

    async def run(
        self,
        work: Work,
        examples: Sequence[Example],
        settings: EvaluationSettings | None = None,
        *,
        done: Sequence[ExampleResult] = (),
        on_result: OnResult | None = None,
    ) -> Measured:
        """Run every example `settings.repeats` times, but for those that `done` has results of.

        `on_result` hears of each new result as it comes. Cancelled, it ends at once, and what was
        finished is kept in the cache. Raises Invalid for no examples, or a metric that is wrong;
        Unavailable when nothing can be run; Conflict when a model has changed meanwhile.
        """
        settings = settings or EvaluationSettings()
        kept = {result.key: result for result in done}
        items = [
            item
            for example in examples
            for repeat in range(settings.repeats)
            if (item := Item(example=example, repeat=repeat)).key not in kept
        ]
        cache = self._cache if settings.cache else None
        run = _Run(self._pool, work, settings, on_result, cache, self._metric_keys(work))
        async with self._pool.loaded(work, settings.concurrency) as at_once:
            await run.all(items, at_once or settings.concurrency)
        results = tuple(sorted([*done, *run.results], key=lambda result: result.key))
        names = [spec.name for spec in work.metrics]
        report = summarise(
            results, names, confidence=settings.confidence, threshold=settings.threshold
        )
        return Measured(results, report)

    def _metric_keys(self, work: Work) -> dict[str, str]:
        metrics = [resolve_metric(spec, allowed_packages=self._allowed) for spec in work.metrics]
        return {m.name: metric_key(m.hash, m.models, work.metric_models) for m in metrics}


class _Run:
    """One run: what the cache has is taken, equal items run once, the rest goes to the pool."""

    def __init__(
        self,
        pool: Pool,
        work: Work,
        settings: EvaluationSettings,
        on_result: OnResult | None,
        cache: RunCache | None,
        metrics: Mapping[str, str],
    ) -> None:
        self.results: list[ExampleResult] = []
        self._pool = pool
        self._work = work
        self._settings = settings
        self._on_result = on_result
        self._cache = cache
        self._metrics = metrics
        self._at_once = settings.concurrency
        self._equal: dict[str, list[Item]] = {}

    async def all(self, items: Sequence[Item], at_once: int) -> None:
        """So many are handed to the pool at once."""
        self._at_once = at_once
        if self._cache is None:
            await self._run(items, None)
            return
        left = await self._from_cache(self._cache, items)
        cache, ttl_s = self._cache, self._settings.cache_ttl_s

        async def keep(batch: Sequence[tuple[str, ExampleResult]]) -> None:
            await cache.keep(batch, self._metrics, ttl_s)

        keeping = Batches(keep, linger_s=LINGER_S)
        try:
            await self._run(left, keeping)
        finally:
            await asyncio.shield(keeping.close())

    async def _run(
        self, items: Sequence[Item], keeping: Batches[tuple[str, ExampleResult]] | None
    ) -> None:
        keys = {item.key: self._key(item) for item in items} if keeping is not None else {}

        def came(result: ExampleResult) -> None:
            self._take(result)
            if keeping is None or not cacheable(result):
                return
            key = keys[result.key]
            keeping.put((key, result))
            for twin in self._equal.pop(key)[1:]:
                self._take(_as(twin, result))

        await run_items(items, self._evaluate, concurrency=self._at_once, on_result=came)
        # Twins of what must not be kept are run for themselves.
        twins = [twin for equal in self._equal.values() for twin in equal[1:]]
        self._equal.clear()
        if twins:
            await run_items(twins, self._evaluate, concurrency=self._at_once, on_result=self._take)

    async def _from_cache(self, cache: RunCache, items: Sequence[Item]) -> list[Item]:
        """Takes what is there; one item of each key that is not."""
        by_key: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            by_key[self._key(item)].append(item)
        found = await cache.find(by_key.keys(), self._metrics)
        for key, result in found.items():
            for item in by_key.pop(key):
                self._take(_as(item, result))
        self._equal = dict(by_key)
        return [equal[0] for equal in by_key.values()]

    async def _evaluate(self, item: Item) -> ExampleResult:
        return await self._pool.evaluate(self._work, item)

    def _take(self, result: ExampleResult) -> None:
        self.results.append(result)
        if self._on_result is not None:
            self._on_result(result)

    def _key(self, item: Item) -> str:
        return run_key(self._work, item.example.hash, item.repeat)


def _as(item: Item, result: ExampleResult) -> ExampleResult:
    """A result that was paid for by another run, as this item's."""
    return result.model_copy(
        update={
            "number": item.example.number,
            "repeat": item.repeat,
            "example_hash": item.example.hash,
            "cached": True,
        }
    )
