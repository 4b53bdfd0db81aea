"""What the queue holds. All else that is asked of it goes through procrastinate."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import text

from dspex_ray.db.engine import Read

# What a job that is not over was given under one name.
_LIVE = """
SELECT args ->> :argument FROM procrastinate_jobs
WHERE task_name = :task AND status IN ('todo', 'doing')
"""

# Due since it was enqueued, put back, or scheduled for, whichever came last.
_WAITING = """
SELECT job.queue_name AS queue, count(*) AS jobs,
       extract(epoch FROM now() - min(greatest(job.scheduled_at, entered.at))) AS oldest_s
FROM procrastinate_jobs AS job
LEFT JOIN LATERAL (
    SELECT max(event.at) AS at FROM procrastinate_events AS event
    WHERE event.job_id = job.id
      AND event.type IN ('deferred', 'deferred_for_retry', 'retried')
) AS entered ON true
WHERE job.status = 'todo' AND (job.scheduled_at IS NULL OR job.scheduled_at <= now())
GROUP BY job.queue_name
"""


class Waiting(NamedTuple):
    """`oldest_s`: seconds for which the oldest of the jobs has been due."""

    queue: str
    jobs: int
    oldest_s: float


async def waiting(conn: Read) -> list[Waiting]:
    """Of each queue with jobs that are due and not begun."""
    found = await conn.execute(text(_WAITING))
    return [Waiting(row.queue, row.jobs, max(0.0, float(row.oldest_s or 0))) for row in found]


async def live_arguments(conn: Read, task: str, argument: str) -> set[str]:
    """The argument's values in jobs of this task that wait or run."""
    found = await conn.execute(text(_LIVE), {"task": task, "argument": argument})
    return {value for (value,) in found if value is not None}
