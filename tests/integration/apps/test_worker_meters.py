"""A worker tells what waits: in its node's spool, and in the queue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from dspex_ray.apps.worker_meters import WorkerMeters
from dspex_ray.core.clock import SystemClock
from dspex_ray.core.ids import DEFAULT_PROJECT, ExecutionId, new_id
from dspex_ray.db.engine import Database
from dspex_ray.jobs.app import defer
from dspex_ray.jobs.queues import Queue
from dspex_ray.jobs.store import waiting
from dspex_ray.settings import SpoolSettings
from dspex_ray.telemetry.metrics import MemoryMeters
from dspex_ray.traces.model import ExecutionRecord, ExecutionStatus
from dspex_ray.traces.spool import SpoolReader, SpoolWriter
from dspex_ray.traces.writer import Drainer

pytestmark = pytest.mark.integration


def record() -> ExecutionRecord:
    return ExecutionRecord(
        id=ExecutionId(new_id()),
        project_id=DEFAULT_PROJECT,
        status=ExecutionStatus.COMPLETED,
        endpoint="predict",
        started_at=datetime.now(UTC),
        duration_ms=1.0,
    )


async def test_only_jobs_that_are_due_wait(database: Database) -> None:
    now = datetime.now(UTC)
    async with database.write() as conn:
        old = await defer(conn, "test.one", Queue.HEALTH)
        await defer(conn, "test.two", Queue.HEALTH)
        late = await defer(
            conn, "test.due", Queue.DEPLOYMENT, schedule_at=now - timedelta(seconds=30)
        )
        await defer(conn, "test.soon", Queue.MAINTENANCE, schedule_at=now + timedelta(hours=1))
        for job, seconds in ((old, 90), (late, 90)):
            await conn.execute(
                text(
                    "UPDATE procrastinate_events SET at = now() - :age * interval '1 second' "
                    "WHERE job_id = :job"
                ),
                {"age": seconds, "job": job},
            )
    async with database.read() as conn:
        found = {queue.queue: queue for queue in await waiting(conn)}
    assert set(found) == {"health", "deployment"}
    assert found["health"].jobs == 2
    assert found["health"].oldest_s == pytest.approx(90, abs=5)
    assert found["deployment"].jobs == 1
    assert found["deployment"].oldest_s == pytest.approx(30, abs=5)


async def test_the_spool_and_every_queue_are_told(database: Database, tmp_path: Path) -> None:
    clock, settings, meters = SystemClock(), SpoolSettings(), MemoryMeters()
    writer = SpoolWriter(tmp_path, settings, clock, new_id)
    drainer = Drainer(database, SpoolReader(tmp_path), settings, clock)
    worker = WorkerMeters(meters, drainer, tmp_path, database, clock)
    writer.append(record())
    writer.append(record())
    await worker.sample_spool()
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert meters.gauges["dspex_spool_bytes",] == size > 0
    assert meters.gauges["dspex_spool_segments",] == 1
    assert meters.gauges["dspex_spool_oldest_age_seconds",] < 60
    writer.close()
    assert await drainer.drain_once() == 2
    async with database.write() as conn:
        await defer(conn, "test.one", Queue.HEALTH)
    await worker.sample_spool()
    await worker.sample_queues()
    assert meters.counters == {("dspex_records_drained_total",): 2}
    assert {
        name: meters.gauges[name,] for name in ("dspex_spool_bytes", "dspex_spool_segments")
    } == {
        "dspex_spool_bytes": 0,
        "dspex_spool_segments": 0,
    }
    jobs = {key[1]: value for key, value in meters.gauges.items() if key[0] == "dspex_jobs_waiting"}
    assert jobs == {queue.value: float(queue is Queue.HEALTH) for queue in Queue}
