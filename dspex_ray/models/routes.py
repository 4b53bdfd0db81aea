"""HTTP of the model registry."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response

from dspex_ray.core.actor import Actor, Scope
from dspex_ray.core.etags import etag, expected_revision
from dspex_ray.core.page import DEFAULT_LIMIT, MAX_LIMIT, Page
from dspex_ray.models.model import (
    CostEstimate,
    CostQuestion,
    HealthCheck,
    Model,
    ModelSpec,
    ModelStatus,
    ModelUpdate,
    PriceRevision,
    Provider,
)
from dspex_ray.models.service import ModelService

Authorise = Callable[[Scope], Callable[..., Any]]


def router(service: ModelService, authorise: Authorise) -> APIRouter:
    routes = APIRouter(prefix="/v1/models", tags=["models"])
    Reader = Annotated[Actor, Depends(authorise(Scope.READ))]
    Writer = Annotated[Actor, Depends(authorise(Scope.WRITE))]
    IfMatch = Annotated[str | None, Header()]

    @routes.get("")
    async def list_models(
        actor: Reader,
        status: ModelStatus | None = None,
        provider: Provider | None = None,
        cursor: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    ) -> Page[Model]:
        return await service.page(
            actor, status=status, provider=provider, cursor=cursor, limit=limit
        )

    @routes.post("", status_code=201)
    async def register_model(
        actor: Writer, spec: ModelSpec, response: Response, test_on_creation: bool = True
    ) -> Model:
        """Register a model; it is checked by a real call unless `test_on_creation=false`."""
        model = await service.register(actor, spec, test_on_creation=test_on_creation)
        response.headers["ETag"] = etag(model.revision)
        return model

    @routes.get("/{name}")
    async def get_model(actor: Reader, name: str, response: Response) -> Model:
        model = await service.get(actor, name)
        response.headers["ETag"] = etag(model.revision)
        return model

    @routes.patch("/{name}")
    async def update_model(
        actor: Writer,
        name: str,
        change: ModelUpdate,
        response: Response,
        if_match: IfMatch = None,
    ) -> Model:
        """Change the given fields. With If-Match, only if the row still has that revision."""
        model = await service.update(actor, name, change, revision=expected_revision(if_match))
        response.headers["ETag"] = etag(model.revision)
        return model

    @routes.delete("/{name}", status_code=204)
    async def delete_model(actor: Writer, name: str) -> None:
        await service.delete(actor, name)

    @routes.post("/{name}/approve")
    async def approve_model(actor: Writer, name: str) -> Model:
        """testing -> available; runs a health check unless one passed within 24 h."""
        return await service.approve(actor, name)

    @routes.post("/{name}/deprecate")
    async def deprecate_model(actor: Writer, name: str) -> Model:
        return await service.deprecate(actor, name)

    @routes.post("/{name}/retest")
    async def retest_model(actor: Writer, name: str) -> Model:
        return await service.retest(actor, name)

    @routes.post("/{name}/check")
    async def check_model(actor: Writer, name: str) -> HealthCheck:
        """Call the provider now, with a budget of a few tokens, and record what came."""
        return await service.check(actor, name)

    @routes.get("/{name}/checks")
    async def list_checks(
        actor: Reader, name: str, limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT
    ) -> Page[HealthCheck]:
        return Page(items=await service.checks(actor, name, limit))

    @routes.get("/{name}/prices")
    async def list_prices(actor: Reader, name: str) -> Page[PriceRevision]:
        """The model's price book, newest first."""
        return Page(items=await service.prices(actor, name))

    @routes.post("/{name}/estimate-cost")
    async def estimate_cost(actor: Reader, name: str, question: CostQuestion) -> CostEstimate:
        return await service.estimate_cost(actor, name, question.text)

    return routes
