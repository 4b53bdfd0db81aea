"""SQL of optimization runs: their trials, answers, examples and versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row, Select, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from dspex_ray.core.errors import NotFound
from dspex_ray.core.ids import DatasetId, OptimizationId, ProjectId
from dspex_ray.core.page import Page, cursor_position, encode_cursor
from dspex_ray.db.engine import Read, Write
from dspex_ray.db.tables import (
    optimization_answers,
    optimization_examples,
    optimization_runs,
    optimization_trials,
    optimization_versions,
    program_versions,
    programs,
)
from dspex_ray.optimization.front import Front
from dspex_ray.optimization.model import Spent
from dspex_ray.optimization.runs import (
    OptimizationRun,
    RunQuery,
    RunStatus,
    RunTrial,
    RunVersion,
    SeenExample,
)

_ASKED = {
    "examples", "train_examples", "dev_examples", "parameters", "metric", "metrics", "budget",
    "limits", "convergence", "seed", "model", "prompt_model", "embedding_model", "call_timeout_s",
    "register_best", "packages", "estimate", "test_examples", "held_out_calls",
}  # fmt: skip
_OUTCOME = {
    "stopped_because", "detail", "best_score", "program_runs", "failed_runs", "facts", "held_out",
    "front_points",
}  # fmt: skip
_FRONT = "front"  #: of the outcome: large, and read by itself
_JOINED = {"program", "version", "artifact_hash", "versions", "progress"}
_CHUNK = 5_000


class Answer(NamedTuple):
    """One LM answer that was paid for, as JSON, and what it came to (USD None = unknown).
    `latency_ms` is how long the model took."""

    digest: str
    nth: int
    answer: Mapping[str, Any]
    tokens: int
    usd: Decimal | None
    latency_ms: float | None = None


def _selected() -> Select[Any]:
    table = optimization_runs
    return (
        select(
            *(column for column in table.columns if column is not table.c.outcome),
            table.c.outcome.op("-")(_FRONT).label("outcome"),
            programs.c.name.label("program"),
            program_versions.c.number.label("version"),
            program_versions.c.hash.label("artifact_hash"),
        )
        .join(programs, programs.c.id == optimization_runs.c.program_id)
        .join(program_versions, program_versions.c.id == optimization_runs.c.version_id)
    )


def _read(row: Row[Any], versions: Sequence[RunVersion] = ()) -> OptimizationRun:
    fields = dict(row._mapping)
    asked, outcome = fields.pop("asked"), fields.pop("outcome")
    return OptimizationRun(**fields, **asked, **outcome, versions=tuple(versions))


async def insert_run(conn: Write, run: OptimizationRun, seen: Iterable[SeenExample]) -> None:
    json = run.model_dump(mode="json")
    whole = run.model_dump(exclude=_ASKED | _OUTCOME | _JOINED | {"spent"})
    asked = {name: json[name] for name in _ASKED}
    values = {**whole, "asked": asked, "outcome": {}, "spent": json["spent"]}
    await conn.execute(insert(optimization_runs).values(**values))
    rows = [
        {"run_id": run.id, "project_id": run.project_id, "hash": one.hash, "part": one.part}
        for one in seen
    ]
    for start in range(0, len(rows), _CHUNK):
        statement = upsert(optimization_examples).on_conflict_do_nothing()
        await conn.execute(statement, rows[start : start + _CHUNK])


async def get_run(
    conn: Read | Write, project_id: ProjectId, run_id: OptimizationId, *, lock: bool = False
) -> OptimizationRun:
    """Raises NotFound. `lock` keeps other writers of it waiting."""
    query = _selected().where(
        optimization_runs.c.project_id == project_id, optimization_runs.c.id == run_id
    )
    if lock:
        query = query.with_for_update(of=optimization_runs)
    row = (await conn.execute(query)).first()
    if row is None:
        raise NotFound(f"no optimization {run_id} in this project", kind="optimization")
    return _read(row, (await versions_of(conn, [run_id])).get(run_id, ()))


async def find_front(conn: Read, run_id: OptimizationId) -> Front | None:
    """None while there is none, and of a search that finds none."""
    table = optimization_runs
    query = select(table.c.outcome[_FRONT]).where(table.c.id == run_id)
    found = (await conn.execute(query)).scalar()
    return None if found is None else Front.model_validate(found)


async def find_project(conn: Read, run_id: OptimizationId) -> ProjectId | None:
    query = select(optimization_runs.c.project_id).where(optimization_runs.c.id == run_id)
    found = (await conn.execute(query)).scalar()
    return None if found is None else ProjectId(found)


async def list_runs(conn: Read, project_id: ProjectId, query: RunQuery) -> Page[OptimizationRun]:
    """Newest first. Raises Invalid for a foreign cursor."""
    table = optimization_runs
    found = _selected().where(table.c.project_id == project_id)
    if query.program is not None:
        found = found.where(programs.c.name == query.program)
    for name in ("dataset", "optimizer", "status"):
        if (value := getattr(query, name)) is not None:
            found = found.where(table.c[name] == value)
    if query.cursor is not None:
        found = found.where(table.c.id < cursor_position(query.cursor, UUID))
    rows = (await conn.execute(found.order_by(table.c.id.desc()).limit(query.limit + 1))).all()
    versions = await versions_of(conn, [row.id for row in rows[: query.limit]])
    items = [_read(row, versions.get(row.id, ())) for row in rows[: query.limit]]
    more = len(rows) > query.limit
    return Page(items=items, next_cursor=encode_cursor(str(items[-1].id)) if more else None)


async def live_runs(conn: Read) -> list[OptimizationRun]:
    """Pending and running ones of every project, oldest first."""
    live = [RunStatus.PENDING.value, RunStatus.RUNNING.value]
    query = _selected().where(optimization_runs.c.status.in_(live))
    return [_read(row) for row in await conn.execute(query.order_by(optimization_runs.c.id))]


async def is_searched_on(conn: Write, dataset_id: DatasetId) -> bool:
    """Whether a live run still reads the dataset."""
    table = optimization_runs
    live = [RunStatus.PENDING.value, RunStatus.RUNNING.value]
    query = select(table.c.id).where(table.c.dataset_id == dataset_id, table.c.status.in_(live))
    return (await conn.execute(query.limit(1))).first() is not None


async def set_fields(conn: Write, run_id: OptimizationId, **values: Any) -> None:
    """Columns other than the status, which is `db.move`'s."""
    await conn.execute(
        update(optimization_runs).where(optimization_runs.c.id == run_id).values(**values)
    )


async def beat(conn: Write, run: OptimizationRun, spent: Spent, now: datetime) -> RunStatus | None:
    """Its status now, once the sign of life is written; None when another attempt has it."""
    table = optimization_runs
    changed = await conn.execute(
        update(table)
        .where(table.c.id == run.id, table.c.attempt == run.attempt)
        .values(heartbeat_at=now, spent=spent.model_dump(mode="json"))
        .returning(table.c.status)
    )
    status = changed.scalar()
    return None if status is None else RunStatus(status)


# --- trials ----------------------------------------------------------------------------------


async def put_trials(
    conn: Write, project_id: ProjectId, run_id: OptimizationId, trials: Sequence[RunTrial]
) -> None:
    """A resumed run measures again what is remembered: the same numbers, their first time kept."""
    rows = [{**trial.model_dump(), "run_id": run_id, "project_id": project_id} for trial in trials]
    statement = upsert(optimization_trials)
    kept = {"run_id", "number", "project_id", "at"}
    changed = {
        column.name: statement.excluded[column.name]
        for column in optimization_trials.columns
        if column.name not in kept
    }
    await conn.execute(
        statement.on_conflict_do_update(index_elements=["run_id", "number"], set_=changed), rows
    )


async def drop_trials_after(conn: Write, run_id: OptimizationId, number: int) -> None:
    table = optimization_trials
    await conn.execute(delete(table).where(table.c.run_id == run_id, table.c.number > number))


async def history(
    conn: Read, run_ids: Sequence[OptimizationId]
) -> dict[OptimizationId, list[RunTrial]]:
    """All trials in order, without what they were made of."""
    table = optimization_trials
    columns = [c for c in table.columns if c.name not in {"project_id", "parents", "facts"}]
    query = select(*columns).where(table.c.run_id.in_(run_ids))
    found: dict[OptimizationId, list[RunTrial]] = {}
    for row in await conn.execute(query.order_by(table.c.run_id, table.c.number)):
        fields = dict(row._mapping)
        found.setdefault(OptimizationId(fields.pop("run_id")), []).append(RunTrial(**fields))
    return found


async def facts_of(conn: Read, run_id: OptimizationId) -> list[dict[str, Any]]:
    """What each trial is made of, in order."""
    table = optimization_trials
    query = select(table.c.facts).where(table.c.run_id == run_id).order_by(table.c.number)
    return [dict(facts) for facts in (await conn.execute(query)).scalars()]


async def list_trials(
    conn: Read, run_id: OptimizationId, *, cursor: str | None, limit: int
) -> Page[RunTrial]:
    """By number. Raises Invalid for a foreign cursor."""
    table = optimization_trials
    query = select(table).where(table.c.run_id == run_id)
    if cursor is not None:
        query = query.where(table.c.number > cursor_position(cursor, int))
    rows = (await conn.execute(query.order_by(table.c.number).limit(limit + 1))).all()
    items = []
    for row in rows[:limit]:
        fields = dict(row._mapping)
        del fields["run_id"], fields["project_id"]
        items.append(RunTrial(**fields))
    more = len(rows) > limit
    return Page(items=items, next_cursor=encode_cursor(items[-1].number) if more else None)


# --- what it saw, what it found --------------------------------------------------------------


async def list_seen(
    conn: Read, run_id: OptimizationId, *, cursor: str | None, limit: int
) -> Page[SeenExample]:
    """By hash. Raises Invalid for a foreign cursor."""
    table = optimization_examples
    query = select(table.c.hash, table.c.part).where(table.c.run_id == run_id)
    if cursor is not None:
        query = query.where(table.c.hash > cursor_position(cursor, str))
    rows = (await conn.execute(query.order_by(table.c.hash).limit(limit + 1))).all()
    items = [SeenExample(hash=row.hash, part=row.part) for row in rows[:limit]]
    more = len(rows) > limit
    return Page(items=items, next_cursor=encode_cursor(items[-1].hash) if more else None)


async def put_versions(conn: Write, run: OptimizationRun, versions: Sequence[RunVersion]) -> None:
    """In place of what an earlier attempt found."""
    table = optimization_versions
    await conn.execute(delete(table).where(table.c.run_id == run.id))
    rows = [
        {
            **one.model_dump(exclude={"version", "hash"}),
            "run_id": run.id,
            "project_id": run.project_id,
        }
        for one in versions
    ]
    if rows:
        await conn.execute(insert(table), rows)


async def versions_of(
    conn: Read | Write, run_ids: Sequence[OptimizationId]
) -> dict[OptimizationId, list[RunVersion]]:
    table = optimization_versions
    query = (
        select(table, program_versions.c.number.label("version"), program_versions.c.hash)
        .join(program_versions, program_versions.c.id == table.c.version_id)
        .where(table.c.run_id.in_(run_ids))
    )
    found: dict[OptimizationId, list[RunVersion]] = {}
    for row in await conn.execute(query.order_by(table.c.run_id, table.c.rank)):
        fields = dict(row._mapping)
        del fields["project_id"]
        found.setdefault(OptimizationId(fields.pop("run_id")), []).append(RunVersion(**fields))
    return found


# --- answers that were paid for --------------------------------------------------------------


async def find_answer(conn: Read, run_id: OptimizationId, digest: str, nth: int) -> Answer | None:
    table = optimization_answers
    mine = (table.c.run_id == run_id) & (table.c.digest == digest) & (table.c.nth == nth)
    columns = [table.c[name] for name in Answer._fields]
    row = (await conn.execute(select(*columns).where(mine))).first()
    return None if row is None else Answer(*row)


async def keep_answers(
    conn: Write, run: OptimizationRun, answers: Sequence[Answer], now: datetime
) -> None:
    rows = [
        {**one._asdict(), "run_id": run.id, "project_id": run.project_id, "at": now}
        for one in answers
    ]
    await conn.execute(upsert(optimization_answers).on_conflict_do_nothing(), rows)


async def paid(conn: Read, run_id: OptimizationId) -> Spent:
    """What the answers came to; without the seconds."""
    table = optimization_answers
    row = (
        await conn.execute(
            select(
                func.count().label("lm_calls"),
                func.coalesce(func.sum(table.c.tokens), 0).label("tokens"),
                func.coalesce(func.sum(table.c.usd), 0).label("usd"),
                func.count().filter(table.c.usd.is_(None)).label("unpriced_calls"),
            ).where(table.c.run_id == run_id)
        )
    ).one()
    return Spent(**row._mapping)


async def forget_answers(conn: Write, run_id: OptimizationId) -> None:
    await conn.execute(delete(optimization_answers).where(optimization_answers.c.run_id == run_id))


async def forget_old_answers(conn: Write, before: datetime) -> None:
    """Of runs that ended before then: resumed, they pay again. A completed one has left some only
    if an attempt that another followed was late."""
    ended = [status.value for status in RunStatus if status.ended]
    runs = optimization_runs
    old = select(runs.c.id).where(runs.c.status.in_(ended), runs.c.ended_at < before)
    await conn.execute(delete(optimization_answers).where(optimization_answers.c.run_id.in_(old)))
