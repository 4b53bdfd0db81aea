"""The data plane's HTTP: OpenAI's chat completions, and programs. Free of SQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from dspex_ray import __version__
from dspex_ray.api.hot_path import CHAT, Chat, HotPath, Predict
from dspex_ray.api.openapi import CHAT_BODY
from dspex_ray.api.problems import headers_of, openai_error, openai_status
from dspex_ray.api.reference import add_reference
from dspex_ray.core import errors
from dspex_ray.core.noun import no_nul
from dspex_ray.serving.gateway import Answer, Gateway
from dspex_ray.serving.model import BatchAsk, FeedbackAsk, PredictAsk
from dspex_ray.serving.relay import relayed
from dspex_ray.serving.request import Ask
from dspex_ray.telemetry.serve import OFF

log = structlog.get_logger()
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
DONE = b"data: [DONE]\n\n"


def data_plane_app(gateway: Gateway, *, lifespan: Lifespan | None = None) -> FastAPI:
    """The app as Serve mounts it at `/`."""
    app = FastAPI(
        title="dspex-ray data plane",
        version=__version__,
        description="OpenAI-compatible chat completions, and DSPy programs.",
        lifespan=lifespan or _quiet,
        openapi_url=None,  # api/reference.py serves it, to those who have a key
        telemetry=OFF,
    )
    _add_health(app, gateway)
    chat = _add_chat(app, gateway)
    predict = _add_programs(app, gateway)
    app.add_middleware(HotPath, chat=chat, predict=predict, refusal=_refusal)

    async def authenticate(request: Request) -> object:
        return gateway.asks.read(_headers(request))

    add_reference(app, authenticate)
    _handle_errors(app)
    return app


@asynccontextmanager
async def _quiet(app: FastAPI) -> AsyncIterator[None]:
    yield


def _add_health(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"])
    async def readyz() -> Response:
        """200 as soon as a snapshot is held, also while Postgres is away (and it says so)."""
        state = gateway.readiness()
        return JSONResponse(state, status_code=200 if state["ready"] else 503)


def _add_chat(app: FastAPI, gateway: Gateway) -> Chat:
    @app.get("/v1/models", tags=["chat"])
    async def list_models(request: Request) -> Response:
        """Models, routes (`route/<name>`) and programs (`program/<name>`) that can be called."""
        ask = gateway.asks.read(_headers(request))
        return _answer(gateway.list_models(ask))

    @app.post(CHAT, tags=["chat"], openapi_extra=CHAT_BODY)
    async def chat_completions(request: Request) -> Response:
        """As OpenAI's. `model`: a registered model, `route/<name>`, or
        `program/<name>[@version|@label]`."""
        ask = gateway.asks.read(_headers(request))
        body = await _json(request, gateway, ask)
        result = await gateway.chat(ask, body)
        if isinstance(result, Answer):
            return _answer(result)
        return await _events(result, done=DONE)

    return chat_completions


def _add_programs(app: FastAPI, gateway: Gateway) -> Predict:
    @app.post(
        "/v1/programs/{program}/predict", tags=["programs"], openapi_extra=_body_of(PredictAsk)
    )
    async def predict(program: str, request: Request) -> Response:
        """Run a program: `name`, `name@<version>` or `name@<label>`. With `stream`, events."""
        ask = gateway.asks.read(_headers(request))
        wanted = _parse(PredictAsk, await _json(request, gateway, ask))
        if not wanted.stream:
            return _answer(await gateway.predict(ask, program, wanted))
        return await _events(gateway.predict_stream(ask, program, wanted))

    @app.post("/v1/programs/{program}/batch", tags=["programs"], openapi_extra=_body_of(BatchAsk))
    async def batch(program: str, request: Request) -> Response:
        """Run a program on many inputs; each item has its outputs or its error."""
        ask = gateway.asks.read(_headers(request))
        wanted = _parse(BatchAsk, await _json(request, gateway, ask))
        return _answer(await gateway.batch(ask, program, wanted))

    @app.post(
        "/v1/programs/{program}/feedback",
        tags=["programs"],
        status_code=202,
        openapi_extra=_body_of(FeedbackAsk),
    )
    async def feedback(program: str, request: Request) -> Response:
        """Judge an execution of the program; it is recorded with the next drain."""
        ask = gateway.asks.read(_headers(request))
        wanted = _parse(FeedbackAsk, await _json(request, gateway, ask))
        return _answer(gateway.feedback(ask, program, wanted), status=202)

    return predict


def _headers(request: Request) -> dict[str, str]:
    """By lower-case name, the first of each: read a dozen times, which Starlette's are slow at."""
    pairs = reversed(request.scope["headers"])
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}


def _body_of(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


async def _json(request: Request, gateway: Gateway, ask: Ask) -> Any:
    """The body, parsed; raises TooLarge before it is read whole, Invalid when it is not JSON,
    DeadlineExceeded when it does not arrive in the request's time."""
    try:
        async with asyncio.timeout(ask.deadline - ask.started):
            content = await _body(request, gateway)
    except TimeoutError:
        raise errors.DeadlineExceeded("the body did not arrive in time") from None
    try:
        body = orjson.loads(content)
    except ValueError:
        raise errors.Invalid("the body is not JSON", field="body", rule="json") from None
    no_nul(body)
    return body


async def _body(request: Request, gateway: Gateway) -> bytes:
    limit = gateway.settings.max_body_bytes
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise errors.TooLarge(f"the body is over {limit} bytes", field="body")
    parts: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise errors.TooLarge(f"the body is over {limit} bytes", field="body")
        parts.append(chunk)
    return b"".join(parts)


def _parse(kind: type[Any], body: Any) -> Any:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in fault["loc"]) or "body"
        raise errors.Invalid(f"{field}: {fault['msg']}", field=field, rule=fault["type"]) from None


def _answer(answer: Answer, status: int = 200) -> Response:
    return Response(
        orjson.dumps(answer.body, default=str),
        status_code=status,
        media_type="application/json",
        headers=answer.headers,
    )


async def _events(events: AsyncGenerator[Any, None], done: bytes = b"") -> Response:
    """Server-sent events. The first is awaited here, so that a request that fails before its
    stream begins gets its own status; a failure after that is an event of its own, and last."""
    source = relayed(events)
    headers, first = await anext(source)

    async def pieces() -> AsyncIterator[bytes]:
        async with aclosing(source):
            try:
                yield _event(first)
                async for piece in source:
                    yield _event(piece)
            except errors.DspexRayError as error:
                yield _event(openai_error(error))
                return
            yield done

    return StreamingResponse(pieces(), media_type="text/event-stream", headers=headers)


def _event(piece: Any) -> bytes:
    return b"data: " + orjson.dumps(piece, default=str) + b"\n\n"


def _refusal(error: errors.DspexRayError) -> Response:
    return JSONResponse(openai_error(error), openai_status(error), headers_of(error))


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(errors.DspexRayError)
    async def ours(request: Request, error: errors.DspexRayError) -> Response:
        return _refusal(error)

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        kind = errors.NotFound if error.status_code == 404 else errors.Invalid
        body = openai_error(kind(str(error.detail)))
        return JSONResponse(body, error.status_code, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        log.exception("unexpected error", path=request.url.path)
        return _refusal(errors.DspexRayError("unexpected error; see the log"))
