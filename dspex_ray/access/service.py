"""Use cases of API keys: make, list, revoke, authenticate."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from sqlalchemy.exc import IntegrityError

from dspex_ray.access import store
from dspex_ray.access.model import ApiKey, AuditEvent, MintedKey, NewApiKey
from dspex_ray.access.rules import bearer, mint, prefix_of, verify
from dspex_ray.core.actor import SYSTEM, Actor, Scope
from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import AlreadyExists, NotFound
from dspex_ray.core.ids import KeyId, NewId, new_id
from dspex_ray.core.page import Page
from dspex_ray.db.audit import audit
from dspex_ray.db.configuration import bump
from dspex_ray.db.engine import Database


class KeyService:
    """Keys of a project. Secrets are returned once and never stored."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        ids: NewId = new_id,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._random_bytes = random_bytes

    async def create(self, actor: Actor, new: NewApiKey) -> MintedKey:
        """Raises AlreadyExists when a live key of this name exists."""
        now = self._clock.now()
        prefix, secret, digest = mint(self._random_bytes)
        key = ApiKey(
            id=KeyId(self._ids()),
            project_id=actor.project_id,
            prefix=prefix,
            created_at=now,
            **new.model_dump(),
        )
        try:
            async with self._database.write() as conn:
                await store.insert_key(conn, key, digest)
                await audit(conn, actor, "key.create", "key", key.prefix, now=now, after=key)
                await bump(conn)
        except IntegrityError as error:
            raise AlreadyExists(f"a live key named {new.name!r} exists", field="name") from error
        return MintedKey(key=key, secret=secret)

    async def every(self, actor: Actor) -> list[ApiKey]:
        async with self._database.read() as conn:
            return await store.list_keys(conn, actor.project_id)

    async def revoke(self, actor: Actor, prefix_or_name: str) -> ApiKey:
        """Raises NotFound when the project has no such live key."""
        now = self._clock.now()
        async with self._database.write() as conn:
            key = await store.revoke(conn, actor.project_id, prefix_or_name, now)
            if key is None:
                raise NotFound(f"no live key {prefix_or_name!r} in this project")
            await audit(conn, actor, "key.revoke", "key", key.prefix, now=now, after=key)
            await bump(conn)
        return key

    async def first(self, name: str) -> MintedKey | None:
        """The default project's first key, with every scope; None when it has a key already."""
        if await self.every(SYSTEM):
            return None
        return await self.create(SYSTEM, NewApiKey(name=name, scopes=(Scope.ADMIN,)))

    async def authenticate(self, authorization: str | None) -> Actor:
        """The actor of an Authorization header; raises Denied."""
        secret = bearer(authorization)
        prefix = prefix_of(secret)
        record = None
        if prefix is not None:
            async with self._database.read() as conn:
                record = await store.find_by_prefix(conn, prefix)
        return verify(secret, record, self._clock.now()).actor

    async def audit_events(
        self, actor: Actor, *, kind: str | None, cursor: str | None, limit: int
    ) -> Page[AuditEvent]:
        async with self._database.read() as conn:
            return await store.list_audit(conn, actor, kind=kind, cursor=cursor, limit=limit)
