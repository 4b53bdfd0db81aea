"""What is put one by one is written together, in order, once; whatever the database does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psycopg
import pytest

from dspex_ray.evaluation import batches
from dspex_ray.evaluation.batches import Batches


async def test_what_comes_during_a_write_goes_into_the_next() -> None:
    written: list[list[int]] = []
    free = asyncio.Event()

    async def write(batch: Sequence[int]) -> None:
        written.append(list(batch))
        await free.wait()

    batches = Batches(write)
    batches.put(1)
    await asyncio.sleep(0)
    for number in range(2, 6):
        batches.put(number)
        await asyncio.sleep(0)
    free.set()
    await batches.close()
    assert written == [[1], [2, 3, 4, 5]]


async def test_what_comes_soon_after_the_first_is_written_with_it() -> None:
    written: list[list[int]] = []
    first = asyncio.Event()

    async def write(batch: Sequence[int]) -> None:
        written.append(list(batch))
        first.set()

    lingering = Batches(write, linger_s=0.05)
    for number in range(3):
        lingering.put(number)
        for _ in range(3):  # without lingering it would have been written by then
            await asyncio.sleep(0)
    await asyncio.wait_for(first.wait(), 10)
    assert written == [[0, 1, 2]]
    await lingering.close()


async def test_the_last_waits_for_nobody() -> None:
    written: list[int] = []

    async def write(batch: Sequence[int]) -> None:
        written.extend(batch)

    lingering = Batches(write, linger_s=3600)
    lingering.put(1)
    await asyncio.sleep(0.01)
    await asyncio.wait_for(lingering.close(), 10)
    assert written == [1]


async def test_nothing_is_written_of_nothing() -> None:
    async def write(batch: Sequence[int]) -> None:
        raise AssertionError

    await Batches(write).close()


async def test_it_waits_for_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_RETRY_S", 0.001)
    written: list[int] = []
    failures = [psycopg.OperationalError("away")] * 5

    async def write(batch: Sequence[int]) -> None:
        if failures:
            raise failures.pop()
        written.extend(batch)

    waiting = Batches(write)
    for number in range(3):
        waiting.put(number)
    await waiting.close()
    assert written == [0, 1, 2]


async def test_it_waits_no_longer_than_its_patience() -> None:
    async def write(batch: Sequence[int]) -> None:
        raise psycopg.OperationalError("away")

    waiting = Batches(write, patience_s=0.01)
    waiting.put(1)
    with pytest.raises(TimeoutError):
        await waiting.close()


async def test_what_is_wrong_is_told_at_the_end() -> None:
    async def write(batch: Sequence[int]) -> None:
        raise ValueError("not JSON")

    broken = Batches(write)
    broken.put(1)
    with pytest.raises(ValueError, match="not JSON"):
        await broken.close()
