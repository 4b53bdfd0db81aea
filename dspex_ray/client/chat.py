"""Chat completions as the SDK gives them: OpenAI's wire, what a server adds kept as extras."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict


class Message(TypedDict, total=False):
    """A message that is sent; further keys (`tool_calls`, `tool_call_id`, ...) as OpenAI's."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None
    name: str
    tool_calls: list[dict[str, Any]]
    tool_call_id: str


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class CallableModel(_Part):
    """What chat completions can be asked of: a model, `route/<name>` or `program/<name>`."""

    id: str
    created: int
    owned_by: str  #: "model", "route" or "program"


class CallableModels(_Part):
    data: list[CallableModel]


class ChatUsage(_Part):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatMessage(_Part):
    """`content` None: the model called tools, or refused."""

    role: str = "assistant"
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] = []


class ChatChoice(_Part):
    index: int
    message: ChatMessage
    finish_reason: str | None = None


class ChatCompletion(_Part):
    """`model` is the registered model that answered."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage | None = None

    @property
    def text(self) -> str:
        """The first choice's content, "" when it has none."""
        return (self.choices[0].message.content or "") if self.choices else ""


class ChatDelta(_Part):
    role: str | None = None
    content: str | None = None
    tool_calls: list[dict[str, Any]] = []


class ChunkChoice(_Part):
    index: int
    delta: ChatDelta
    finish_reason: str | None = None


class ChatChunk(_Part):
    """A piece of a stream; the one with the usage has no choices."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: ChatUsage | None = None

    @property
    def text(self) -> str:
        """What this piece adds to the first choice's content."""
        return "".join(choice.delta.content or "" for choice in self.choices if choice.index == 0)
