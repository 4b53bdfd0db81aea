"""SQL of usage: roll-ups for what is counted, attempts and executions for percentiles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, func, select

from dspex_ray.core.ids import ProjectId
from dspex_ray.db.engine import Read
from dspex_ray.db.tables import executions, lm_attempts, models, usage_minutes
from dspex_ray.traces.model import Percentiles, UsageGroup, UsageRow
from dspex_ray.traces.rules import first_day, last_day

_QUANTILES = (0.5, 0.95, 0.99)


async def usage(
    conn: Read,
    project_id: ProjectId,
    group_by: Sequence[UsageGroup],
    since: datetime,
    until: datetime,
) -> list[UsageRow]:
    """Rows in order of their group. `since` and `until` are whole minutes, `until` exclusive."""
    span = _Span(project_id, since, until)
    groups = set(group_by) | ({UsageGroup.PROGRAM} if UsageGroup.VERSION in group_by else set())
    ordered = [group for group in UsageGroup if group in groups]
    found: dict[tuple[Any, ...], dict[str, Any]] = defaultdict(dict)
    await _merge(conn, _rolled_up(ordered, span), ordered, found)
    await _merge(conn, _attempt_latencies(ordered, span), ordered, found)
    if UsageGroup.MODEL not in groups:
        await _merge(conn, _requests(ordered, span), ordered, found)
    names = await _model_names(conn, project_id) if UsageGroup.MODEL in groups else {}
    return [
        _usage_row(dict(zip(ordered, key, strict=True)), found[key], names) for key in sorted(found)
    ]


class _Span(NamedTuple):
    project_id: ProjectId
    since: datetime
    until: datetime

    def holds(self, project: Any, moment: Any) -> ColumnElement[bool]:
        return and_(project == self.project_id, moment >= self.since, moment < self.until)

    def days(self, day: Any) -> ColumnElement[bool]:
        """The partitions in question."""
        return and_(day >= first_day(self.since), day <= last_day(self.until))


def _rolled_up(groups: Sequence[UsageGroup], span: _Span) -> Select[Any]:
    table = usage_minutes.c
    sums = ["attempts", "succeeded", "failed", "prompt_tokens", "completion_tokens", "cost_usd"]
    sums += ["unpriced", "cached", "latency_ms_sum"]
    keys = _keys(groups, table.program, table.version, table.model_id, table.source, table.minute)
    return (
        select(
            *keys,
            *(func.sum(table[name]).label(name) for name in sums),
        )
        .where(span.holds(table.project_id, table.minute))
        .group_by(*keys)
    )


def _attempt_latencies(groups: Sequence[UsageGroup], span: _Span) -> Select[Any]:
    run, attempt = executions.c, lm_attempts.c
    keys = _keys(
        groups,
        func.coalesce(run.program, ""),
        func.coalesce(run.version, 0),
        attempt.model_id,
        run.source,
        attempt.started_at,
    )
    return (
        select(*keys, _percentiles(attempt.latency_ms, attempt.outcome == "ok", "latency_ms"))
        .join(executions, and_(run.day == attempt.day, run.id == attempt.execution_id))
        .where(
            span.holds(attempt.project_id, attempt.started_at),
            span.days(attempt.day),
            attempt.outcome != "skipped",
            ~attempt.cached,
        )
        .group_by(*keys)
    )


def _requests(groups: Sequence[UsageGroup], span: _Span) -> Select[Any]:
    run = executions.c
    keys = _keys(
        groups,
        func.coalesce(run.program, ""),
        func.coalesce(run.version, 0),
        None,
        run.source,
        run.started_at,
    )
    completed, failed = run.status == "completed", run.status == "failed"
    return (
        select(
            *keys,
            func.count().label("requests"),
            func.count().filter(completed).label("completed"),
            func.count().filter(failed).label("requests_failed"),
            _percentiles(run.duration_ms, completed, "request_ms"),
        )
        .where(span.holds(run.project_id, run.started_at), span.days(run.day))
        .group_by(*keys)
    )


def _keys(
    groups: Sequence[UsageGroup], program: Any, version: Any, model: Any, source: Any, at: Any
) -> list[Any]:
    columns = {
        UsageGroup.PROGRAM: program,
        UsageGroup.VERSION: version,
        UsageGroup.MODEL: model,
        UsageGroup.SOURCE: source,
        UsageGroup.DAY: func.date_trunc("day", at, "UTC"),
        UsageGroup.HOUR: func.date_trunc("hour", at, "UTC"),
    }
    return [columns[group].label(f"key_{group}") for group in groups]


def _percentiles(value: Any, where: ColumnElement[bool], name: str) -> Any:
    """An array of three, or null when no row counts."""
    return func.percentile_cont(list(_QUANTILES)).within_group(value).filter(where).label(name)


async def _merge(
    conn: Read,
    statement: Select[Any],
    groups: Sequence[UsageGroup],
    found: dict[tuple[Any, ...], dict[str, Any]],
) -> None:
    for row in (await conn.execute(statement)).mappings():
        key = tuple(row[f"key_{group}"] for group in groups)
        found[key] |= {name: row[name] for name in row if not name.startswith("key_")}


async def _model_names(conn: Read, project_id: ProjectId) -> dict[UUID, str]:
    found = await conn.execute(
        select(models.c.id, models.c.name).where(models.c.project_id == project_id)
    )
    return {row.id: row.name for row in found}


def _usage_row(
    key: dict[UsageGroup, Any], figures: dict[str, Any], names: dict[UUID, str]
) -> UsageRow:
    def count(name: str) -> int:
        return int(figures.get(name) or 0)

    succeeded, unpriced = count("succeeded"), count("unpriced")
    model_id = key.get(UsageGroup.MODEL)
    return UsageRow(
        program=key.get(UsageGroup.PROGRAM),
        version=key.get(UsageGroup.VERSION),
        model_id=model_id,
        model=names.get(model_id) if model_id is not None else None,
        source=key.get(UsageGroup.SOURCE),
        at=key.get(UsageGroup.HOUR, key.get(UsageGroup.DAY)),
        attempts=count("attempts"),
        succeeded=succeeded,
        failed=count("failed"),
        success_rate=_share(succeeded, count("failed")),
        prompt_tokens=count("prompt_tokens"),
        completion_tokens=count("completion_tokens"),
        cost_usd=None if 0 < succeeded == unpriced else figures.get("cost_usd", 0),
        unpriced=unpriced,
        cached=count("cached"),
        mean_latency_ms=figures["latency_ms_sum"] / succeeded if succeeded else None,
        latency_ms=_percentile_noun(figures.get("latency_ms")),
        requests=figures.get("requests"),
        request_success_rate=_share(count("completed"), count("requests_failed")),
        request_ms=_percentile_noun(figures.get("request_ms")),
    )


def _share(good: int, bad: int) -> float | None:
    return good / (good + bad) if good + bad else None


def _percentile_noun(values: Sequence[float] | None) -> Percentiles | None:
    if values is None:
        return None
    p50, p95, p99 = values
    return Percentiles(p50=p50, p95=p95, p99=p99)
