"""Which requests go past FastAPI, and that nobody can tell by the answer."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from dspex_ray.api.hot_path import HotPath
from dspex_ray.core.errors import Invalid


async def chat(request: Request) -> Response:
    asked = await request.json()
    if asked == "bad":
        raise Invalid("bad", field="body")
    return JSONResponse({"chat": asked})


async def predict(program: str, request: Request) -> Response:
    return JSONResponse({"program": program})


def refusal(error: Exception) -> Response:
    return PlainTextResponse(f"refused: {error}", 400)


def client(root_path: str = "") -> httpx.AsyncClient:
    app: Any = PlainTextResponse("the app")
    hot = HotPath(app, chat=chat, predict=predict, refusal=refusal)
    transport = httpx.ASGITransport(app=hot, root_path=root_path)
    return httpx.AsyncClient(transport=transport, base_url="http://x")


async def test_the_two_endpoints() -> None:
    async with client() as asking:
        answer = await asking.post("/v1/chat/completions", json={"model": "m"})
        assert answer.json() == {"chat": {"model": "m"}}
        for name in ("triage", "triage@3", "triage%40production"):
            answer = await asking.post(f"/v1/programs/{name}/predict", json={})
            assert answer.json() == {"program": name.replace("%40", "@")}


async def test_our_errors_are_answers() -> None:
    async with client() as asking:
        answer = await asking.post("/v1/chat/completions", json="bad")
        assert (answer.status_code, answer.text) == (400, "refused: bad")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/v1/programs//predict"),
        ("POST", "/v1/programs/predict"),
        ("POST", "/v1/programs/a/b/predict"),
        ("POST", "/v1/programs/a%2Fb/predict"),
        ("GET", "/v1/programs/a/predict"),
        ("POST", "/v1/programs/a/batch"),
    ],
)
async def test_everything_else_is_the_apps(method: str, path: str) -> None:
    async with client() as asking:
        assert (await asking.request(method, path)).text == "the app"


async def test_a_mounted_plane_is_the_apps() -> None:
    async with client(root_path="/dspex") as asking:
        answer = await asking.post("/v1/chat/completions", json={})
        assert answer.text == "the app"
