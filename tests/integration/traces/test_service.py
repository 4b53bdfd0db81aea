"""Reading executions and usage, feedback and retention; each project sees its own alone."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from dspex_ray.core.actor import Actor, Scope
from dspex_ray.core.errors import Invalid, NotFound
from dspex_ray.core.ids import DEFAULT_PROJECT
from dspex_ray.core.page import encode_cursor
from dspex_ray.db.engine import Database
from dspex_ray.db.tables import (
    audit_events,
    execution_contents,
    executions,
    feedback,
    model_stats,
)
from dspex_ray.traces.model import (
    Execution,
    ExecutionQuery,
    ExecutionRecord,
    Feedback,
    Percentiles,
    UsageQuery,
    UsageRow,
)
from dspex_ray.traces.service import TraceService, keep_retention
from tests.integration.traces.conftest import STRANGER, drain_all, drainer, spooled, table_rows
from tests.unit.traces.records import (
    MODELS,
    NOW,
    FixedClock,
    a_call,
    a_failure,
    a_record,
    a_replay,
    an_attempt,
    record_id,
)

pytestmark = pytest.mark.integration

ANN = Actor("ann", DEFAULT_PROJECT, frozenset({Scope.READ, Scope.WRITE}))
BEN = Actor("ben", STRANGER, frozenset({Scope.ADMIN}))
PLAIN_INVOKER = Actor("app", DEFAULT_PROJECT, frozenset({Scope.INVOKE}))

CALL = a_call(a_failure(0), an_attempt(1), request={"m": "hi"}, response={"t": "yo"})
CONTENT = {"inputs": {"q": "x"}, "outputs": {"a": "y"}, "capture": "full"}
RECORDS = [
    a_record(1, CALL, **CONTENT, tags={"team": "a", "env": "x"}, request_id="r-1"),
    a_record(2, a_call(an_attempt(0)), program="other", version=2, tags={"team": "b"}),
    a_record(3, id=record_id(3, NOW + timedelta(days=1)), status="failed", error_code="overloaded",
             started_at=NOW + timedelta(days=1)),
    a_record(4, a_call(an_attempt(2, cost_usd=None)), program=None, version=None, model="gpt",
             endpoint="chat.completions", source="evaluation"),
]  # fmt: skip
OTHERS = a_record(9, CALL, **CONTENT, project_id=STRANGER, program="news")


@pytest.fixture
async def service(house: Database, tmp_path: Path) -> TraceService:
    spooled(tmp_path, [*RECORDS, OTHERS])
    assert await drain_all(drainer(house, tmp_path)) == 5
    return TraceService(house, FixedClock())


def _numbers(found: list[Execution]) -> list[int]:
    return [execution.id.int & 0xFF for execution in found]


async def test_get_gives_back_what_was_recorded(service: TraceService) -> None:
    record = RECORDS[0]
    shared = {
        name: getattr(record, name) for name in Execution.model_fields if hasattr(record, name)
    }
    assert await service.get(ANN, record.id) == Execution(
        **shared,
        prompt_tokens=10,
        completion_tokens=5,
        cost_usd=Decimal("0.001"),
        attempts=2,
        fallback=True,
    )


async def test_content_needs_the_scope_to_read(service: TraceService) -> None:
    found = await service.get(PLAIN_INVOKER, RECORDS[0].id)
    assert (found.inputs, found.outputs) == (None, None)
    assert [(c.request, c.response) for c in found.lm_calls] == [(None, None)]
    assert len(found.lm_calls[0].attempts) == 2


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [3, 4, 2, 1]),
        ({"program": "news"}, [3, 1]),
        ({"program": "other", "version": 2}, [2]),
        ({"version": 7}, []),
        ({"model": "gpt"}, [4]),
        ({"model": "model-0"}, [2, 1]),
        ({"status": "failed"}, [3]),
        ({"source": "evaluation"}, [4]),
        ({"request_id": "r-1"}, [1]),
        ({"tag": "team"}, [2, 1]),
        ({"tag": "team=a"}, [1]),
        ({"tag": "team="}, []),
        ({"fallback": True}, [1]),
        ({"fallback": False, "program": "other"}, [2]),
        ({"since": NOW + timedelta(hours=1)}, [3]),
        ({"until": NOW + timedelta(hours=1)}, [4, 2, 1]),
        ({"since": NOW, "until": NOW}, []),
    ],
)
async def test_filters(service: TraceService, query: dict[str, Any], expected: list[int]) -> None:
    page = await service.list(ANN, ExecutionQuery(**query))
    assert _numbers(page.items) == expected
    assert page.next_cursor is None
    assert all(execution.lm_calls == () for execution in page.items)


async def test_pages_follow_each_other(service: TraceService) -> None:
    seen, cursor = [], None
    for _ in range(4):
        page = await service.list(ANN, ExecutionQuery(limit=1, cursor=cursor))
        seen += _numbers(page.items)
        cursor = page.next_cursor
    assert (seen, cursor) == ([3, 4, 2, 1], None)


@pytest.mark.parametrize(
    "cursor", ["?", encode_cursor("x"), encode_cursor(), encode_cursor("f" * 32)]
)
async def test_a_foreign_cursor_is_refused(service: TraceService, cursor: str) -> None:
    with pytest.raises(Invalid, match="is not one this server gave"):
        await service.list(ANN, ExecutionQuery(cursor=cursor))


async def test_a_project_sees_its_own_alone(service: TraceService) -> None:
    assert _numbers((await service.list(BEN, ExecutionQuery())).items) == [9]
    with pytest.raises(NotFound, match="in this project"):
        await service.get(BEN, RECORDS[0].id)
    with pytest.raises(NotFound):
        await service.get(ANN, OTHERS.id)
    with pytest.raises(NotFound):
        await service.add_feedback(BEN, Feedback(execution_id=RECORDS[0].id, score=1))
    await service.add_feedback(ANN, Feedback(execution_id=RECORDS[0].id, score=1))
    with pytest.raises(NotFound):
        await service.list_feedback(BEN, RECORDS[0].id, cursor=None, limit=5)
    usage = await service.usage(BEN, UsageQuery(group_by=["program"], since=NOW, until=NOW))
    assert [(row.program, row.attempts) for row in usage.items] == [("news", 2)]


# --- usage ---------------------------------------------------------------------------------

SPAN = {"since": NOW, "until": NOW}


async def test_usage_by_program_and_model(service: TraceService) -> None:
    usage = await service.usage(ANN, UsageQuery(**SPAN))
    found = {(row.program, row.model): row for row in usage.items}
    assert set(found) == {
        ("", "model-2"),
        ("news", "model-0"),
        ("news", "model-1"),
        ("other", "model-0"),
    }
    assert found["news", "model-1"] == UsageRow(
        program="news",
        model_id=MODELS[1],
        model="model-1",
        attempts=1,
        succeeded=1,
        success_rate=1.0,
        prompt_tokens=10,
        completion_tokens=5,
        cost_usd=Decimal("0.001"),
        mean_latency_ms=100.0,
        latency_ms=Percentiles(p50=100.0, p95=100.0, p99=100.0),
    )
    failed = found["news", "model-0"]
    assert (failed.success_rate, failed.mean_latency_ms, failed.latency_ms) == (0.0, None, None)
    unpriced = found["", "model-2"]
    assert (unpriced.cost_usd, unpriced.unpriced) == (None, 1)


async def test_cached_answers_are_counted_apart(house: Database, tmp_path: Path) -> None:
    calls = [a_call(an_attempt()), *[a_call(a_replay())] * 3]
    spooled(tmp_path, [a_record(1, *calls), a_record(2, a_call(a_replay(1)), program="memory")])
    await drain_all(drainer(house, tmp_path))
    service = TraceService(house, FixedClock())
    usage = {row.program: row for row in (await service.usage(ANN, UsageQuery(**SPAN))).items}
    asked, memory = usage["news"], usage["memory"]
    assert (asked.attempts, asked.cached, asked.cost_usd) == (1, 3, Decimal("0.001"))
    assert asked.latency_ms == Percentiles(p50=100.0, p95=100.0, p99=100.0)
    assert asked.mean_latency_ms == 100.0
    assert (memory.attempts, memory.cached, memory.cost_usd) == (0, 1, Decimal(0))
    assert (memory.success_rate, memory.latency_ms) == (None, None)
    stats = await table_rows(house, model_stats)
    assert sum(row["calls_total"] for row in stats) == 1
    run = await service.get(ANN, record_id(2))
    assert (run.attempts, run.cost_usd, run.prompt_tokens) == (0, Decimal(0), 0)
    assert run.lm_calls[0].attempts == (a_replay(1),)


async def test_usage_by_version_counts_requests(service: TraceService) -> None:
    usage = await service.usage(ANN, UsageQuery(group_by=["version"], **SPAN))
    assert [(r.program, r.version, r.attempts, r.requests) for r in usage.items] == [
        ("", 0, 1, 1),
        ("news", 1, 2, 1),
        ("other", 2, 1, 1),
    ]
    assert usage.items[1].request_ms == Percentiles(p50=130.0, p95=130.0, p99=130.0)
    assert usage.items[1].request_success_rate == 1.0


async def test_usage_by_day_shows_a_day_of_failures_without_attempts(
    service: TraceService,
) -> None:
    query = UsageQuery(group_by=["day"], since=NOW, until=NOW + timedelta(days=2))
    first, second = (await service.usage(ANN, query)).items
    assert first.at is not None
    assert first.at.date() == date(2026, 3, 4)
    assert (first.attempts, first.requests, first.request_success_rate) == (4, 3, 1.0)
    assert (second.attempts, second.requests, second.request_success_rate) == (0, 1, 0.0)
    assert second.request_ms is None


async def test_usage_by_nothing_is_one_row_and_by_source_several(service: TraceService) -> None:
    (whole,) = (await service.usage(ANN, UsageQuery(group_by=[], **SPAN))).items
    assert (whole.attempts, whole.succeeded, whole.failed, whole.requests) == (4, 3, 1, 3)
    assert whole.success_rate == 0.75
    by_source = await service.usage(ANN, UsageQuery(group_by=["source", "hour"], **SPAN))
    assert [(row.source, row.attempts) for row in by_source.items] == [
        ("evaluation", 1),
        ("serving", 3),
    ]


async def test_percentiles_are_interpolated(house: Database, tmp_path: Path) -> None:
    calls = (a_call(an_attempt(latency_ms=float(ms))) for ms in range(101))
    spooled(tmp_path, [a_record(1, *calls)])
    await drain_all(drainer(house, tmp_path))
    usage = await TraceService(house, FixedClock()).usage(ANN, UsageQuery(group_by=[], **SPAN))
    assert usage.items[0].latency_ms == Percentiles(p50=50.0, p95=95.0, p99=99.0)
    assert usage.items[0].mean_latency_ms == 50.0


# --- feedback ------------------------------------------------------------------------------


async def test_feedback_is_kept_with_an_audit_row_free_of_content(
    service: TraceService, house: Database
) -> None:
    given = Feedback(
        execution_id=RECORDS[0].id, score=0.5, label="ok", comment="secret", expected={"a": "z"}
    )
    entry = await service.add_feedback(ANN, given)
    assert (entry.actor, entry.at, entry.expected) == ("ann", NOW, {"a": "z"})
    second = await service.add_feedback(ANN, Feedback(execution_id=RECORDS[0].id, label="b"))
    page = await service.list_feedback(ANN, RECORDS[0].id, cursor=None, limit=1)
    rest = await service.list_feedback(ANN, RECORDS[0].id, cursor=page.next_cursor, limit=1)
    assert {e.id for e in (*page.items, *rest.items)} == {entry.id, second.id}
    assert rest.next_cursor is None
    async with house.read() as conn:
        rows = (await conn.execute(select(audit_events).order_by(audit_events.c.id))).all()
    assert [(row.actor, row.action) for row in rows] == [("ann", "feedback.add")] * 2
    after = {row.resource_id: row.after for row in rows}[str(entry.id)]
    assert after == {"execution_id": str(RECORDS[0].id), "score": 0.5, "label": "ok"}


async def test_feedback_for_what_is_not_drained_yet_says_so(
    service: TraceService, house: Database
) -> None:
    with pytest.raises(NotFound, match="or not yet: records come from the spool"):
        await service.add_feedback(ANN, Feedback(execution_id=record_id(77), score=1))
    old = record_id(77, NOW - timedelta(hours=1))
    with pytest.raises(NotFound) as refused:
        await service.add_feedback(ANN, Feedback(execution_id=old, score=1))
    assert "not yet" not in refused.value.message
    assert await table_rows(house, feedback) == []


@pytest.mark.parametrize("day", [NOW + timedelta(days=30), NOW - timedelta(days=9_000)])
async def test_an_id_of_no_sane_day_is_not_found(service: TraceService, day: Any) -> None:
    with pytest.raises(NotFound, match="not the id of one"):
        await service.get(ANN, record_id(1, day))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "score"),
        ({"comment": "a\x00"}, "comment"),
        ({"expected": {"a": ["\x00"]}}, "expected.a[0]"),
        ({"expected": {"n": 2**70}}, "expected"),
    ],
)
async def test_feedback_that_cannot_be_kept_is_refused(
    service: TraceService, house: Database, given: dict[str, Any], field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        await service.add_feedback(ANN, Feedback(execution_id=RECORDS[0].id, **given))
    assert refused.value.field == field
    assert await table_rows(house, audit_events) == []


# --- retention -----------------------------------------------------------------------------


def _of_day(number: int, age: int, kept: int) -> ExecutionRecord:
    at = NOW - timedelta(days=age)
    return a_record(
        number, id=record_id(number, at), started_at=at, content_retention_days=kept, **CONTENT
    )


async def test_retention_drops_days_and_expired_content(house: Database, tmp_path: Path) -> None:
    found = [_of_day(1, 91, 365), _of_day(2, 90, 365), _of_day(3, 8, 7), _of_day(4, 7, 7)]
    spooled(tmp_path, found)
    await drain_all(drainer(house, tmp_path))
    kept = await keep_retention(house, FixedClock(), records_days=90)
    assert kept.expired_contents == 1
    assert kept.dropped_partitions == [
        f"{name}_p20251203"
        for name in ("executions", "lm_calls", "lm_attempts", "execution_contents")
    ]
    assert [row["id"].int & 0xFF for row in await table_rows(house, executions)] == [2, 3, 4]
    contents = await table_rows(house, execution_contents)
    assert [row["execution_id"].int & 0xFF for row in contents] == [2, 4]
    async with house.read() as conn:
        ahead = await conn.execute(text("SELECT to_regclass('executions_p20260307')"))
        assert ahead.scalar_one() == "executions_p20260307"
    again = await keep_retention(house, FixedClock(), records_days=90)
    assert again == ([], 0)
