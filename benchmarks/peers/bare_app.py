"""A bare Serve ingress that makes the same upstream call: no key, route, cost or record.

The body goes to the upstream as it came, unparsed, and so does the answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from fastapi import FastAPI, Request, Response
from ray import serve
from ray.serve import Application

_JSON = {"content-type": "application/json"}


def build(args: dict[str, str]) -> Application:
    """`args` names the `upstream`: a URL that ends with `/v1`."""
    upstream = f"{args['upstream']}/chat/completions"
    ingress = serve.ingress(lambda: _app(upstream))()
    return serve.deployment(ingress, name="bare").bind()


def _app(upstream: str) -> FastAPI:
    session: aiohttp.ClientSession

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        nonlocal session
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=512), headers=_JSON
        ) as session:
            yield

    app = FastAPI(lifespan=life)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        async with session.post(upstream, data=await request.body()) as reply:
            return Response(await reply.read(), reply.status, media_type="application/json")

    return app
