"""API keys, as everybody may see them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime, Field

from dspex_ray.core.actor import Scope
from dspex_ray.core.ids import KeyId, ProjectId
from dspex_ray.core.noun import Name, Noun


class ApiKey(Noun):
    """A key as everybody may see it. The secret is shown once, when it is made."""

    id: KeyId
    project_id: ProjectId
    name: Name
    prefix: str
    scopes: tuple[Scope, ...]
    requests_per_minute: int | None = None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class NewApiKey(Noun):
    """What a caller sends to make a key. `requests_per_minute` None = no limit."""

    name: Name
    scopes: tuple[Scope, ...] = Field(default=(Scope.INVOKE, Scope.READ), min_length=1)
    requests_per_minute: int | None = Field(default=None, ge=1)
    expires_at: AwareDatetime | None = None


class MintedKey(Noun):
    key: ApiKey
    secret: str


class AuditEvent(Noun):
    """Who did what, when; the row before and after, secrets masked."""

    id: UUID
    project_id: ProjectId
    at: datetime
    actor: str
    action: str
    resource_kind: str
    resource_id: str
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
