"""The pool that runs the examples of evaluations, and its sharing among them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dspex_ray.core.errors import Unavailable
from dspex_ray.evaluation.actors import GIVE_UP_AFTER, Kind, PoolActor, WorkPool
from dspex_ray.evaluation.model import ExampleError, ExampleResult
from dspex_ray.evaluation.work import Item, Work


class EvaluatorActor(PoolActor):
    """Under its own name among the cluster's processes."""


class ActorPool(WorkPool[Work, Item, ExampleResult]):
    """Examples of evaluations, as `WorkPool`."""

    def __init__(self, build_path: str, *, actors: int | None = None, per_actor: int = 256) -> None:
        super().__init__(build_path, _EXAMPLES, actors=actors, per_actor=per_actor)


class SharedPools:
    """Pools that outlive the evaluations that use them by `idle_s`: starting actors takes seconds,
    and each of them a quarter of a gigabyte. One for each number of actors that is asked for."""

    def __init__(self, build_path: str, *, idle_s: float = 60.0) -> None:
        self._build_path = build_path
        self._idle_s = idle_s
        self._pools: dict[int | None, ActorPool] = {}
        self._users: Counter[int | None] = Counter()
        self._ending: dict[int | None, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def of(self, actors: int | None) -> AsyncIterator[ActorPool]:
        self._users[actors] += 1
        if (ending := self._ending.pop(actors, None)) is not None:
            ending.cancel()
        pool = self._pools.setdefault(actors, ActorPool(self._build_path, actors=actors))
        try:
            yield pool
        finally:
            self._users[actors] -= 1
            if not self._users[actors]:
                self._ending[actors] = asyncio.create_task(self._end_later(actors))

    async def close(self) -> None:
        for task in self._ending.values():
            task.cancel()
        pools, self._pools = list(self._pools.values()), {}
        await asyncio.gather(*(pool.close() for pool in pools))

    async def _end_later(self, actors: int | None) -> None:
        await asyncio.sleep(self._idle_s)
        del self._ending[actors]  # from here on nobody cancels this
        pool = self._pools.pop(actors)
        await pool.close()


def _deadly(work: Work, item: Item) -> ExampleResult:
    error = ExampleError(
        code=Unavailable.code,
        message=f"its process died {GIVE_UP_AFTER} times, the last time with nothing else in it",
    )
    return ExampleResult(
        number=item.example.number,
        repeat=item.repeat,
        example_hash=item.example.hash,
        scores={spec.name: 0.0 for spec in work.metrics},
        errors=(error,),
        latency_ms=0.0,
        cost_usd=None,
    )


_EXAMPLES = Kind(actor=EvaluatorActor, result=ExampleResult, deadly=_deadly)
