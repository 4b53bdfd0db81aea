"""Every mutation leaves a row that says who did what, before and after, secrets masked."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy import insert

from dspex_ray.core.actor import Actor
from dspex_ray.core.ids import new_id
from dspex_ray.core.masking import masked
from dspex_ray.db.engine import Write
from dspex_ray.db.tables import audit_events


async def audit(
    conn: Write,
    actor: Actor,
    action: str,
    resource_kind: str,
    resource_id: object,
    *,
    now: datetime,
    before: BaseModel | dict[str, Any] | None = None,
    after: BaseModel | dict[str, Any] | None = None,
) -> None:
    """Write the event in the caller's transaction: no mutation without it, none alone."""
    await conn.execute(
        insert(audit_events).values(
            id=new_id(),
            project_id=actor.project_id,
            at=now,
            actor=actor.name,
            action=action,
            resource_kind=resource_kind,
            resource_id=str(resource_id),
            before=_plain(before),
            after=_plain(after),
        )
    )


def _plain(value: BaseModel | dict[str, Any] | None) -> dict[str, Any] | None:
    if value is None:
        return None
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    result: dict[str, Any] = masked(plain)
    return result
