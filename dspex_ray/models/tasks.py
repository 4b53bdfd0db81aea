"""Background jobs of the registry: single checks, and the schedule that asks for them."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import procrastinate

from dspex_ray.core.errors import NotFound
from dspex_ray.core.ids import ModelId
from dspex_ray.jobs.app import INFRASTRUCTURE
from dspex_ray.jobs.queues import Queue
from dspex_ray.models.service import CHECK_TASK, ModelService


def register(app: procrastinate.App, service: ModelService, interval: timedelta) -> None:
    @app.task(name=CHECK_TASK, queue=Queue.HEALTH, retry=INFRASTRUCTURE)
    async def health_check(model_id: str) -> None:
        try:
            await service.check_by_id(ModelId(UUID(model_id)))
        except NotFound:
            return  # deleted between the asking and the checking

    @app.periodic(cron="* * * * *")
    @app.task(name="models.schedule_checks", queue=Queue.HEALTH, queueing_lock="schedule_checks")
    async def schedule_checks(timestamp: int) -> None:
        await service.schedule_checks(interval)
