"""Jobs exist as their transactions do, run once, and survive their workers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from procrastinate.jobs import Status
from sqlalchemy import text

from dspex_ray.db.engine import Database
from dspex_ray.jobs import app as jobs_app
from dspex_ray.jobs.app import INFRASTRUCTURE, JobManager, defer, job_app
from dspex_ray.jobs.maintenance import prune_finished, recover_stalled
from dspex_ray.jobs.queues import Queue
from dspex_ray.jobs.worker import Worker
from tests.integration.jobs.parts import Parts, quick_worker

pytestmark = pytest.mark.integration


async def jobs(database: Database) -> list[tuple[str, str]]:
    """(task, status) of every job but the queue's own upkeep, oldest first."""
    async with database.read() as conn:
        rows = await conn.execute(
            text(
                "SELECT task_name, status::text FROM procrastinate_jobs "
                "WHERE queue_name <> 'maintenance' ORDER BY id"
            )
        )
        return [(task, status) for task, status in rows.all()]


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.05)


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[None]:
    running = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await asyncio.wait_for(running, 10)


async def test_a_rolled_back_transaction_leaves_no_job(database: Database) -> None:
    async def change_my_mind() -> None:
        async with database.write() as conn:
            assert await defer(conn, "test.note", Queue.HEALTH, word="never") is not None
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        await change_my_mind()
    assert await jobs(database) == []


async def test_a_taken_queueing_lock_spares_the_callers_transaction(database: Database) -> None:
    async with database.write() as conn:
        first = await defer(conn, "test.note", Queue.HEALTH, queueing_lock="one", word="a")
        second = await defer(conn, "test.note", Queue.HEALTH, queueing_lock="one", word="b")
        third = await defer(conn, "test.note", Queue.HEALTH, word="c")
    assert first is not None
    assert second is None
    assert third is not None
    assert await jobs(database) == [("test.note", "todo"), ("test.note", "todo")]


async def test_a_worker_runs_a_job_once_and_soon(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    parts = Parts(database_url, log)

    async def done() -> bool:
        return ("test.note", "succeeded") in await jobs(database)

    async with working(quick_worker(parts)):
        async with database.write() as conn:
            await defer(conn, "test.note", Queue.HEALTH, word="hello")
        await until(done)
    assert log.read_text() == "hello\n"
    assert parts.closed


async def test_a_newer_releases_job_waits_for_a_newer_worker(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_app, "_UNKNOWN_PAUSE_S", 0.2)
    old, new = Parts(database_url, tmp_path / "log"), Parts(database_url, tmp_path / "log")
    old.app.tasks.pop("test.note")
    async with database.write() as conn:
        await defer(conn, "test.note", Queue.HEALTH, word="later")

    async def put_back() -> bool:
        async with database.read() as conn:
            found = await conn.execute(text("SELECT max(attempts) FROM procrastinate_jobs"))
            return bool(found.scalar_one() >= 2)

    async def done() -> bool:
        return await jobs(database) == [("test.note", "succeeded")]

    async with working(quick_worker(old)):
        await until(put_back)
    assert not (tmp_path / "log").exists()
    async with working(quick_worker(new)):
        await until(done)
    assert (tmp_path / "log").read_text() == "later\n"


async def test_infrastructure_failures_are_retried_and_others_are_not(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    down, refused = tmp_path / "down", tmp_path / "refused"
    async with database.write() as conn:
        await defer(conn, "test.down_first", Queue.HEALTH, word="x")

    async def statuses() -> bool:
        return await jobs(database) == [("test.down_first", "succeeded")]

    async with working(quick_worker(Parts(database_url, down))):
        await until(statuses)
    assert down.read_text() == "x\nx\n"

    async with database.write() as conn:
        await defer(conn, "test.refused", Queue.HEALTH, word="y")

    async def failed() -> bool:
        return ("test.refused", "failed") in await jobs(database)

    async with working(quick_worker(Parts(database_url, refused))):
        await until(failed)
    assert refused.read_text() == "y\n"


async def test_the_job_of_a_killed_worker_runs_again(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    async with database.write() as conn:
        await defer(conn, "test.hang_first", Queue.HEALTH, lock="alone", word="x")
    victim = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.jobs.parts", str(log)],
        env={**os.environ, "TEST_DATABASE_URL": database_url},
        cwd=Path(__file__).parents[3],
    )
    try:

        async def started() -> bool:
            return log.exists()

        await until(started, 20)
    finally:
        victim.kill()
        victim.wait()
    assert await jobs(database) == [("test.hang_first", "doing")]

    async def succeeded() -> bool:
        return await jobs(database) == [("test.hang_first", "succeeded")]

    async with working(quick_worker(Parts(database_url, log))):
        await until(succeeded)
    assert log.read_text() == "x\nx\n"


async def test_a_stopped_worker_puts_its_unfinished_job_back(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    """Only with a retry strategy: without one the job ends as aborted."""
    log = tmp_path / "log"
    parts = Parts(database_url, log)

    async def hang() -> None:
        log.write_text("started\n")
        await asyncio.sleep(60)

    parts.app.task(name="test.hang", retry=INFRASTRUCTURE)(hang)
    async with database.write() as conn:
        await defer(conn, "test.hang", Queue.HEALTH)

    async def started() -> bool:
        return log.exists()

    async with working(quick_worker(parts)):
        await until(started)
    assert await jobs(database) == [("test.hang", "todo")]


async def test_a_job_that_keeps_killing_its_workers_is_given_up(
    database: Database, database_url: str
) -> None:
    async with database.write() as conn:
        await defer(conn, "test.note", Queue.HEALTH, word="a")
        await defer(conn, "test.note", Queue.HEALTH, word="b")
        # No worker: as after the pruning of one that died.
        await conn.execute(text("UPDATE procrastinate_jobs SET status = 'doing'"))
        await conn.execute(
            text("UPDATE procrastinate_jobs SET attempts = 9 WHERE args ->> 'word' = 'b'")
        )
    app = job_app(database_url)
    async with app.open_async():
        found = await recover_stalled(app, stalled_after_s=1)
        assert sorted(job.attempts for job in found) == [0, 9]
        assert await jobs(database) == [("test.note", "todo"), ("test.note", "failed")]
        assert await recover_stalled(app, stalled_after_s=1) == []


async def test_a_retry_beside_an_equal_waiting_job_ends_the_first(
    database: Database, database_url: str
) -> None:
    async with database.write() as conn:
        await defer(conn, "test.note", Queue.HEALTH, queueing_lock="one", word="a")
        await conn.execute(text("UPDATE procrastinate_jobs SET status = 'doing'"))
        await defer(conn, "test.note", Queue.HEALTH, queueing_lock="one", word="b")
    app = job_app(database_url)
    async with app.open_async():
        assert isinstance(app.job_manager, JobManager)
        assert len(await recover_stalled(app, stalled_after_s=1)) == 1
    assert await jobs(database) == [("test.note", "failed"), ("test.note", "todo")]


async def test_finished_jobs_go_after_their_time(database: Database, database_url: str) -> None:
    async with database.write() as conn:
        for word in ("old", "fresh", "old failure"):
            await defer(conn, "test.note", Queue.HEALTH, word=word)
        await conn.execute(text("UPDATE procrastinate_jobs SET status = 'doing'"))
        await conn.execute(text("UPDATE procrastinate_jobs SET status = 'succeeded'"))
        await conn.execute(
            text(
                "UPDATE procrastinate_jobs SET status = 'failed' WHERE args->>'word' like '%fail%'"
            )
        )
        await conn.execute(
            text(
                "UPDATE procrastinate_events e SET at = at - interval '2 days' "
                "FROM procrastinate_jobs j WHERE j.id = e.job_id AND j.args->>'word' like 'old%'"
            )
        )
    app = job_app(database_url)
    async with app.open_async():
        await prune_finished(app)
    assert await jobs(database) == [
        ("test.note", Status.SUCCEEDED.value),
        ("test.note", Status.FAILED.value),
    ]


async def test_background_loops_run_beside_the_jobs_and_are_restarted(
    database_url: str, tmp_path: Path
) -> None:
    parts = Parts(database_url, tmp_path / "log")
    runs: list[int] = []

    async def loop() -> None:
        runs.append(len(runs))
        if len(runs) == 1:
            raise OSError("the first time")
        await asyncio.sleep(60)

    parts.background = [loop]

    async def twice() -> bool:
        return runs == [0, 1]

    async with working(quick_worker(parts)):
        await until(twice)


async def test_a_worker_outlives_the_loss_of_its_connections(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"

    async def ran() -> bool:
        return log.exists() and log.read_text().endswith(word + "\n")

    async with working(quick_worker(Parts(database_url, log))):
        for word in ("before", "after"):
            async with database.write() as conn:
                await defer(conn, "test.note", Queue.HEALTH, word=word)
            await until(ran)
            async with database.write() as conn:
                await conn.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
    assert log.read_text() == "before\nafter\n"


async def test_a_worker_waits_for_a_database_that_is_away(tmp_path: Path) -> None:
    parts = Parts("postgresql://nobody@127.0.0.1:1/none", tmp_path / "log")
    async with working(quick_worker(parts)):
        await asyncio.sleep(0.5)
    assert parts.closed
