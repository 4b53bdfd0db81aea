"""The control plane as a Serve application, and the loop that keeps Ray as Postgres says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application

from dspex_ray.api.control import control_app
from dspex_ray.apps import hosted
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

log = structlog.get_logger()
_EVERY_S = 1.0


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
        loop = asyncio.create_task(_keep(services))
        yield
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await database.close()

    return control_app(services, lifespan=lifespan)


async def _keep(services: Services) -> None:
    """Workers on every node, hosts for every hosted model: compared every second, mended."""
    while True:
        await _try(lambda: ensure_workers(WORKER_BUILD))
        try:
            async with services.database.read() as conn:
                models = [model for model, _ in await every_model(conn, services.clock.now())]
        except Exception as error:
            log.warning("cannot read the registry", error=type(error).__name__)
        else:
            await _try(lambda: hosted.reconcile(models))  # noqa: B023 - called at once
        await asyncio.sleep(_EVERY_S)


async def _try(work: Callable[[], object]) -> None:
    try:
        await asyncio.to_thread(work)
    except Exception as error:
        log.warning("reconciling failed; it is tried again", error=repr(error)[:300])
