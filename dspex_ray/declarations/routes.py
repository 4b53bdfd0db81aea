"""HTTP of `dspex apply`."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from dspex_ray.core.actor import Actor, Scope
from dspex_ray.core.errors import Invalid
from dspex_ray.declarations.model import Declaration, Plan
from dspex_ray.declarations.service import DeclarationService

Authorise = Callable[[Scope], Callable[..., Any]]
_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            "application/yaml": {"schema": {"type": "string"}},
            "application/json": {"schema": Declaration.model_json_schema()},
        },
    }
}


def router(service: DeclarationService, authorise: Authorise) -> APIRouter:
    routes = APIRouter(tags=["apply"])
    Writer = Annotated[Actor, Depends(authorise(Scope.WRITE))]

    @routes.post("/v1/apply", openapi_extra=_SCHEMA)
    async def apply(actor: Writer, request: Request, dry_run: bool = False) -> Plan:
        """Make models, programs, assignments and splits as the YAML or JSON body says."""
        try:
            text = (await request.body()).decode()
        except UnicodeDecodeError:
            raise Invalid("the file is not UTF-8", field="file", rule="utf-8") from None
        return await service.apply(actor, text, dry_run=dry_run)

    return routes
