"""The SQL of a drained batch: idempotent, and safe beside another drain of the same records.

Executions are copied to a staging table and inserted where they are new; only what is new brings
its calls, attempts and content, and only that moves counters, figures and roll-ups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from sqlalchemy import Table, bindparam, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from dspex_ray.core.actor import Actor
from dspex_ray.core.ids import ExecutionId
from dspex_ray.db.engine import Write
from dspex_ray.db.tables import (
    execution_contents,
    executions,
    lm_attempts,
    lm_calls,
    model_stats,
    models,
    program_models,
    usage_minutes,
)
from dspex_ray.traces import rows, rules
from dspex_ray.traces.model import ExecutionRecord, FeedbackEntry, FeedbackRecord
from dspex_ray.traces.store import audit_feedback, insert_feedback

_STAGING = "staged_executions"

Rows = Callable[[ExecutionRecord, date], Iterable[tuple[Any, ...]]]
_PARTS: tuple[tuple[Table, Rows], ...] = (
    (lm_calls, rows.call_rows),
    (lm_attempts, rows.attempt_rows),
    (execution_contents, rows.content_rows),
)


async def write_executions(
    conn: Write, records: Sequence[ExecutionRecord], days: Mapping[ExecutionId, date]
) -> set[ExecutionId]:
    """Write the records whose ids are new and all that follows from them; the ids of those.

    `days` gives each record's partition, which must exist.
    """
    fresh = await _insert_new(conn, records, days)
    await _insert_parts(conn, fresh, days)
    await _add_to_assignments(conn, fresh)
    await _add_to_models(conn, fresh)
    await _add_to_usage(conn, fresh)
    return {record.id for record in fresh}


async def write_feedback(conn: Write, record: FeedbackRecord) -> bool:
    """Whether it was new. Its execution may come later: until then the feedback is not shown."""
    entry = FeedbackEntry.model_validate(
        rules.storable(record.model_dump(include=set(FeedbackEntry.model_fields)))
    )
    new = await insert_feedback(conn, record.project_id, entry)
    if new:
        await audit_feedback(conn, Actor(entry.actor, record.project_id, frozenset()), entry)
    return new


async def _insert_new(
    conn: Write, records: Sequence[ExecutionRecord], days: Mapping[ExecutionId, date]
) -> list[ExecutionRecord]:
    """Insert the executions; those that were not there yet, each once."""
    await conn.execute(
        text(
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {_STAGING} "
            "(LIKE executions INCLUDING DEFAULTS) "
            "ON COMMIT DELETE ROWS"
        )
    )
    await _copy(conn, _STAGING, executions, (rows.execution_row(r, days[r.id]) for r in records))
    names = ", ".join(rows.columns(executions))  # a later release's schema may have more
    # In order of id, so that two drains of the same records wait for, never on, each other.
    inserted = await conn.execute(
        text(
            f"INSERT INTO executions ({names}) SELECT {names} FROM {_STAGING} "  # noqa: S608 - ours
            "ORDER BY id ON CONFLICT DO NOTHING RETURNING id"
        )
    )
    new = set(inserted.scalars())
    return list({record.id: record for record in records if record.id in new}.values())


async def _insert_parts(
    conn: Write, fresh: Sequence[ExecutionRecord], days: Mapping[ExecutionId, date]
) -> None:
    for table, part in _PARTS:
        parts = [row for record in fresh for row in part(record, days[record.id])]
        if parts:
            await _copy(conn, table.name, table, parts)


async def _copy(conn: Write, target: str, shape: Table, lines: Iterable[tuple[Any, ...]]) -> None:
    driver = (await conn.get_raw_connection()).driver_connection
    assert isinstance(driver, psycopg.AsyncConnection)
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(target), sql.SQL(", ").join(map(sql.Identifier, rows.columns(shape)))
    )
    async with driver.cursor() as cursor, cursor.copy(statement) as copy:
        for line in lines:
            await copy.write_row(line)


async def _add_to_assignments(conn: Write, fresh: Sequence[ExecutionRecord]) -> None:
    counts = rules.assignment_counts(fresh)
    if not counts:
        return
    table = program_models
    key = tuple_(table.c.project_id, table.c.id)
    await _lock_rows(conn, table, key, counts, table.c.id)
    await conn.execute(
        update(table)
        .where(table.c.project_id == bindparam("project"), table.c.id == bindparam("row_id"))
        .values(
            total_requests=table.c.total_requests + bindparam("total"),
            successful_requests=table.c.successful_requests + bindparam("successful"),
            total_cost=table.c.total_cost + bindparam("cost"),
        ),
        [
            {
                "project": project,
                "row_id": assignment,
                "total": count.total_requests,
                "successful": count.successful_requests,
                "cost": count.total_cost,
            }
            for (project, assignment), count in counts.items()
        ],
    )


async def _add_to_models(conn: Write, fresh: Sequence[ExecutionRecord]) -> None:
    attempts = rules.model_attempts(fresh)
    if not attempts:
        return
    table = model_stats
    owned = tuple_(models.c.project_id, models.c.id).in_(list(attempts))
    await conn.execute(
        insert(table)
        .from_select(
            ["model_id", "project_id"],
            select(models.c.id, models.c.project_id).where(owned).order_by(models.c.id),
        )
        .on_conflict_do_nothing()
    )
    key = tuple_(table.c.project_id, table.c.model_id)
    changes = []
    for row in await _lock_rows(conn, table, key, attempts, table.c.model_id):
        before = rules.ModelFigures(row.average_latency_ms, row.recent_outcomes, row.calls_total)
        after = rules.next_figures(before, attempts[row.project_id, row.model_id])
        changes.append({"row_id": row.model_id, **after._asdict()})
    if changes:
        await conn.execute(
            update(table)
            .where(table.c.model_id == bindparam("row_id"))
            .values({name: bindparam(name) for name in rules.ModelFigures._fields}),
            changes,
        )


async def _lock_rows(
    conn: Write, table: Table, key: Any, wanted: Iterable[tuple[UUID, UUID]], order: Any
) -> Sequence[Any]:
    """Lock in order of id: two drains that move the same rows never lock each other out."""
    found = await conn.execute(
        select(table).where(key.in_(list(wanted))).order_by(order).with_for_update(key_share=True)
    )
    return found.all()


async def _add_to_usage(conn: Write, fresh: Sequence[ExecutionRecord]) -> None:
    counts = rules.usage_counts(fresh)
    if not counts:
        return
    statement = insert(usage_minutes)
    added = {
        name: usage_minutes.c[name] + statement.excluded[name]
        for name in rules.UsageCounts.__dataclass_fields__
    }
    await conn.execute(
        statement.on_conflict_do_update(
            index_elements=list(usage_minutes.primary_key.columns), set_=added
        ),
        [{**key._asdict(), **vars(count)} for key, count in counts.items()],
    )
