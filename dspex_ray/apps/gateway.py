"""The data plane as a Serve application: replicas that hold the whole configuration in memory."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import structlog
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application

from dspex_ray.api.data_plane import data_plane_app
from dspex_ray.apps.hosted import hosted_transport
from dspex_ray.bootstrap import database_of, keyring_of, read_settings
from dspex_ray.core.clock import SystemClock
from dspex_ray.core.ids import ModelId, new_id
from dspex_ray.models.service import enqueue_check
from dspex_ray.routing.breaker import Breakers
from dspex_ray.routing.limits import Limits
from dspex_ray.routing.router import Router
from dspex_ray.serving.asks import Asks
from dspex_ray.serving.engines import EnginePool
from dspex_ray.serving.executor import Executor
from dspex_ray.serving.gateway import Gateway
from dspex_ray.serving.refresher import Refresher
from dspex_ray.serving.snapshot import Configuration
from dspex_ray.settings import Settings
from dspex_ray.traces.spool import SpoolWriter

log = structlog.get_logger()


class GatewayArgs(BaseModel):
    """What a Serve config file may say. Settings come from the environment, which, unlike
    arguments, the dashboard does not show."""

    model_config = ConfigDict(extra="forbid")


def build(args: GatewayArgs) -> Application:
    ingress = serve.ingress(_app)()
    return serve.deployment(ingress, name="gateway").bind()


def _app() -> FastAPI:
    """Built in the replica: nothing here could cross a process."""
    settings = read_settings()
    return GatewayProcess(settings).app


class GatewayProcess:
    """The parts of one replica, and their life."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        clock = SystemClock()
        self._configuration = Configuration()
        self._database = database_of(settings)
        self._engines = EnginePool(self._configuration, hosted_transport)
        self._limits = Limits()
        self._spool = SpoolWriter(settings.spool_dir, settings.spool, clock, new_id)
        self._threads = ThreadPoolExecutor(settings.gateway.sync_threads, "program")
        router = Router(
            settings.routing,
            clock,
            random.Random(),  # noqa: S311 - draws by weight and jitters waits
            self._engines,
            Breakers(settings.routing),
            self._limits,
            self._configuration.wanted_checks.add,
        )
        gateway = Gateway(
            configuration=self._configuration,
            asks=Asks(self._configuration, settings.gateway, clock, new_id, secrets.randbits),
            router=router,
            executor=Executor(settings.program_packages),
            spool=self._spool,
            threads=self._threads,
            settings=settings.gateway,
            clock=clock,
        )
        self._refresher = Refresher(
            self._configuration,
            self._database,
            keyring_of(settings),
            clock,
            settings.gateway,
            self._request_check,
            replica=_replica(),
            node=os.uname().nodename,
            pid=os.getpid(),
            lost=lambda: self._spool.lost,
        )
        self.app = data_plane_app(gateway, lifespan=self._life)

    @asynccontextmanager
    async def _life(self, app: FastAPI) -> AsyncIterator[None]:
        self._refresher.start()
        rotating = asyncio.create_task(self._rotate())
        yield
        rotating.cancel()
        await asyncio.gather(rotating, return_exceptions=True)
        await self._refresher.stop()
        await self._engines.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._spool.close()
        await self._database.close()

    async def _rotate(self) -> None:
        """Hand full or old segments to the drainer, and keep this replica's share of limits."""
        while True:
            await asyncio.sleep(self._settings.spool.rotate_s)
            self._limits.share = 1 / self._configuration.snapshot.replicas
            self._spool.rotate()

    async def _request_check(self, model_id: ModelId) -> None:
        async with self._database.write() as conn:
            await enqueue_check(conn, model_id)


def _replica() -> str:
    try:
        return str(serve.get_replica_context().replica_tag)
    except Exception:
        return f"process-{os.getpid()}"
