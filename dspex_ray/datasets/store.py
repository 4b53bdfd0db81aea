"""SQL of datasets, their versions and examples."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Row, delete, func, insert, select, update

from dspex_ray.core.errors import NotFound, Stale
from dspex_ray.core.ids import DatasetId, DatasetVersionId, ProjectId
from dspex_ray.core.page import Page, cursor_position, encode_cursor
from dspex_ray.datasets.intake import StagedRow
from dspex_ray.datasets.model import Dataset, DatasetVersion, Example
from dspex_ray.db.engine import Read, Write
from dspex_ray.db.tables import dataset_examples, dataset_versions, datasets

_AT_ONCE = 5_000  # positions in one query
_COPIED = ("version_id", "number", "project_id", "hash", "values")


async def insert_dataset(conn: Write, dataset: Dataset) -> None:
    values = dataset.model_dump(exclude={"latest_version", "revision"})
    await conn.execute(insert(datasets).values(**values))


async def get_dataset(
    conn: Read | Write, project_id: ProjectId, name: str, *, lock: bool = False
) -> Dataset:
    """Raises NotFound. `lock` keeps other writers of this dataset waiting."""
    found = await find_dataset(conn, project_id, name, lock=lock)
    if found is None:
        raise NotFound(f"no dataset {name!r} in this project", kind="dataset", name=name)
    return found


async def find_dataset(
    conn: Read | Write, project_id: ProjectId, name: str, *, lock: bool = False
) -> Dataset | None:
    query = select(datasets).where(datasets.c.project_id == project_id, datasets.c.name == name)
    row = (await conn.execute(query.with_for_update() if lock else query)).first()
    return None if row is None else (await _with_versions(conn, [row]))[0]


async def list_datasets(
    conn: Read, project_id: ProjectId, *, type: str | None, cursor: str | None, limit: int
) -> Page[Dataset]:
    query = select(datasets).where(datasets.c.project_id == project_id).order_by(datasets.c.name)
    if type is not None:
        query = query.where(datasets.c.type == type)
    if cursor is not None:
        query = query.where(datasets.c.name > cursor_position(cursor, str))
    rows = (await conn.execute(query.limit(limit + 1))).all()
    items = await _with_versions(conn, rows[:limit])
    return Page(
        items=items, next_cursor=encode_cursor(items[-1].name) if len(rows) > limit else None
    )


async def _with_versions(conn: Read | Write, rows: Sequence[Row[Any]]) -> list[Dataset]:
    newest = await conn.execute(
        select(dataset_versions.c.dataset_id, func.max(dataset_versions.c.number))
        .where(dataset_versions.c.dataset_id.in_([row.id for row in rows]))
        .group_by(dataset_versions.c.dataset_id)
    )
    latest = {dataset_id: number for dataset_id, number in newest}
    return [Dataset(**row._mapping, latest_version=latest.get(row.id)) for row in rows]


async def update_dataset(conn: Write, dataset: Dataset, expected_revision: int) -> None:
    """Raises Stale when the row is past `expected_revision`."""
    changed = await conn.execute(
        update(datasets)
        .where(datasets.c.id == dataset.id, datasets.c.revision == expected_revision)
        .values(
            description=dataset.description,
            type=dataset.type,
            metadata=dataset.metadata,
            updated_at=dataset.updated_at,
            revision=datasets.c.revision + 1,
        )
        .returning(datasets.c.id)
    )
    if changed.first() is None:
        raise Stale(f"dataset {dataset.name!r} is past revision {expected_revision}: read it again")


async def touch(conn: Write, dataset_id: DatasetId, now: datetime) -> None:
    """A new version is a change of the dataset: its revision grows."""
    await conn.execute(
        update(datasets)
        .where(datasets.c.id == dataset_id)
        .values(revision=datasets.c.revision + 1, updated_at=now)
    )


async def delete_dataset(conn: Write, dataset_id: DatasetId) -> None:
    """With its versions and examples."""
    await conn.execute(delete(datasets).where(datasets.c.id == dataset_id))


# --- versions ------------------------------------------------------------------------------


async def insert_version(
    conn: Write, version: DatasetVersion, batches: Iterator[list[StagedRow]]
) -> DatasetVersion:
    """The version with its rows, and with its duplicates, which Postgres counts."""
    values = version.model_dump(exclude={"source", "fields"})
    await conn.execute(
        insert(dataset_versions).values(
            **values,
            source=version.source.model_dump(mode="json"),
            fields=[field.model_dump() for field in version.fields],
        )
    )
    await _copy(conn, version, batches)
    different = select(func.count(func.distinct(dataset_examples.c.hash))).where(
        dataset_examples.c.version_id == version.id
    )
    counted = await conn.execute(
        update(dataset_versions)
        .where(dataset_versions.c.id == version.id)
        .values(duplicates=dataset_versions.c.examples - different.scalar_subquery())
        .returning(dataset_versions.c.duplicates)
    )
    return version.model_copy(update={"duplicates": counted.scalar_one()})


async def _copy(conn: Write, version: DatasetVersion, batches: Iterator[list[StagedRow]]) -> None:
    driver = (await conn.get_raw_connection()).driver_connection
    assert isinstance(driver, psycopg.AsyncConnection)
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(dataset_examples.name), sql.SQL(", ").join(map(sql.Identifier, _COPIED))
    )
    async with driver.cursor() as cursor, cursor.copy(statement) as copy:
        while batch := await asyncio.to_thread(next, batches, None):
            for row in batch:
                await copy.write_row(
                    (version.id, row.number, version.project_id, row.digest, row.text)
                )


async def find_by_hash(
    conn: Read | Write, dataset_id: DatasetId, digest: str
) -> DatasetVersion | None:
    return await _one_version(conn, dataset_id, dataset_versions.c.hash == digest)


async def get_version(conn: Read | Write, dataset: Dataset, number: int | None) -> DatasetVersion:
    """The newest when `number` is None. Raises NotFound."""
    wanted = dataset.latest_version if number is None else number
    version = await _one_version(conn, dataset.id, dataset_versions.c.number == wanted)
    if version is None:
        newest = dataset.latest_version or "none"
        which = "" if number is None else f" {number}"
        raise NotFound(
            f"dataset {dataset.name!r} has no version{which} (newest: {newest})",
            kind="dataset version",
        )
    return version


async def _one_version(
    conn: Read | Write, dataset_id: DatasetId, wanted: Any
) -> DatasetVersion | None:
    query = select(dataset_versions).where(dataset_versions.c.dataset_id == dataset_id, wanted)
    row = (await conn.execute(query)).first()
    return None if row is None else DatasetVersion(**row._mapping)


async def list_versions(
    conn: Read, dataset: Dataset, *, cursor: str | None, limit: int
) -> Page[DatasetVersion]:
    """Newest first."""
    query = (
        select(dataset_versions)
        .where(dataset_versions.c.dataset_id == dataset.id)
        .order_by(dataset_versions.c.number.desc())
    )
    if cursor is not None:
        query = query.where(dataset_versions.c.number < cursor_position(cursor, int))
    rows = (await conn.execute(query.limit(limit + 1))).all()
    items = [DatasetVersion(**row._mapping) for row in rows[:limit]]
    return Page(
        items=items, next_cursor=encode_cursor(items[-1].number) if len(rows) > limit else None
    )


# --- examples ------------------------------------------------------------------------------


async def hashes(conn: Read, version_id: DatasetVersionId) -> list[str]:
    """By position, from 0."""
    found = await conn.execute(
        select(dataset_examples.c.hash)
        .where(dataset_examples.c.version_id == version_id)
        .order_by(dataset_examples.c.number)
    )
    return [digest.hex() for digest in found.scalars()]


async def examples_from(
    conn: Read, version_id: DatasetVersionId, start: int, limit: int
) -> list[Example]:
    """Up to `limit` examples from position `start` on, in the order of import."""
    numbers = dataset_examples.c.number
    found = await conn.execute(
        select(dataset_examples)
        .where(
            dataset_examples.c.version_id == version_id,
            numbers >= start,
            numbers < start + limit,
        )
        .order_by(numbers)
    )
    return [_example(row) for row in found]


async def examples_at(
    conn: Read, version_id: DatasetVersionId, positions: Sequence[int]
) -> list[Example]:
    """In the order of `positions`. Raises NotFound naming one that is not there."""
    found: dict[int, Example] = {}
    for begin in range(0, len(positions), _AT_ONCE):
        wanted = list(positions[begin : begin + _AT_ONCE])
        rows = await conn.execute(
            select(dataset_examples).where(
                dataset_examples.c.version_id == version_id,
                dataset_examples.c.number == func.any(wanted),
            )
        )
        found |= {row.number: _example(row) for row in rows}
    missing = next((position for position in positions if position not in found), None)
    if missing is not None:
        raise NotFound(f"the dataset version has no example {missing}", kind="example")
    return [found[position] for position in positions]


async def batches_of(
    conn: Read, version_id: DatasetVersionId, at_once: int
) -> AsyncIterator[list[Example]]:
    """All examples, in the order of import."""
    start = 0
    while batch := await examples_from(conn, version_id, start, at_once):
        yield batch
        start += len(batch)


def _example(row: Row[Any]) -> Example:
    values = row._mapping
    return Example(hash=values["hash"].hex(), values=values["values"], number=values["number"])
