"""SQL of executions and feedback. Every query is scoped by project."""

from __future__ import annotations

from collections import defaultdict
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Text, cast, delete, literal, or_, select
from sqlalchemy.dialects.postgresql import JSONB, insert

from dspex_ray.core.actor import Actor
from dspex_ray.core.errors import Invalid, NotFound
from dspex_ray.core.ids import ExecutionId, ProjectId, day_of
from dspex_ray.core.page import Page, decode_cursor, encode_cursor
from dspex_ray.db.audit import audit
from dspex_ray.db.engine import Read, Write
from dspex_ray.db.tables import (
    execution_contents,
    executions,
    feedback,
    lm_attempts,
    lm_calls,
)
from dspex_ray.routing.model import Attempt, LmCall
from dspex_ray.traces import rows
from dspex_ray.traces.model import Execution, ExecutionQuery, FeedbackEntry
from dspex_ray.traces.rules import first_day, last_day


async def list_executions(
    conn: Read, project_id: ProjectId, query: ExecutionQuery
) -> Page[Execution]:
    """Newest first, without calls and content. Raises Invalid for a foreign cursor."""
    statement = (
        select(executions)
        .where(executions.c.project_id == project_id, *_conditions(query))
        .order_by(executions.c.id.desc())
        .limit(query.limit + 1)
    )
    found = (await conn.execute(statement)).mappings().all()
    items = [rows.execution_of(row) for row in found[: query.limit]]
    more = len(found) > query.limit
    return Page(items=items, next_cursor=encode_cursor(str(items[-1].id)) if more else None)


async def get_execution(
    conn: Read, project_id: ProjectId, execution_id: ExecutionId, day: date, *, content: bool
) -> Execution:
    """With its calls and attempts; with what was captured if `content`. Raises NotFound."""
    row = (
        (
            await conn.execute(
                select(executions).where(
                    executions.c.day == day,
                    executions.c.id == execution_id,
                    executions.c.project_id == project_id,
                )
            )
        )
        .mappings()
        .first()
    )
    if row is None:
        raise NotFound(f"no execution {execution_id} in this project", kind="execution")
    kept = await _content(conn, execution_id, day) if content else None
    calls = await _calls(conn, execution_id, day, kept.calls if kept else [])
    if kept is None:
        return rows.execution_of(row, calls)
    return rows.execution_of(row, calls, inputs=kept.inputs, outputs=kept.outputs)


async def execution_exists(
    conn: Read | Write, project_id: ProjectId, execution_id: ExecutionId, day: date
) -> bool:
    statement = select(executions.c.id).where(
        executions.c.day == day,
        executions.c.id == execution_id,
        executions.c.project_id == project_id,
    )
    return (await conn.execute(statement)).first() is not None


async def insert_feedback(conn: Write, project_id: ProjectId, entry: FeedbackEntry) -> bool:
    """Whether it was new."""
    values = entry.model_dump(exclude={"expected"})
    if entry.expected is not None:
        values["expected"] = cast(literal(rows.json_text(entry.expected), Text), JSONB)
    inserted = await conn.execute(
        insert(feedback)
        .values(project_id=project_id, **values)
        .on_conflict_do_nothing()
        .returning(feedback.c.id)
    )
    return inserted.first() is not None


async def audit_feedback(conn: Write, actor: Actor, entry: FeedbackEntry) -> None:
    """Without comment and expectation: they are content, which audit rows never hold."""
    said = entry.model_dump(mode="json", include={"execution_id", "score", "label"})
    await audit(conn, actor, "feedback.add", "feedback", entry.id, now=entry.at, after=said)


async def list_feedback(
    conn: Read,
    project_id: ProjectId,
    execution_id: ExecutionId,
    *,
    cursor: str | None,
    limit: int,
) -> Page[FeedbackEntry]:
    """Newest first."""
    statement = (
        select(feedback)
        .where(feedback.c.project_id == project_id, feedback.c.execution_id == execution_id)
        .order_by(feedback.c.id.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        statement = statement.where(feedback.c.id < _cursor_id(cursor))
    found = (await conn.execute(statement)).mappings().all()
    items = [
        FeedbackEntry.model_validate({name: row[name] for name in FeedbackEntry.model_fields})
        for row in found[:limit]
    ]
    more = len(found) > limit
    return Page(items=items, next_cursor=encode_cursor(str(items[-1].id)) if more else None)


async def delete_expired_contents(conn: Write, today: date) -> int:
    """Of every project; how many executions lost their content."""
    gone = await conn.execute(
        delete(execution_contents).where(execution_contents.c.keep_until < today)
    )
    return gone.rowcount


# --- executions ----------------------------------------------------------------------------


def _conditions(query: ExecutionQuery) -> list[ColumnElement[bool]]:
    table = executions.c
    equal = ("program", "version", "status", "source", "request_id", "fallback")
    wanted = ((name, getattr(query, name)) for name in equal)
    conditions = [table[name] == value for name, value in wanted if value is not None]
    if query.model is not None:
        conditions.append(or_(table.model == query.model, _tried(query.model)))
    if query.tag is not None:
        name, sign, value = query.tag.partition("=")
        conditions.append(table.tags.contains({name: value}) if sign else table.tags.has_key(name))
    # The day, too, so that only the partitions in question are read.
    if query.since is not None:
        conditions += [table.started_at >= query.since, table.day >= first_day(query.since)]
    if query.until is not None:
        conditions += [table.started_at < query.until, table.day <= last_day(query.until)]
    if query.cursor is not None:
        last = _cursor_id(query.cursor)
        conditions += [table.id < last, table.day <= day_of(last)]
    return conditions


def _tried(model: str) -> ColumnElement[bool]:
    return (
        select(lm_attempts.c.execution_id)
        .where(
            lm_attempts.c.day == executions.c.day,
            lm_attempts.c.execution_id == executions.c.id,
            lm_attempts.c.model == model,
        )
        .exists()
    )


def _cursor_id(cursor: str) -> UUID:
    position = decode_cursor(cursor)
    try:
        last = UUID(str(position[0]))
        day_of(last)
    except (ValueError, IndexError, OverflowError, OSError):
        raise Invalid(
            f"cursor {cursor!r} is not one this server gave", field="cursor", rule="opaque"
        ) from None
    return last


async def _content(conn: Read, execution_id: ExecutionId, day: date) -> Row[Any] | None:
    statement = select(execution_contents).where(
        execution_contents.c.day == day, execution_contents.c.execution_id == execution_id
    )
    return (await conn.execute(statement)).first()


async def _calls(
    conn: Read, execution_id: ExecutionId, day: date, contents: list[dict[str, Any]]
) -> list[LmCall]:
    attempts: dict[int, list[Attempt]] = defaultdict(list)
    tried = await conn.execute(
        select(lm_attempts)
        .where(lm_attempts.c.day == day, lm_attempts.c.execution_id == execution_id)
        .order_by(lm_attempts.c.call, lm_attempts.c.attempt)
    )
    for row in tried.mappings():
        attempts[row["call"]].append(rows.attempt_of(row))
    called = await conn.execute(
        select(lm_calls)
        .where(lm_calls.c.day == day, lm_calls.c.execution_id == execution_id)
        .order_by(lm_calls.c.call)
    )
    by_call = dict(enumerate(contents))
    return [
        rows.call_of(row, attempts[row["call"]], by_call.get(row["call"], {}))
        for row in called.mappings()
    ]
