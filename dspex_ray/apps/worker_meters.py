"""What a node's worker knows, as metrics: its node's spool, and the queue of all."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from dspex_ray.core.clock import Clock
from dspex_ray.db.engine import Database
from dspex_ray.jobs.queues import Queue
from dspex_ray.jobs.store import waiting
from dspex_ray.telemetry import metrics
from dspex_ray.telemetry.metrics import Levels, Meters, Total
from dspex_ray.traces.spool import spool_figures
from dspex_ray.traces.writer import Drainer

_EVERY_S = 5.0
_ASK_WITHIN_S = 4.0

log = structlog.get_logger()


class WorkerMeters:
    """One a worker. While Postgres is away, the figures of the queue stay what they were."""

    def __init__(
        self, meters: Meters, drainer: Drainer, spool: Path, database: Database, clock: Clock
    ) -> None:
        self._meters = meters
        self._drainer = drainer
        self._spool = spool
        self._database = database
        self._clock = clock
        self._drained = Total(meters, metrics.RECORDS_DRAINED)
        self._jobs = Levels(meters, metrics.JOBS_WAITING)
        self._waits = Levels(meters, metrics.JOBS_WAIT_SECONDS)

    async def run(self) -> None:
        while True:
            await self.sample_spool()
            try:
                await asyncio.wait_for(self.sample_queues(), _ASK_WITHIN_S)
            except Exception as error:
                log.debug("the queue cannot be measured", error=type(error).__name__)
            self._meters.flush()
            await asyncio.sleep(_EVERY_S)

    async def sample_spool(self) -> None:
        figures = await asyncio.to_thread(spool_figures, self._spool, self._clock.now())
        self._meters.set(metrics.SPOOL_BYTES, figures.bytes)
        self._meters.set(metrics.SPOOL_SEGMENTS, figures.segments)
        self._meters.set(metrics.SPOOL_AGE_SECONDS, figures.oldest_age_s)
        self._meters.set(metrics.SPOOL_BAD, figures.bad)
        self._drained.tell(self._drainer.drained)

    async def sample_queues(self) -> None:
        async with self._database.read() as conn:
            found = await waiting(conn)
        none = {queue.value: 0.0 for queue in Queue}
        self._jobs.tell(none | {queue.queue: float(queue.jobs) for queue in found})
        self._waits.tell(none | {queue.queue: queue.oldest_s for queue in found})
