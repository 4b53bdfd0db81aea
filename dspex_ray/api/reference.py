"""The API reference of a plane: its OpenAPI, and a page that needs nothing from the internet.

Both want a key, as every endpoint does. A browser is asked for it by HTTP Basic: any user name,
the key as the password.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from html import escape
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from dspex_ray.core.errors import Denied

Authenticate = Callable[[Request], Awaitable[object]]

_STYLE = (
    "body{font:15px system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code{background:#eee;padding:.1rem .3rem}section{border-top:1px solid #ccc}"
)


def add_reference(app: FastAPI, authenticate: Authenticate) -> None:
    """Serve `/openapi.json` and `/docs`. `authenticate` raises Denied."""

    async def answer(request: Request, make: Callable[[], Response]) -> Response:
        try:
            await authenticate(request)
        except Denied as error:
            if error.details.get("reason") == "forbidden":
                raise
            challenge = {"WWW-Authenticate": 'Basic realm="dspex-ray API key"'}
            return Response(error.message, 401, challenge, media_type="text/plain")
        return make()

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        return await answer(request, lambda: JSONResponse(app.openapi()))

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return await answer(request, lambda: HTMLResponse(page(app.openapi())))


def page(schema: dict[str, Any]) -> str:
    """One HTML page: every endpoint of an OpenAPI schema, by tag."""
    info = schema["info"]
    sections: dict[str, list[str]] = {}
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            tag = (operation.get("tags") or ["other"])[0]
            sections.setdefault(tag, []).append(_operation(method, path, operation))
    body = "".join(
        f"<section><h2>{escape(tag)}</h2>{''.join(items)}</section>"
        for tag, items in sections.items()
    )
    return (
        f"<!doctype html><title>{escape(info['title'])}</title><style>{_STYLE}</style>"
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>"
        f"<p>{escape(info.get('description', ''))} <a href=openapi.json>OpenAPI</a></p>{body}"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    text = operation.get("description") or operation.get("summary", "")
    names = [parameter["name"] for parameter in operation.get("parameters", ())]
    taken = f"<p>Parameters: {escape(', '.join(names))}</p>" if names else ""
    return (
        f"<h3><code>{escape(method.upper())} {escape(path)}</code></h3><p>{escape(text)}</p>{taken}"
    )
