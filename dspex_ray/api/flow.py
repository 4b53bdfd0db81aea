"""How far Serve may read ahead of the application in an upload.

Serve reads a request's body as fast as it comes, into a queue without an end. The edge, which
stands before Serve, waits while the application, which stands behind it, has too much to take:
the client's connection then fills up, and memory does not.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

_AHEAD_BYTES = 4_000_000
_LOOK_S = 0.005
_KEY = "dspex.flow"


@dataclass
class Flow:
    """Edge and application run in two threads of a replica: each writes a count of its own.

    `taken` is None until an application of this process takes part: in a proxy none ever does.
    """

    read: int = 0
    taken: int | None = None

    @property
    def full(self) -> bool:
        return self.taken is not None and self.read - self.taken > _AHEAD_BYTES


def paced(scope: Any, receive: Any) -> Any:
    """The edge's side: `receive` that waits while the application is far behind."""
    flow = scope[_KEY] = Flow()

    async def read() -> dict[str, Any]:
        while flow.full:  # noqa: ASYNC110 - an event would have to cross threads and loops
            await asyncio.sleep(_LOOK_S)
        message: dict[str, Any] = await receive()
        flow.read += len(message.get("body", b""))
        return message

    return read


def taking(scope: Any, receive: Any) -> Any:
    """The application's side: `receive` that says what has been taken."""
    flow: Flow = scope.get(_KEY) or Flow()
    flow.taken = 0

    async def take() -> dict[str, Any]:
        message: dict[str, Any] = await receive()
        flow.taken = (flow.taken or 0) + len(message.get("body", b""))
        return message

    return take
