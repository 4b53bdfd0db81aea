"""Background jobs of optimization runs: submitting them, and looking after their processes."""

from __future__ import annotations

from uuid import UUID

import procrastinate

from dspex_ray.core.ids import OptimizationId
from dspex_ray.jobs.app import INFRASTRUCTURE
from dspex_ray.jobs.queues import Queue
from dspex_ray.optimization.service import SUBMIT_TASK
from dspex_ray.optimization.submitting import RunJobs

RECONCILE_TASK = "optimization.reconcile"
FORGET_TASK = "optimization.forget_answers"


def register(app: procrastinate.App, runs: RunJobs) -> None:
    @app.task(name=SUBMIT_TASK, queue=Queue.ML_OPTIMIZATION, retry=INFRASTRUCTURE)
    async def submit(run_id: str) -> None:
        await runs.submit(OptimizationId(UUID(run_id)))

    @app.periodic(cron="* * * * * */10")
    @app.task(name=RECONCILE_TASK, queue=Queue.MAINTENANCE, queueing_lock=RECONCILE_TASK)
    async def reconcile(timestamp: int) -> None:
        await runs.reconcile()

    @app.periodic(cron="37 * * * *")
    @app.task(
        name=FORGET_TASK, queue=Queue.MAINTENANCE, queueing_lock=FORGET_TASK, retry=INFRASTRUCTURE
    )
    async def forget(timestamp: int) -> None:
        await runs.forget()
