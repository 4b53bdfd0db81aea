"""HTTP of executions, usage and feedback."""

from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from dspex_ray.core.actor import Actor, Scope
from dspex_ray.core.ids import ExecutionId
from dspex_ray.core.page import DEFAULT_LIMIT, MAX_LIMIT, Page
from dspex_ray.traces.model import (
    Execution,
    ExecutionQuery,
    Feedback,
    FeedbackEntry,
    NewFeedback,
    UsageQuery,
    UsageRow,
)
from dspex_ray.traces.service import TraceService

Authorise = Callable[[Scope], Callable[..., Any]]


def router(service: TraceService, authorise: Authorise) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["executions"])
    Reader = Annotated[Actor, Depends(authorise(Scope.READ))]
    Writer = Annotated[Actor, Depends(authorise(Scope.WRITE))]

    @routes.get("/executions")
    async def list_executions(
        actor: Reader, query: Annotated[ExecutionQuery, Query()]
    ) -> Page[Execution]:
        """Newest first, without LM calls and content."""
        return await service.list(actor, query)

    @routes.get("/executions/{execution_id}")
    async def get_execution(actor: Reader, execution_id: UUID) -> Execution:
        """With its LM calls and, where the program captures it, content."""
        return await service.get(actor, ExecutionId(execution_id))

    @routes.get("/usage")
    async def usage(actor: Reader, query: Annotated[UsageQuery, Query()]) -> Page[UsageRow]:
        """Calls, tokens, cost, success and latency, by program and model unless told otherwise."""
        return await service.usage(actor, query)

    @routes.post("/executions/{execution_id}/feedback", status_code=201)
    async def add_feedback(actor: Writer, execution_id: UUID, given: NewFeedback) -> FeedbackEntry:
        feedback = Feedback(execution_id=ExecutionId(execution_id), **given.model_dump())
        return await service.add_feedback(actor, feedback)

    @routes.get("/executions/{execution_id}/feedback")
    async def list_feedback(
        actor: Reader,
        execution_id: UUID,
        cursor: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    ) -> Page[FeedbackEntry]:
        """Newest first."""
        return await service.list_feedback(
            actor, ExecutionId(execution_id), cursor=cursor, limit=limit
        )

    return routes
