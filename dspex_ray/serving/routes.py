"""HTTP of the traffic split."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Response

from dspex_ray.core.actor import Actor, Scope
from dspex_ray.core.etags import etag, expected_revision
from dspex_ray.serving.model import Applied, NewSplit, Split, SplitApplied
from dspex_ray.serving.service import SplitService

Authorise = Callable[[Scope], Callable[..., Any]]


def router(service: SplitService, authorise: Authorise) -> APIRouter:
    routes = APIRouter(prefix="/v1/programs/{name}/split", tags=["split"])
    Reader = Annotated[Actor, Depends(authorise(Scope.READ))]
    Writer = Annotated[Actor, Depends(authorise(Scope.WRITE))]

    @routes.get("")
    async def get_split(actor: Reader, name: str, response: Response) -> Split:
        split = await service.get(actor, name)
        response.headers["ETag"] = etag(split.epoch)
        return split

    @routes.put("")
    async def put_split(
        actor: Writer,
        name: str,
        new: NewSplit,
        response: Response,
        if_match: Annotated[str | None, Header()] = None,
    ) -> SplitApplied:
        """Set the weights, in basis points that sum to 10000. Answers when the replicas have
        applied them, within a second; `applied` says how many of how many."""
        result = await service.put(actor, name, new, epoch=expected_revision(if_match))
        response.headers["ETag"] = etag(result.split.epoch)
        return result

    @routes.delete("")
    async def delete_split(actor: Writer, name: str) -> Applied:
        """Remove the split: the label `production` decides again."""
        return await service.remove(actor, name)

    return routes
