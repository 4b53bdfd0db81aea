"""SQL of assignments."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, Select, delete, insert, select, update

from dspex_ray.core.errors import NotFound, Stale
from dspex_ray.core.ids import AssignmentId, ProgramId, ProjectId
from dspex_ray.db.engine import Read, Write
from dspex_ray.db.tables import models, program_models, programs
from dspex_ray.routing.model import ProgramModel


class Target(NamedTuple):
    """What an assignment serves: a program, or a named route. Exactly one is given."""

    program_id: ProgramId | None
    route: str | None

    @property
    def where(self) -> ColumnElement[bool]:
        if self.program_id is not None:
            return program_models.c.program_id == self.program_id
        return program_models.c.route == self.route


def _query() -> Select[Any]:
    return (
        select(program_models, models.c.name.label("model_name"))
        .join(models, models.c.id == program_models.c.model_id)
        .order_by(program_models.c.priority.desc(), program_models.c.id)
    )


def _assignment(row: Row[Any]) -> ProgramModel:
    return ProgramModel(**row._mapping)


async def insert_assignment(conn: Write, assignment: ProgramModel) -> None:
    values = assignment.model_dump(exclude={"model_name", "conditions"})
    conditions = assignment.conditions.model_dump(mode="json", exclude_none=True)
    await conn.execute(insert(program_models).values(**values, conditions=conditions))


async def program_id_of(conn: Read | Write, project_id: ProjectId, name: str) -> ProgramId:
    row = (
        await conn.execute(
            select(programs.c.id).where(
                programs.c.project_id == project_id, programs.c.name == name
            )
        )
    ).first()
    if row is None:
        raise NotFound(f"no program {name!r} in this project", kind="program", name=name)
    return ProgramId(row.id)


async def list_assignments(
    conn: Read | Write, project_id: ProjectId, target: Target
) -> list[ProgramModel]:
    """In order of priority, highest first."""
    rows = await conn.execute(
        _query().where(program_models.c.project_id == project_id, target.where)
    )
    return [_assignment(row) for row in rows]


async def list_routes(conn: Read, project_id: ProjectId) -> list[str]:
    rows = await conn.execute(
        select(program_models.c.route)
        .where(program_models.c.project_id == project_id, program_models.c.route.is_not(None))
        .distinct()
        .order_by(program_models.c.route)
    )
    return [row.route for row in rows]


async def every_assignment(conn: Read) -> list[ProgramModel]:
    """All projects' assignments, each target's in order of priority: for snapshots."""
    return [_assignment(row) for row in await conn.execute(_query())]


async def get_assignment(
    conn: Read | Write, project_id: ProjectId, assignment_id: AssignmentId
) -> ProgramModel:
    row = (
        await conn.execute(
            _query().where(
                program_models.c.project_id == project_id, program_models.c.id == assignment_id
            )
        )
    ).first()
    if row is None:
        raise NotFound(f"no assignment {assignment_id} in this project")
    return _assignment(row)


async def update_assignment(conn: Write, assignment: ProgramModel, expected_revision: int) -> None:
    """Raises Stale when the row is past `expected_revision`."""
    changed = await conn.execute(
        update(program_models)
        .where(
            program_models.c.id == assignment.id,
            program_models.c.revision == expected_revision,
        )
        .values(
            routing_strategy=assignment.routing_strategy,
            priority=assignment.priority,
            weight=assignment.weight,
            conditions=assignment.conditions.model_dump(mode="json", exclude_none=True),
            managed_by=assignment.managed_by,
            updated_at=assignment.updated_at,
            revision=program_models.c.revision + 1,
        )
        .returning(program_models.c.id)
    )
    if changed.first() is None:
        raise Stale(
            f"assignment {assignment.id} is past revision {expected_revision}: read it again"
        )


async def delete_assignment(conn: Write, assignment: ProgramModel) -> None:
    await conn.execute(delete(program_models).where(program_models.c.id == assignment.id))
