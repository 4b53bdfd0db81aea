"""Background jobs of evaluations: running one, ending abandoned ones, pruning the cache."""

from __future__ import annotations

from uuid import UUID

import procrastinate

from dspex_ray.core.ids import EvaluationId
from dspex_ray.evaluation.running import EvaluationRuns
from dspex_ray.evaluation.service import RUN_TASK
from dspex_ray.jobs.app import INFRASTRUCTURE
from dspex_ray.jobs.queues import Queue

RECONCILE_TASK = "evaluation.reconcile"
PRUNE_TASK = "evaluation.prune_cache"


def register(app: procrastinate.App, runs: EvaluationRuns) -> None:
    @app.task(name=RUN_TASK, queue=Queue.EVALUATIONS, retry=INFRASTRUCTURE, pass_context=True)
    async def run(context: procrastinate.JobContext, evaluation_id: str) -> None:
        last = context.job.attempts + 1 >= INFRASTRUCTURE.attempts
        await runs.run(EvaluationId(UUID(evaluation_id)), last=last)

    @app.periodic(cron="* * * * *")
    @app.task(name=RECONCILE_TASK, queue=Queue.MAINTENANCE, queueing_lock=RECONCILE_TASK)
    async def reconcile(timestamp: int) -> None:
        await runs.fail_abandoned()

    @app.periodic(cron="27 * * * *")
    @app.task(
        name=PRUNE_TASK, queue=Queue.MAINTENANCE, queueing_lock=PRUNE_TASK, retry=INFRASTRUCTURE
    )
    async def prune(timestamp: int) -> None:
        await runs.forget_expired()
