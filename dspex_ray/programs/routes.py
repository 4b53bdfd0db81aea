"""HTTP of programs, versions and labels."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response

from dspex_ray.core.actor import Actor, Scope
from dspex_ray.core.errors import Invalid
from dspex_ray.core.etags import etag, expected_revision
from dspex_ray.core.page import DEFAULT_LIMIT, MAX_LIMIT, Page
from dspex_ray.programs.artifacts import load_artifact
from dspex_ray.programs.model import (
    ExportedVersion,
    LabelMove,
    LabelTarget,
    NewProgram,
    NewVersion,
    Program,
    ProgramStatus,
    ProgramUpdate,
    ProgramVersion,
    VersionSpace,
)
from dspex_ray.programs.service import ProgramService
from dspex_ray.variables.model import ConfigurationAsk, SampleAsk, Samples, Verdict

Authorise = Callable[[Scope], Callable[..., Any]]


def router(service: ProgramService, authorise: Authorise) -> APIRouter:
    routes = APIRouter(prefix="/v1/programs", tags=["programs"])
    Reader = Annotated[Actor, Depends(authorise(Scope.READ))]
    Writer = Annotated[Actor, Depends(authorise(Scope.WRITE))]
    IfMatch = Annotated[str | None, Header()]
    Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]

    @routes.get("")
    async def list_programs(
        actor: Reader,
        status: ProgramStatus | None = None,
        cursor: str | None = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> Page[Program]:
        return await service.page(actor, status=status, cursor=cursor, limit=limit)

    @routes.post("", status_code=201)
    async def create_program(actor: Writer, new: NewProgram, response: Response) -> Program:
        """Create a program; with `source`, its version 1 and labels in the same transaction."""
        program = await service.create(actor, new)
        response.headers["ETag"] = etag(program.revision)
        return program

    @routes.get("/{name}")
    async def get_program(actor: Reader, name: str, response: Response) -> Program:
        program = await service.get(actor, name)
        response.headers["ETag"] = etag(program.revision)
        return program

    @routes.patch("/{name}")
    async def update_program(
        actor: Writer,
        name: str,
        change: ProgramUpdate,
        response: Response,
        if_match: IfMatch = None,
    ) -> Program:
        program = await service.update(actor, name, change, revision=expected_revision(if_match))
        response.headers["ETag"] = etag(program.revision)
        return program

    @routes.post("/{name}/archive")
    async def archive_program(actor: Writer, name: str) -> Program:
        return await service.archive(actor, name)

    @routes.get("/{name}/versions")
    async def list_versions(
        actor: Reader, name: str, cursor: str | None = None, limit: Limit = DEFAULT_LIMIT
    ) -> Page[ProgramVersion]:
        """Newest first."""
        return await service.versions(actor, name, cursor=cursor, limit=limit)

    @routes.post("/{name}/versions", status_code=201)
    async def add_version(actor: Writer, name: str, new: NewVersion) -> ProgramVersion:
        """Add a version; equal content gives the version that exists already."""
        if (new.source is None) == (new.artifact is None):
            raise Invalid("give source or artifact", field="source", rule="exactly one")
        if new.source is not None:
            return await service.add_version(actor, name, new.source, new.labels)
        artifact = load_artifact(new.artifact, new.hash)
        return await service.add_artifact(actor, name, artifact, new.labels)

    @routes.get("/{name}/versions/{number}")
    async def get_version(actor: Reader, name: str, number: int) -> ProgramVersion:
        return await service.version(actor, name, number)

    @routes.get("/{name}/versions/{number}/export")
    async def export_version(actor: Reader, name: str, number: int) -> ExportedVersion:
        """The artifact as JSON; POST it to `/versions` to load it again, here or elsewhere."""
        return ExportedVersion(**await service.export(actor, name, number))

    routes.include_router(_spaces(service, Reader))

    @routes.put("/{name}/labels/{label}")
    async def put_label(actor: Writer, name: str, label: str, target: LabelTarget) -> Program:
        """Put a label (`production`, `staging`, ...) on a version."""
        return await service.label(actor, name, label, target.version)

    @routes.get("/{name}/label-moves")
    async def list_label_moves(
        actor: Reader, name: str, limit: Limit = DEFAULT_LIMIT
    ) -> Page[LabelMove]:
        """Newest first."""
        return Page(items=await service.label_moves(actor, name, limit))

    return routes


def _spaces(service: ProgramService, Reader: Any) -> APIRouter:
    """What an optimizer may change about a version."""
    routes = APIRouter()

    @routes.get("/{name}/versions/{number}/space")
    async def get_space(actor: Reader, name: str, number: int) -> VersionSpace:
        """What may be changed about the version, and how big a search that makes."""
        return await service.space(actor, name, number)

    @routes.post("/{name}/versions/{number}/space/sample")
    async def sample_space(actor: Reader, name: str, number: int, ask: SampleAsk) -> Samples:
        """Valid configurations; the same for the same seed."""
        return await service.sample_space(actor, name, number, ask)

    @routes.post("/{name}/versions/{number}/space/validate")
    async def validate_configuration(
        actor: Reader, name: str, number: int, ask: ConfigurationAsk
    ) -> Verdict:
        """Everything that is wrong with a configuration, by variable and rule."""
        return await service.check_configuration(actor, name, number, ask.configuration)

    return routes
