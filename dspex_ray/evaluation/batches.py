"""What happens one by one is written together: all that came while the last write was under way,
or within a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

import structlog

from dspex_ray.jobs.retry import is_infrastructure

log = structlog.get_logger()
T = TypeVar("T")

_RETRY_S = 0.5
LINGER_S = 0.05  #: for results: what a killed process had measured and not written runs again


class Batches(Generic[T]):
    """`write` gets what was put, in order, each once; it is tried again while the database is
    away. With `linger_s` whatever comes that long after the first is written with it: nobody waits
    for a write, and each takes its share of the database and of this loop. `close` waits for what
    is left, `patience_s` at most, and raises what went wrong."""

    def __init__(
        self,
        write: Callable[[Sequence[T]], Awaitable[None]],
        *,
        linger_s: float = 0.0,
        patience_s: float = 120.0,
    ) -> None:
        self._write = write
        self._linger_s = linger_s
        self._patience_s = patience_s
        self._waiting: list[T] = []
        self._came = asyncio.Event()
        self._closing = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def put(self, one: T) -> None:
        self._waiting.append(one)
        self._came.set()

    async def close(self) -> None:
        self._closing.set()
        self._came.set()
        try:
            async with asyncio.timeout(self._patience_s):
                await self._task
        finally:
            self._task.cancel()

    async def _run(self) -> None:
        while self._waiting or not self._closing.is_set():
            await self._came.wait()
            if self._linger_s:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), self._linger_s)
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
