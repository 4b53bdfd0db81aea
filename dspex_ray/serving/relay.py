"""A stream that runs in one task of its own, whatever tasks its reader lives in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

T = TypeVar("T")
_AHEAD = 32  # pieces that may wait for a slow reader


async def relayed(source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The pieces of `source`. Closing this cancels it and waits until it has ended.

    Timeouts and context variables belong to a task; ASGI servers begin to read a response in one
    task and go on in another.
    """
    pieces: asyncio.Queue[Any] = asyncio.Queue(_AHEAD)
    end = object()

    async def pump() -> None:
        try:
            async with aclosing(source):
                async for piece in source:
                    await pieces.put(piece)
        except Exception as error:
            await pieces.put(error)
        else:
            await pieces.put(end)

    task = asyncio.create_task(pump())
    try:
        while (piece := await pieces.get()) is not end:
            if isinstance(piece, Exception):
                raise piece
            yield piece
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
