"""The way from DSPy's threads to the event loop on which models are called."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import aclosing
from threading import Thread
from typing import Any, NamedTuple, TypeVar

from dspex_ray.core.errors import Conflict
from dspex_ray.routing.scope import RequestScope

T = TypeVar("T")


def drive_sync(
    coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop, scope: RequestScope
) -> T:
    """Run it on the loop, in a copy of this thread's context, and wait for its result.

    A cancelled request raises asyncio.CancelledError here: a BaseException, which DSPy lets
    through. Raises Conflict when called on the loop's own thread, which would wait for itself.
    """
    try:
        _refuse_loop_thread(loop)
        _refuse_cancelled(scope)
    except BaseException:
        coroutine.close()
        raise
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    with scope.running(future):
        try:
            return future.result()
        except CancelledError as error:
            raise asyncio.CancelledError from error
        except BaseException:
            future.cancel()  # an interrupted thread leaves no call behind
            raise


def drive_stream_sync(
    events: AsyncGenerator[T, None], loop: asyncio.AbstractEventLoop, scope: RequestScope
) -> Iterator[T]:
    """The events, one by one, for a thread. Closing the iterator closes the stream."""
    _refuse_loop_thread(loop)
    _refuse_cancelled(scope)
    arrived: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    future = asyncio.run_coroutine_threadsafe(_pump(events, arrived), loop)
    future.add_done_callback(lambda over: arrived.put(_End(over)))
    with scope.running(future):
        try:
            while not isinstance(item := arrived.get(), _End):
                yield item
            if item.future.cancelled():
                raise asyncio.CancelledError
            item.future.result()
        finally:
            future.cancel()


class LoopThread:
    """An event loop in a thread of its own, for processes that have no other."""

    def __init__(self, name: str = "dspex-lm-calls") -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cancel what still runs, and end the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.get_loop().run_forever()


class _End(NamedTuple):
    future: Future[None]


async def _pump(events: AsyncGenerator[T, None], arrived: queue.SimpleQueue[T | _End]) -> None:
    """One task reads the whole stream and closes it."""
    async with aclosing(events):
        async for event in events:
            arrived.put(event)


def _refuse_loop_thread(loop: asyncio.AbstractEventLoop) -> None:
    try:
        here = asyncio.get_running_loop()
    except RuntimeError:
        return
    if here is loop:
        raise Conflict("a sync LM call on the event loop would wait for itself: use a thread")


def _refuse_cancelled(scope: RequestScope) -> None:
    if scope.cancelled:
        raise asyncio.CancelledError
