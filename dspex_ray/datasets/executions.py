"""SQL of what ran, as rows of a dataset: captured inputs with what was answered or expected."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, Select, and_, or_, select

from dspex_ray.core.ids import ProjectId
from dspex_ray.datasets.model import ExecutionFilter
from dspex_ray.db.engine import Read
from dspex_ray.db.tables import execution_contents, executions, feedback
from dspex_ray.traces.model import ExecutionStatus
from dspex_ray.traces.rules import first_day, last_day

_AT_ONCE = 500


async def captured_rows(
    conn: Read, project_id: ProjectId, wanted: ExecutionFilter
) -> AsyncIterator[list[dict[str, Any]]]:
    """The newest `wanted.limit` that match, oldest first, some hundreds at a time."""
    async with conn.stream(_query(project_id, wanted)) as found:
        async for rows in found.partitions(_AT_ONCE):
            yield [
                {**row.inputs, **(row.outputs if row.expected is None else row.expected)}
                for row in rows
            ]


def _query(project_id: ProjectId, wanted: ExecutionFilter) -> Select[Any]:
    run, content = executions.c, execution_contents.c
    expected, score = _newest(feedback.c.expected), _newest(feedback.c.score)
    answered = and_(run.status == ExecutionStatus.COMPLETED, content.outputs.is_not(None))
    conditions: list[ColumnElement[bool]] = [
        run.project_id == project_id,
        run.program == wanted.program,
        run.source == wanted.source,
        content.inputs.is_not(None),
        expected.is_not(None) if wanted.expected_only else or_(expected.is_not(None), answered),
    ]
    if wanted.version is not None:
        conditions.append(run.version == wanted.version)
    if wanted.min_score is not None:
        conditions.append(score >= wanted.min_score)
    # The day, too, so that only the partitions in question are read.
    if wanted.since is not None:
        conditions += [run.started_at >= wanted.since, run.day >= first_day(wanted.since)]
    if wanted.until is not None:
        conditions += [run.started_at < wanted.until, run.day <= last_day(wanted.until)]
    newest = (
        select(run.id, content.inputs, content.outputs, expected.label("expected"))
        .join(
            execution_contents,
            and_(content.day == run.day, content.execution_id == run.id),
        )
        .where(*conditions)
        .order_by(run.id.desc())
        .limit(wanted.limit)
        .subquery()
    )
    return select(newest).order_by(newest.c.id)


def _newest(column: ColumnElement[Any]) -> ScalarSelect[Any]:
    """Of the newest feedback on the execution that says anything in this column."""
    return (
        select(column)
        .where(
            feedback.c.execution_id == executions.c.id,
            feedback.c.project_id == executions.c.project_id,
            column.is_not(None),
        )
        .order_by(feedback.c.id.desc())
        .limit(1)
        .correlate(executions)
        .scalar_subquery()
    )
