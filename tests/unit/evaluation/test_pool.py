"""The pool's bookkeeping, over actors that are doubles: who runs what, and what deaths cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from dspex_ray.core.errors import Conflict, Unavailable
from dspex_ray.evaluation import actors as pools
from dspex_ray.evaluation.actors import ActorLost
from dspex_ray.evaluation.model import ExampleError
from dspex_ray.evaluation.pool import ActorPool, EvaluatorActor, SharedPools
from dspex_ray.evaluation.runner import run_items
from dspex_ray.evaluation.work import Item, Work
from tests.unit.evaluation.parts import Posted, a_result, a_work, examples

ITEMS = [Item(example=one) for one in examples(30)]


class Cluster:
    """In place of Ray: every actor is an object here. `behave` may raise, or wait, for an item."""

    def __init__(self, behave: Callable[[Actor, Item], Any] | None = None) -> None:
        self.actors: list[Actor] = []
        self.behave = behave
        self.starts_fail = 0

    def new(self, build_path: str, node_id: str, actor: type[Any]) -> Actor:
        assert actor is EvaluatorActor
        self.actors.append(Actor(self, node_id, len(self.actors) + 1))
        return self.actors[-1]


class Actor(Posted):
    def __init__(self, cluster: Cluster, node_id: str, pid: int) -> None:
        super().__init__()
        self.cluster = cluster
        self.node_id = node_id
        self.pid = pid
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.ran: list[int] = []
        self.alone: list[int] = []
        self.running = 0
        self.most = 0
        self.stopped = self.killed = False
        self.gone = asyncio.Event()
        self.unload = _Remote(self)

    async def start(self) -> int:
        if self.cluster.starts_fail:
            self.cluster.starts_fail -= 1
            raise RuntimeError("no memory")
        return self.pid

    async def stop(self) -> None:
        self.stopped = True

    async def load(self, work: str, at_once: int | None) -> None:
        key = str(Work.model_validate_json(work).id)
        self.loads.append(key)
        self._under_way.allow(key, at_once)

    async def evaluate(self, work_id: str, item: str) -> str:
        read = Item.model_validate_json(item)
        number = read.example.number
        self.running += 1
        self.most = max(self.most, self.running)
        self.ran.append(number)
        if self.running == 1:
            self.alone.append(number)
        try:
            if self.cluster.behave is not None:
                self.cluster.behave(self, read)
            await asyncio.sleep(0.001)
            if self.gone.is_set():
                raise ActorLost
        finally:
            self.running -= 1
        return a_result(number).model_dump_json()


class _Remote:
    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def remote(self, work_id: str) -> None:
        self._actor.unloads.append(work_id)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()

    async def asked(method: Any, *arguments: Any) -> Any:
        return await method(*arguments)

    def kill(actor: Actor) -> None:
        actor.killed = True

    monkeypatch.setattr(pools, "_alive_nodes", lambda: ["n1", "n2"])
    monkeypatch.setattr(pools, "_new_actor", found.new)
    monkeypatch.setattr(pools, "_asked", asked)
    monkeypatch.setattr(pools, "_kill", kill)
    return found


def five_kills(actor: Actor, item: Item) -> None:
    if item.example.number == 5:
        actor.gone.set()


async def run(pool: ActorPool, items: list[Item] = ITEMS, concurrency: int = 12) -> list[Any]:
    work = a_work()
    async with pool.loaded(work):
        return await run_items(
            items, lambda item: pool.evaluate(work, item), concurrency=concurrency
        )


async def test_examples_are_spread_over_the_nodes(cluster: Cluster) -> None:
    async with ActorPool("x:y", per_actor=4) as pool:
        assert cluster.actors == []  # none before there is something to do
        results = await run(pool)
        assert pool.pids == [1, 2]
    assert [result.number for result in results] == list(range(30))
    assert [actor.node_id for actor in cluster.actors] == ["n1", "n2"]
    assert [actor.most for actor in cluster.actors] == [4, 4]
    assert all(len(actor.loads) == len(actor.unloads) == 1 for actor in cluster.actors)
    assert all(actor.stopped and actor.killed for actor in cluster.actors)
    assert min(len(actor.ran) for actor in cluster.actors) > 8


async def test_a_dead_actors_examples_run_again_on_another(cluster: Cluster) -> None:
    def behave(actor: Actor, item: Item) -> None:
        if actor.pid == 1 and len(actor.ran) == 7:
            actor.gone.set()

    cluster.behave = behave
    async with ActorPool("x:y", per_actor=4) as pool:
        results = await run(pool)
        assert 1 not in pool.pids
    assert [result.number for result in results] == list(range(30))
    assert [result.errors for result in results] == [()] * 30
    ran = sum(len(actor.ran) for actor in cluster.actors)
    assert 30 < ran <= 34  # what was under way in it, and nothing else
    assert len(cluster.actors) == 3


async def test_an_example_that_kills_takes_no_other_with_it(cluster: Cluster) -> None:
    cluster.behave = five_kills
    async with ActorPool("x:y", actors=1, per_actor=4) as pool:
        results = await run(pool)
    deadly = [result for result in results if result.errors]
    assert [result.number for result in deadly] == [5]
    assert deadly[0].errors == (
        ExampleError(
            code="unavailable",
            message="its process died 3 times, the last time with nothing else in it",
        ),
    )
    assert deadly[0].cost_usd is None
    last = next(actor for actor in reversed(cluster.actors) if 5 in actor.ran)
    assert 5 in last.alone


async def test_what_the_work_itself_is_refused_for_is_raised(cluster: Cluster) -> None:
    def behave(actor: Actor, item: Item) -> None:
        raise Conflict("model 'm' has changed")

    cluster.behave = behave
    async with ActorPool("x:y") as pool:
        with pytest.raises(Conflict):
            await run(pool)


async def test_without_an_actor_there_is_an_error_and_another_try(cluster: Cluster) -> None:
    cluster.starts_fail = 2
    async with ActorPool("x:y") as pool:
        with pytest.raises(Unavailable, match="no evaluation actor could be started"):
            await run(pool)
        assert len(await run(pool)) == 30


async def test_cancelled_examples_leave_their_place(cluster: Cluster) -> None:
    async with ActorPool("x:y", actors=1, per_actor=2) as pool:
        work = a_work()
        gone = [asyncio.create_task(pool.evaluate(work, item)) for item in ITEMS[:6]]
        while not cluster.actors or cluster.actors[0].running < 2:
            await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        assert len(await run(pool)) == 30


async def test_pools_are_shared_and_end_when_nobody_uses_them(cluster: Cluster) -> None:
    shared = SharedPools("x:y", idle_s=0.05)
    async with shared.of(None) as one, shared.of(None) as same, shared.of(3) as other:
        assert one is same
        assert one is not other
        await run(one)
    async with shared.of(None) as again:
        assert again is one
        await asyncio.sleep(0.1)
        assert not cluster.actors[0].killed
    await asyncio.sleep(0.15)
    assert cluster.actors[0].killed
    async with shared.of(None) as fresh:
        assert fresh is not one
        await run(fresh)
    await shared.close()
    assert all(actor.killed for actor in cluster.actors)


async def test_an_actor_that_no_call_gets_through_to_is_replaced(cluster: Cluster) -> None:
    async def fetch() -> list[Any]:
        raise RuntimeError("cannot be read")

    work = a_work()
    async with ActorPool("x:y", actors=1) as pool:
        await pool.evaluate(work, ITEMS[0])
        cluster.actors[0].fetch = fetch  # type: ignore[method-assign]
        for item in ITEMS[1:3]:
            with suppress(RuntimeError):
                await pool.evaluate(work, item)
        result = await pool.evaluate(work, ITEMS[3])
    assert result.number == ITEMS[3].example.number
    assert [actor.killed for actor in cluster.actors] == [True, True]
    assert len(cluster.actors) == 2


async def handed_over(pool: ActorPool, at_once: int, items: list[Item] = ITEMS) -> list[Any]:
    work = a_work()
    async with pool.loaded(work, at_once) as most:
        assert most is not None
        assert most > at_once
        return await run_items(items, lambda item: pool.evaluate(work, item), concurrency=most)


@pytest.mark.parametrize(("at_once", "shares"), [(1, [0, 0, 1]), (4, [1, 1, 2]), (9, [3, 3, 3])])
async def test_actors_share_what_may_run_at_once(
    cluster: Cluster, at_once: int, shares: list[int]
) -> None:
    """However many are sent ahead."""
    together = 0

    def behave(actor: Actor, item: Item) -> None:
        nonlocal together
        together = max(together, sum(one.running for one in cluster.actors))

    cluster.behave = behave
    async with ActorPool("x:y", actors=3) as pool:
        results = await handed_over(pool, at_once)
        assert [result.number for result in results] == list(range(30))
        assert sorted(actor.most for actor in cluster.actors) == shares
        assert together == at_once
        assert len(await handed_over(pool, 3)) == 30  # dealt anew


async def test_the_places_of_a_dead_actor_go_to_the_one_that_replaces_it(cluster: Cluster) -> None:
    def behave(actor: Actor, item: Item) -> None:
        if actor.pid == 1 and len(actor.ran) == 3:
            actor.gone.set()

    cluster.behave = behave
    async with ActorPool("x:y", actors=2) as pool:
        results = await handed_over(pool, 5)
    assert [result.errors for result in results] == [()] * 30
    first, *others = (actor.most for actor in cluster.actors)
    assert first + others[0] == 5
    assert others[1:] == [first]


async def test_what_runs_alone_runs_where_all_places_are_dealt(cluster: Cluster) -> None:
    cluster.behave = five_kills
    async with ActorPool("x:y", actors=3) as pool:
        results = await handed_over(pool, 1)
        assert [result.number for result in results if result.errors] == [5]
        cluster.behave = None
        assert len(await handed_over(pool, 1)) == 30
    assert max(actor.most for actor in cluster.actors) == 1
