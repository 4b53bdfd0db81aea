"""What happens one by one is written together: all that came while the last write was under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from dspex_ray.jobs.retry import is_infrastructure

log = structlog.get_logger()
T = TypeVar("T")

_RETRY_S = 0.5


class Batches(Generic[T]):
    """`write` gets what was put, in order, each once; it is tried again while the database is
    away. `close` waits for what is left, `patience_s` at most, and raises what went wrong."""

    def __init__(
        self, write: Callable[[Sequence[T]], Awaitable[None]], *, patience_s: float = 120.0
    ) -> None:
        self._write = write
        self._patience_s = patience_s
        self._waiting: list[T] = []
        self._came = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run())

    def put(self, one: T) -> None:
        self._waiting.append(one)
        self._came.set()

    async def close(self) -> None:
        self._closing = True
        self._came.set()
        try:
            async with asyncio.timeout(self._patience_s):
                await self._task
        finally:
            self._task.cancel()

    async def _run(self) -> None:
        while self._waiting or not self._closing:
            await self._came.wait()
            self._came.clear()
            batch, self._waiting = self._waiting, []
            if batch:
                await self._written(batch)

    async def _written(self, batch: Sequence[T]) -> None:
        while True:
            try:
                await self._write(batch)
            except Exception as error:
                if not is_infrastructure(error):
                    raise
                log.warning("results_wait_for_the_database", results=len(batch))
                await asyncio.sleep(_RETRY_S)
            else:
                return
