"""Runs jobs until told to stop, and outlives the database's absence."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import procrastinate
from procrastinate import exceptions
from procrastinate.job_context import AbortReason, JobContext

from dspex_ray.jobs.maintenance import register_maintenance

log = logging.getLogger(__name__)

_FIRST_WAIT_S = 0.2
_MAX_WAIT_S = 5.0
_OPEN_TIMEOUT_S = 5.0


class WorkerParts(Protocol):
    """What a worker runs. `background` loops run beside the jobs and are restarted if they end."""

    @property
    def app(self) -> procrastinate.App: ...

    @property
    def background(self) -> Sequence[Callable[[], Awaitable[None]]]: ...

    async def close(self) -> None: ...


Build = Callable[[], WorkerParts]


def load_build(path: str) -> Build:
    """The function that "package.module:function" names. Raises ValueError when it names none."""
    module, _, name = path.partition(":")
    build = getattr(importlib.import_module(module), name, None) if module and name else None
    if not callable(build):
        raise ValueError(f"{path!r} names no function: write 'package.module:function'")
    function: Build = build
    return function


class Worker:
    """One procrastinate worker with its background loops, for as long as `run` runs.

    Jobs are async and mostly wait, so `concurrency` of them share one loop. A worker that has
    not been heard of for `stalled_after_s` (at least 3 heartbeats) loses its jobs to others.
    """

    def __init__(
        self,
        build: Build,
        *,
        name: str = "worker",
        concurrency: int = 16,
        heartbeat_s: float = 10.0,
        stalled_after_s: float = 30.0,
        recover_every_s: int = 15,
        drain_s: float = 20.0,
    ) -> None:
        self._build = build
        self._name = name
        self._concurrency = concurrency
        self._heartbeat_s = heartbeat_s
        self._stalled_after_s = stalled_after_s
        self._recover_every_s = recover_every_s
        self._drain_s = drain_s
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Returns after `stop`, when the jobs at hand have ended or `drain_s` has passed."""
        parts = self._build()
        register_maintenance(
            parts.app,
            stalled_after_s=self._stalled_after_s,
            recover_every_s=self._recover_every_s,
        )
        loops = [asyncio.create_task(self._forever(loop)) for loop in parts.background]
        try:
            await self._forever(lambda: self._work(parts.app))
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await parts.close()

    def stop(self) -> None:
        """Ask `run` to end. From another thread: `loop.call_soon_threadsafe(worker.stop)`."""
        self._stopping.set()

    async def _work(self, app: procrastinate.App) -> None:
        """Run jobs until stopped; raises, or returns early, when the database goes away."""
        working = asyncio.create_task(self._run_jobs(app))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            working.cancel()  # procrastinate takes it as: finish the jobs at hand, then end
            try:
                with suppress(asyncio.CancelledError):
                    await working
            finally:
                # Also when opening failed: it leaves a half-open pool behind.
                await app.connector.close_async()

    async def _run_jobs(self, app: procrastinate.App) -> None:
        async with asyncio.timeout(_OPEN_TIMEOUT_S):
            await app.open_async()
        await app.run_worker_async(
            name=self._name,
            concurrency=self._concurrency,
            install_signal_handlers=False,
            fetch_job_polling_interval=2.0,
            update_heartbeat_interval=self._heartbeat_s,
            stalled_worker_timeout=self._stalled_after_s,
            shutdown_graceful_timeout=self._drain_s,
            worker_middleware=[_shutdown_is_not_failure],
        )

    async def _forever(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` again and again until stopped, waiting longer while it keeps failing."""
        clock = asyncio.get_running_loop().time
        wait_s = _FIRST_WAIT_S
        while not self._stopping.is_set():
            started = clock()
            try:
                await work()
            except Exception as error:
                log.warning("worker %s: %s: %s", self._name, type(error).__name__, error)
            if clock() - started > _MAX_WAIT_S:
                wait_s = _FIRST_WAIT_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
            wait_s = min(_MAX_WAIT_S, wait_s * 2)


async def _shutdown_is_not_failure(
    call_next: Callable[[], Awaitable[Any]], context: JobContext, worker: object
) -> Any:
    """A job that the worker's end cut short is put back; one that a user aborted is not."""
    try:
        return await call_next()
    except asyncio.CancelledError:
        if context.abort_reason() is AbortReason.SHUTDOWN:
            raise exceptions.JobAborted from None
        raise
