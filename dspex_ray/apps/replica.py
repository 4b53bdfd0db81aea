"""What every process that calls models holds: the configuration, kept fresh, and the router."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections.abc import Callable

from ray import serve

from dspex_ray.apps.hosted import hosted_transport
from dspex_ray.bootstrap import database_of, keyring_of
from dspex_ray.core.clock import Clock
from dspex_ray.core.ids import ModelId
from dspex_ray.models.service import enqueue_check
from dspex_ray.routing.breaker import Breakers
from dspex_ray.routing.limits import Limits
from dspex_ray.routing.router import Router
from dspex_ray.serving.engines import EnginePool
from dspex_ray.serving.executor import Executor, LocalRunner
from dspex_ray.serving.metering import TimedThreads
from dspex_ray.serving.model import ReplicaKind
from dspex_ray.serving.refresher import Refresher
from dspex_ray.serving.snapshot import Configuration
from dspex_ray.settings import Settings

# Looking for cycles after every 700 new objects, Python's default, took a thirtieth of the loop's
# time under load (py-spy with native frames).
_COLLECT_AFTER = 10_000


class Replica:
    """Parts of one process, on the event loop that `start` is called on."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        kind: ReplicaKind,
        *,
        configuration: Configuration,
        lost: Callable[[], int] = lambda: 0,
        waited_for_thread: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._settings = settings
        self.configuration = configuration
        self.database = database_of(settings)
        self._engines = EnginePool(configuration, hosted_transport)
        self._limits = Limits()
        self.threads = TimedThreads(
            settings.gateway.sync_threads, "program", clock, waited_for_thread
        )
        self.breakers = Breakers(settings.routing)
        self.router = Router(
            settings.routing,
            clock,
            random.Random(),  # noqa: S311 - draws by weight and jitters waits
            self._engines,
            self.breakers,
            self._limits,
            configuration.wanted_checks.add,
        )
        self.executor = Executor(settings.program_packages)
        self.runner = LocalRunner(self.executor, self.router, configuration, self.threads)
        self._refresher = Refresher(
            configuration,
            self.database,
            keyring_of(settings),
            clock,
            settings.gateway,
            self._request_check,
            replica=_name(),
            kind=kind,
            node=os.uname().nodename,
            pid=os.getpid(),
            lost=lost,
        )
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def alive(self) -> bool:
        """Whether it still follows the configuration."""
        return self._refresher.alive

    async def loaded(self) -> None:
        """Returns once a configuration is held."""
        await self._refresher.loaded.wait()

    async def _settle(self) -> None:
        """Spare the garbage collector what stays for good, a quarter of a million objects of
        libraries: walking them stopped every request under way for 150 ms."""
        await self.loaded()
        gc.collect()
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER)

    def start(self) -> None:
        self._refresher.start()
        self._tasks = [asyncio.create_task(work()) for work in (self._share, self._settle)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._refresher.stop()
        await self._engines.aclose()
        self.threads.shutdown(wait=False, cancel_futures=True)
        await self.database.close()

    async def _share(self) -> None:
        """Keep this process's share of the models' limits."""
        while True:
            await asyncio.sleep(self._settings.spool.rotate_s)
            self._limits.share = 1 / self.configuration.snapshot.replicas

    async def _request_check(self, model_id: ModelId) -> None:
        async with self.database.write() as conn:
            await enqueue_check(conn, model_id)


def _name() -> str:
    try:
        return str(serve.get_replica_context().replica_tag)
    except Exception:
        return f"process-{os.uname().nodename}-{os.getpid()}"
