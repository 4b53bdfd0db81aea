"""Candidates on the run's pool of actors, each of their LM calls under the run's own budget."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from dspex_ray.core.canonical import content_hash
from dspex_ray.datasets.model import Example
from dspex_ray.evaluation.actors import Kind, PoolActor
from dspex_ray.evaluation.model import MetricSpec
from dspex_ray.optimization.candidates import CandidateWork, RunItem, RunResult
from dspex_ray.optimization.door import CallDoor
from dspex_ray.optimization.evaluator import all_scores
from dspex_ray.optimization.forwarding import CameBack, Forwarded, replayed, sent
from dspex_ray.optimization.model import Problem, Score
from dspex_ray.optimization.remote import LmLooks
from dspex_ray.optimization.student import Forward, run_here
from dspex_ray.optimization.wire import Fault
from dspex_ray.programs.artifacts import artifact_hash, artifact_payload
from dspex_ray.programs.model import Artifact

CRASHED = "program_crashed"  #: the error of a run that killed its actors
_KEPT = 32


class CandidateActor(PoolActor):
    """Under its own name among the cluster's processes."""


class CandidatePool(Protocol):
    """Where runs go: `evaluation.actors.WorkPool`, or a double."""

    async def start(self) -> None: ...

    async def evaluate(self, work: CandidateWork, item: RunItem) -> RunResult: ...

    def unload(self, work: CandidateWork) -> None: ...

    async def close(self) -> None: ...


def _deadly(work: CandidateWork, item: RunItem) -> RunResult:
    if item.forward is not None:
        return RunResult(forwarded=CameBack(fault=Fault(code=CRASHED)))
    others = {spec.name: 0.0 for spec in work.metrics[1:]}
    return RunResult(error=CRASHED, others=others)


CANDIDATES = Kind(actor=CandidateActor, result=RunResult, deadly=_deadly)


class PoolEvaluator:
    """`optimization.evaluator.Evaluator` over a pool. At most `limits.threads` runs are under way
    in all actors together. An actor holds the candidates of late, and is sent each once."""

    def __init__(
        self,
        problem: Problem,
        pool: CandidatePool,
        door: CallDoor,
        *,
        run_actor: str,
        looks: LmLooks,
        metrics: Sequence[MetricSpec],
    ) -> None:
        """`metrics` are the specs of the problem's."""
        self._pool, self._door = pool, door
        self._run_actor, self._looks, self._metrics = run_actor, looks, tuple(metrics)
        self._at_once = asyncio.Semaphore(problem.limits.threads)
        self._works: OrderedDict[str, CandidateWork] = OrderedDict()
        self._used: Counter[str] = Counter()

    async def evaluate(self, artifact: Artifact, examples: Sequence[Example]) -> list[Score]:
        with self._work(artifact) as work:
            return await all_scores([self._one(work, example) for example in examples])

    def forward_of(self, artifact: Artifact, lm: Any) -> Forward:
        """How students of that artifact run, whose LM is a copy of `lm`. For DSPy's threads: the
        running loop carries it out."""
        loop = asyncio.get_running_loop()

        def forward(module: Any, original: Callable[..., Any], inputs: dict[str, Any]) -> Any:
            item = sent(module, inputs, lm.engine)
            if item is None:
                return run_here(module, original, inputs)
            call = self._forwarded(artifact, item)
            return replayed(asyncio.run_coroutine_threadsafe(call, loop).result(), module)

        return forward

    async def _forwarded(self, artifact: Artifact, forward: Forwarded) -> CameBack:
        with self._work(artifact) as work:
            found = (await self._run(work, forward=forward)).forwarded
        assert found is not None
        return found

    async def _one(self, work: CandidateWork, example: Example) -> Score:
        async with self._at_once:
            return (await self._run(work, example=example)).score

    async def _run(self, work: CandidateWork, **what: Any) -> RunResult:
        with self._door.run() as token:
            result = await self._pool.evaluate(work, RunItem(run=token, **what))
        if result.halt is not None:
            raise result.halt.halted()
        return result

    @contextmanager
    def _work(self, artifact: Artifact) -> Iterator[CandidateWork]:
        key = artifact_hash(artifact)
        work = self._works.pop(key, None) or self._made(artifact, key)
        self._works[key] = work
        self._used[key] += 1
        try:
            yield work
        finally:
            self._used[key] -= 1
            self._forget()

    def _forget(self) -> None:
        """The oldest beyond what is kept, of those that nobody measures."""
        idle = [key for key in self._works if not self._used[key]]
        for key in idle[: max(0, len(self._works) - _KEPT)]:
            self._pool.unload(self._works.pop(key))
            del self._used[key]

    def _made(self, artifact: Artifact, key: str) -> CandidateWork:
        rest = [spec.model_dump(mode="json") for spec in self._metrics]
        looks = self._looks.model_dump(mode="json")
        return CandidateWork(
            id=content_hash([key, self._run_actor, looks, rest]),
            run_actor=self._run_actor,
            artifact=artifact_payload(artifact),
            looks=self._looks,
            metrics=self._metrics,
        )
