"""HTTP of evaluations."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from dspex_ray.core.actor import Actor, Scope
from dspex_ray.core.ids import EvaluationId
from dspex_ray.core.page import DEFAULT_LIMIT, MAX_LIMIT, Page
from dspex_ray.evaluation.model import (
    Evaluation,
    EvaluationEvent,
    EvaluationQuery,
    ExampleResult,
    NewEvaluation,
)
from dspex_ray.evaluation.service import EvaluationService

Authorise = Callable[[Scope], Callable[..., Any]]

_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": EvaluationEvent.model_json_schema()}},
        "description": "One event for each change; the last one's status is final.",
    }
}


def router(service: EvaluationService, authorise: Authorise) -> APIRouter:
    routes = APIRouter(prefix="/v1/evaluations", tags=["evaluations"])
    Reader = Annotated[Actor, Depends(authorise(Scope.READ))]
    Writer = Annotated[Actor, Depends(authorise(Scope.WRITE))]

    @routes.post("", status_code=202)
    async def create_evaluation(actor: Writer, new: NewEvaluation) -> Evaluation:
        """Measure a program version on examples of a dataset. Follow it by its events."""
        return await service.create(actor, new)

    @routes.get("")
    async def list_evaluations(
        actor: Reader, query: Annotated[EvaluationQuery, Query()]
    ) -> Page[Evaluation]:
        """Newest first."""
        return await service.page(actor, query)

    @routes.get("/{evaluation_id}")
    async def get_evaluation(actor: Reader, evaluation_id: UUID) -> Evaluation:
        """With its report, once it is completed."""
        return await service.get(actor, EvaluationId(evaluation_id))

    @routes.get("/{evaluation_id}/results")
    async def list_evaluation_results(
        actor: Reader,
        evaluation_id: UUID,
        failed: bool | None = None,
        cursor: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    ) -> Page[ExampleResult]:
        """By example number, as far as they are there; `failed` those with errors, or without."""
        return await service.results(
            actor, EvaluationId(evaluation_id), failed=failed, cursor=cursor, limit=limit
        )

    @routes.post("/{evaluation_id}/cancel")
    async def cancel_evaluation(actor: Writer, evaluation_id: UUID) -> Evaluation:
        """It ends within seconds; results that are there stay."""
        return await service.cancel(actor, EvaluationId(evaluation_id))

    @routes.get("/{evaluation_id}/events", response_class=StreamingResponse, responses=_EVENTS)
    async def evaluation_events(actor: Reader, evaluation_id: UUID) -> StreamingResponse:
        """Server-sent events: its progress as it changes."""
        await service.get(actor, EvaluationId(evaluation_id))  # a 404 rather than a broken stream
        events = _sent(service, actor, EvaluationId(evaluation_id))
        return StreamingResponse(events, media_type="text/event-stream")

    return routes


async def _sent(
    service: EvaluationService, actor: Actor, evaluation_id: EvaluationId
) -> AsyncIterator[str]:
    """A comment while nothing changes, which keeps the connection."""
    async for event in service.events(actor, evaluation_id):
        yield ": \n\n" if event is None else f"data: {event.model_dump_json()}\n\n"
