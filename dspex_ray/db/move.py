"""The one writer of status columns: decide by the machine, compare and set, write the event."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Table, insert, select, update

from dspex_ray.core.actor import Actor
from dspex_ray.core.errors import NotFound, Stale
from dspex_ray.core.ids import new_id
from dspex_ray.core.states import Machine
from dspex_ray.db.engine import Write
from dspex_ray.db.tables import state_events


async def move(
    conn: Write,
    table: Table,
    machine: Machine,
    resource_id: UUID,
    event: str,
    *,
    actor: Actor,
    now: datetime,
) -> str:
    """Apply `event` to the row and return its new state.

    Raises TransitionRefused when the machine has no such move, Stale when another transaction
    moved the row first, NotFound when the project has no such row.
    """
    mine = (table.c.id == resource_id) & (table.c.project_id == actor.project_id)
    row = (await conn.execute(select(table.c.status).where(mine))).first()
    if row is None:
        raise NotFound(f"no {machine.name} {resource_id} in this project")
    before: str = row.status
    after = machine.next(before, event)
    changed = await conn.execute(
        update(table)
        .where(mine, table.c.status == before)
        .values(status=after, revision=table.c.revision + 1, updated_at=now)
        .returning(table.c.id)
    )
    if changed.first() is None:
        raise Stale(f"{machine.name} {resource_id} is no longer {before!r}: read it again")
    await conn.execute(
        insert(state_events).values(
            id=new_id(),
            project_id=actor.project_id,
            resource_kind=machine.name,
            resource_id=resource_id,
            event=event,
            from_state=before,
            to_state=after,
            at=now,
            actor=actor.name,
        )
    )
    return after
