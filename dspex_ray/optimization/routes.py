"""HTTP of optimizers and optimization runs."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from dspex_ray.core.actor import Actor, Scope
from dspex_ray.core.ids import OptimizationId
from dspex_ray.core.page import DEFAULT_LIMIT, MAX_LIMIT, Page
from dspex_ray.optimization.front import Front
from dspex_ray.optimization.model import OptimizerInfo
from dspex_ray.optimization.runs import (
    NewOptimization,
    OptimizationRun,
    RunEstimate,
    RunEvent,
    RunImportance,
    RunQuery,
    RunTrial,
    SeenExample,
)
from dspex_ray.optimization.service import OptimizationService

Authorise = Callable[[Scope], Callable[..., Any]]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]

_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": RunEvent.model_json_schema()}},
        "description": "One event for each change; after the last one the run has ended.",
    }
}


def router(service: OptimizationService, authorise: Authorise) -> APIRouter:
    routes = APIRouter()
    routes.include_router(_optimizers(service, authorise))
    routes.include_router(_runs(service, authorise))
    return routes


def _optimizers(service: OptimizationService, authorise: Authorise) -> APIRouter:
    routes = APIRouter(prefix="/v1/optimizers", tags=["optimizers"])
    Reader = Annotated[Actor, Depends(authorise(Scope.READ))]

    @routes.get("")
    async def list_optimizers(actor: Reader) -> Page[OptimizerInfo]:
        """All that can be asked for, by name, on one page."""
        return Page(items=await service.optimizers(), next_cursor=None)

    @routes.get("/{name}")
    async def get_optimizer(actor: Reader, name: str) -> OptimizerInfo:
        """By name or alias, with its parameters and their defaults."""
        return await service.optimizer(name)

    return routes


def _runs(service: OptimizationService, authorise: Authorise) -> APIRouter:
    routes = APIRouter(prefix="/v1/optimizations", tags=["optimizations"])
    Reader = Annotated[Actor, Depends(authorise(Scope.READ))]
    Writer = Annotated[Actor, Depends(authorise(Scope.WRITE))]

    @routes.post("", status_code=202)
    async def create_optimization(actor: Writer, new: NewOptimization) -> OptimizationRun:
        """Search for a better program. Follow the run by its events."""
        return await service.create(actor, new)

    @routes.post("/estimate")
    async def estimate_optimization(actor: Reader, new: NewOptimization) -> RunEstimate:
        """What such a run would come to; nothing is started."""
        return await service.estimate(actor, new)

    @routes.get("")
    async def list_optimizations(
        actor: Reader, query: Annotated[RunQuery, Query()]
    ) -> Page[OptimizationRun]:
        """Newest first."""
        return await service.page(actor, query)

    @routes.get("/{run_id}")
    async def get_optimization(actor: Reader, run_id: UUID) -> OptimizationRun:
        """With its progress, and the versions it ended in."""
        return await service.get(actor, OptimizationId(run_id))

    @routes.get("/{run_id}/trials")
    async def list_optimization_trials(
        actor: Reader, run_id: UUID, cursor: str | None = None, limit: Limit = DEFAULT_LIMIT
    ) -> Page[RunTrial]:
        """By number, as far as they are there."""
        return await service.trials(actor, OptimizationId(run_id), cursor=cursor, limit=limit)

    @routes.get("/{run_id}/examples")
    async def list_optimization_examples(
        actor: Reader, run_id: UUID, cursor: str | None = None, limit: Limit = DEFAULT_LIMIT
    ) -> Page[SeenExample]:
        """The examples that the optimizer was given, or its versions measured on (`test`), by
        hash: none of them is held out any more."""
        return await service.seen(actor, OptimizationId(run_id), cursor=cursor, limit=limit)

    @routes.get("/{run_id}/front")
    async def get_optimization_front(actor: Reader, run_id: UUID) -> Front:
        """Of a search for several objectives that has ended: the programs that no other beats. 404,
        saying why, when it has none."""
        return await service.front(actor, OptimizationId(run_id))

    @routes.get("/{run_id}/importance")
    async def get_optimization_importance(actor: Reader, run_id: UUID) -> RunImportance:
        """Which variables mattered for each objective, by the trials so far. 404 for a search that
        has no variables."""
        return await service.importance(actor, OptimizationId(run_id))

    @routes.post("/{run_id}/cancel")
    async def cancel_optimization(actor: Writer, run_id: UUID) -> OptimizationRun:
        """It ends within seconds, and keeps what was found."""
        return await service.cancel(actor, OptimizationId(run_id))

    @routes.post("/{run_id}/resume", status_code=202)
    async def resume_optimization(actor: Writer, run_id: UUID) -> OptimizationRun:
        """A failed or cancelled run goes on; what models have answered is not asked again."""
        return await service.resume(actor, OptimizationId(run_id))

    @routes.get("/{run_id}/events", response_class=StreamingResponse, responses=_EVENTS)
    async def optimization_events(actor: Reader, run_id: UUID) -> StreamingResponse:
        """Server-sent events: its progress as it changes."""
        await service.get(actor, OptimizationId(run_id))  # a 404 rather than a broken stream
        events = _sent(service, actor, OptimizationId(run_id))
        return StreamingResponse(events, media_type="text/event-stream")

    return routes


async def _sent(
    service: OptimizationService, actor: Actor, run_id: OptimizationId
) -> AsyncIterator[str]:
    """A comment while nothing changes, which keeps the connection."""
    async for event in service.events(actor, run_id):
        yield ": \n\n" if event is None else f"data: {event.model_dump_json()}\n\n"
