"""SQL of evaluations, their results, and the cache of runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, delete, func, insert, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert

from dspex_ray.core.errors import Invalid, NotFound
from dspex_ray.core.ids import DatasetId, EvaluationId, ProjectId
from dspex_ray.core.page import Page, cursor_position, decode_cursor, encode_cursor
from dspex_ray.db.engine import Read, Write
from dspex_ray.db.tables import (
    evaluation_cache,
    evaluation_results,
    evaluations,
    program_versions,
    programs,
)
from dspex_ray.evaluation.model import (
    Evaluation,
    EvaluationQuery,
    EvaluationStatus,
    ExampleResult,
    Progress,
    Report,
)

_NOT_STORED = {"program", "version", "artifact_hash"}
_AS_JSON = {"examples", "metrics", "settings", "progress", "report"}
_CHUNK = 5_000  # keys of one lookup


def _selected() -> Select[Any]:
    return (
        select(
            evaluations,
            programs.c.name.label("program"),
            program_versions.c.number.label("version"),
            program_versions.c.hash.label("artifact_hash"),
        )
        .join(programs, programs.c.id == evaluations.c.program_id)
        .join(program_versions, program_versions.c.id == evaluations.c.version_id)
    )


async def insert_evaluation(conn: Write, evaluation: Evaluation) -> None:
    values = evaluation.model_dump(exclude=_NOT_STORED | _AS_JSON)
    values |= evaluation.model_dump(mode="json", include=_AS_JSON)
    await conn.execute(insert(evaluations).values(**values))


async def get_evaluation(
    conn: Read | Write, project_id: ProjectId, evaluation_id: EvaluationId, *, lock: bool = False
) -> Evaluation:
    """Raises NotFound. `lock` keeps other writers of it waiting."""
    query = _selected().where(
        evaluations.c.project_id == project_id, evaluations.c.id == evaluation_id
    )
    if lock:
        query = query.with_for_update(of=evaluations)
    row = (await conn.execute(query)).first()
    if row is None:
        raise NotFound(f"no evaluation {evaluation_id} in this project", kind="evaluation")
    return Evaluation(**row._mapping)


async def find_project(conn: Read, evaluation_id: EvaluationId) -> ProjectId | None:
    query = select(evaluations.c.project_id).where(evaluations.c.id == evaluation_id)
    found = (await conn.execute(query)).scalar()
    return None if found is None else ProjectId(found)


async def is_under_way(conn: Read | Write, dataset_id: DatasetId) -> bool:
    """Whether an evaluation of this dataset is not final yet."""
    status = evaluations.c.status.in_([s.value for s in EvaluationStatus if not s.final])
    found = select(evaluations.c.id).where(evaluations.c.dataset_id == dataset_id, status).limit(1)
    return (await conn.execute(found)).first() is not None


async def unfinished(conn: Read) -> list[Evaluation]:
    """Of all projects."""
    live = [status.value for status in EvaluationStatus if not status.final]
    found = await conn.execute(_selected().where(evaluations.c.status.in_(live)))
    return [Evaluation(**row._mapping) for row in found]


async def list_evaluations(
    conn: Read, project_id: ProjectId, query: EvaluationQuery
) -> Page[Evaluation]:
    """Newest first. Raises Invalid for a foreign cursor."""
    found = _selected().where(evaluations.c.project_id == project_id)
    if query.program is not None:
        found = found.where(programs.c.name == query.program)
    if query.dataset is not None:
        found = found.where(evaluations.c.dataset == query.dataset)
    if query.status is not None:
        found = found.where(evaluations.c.status == query.status)
    if query.cursor is not None:
        found = found.where(evaluations.c.id < cursor_position(query.cursor, UUID))
    found = found.order_by(evaluations.c.id.desc()).limit(query.limit + 1)
    rows = (await conn.execute(found)).all()
    items = [Evaluation(**row._mapping) for row in rows[: query.limit]]
    more = len(rows) > query.limit
    return Page(items=items, next_cursor=encode_cursor(str(items[-1].id)) if more else None)


async def set_progress(conn: Write, evaluation_id: EvaluationId, progress: Progress) -> None:
    """Not the revision: what a person may change has not changed."""
    await conn.execute(
        update(evaluations)
        .where(evaluations.c.id == evaluation_id)
        .values(progress=progress.model_dump(mode="json"))
    )


async def set_started(conn: Write, evaluation_id: EvaluationId, now: datetime) -> None:
    await conn.execute(
        update(evaluations).where(evaluations.c.id == evaluation_id).values(started_at=now)
    )


async def set_ended(
    conn: Write,
    evaluation_id: EvaluationId,
    now: datetime,
    *,
    report: Report | None = None,
    error: str | None = None,
) -> None:
    """The status is `db.move`'s."""
    values: dict[str, Any] = {"ended_at": now, "error": error}
    if report is not None:
        values["report"] = report.model_dump(mode="json")
    await conn.execute(
        update(evaluations).where(evaluations.c.id == evaluation_id).values(**values)
    )


# --- results -------------------------------------------------------------------------------


async def insert_results(
    conn: Write, evaluation: Evaluation, results: Sequence[ExampleResult], now: datetime
) -> None:
    """Those that are there already stay as they are."""
    rows = [
        {
            **result.model_dump(exclude={"errors", "metric_costs"}),
            **result.model_dump(mode="json", include={"errors", "metric_costs"}),
            "evaluation_id": evaluation.id,
            "project_id": evaluation.project_id,
            "at": now,
        }
        for result in results
    ]
    await conn.execute(upsert(evaluation_results).on_conflict_do_nothing(), rows)


async def every_result(conn: Read, evaluation_id: EvaluationId) -> list[ExampleResult]:
    """By example number and repeat."""
    rows = await conn.execute(
        select(evaluation_results)
        .where(evaluation_results.c.evaluation_id == evaluation_id)
        .order_by(evaluation_results.c.number, evaluation_results.c.repeat)
    )
    return [_result(row) for row in rows]


async def list_results(
    conn: Read,
    evaluation_id: EvaluationId,
    *,
    failed: bool | None,
    cursor: str | None,
    limit: int,
) -> Page[ExampleResult]:
    """By example number and repeat. Raises Invalid for a foreign cursor."""
    table = evaluation_results
    query = select(table).where(table.c.evaluation_id == evaluation_id)
    if failed is not None:
        none = func.jsonb_array_length(table.c.errors) == 0
        query = query.where(~none if failed else none)
    if cursor is not None:
        query = query.where(tuple_(table.c.number, table.c.repeat) > _position(cursor))
    query = query.order_by(table.c.number, table.c.repeat).limit(limit + 1)
    rows = (await conn.execute(query)).all()
    items = [_result(row) for row in rows[:limit]]
    more = len(rows) > limit
    return Page(items=items, next_cursor=encode_cursor(*items[-1].key) if more else None)


def _position(cursor: str) -> tuple[int, int]:
    match decode_cursor(cursor):
        case [int(number), int(repeat)]:
            return number, repeat
    raise Invalid(f"cursor {cursor!r} is not one of this list", field="cursor", rule="opaque")


def _result(row: Row[Any]) -> ExampleResult:
    fields = dict(row._mapping)
    for name in ("evaluation_id", "project_id", "at"):
        del fields[name]
    return ExampleResult(**fields)


# --- the cache -----------------------------------------------------------------------------


async def find_runs(
    conn: Read, keys: Collection[str], metrics: Mapping[str, str], now: datetime
) -> dict[str, ExampleResult]:
    """By run key: runs with a score of each of these metrics (name to key) that has not expired.
    Their numbers and hashes are whoever's asks."""
    table = evaluation_cache
    rows: dict[str, dict[str, Row[Any]]] = {}
    wanted = list(keys)
    for start in range(0, len(wanted), _CHUNK):
        found = await conn.execute(
            select(table).where(
                table.c.run.in_(wanted[start : start + _CHUNK]),
                table.c.metric.in_(list(metrics.values())),
                table.c.expires_at > now,
            )
        )
        for row in found:
            rows.setdefault(row.run, {})[row.metric] = row
    return {
        run: _cached({name: scored[key] for name, key in metrics.items()})
        for run, scored in rows.items()
        if len(scored) == len(set(metrics.values()))
    }


def _cached(scored: Mapping[str, Row[Any]]) -> ExampleResult:
    """The scores; the figures are of the run that was made first."""
    first = min(scored.values(), key=lambda row: row.at)
    return ExampleResult(
        number=0,
        example_hash="",
        scores={name: row.score for name, row in scored.items()},
        errors=first.errors,
        latency_ms=first.latency_ms,
        cost_usd=first.cost_usd,
        metric_costs={
            name: row.metric_cost_usd for name, row in scored.items() if row.metric_called
        },
        prompt_tokens=first.prompt_tokens,
        completion_tokens=first.completion_tokens,
        cached=True,
        execution_id=first.execution_id,
    )


async def keep_runs(
    conn: Write,
    project_id: ProjectId,
    results: Iterable[tuple[str, ExampleResult]],
    metrics: Mapping[str, str],
    *,
    now: datetime,
    ttl_s: int,
) -> None:
    """A score that is there already stays, unless it has expired."""
    rows = [
        {
            "run": run,
            "metric": key,
            "project_id": project_id,
            "score": result.scores[name],
            "metric_cost_usd": result.metric_costs.get(name),
            "metric_called": name in result.metric_costs,
            "errors": [error.model_dump(mode="json") for error in result.errors],
            "latency_ms": result.latency_ms,
            "cost_usd": result.cost_usd,
            "prompt_tokens": result.prompt_tokens,
            "completion_tokens": result.completion_tokens,
            "execution_id": result.execution_id,
            "at": now,
            "expires_at": now + timedelta(seconds=ttl_s),
        }
        # In order, so that two evaluations of the same wait for, never on, each other.
        for run, result in sorted(results, key=lambda pair: pair[0])
        for name, key in sorted(metrics.items(), key=lambda pair: pair[1])
    ]
    statement = upsert(evaluation_cache)
    keys = [evaluation_cache.c.run, evaluation_cache.c.metric]
    changed = {
        column.name: statement.excluded[column.name]
        for column in evaluation_cache.columns
        if column not in keys
    }
    await conn.execute(
        statement.on_conflict_do_update(
            index_elements=keys, set_=changed, where=evaluation_cache.c.expires_at <= now
        ),
        rows,
    )


async def forget_expired(conn: Write, now: datetime) -> int:
    """How many there were."""
    gone = await conn.execute(
        delete(evaluation_cache)
        .where(evaluation_cache.c.expires_at <= now)
        .returning(evaluation_cache.c.run)
    )
    return len(gone.all())
