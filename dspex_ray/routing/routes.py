"""HTTP of assignments."""

from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header

from dspex_ray.core.actor import Actor, Scope
from dspex_ray.core.etags import expected_revision
from dspex_ray.core.ids import AssignmentId
from dspex_ray.core.page import Page
from dspex_ray.routing.model import AssignmentUpdate, NewAssignment, ProgramModel
from dspex_ray.routing.service import AssignmentService

Authorise = Callable[[Scope], Callable[..., Any]]


def router(service: AssignmentService, authorise: Authorise) -> APIRouter:
    routes = APIRouter(tags=["assignments"])
    Reader = Annotated[Actor, Depends(authorise(Scope.READ))]
    Writer = Annotated[Actor, Depends(authorise(Scope.WRITE))]
    IfMatch = Annotated[str | None, Header()]

    @routes.post("/v1/programs/{name}/assignments", status_code=201)
    async def assign_model(actor: Writer, name: str, new: NewAssignment) -> ProgramModel:
        """Let a model serve the program, or one named predictor of it."""
        return await service.assign_to_program(actor, name, new)

    @routes.get("/v1/programs/{name}/assignments")
    async def list_assignments(actor: Reader, name: str) -> Page[ProgramModel]:
        """In order of priority, with the counters of each."""
        return Page(items=await service.list_for_program(actor, name))

    @routes.get("/v1/routes")
    async def list_routes(actor: Reader) -> Page[str]:
        return Page(items=await service.routes(actor))

    @routes.post("/v1/routes/{name}/assignments", status_code=201)
    async def assign_model_to_route(actor: Writer, name: str, new: NewAssignment) -> ProgramModel:
        """Let a model serve `route/<name>` of /v1/chat/completions."""
        return await service.assign_to_route(actor, name, new)

    @routes.get("/v1/routes/{name}/assignments")
    async def list_route_assignments(actor: Reader, name: str) -> Page[ProgramModel]:
        return Page(items=await service.list_for_route(actor, name))

    @routes.patch("/v1/assignments/{assignment_id}")
    async def update_assignment(
        actor: Writer, assignment_id: UUID, change: AssignmentUpdate, if_match: IfMatch = None
    ) -> ProgramModel:
        return await service.update(
            actor,
            AssignmentId(assignment_id),
            change,
            revision=expected_revision(if_match),
        )

    @routes.delete("/v1/assignments/{assignment_id}", status_code=204)
    async def delete_assignment(actor: Writer, assignment_id: UUID) -> None:
        await service.remove(actor, AssignmentId(assignment_id))

    return routes
