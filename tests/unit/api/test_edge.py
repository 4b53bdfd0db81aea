"""Headers that Serve would obey are refused before Serve sees them, in the plane's own words."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from dspex_ray.api.edge import IMPORT_PATH, REFUSED, middlewares


async def serve(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("passed on")(scope, receive, send)


async def asked(path: str, headers: dict[str, str]) -> httpx.Response:
    app: Any = serve
    for middleware in middlewares():
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://dspex") as client:
        return await client.post(path, headers=headers, json={})


@pytest.mark.parametrize("name", [*REFUSED, "X-Request-Timeout-Seconds"])
async def test_refused_in_the_words_of_each_plane(name: str) -> None:
    message = f"header {name.lower()!r} is not allowed: use x-dspex-timeout-ms"
    data = await asked("/v1/chat/completions", {name: "0.001"})
    assert (data.status_code, data.json()["error"]["message"]) == (400, message)
    assert data.json()["error"]["param"] == name.lower()
    control = await asked("/api/v1/models", {name: "1"})
    assert (control.status_code, control.json()["detail"]) == (422, message)
    assert control.headers["content-type"] == "application/problem+json"


async def test_everything_else_passes() -> None:
    assert (await asked("/v1/models", {"x-dspex-timeout-ms": "5"})).text == "passed on"


def test_serve_finds_it() -> None:
    from importlib import import_module

    module, _, name = IMPORT_PATH.partition(":")
    assert getattr(import_module(module), name) is middlewares
