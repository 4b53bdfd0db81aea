"""A pool of Ray actors that work items off: spread over the nodes, many items at once in each.

An actor that dies costs no result: its items run again on another one. An item that was there at
two deaths runs alone the third time, so that it takes no other with it; if that kills its actor
too, that is its result.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import structlog
from pydantic import BaseModel

from dspex_ray.core.errors import DspexRayError, Unavailable
from dspex_ray.evaluation.places import Places, ahead
from dspex_ray.evaluation.post import CameOf, Post, Sent, UnderWay
from dspex_ray.jobs.worker import load_build

log = structlog.get_logger()
_ALONE_AFTER = 2
GIVE_UP_AFTER = 3
_READY_S = 60.0
_STOP_S = 3.0

W = TypeVar("W", bound=BaseModel)
I = TypeVar("I", bound=BaseModel)  # noqa: E741 - item
R = TypeVar("R", bound=BaseModel)
R_co = TypeVar("R_co", bound=BaseModel, covariant=True)


class Hand(Protocol[W, I, R_co]):
    """What an actor holds; made there by a build function. Work is loaded before its items, and
    is told apart by its `id`."""

    work: type[W]
    item: type[I]

    async def start(self) -> None:
        """Returns when it can work."""
        ...

    async def load(self, work: W) -> None: ...

    async def evaluate(self, work_id: str, item: I) -> R_co: ...

    def unload(self, work_id: str) -> None: ...

    async def stop(self) -> None: ...


class PoolActor:
    """The actor: JSON in and out. `build_path` names the function that makes its Hand; its
    settings come from the environment, for arguments can be read in the dashboard."""

    def __init__(self, build_path: str) -> None:
        self._build_path = build_path
        self._hand: Any = None
        self._under_way = UnderWay(self.evaluate)

    async def start(self) -> int:
        """The process's id, once it is ready."""
        import os

        self._hand = load_build(self._build_path)()
        await self._hand.start()
        return os.getpid()

    async def load(self, work: str, at_once: int | None) -> None:
        """Of its items, so many run at once."""
        read = self._hand.work.model_validate_json(work)
        self._under_way.allow(_key(read), at_once)
        await self._hand.load(read)

    async def take(self, new: list[Sent], cancelled: list[int]) -> None:
        self._under_way.take(new, cancelled)

    async def fetch(self) -> list[CameOf]:
        return await self._under_way.fetch()

    async def evaluate(self, work_id: str, item: str) -> str:
        read = self._hand.item.model_validate_json(item)
        result = await self._hand.evaluate(work_id, read)
        return str(result.model_dump_json())

    async def unload(self, work_id: str) -> None:
        self._under_way.forget(work_id)
        self._hand.unload(work_id)

    async def stop(self) -> None:
        await self._hand.stop()


@dataclass(frozen=True)
class Kind(Generic[W, I, R]):
    """What a pool works on. `actor` gives its processes their name; `deadly` is the result of an
    item that killed its actors."""

    actor: type[PoolActor]
    result: type[R]
    deadly: Callable[[W, I], R]


class ActorLost(Exception):
    """The process of an actor is gone."""


class _Member:
    """One actor: what it is at, and which work it knows."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.post = Post(handle, _asked)
        self.pid: int | None = None  #: None until it is ready
        self.busy = 0
        self.reserved = False  #: for an item that is to run alone
        self.works: dict[str, _Held] = {}

    def room_for(self, key: str, places: Places | None, most: int) -> bool:
        """Whether it may be sent another item of that work, `most` being what it takes of all."""
        if self.reserved or self.busy >= most:
            return False
        if places is None:
            return True
        held = self.works.get(key)
        if held is None:
            return places.left
        return held.share is None or held.sent < held.share + ahead(held.share)


@dataclass
class _Held:
    """A work at an actor: `share` of its places, None for no limit, and items sent there. Not
    `dealt`: a place besides, for an item that is to run alone where all are dealt."""

    share: int | None
    dealt: bool = True
    loading: asyncio.Future[None] | None = None
    sent: int = 0


class WorkPool(Generic[W, I, R]):
    """`async with WorkPool(build, kind) as pool`. Runs at most `per_actor` items in each actor.

    `actors` None: one on each node that is alive. They start with the first item, unless
    `start` was called. Belongs to one event loop; the actors end with it, and with the process
    that made it.
    """

    def __init__(
        self,
        build_path: str,
        kind: Kind[W, I, R],
        *,
        actors: int | None = None,
        per_actor: int = 256,
    ) -> None:
        self._build_path, self._kind = build_path, kind
        self._wanted = actors
        self._per_actor = per_actor
        self._members: list[_Member] = []
        self._starting: set[asyncio.Task[None]] = set()
        self._free = asyncio.Condition()
        self._nodes: Any = iter(())
        self._losses = 0
        self._failure: Exception | None = None
        self._begun: asyncio.Future[None] | None = None
        self._count = actors or 1  #: of actors that there are to be, once begun
        self._at_once: dict[str, int] = {}
        self._places: dict[str, Places] = {}

    async def __aenter__(self) -> Self:
        return self

    async def start(self) -> None:
        """Returns when the actors are on their way."""
        if self._begun is None:
            self._begun = asyncio.ensure_future(self._begin())
        await asyncio.shield(self._begun)

    async def _begin(self) -> None:
        nodes = await asyncio.to_thread(_alive_nodes)
        self._nodes = itertools.cycle(nodes)
        self._count = self._wanted or len(nodes)
        for _ in range(self._count):
            self._start_one()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        for task in list(self._starting):
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        members, self._members = self._members, []
        for member in members:
            member.post.end(Unavailable("the pool was closed"))
        await asyncio.gather(*(_end(member.handle) for member in members))

    @property
    def pids(self) -> list[int]:
        """Of the actors that are ready."""
        return [member.pid for member in self._members if member.pid is not None]

    @asynccontextmanager
    async def loaded(self, work: W, at_once: int | None = None) -> AsyncIterator[int | None]:
        """How many items of the work to hand over at once for `at_once` to run: a few more, which
        wait in the actors. The actors forget the work when this ends."""
        key = _key(work)
        if at_once is not None:
            self._at_once[key] = at_once
        try:
            yield None if at_once is None else at_once + ahead(at_once)
        finally:
            self.unload(work)
            self._at_once.pop(key, None)
            self._places.pop(key, None)

    def unload(self, work: W) -> None:
        """The actors forget the work; the next item of it brings it back."""
        key = _key(work)
        for member in self._members:
            if (held := member.works.pop(key, None)) is not None:
                self._give_back(key, held)
                member.handle.unload.remote(key)

    async def evaluate(self, work: W, item: I) -> R:
        """Raises Unavailable when no actor can be had, and what makes the work impossible."""
        await self.start()
        deaths = 0
        while deaths < GIVE_UP_AFTER:
            async with self._member(_key(work), alone=deaths >= _ALONE_AFTER) as (member, held):
                try:
                    await self._know(member, held, work)
                    sent = item.model_dump_json()
                    answer = await member.post.evaluate(_key(work), sent)
                    return self._kind.result.model_validate_json(answer)
                except ActorLost:
                    deaths += 1
                    self._lose(member)
                except Exception:
                    if member.post.ended:  # no call of it gets through, whatever the reason
                        self._lose(member)
                    raise
        return self._kind.deadly(work, item)

    @asynccontextmanager
    async def _member(self, key: str, *, alone: bool) -> AsyncIterator[tuple[_Member, _Held]]:
        """The actor with the least to do, when it has room; or one with nothing else to do."""
        async with self._free:
            try:
                while (member := self._pick(key, alone)) is None:
                    await self._free.wait()
            except BaseException:
                self._release()
                raise
            member.busy += 1
            held = self._held(member, key)
            held.sent += 1
        try:
            yield member, held
        finally:
            member.busy -= 1
            held.sent -= 1
            if alone:
                self._release()
            await self._tell()

    def _pick(self, key: str, alone: bool) -> _Member | None:
        ready = [member for member in self._members if member.pid is not None]
        if not ready and not self._starting:
            self._begun = None  # whoever comes next tries again
            raise Unavailable("no evaluation actor could be started") from self._failure
        if alone and ready:
            held = min(ready, key=lambda member: (not member.reserved, member.busy))
            held.reserved = True
            return held if held.busy == 0 else None
        places = self._places_of(key)
        room = [member for member in ready if member.room_for(key, places, self._per_actor)]
        return min(room, key=lambda member: member.busy, default=None)

    def _places_of(self, key: str) -> Places | None:
        if key not in self._at_once:
            return None
        return self._places.setdefault(key, Places(self._at_once[key], self._count))

    def _held(self, member: _Member, key: str) -> _Held:
        if key not in member.works:
            places = self._places_of(key)
            share = None if places is None else places.deal()
            dealt = places is None or share is not None
            member.works[key] = _Held(share if dealt else 1, dealt)
        return member.works[key]

    def _give_back(self, key: str, held: _Held) -> None:
        if held.share is not None and held.dealt and key in self._places:
            self._places[key].give_back(held.share)

    def _release(self) -> None:
        """Whoever else wants one alone reserves it again."""
        for member in self._members:
            member.reserved = False

    async def _tell(self) -> None:
        async with self._free:
            self._free.notify_all()

    async def _know(self, member: _Member, held: _Held, work: W) -> None:
        """Load the work into the actor, once."""
        if held.loading is None:
            known = work.model_dump_json(by_alias=True)
            held.loading = asyncio.ensure_future(_asked(member.handle.load, known, held.share))
        # Shielded: an item that is cancelled does not end the loading for the others.
        await asyncio.shield(held.loading)

    # --- life and death ------------------------------------------------------------------------

    def _start_one(self) -> None:
        task = asyncio.create_task(self._start(next(self._nodes)))
        self._starting.add(task)

    async def _start(self, node_id: str) -> None:
        member = _Member(
            await asyncio.to_thread(_new_actor, self._build_path, node_id, self._kind.actor)
        )
        self._members.append(member)
        try:
            async with asyncio.timeout(_READY_S):
                member.pid = await _asked(member.handle.start)
        except (Exception, asyncio.CancelledError) as error:
            self._members.remove(member)
            _kill(member.handle)
            if isinstance(error, asyncio.CancelledError):
                raise
            self._failure = error
            self._count = max(1, self._count - 1)  # it gets no share of what comes next
            log.warning("evaluation_actor_failed_to_start", error=type(error).__name__)
        finally:
            this = asyncio.current_task()
            assert this is not None
            self._starting.discard(this)
            await self._tell()

    def _lose(self, member: _Member) -> None:
        """Replace it, unless another of its items has done so."""
        if member not in self._members:
            return
        self._members.remove(member)
        for key, held in member.works.items():
            self._give_back(key, held)
        self._losses += 1
        log.warning("evaluation_actor_lost", pid=member.pid, losses=self._losses)
        member.post.end(ActorLost())
        _kill(member.handle)  # it may be its node that is away
        self._start_one()


def _key(work: Any) -> str:
    return str(work.id)


async def _asked(method: Any, *arguments: Any) -> Any:
    """What the actor answers; cancelled, it cancels the call there. Raises ActorLost, and what
    the call raised."""
    from ray import cancel
    from ray.exceptions import RayActorError, RayTaskError

    reference = method.remote(*arguments)
    try:
        return await reference
    except asyncio.CancelledError:
        cancel(reference)
        raise
    except RayActorError as error:
        raise ActorLost from error
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, DspexRayError):
            raise cause from None
        raise


def _alive_nodes() -> list[str]:
    """Ids of the nodes; one whose resources are Ray's client's own is none."""
    import ray

    return sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])


def _new_actor(build_path: str, node_id: str, actor: type[PoolActor]) -> Any:
    """On that node, or on another one when it has gone meanwhile."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return (
        ray.remote(actor)
        .options(
            num_cpus=0,  # it mostly waits for models; a laptop's CPUs are taken by Serve
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=True),
        )
        .remote(build_path)
    )


async def _end(handle: Any) -> None:
    """In good order, if that takes no longer than it should."""
    with suppress(Exception):
        async with asyncio.timeout(_STOP_S):
            await _asked(handle.stop)
    _kill(handle)


def _kill(handle: Any) -> None:
    import ray

    ray.kill(handle)
