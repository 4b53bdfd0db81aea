"""The two wire formats of the provider simulator, and the answers it gives by itself. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class ToolCall(NamedTuple):
    name: str
    arguments: dict[str, Any]


#: The text of an answer, or the tools that it calls.
Answer = str | list[ToolCall]


@dataclass(frozen=True)
class Prompt:
    """A request, in the terms that both wires share."""

    model: str
    text: str  #: everything said, roles apart by newlines
    last: str  #: the last message's text
    last_role: str
    tools: tuple[tuple[str, dict[str, Any]], ...]  #: name, JSON schema of the arguments
    forced_tool: str | None
    schema: dict[str, Any] | None  #: of the answer, when one was asked for
    n: int
    body: dict[str, Any]

    @classmethod
    def of(cls, body: dict[str, Any]) -> Prompt:
        messages = body["messages"]
        said = [_text(body.get("system")), *(_text(m.get("content")) for m in messages)]
        choice = body.get("tool_choice")
        forced = None
        if isinstance(choice, dict):
            forced = choice.get("name") or choice.get("function", {}).get("name")
        return cls(
            model=str(body.get("model", "")),
            text="\n".join(part for part in said if part),
            last=said[-1],
            last_role=_role(messages[-1]),
            tools=() if choice == "none" else tuple(_tools(body)),
            forced_tool=forced,
            schema=_schema(body),
            n=int(body.get("n") or 1),
            body=body,
        )


class Wire(Protocol):
    def plain(self, prompt: Prompt, answer: Answer) -> dict[str, Any]:
        """The body of a whole answer."""
        ...

    def stream(self, prompt: Prompt, answer: Answer) -> list[bytes]:
        """The same as server-sent events, each with its blank line."""
        ...

    def error(self, message: str, status: int) -> dict[str, Any]: ...

    def error_frame(self, message: str) -> bytes: ...


def default_answer(prompt: Prompt) -> Answer:
    """Deterministic: a call of the tool that was offered, JSON that fits the schema that was
    asked for, or else an echo of the last message."""
    if prompt.tools and prompt.last_role != "tool":
        by_name = dict(prompt.tools)
        name = prompt.forced_tool or prompt.tools[0][0]
        return [ToolCall(name, fitting(by_name[name]))]
    if prompt.schema is not None:
        return json.dumps(fitting(prompt.schema))
    return f"echo: {prompt.last[:200]}"


def fitting(schema: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """The plainest value that fits a JSON schema: required properties, shortest arrays."""
    root = schema if root is None else root
    if "$ref" in schema:
        target: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return fitting(target, root)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if "enum" in schema:
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return fitting(schema[key][0], root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return _of_type(kind[0] if isinstance(kind, list) else kind, schema, root)


class OpenAIChat:
    """POST /v1/chat/completions."""

    def plain(self, prompt: Prompt, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None}
        if isinstance(answer, str):
            message["content"] = answer
        else:
            message["tool_calls"] = list(_openai_calls(answer))
        return {
            **self._frame(prompt, "chat.completion"),
            "choices": [
                {"index": index, "message": message, "finish_reason": _finish(answer)}
                for index in range(prompt.n)
            ],
            "usage": self._usage(prompt, answer),
        }

    def stream(self, prompt: Prompt, answer: Answer) -> list[bytes]:
        frame = self._frame(prompt, "chat.completion.chunk")
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        if isinstance(answer, str):
            deltas += [{"content": piece} for piece in _pieces(answer)]
        else:
            deltas += [
                {"tool_calls": [{"index": index, **call}]}
                for index, call in enumerate(_openai_calls(answer))
            ]
        chunks = [
            {**frame, "choices": [{"index": index, "delta": delta, "finish_reason": None}]}
            for delta in deltas
            for index in range(prompt.n)
        ]
        chunks += [
            {**frame, "choices": [{"index": i, "delta": {}, "finish_reason": _finish(answer)}]}
            for i in range(prompt.n)
        ]
        if (prompt.body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**frame, "choices": [], "usage": self._usage(prompt, answer)})
        return [*(_event(chunk) for chunk in chunks), b"data: [DONE]\n\n"]

    def error(self, message: str, status: int) -> dict[str, Any]:
        kind = {
            400: "invalid_request_error",
            401: "invalid_api_key",
            429: "rate_limit_exceeded",
        }.get(status, "server_error")
        return {"error": {"message": message, "type": kind, "param": None, "code": kind}}

    def error_frame(self, message: str) -> bytes:
        return _event(self.error(message, 500))

    def _frame(self, prompt: Prompt, kind: str) -> dict[str, Any]:
        return {"id": "chatcmpl-simulated", "object": kind, "created": 0, "model": prompt.model}

    def _usage(self, prompt: Prompt, answer: Answer) -> dict[str, Any]:
        prompt_tokens, completion_tokens = _words(prompt.text), prompt.n * _answer_words(answer)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }


class AnthropicMessages:
    """POST /v1/messages."""

    def plain(self, prompt: Prompt, answer: Answer) -> dict[str, Any]:
        return {
            **self._frame(prompt),
            "content": list(self._blocks(answer)),
            "stop_reason": self._reason(answer),
            "usage": self._usage(prompt, answer),
        }

    def stream(self, prompt: Prompt, answer: Answer) -> list[bytes]:
        usage = self._usage(prompt, answer)  # cumulative; the last one counts
        opened = {**self._frame(prompt), "content": [], "stop_reason": None, "usage": usage}
        frames = [self._named("message_start", {"message": opened})]
        for index, block in enumerate(self._blocks(answer)):
            frames += self._block_frames(index, block)
        closing = {
            "delta": {"stop_reason": self._reason(answer), "stop_sequence": None},
            "usage": usage,
        }
        return [*frames, self._named("message_delta", closing), self._named("message_stop", {})]

    def error(self, message: str, status: int) -> dict[str, Any]:
        kind = {
            400: "invalid_request_error",
            401: "authentication_error",
            429: "rate_limit_error",
        }.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}

    def error_frame(self, message: str) -> bytes:
        return _event(self.error(message, 500), "error")

    def _frame(self, prompt: Prompt) -> dict[str, Any]:
        return {
            "id": "msg_simulated",
            "type": "message",
            "role": "assistant",
            "model": prompt.model,
            "stop_sequence": None,
        }

    def _usage(self, prompt: Prompt, answer: Answer) -> dict[str, Any]:
        return {
            "input_tokens": _words(prompt.text),
            "output_tokens": _answer_words(answer),
            "cache_read_input_tokens": 0,
            "cache_creation_input_tokens": 0,
        }

    def _blocks(self, answer: Answer) -> Iterator[dict[str, Any]]:
        if isinstance(answer, str):
            yield {"type": "text", "text": answer}
            return
        for number, call in enumerate(answer):
            yield {
                "type": "tool_use",
                "id": f"toolu_{number}",
                "name": call.name,
                "input": call.arguments,
            }

    def _block_frames(self, index: int, block: dict[str, Any]) -> list[bytes]:
        if block["type"] == "text":
            opened: dict[str, Any] = {"type": "text", "text": ""}
            deltas = [{"type": "text_delta", "text": piece} for piece in _pieces(block["text"])]
        else:
            opened = {**block, "input": {}}
            partial = json.dumps(block["input"])
            deltas = [{"type": "input_json_delta", "partial_json": partial}]
        return [
            self._named("content_block_start", {"index": index, "content_block": opened}),
            *(self._named("content_block_delta", {"index": index, "delta": d}) for d in deltas),
            self._named("content_block_stop", {"index": index}),
        ]

    def _reason(self, answer: Answer) -> str:
        return "end_turn" if isinstance(answer, str) else "tool_use"

    def _named(self, name: str, content: dict[str, Any]) -> bytes:
        return _event({"type": name, **content}, name)


def embeddings(texts: list[str]) -> dict[str, Any]:
    """In OpenAI's format: of each text how often each letter is in it."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vectors = [[float(text.lower().count(letter)) for letter in letters] for text in texts]
    counted = sum(len(text.split()) for text in texts)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": counted, "total_tokens": counted},
    }


WIRES: dict[str, Wire] = {
    "/v1/chat/completions": OpenAIChat(),
    "/v1/messages": AnthropicMessages(),
}


def _of_type(kind: str, schema: dict[str, Any], root: dict[str, Any]) -> Any:
    if kind == "object":
        properties = schema.get("properties", {})
        required = schema.get("required", list(properties))
        return {name: fitting(properties.get(name, {}), root) for name in required}
    if kind == "array":
        return [fitting(schema.get("items", {}), root)] * max(1, schema.get("minItems", 0))
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    return {"boolean": True, "null": None}.get(kind, "text".ljust(schema.get("minLength", 0), "x"))


def _role(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list) and any(part.get("type") == "tool_result" for part in content):
        return "tool"
    return str(message.get("role", ""))


def _text(content: object) -> str:
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _tools(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for tool in body.get("tools") or ():
        function = tool.get("function", tool)
        yield function["name"], function.get("parameters") or function.get("input_schema") or {}


def _schema(body: dict[str, Any]) -> dict[str, Any] | None:
    asked = body.get("response_format") or (body.get("output_config") or {}).get("format") or {}
    if asked.get("type") != "json_schema":
        return None
    found = asked.get("schema") or asked.get("json_schema", {}).get("schema")
    return found if isinstance(found, dict) else None


def _openai_calls(answer: list[ToolCall]) -> Iterator[dict[str, Any]]:
    for number, call in enumerate(answer):
        function = {"name": call.name, "arguments": json.dumps(call.arguments)}
        yield {"id": f"call_{number}", "type": "function", "function": function}


def _finish(answer: Answer) -> str:
    return "stop" if isinstance(answer, str) else "tool_calls"


def _pieces(text: str) -> list[str]:
    """Words with the space after them; joined they are the text again."""
    words = text.split(" ")
    return [word + " " for word in words[:-1]] + words[-1:]


def _words(text: str) -> int:
    return len(text.split())


def _answer_words(answer: Answer) -> int:
    if isinstance(answer, str):
        return _words(answer)
    return sum(1 + _words(json.dumps(call.arguments)) for call in answer)


def _event(content: dict[str, Any], name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(content)}\n\n".encode()
