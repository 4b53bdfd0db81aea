"""OpenAI's chat completion wire: bodies in, bodies and chunks out. Pure.

Reading is lm15's own decoder; it refuses every key that it cannot carry, so nothing that a client
asks is dropped without a word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from dspex_ray.core.errors import Invalid, OutputInvalid

MAX_CHOICES = 16
_FINISH = {"tool_call": "tool_calls", "error": "stop"}


class ChatAsk(NamedTuple):
    """A decoded body: what is asked (`request`) and how it is to be answered."""

    model: str
    request: Any  # dspy.lm15.Request
    choices: int
    stream: bool
    include_usage: bool


def decode_chat(body: Any) -> ChatAsk:
    """Raises Invalid naming what the body lacks or holds too much of."""
    from dspy.lm15 import UnsupportedFeatureError, request_from_openai_chat

    if not isinstance(body, dict):
        raise Invalid("the body must be a JSON object", field="body", rule="object")
    ask = dict(body)
    choices = ask.pop("n", None)
    choices = 1 if choices is None else choices
    if not isinstance(choices, int) or not 1 <= choices <= MAX_CHOICES:
        raise Invalid(f"n must be 1 to {MAX_CHOICES}", field="n", rule="range")
    stream = ask.pop("stream", False) or False
    if not isinstance(stream, bool):
        raise Invalid("stream must be true or false", field="stream", rule="boolean")
    options = ask.pop("stream_options", None) or {}
    if not isinstance(options, dict):
        raise Invalid("stream_options must be an object", field="stream_options", rule="object")
    try:
        request = request_from_openai_chat(ask)
    except UnsupportedFeatureError as error:
        raise Invalid(error.message, field=error.feature, rule="supported") from error
    except (ValueError, TypeError, KeyError) as error:
        raise Invalid(f"not a chat completion request: {error}", rule="openai") from error
    include = bool(options.get("include_usage"))
    return ChatAsk(request.model, request, choices, stream, include)


def completion(identifier: str, created: int, model: str, responses: list[Any]) -> dict[str, Any]:
    """A `chat.completion` body out of one lm15 Response a choice."""
    return {
        "id": identifier,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": index,
                "message": _message(response),
                "logprobs": None,
                "finish_reason": finish_reason(response.finish_reason),
            }
            for index, response in enumerate(responses)
        ],
        "usage": usage_body([response.usage for response in responses]),
    }


def text_completion(
    identifier: str, created: int, model: str, texts: list[str], usage: Mapping[str, int]
) -> dict[str, Any]:
    """A `chat.completion` body whose answers are given texts: a program's outputs."""
    return {
        "id": identifier,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
            for index, text in enumerate(texts)
        ],
        "usage": dict(usage),
    }


def _message(response: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    texts: list[str] = []
    for part in response.message.parts:
        if part.type == "text":
            texts.append(part.text)
        elif part.type == "refusal":
            message["refusal"] = part.text
        elif part.type == "thinking":
            message["reasoning_content"] = part.text
        elif part.type == "data":
            texts.append(json.dumps(part.value, ensure_ascii=False))
        elif part.type == "tool_call":
            message.setdefault("tool_calls", []).append(
                {
                    "id": part.id,
                    "type": "function",
                    "function": {
                        "name": part.name,
                        "arguments": json.dumps(part.input, ensure_ascii=False),
                    },
                }
            )
    if texts and (any(texts) or "tool_calls" not in message):
        message["content"] = "".join(texts)
    return message


def finish_reason(reason: str | None) -> str:
    return _FINISH.get(reason or "stop", reason or "stop")


def usage_body(usages: list[Any]) -> dict[str, int]:
    """Sums over the choices, as OpenAI counts; a count that nobody gave is 0 there."""
    prompt = sum(usage.input_tokens or 0 for usage in usages)
    written = sum(usage.output_tokens or 0 for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
    }


class ChunkWriter:
    """Turns lm15 stream events of one choice into `chat.completion.chunk` bodies."""

    def __init__(self, identifier: str, created: int, model: str, index: int = 0) -> None:
        self._head = {
            "id": identifier,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._index = index
        self._tools: dict[int, int] = {}
        self.usage: Any = None

    def first(self) -> dict[str, Any]:
        return self._chunk({"role": "assistant", "content": ""})

    def chunk(self, event: Any) -> dict[str, Any] | None:
        """The chunk of an event, or None when a client has nothing to see of it."""
        if event.type == "delta":
            delta = self._delta(event.delta)
            return None if delta is None else self._chunk(delta)
        if event.type == "end":
            self.usage = event.usage
            return self._chunk({}, finish_reason(event.finish_reason))
        return None

    def text(self, text: str) -> dict[str, Any]:
        return self._chunk({"content": text})

    def last(self) -> dict[str, Any]:
        return self._chunk({}, "stop")

    def usage_chunk(self, usage: Mapping[str, int]) -> dict[str, Any]:
        return {**self._head, "choices": [], "usage": dict(usage)}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": self._index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head, "choices": [choice]}

    def _delta(self, delta: Any) -> dict[str, Any] | None:
        if delta.type == "text":
            return {"content": delta.text}
        if delta.type == "thinking":
            return {"reasoning_content": delta.text}
        if delta.type == "tool_call":
            index = self._tools.setdefault(delta.part_index, len(self._tools))
            function = {"arguments": delta.input}
            if delta.name is not None:
                function["name"] = delta.name
            call = {"index": index, "function": function}
            if delta.id is not None:
                call |= {"id": delta.id, "type": "function"}
            return {"tool_calls": [call]}
        return None


def program_inputs(messages: tuple[Any, ...], input_names: list[str]) -> dict[str, Any]:
    """The inputs of a program that is called as a chat model: the last user message.

    A program of one input takes the text as it is; one of several takes a JSON object.
    """
    texts = [message.text for message in messages if message.role == "user"]
    text = texts[-1] if texts else None
    if text is None:
        raise Invalid("a program takes a user message of text", field="messages", rule="user text")
    if len(input_names) == 1 and not _is_object_of(text, input_names):
        return {input_names[0]: text}
    try:
        inputs = json.loads(text)
    except ValueError:
        inputs = None
    if not isinstance(inputs, dict):
        raise Invalid(
            f"this program has the inputs {', '.join(input_names)}: send them as a JSON object "
            "in the last user message",
            field="messages",
            rule="inputs as JSON",
        )
    return inputs


def _is_object_of(text: str, names: list[str]) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and set(value) == set(names)


def program_text(outputs: dict[str, Any]) -> str:
    """A program's outputs as the text of an assistant: plain when there is one of text."""
    if not outputs:
        raise OutputInvalid("the program gave no outputs")
    if len(outputs) == 1:
        only = next(iter(outputs.values()))
        if isinstance(only, str):
            return only
    return json.dumps(outputs, ensure_ascii=False)
