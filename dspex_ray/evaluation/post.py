"""Many items to an actor, and their results, in few calls.

A call of Ray costs both sides together as much as running an example does. So what came up while
one call was on its way goes with the next, in either direction; nothing waits for others to come.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

from dspex_ray.core.errors import DspexRayError, Unavailable
from dspex_ray.jobs.retry import is_infrastructure

Evaluate = Callable[[str, str], Coroutine[Any, Any, str]]  #: (id of the work, item) to a result
Asked = Callable[..., Awaitable[Any]]  #: carries out a call of the actor's: (method, *arguments)


class Sent(NamedTuple):
    """An item as JSON. Its result comes under the same ticket."""

    ticket: int
    work_id: str
    item: str


class CameOf(NamedTuple):
    """A result as JSON, or the error that there is instead."""

    ticket: int
    result: str
    error: Exception | None = None


class Post:
    """The side of whoever has the items; belongs to one event loop."""

    def __init__(self, handle: Any, asked: Asked) -> None:
        self._handle, self._asked = handle, asked
        self._tickets = itertools.count()
        self._waiting: dict[int, asyncio.Future[str]] = {}
        self._new: list[Sent] = []
        self._cancelled: list[int] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._broken: BaseException | None = None

    async def evaluate(self, work_id: str, item: str) -> str:
        """Cancelled, it cancels the item there. Raises what the item raised, and what a call did:
        then everything that was under way raises that, and whatever comes later."""
        if self._broken is not None:
            raise self._broken
        ticket = next(self._tickets)
        self._waiting[ticket] = asyncio.get_running_loop().create_future()
        self._new.append(Sent(ticket, work_id, item))
        self._keep("send", self._send)
        self._keep("fetch", self._fetch)
        try:
            return await self._waiting[ticket]
        except asyncio.CancelledError:
            self._cancelled.append(ticket)
            self._keep("send", self._send)
            raise
        finally:
            del self._waiting[ticket]

    @property
    def ended(self) -> bool:
        return self._broken is not None

    def end(self, error: Exception) -> None:
        """What is under way raises that, and whatever comes later."""
        self._break(error)
        for task in self._tasks.values():
            task.cancel()

    def _keep(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self._tasks.get(name)
        if self._broken is None and (task is None or task.done()):
            self._tasks[name] = asyncio.create_task(self._unbroken(work))

    async def _unbroken(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # whatever it is, nobody is left waiting
            self._break(error)

    def _break(self, error: BaseException) -> None:
        self._broken = self._broken or error
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)

    async def _send(self) -> None:
        while self._new or self._cancelled:
            new, self._new = self._new, []
            cancelled, self._cancelled = self._cancelled, []
            await self._asked(self._handle.take, new, cancelled)

    async def _fetch(self) -> None:
        while self._waiting:
            for ticket, result, error in await self._asked(self._handle.fetch):
                future = self._waiting.get(ticket)
                if future is None or future.done():
                    continue
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)


class UnderWay:
    """The actor's side: what runs, and what came of what has ended."""

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate
        self._running: dict[int, asyncio.Task[str]] = {}
        self._ended: list[CameOf] = []
        self._some = asyncio.Event()
        self._places: dict[str, asyncio.Semaphore] = {}

    def allow(self, work_id: str, at_once: int | None) -> None:
        """So many items of a work run at once, the others wait for their turn; None: all run."""
        if at_once is not None:
            self._places[work_id] = asyncio.Semaphore(at_once)

    def forget(self, work_id: str) -> None:
        self._places.pop(work_id, None)

    def take(self, new: Sequence[Sent], cancelled: Sequence[int]) -> None:
        """Nothing comes of what is cancelled, unless it has ended."""
        for ticket, work_id, item in new:
            self._running[ticket] = task = asyncio.ensure_future(self._in_turn(work_id, item))
            task.add_done_callback(partial(self._came, ticket))
        for ticket in cancelled:
            if (running := self._running.get(ticket)) is not None:
                running.cancel()

    async def fetch(self) -> list[CameOf]:
        """All that has ended since it was last asked; waits for the first."""
        await self._some.wait()
        self._some.clear()
        ended, self._ended = self._ended, []
        return ended

    async def _in_turn(self, work_id: str, item: str) -> str:
        async with self._places.get(work_id) or nullcontext():
            return await self._evaluate(work_id, item)

    def _came(self, ticket: int, task: asyncio.Task[str]) -> None:
        del self._running[ticket]
        if task.cancelled():
            return
        error = task.exception()
        came = CameOf(ticket, task.result()) if error is None else CameOf(ticket, "", told(error))
        self._ended.append(came)
        self._some.set()


def told(error: BaseException) -> Exception:
    """As it may cross to another process: errors of libraries need not survive that."""
    if isinstance(error, DspexRayError):
        return error
    name = type(error).__name__
    if is_infrastructure(error):
        return Unavailable(f"the process of an example had {name}")
    return RuntimeError(f"the process of an example had {name}")
