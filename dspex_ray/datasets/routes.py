"""HTTP of datasets, their versions and examples."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from dspex_ray.core.actor import Actor, Scope
from dspex_ray.core.errors import Invalid
from dspex_ray.core.etags import etag, expected_revision
from dspex_ray.core.page import DEFAULT_LIMIT, MAX_LIMIT, Page
from dspex_ray.datasets.importing import ImportService
from dspex_ray.datasets.model import (
    MEDIA_TYPES,
    CheckReport,
    Dataset,
    DatasetSplit,
    DatasetType,
    DatasetUpdate,
    DatasetVersion,
    Example,
    ExampleQuery,
    ExecutionFilter,
    NewDataset,
    NewDatasetSplit,
    SignatureCheck,
    SourceKind,
    VersionSource,
)
from dspex_ray.datasets.service import DatasetService

Authorise = Callable[[Scope], Callable[..., Any]]

# FastAPI does not read these bodies: they may be larger than memory.
_ROWS = {
    "requestBody": {
        "required": True,
        "content": {
            media_type: {"schema": {"type": "string", "format": "binary"}}
            for media_type in MEDIA_TYPES
        },
    }
}
_LINES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}
}


def router(service: DatasetService, imports: ImportService, authorise: Authorise) -> APIRouter:
    routes = APIRouter(prefix="/v1/datasets", tags=["datasets"])
    _add_datasets(routes, service, authorise)
    _add_versions(routes, service, authorise)
    _add_imports(routes, imports, authorise)
    return routes


def _add_datasets(routes: APIRouter, service: DatasetService, authorise: Authorise) -> None:
    Reader = Annotated[Actor, Depends(authorise(Scope.READ))]
    Writer = Annotated[Actor, Depends(authorise(Scope.WRITE))]
    IfMatch = Annotated[str | None, Header()]

    @routes.get("")
    async def list_datasets(
        actor: Reader,
        type: DatasetType | None = None,
        cursor: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    ) -> Page[Dataset]:
        return await service.page(actor, type=type, cursor=cursor, limit=limit)

    @routes.post("", status_code=201)
    async def create_dataset(actor: Writer, new: NewDataset, response: Response) -> Dataset:
        """Without a version: an upload makes the first, and can make the dataset too."""
        dataset = await service.create(actor, new)
        response.headers["ETag"] = etag(dataset.revision)
        return dataset

    @routes.get("/{name}")
    async def get_dataset(actor: Reader, name: str, response: Response) -> Dataset:
        dataset = await service.get(actor, name)
        response.headers["ETag"] = etag(dataset.revision)
        return dataset

    @routes.patch("/{name}")
    async def update_dataset(
        actor: Writer,
        name: str,
        change: DatasetUpdate,
        response: Response,
        if_match: IfMatch = None,
    ) -> Dataset:
        dataset = await service.update(actor, name, change, revision=expected_revision(if_match))
        response.headers["ETag"] = etag(dataset.revision)
        return dataset

    @routes.delete("/{name}", status_code=204)
    async def delete_dataset(actor: Writer, name: str, if_match: IfMatch = None) -> None:
        """With all versions and examples; refused while something refers to them."""
        await service.delete(actor, name, revision=expected_revision(if_match))


def _add_versions(routes: APIRouter, service: DatasetService, authorise: Authorise) -> None:
    Reader = Annotated[Actor, Depends(authorise(Scope.READ))]

    @routes.get("/{name}/versions")
    async def list_dataset_versions(
        actor: Reader,
        name: str,
        cursor: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    ) -> Page[DatasetVersion]:
        """Newest first."""
        return await service.versions(actor, name, cursor=cursor, limit=limit)

    @routes.get("/{name}/versions/{number}")
    async def get_dataset_version(actor: Reader, name: str, number: int) -> DatasetVersion:
        """With its schema and statistics by field."""
        return await service.version(actor, name, number)

    @routes.get("/{name}/versions/{number}/examples")
    async def list_examples(
        actor: Reader, name: str, number: int, query: Annotated[ExampleQuery, Query()]
    ) -> Page[Example]:
        """All as imported; or of a part of a split, a seeded sample, or what a fold holds out."""
        return await service.page_of_examples(actor, name, number, query)

    @routes.post("/{name}/versions/{number}/split")
    async def split_dataset(
        actor: Reader, name: str, number: int, wanted: NewDatasetSplit
    ) -> DatasetSplit:
        """What a seeded split comes to: counts and fingerprints, the same on every machine."""
        return await service.split(actor, name, number, wanted.sizes, wanted.seed)

    @routes.post("/{name}/versions/{number}/check")
    async def check_dataset(
        actor: Reader, name: str, number: int, wanted: SignatureCheck
    ) -> CheckReport:
        """Every example against a program's signature."""
        return await service.check(actor, name, number, wanted)

    @routes.get(
        "/{name}/versions/{number}/export", response_class=StreamingResponse, responses=_LINES
    )
    async def export_dataset(actor: Reader, name: str, number: int) -> StreamingResponse:
        """The values as JSON lines: imported again they are the same version."""
        lines = await service.export(actor, name, number)
        return StreamingResponse(lines, media_type="application/x-ndjson")


def _add_imports(routes: APIRouter, imports: ImportService, authorise: Authorise) -> None:
    Writer = Annotated[Actor, Depends(authorise(Scope.WRITE))]
    Create = Annotated[bool, Query(description="make the dataset if it is not there")]

    @routes.post("/{name}/versions", status_code=201, openapi_extra=_ROWS)
    async def upload_dataset_version(
        actor: Writer,
        name: str,
        request: Request,
        create: Create = False,
        file: Annotated[str | None, Query(max_length=300, description="its name")] = None,
        python: Annotated[
            str | None,
            Query(max_length=300, description="the import path of what made the rows"),
        ] = None,
    ) -> DatasetVersion:
        """Rows as JSON lines, CSV or Parquet, as the Content-Type says: all become the next
        version, or none. Equal rows give the version that exists already."""
        media = _media_of(request.headers.get("content-type"))
        source = VersionSource(kind=media, name=file)
        if python is not None:
            source = VersionSource(kind=SourceKind.PYTHON, name=python)
        try:
            return await imports.upload(
                actor, name, media, request.stream(), source=source, create=create
            )
        except ClientDisconnect:
            raise Invalid(
                "the body ended before it was whole: nothing was imported",
                field="body",
                rule="whole",
            ) from None

    @routes.post("/{name}/versions/from-executions", status_code=201)
    async def import_executions(
        actor: Writer, name: str, wanted: ExecutionFilter, create: Create = False
    ) -> DatasetVersion:
        """Captured inputs with what was expected or answered."""
        return await imports.from_executions(actor, name, wanted, create=create)


def _media_of(content_type: str | None) -> SourceKind:
    media_type = (content_type or "").partition(";")[0].strip().lower()
    kind = MEDIA_TYPES.get(media_type)
    if kind is None:
        raise Invalid(
            f"content type {media_type[:100]!r} holds no rows (allowed: {', '.join(MEDIA_TYPES)})",
            field="content-type",
            rule="rows",
        )
    return kind
