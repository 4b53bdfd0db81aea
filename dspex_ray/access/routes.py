"""HTTP of keys and the audit trail."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from dspex_ray.access.model import ApiKey, AuditEvent, MintedKey, NewApiKey
from dspex_ray.access.service import KeyService
from dspex_ray.core.actor import Actor, Scope
from dspex_ray.core.page import DEFAULT_LIMIT, MAX_LIMIT, Page

Authorise = Callable[[Scope], Callable[..., Any]]


def router(service: KeyService, authorise: Authorise) -> APIRouter:
    routes = APIRouter(tags=["keys"])
    Admin = Annotated[Actor, Depends(authorise(Scope.ADMIN))]

    @routes.post("/v1/keys", status_code=201)
    async def create_key(actor: Admin, new: NewApiKey) -> MintedKey:
        """Make an API key. The secret is in this answer and nowhere else."""
        return await service.create(actor, new)

    @routes.get("/v1/keys")
    async def list_keys(actor: Admin) -> Page[ApiKey]:
        return Page(items=await service.every(actor))

    @routes.post("/v1/keys/{key}/revoke")
    async def revoke_key(actor: Admin, key: str) -> ApiKey:
        """Revoke a key by its prefix or name: it stops working within a second."""
        return await service.revoke(actor, key)

    @routes.get("/v1/audit", tags=["audit"])
    async def list_audit_events(
        actor: Admin,
        kind: str | None = None,
        cursor: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    ) -> Page[AuditEvent]:
        """Who changed what, newest first."""
        return await service.audit_events(actor, kind=kind, cursor=cursor, limit=limit)

    return routes
