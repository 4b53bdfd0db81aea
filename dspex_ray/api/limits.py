"""ASGI middleware that stops bodies over the limit and null bytes in paths.

Uploads of rows pass as they come: their route reads them in pieces, under limits of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from dspex_ray.api.flow import taking
from dspex_ray.api.problems import problem, status_of
from dspex_ray.core.errors import DspexRayError, Invalid, TooLarge
from dspex_ray.core.noun import no_nul
from dspex_ray.datasets.model import MEDIA_TYPES

_UPLOADS = re.compile(r"/v1/datasets/[^/]+/versions/?$")

Scope = Any
Receive = Any
Send = Any


class BodyLimit:
    """Counts bytes as they come: a body without Content-Length is stopped all the same."""

    def __init__(
        self, app: Any, max_bytes: int, streamed: Callable[[Scope], bool] = lambda scope: False
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._streamed(scope):
            await self._app(scope, taking(scope, receive), send)
            return
        try:
            no_nul(scope["path"], "path")
            body = await self._read(scope, receive)
            if body is None:
                return
            _no_null_bytes(body)
        except DspexRayError as error:
            await _refuse(scope, send, error)
            return
        sent = False

        async def replay() -> dict[str, Any]:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}
            message: dict[str, Any] = await receive()
            return message

        await self._app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None when the client went away: half a body is never acted upon.

        Raises TooLarge, before it is read when its length is declared.
        """
        too_large = TooLarge(f"the body is over {self._max_bytes} bytes", field="body")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            raise too_large
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > self._max_bytes:
                raise too_large
            parts.append(chunk)
            if not message.get("more_body"):
                return b"".join(parts)


def is_upload(scope: Scope) -> bool:
    """Whether the body is rows of a dataset, by method, address and Content-Type."""
    if scope["method"] != "POST" or _UPLOADS.search(scope["path"]) is None:
        return False
    media_type = dict(scope["headers"]).get(b"content-type", b"").partition(b";")[0].strip()
    return media_type.decode("latin-1").lower() in MEDIA_TYPES


def _no_null_bytes(body: bytes) -> None:
    """Postgres cannot store U+0000 in text. Only a body that may hold one is parsed for it."""
    if b"\x00" in body:
        raise Invalid("the body holds a null byte", field="body", rule="no null bytes")
    if b"\\u0000" in body:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return  # the route says what is wrong with it
        no_nul(value)


async def _refuse(scope: Scope, send: Send, error: DspexRayError) -> None:
    body = json.dumps(problem(error, scope["path"].replace("\x00", ""), None)).encode()
    await send(
        {
            "type": "http.response.start",
            "status": status_of(error),
            "headers": [
                (b"content-type", b"application/problem+json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
