"""Processes that are killed in the middle of their work, by SIGKILL: no clean-up of theirs runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from uuid import UUID

import pytest

from dspex_ray.core.ids import ModelId
from dspex_ray.db.engine import Database
from dspex_ray.models.service import CHECK_TASK, enqueue_check
from tests.e2e.platform import REPLICAS
from tests.faults.house import House
from tests.faults.load import Load, completion, prediction

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


async def until(condition: Callable[[], bool], timeout_s: float) -> float:
    """The seconds that it took."""
    started = time.monotonic()
    while not await asyncio.to_thread(condition):
        assert time.monotonic() - started < timeout_s
        await asyncio.sleep(0.1)
    return time.monotonic() - started


async def test_killed_gateway(house: House) -> None:
    """Lost: the requests that the killed replica had at hand. Nothing that was answered."""
    house.simulator.latency_s = 0.05
    predictions = house.load(prediction("judge"), 16)
    completions = house.load(completion("simulated"), 16)
    loads = (predictions, completions)
    [killed, _] = house.gateways()
    async with predictions.running(), completions.running():
        await predictions.until(200)
        await completions.until(200)
        killed.kill()
        at = time.monotonic()
        recovered_s = await until(lambda: len(house.gateways()) == REPLICAS, 60)
        await asyncio.sleep(3)
    answered = [answer for load in loads for answer in load.answered]
    failed = [failure for load in loads for failure in load.failed]
    print(f"{len(failed)} lost in flight; the second replica was back in {recovered_s:.1f} s")
    # Each client had one request at hand: it may have lost that one, and no other.
    assert len(failed) <= 32
    assert all(failure.sent <= at + 0.1 for failure in failed), failed
    assert all(failure.done <= at + 2.0 for failure in failed), failed
    # The other replica went on as if nothing had happened.
    assert [answer for answer in answered if at + 0.1 < answer.sent < at + 2.0]
    assert killed.pid not in {process.pid for process in house.gateways()}
    for load in loads:
        house.drained(load)


async def test_killed_worker(house: House) -> None:
    """Lost: nothing. The job that it was at is done by the next one, once in effect; records
    wait meanwhile."""
    [[model_id]] = house.rows("SELECT id::text FROM models WHERE name = 'spare'")
    checks = house.rows("SELECT count(*) FROM model_checks WHERE model_id = %s::uuid", model_id)
    house.simulator.latency_s = 5.0
    asked = house.simulator.served
    database = Database(house.database_url)
    async with database.write() as conn:
        await enqueue_check(conn, ModelId(UUID(model_id)))
    await database.close()
    await until(lambda: house.simulator.served > asked, 20)  # the job is at the provider
    [killed] = house.workers()
    killed.kill()
    house.simulator.latency_s = 0.0
    load = Load(house.url, house.key, prediction("judge"), 4)
    async with load.running():
        await load.until(50)
    assert load.failed == []

    def last_job() -> tuple[str, int]:
        [found] = house.rows(
            "SELECT status::text, attempts FROM procrastinate_jobs "
            "WHERE task_name = %s AND args ->> 'model_id' = %s ORDER BY id DESC LIMIT 1",
            CHECK_TASK,
            model_id,
        )
        return found[0], found[1]

    assert last_job()[0] == "doing"  # the queue does not know yet
    await until(lambda: last_job()[0] == "succeeded", 90)
    [[before]] = checks
    assert house.rows("SELECT count(*) FROM model_checks WHERE model_id = %s::uuid", model_id) == [
        (before + 1,)
    ]
    assert killed.pid not in {process.pid for process in house.workers()}
    house.drained(load)
