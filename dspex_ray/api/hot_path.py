"""The two requests that clients send all day, past FastAPI's routing and dependencies.

Those took 50 to 100 microseconds of each, and do nothing for endpoints that read the request
themselves. The endpoints stay FastAPI's too, for the OpenAPI document and any other way to ask.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dspex_ray.core.errors import DspexRayError

CHAT = "/v1/chat/completions"
_PROGRAMS, _PREDICT = "/v1/programs/", "/predict"

Chat = Callable[[Request], Awaitable[Response]]
Predict = Callable[[str, Request], Awaitable[Response]]


class HotPath:
    """ASGI. `refusal` makes the answer to one of our own errors; others go on to the app."""

    def __init__(
        self,
        app: Any,
        *,
        chat: Chat,
        predict: Predict,
        refusal: Callable[[DspexRayError], Response],
    ) -> None:
        self._app = app
        self._chat = chat
        self._predict = predict
        self._refusal = refusal

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        answering = self._endpoint(scope, receive)
        if answering is None:
            await self._app(scope, receive, send)
            return
        try:
            response = await answering
        except DspexRayError as error:
            response = self._refusal(error)
        await response(scope, receive, send)

    def _endpoint(self, scope: Any, receive: Any) -> Awaitable[Response] | None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope.get("root_path"):
            return None
        path: str = scope["path"]
        if path == CHAT:
            return self._chat(Request(scope, receive))
        if path.startswith(_PROGRAMS) and path.endswith(_PREDICT):
            program = path[len(_PROGRAMS) : -len(_PREDICT)]
            if program and "/" not in program:
                return self._predict(program, Request(scope, receive))
        return None
