"""The control plane as a Serve application, and the loop that keeps Ray as Postgres says."""

# No postponed annotations: Serve checks the arguments by the class that `build` names.

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import ray
import structlog
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application

from dspex_ray.api.control import control_app
from dspex_ray.apps import dedicated, hosted
from dspex_ray.apps.worker import WORKER_BUILD
from dspex_ray.bootstrap import (
    Services,
    checker_of,
    database_of,
    keyring_of,
    read_settings,
    services_of,
)
from dspex_ray.core.clock import SystemClock
from dspex_ray.jobs.actor import ensure_workers
from dspex_ray.models.store import every_model
from dspex_ray.serving.llama import check_weights
from dspex_ray.serving.looks import Looks
from dspex_ray.traces.losses import GRACE, count_losses

log = structlog.get_logger()
_EVERY_S = 1.0
_COUNT_EVERY_S = 5.0


class ControlArgs(BaseModel):
    """What a Serve config file may say. Settings come from the environment, which, unlike
    arguments, the dashboard does not show."""

    model_config = ConfigDict(extra="forbid")


def build(args: ControlArgs) -> Application:
    ingress = serve.ingress(_app)()
    return serve.deployment(ingress, name="control").bind()


def _app() -> FastAPI:
    """Built in the replica, once: services hold connections, which cross no process."""
    settings = read_settings()
    clock = SystemClock()
    database = database_of(settings)
    checker = checker_of(settings.health, clock, hosted.hosted_transport, hosted.await_hosted)
    services = services_of(
        settings,
        database,
        keyring_of(settings),
        checker,
        clock,
        check_weights=check_weights,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loops = [asyncio.create_task(loop(services)) for loop in (_keep, _count_losses)]
        yield
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await database.close()

    return control_app(services, lifespan=lifespan)


async def _keep(services: Services) -> None:
    """Workers on every node, hosts for every hosted model, an application for every dedicated
    version: compared every second, mended."""
    looks = Looks(services.clock, lambda: serve.status().applications)
    while True:
        await _try(lambda: ensure_workers(WORKER_BUILD))
        try:
            async with services.database.read() as conn:
                models = [model for model, _ in await every_model(conn, services.clock.now())]
        except Exception as error:
            log.warning("cannot read the registry", error=type(error).__name__)
        else:
            await _try(lambda: hosted.reconcile(models, looks))  # noqa: B023 - called at once
        try:
            await dedicated.reconcile(services.placements, services.clock, looks)
        except Exception as error:
            log.warning("placing failed; it is tried again", error=repr(error)[:300])
        await asyncio.sleep(_EVERY_S)


async def _count_losses(services: Services) -> None:
    """Say what nodes that are gone took with them. Begins late: after a restart of the whole
    cluster its spools are drained first."""
    await asyncio.sleep(GRACE.total_seconds())
    while True:
        await asyncio.sleep(_COUNT_EVERY_S)
        try:
            nodes = await asyncio.to_thread(ray.nodes)
            alive = [node["NodeID"] for node in nodes if node["Alive"]]
            async with services.database.write() as conn:
                lost = await count_losses(conn, alive, services.clock.now())
        except Exception as error:
            log.warning("losses cannot be counted", error=type(error).__name__)
        else:
            for node in lost:
                log.error("records_lost_with_node", node=node.node, records=node.records)


async def _try(work: Callable[[], object]) -> None:
    try:
        await asyncio.to_thread(work)
    except Exception as error:
        log.warning("reconciling failed; it is tried again", error=repr(error)[:300])
