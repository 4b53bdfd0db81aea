"""The load generator over real sockets: what it counts, and what it calls failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.http1 import message_end, reply
from benchmarks.load import Load, Pace, Run, Target

pytestmark = pytest.mark.integration  # sockets, and a clock that runs

Answer = Callable[[int], bytes]


@asynccontextmanager
async def _server(answer: Answer) -> AsyncIterator[str]:
    """Answers the n-th request with `answer(n)`; nothing closes the connection."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        received = b""
        while data := await reader.read(65_536):
            received += data
            if message_end(received) is not None:
                received = b""
                count += 1
                said = answer(count)
                writer.write(said)
                if not said:
                    break
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def _load(answer: Answer, pace: Pace) -> Load:
    async with _server(answer) as url:
        return await Run(Target(url, {}, {}, "good"), pace).go()


async def test_all_good_answers_count() -> None:
    load = await _load(lambda n: reply("good"), Pace(4, seconds=0.3, warm_up_s=0.1))
    assert load.errors == 0
    assert len(load.latencies_us) > 20
    assert load.requests_s == len(load.latencies_us) / 0.3


@pytest.mark.parametrize("bad", [reply("else"), reply("good").replace(b"200 OK", b"503 No"), b""])
async def test_each_other_answer_is_a_failure(bad: bytes) -> None:
    load = await _load(
        lambda n: bad if n % 5 == 0 else reply("good"), Pace(1, seconds=0.3, warm_up_s=0.0)
    )
    asked = len(load.latencies_us) + load.errors
    assert load.errors == pytest.approx(asked / 5, abs=1)
    assert load.first_error


async def test_a_rate_is_kept() -> None:
    load = await _load(lambda n: reply("good"), Pace(4, seconds=0.5, warm_up_s=0.1, rate=200))
    assert load.requests_s == pytest.approx(200, rel=0.1)
