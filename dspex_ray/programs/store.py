"""SQL of programs, versions and labels."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row, Text, cast, exists, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH
from sqlalchemy.dialects.postgresql import insert as upsert

from dspex_ray.core.errors import NotFound, Stale
from dspex_ray.core.ids import NewId, ProgramId, ProjectId, VersionId
from dspex_ray.core.page import Page, cursor_position, encode_cursor
from dspex_ray.db.engine import Read, Write
from dspex_ray.db.tables import (
    label_events,
    placements,
    program_labels,
    program_versions,
    programs,
    splits,
)
from dspex_ray.programs.artifacts import artifact_payload, load_artifact
from dspex_ray.programs.model import LabelMove, Program, ProgramVersion


async def insert_program(conn: Write, program: Program) -> None:
    values = program.model_dump(exclude={"labels", "latest_version", "revision"})
    await conn.execute(insert(programs).values(**values))


async def get_program(
    conn: Read | Write, project_id: ProjectId, name: str, *, lock: bool = False
) -> Program:
    """Raises NotFound. `lock` keeps other writers of this program waiting."""
    query = select(programs).where(programs.c.project_id == project_id, programs.c.name == name)
    row = (await conn.execute(query.with_for_update() if lock else query)).first()
    if row is None:
        raise NotFound(f"no program {name!r} in this project", kind="program", name=name)
    return (await _with_versions(conn, [row]))[0]


async def list_programs(
    conn: Read, project_id: ProjectId, *, status: str | None, cursor: str | None, limit: int
) -> Page[Program]:
    query = select(programs).where(programs.c.project_id == project_id).order_by(programs.c.name)
    if status is not None:
        query = query.where(programs.c.status == status)
    if cursor is not None:
        query = query.where(programs.c.name > cursor_position(cursor, str))
    rows = (await conn.execute(query.limit(limit + 1))).all()
    items = await _with_versions(conn, list(rows[:limit]))
    return Page(
        items=items, next_cursor=encode_cursor(items[-1].name) if len(rows) > limit else None
    )


async def every_program(conn: Read) -> list[Program]:
    """All projects' programs that are not archived."""
    rows = await conn.execute(select(programs).where(programs.c.status != "archived"))
    return await _with_versions(conn, list(rows))


async def _with_versions(conn: Read | Write, rows: list[Row[Any]]) -> list[Program]:
    """The programs of these rows, with their labels and their newest version's number."""
    ids = [row.id for row in rows]
    labels: dict[Any, dict[str, int]] = {}
    labelled = await conn.execute(
        select(program_labels.c.program_id, program_labels.c.label, program_versions.c.number)
        .join(program_versions, program_versions.c.id == program_labels.c.version_id)
        .where(program_labels.c.program_id.in_(ids))
        .order_by(program_labels.c.label)
    )
    for program_id, label, number in labelled:
        labels.setdefault(program_id, {})[label] = number
    newest = await conn.execute(
        select(program_versions.c.program_id, func.max(program_versions.c.number))
        .where(program_versions.c.program_id.in_(ids))
        .group_by(program_versions.c.program_id)
    )
    latest = {program_id: number for program_id, number in newest}
    return [
        Program(**row._mapping, labels=labels.get(row.id, {}), latest_version=latest.get(row.id))
        for row in rows
    ]


async def update_program(conn: Write, program: Program, expected_revision: int) -> None:
    """Raises Stale when the row is past `expected_revision`."""
    changed = await conn.execute(
        update(programs)
        .where(programs.c.id == program.id, programs.c.revision == expected_revision)
        .values(
            description=program.description,
            capture=program.capture.model_dump(mode="json"),
            managed_by=program.managed_by,
            updated_at=program.updated_at,
            revision=programs.c.revision + 1,
        )
        .returning(programs.c.id)
    )
    if changed.first() is None:
        raise Stale(f"program {program.name!r} is past revision {expected_revision}: read it again")


# --- versions ------------------------------------------------------------------------------


def _version(row: Row[Any]) -> ProgramVersion:
    fields = dict(row._mapping)
    fields["artifact"] = load_artifact(row.artifact, row.hash)
    return ProgramVersion(**fields)


async def insert_version(conn: Write, version: ProgramVersion) -> None:
    values = version.model_dump(exclude={"artifact"})
    await conn.execute(
        insert(program_versions).values(**values, artifact=artifact_payload(version.artifact))
    )


async def find_by_hash(
    conn: Read | Write, program_id: ProgramId, digest: str
) -> ProgramVersion | None:
    row = (
        await conn.execute(
            select(program_versions).where(
                program_versions.c.program_id == program_id, program_versions.c.hash == digest
            )
        )
    ).first()
    return None if row is None else _version(row)


async def get_version(conn: Read | Write, program: Program, number: int) -> ProgramVersion:
    row = (
        await conn.execute(
            select(program_versions).where(
                program_versions.c.program_id == program.id,
                program_versions.c.number == number,
            )
        )
    ).first()
    if row is None:
        newest = program.latest_version or 0
        raise NotFound(f"program {program.name!r} has no version {number} (newest: {newest})")
    return _version(row)


async def list_versions(
    conn: Read, program: Program, *, cursor: str | None, limit: int
) -> Page[ProgramVersion]:
    """Newest first."""
    query = (
        select(program_versions)
        .where(program_versions.c.program_id == program.id)
        .order_by(program_versions.c.number.desc())
    )
    if cursor is not None:
        query = query.where(program_versions.c.number < cursor_position(cursor, int))
    rows = (await conn.execute(query.limit(limit + 1))).all()
    items = [_version(row) for row in rows[:limit]]
    return Page(
        items=items, next_cursor=encode_cursor(items[-1].number) if len(rows) > limit else None
    )


async def pinned_by(conn: Read | Write, project_id: ProjectId, model: str) -> list[str]:
    """`name@number` of the versions that pin the model of this name and may be asked for by more
    than their number: labelled, in a split, placed, or the newest; none of archived programs."""
    version = program_versions.c
    newer = program_versions.alias()
    in_split = splits.c.arms.contains(
        func.jsonb_build_array(func.jsonb_build_object("version", version.number))
    )
    asked_for = (
        exists().where(program_labels.c.version_id == version.id),
        exists().where(placements.c.version_id == version.id),
        exists().where(splits.c.program_id == version.program_id, in_split),
        ~exists().where(newer.c.program_id == version.program_id, newer.c.number > version.number),
    )
    pins = func.jsonb_path_query_array(version.artifact, cast("$.models.*", JSONPATH), type_=JSONB)
    rows = await conn.execute(
        select(programs.c.name, version.number)
        .join(programs, programs.c.id == version.program_id)
        .where(
            version.project_id == project_id,
            programs.c.status != "archived",
            pins.contains(func.to_jsonb(cast(model, Text))),
            or_(*asked_for),
        )
        .order_by(programs.c.name, version.number)
    )
    return [f"{name}@{number}" for name, number in rows]


class VersionRow(NamedTuple):
    """A version as the data plane's snapshot takes it: the artifact still unparsed."""

    id: VersionId
    program_id: ProgramId
    number: int
    hash: str
    artifact: dict[str, Any]


async def versions_for_snapshot(conn: Read, newest: int) -> list[VersionRow]:
    """Versions that have a label, and the `newest` of every program that is not archived.

    Arms of a split are labelled-or-newest, or asked for by `versions_by_number`.
    """
    rank = func.row_number().over(
        partition_by=program_versions.c.program_id, order_by=program_versions.c.number.desc()
    )
    ranked = (
        select(program_versions, rank.label("rank"))
        .join(programs, programs.c.id == program_versions.c.program_id)
        .where(programs.c.status != "archived")
        .subquery()
    )
    labelled = select(program_labels.c.version_id)
    rows = await conn.execute(
        select(ranked).where((ranked.c.rank <= newest) | ranked.c.id.in_(labelled))
    )
    return [_row(row) for row in rows]


async def versions_by_number(conn: Read, wanted: set[tuple[ProgramId, int]]) -> list[VersionRow]:
    from sqlalchemy import tuple_

    if not wanted:
        return []
    rows = await conn.execute(
        select(program_versions).where(
            tuple_(program_versions.c.program_id, program_versions.c.number).in_(wanted)
        )
    )
    return [_row(row) for row in rows]


def _row(row: Row[Any]) -> VersionRow:
    return VersionRow(row.id, row.program_id, row.number, row.hash, row.artifact)


# --- labels --------------------------------------------------------------------------------


async def put_label(
    conn: Write, program: Program, version: ProgramVersion, move: LabelMove, ids: NewId
) -> None:
    """Put the label where `move` says, and write the move down."""
    statement = upsert(program_labels).values(
        program_id=program.id,
        label=move.label,
        project_id=program.project_id,
        version_id=version.id,
    )
    await conn.execute(
        statement.on_conflict_do_update(
            index_elements=[program_labels.c.program_id, program_labels.c.label],
            set_={"version_id": version.id, "revision": program_labels.c.revision + 1},
        )
    )
    await conn.execute(
        insert(label_events).values(
            id=ids(), project_id=program.project_id, program_id=program.id, **move.model_dump()
        )
    )


async def list_label_moves(conn: Read, program: Program, limit: int) -> list[LabelMove]:
    """Newest first."""
    rows = await conn.execute(
        select(label_events)
        .where(label_events.c.program_id == program.id)
        .order_by(label_events.c.id.desc())
        .limit(limit)
    )
    fields = LabelMove.model_fields
    return [LabelMove(**{name: row._mapping[name] for name in fields}) for row in rows]


async def touch(conn: Write, program: Program, now: datetime) -> None:
    """A new version or label is a change of the program: its revision grows."""
    await conn.execute(
        update(programs)
        .where(programs.c.id == program.id)
        .values(revision=programs.c.revision + 1, updated_at=now)
    )
