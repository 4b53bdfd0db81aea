"""The official OpenAI SDK, unchanged, against the platform."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.e2e.platform import Platform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

HELLO: Any = [{"role": "user", "content": "hello there"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture
def sdk(platform: Platform, simulated: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{platform.url}/v1", api_key=platform.key, max_retries=0
    ) as client:
        yield client


def test_plain(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="simulated", messages=HELLO)
    assert answer.object == "chat.completion"
    assert answer.model == "simulated"
    assert [(c.index, c.message.content, c.finish_reason) for c in answer.choices] == [
        (0, "echo: hello there", "stop")
    ]
    assert answer.usage is not None
    # The simulator counts words: two in, three out.
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 3)
    assert answer.usage.total_tokens == 5


def test_headers_say_what_it_took(sdk: openai.OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(model="simulated", messages=HELLO)
    assert raw.headers["x-dspex-model"] == "simulated"
    assert raw.headers["x-dspex-attempts"] == "1"
    assert raw.headers["x-dspex-cost-usd"] == "0.000008"
    assert raw.headers["x-request-id"]


def test_stream_with_usage(sdk: openai.OpenAI) -> None:
    chunks = list(
        sdk.chat.completions.create(
            model="simulated",
            messages=HELLO,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "echo: hello there"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 5


def test_tools_there_and_back(sdk: openai.OpenAI) -> None:
    asked = sdk.chat.completions.create(model="simulated", messages=HELLO, tools=[WEATHER])
    [call] = asked.choices[0].message.tool_calls or []
    assert asked.choices[0].finish_reason == "tool_calls"
    assert call.type == "function"
    assert call.function.name == "weather"
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    messages = [*HELLO, asked.choices[0].message.model_dump(exclude_none=True), result]
    answer = sdk.chat.completions.create(model="simulated", messages=messages, tools=[WEATHER])
    assert answer.choices[0].message.content == "echo: sunny"


def test_several_choices(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="simulated", messages=HELLO, n=2)
    assert [c.index for c in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6


async def test_async_stream(platform: Platform, simulated: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{platform.url}/v1", api_key=platform.key) as client:
        stream = await client.chat.completions.create(model=simulated, messages=HELLO, stream=True)
        pieces = [c.choices[0].delta.content or "" async for c in stream if c.choices]
    assert "".join(pieces) == "echo: hello there"


def test_models_are_listed(sdk: openai.OpenAI) -> None:
    listed = {model.id for model in sdk.models.list()}
    assert {"simulated", "program/judge"} <= listed


def test_wrong_key(platform: Platform) -> None:
    with (
        openai.OpenAI(base_url=f"{platform.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.chat.completions.create(model="simulated", messages=HELLO)
    assert caught.value.code == "denied"


def test_unknown_model(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.chat.completions.create(model="no-such", messages=HELLO)
    assert caught.value.code == "not_found"
    assert "no-such" in caught.value.message


def test_bad_request(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model="simulated", messages=[])
    assert caught.value.code == "invalid"
    assert "at least one message is required" in caught.value.message
