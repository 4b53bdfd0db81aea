"""HTTP of placements."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Response

from dspex_ray.core.actor import Actor, Scope
from dspex_ray.core.etags import etag, expected_revision
from dspex_ray.core.page import Page
from dspex_ray.placements.model import NewPlacement, Placement
from dspex_ray.placements.service import PlacementService

Authorise = Callable[[Scope], Callable[..., Any]]


def router(service: PlacementService, authorise: Authorise) -> APIRouter:
    routes = APIRouter(prefix="/v1/programs/{name}", tags=["placements"])
    Reader = Annotated[Actor, Depends(authorise(Scope.READ))]
    Writer = Annotated[Actor, Depends(authorise(Scope.WRITE))]
    Number = Annotated[int, Path(ge=1, le=2**31 - 1)]

    @routes.get("/placements")
    async def list_placements(actor: Reader, name: str) -> Page[Placement]:
        """Of the versions that do not run `shared`, newest first."""
        return Page(items=await service.list(actor, name))

    @routes.get("/versions/{number}/placement")
    async def get_placement(
        actor: Reader, name: str, number: Number, response: Response
    ) -> Placement:
        placement = await service.get(actor, name, number)
        response.headers["ETag"] = etag(placement.revision)
        return placement

    @routes.put("/versions/{number}/placement", status_code=202)
    async def put_placement(
        actor: Writer,
        name: str,
        number: Number,
        new: NewPlacement,
        response: Response,
        if_match: Annotated[str | None, Header()] = None,
    ) -> Placement:
        """Let a version run as an application of its own. It takes traffic once its status is
        `ready`; `failed` says why in `reason`, and is tried again."""
        revision = expected_revision(if_match)
        placement = await service.put(actor, name, number, new, revision=revision)
        response.headers["ETag"] = etag(placement.revision)
        return placement

    @routes.delete("/versions/{number}/placement", status_code=202)
    async def delete_placement(actor: Writer, name: str, number: Number) -> Placement:
        """Serve the version among the gateways again. The placement is `draining` until its
        last request is answered and its application has ended."""
        return await service.remove(actor, name, number)

    return routes
