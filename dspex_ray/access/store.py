"""SQL of API keys and audit rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, insert, select, update

from dspex_ray.access.model import ApiKey, AuditEvent
from dspex_ray.access.rules import KeyRecord
from dspex_ray.core.actor import Actor, Scope
from dspex_ray.core.ids import KeyId, ProjectId
from dspex_ray.core.page import Page, cursor_position, encode_cursor
from dspex_ray.db.engine import Read, Write
from dspex_ray.db.tables import api_keys, audit_events


def _record(row: Row[Any]) -> KeyRecord:
    return KeyRecord(
        id=KeyId(row.id),
        project_id=ProjectId(row.project_id),
        prefix=row.prefix,
        hash=bytes(row.hash),
        scopes=frozenset(Scope(scope) for scope in row.scopes),
        requests_per_minute=row.requests_per_minute,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


def _key(row: Row[Any]) -> ApiKey:
    fields = ApiKey.model_fields
    return ApiKey.model_validate({name: row._mapping[name] for name in fields})


async def find_by_prefix(conn: Read, prefix: str) -> KeyRecord | None:
    row = (await conn.execute(select(api_keys).where(api_keys.c.prefix == prefix))).first()
    return None if row is None else _record(row)


async def every_live_record(conn: Read) -> list[KeyRecord]:
    """All projects' unrevoked keys: for the data plane's snapshot."""
    rows = await conn.execute(select(api_keys).where(api_keys.c.revoked_at.is_(None)))
    return [_record(row) for row in rows]


async def insert_key(conn: Write, key: ApiKey, digest: bytes) -> None:
    values = key.model_dump()
    values["scopes"] = [scope.value for scope in key.scopes]
    await conn.execute(insert(api_keys).values(**values, hash=digest))


async def list_keys(conn: Read, project_id: ProjectId) -> list[ApiKey]:
    rows = await conn.execute(
        select(api_keys).where(api_keys.c.project_id == project_id).order_by(api_keys.c.id)
    )
    return [_key(row) for row in rows]


async def revoke(
    conn: Write, project_id: ProjectId, prefix_or_name: str, now: datetime
) -> ApiKey | None:
    """Mark the live key of this prefix or name; None when there is none."""
    row = (
        await conn.execute(
            update(api_keys)
            .where(
                api_keys.c.project_id == project_id,
                (api_keys.c.prefix == prefix_or_name) | (api_keys.c.name == prefix_or_name),
                api_keys.c.revoked_at.is_(None),
            )
            .values(revoked_at=now)
            .returning(*api_keys.c)
        )
    ).first()
    return None if row is None else _key(row)


async def list_audit(
    conn: Read, actor: Actor, *, kind: str | None, cursor: str | None, limit: int
) -> Page[AuditEvent]:
    query = (
        select(audit_events)
        .where(audit_events.c.project_id == actor.project_id)
        .order_by(audit_events.c.id.desc())
        .limit(limit + 1)
    )
    if kind is not None:
        query = query.where(audit_events.c.resource_kind == kind)
    if cursor is not None:
        query = query.where(audit_events.c.id < cursor_position(cursor, UUID))
    rows = (await conn.execute(query)).all()
    items = [AuditEvent.model_validate(dict(row._mapping)) for row in rows[:limit]]
    more = encode_cursor(str(items[-1].id)) if len(rows) > limit else None
    return Page(items=items, next_cursor=more)
