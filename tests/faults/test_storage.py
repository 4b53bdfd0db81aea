"""Postgres away, and the spool's disk full: requests go on, and what is lost is said."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest

from tests.faults.house import SPOOL_BYTES, House
from tests.faults.load import completion, prediction
from tests.faults.test_killed import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

OUTAGE_S = 30.0


def readiness(house: House) -> list[dict[str, object]]:
    """What each gateway says: asked at its own port, where no proxy chooses."""
    found = []
    for gateway in house.gateways():
        for connection in gateway.net_connections("tcp"):
            if connection.status == "LISTEN" and connection.laddr:
                address = f"http://127.0.0.1:{connection.laddr.port}/readyz"
                with suppress(httpx.HTTPError, ValueError):
                    said = httpx.get(address, timeout=5).json()
                    if "records_lost" in said:
                        found.append(said)
    return found


def total_requests(house: House) -> int:
    """As the assignment of the program to its model counts them."""
    [[total]] = house.rows(
        "SELECT a.total_requests FROM program_models a JOIN programs p ON p.id = a.program_id "
        "WHERE p.name = 'judge'"
    )
    return int(total)


@pytest.mark.slow
async def test_postgres_stopped(house: House) -> None:
    """Lost: nothing. No request fails; every record arrives once the server is back."""
    predictions = house.load(prediction("judge"), 8, pause_s=0.05)
    completions = house.load(completion("simulated"), 8, pause_s=0.05)
    loads = (predictions, completions)
    await until(house.is_drained, 30)
    counted = total_requests(house)
    async with predictions.running(), completions.running():
        await predictions.until(100)
        await asyncio.to_thread(house.server.stop)
        before = len(predictions.answered)
        await asyncio.sleep(OUTAGE_S)
        during = len(predictions.answered) - before
        said = await asyncio.to_thread(readiness, house)
        await asyncio.to_thread(house.server.start)
        await asyncio.sleep(5)
    assert [load.failed for load in loads] == [[], []]
    assert during > 100
    # In rotation all the time, and saying so.
    assert [(each["ready"], each["database"]) for each in said] == [(True, "away")] * 2
    for load in loads:
        house.drained(load, timeout_s=90)
    # Counters and roll-ups went up by what was asked, not by how often it was drained.
    assert total_requests(house) - counted == len(predictions.answered)
    await until(
        lambda: [each["database"] for each in readiness(house)] == ["reachable"] * 2, timeout_s=30
    )
    assert all(each["records_lost"] == 0 for each in said)


@contextmanager
def no_room(house: House) -> Iterator[None]:
    """Fill the disk to its last byte, or, where none can be mounted, the spool's quota."""
    ballast = house.spool / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            if house.own_disk:
                with suppress(OSError):
                    while file.write(bytes(65536)):
                        pass
                with suppress(OSError):
                    while file.write(b"\0"):
                        pass
            else:
                os.truncate(ballast, SPOOL_BYTES)
        yield
    finally:
        ballast.unlink()


async def test_disk_full(house: House) -> None:
    """Lost: the records of the requests answered while no byte could be written; each is
    counted where operators look, and logged. No request is lost."""
    await until(house.is_drained, 30)
    counted = sum(int(str(each["records_lost"])) for each in readiness(house))
    load = house.load(prediction("judge"), 4)
    with no_room(house):
        async with load.running():
            await load.until(len(load.answered) + 200)
        lost = sum(int(str(each["records_lost"])) for each in readiness(house)) - counted
    await asyncio.sleep(1.5)  # a spool at its quota looks for room once a second
    after = house.load(prediction("judge"), 4)
    async with after.running():
        await after.until(50)
    assert load.failed == after.failed == []
    house.drained(after)  # room again: records are kept again
    kept = set(house.records_of(load))
    missing = [answer for answer in load.answered if (answer.tag, answer.execution_id) not in kept]
    assert lost == len(missing) > 0
    await until(
        lambda: (
            house.rows("SELECT sum(spool_lost)::bigint FROM gateway_replicas")
            >= [(counted + lost,)]
        ),
        timeout_s=15,
    )
    assert said_in_logs(house, "spool_records_lost")


def said_in_logs(house: House, event: str) -> list[str]:
    """Lines of the processes' logs that hold this event."""
    lines = []
    for path in (house.home / "ray").glob("session_2*/logs/**/*"):
        if path.is_file():
            text = path.read_text(errors="replace")
            lines += [line for line in text.splitlines() if event in line]
    return lines
