"""The control plane's app: every room's routes, one error body, one way to authorise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any

import structlog
from fastapi import FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from dspex_ray import __version__
from dspex_ray.access import routes as access_routes
from dspex_ray.access.rules import require
from dspex_ray.api.limits import BodyLimit, is_upload
from dspex_ray.api.problems import headers_of, problem, status_of
from dspex_ray.api.reference import add_reference
from dspex_ray.bootstrap import Services
from dspex_ray.core import errors
from dspex_ray.core.actor import Actor, Scope
from dspex_ray.datasets import routes as dataset_routes
from dspex_ray.declarations import routes as declaration_routes
from dspex_ray.evaluation import routes as evaluation_routes
from dspex_ray.models import routes as model_routes
from dspex_ray.optimization import routes as optimization_routes
from dspex_ray.placements import routes as placement_routes
from dspex_ray.programs import routes as program_routes
from dspex_ray.routing import routes as routing_routes
from dspex_ray.serving import routes as serving_routes
from dspex_ray.telemetry.serve import OFF
from dspex_ray.traces import routes as trace_routes

log = structlog.get_logger()
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def control_app(services: Services, *, lifespan: Lifespan | None = None) -> FastAPI:
    """The app as Serve mounts it: Serve puts `/api` into every request's scope by itself."""
    app = FastAPI(
        title="dspex-ray control plane",
        version=__version__,
        description="Models, programs, assignments, splits, executions, keys.",
        servers=[{"url": "/api"}],
        openapi_url=None,  # api/reference.py serves it, to those who have a key
        telemetry=OFF,
        lifespan=lifespan or _quiet,
    )
    authorise = authoriser(services)
    app.include_router(access_routes.router(services.keys, authorise))
    app.include_router(model_routes.router(services.models, authorise))
    app.include_router(program_routes.router(services.programs, authorise))
    app.include_router(routing_routes.router(services.assignments, authorise))
    app.include_router(serving_routes.router(services.splits, authorise))
    app.include_router(placement_routes.router(services.placements, authorise))
    app.include_router(trace_routes.router(services.executions, authorise))
    app.include_router(dataset_routes.router(services.datasets, services.imports, authorise))
    app.include_router(evaluation_routes.router(services.evaluations, authorise))
    app.include_router(optimization_routes.router(services.optimizations, authorise))
    app.include_router(declaration_routes.router(services.declarations, authorise))
    app.add_middleware(
        BodyLimit, max_bytes=services.settings.gateway.max_body_bytes, streamed=is_upload
    )

    async def authenticate(request: Request) -> object:
        actor = await services.keys.authenticate(request.headers.get("authorization"))
        return require(actor, Scope.READ)

    add_reference(app, authenticate)
    _handle_errors(app)
    return app


@asynccontextmanager
async def _quiet(app: FastAPI) -> AsyncIterator[None]:
    yield


def authoriser(services: Services) -> Callable[[Scope], Callable[..., Any]]:
    """`authorise(scope)` is a dependency that gives the Actor, or raises Denied."""

    def authorise(scope: Scope) -> Callable[..., Any]:
        async def actor(authorization: Annotated[str | None, Header()] = None) -> Actor:
            return require(await services.keys.authenticate(authorization), scope)

        return actor

    return authorise


def _handle_errors(app: FastAPI) -> None:
    def answer(request: Request, error: errors.DspexRayError) -> JSONResponse:
        request_id = request.headers.get("x-request-id")
        return JSONResponse(
            problem(error, request.url.path, request_id),
            status_code=status_of(error),
            headers=headers_of(error),
            media_type="application/problem+json",
        )

    @app.exception_handler(errors.DspexRayError)
    async def ours(request: Request, error: errors.DspexRayError) -> JSONResponse:
        return answer(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(request, _as_invalid(error))

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> JSONResponse:
        kind = errors.NotFound if error.status_code == 404 else errors.Invalid
        body = problem(kind(str(error.detail)), request.url.path, None)
        return JSONResponse(
            {**body, "status": error.status_code},
            status_code=error.status_code,
            headers=dict(error.headers or {}),
            media_type="application/problem+json",
        )

    @app.exception_handler(DBAPIError)
    @app.exception_handler(PoolTimeout)
    async def database(request: Request, error: SQLAlchemyError) -> JSONResponse:
        ours = _from_database(error)
        log.warning("database error", kind=type(error).__name__, answered=ours.code)
        return answer(request, ours)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.exception("unexpected error", path=request.url.path)
        return answer(request, errors.DspexRayError("unexpected error; see the log"))


def _from_database(error: SQLAlchemyError) -> errors.DspexRayError:
    """What a failure that no use case expected means to the caller; its text stays in the log,
    for it holds values."""
    if isinstance(error, OperationalError | InterfaceError | PoolTimeout):
        return errors.Unavailable("the database is away: try again")
    if isinstance(error, DataError):
        return errors.Invalid("a value is out of its column's range", field="body", rule="range")
    if isinstance(error, IntegrityError):
        return errors.Conflict("another change came first: read the resources again")
    return errors.DspexRayError("the database refused this; see the log")


def _as_invalid(error: RequestValidationError) -> errors.Invalid:
    """Every fault by field and rule, the first as the message; never the values."""
    faults = [
        {
            # A place in unreadable JSON is no field.
            "field": "body"
            if fault["type"] == "json_invalid"
            else ".".join(str(part) for part in fault["loc"] if part != "body") or "body",
            "rule": fault["type"],
            "message": fault["msg"],
        }
        for fault in error.errors()
    ]
    first = faults[0]
    return errors.Invalid(
        f"{first['field']}: {first['message']}",
        field=first["field"],
        rule=first["rule"],
        faults=faults,
    )
