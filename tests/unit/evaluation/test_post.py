"""Items and results by post: each comes to the one who sent it, whatever else happens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex_ray.core.errors import Conflict, Unavailable
from dspex_ray.evaluation.post import CameOf, Post, Sent, UnderWay


class Desk:
    """An actor. An item is how often it lets others go first; `calls` counts what crossed."""

    def __init__(self, fails: type[Exception] | None = None) -> None:
        self._under_way = UnderWay(self._evaluate)
        self._fails = fails
        self.calls = 0
        self.cancelled: list[str] = []
        self.broken: Exception | None = None

    async def take(self, new: list[Sent], cancelled: list[int]) -> None:
        self._crossed()
        self._under_way.take(new, cancelled)

    async def fetch(self) -> list[CameOf]:
        found = await self._under_way.fetch()
        self._crossed()
        return found

    async def _evaluate(self, work_id: str, item: str) -> str:
        try:
            for _ in range(int(item)):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.append(item)
            raise
        if self._fails is not None:
            raise self._fails("secret text")
        return f"{work_id}:{item}"

    def _crossed(self) -> None:
        self.calls += 1
        if self.broken is not None:
            raise self.broken


async def asked(method: Any, *arguments: Any) -> Any:
    await asyncio.sleep(0)
    answer = await method(*arguments)
    await asyncio.sleep(0)
    return answer


@settings(max_examples=50)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_each_result_comes_to_its_sender(items: list[int]) -> None:
    async def run() -> tuple[list[str], int]:
        desk = Desk()
        post = Post(desk, asked)
        found = await asyncio.gather(*(post.evaluate("w", str(item)) for item in items))
        return found, desk.calls

    found, calls = asyncio.run(run())
    assert found == [f"w:{item}" for item in items]
    assert calls <= 2 * len(items)


async def test_what_comes_together_crosses_together() -> None:
    desk = Desk()
    post = Post(desk, asked)
    await asyncio.gather(*(post.evaluate("w", "5") for _ in range(100)))
    assert desk.calls == 2


async def test_one_that_is_cancelled_is_cancelled_there_and_others_go_on() -> None:
    desk = Desk()
    post = Post(desk, asked)
    first = asyncio.ensure_future(post.evaluate("w", "1000000"))
    second = asyncio.ensure_future(post.evaluate("w", "50"))
    await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == "w:50"
    while not desk.cancelled:
        await asyncio.sleep(0)
    assert desk.cancelled == ["1000000"]


@pytest.mark.parametrize(
    ("fails", "seen"), [(Conflict, Conflict), (OSError, Unavailable), (ValueError, RuntimeError)]
)
async def test_an_error_is_that_items_and_tells_no_content(
    fails: type[Exception], seen: type[Exception]
) -> None:
    post = Post(Desk(fails), asked)
    for _ in range(2):
        with pytest.raises(seen) as caught:
            await post.evaluate("w", "1")
        assert seen is Conflict or "secret" not in str(caught.value)


async def test_a_call_that_fails_ends_all_that_is_under_way_and_what_comes_later() -> None:
    desk = Desk()
    post = Post(desk, asked)
    waiting = [asyncio.ensure_future(post.evaluate("w", item)) for item in ("1000000", "30")]
    desk.broken = ConnectionError("gone")
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for end in ends] == [ConnectionError] * 2
    with pytest.raises(ConnectionError):
        await post.evaluate("w", "1")


async def test_an_end_leaves_nobody_waiting() -> None:
    post = Post(Desk(), asked)
    waiting = asyncio.ensure_future(post.evaluate("w", "1000000"))
    await asyncio.sleep(0.01)
    post.end(Unavailable("closed"))
    with pytest.raises(Unavailable):
        await waiting


class Busy:
    """Items end when they are let; `most` ran at once."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.go = asyncio.Event()

    async def evaluate(self, work_id: str, item: str) -> str:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go.wait()
        finally:
            self.running -= 1
        return item


async def test_items_beyond_the_places_of_their_work_wait_where_they_are() -> None:
    busy = Busy()
    there = UnderWay(busy.evaluate)
    there.allow("few", 2)
    there.take([Sent(n, "few", str(n)) for n in range(5)], [])
    there.take([Sent(n, "all", str(n)) for n in range(5, 8)], [])
    await asyncio.sleep(0.01)
    assert busy.running == 2 + 3
    there.take([], [0, 2])  # one that runs, and one that waits
    await asyncio.sleep(0.01)
    assert busy.running == 2 + 3
    busy.go.set()
    came: set[int] = set()
    while len(came) < 6:
        came |= {one.ticket for one in await there.fetch()}
    assert came == {1, 3, 4, 5, 6, 7}
    assert busy.most == 5
