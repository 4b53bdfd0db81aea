"""The queue looks after itself: jobs of dead workers run again, old ones go."""

from __future__ import annotations

import logging

import procrastinate
from procrastinate.jobs import Job, Status

from dspex_ray.jobs.queues import Queue
from dspex_ray.jobs.retry import INFRASTRUCTURE

RECOVER_TASK = "jobs.recover_stalled"
PRUNE_TASK = "jobs.prune"
MAX_RUNS = 10  # a job whose worker died, on its tenth run, may be what kills them: no eleventh

_URGENT = 100  # before ordinary jobs, so that a full queue cannot keep the stalled ones waiting
_KEEP_SUCCEEDED_H = 24
_KEEP_OTHERS_H = 24 * 7
_KEEP_MAINTENANCE_H = 1

log = logging.getLogger(__name__)


def register_maintenance(
    app: procrastinate.App, *, stalled_after_s: float, recover_every_s: int
) -> None:
    """Add the periodic tasks. A worker silent for `stalled_after_s` seconds counts as dead.

    `recover_every_s` is 1 to 59.

    Neither takes a `lock`: a worker that died holding it would block its own recovery.
    """

    @app.periodic(cron=f"* * * * * */{recover_every_s}")
    @app.task(
        name=RECOVER_TASK,
        queue=Queue.MAINTENANCE,
        queueing_lock=RECOVER_TASK,
        priority=_URGENT,
        retry=INFRASTRUCTURE,
    )
    async def recover(timestamp: int) -> None:
        await recover_stalled(app, stalled_after_s=stalled_after_s)

    @app.periodic(cron="17 * * * *")
    @app.task(name=PRUNE_TASK, queue=Queue.MAINTENANCE, queueing_lock=PRUNE_TASK)
    async def prune(timestamp: int) -> None:
        await prune_finished(app)


async def recover_stalled(app: procrastinate.App, *, stalled_after_s: float) -> list[Job]:
    """Put the jobs of dead workers back into the queue, or end those that keep killing theirs.

    Returns the jobs found, as they were.
    """
    stalled = list(await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=stalled_after_s))
    for job in stalled:
        if job.attempts + 1 >= MAX_RUNS:
            log.error("job %s (%s) is given up: its workers keep dying", job.id, job.task_name)
            assert job.id is not None
            await app.job_manager.finish_job_by_id_async(job.id, Status.FAILED, delete_job=False)
        else:
            log.warning("job %s (%s) runs again: its worker died", job.id, job.task_name)
            await app.job_manager.retry_job(job)
    return stalled


async def prune_finished(app: procrastinate.App) -> None:
    """Delete jobs that succeeded over a day ago, and those that ended otherwise over a week ago.

    The queue's own upkeep, thousands of jobs a day, goes after an hour.
    """
    await app.job_manager.delete_old_jobs(_KEEP_MAINTENANCE_H, queue=Queue.MAINTENANCE)
    await app.job_manager.delete_old_jobs(_KEEP_SUCCEEDED_H)
    await app.job_manager.delete_old_jobs(
        _KEEP_OTHERS_H, include_failed=True, include_cancelled=True, include_aborted=True
    )
