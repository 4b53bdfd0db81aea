"""Every provider's engine against the simulator, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from dspy.lm15 import Config, DataPart, FunctionTool, Message, Request, ToolCallPart
from pydantic import SecretStr

from dspex_ray.core.clock import SystemClock
from dspex_ray.core.ids import DEFAULT_PROJECT, ModelId
from dspex_ray.models.failure import classify
from dspex_ray.models.health import check_model
from dspex_ray.models.model import ErrorClass, Model, Price, Provider
from dspex_ray.models.providers import LeafEngine, build_engine
from dspex_ray.settings import HealthSettings
from dspex_ray.testing.provider_simulator import Fault, ProviderSimulator

NOW = datetime(2026, 3, 1, tzinfo=UTC)
KEY = "sk-test-0123456789abcdef0123456789"
HELLO = Request(model="route", messages=(Message.user("hello there world"),))
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris"]}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
PROVIDERS = list(Provider)
WIRES = [Provider.OPENAI, Provider.ANTHROPIC]


@pytest.fixture(scope="module")
def server() -> Iterator[ProviderSimulator]:
    with ProviderSimulator(slow_s=0.6, retry_after_s=7) as simulator:
        yield simulator


@pytest.fixture
def sim(server: ProviderSimulator) -> ProviderSimulator:
    server.requests.clear()
    server.always(None)
    return server


def model(sim: ProviderSimulator, provider: Provider, **more: Any) -> Model:
    return Model(
        id=ModelId(UUID(int=1)),
        project_id=DEFAULT_PROJECT,
        name="m",
        provider=provider,
        model_name="sim-1",
        base_url=sim.url,
        created_at=NOW,
        updated_at=NOW,
        **more,
    )


@asynccontextmanager
async def opened(
    sim: ProviderSimulator, provider: Provider, **more: Any
) -> AsyncIterator[LeafEngine]:
    engine = build_engine(model(sim, provider, **more), SecretStr(KEY))
    try:
        yield engine
    finally:
        await engine.aclose()


async def streamed(engine: LeafEngine, request: Request) -> list[Any]:
    return [event async for event in engine.stream(request)]


def text_of(events: list[Any]) -> str:
    return "".join(e.delta.text for e in events if e.type == "delta" and e.delta.type == "text")


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_plain(sim: ProviderSimulator, provider: Provider) -> None:
    async with opened(sim, provider) as engine:
        response = await engine.complete(HELLO)
    assert response.text == "echo: hello there world"
    assert (response.model, response.finish_reason) == ("sim-1", "stop")
    assert (response.usage.input_tokens, response.usage.output_tokens) == (3, 4)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_stream(sim: ProviderSimulator, provider: Provider) -> None:
    async with opened(sim, provider) as engine:
        events = await streamed(engine, HELLO)
    assert [e.type for e in events] == ["start", *["delta"] * 4, "end"]
    assert text_of(events) == "echo: hello there world"
    assert events[-1].finish_reason == "stop"
    assert (events[-1].usage.input_tokens, events[-1].usage.output_tokens) == (3, 4)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_key_travels_in_the_providers_header_and_nowhere_else(
    sim: ProviderSimulator, provider: Provider
) -> None:
    async with opened(sim, provider, config={"headers": {"x-team": "a"}}) as engine:
        await engine.complete(HELLO)
    received = sim.requests[-1]
    anthropic = provider is Provider.ANTHROPIC
    name, value = ("x-api-key", KEY) if anthropic else ("authorization", f"Bearer {KEY}")
    carrying = {k: v for k, v in received.headers.items() if KEY in v}
    assert carrying == {name: value}
    assert received.path == ("/v1/messages" if anthropic else "/v1/chat/completions")
    assert received.headers["x-team"] == "a"
    assert KEY not in json.dumps(received.body)


@pytest.mark.parametrize("provider", [Provider.LOCAL, Provider.OPENAI_COMPATIBLE])
async def test_keyless_servers_get_a_placeholder(
    sim: ProviderSimulator, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-process")
    engine = build_engine(model(sim, provider), None)
    await engine.complete(HELLO)
    await engine.aclose()
    assert sim.requests[-1].headers["authorization"] == "Bearer none"


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls(sim: ProviderSimulator, provider: Provider, stream: bool) -> None:
    tool = FunctionTool(name="weather", description="of a city", parameters=PARAMETERS)
    request = Request(model="r", messages=(Message.user("weather?"),), tools=(tool,))
    async with opened(sim, provider) as engine:
        if stream:
            events = await streamed(engine, request)
            calls = [e.delta for e in events if e.type == "delta" and e.delta.type == "tool_call"]
            name = "".join(call.name or "" for call in calls)
            arguments = json.loads("".join(call.input for call in calls))
            finish = events[-1].finish_reason
        else:
            response = await engine.complete(request)
            call = response.message.first(ToolCallPart)
            name, arguments, finish = call.name, call.input, response.finish_reason
    assert (name, arguments, finish) == ("weather", {"city": "Paris", "days": 1}, "tool_call")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("stream", [False, True])
async def test_json_schema(sim: ProviderSimulator, provider: Provider, stream: bool) -> None:
    wanted = Config(response_format={"type": "json_schema", "schema": PARAMETERS, "name": "w"})
    request = Request(model="r", messages=(Message.user("weather?"),), config=wanted)
    async with opened(sim, provider) as engine:
        if stream:
            value = json.loads(text_of(await streamed(engine, request)))
        else:
            # lm15 reads the answer to a schema with an enum into data; a stream stays text.
            value = (await engine.complete(request)).message.first(DataPart).value
    assert value == {"city": "Paris", "days": 1}


FAULTS = [
    (Fault.RATE_LIMIT, False, (ErrorClass.RATE_LIMIT, 429, 7.0)),
    (Fault.RATE_LIMIT, True, (ErrorClass.RATE_LIMIT, 429, 7.0)),
    (Fault.SERVER_ERROR, False, (ErrorClass.SERVER, 500, None)),
    (Fault.SERVER_ERROR, True, (ErrorClass.SERVER, 500, None)),
    (Fault.UNAUTHORIZED, False, (ErrorClass.AUTH, 401, None)),
    (Fault.UNAUTHORIZED, True, (ErrorClass.AUTH, 401, None)),
    (Fault.MALFORMED, False, (ErrorClass.MALFORMED, 200, None)),
    (Fault.MALFORMED, True, (ErrorClass.MALFORMED, None, None)),
    (Fault.HANG, False, (ErrorClass.TIMEOUT, None, None)),
    (Fault.HANG, True, (ErrorClass.TIMEOUT, None, None)),
    (Fault.SLOW_FIRST_TOKEN, False, (ErrorClass.TIMEOUT, None, None)),
    (Fault.SLOW_FIRST_TOKEN, True, (ErrorClass.TIMEOUT, None, None)),
    (Fault.CUT, False, (ErrorClass.TRANSPORT, None, None)),
    (Fault.CUT, True, (ErrorClass.TRANSPORT, None, None)),
    (Fault.SSE_ERROR, True, (ErrorClass.SERVER, None, None)),
]


def test_the_table_of_faults_is_complete() -> None:
    plain = {fault for fault, stream, _ in FAULTS if not stream}
    assert plain == set(Fault) - {Fault.SSE_ERROR}  # under status 200 the wires differ: see below
    assert {fault for fault, stream, _ in FAULTS if stream} == set(Fault)


@pytest.mark.parametrize("provider", WIRES)
@pytest.mark.parametrize(("fault", "stream", "expected"), FAULTS)
async def test_a_fault_is_classified_and_shows_no_key(
    sim: ProviderSimulator,
    provider: Provider,
    fault: Fault,
    stream: bool,
    expected: tuple[ErrorClass, int | None, float | None],
) -> None:
    sim.script([fault])
    async with opened(sim, provider, timeout_s=0.25) as engine:
        with pytest.raises(Exception) as failed:  # noqa: PT011 - the class is what is tested
            await (streamed(engine, HELLO) if stream else engine.complete(HELLO))
        failure = classify(failed.value)
        assert (failure.error_class, failure.status, failure.retry_after_s) == expected
        assert (await engine.complete(HELLO)).text == "echo: hello there world"
    shown: BaseException | None = failed.value
    while shown is not None:
        assert KEY not in f"{shown} {shown!r} {vars(shown)}"
        shown = shown.__cause__ or shown.__context__
    assert KEY not in failure.message


@pytest.mark.parametrize(
    ("provider", "error_class"),
    [(Provider.OPENAI, ErrorClass.SERVER), (Provider.ANTHROPIC, ErrorClass.MALFORMED)],
)
async def test_an_error_object_under_status_200_is_no_answer(
    sim: ProviderSimulator, provider: Provider, error_class: ErrorClass
) -> None:
    sim.script([Fault.SSE_ERROR])
    async with opened(sim, provider) as engine:
        with pytest.raises(Exception) as failed:  # noqa: PT011 - the class is what is tested
            await engine.complete(HELLO)
    assert classify(failed.value).error_class is error_class


@pytest.mark.parametrize("provider", WIRES)
async def test_slow_is_not_broken_when_there_is_time(
    sim: ProviderSimulator, provider: Provider
) -> None:
    sim.script([Fault.SLOW_FIRST_TOKEN])
    async with opened(sim, provider, timeout_s=5) as engine:
        assert (await engine.complete(HELLO)).text == "echo: hello there world"


BAD_REPLIES = [b"{}", b"[]", b"null", b'"x"', b'{"detail": "no"}', b'{"choices": [{}]}', b"<html>"]
BAD_STREAMS = [
    b"",
    b"data: []\n\n",
    b"data: [DONE]\n\n",
    b'{"error": {"message": "no"}}',
    b'data: {"choices": [{"index": 0, "delta": {"content": "hi"}}]}\n\n',
    b'data: {"choices": [{"index": 0, "delta": {"content": "hi"}}]}\n\ndata: [DONE]\n\n',
    b'data: {"type": "message_start", "message": {"id": "m", "model": "x", "usage": {}}}\n\n',
]


@pytest.mark.parametrize("provider", WIRES)
@pytest.mark.parametrize(
    ("body", "stream"),
    [*((body, False) for body in BAD_REPLIES), *((body, True) for body in BAD_STREAMS)],
)
async def test_no_answer_is_made_up_from_a_reply_of_another_form(
    provider: Provider, body: bytes, stream: bool
) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        kind = b"text/event-stream" if stream else b"application/json"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body))
        writer.write(b"Content-Type: " + kind + b"\r\nConnection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(reply, "127.0.0.1", 0)
    there = ProviderSimulator(port=server.sockets[0].getsockname()[1])
    async with server, opened(there, provider) as engine:
        with pytest.raises(Exception) as failed:  # noqa: PT011 - the class is what is tested
            await (streamed(engine, HELLO) if stream else engine.complete(HELLO))
    assert classify(failed.value).error_class is ErrorClass.MALFORMED


async def test_nobody_there_is_a_transport_failure() -> None:
    engine = build_engine(model(ProviderSimulator(port=9), Provider.OPENAI), SecretStr(KEY))
    with pytest.raises(Exception) as failed:  # noqa: PT011 - the class is what is tested
        await engine.complete(HELLO)
    await engine.aclose()
    assert classify(failed.value).error_class is ErrorClass.TRANSPORT


async def test_closing_a_stream_hangs_up_on_the_provider() -> None:
    with ProviderSimulator(lambda _: "word " * 500, token_s=0.005) as slow:
        async with opened(slow, Provider.OPENAI) as engine:
            events = engine.stream(HELLO)
            async for event in events:
                if event.type == "delta":
                    break
            await events.aclose()  # type: ignore[attr-defined]  # an async generator
            await hung_up(slow)


async def test_cancelling_a_call_hangs_up_on_the_provider() -> None:
    with ProviderSimulator() as silent:
        silent.always(Fault.HANG)
        async with opened(silent, Provider.OPENAI) as engine:
            call = asyncio.ensure_future(engine.complete(HELLO))
            while not silent.served:
                await asyncio.sleep(0.005)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await hung_up(silent)


async def hung_up(sim: ProviderSimulator) -> None:
    async with asyncio.timeout(3):
        while not sim.disconnects:
            await asyncio.sleep(0.005)


async def test_connections_are_kept_and_shared(sim: ProviderSimulator) -> None:
    async with opened(sim, Provider.OPENAI) as engine:
        await asyncio.gather(*(engine.complete(HELLO) for _ in range(8)))
        await asyncio.gather(*(engine.complete(HELLO) for _ in range(8)))
        pool = engine._lm.transport.pool_stats()  # type: ignore[attr-defined]
    assert pool["total_opened"] <= 8
    assert pool["in_use"] == 0


PRICE = Price(prompt_usd_per_token=Decimal("0.001"), completion_usd_per_token=Decimal("0.002"))


async def test_a_passing_check_is_measured_and_priced(sim: ProviderSimulator) -> None:
    async with opened(sim, Provider.OPENAI) as engine:
        check = await check_model(
            model(sim, Provider.OPENAI),
            engine,
            settings=HealthSettings(check_max_tokens=5),
            clock=SystemClock(),
            price=PRICE,
        )
    assert check.ok
    assert check.error_class is None
    assert 0 < check.latency_ms < 5_000
    assert (check.prompt_tokens, check.completion_tokens) == (3, 4)
    assert check.cost_usd == Decimal("0.011")
    assert sim.requests[-1].body is not None
    assert sim.requests[-1].body["max_completion_tokens"] == 5


@pytest.mark.parametrize(
    ("fault", "error_class"),
    [
        (Fault.UNAUTHORIZED, ErrorClass.AUTH),
        (Fault.SERVER_ERROR, ErrorClass.SERVER),
        (Fault.MALFORMED, ErrorClass.MALFORMED),
        (Fault.HANG, ErrorClass.TIMEOUT),
    ],
)
async def test_a_failing_check_is_an_outcome(
    sim: ProviderSimulator, fault: Fault, error_class: ErrorClass
) -> None:
    sim.script([fault])
    async with opened(sim, Provider.OPENAI) as engine:
        check = await check_model(
            model(sim, Provider.OPENAI),
            engine,
            settings=HealthSettings(check_timeout_s=0.2),
            clock=SystemClock(),
            price=PRICE,
        )
    assert (check.ok, check.error_class, check.cost_usd) == (False, error_class, None)
    assert check.message
    assert KEY not in check.message


@asynccontextmanager
async def raw_server(reply: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Its address, and what arrived: a piece for each time that something did."""
    arrived: list[bytes] = []
    ended: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(asyncio.Event())
        end = ended[-1]
        while piece := await reader.read(1 << 16):
            arrived.append(piece)
            writer.write(reply)
        writer.close()
        await writer.wait_closed()
        end.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}", arrived
    finally:
        server.close()
        async with asyncio.timeout(10):  # its clients have left: each connection ends by itself
            for end in ended:
                await end.wait()


def completion(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    body = json.dumps({"choices": [{**choice, "finish_reason": "stop"}]}).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def test_the_environments_proxy_is_used(
    sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with raw_server(completion("by proxy")) as (proxy, arrived):
        monkeypatch.setenv("http_proxy", proxy)
        away = model(sim, Provider.OPENAI_COMPATIBLE).model_copy(
            update={"base_url": "http://models.example/v1"}
        )
        engine = build_engine(away, SecretStr(KEY))
        response = await engine.complete(HELLO)
        await engine.aclose()
        assert response.text == "by proxy"
        assert arrived[0].startswith(b"POST http://models.example/v1/chat/completions HTTP/1.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        seen = len(arrived)
        async with opened(sim, Provider.OPENAI) as direct:
            assert (await direct.complete(HELLO)).text == "echo: hello there world"
        assert len(arrived) == seen


async def test_head_and_body_go_out_in_one_write(
    sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    write = asyncio.StreamWriter.write

    def noted(writer: asyncio.StreamWriter, part: bytes) -> None:
        if b"hello there world" in part or part.startswith(b"POST "):
            written.append(bytes(part))
        write(writer, part)

    monkeypatch.setattr(asyncio.StreamWriter, "write", noted)
    async with raw_server(completion("fine")) as (address, _):
        there = model(sim, Provider.OPENAI_COMPATIBLE).model_copy(update={"base_url": address})
        engine = build_engine(there, SecretStr(KEY))
        await engine.complete(HELLO)
        await engine.complete(HELLO)
        await engine.aclose()
    assert len(written) == 2  # one for each request
    assert all(part.startswith(b"POST ") and b"hello there world" in part for part in written)
