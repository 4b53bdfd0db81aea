"""Draining: each record once, figures as a naive count gives them, whatever fails between."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Table, text
from sqlalchemy.engine import make_url

from dspex_ray.core.actor import SYSTEM
from dspex_ray.core.errors import NotFound
from dspex_ray.core.ids import DEFAULT_PROJECT, uuid7
from dspex_ray.db.engine import Database
from dspex_ray.db.partitions import drop_partitions
from dspex_ray.db.tables import (
    audit_events,
    execution_contents,
    executions,
    feedback,
    lm_attempts,
    lm_calls,
    model_stats,
    program_models,
    usage_minutes,
)
from dspex_ray.settings import SpoolSettings
from dspex_ray.traces import spool
from dspex_ray.traces.model import ExecutionRecord, Source
from dspex_ray.traces.rules import SPEAKS_OF_MODEL
from dspex_ray.traces.service import TraceService
from tests.integration.traces.conftest import (
    SETTINGS,
    STRANGER,
    by_id,
    drain_all,
    drainer,
    spooled,
    table_rows,
)
from tests.unit.traces.records import (
    ASSIGNMENTS,
    MODELS,
    NOW,
    FixedClock,
    a_call,
    a_failure,
    a_feedback,
    a_record,
    an_attempt,
    record_id,
    records,
)

pytestmark = pytest.mark.integration

RECORDED = (executions, lm_calls, lm_attempts, execution_contents)
COUNTED = (program_models, model_stats, usage_minutes)


async def _everything(database: Database) -> dict[str, list[dict[str, Any]]]:
    return {t.name: await table_rows(database, t) for t in (*RECORDED, *COUNTED)}


async def _count(database: Database, table: Table) -> int:
    return len(await table_rows(database, table))


async def test_one_record_becomes_its_rows(house: Database, tmp_path: Path) -> None:
    call = a_call(a_failure(0), an_attempt(1), request={"m": "hi"}, response={"t": "yo"})
    record = a_record(
        1,
        call,
        tags={"team": "a"},
        inputs={"q": "x"},
        outputs={"a": "y"},
        capture="full",
        content_retention_days=7,
    )
    spooled(tmp_path, [record])
    assert await drainer(house, tmp_path).drain_once() == 1
    (run,) = await table_rows(house, executions)
    assert (run["id"], run["day"], run["schema"]) == (record.id, NOW.date(), 1)
    assert (run["tags"], run["cost_usd"]) == ({"team": "a"}, Decimal("0.001"))
    assert (run["attempts"], run["fallback"], run["started_at"]) == (2, True, NOW)
    (called,) = await table_rows(house, lm_calls)
    assert (called["call"], called["answered_by"]) == (0, "model-1")
    assert called["losers"] == [{"model": "x", "strategy": "fallback", "reason": "health gate"}]
    tried = await table_rows(house, lm_attempts)
    assert [(a["attempt"], a["outcome"], a["error_class"]) for a in tried] == [
        (0, "failed", "server"),
        (1, "ok", None),
    ]
    (content,) = await table_rows(house, execution_contents)
    assert (content["inputs"], content["outputs"]) == ({"q": "x"}, {"a": "y"})
    assert content["calls"] == [{"request": {"m": "hi"}, "response": {"t": "yo"}}]
    assert (content["keep_until"] - content["day"]).days == 7
    assert list(tmp_path.iterdir()) == []


async def test_nothing_captured_leaves_no_content(house: Database, tmp_path: Path) -> None:
    spooled(tmp_path, [a_record(1, a_call(an_attempt()))])
    await drain_all(drainer(house, tmp_path))
    assert await _count(house, execution_contents) == 0


async def test_feedback_is_drained_once_with_its_audit_row(house: Database, tmp_path: Path) -> None:
    given = a_feedback(1, comment="a\x00", expected={"n": 10**25})
    spooled(tmp_path, [given, a_record(1), given])
    assert await drain_all(drainer(house, tmp_path)) == 3
    (row,) = await table_rows(house, feedback)
    assert (row["id"], row["execution_id"], row["score"]) == (given.id, record_id(1), 0.5)
    assert (row["comment"], row["expected"]) == ("a\ufffd", {"n": 1e25})
    (event,) = await table_rows(house, audit_events)
    assert (event["actor"], event["action"]) == ("key:dspex_1", "feedback.add")
    assert event["after"] == {"execution_id": str(record_id(1)), "score": 0.5, "label": None}


async def test_feedback_may_come_before_its_execution(house: Database, tmp_path: Path) -> None:
    service = TraceService(house, FixedClock())
    spooled(tmp_path, [a_feedback(1)])
    await drain_all(drainer(house, tmp_path))
    with pytest.raises(NotFound):
        await service.list_feedback(SYSTEM, record_id(1), cursor=None, limit=5)
    spooled(tmp_path, [a_record(1)])
    await drain_all(drainer(house, tmp_path))
    page = await service.list_feedback(SYSTEM, record_id(1), cursor=None, limit=5)
    assert [entry.id for entry in page.items] == [a_feedback(1).id]


async def test_an_empty_spool_drains_nothing(house: Database, tmp_path: Path) -> None:
    assert await drainer(house, tmp_path / "none").drain_once() == 0


async def test_a_segment_larger_than_a_batch_goes_in_several(
    house: Database, tmp_path: Path
) -> None:
    spooled(tmp_path, [a_record(n, a_call(an_attempt())) for n in range(20)])
    drain = drainer(house, tmp_path)
    assert [await drain.drain_once() for _ in range(4)] == [7, 7, 6, 0]
    assert await _count(house, executions) == 20
    assert list(tmp_path.iterdir()) == []


async def test_an_empty_segment_goes(house: Database, tmp_path: Path) -> None:
    (tmp_path / f"{record_id(1)}.open").touch()
    assert await drainer(house, tmp_path).drain_once() == 0
    assert list(tmp_path.iterdir()) == []


# --- idempotence and concurrency -----------------------------------------------------------

few = settings(
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


async def _clear(database: Database) -> None:
    names = ", ".join(t.name for t in (*RECORDED, usage_minutes))
    async with database.write() as conn:
        await conn.execute(text(f"TRUNCATE {names}"))
        await conn.execute(
            text("UPDATE program_models SET total_requests=0, successful_requests=0, total_cost=0")
        )
        await conn.execute(
            text(
                "UPDATE model_stats SET average_latency_ms=NULL, recent_outcomes='', calls_total=0"
            )
        )


def _unique(found: list[ExecutionRecord]) -> list[ExecutionRecord]:
    return list({record.id: record for record in found}.values())


@given(st.lists(records(), min_size=1, max_size=12), st.data())
@few
async def test_replaying_changes_nothing(
    house: Database, tmp_path: Path, found: list[ExecutionRecord], data: st.DataObject
) -> None:
    await _clear(house)
    found = _unique(found)
    spooled(tmp_path, found)
    assert await drain_all(drainer(house, tmp_path)) == len(found)
    before = await _everything(house)
    again = data.draw(st.lists(st.sampled_from(found), min_size=1, max_size=12))
    spooled(tmp_path, again)
    assert await drain_all(drainer(house, tmp_path)) == len(again)
    assert await _everything(house) == before


@given(st.lists(records(), min_size=1, max_size=12))
@few
async def test_figures_are_what_a_naive_count_gives(
    house: Database, tmp_path: Path, found: list[ExecutionRecord]
) -> None:
    await _clear(house)
    found = _unique(found)
    spooled(tmp_path, [*found, *found[:3]])
    # One batch, so that order of time is order of counting.
    await drain_all(drainer(house, tmp_path, SpoolSettings(batch_records=1_000)))
    assignments = by_id(await table_rows(house, program_models))
    stats = by_id(await table_rows(house, model_stats), "model_id")
    for assignment, model in zip(ASSIGNMENTS, MODELS, strict=True):
        row = assignments[assignment]
        assert _counters(row) == _naive_counters(found, assignment)
        if model in stats:
            _check_stats(stats[model], found, model)
    _check_usage(await table_rows(house, usage_minutes), found)


def _counters(row: dict[str, Any]) -> tuple[int, int, Decimal]:
    return row["total_requests"], row["successful_requests"], row["total_cost"]


def _naive_counters(found: list[ExecutionRecord], assignment: UUID) -> tuple[int, int, Decimal]:
    total = good = 0
    cost = Decimal(0)
    for call in (call for record in found for call in record.lm_calls):
        mine = [a for a in call.attempts if a.assignment_id == assignment]
        mine = [a for a in mine if a.made]
        total += any(a.outcome in ("ok", "failed") for a in mine)
        good += any(a.outcome == "ok" for a in mine)
        cost += sum(a.cost_usd or 0 for a in mine)
    return total, good, cost


def _check_stats(row: dict[str, Any], found: list[ExecutionRecord], model: UUID) -> None:
    mine = [
        attempt
        for record in found
        if record.source is not Source.HEALTH
        for call in record.lm_calls
        for attempt in call.attempts
        if attempt.model_id == model and attempt.made
    ]
    assert row["calls_total"] == len(mine)
    spoke = [a for a in mine if a.outcome == "ok" or a.error_class in SPEAKS_OF_MODEL]
    assert row["recent_outcomes"].count("1") == sum(a.outcome == "ok" for a in mine)
    assert len(row["recent_outcomes"]) == len(spoke)
    latency: float | None = None
    answered = [a for a in mine if a.outcome == "ok"]
    if len({a.started_at for a in answered}) == len(answered):  # else the order is not given
        for attempt in sorted(answered, key=lambda a: a.started_at):
            new = attempt.latency_ms
            latency = new if latency is None else 0.9 * latency + 0.1 * new
        assert row["average_latency_ms"] == pytest.approx(latency)


def _check_usage(usage: list[dict[str, Any]], found: list[ExecutionRecord]) -> None:
    pairs = [
        (record, attempt)
        for record in found
        for call in record.lm_calls
        for attempt in call.attempts
        if attempt.outcome != "skipped"
    ]
    assert sum(row["attempts"] + row["cached"] for row in usage) == len(pairs)
    for row in usage:
        mine = [
            attempt
            for record, attempt in pairs
            if row["minute"] == attempt.started_at.replace(second=0, microsecond=0)
            and row["program"] == (record.program or "")
            and row["version"] == (record.version or 0)
            and row["model_id"] == attempt.model_id
            and row["source"] == record.source
        ]
        assert row["cached"] == sum(attempt.cached for attempt in mine)
        mine = [attempt for attempt in mine if not attempt.cached]
        ok = [attempt for attempt in mine if attempt.outcome == "ok"]
        assert row["attempts"] == len(mine)
        assert row["succeeded"] == len(ok)
        assert row["failed"] == sum(a.outcome == "failed" for a in mine)
        assert row["prompt_tokens"] == sum(a.prompt_tokens or 0 for a in mine)
        assert row["cost_usd"] == sum(a.cost_usd or 0 for a in mine)
        assert row["unpriced"] == sum(a.cost_usd is None for a in ok)
        assert row["latency_ms_sum"] == pytest.approx(sum(a.latency_ms for a in ok))


async def test_drains_side_by_side_count_each_record_once(house: Database, tmp_path: Path) -> None:
    # The same records in several segments and orders, drained by three at once.
    found = [a_record(n, a_call(a_failure(n % 3), an_attempt((n + 1) % 3))) for n in range(60)]
    for turn in range(3):
        spooled(tmp_path, found[turn * 20 :] + found[: turn * 20])
    other = Database(house.url)
    drains = [drainer(database, tmp_path) for database in (house, house, other)]
    drained = await asyncio.gather(*(drain_all(drain) for drain in drains))
    await other.close()
    assert sum(drained) == 180
    assert await _count(house, executions) == 60
    counters = by_id(await table_rows(house, program_models))
    assert [_counters(counters[key])[:2] for key in ASSIGNMENTS] == [(40, 20)] * 3
    stats = by_id(await table_rows(house, model_stats), "model_id")
    assert [stats[key]["calls_total"] for key in MODELS] == [40] * 3
    assert sum(row["attempts"] for row in await table_rows(house, usage_minutes)) == 120


# --- what may go wrong ---------------------------------------------------------------------


async def test_a_database_away_leaves_the_segment_for_later(
    house: Database, tmp_path: Path
) -> None:
    found = [a_record(n, a_call(an_attempt())) for n in range(10)]
    spooled(tmp_path, found)
    url = make_url(house.url).set(database="nowhere").render_as_string(hide_password=False)
    nowhere = Database(url)
    drain = drainer(nowhere, tmp_path)
    for _ in range(2):
        with pytest.raises(Exception, match="nowhere"):
            await drain.drain_once()
    await nowhere.close()
    assert await drain_all(drainer(house, tmp_path)) == 10


async def test_a_failure_between_batches_repeats_without_harm(
    house: Database, tmp_path: Path
) -> None:
    spooled(tmp_path, [a_record(n, a_call(an_attempt())) for n in range(10)])
    drain = drainer(house, tmp_path)
    assert await drain.drain_once() == 7
    async with house.write() as conn:
        await conn.execute(text("ALTER TABLE usage_minutes RENAME TO away"))
    with pytest.raises(Exception, match="usage_minutes"):
        await drain.drain_once()
    async with house.write() as conn:
        await conn.execute(text("ALTER TABLE away RENAME TO usage_minutes"))
    await drain_all(drain)
    assert await _count(house, executions) == 10
    counters = by_id(await table_rows(house, program_models))
    assert counters[ASSIGNMENTS[0]]["total_requests"] == 10


async def test_what_postgres_cannot_hold_is_set_aside_and_the_rest_is_written(
    house: Database, tmp_path: Path
) -> None:
    too_many = a_record(1, a_call(an_attempt(prompt_tokens=2**40)))
    tomorrow_week = a_record(2, id=uuid7(2_000_000_000_000, 1))
    good = [a_record(n, a_call(an_attempt())) for n in (3, 4)]
    spooled(tmp_path, [good[0], too_many, tomorrow_week, good[1]])
    await drain_all(drainer(house, tmp_path))
    assert [row["id"] for row in await table_rows(house, executions)] == [r.id for r in good]
    assert {path.suffix for path in tmp_path.iterdir()} == {".bad"}


async def test_a_newer_releases_records_wait_for_a_newer_drain(
    house: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        body = spool.encode(a_record(1))[18:-1]
        newer.setattr(spool, "encode", lambda _: spool._framed(body[:-1] + b',"later":1}'))
        spooled(tmp_path, [a_record(1)])
    spooled(tmp_path, [a_record(2)])
    await drain_all(drainer(house, tmp_path))
    assert [row["id"] for row in await table_rows(house, executions)] == [record_id(2)]
    (kept,) = tmp_path.iterdir()
    later = spool.decode
    monkeypatch.setattr(
        spool, "decode", lambda line: later(spool._framed(line[18:-1].replace(b',"later":1', b"")))
    )
    reader = spool.SpoolReader(tmp_path)
    assert reader.retry_bad(NOW + timedelta(seconds=1)) == 0  # too old to be written once only
    assert kept.exists()
    stop = asyncio.Event()
    running = asyncio.create_task(drainer(house, tmp_path).run(stop))
    async with asyncio.timeout(10):
        while await _count(house, executions) == 1:
            await asyncio.sleep(0.02)
    stop.set()
    await running
    assert list(tmp_path.iterdir()) == []


async def test_null_bytes_and_big_numbers_are_stored(house: Database, tmp_path: Path) -> None:
    call = a_call(a_failure(message="a\x00b"), usage={"n": 10**25})
    content = {"k\x00": ["\\u0000 stays", "\x00"], "n": 10**25}
    spooled(tmp_path, [a_record(1, call, inputs=content, capture="full", unit="u\x00")])
    await drain_all(drainer(house, tmp_path))
    (row,) = await table_rows(house, execution_contents)
    assert row["inputs"]["k\ufffd"] == ["\\u0000 stays", "\ufffd"]
    (run,) = await table_rows(house, executions)
    assert run["unit"] == "u\ufffd"


async def test_a_partition_dropped_behind_its_back_is_made_again(
    house: Database, tmp_path: Path
) -> None:
    drain = drainer(house, tmp_path)
    spooled(tmp_path, [a_record(1)])
    await drain_all(drain)
    async with house.write() as conn:
        await drop_partitions(conn, before=NOW.date().replace(day=28))
    spooled(tmp_path, [a_record(2)])
    await drain_all(drain)
    assert [row["id"] for row in await table_rows(house, executions)] == [record_id(2)]


async def test_another_projects_records_touch_nothing_of_ours(
    house: Database, tmp_path: Path
) -> None:
    # It names our model and our assignment, which are not its own.
    spooled(tmp_path, [a_record(1, a_call(an_attempt()), project_id=STRANGER)])
    await drain_all(drainer(house, tmp_path))
    counters = by_id(await table_rows(house, program_models))
    assert _counters(counters[ASSIGNMENTS[0]]) == (0, 0, Decimal(0))
    assert {row["calls_total"] for row in await table_rows(house, model_stats)} == {0}
    (usage,) = await table_rows(house, usage_minutes)
    assert usage["project_id"] == STRANGER


async def test_a_model_of_no_row_is_counted_in_usage_alone(house: Database, tmp_path: Path) -> None:
    gone = an_attempt(model_id=uuid7(1_700_000_000_000, 77), assignment_id=None)
    spooled(tmp_path, [a_record(1, a_call(gone))])
    await drain_all(drainer(house, tmp_path))
    assert {row["project_id"] for row in await table_rows(house, usage_minutes)} == {
        DEFAULT_PROJECT
    }


async def test_the_loop_outlives_an_outage_and_logs_it_once(
    house: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = asyncio.Event()
    async with house.write() as conn:
        await conn.execute(text("ALTER TABLE executions RENAME TO away"))
    spooled(tmp_path, [a_record(1)])
    running = asyncio.create_task(drainer(house, tmp_path, SETTINGS).run(stop))
    await asyncio.sleep(0.2)
    async with house.write() as conn:
        await conn.execute(text("ALTER TABLE away RENAME TO executions"))
    async with asyncio.timeout(10):
        while await _count(house, executions) == 0:
            await asyncio.sleep(0.02)
    spooled(tmp_path, [a_record(2)])
    async with asyncio.timeout(10):
        while await _count(house, executions) == 1:
            await asyncio.sleep(0.02)
    stop.set()
    await running
    said = capsys.readouterr().out
    assert said.count("spool_drain_failed") == 1
    assert said.count("spool_drain_recovered") == 1
