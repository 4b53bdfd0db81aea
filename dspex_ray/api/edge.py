"""Before Serve's own code: refuses the headers by which a client would set Serve's limits, and
keeps uploads from being read into memory.

Serve reads the headers ahead of the applications, and would answer a short timeout itself.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.middleware import Middleware

from dspex_ray.api.flow import paced
from dspex_ray.api.limits import is_upload
from dspex_ray.api.problems import openai_error, openai_status, problem, status_of
from dspex_ray.core.errors import Invalid

REFUSED = ("x-request-timeout-seconds", "x-request-disconnect-disabled")
_REFUSED = frozenset(name.encode() for name in REFUSED)

IMPORT_PATH = f"{__name__}:middlewares"  #: of RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH


def middlewares() -> list[Middleware]:
    """What Serve puts around every replica's HTTP server, and around its proxy."""
    return [Middleware(Edge)]


class Edge:
    """ASGI: answers 400 in the body of the plane that was asked, or passes the request on."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            for name, _ in scope["headers"]:
                if name in _REFUSED:
                    await _refuse(scope["path"], name.decode(), send)
                    return
            if is_upload(scope):
                receive = paced(scope, receive)
        await self._app(scope, receive, send)


async def _refuse(path: str, name: str, send: Any) -> None:
    error = Invalid(
        f"header {name!r} is not allowed: use x-dspex-timeout-ms", field=name, rule="allowed header"
    )
    if path.startswith("/api/"):
        status, body, kind = status_of(error), problem(error, path, None), b"problem+json"
    else:
        status, body, kind = openai_status(error), openai_error(error), b"json"
    content = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/" + kind),
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),  # the request's body is not read
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
