# Generated from ../aio/chat.py by scripts/generate_sync_client.py: edit that one.
"""Chat completions by a model, a route or a program."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

from dspex_ray.client.bodies import Ask, calling, json_of, read_chunk
from dspex_ray.client.chat import (
    CallableModels,
    ChatChunk,
    ChatCompletion,
    Message,
)
from dspex_ray.client.sync.connection import Connection
from dspex_ray.core.errors import Unavailable

_PATH = "/v1/chat/completions"


class Chat:
    """`model` is a registered model, `route/<name>`, or `program/<name>[@version|@label]`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def complete(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        session: str | None = None,
        timeout_s: float | None = None,
        **options: Any,
    ) -> ChatCompletion:
        """`options` go into the body as they are: temperature, max_tokens, n, tools, ..."""
        body = {"model": model, "messages": list(messages), **options}
        return self._connection.call(ChatCompletion, _ask(body, session, timeout_s))

    def stream(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        session: str | None = None,
        timeout_s: float | None = None,
        **options: Any,
    ) -> Generator[ChatChunk]:
        """Pieces as they come; the last one holds the usage.

        A failure on the way is raised, also when the stream just ends (Unavailable). Leaving the
        iterator closes the request; use `contextlib.closing` to have it closed at once.
        """
        body = {"model": model, "messages": list(messages), **options, "stream": True}
        body.setdefault("stream_options", {"include_usage": True})
        with closing(self._connection.events(_ask(body, session, timeout_s))) as events:
            for data in events:
                if data == "[DONE]":
                    return
                yield read_chunk(ChatChunk, data, self._connection.url)
        raise Unavailable("the stream was cut: it ended without its end")

    def models(self) -> CallableModels:
        """Everything in the key's project that `model` may name, in order of name."""
        return self._connection.call(CallableModels, Ask("GET", "/v1/models", repeatable=True))


def _ask(body: dict[str, Any], session: str | None, timeout_s: float | None) -> Ask:
    headers = calling(session, timeout_s, None)
    return Ask(
        "POST", _PATH, content=json_of(body), headers=headers, timeout_s=timeout_s, repeatable=True
    )
