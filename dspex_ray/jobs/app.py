"""The job queue: its app, and the one way to enqueue, inside the caller's transaction."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any, cast

import procrastinate
import psycopg
from procrastinate import exceptions, manager, tasks
from procrastinate.jobs import Job, Status

from dspex_ray.db.engine import Write, psycopg_url
from dspex_ray.jobs.queues import Queue
from dspex_ray.jobs.retry import INFRASTRUCTURE

__all__ = ["INFRASTRUCTURE", "JobManager", "defer", "job_app"]

log = logging.getLogger(__name__)


class JobManager(manager.JobManager):
    """procrastinate's, with one gap closed: a retry that an equal waiting job makes needless."""

    async def retry_job(
        self,
        job: Job,
        retry_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        """Back to waiting; or failed, when a job of the same queueing lock waits already.

        procrastinate would raise and leave the job "doing" for ever, its lock held.
        """
        try:
            await super().retry_job(job, retry_at, priority, queue, lock)
        except exceptions.UniqueViolation:
            log.info("job %s is not retried: an equal job waits", job.id)
            await self.finish_job(job, Status.FAILED, delete_job=False)


def job_app(database_url: str) -> procrastinate.App:
    """An app without tasks; rooms add theirs. Open it (`open_async`) before a worker runs it.

    Workers hold at most 4 connections of its pool and one that listens.
    """
    app = procrastinate.App(
        connector=procrastinate.PsycopgConnector(
            conninfo=psycopg_url(database_url),
            kwargs={"connect_timeout": 5},
            min_size=1,
            max_size=4,
            timeout=10,
        )
    )
    app.job_manager = JobManager(app.connector)
    return app


# Only ever used with the caller's connection, so it is never opened.
_ENQUEUER = JobManager(procrastinate.PsycopgConnector())


async def defer(
    conn: Write,
    task_name: str,
    queue: Queue,
    *,
    lock: str | None = None,
    queueing_lock: str | None = None,
    schedule_at: datetime | None = None,
    priority: int = 0,
    **args: Any,
) -> int | None:
    """Enqueue in the caller's transaction: the job exists when, and only when, that commits.

    `args` are plain JSON. `lock`: jobs of one lock run one at a time. `queueing_lock`: at most
    one job of it waits; returns None, and nothing else happens, when one waits already. Returns
    the job's id otherwise. `schedule_at` is timezone-aware. Higher `priority` runs first.
    """
    raw = await conn.get_raw_connection()
    deferrer = tasks.configure_task(
        name=task_name,
        job_manager=_ENQUEUER,
        lock=lock,
        queueing_lock=queueing_lock,
        schedule_at=schedule_at,
        queue=queue.value,
        priority=priority,
        connection=cast("psycopg.AsyncConnection[Any]", raw.driver_connection),
    )
    if queueing_lock is None:
        return await deferrer.defer_async(**args)
    try:
        # The refusal is a unique violation, which would abort the whole transaction.
        async with conn.begin_nested():
            return await deferrer.defer_async(**args)
    except exceptions.AlreadyEnqueued:
        return None
