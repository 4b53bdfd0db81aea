"""Background jobs of the records: retention, and the partitions of the days to come."""

from __future__ import annotations

import procrastinate

from dspex_ray.core.clock import Clock
from dspex_ray.db.engine import Database
from dspex_ray.jobs.app import INFRASTRUCTURE
from dspex_ray.jobs.queues import Queue
from dspex_ray.settings import RetentionSettings
from dspex_ray.traces.service import keep_retention

TASK = "traces.keep_retention"


def register(
    app: procrastinate.App, database: Database, clock: Clock, settings: RetentionSettings
) -> None:
    @app.periodic(cron="7 * * * *")
    @app.task(name=TASK, queue=Queue.MAINTENANCE, queueing_lock=TASK, retry=INFRASTRUCTURE)
    async def retention(timestamp: int) -> None:
        await keep_retention(database, clock, settings.records_days)
