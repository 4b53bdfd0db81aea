"""Serve's queue has no end: what it holds of an upload must have one all the same."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from dspex_ray.api.edge import Edge
from dspex_ray.api.flow import Flow
from dspex_ray.api.limits import BodyLimit, is_upload

CHUNK = b"x" * 100_000
CHUNKS = 200


def a_scope(
    path: str = "/api/v1/datasets/qa/versions", media_type: str = "text/csv; a=b"
) -> dict[str, Any]:
    headers = [(b"content-type", media_type.encode())]
    return {"type": "http", "method": "POST", "path": path, "headers": headers}


class Sender:
    """A client with CHUNKS to send; counts those that were read from it."""

    def __init__(self) -> None:
        self.sent = 0

    async def __call__(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self.sent == CHUNKS:
            await asyncio.Event().wait()  # it stays, and has nothing more to say
        self.sent += 1
        more = self.sent < CHUNKS
        return {"type": "http.request", "body": CHUNK, "more_body": more}


class Greedy:
    """As Serve: reads on and on into a queue, while the application runs beside."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        queue: asyncio.Queue[Any] = asyncio.Queue()

        async def fetch() -> None:
            while True:
                await queue.put(await receive())

        fetching = asyncio.create_task(fetch())
        await self._app(scope, queue.get, send)
        fetching.cancel()


async def nothing(message: Any) -> None:
    raise AssertionError(message)


async def test_a_slow_application_holds_the_client_back() -> None:
    sender = Sender()
    ahead: list[int] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        for taken in range(CHUNKS):
            assert (await receive())["body"] == CHUNK
            ahead.append(sender.sent - taken)
            await asyncio.sleep(0.001)

    app = Edge(Greedy(BodyLimit(slow, 1_000, streamed=is_upload)))
    await asyncio.wait_for(app(a_scope(), sender, nothing), 30)
    assert sender.sent == CHUNKS
    assert 30 < max(ahead) <= 43  # four megabytes, and what was on its way


async def test_an_application_that_reads_nothing_ends_the_request() -> None:
    async def done(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)

    sender = Sender()
    app = Edge(Greedy(BodyLimit(done, 1_000, streamed=is_upload)))
    await asyncio.wait_for(app(a_scope(), sender, nothing), 5)
    assert sender.sent < CHUNKS


async def test_where_no_application_takes_part_nothing_is_held_back() -> None:
    """As in a proxy, which pickles the scope for a replica elsewhere."""
    sender = Sender()

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        assert pickle.loads(pickle.dumps(scope))["dspex.flow"] == Flow()
        for _ in range(CHUNKS):
            await receive()

    await asyncio.wait_for(Edge(proxy)(a_scope(), sender, nothing), 5)
    assert sender.sent == CHUNKS


@pytest.mark.parametrize(
    ("change", "upload"),
    [
        ({}, True),
        ({"path": "/v1/datasets/qa/versions"}, True),
        ({"path": "/v1/datasets/qa/versions/from-executions"}, False),
        ({"path": "/v1/programs/qa/versions"}, False),
        ({"media_type": "application/json"}, False),
        ({"media_type": "Application/X-NDJSON"}, True),
    ],
)
def test_what_is_an_upload(change: dict[str, Any], upload: bool) -> None:
    assert is_upload(a_scope(**change)) is upload
    assert not is_upload({**a_scope(**change), "method": "PUT"})
