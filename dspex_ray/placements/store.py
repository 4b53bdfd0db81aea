"""SQL of placements."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row, Select, delete, func, insert, select, update

from dspex_ray.core.ids import ProgramId, VersionId
from dspex_ray.db.engine import Read, Write
from dspex_ray.db.tables import placements, program_versions, programs
from dspex_ray.placements.model import Placement, PlacementId

_TURN = 7301_4411_0002  # the advisory lock of whoever reconciles
_NOT_STORED = {"program", "version"}


class Owned(NamedTuple):
    placement: Placement
    archived: bool  #: its program is


def _selected() -> Select[Any]:
    return (
        select(
            placements,
            programs.c.name.label("program"),
            program_versions.c.number.label("version"),
            (programs.c.status == "archived").label("archived"),
        )
        .join(programs, programs.c.id == placements.c.program_id)
        .join(program_versions, program_versions.c.id == placements.c.version_id)
        .order_by(programs.c.name, program_versions.c.number.desc())
    )


def _placement(row: Row[Any]) -> Placement:
    fields = dict(row._mapping)
    fields.pop("archived")
    return Placement(**fields)


async def find_placement(conn: Read | Write, version_id: VersionId) -> Placement | None:
    row = (await conn.execute(_selected().where(placements.c.version_id == version_id))).first()
    return None if row is None else _placement(row)


async def lock_placement(conn: Write, placement_id: PlacementId) -> Placement | None:
    """As it is now; other writers of it wait."""
    found = _selected().where(placements.c.id == placement_id)
    row = (await conn.execute(found.with_for_update(of=placements))).first()
    return None if row is None else _placement(row)


async def list_placements(conn: Read, program_id: ProgramId) -> list[Placement]:
    """Newest version first."""
    rows = await conn.execute(_selected().where(placements.c.program_id == program_id))
    return [_placement(row) for row in rows]


async def every_placement(conn: Read | Write) -> list[Owned]:
    """Of all projects."""
    return [Owned(_placement(row), row.archived) for row in await conn.execute(_selected())]


async def insert_placement(conn: Write, placement: Placement) -> None:
    values = placement.model_dump(mode="python", exclude=_NOT_STORED)
    values["spec"] = placement.spec.model_dump(mode="json")
    await conn.execute(insert(placements).values(**values))


async def update_placement(conn: Write, placement: Placement, now: datetime) -> None:
    """All but the status, which `db.move` writes, and what never changes."""
    await conn.execute(
        update(placements)
        .where(placements.c.id == placement.id)
        .values(
            spec=placement.spec.model_dump(mode="json"),
            application=placement.application,
            serving=placement.serving,
            takes_over=placement.takes_over,
            reason=placement.reason,
            failures=placement.failures,
            managed_by=placement.managed_by,
            since=placement.since,
            updated_at=now,
        )
    )


async def delete_placement(conn: Write, placement_id: PlacementId) -> None:
    await conn.execute(delete(placements).where(placements.c.id == placement_id))


async def take_turn(conn: Write) -> bool:
    """Whether this transaction is the one that reconciles; until it ends, no other is."""
    return bool((await conn.execute(select(func.pg_try_advisory_xact_lock(_TURN)))).scalar_one())
