"""What a node's Worker actor runs: the jobs, and the drain of the node's spools."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import procrastinate

from dspex_ray.apps.evaluator import EVALUATOR_BUILD
from dspex_ray.apps.hosted import await_hosted, hosted_transport
from dspex_ray.apps.worker_meters import WorkerMeters
from dspex_ray.bootstrap import (
    checker_of,
    database_of,
    keyring_of,
    read_settings,
    services_of,
)
from dspex_ray.core.clock import SystemClock
from dspex_ray.evaluation import tasks as evaluation_tasks
from dspex_ray.evaluation.pool import SharedPools
from dspex_ray.evaluation.running import EvaluationRuns
from dspex_ray.jobs.app import job_app
from dspex_ray.models import tasks as model_tasks
from dspex_ray.optimization import tasks as optimization_tasks
from dspex_ray.optimization.submitting import RayJobs, RunJobs
from dspex_ray.serving.llama import check_weights
from dspex_ray.telemetry.metrics import RayMeters
from dspex_ray.traces import tasks as trace_tasks
from dspex_ray.traces.spool import SpoolReader
from dspex_ray.traces.writer import Drainer

WORKER_BUILD = "dspex_ray.apps.worker:worker_parts"


@dataclass(frozen=True)
class WorkerParts:
    """As `jobs.worker` takes it."""

    app: procrastinate.App
    background: Sequence[Callable[[], Awaitable[None]]]
    closing: Callable[[], Awaitable[None]]

    async def close(self) -> None:
        await self.closing()


def worker_parts() -> WorkerParts:
    settings = read_settings()
    clock = SystemClock()
    database = database_of(settings)
    checker = checker_of(settings.health, clock, hosted_transport, await_hosted)
    services = services_of(
        settings,
        database,
        keyring_of(settings),
        checker,
        clock,
        check_weights=check_weights,
    )
    app = job_app(database.url)
    model_tasks.register(app, services.models, timedelta(seconds=settings.health.check_interval_s))
    trace_tasks.register(app, database, clock, settings.retention)
    pools = SharedPools(EVALUATOR_BUILD)
    runs = EvaluationRuns(
        database,
        clock,
        lambda wanted: pools.of(wanted.actors),
        allowed_packages=settings.program_packages,
    )
    evaluation_tasks.register(app, runs)
    optimization_tasks.register(app, RunJobs(database, clock, RayJobs(), settings.optimization))
    drainer = Drainer(database, SpoolReader(settings.spool_dir), settings.spool, clock)

    meters = WorkerMeters(RayMeters(), drainer, settings.spool_dir, database, clock)

    async def drain() -> None:
        await drainer.run(asyncio.Event())

    async def close() -> None:
        await pools.close()
        await database.close()

    return WorkerParts(app=app, background=(drain, meters.run), closing=close)
