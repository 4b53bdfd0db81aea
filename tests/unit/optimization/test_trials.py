"""Generations of trials: the same is told in the same order, however many are measured at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from dspex_ray.core.errors import Conflict, Unavailable
from dspex_ray.optimization.budget import BudgetExhausted
from dspex_ray.optimization.trials import LocalTrials, MeasureDoor

Told = list[tuple[int, Mapping[str, float] | Exception]]


class Search:
    """Two generations of four; each is asked for once the one before is told."""

    def __init__(self) -> None:
        self.told: Told = []
        self.under_way = self.most = 0

    def ask(self) -> Sequence[int]:
        assert len(self.told) % 4 == 0
        start = len(self.told) + 1
        return range(start, start + 4) if start < 9 else ()

    def tell(self, number: int, found: Mapping[str, float] | Exception) -> None:
        self.told.append((number, found))

    async def measure(self, number: int) -> Mapping[str, float]:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.001 * (9 - number))
        self.under_way -= 1
        if number == 6:
            raise Unavailable("no actor")
        return {"score": number / 8}


@pytest.mark.parametrize("at_once", [1, 3, 64])
async def test_what_is_told_depends_on_no_parallelism(at_once: int) -> None:
    search = Search()
    await LocalTrials().run(search.ask, search.measure, search.tell, at_once)
    assert [number for number, _ in search.told] == list(range(1, 9))
    failed = [type(found) for _, found in search.told if isinstance(found, Exception)]
    assert failed == [Unavailable]
    assert search.told[7] == (8, {"score": 1.0})
    assert search.most == min(at_once, 4)


async def test_a_halt_ends_it_once_what_was_under_way_is_told() -> None:
    search, asked = Search(), []

    async def measure(number: int) -> Mapping[str, float]:
        asked.append(number)
        if number == 5:
            await asyncio.sleep(0)
            raise BudgetExhausted("usd")
        return await search.measure(number)

    with pytest.raises(BudgetExhausted):
        await LocalTrials().run(search.ask, measure, search.tell, 2)
    assert [number for number, _ in search.told] == [1, 2, 3, 4, 6]
    assert asked == [1, 2, 3, 4, 5, 6]


async def test_cancelled_it_leaves_nothing_at_work() -> None:
    search = Search()
    running = asyncio.create_task(LocalTrials().run(search.ask, search.measure, search.tell, 2))
    await asyncio.sleep(0.002)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_number_is_measured_once_however_often_it_is_asked_for() -> None:
    door, calls = MeasureDoor(), []

    async def measure(number: int) -> Mapping[str, float]:
        calls.append(number)
        await asyncio.sleep(0)
        return {"score": 1.0}

    with door.opened(measure):
        lost = asyncio.create_task(door.measured(3))
        await asyncio.sleep(0)
        lost.cancel()  # who asked is gone
        assert await door.measured(3) == {"score": 1.0}
    assert calls == [3]
    with pytest.raises(Conflict):
        await door.measured(4)
