"""The job queue: its app, and the one way to enqueue, inside the caller's transaction."""

from __future__ import annotations

import logging
from collections.abc import Container
from datetime import datetime, timedelta
from typing import Any, cast

import procrastinate
import psycopg
from procrastinate import exceptions, manager, tasks
from procrastinate.jobs import Job, Status
from procrastinate.utils import utcnow

from dspex_ray.db.engine import Write, psycopg_url
from dspex_ray.jobs.queues import Queue
from dspex_ray.jobs.retry import INFRASTRUCTURE

__all__ = ["INFRASTRUCTURE", "JobManager", "defer", "job_app"]

log = logging.getLogger(__name__)


# How long a job waits for a worker that knows its task, and how often that is looked for: a day.
_UNKNOWN_PAUSE_S = 30
_UNKNOWN_TRIES = 2_880


class JobManager(manager.JobManager):
    """procrastinate's, with two gaps closed: a retry that an equal waiting job makes needless,
    and a newer release's job that an older worker has taken.

    `known` holds the tasks of this worker; None where nothing is run.
    """

    known: Container[str] | None = None

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        """The job's end; or back to waiting, when it failed for being of a task unknown here."""
        unknown = self.known is not None and job.task_name not in self.known
        if unknown and status is Status.FAILED and job.attempts < _UNKNOWN_TRIES:
            log.warning("job %s is left to a worker that knows %s", job.id, job.task_name)
            await self.retry_job(job, retry_at=utcnow() + timedelta(seconds=_UNKNOWN_PAUSE_S))
        else:
            await super().finish_job(job, status, delete_job)

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
            await super().finish_job(job, Status.FAILED, delete_job=False)


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
    app.job_manager = jobs = JobManager(app.connector)
    jobs.known = app.tasks
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
