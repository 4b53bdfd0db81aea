"""The data plane as a Serve application: replicas that hold the whole configuration in memory."""

# No postponed annotations: Serve checks the arguments by the class that `build` names.

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import ray
import structlog
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application

from dspex_ray.api.data_plane import data_plane_app
from dspex_ray.apps.dedicated import ServeReplicas
from dspex_ray.apps.replica import Replica
from dspex_ray.bootstrap import read_settings
from dspex_ray.core.clock import SystemClock
from dspex_ray.core.ids import new_id, random_bits
from dspex_ray.serving.asks import Asks
from dspex_ray.serving.dedicated import DedicatedRunner
from dspex_ray.serving.gateway import Gateway
from dspex_ray.serving.metering import Metering
from dspex_ray.serving.runner import ByPlacement
from dspex_ray.serving.snapshot import Configuration
from dspex_ray.settings import Settings
from dspex_ray.telemetry.metrics import RayMeters
from dspex_ray.traces.losses import SpoolReporter
from dspex_ray.traces.spool import SpoolWriter

log = structlog.get_logger()
_MEASURE_S = 1.0


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
        self._clock = clock = SystemClock()
        configuration = Configuration()
        self._spool = SpoolWriter(settings.spool_dir, settings.spool, clock, new_id)
        self._meters = RayMeters()
        self._metering = Metering(self._meters, configuration)
        self._replica = Replica(
            settings,
            clock,
            "gateway",
            configuration=configuration,
            lost=lambda: self._spool.lost,
            waited_for_thread=self._metering.waited_for_thread,
        )
        self._gateway = Gateway(
            configuration=configuration,
            asks=Asks(configuration, settings.gateway, clock, new_id, random_bits),
            router=self._replica.router,
            runner=ByPlacement(self._replica.runner, DedicatedRunner(ServeReplicas(), clock)),
            spool=self._spool,
            settings=settings.gateway,
            clock=clock,
            metering=self._metering,
        )
        node = ray.get_runtime_context().get_node_id()
        self._reporter = SpoolReporter(self._replica.database, self._spool, node, clock)
        self.app = data_plane_app(self._gateway, lifespan=self._life)

    @asynccontextmanager
    async def _life(self, app: FastAPI) -> AsyncIterator[None]:
        self._replica.start()
        ticking = [
            asyncio.create_task(work())
            for work in (self._rotate, self._measure, self._reporter.run)
        ]
        yield
        for task in ticking:
            task.cancel()
        await asyncio.gather(*ticking, return_exceptions=True)
        await self._replica.stop()
        self._spool.close()

    async def _rotate(self) -> None:
        """Hand full or old segments to the drainer."""
        while True:
            await asyncio.sleep(self._settings.spool.rotate_s)
            self._spool.rotate()

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(_MEASURE_S)
            state = self._gateway.readiness()
            self._metering.sample(
                inflight=state["inflight"],
                records_lost=state["records_lost"],
                breakers=self._replica.breakers,
                now=self._clock.now(),
                at=self._clock.monotonic(),
            )
            self._meters.flush()
