"""SQL of splits and of the replicas that apply them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, select
from sqlalchemy.dialects.postgresql import insert as upsert

from dspex_ray.core.errors import Stale
from dspex_ray.core.ids import ProgramId
from dspex_ray.db.engine import Read, Write
from dspex_ray.db.tables import gateway_replicas, splits
from dspex_ray.serving.model import Applied, ReplicaKind, Split


def _split(row: Row[Any]) -> Split:
    return Split(**row._mapping)


async def find_split(conn: Read | Write, program_id: ProgramId) -> Split | None:
    """None when there is none, or when it was removed."""
    found = await find_last_split(conn, program_id)
    return None if found is None or not found.arms else found


async def find_last_split(conn: Read | Write, program_id: ProgramId) -> Split | None:
    """As `find_split`, a removed one without arms: its salt and epoch go on."""
    row = (await conn.execute(select(splits).where(splits.c.program_id == program_id))).first()
    return None if row is None else _split(row)


async def every_split(conn: Read) -> list[Split]:
    found = [_split(row) for row in await conn.execute(select(splits))]
    return [split for split in found if split.arms]


async def put_split(conn: Write, split: Split, expected_epoch: int) -> None:
    """Insert, or replace the one at `expected_epoch`; raises Stale when it has moved on."""
    values = split.model_dump(exclude={"arms"})
    arms = [arm.model_dump(mode="json") for arm in split.arms]
    statement = upsert(splits).values(**values, arms=arms)
    changed = await conn.execute(
        statement.on_conflict_do_update(
            index_elements=[splits.c.program_id],
            set_={
                "arms": arms,
                "epoch": split.epoch,
                "revision": split.revision,
                "updated_at": split.updated_at,
            },
            where=splits.c.epoch == expected_epoch,
        ).returning(splits.c.program_id)
    )
    if changed.first() is None:
        raise Stale(f"the split is past epoch {expected_epoch}: read it again")


async def report_replica(
    conn: Write,
    *,
    replica: str,
    kind: ReplicaKind,
    node: str,
    pid: int,
    applied: int,
    lost: int,
    now: datetime,
) -> None:
    statement = upsert(gateway_replicas).values(
        id=replica,
        kind=kind,
        node=node,
        pid=pid,
        applied_version=applied,
        seen_at=now,
        spool_lost=lost,
    )
    await conn.execute(
        statement.on_conflict_do_update(
            index_elements=[gateway_replicas.c.id],
            set_={"applied_version": applied, "seen_at": now, "spool_lost": lost},
        )
    )


async def forget_replicas(conn: Write, before: datetime) -> None:
    await conn.execute(delete(gateway_replicas).where(gateway_replicas.c.seen_at < before))


async def forget_replica(conn: Write, replica: str) -> None:
    """One that ends: nobody is to wait for it."""
    await conn.execute(delete(gateway_replicas).where(gateway_replicas.c.id == replica))


async def applied(conn: Read, version: int, alive_since: datetime, *kinds: ReplicaKind) -> Applied:
    """How many of the replicas seen since `alive_since` have applied `version` or a later one:
    of these kinds, or of all."""
    alive = gateway_replicas.c.seen_at >= alive_since
    if kinds:
        alive &= gateway_replicas.c.kind.in_(kinds)
    row = (
        await conn.execute(
            select(
                func.count().filter(gateway_replicas.c.applied_version >= version).label("done"),
                func.count().label("total"),
            ).where(alive)
        )
    ).one()
    return Applied(version=version, applied=row.done, total=row.total)
