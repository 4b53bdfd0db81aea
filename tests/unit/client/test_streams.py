from __future__ import annotations

from contextlib import closing
from typing import Any

import httpx
import pytest

from dspex_ray.client import AsyncDspex, Dspex
from dspex_ray.client.chat import ChatChunk
from dspex_ray.core import errors
from dspex_ray.serving.model import FieldDelta, Outputs
from tests.unit.client.wire import (
    Platform,
    chunk,
    events,
    openai_error,
    prediction,
)

DELTA = {"type": "delta", "predictor": "main", "field": "topic", "text": "sp\u2028ort"}
LAST = {"type": "outputs", **prediction(topic="sp\u2028ort")}
FAILED = {"error": {"message": "the answer was cut", "code": "provider_down", "details": {"n": 1}}}
HELLO: Any = [{"role": "user", "content": "hi"}]


def client(*replies: Any) -> tuple[Platform, AsyncDspex]:
    platform = Platform(list(replies))
    return platform, AsyncDspex("http://p", "k", transport=platform.transport)


async def test_a_program_gives_its_deltas_and_last_its_outputs() -> None:
    platform, dspex = client(events(DELTA, LAST))
    async with dspex:
        found = [event async for event in dspex.programs.stream("news", {"text": "x"})]
    assert found == [FieldDelta.model_validate(DELTA), Outputs.model_validate(LAST)]
    assert platform.body() == {"inputs": {"text": "x"}, "context": {}, "stream": True}


async def test_a_chat_gives_its_chunks_with_the_usage() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    platform, dspex = client(events(chunk("ho"), chunk(" ho"), chunk(None, usage=usage), done=True))
    async with dspex:
        found: list[ChatChunk] = [piece async for piece in dspex.chat.stream("smol", HELLO, n=1)]
    assert "".join(piece.text for piece in found) == "ho ho"
    assert found[-1].usage is not None
    assert found[-1].usage.total_tokens == 3
    assert platform.body() == {
        "model": "smol",
        "messages": HELLO,
        "n": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_a_stream_may_fail_on_its_way() -> None:
    _, dspex = client(events(DELTA, FAILED))
    async with dspex:
        found = dspex.programs.stream("news", {})
        assert await anext(found) == FieldDelta.model_validate(DELTA)
        with pytest.raises(errors.ProviderDown, match="the answer was cut") as caught:
            await anext(found)
    assert caught.value.details == {"n": 1}


async def test_a_chat_stream_may_fail_on_its_way() -> None:
    _, dspex = client(events(chunk("ho"), FAILED))
    async with dspex:
        with pytest.raises(errors.ProviderDown):
            [piece async for piece in dspex.chat.stream("smol", HELLO)]


async def test_a_stream_that_just_ends_is_no_answer() -> None:
    _, dspex = client(events(DELTA))
    async with dspex:
        with pytest.raises(errors.Unavailable, match="without its outputs"):
            [event async for event in dspex.programs.stream("news", {})]
        with pytest.raises(errors.DspexRayError, match="not understood"):
            [piece async for piece in dspex.chat.stream("smol", HELLO)]
    _, dspex = client(events(chunk("ho")))
    async with dspex:
        with pytest.raises(errors.Unavailable, match="without its end"):
            [piece async for piece in dspex.chat.stream("smol", HELLO)]


async def test_text_that_says_error_is_no_error() -> None:
    said = {**DELTA, "text": '"error"'}
    _, dspex = client(events(said, LAST))
    async with dspex:
        first = await anext(dspex.programs.stream("news", {}))
    assert first == FieldDelta.model_validate(said)


async def test_events_that_are_not_understood() -> None:
    _, dspex = client(events({"type": "surprise"}))
    async with dspex:
        with pytest.raises(errors.DspexRayError, match="not understood") as caught:
            [event async for event in dspex.programs.stream("news", {})]
    assert type(caught.value) is errors.DspexRayError


async def test_a_stream_is_tried_again_before_its_first_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def at_once(seconds: float) -> None:
        assert seconds < 1

    platform, dspex = client(
        openai_error(503, "overloaded", "full"), httpx.ConnectError("refused"), events(LAST)
    )
    monkeypatch.setattr(dspex._connection, "_sleep", at_once)
    async with dspex:
        found = [event async for event in dspex.programs.stream("news", {})]
    assert found == [Outputs.model_validate(LAST)]
    assert len(platform.asked) == 3


class Watched(httpx.AsyncByteStream, httpx.SyncByteStream):
    """A stream without an end that knows when it was closed."""

    closed = False

    async def __aiter__(self) -> Any:
        while True:
            yield events(DELTA).content

    def __iter__(self) -> Any:
        while True:
            yield events(DELTA).content

    async def aclose(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True


async def test_leaving_a_stream_closes_the_request() -> None:
    stream = Watched()
    _, dspex = client(httpx.Response(200, stream=stream))
    async with dspex:
        found = dspex.programs.stream("news", {})
        await anext(found)
        assert not stream.closed
        await found.aclose()
        assert stream.closed


def test_the_generated_client_streams_too() -> None:
    stream = Watched()
    platform = Platform([httpx.Response(200, stream=stream)])
    with Dspex("http://p", "k", transport=platform.transport) as dspex:
        with closing(dspex.programs.stream("news", {})) as found:
            assert next(found) == FieldDelta.model_validate(DELTA)
        assert stream.closed
    platform = Platform([events(chunk("ho"), done=True)])
    with Dspex("http://p", "k", transport=platform.transport) as dspex:
        assert [piece.text for piece in dspex.chat.stream("smol", HELLO)] == ["ho"]
