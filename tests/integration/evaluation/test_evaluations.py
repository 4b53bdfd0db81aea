"""Evaluations through HTTP and the worker's use cases: asked for, run, resumed, cancelled, kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from sqlalchemy import text

from dspex_ray.bootstrap import Services
from dspex_ray.core.ids import DEFAULT_PROJECT
from dspex_ray.core.page import Page
from dspex_ray.evaluation.model import (
    Evaluation,
    EvaluationEvent,
    EvaluationStatus,
    ExampleResult,
)
from dspex_ray.evaluation.running import EvaluationRuns
from dspex_ray.evaluation.targets import find_version, version_target
from dspex_ray.evaluation.work import Item, Target, Work
from dspex_ray.routing.model import RoutingStrategy
from tests.integration.conftest import a_model, a_program, ok, refused
from tests.integration.rows import Rows
from tests.unit.evaluation.parts import FAILED, FakePool

pytestmark = pytest.mark.integration
PATH = "/v1/evaluations"
COUNT = 12


class Pool(FakePool):
    """An async context, as the worker takes pools."""

    async def __aenter__(self) -> Pool:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


Runs = Callable[[FakePool], EvaluationRuns]


@pytest.fixture
def runs(services: Services) -> Runs:
    def of(pool: FakePool) -> EvaluationRuns:
        assert isinstance(pool, Pool)
        return EvaluationRuns(
            services.database, services.clock, lambda settings: pool, allowed_packages=("dspy",)
        )

    return of


@pytest.fixture(autouse=True)
async def resources(api: httpx.AsyncClient) -> None:
    """A program with an available model, and a dataset."""
    ok(await api.post("/v1/models", json=a_model()), 201)
    ok(await api.post("/v1/models/m/approve"))
    source = {
        "module": {
            "type": "predict",
            "signature": "question -> answer",
            "config": {"temperature": 0},
        }
    }
    ok(await api.post("/v1/programs", json={"name": "p", "source": source}), 201)
    ok(await api.post("/v1/programs/p/assignments", json={"model": "m"}), 201)
    rows = [json.dumps({"question": f"q{n}", "answer": f"a{n}"}) for n in range(COUNT)]
    ok(
        await api.post(
            "/v1/datasets/d/versions",
            params={"create": True},
            content="\n".join(rows),
            headers={"content-type": "application/x-ndjson"},
        ),
        201,
    )


def asked(**fields: Any) -> dict[str, Any]:
    return {"program": "p", "dataset": "d", "metrics": [{"metric": "exact_match"}]} | fields


async def create(api: httpx.AsyncClient, **fields: Any) -> Evaluation:
    return Evaluation.model_validate(ok(await api.post(PATH, json=asked(**fields)), 202))


async def get(api: httpx.AsyncClient, evaluation: Evaluation) -> Evaluation:
    return Evaluation.model_validate(ok(await api.get(f"{PATH}/{evaluation.id}")))


async def results(api: httpx.AsyncClient, evaluation: Evaluation, **query: Any) -> list[Any]:
    found: list[ExampleResult] = []
    cursor: str | None = None
    while True:
        given = {"limit": 5, **query} | ({} if cursor is None else {"cursor": cursor})
        answer = await api.get(f"{PATH}/{evaluation.id}/results", params=given)
        page = Page[ExampleResult].model_validate(ok(answer))
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


async def test_one_is_asked_for_run_and_reported(
    api: httpx.AsyncClient, runs: Runs, rows: Rows
) -> None:
    sizes = {"train": 4, "test": 6}
    pending = await create(
        api, examples={"split": "test", "sizes": sizes, "seed": 1}, settings={"repeats": 2}
    )
    assert (pending.status, pending.progress.total) == (EvaluationStatus.PENDING, 12)
    assert (pending.program, pending.version, pending.dataset_version) == ("p", 1, 1)
    (job,) = [
        row for row in await rows.of("procrastinate_jobs") if row["queue_name"] == "evaluations"
    ]
    assert job["args"] == {"evaluation_id": str(pending.id)}
    pool = Pool(lambda item: FAILED if item.repeat == 1 else None)
    await runs(pool).run(pending.id)
    done = await get(api, pending)
    found = await results(api, done)
    assert (done.status, done.error) == (EvaluationStatus.COMPLETED, None)
    assert done.report is not None
    assert (done.report.examples, done.report.runs, done.report.failed) == (6, 12, 6)
    assert (done.progress.done, done.progress.failed) == (12, 6)
    assert [result.key for result in found] == sorted(pool.evaluated)
    assert len(await results(api, done, failed=True)) == 6
    assert done.started_at is not None
    assert done.ended_at is not None
    events = await rows.of("state_events")
    assert [
        (row["event"], row["to_state"]) for row in events if row["resource_kind"] == "evaluation"
    ] == [
        ("start", "running"),
        ("complete", "completed"),
    ]
    await runs(pool).run(pending.id)  # a second job finds it final
    assert pool.evaluated.total() == 12


async def test_a_killed_worker_pays_for_no_recorded_example_again(
    api: httpx.AsyncClient, runs: Runs
) -> None:
    evaluation = await create(api, settings={"concurrency": 2, "cache": False})
    first = Pool(wait_s=lambda item: 60.0 if item.example.number >= 7 else 0.0)
    killed = asyncio.create_task(runs(first).run(evaluation.id))
    while (await get(api, evaluation)).progress.done < 7:
        await asyncio.sleep(0.02)
    killed.cancel()
    await asyncio.gather(killed, return_exceptions=True)
    assert (await get(api, evaluation)).status is EvaluationStatus.RUNNING
    second = Pool()
    await runs(second).run(evaluation.id)
    done = await get(api, evaluation)
    assert sorted(second.evaluated) == [(number, 0) for number in range(7, COUNT)]
    assert (done.status, done.progress.done) == (EvaluationStatus.COMPLETED, COUNT)
    assert [result.key for result in await results(api, done)] == [(n, 0) for n in range(COUNT)]


async def test_the_same_again_costs_nothing(api: httpx.AsyncClient, runs: Runs) -> None:
    pool = Pool()
    first = await create(api)
    await runs(pool).run(first.id)
    again, other = await create(api), await create(api, metrics=[{"metric": "f1"}])
    await runs(pool).run(again.id)
    assert pool.evaluated.total() == COUNT
    before, after = await get(api, first), await get(api, again)
    assert before.report is not None
    assert after.report is not None
    assert (after.report.cached, after.report.spent_usd) == (COUNT, Decimal(0))
    assert after.report.metrics == before.report.metrics
    assert after.report.latency_ms == before.report.latency_ms
    assert after.report.cost_usd == before.report.cost_usd
    assert all(result.cached for result in await results(api, again))
    ok(await api.post(f"{PATH}/{other.id}/cancel"))
    ok(await api.patch("/v1/models/m", json={"model_name": "another"}))
    changed = await create(api)
    await runs(pool).run(changed.id)
    assert pool.evaluated.total() == 2 * COUNT


async def test_what_has_expired_is_paid_for_again_and_pruned(
    api: httpx.AsyncClient, runs: Runs, services: Services, rows: Rows
) -> None:
    pool = Pool()
    for _ in range(2):
        evaluation = await create(api, settings={"cache_ttl_s": 60})
        await runs(pool).run(evaluation.id)
        services.clock.advance(61)  # type: ignore[attr-defined]
    assert pool.evaluated.total() == 2 * COUNT
    assert len(await rows.of("evaluation_cache")) == COUNT
    await runs(pool).forget_expired()
    assert await rows.of("evaluation_cache") == []


async def test_cancelling_ends_it_within_seconds_and_keeps_what_is_there(
    api: httpx.AsyncClient, runs: Runs, rows: Rows
) -> None:
    evaluation = await create(api, settings={"concurrency": 3})
    pool = Pool(wait_s=lambda item: 60.0 if item.example.number >= 4 else 0.0)
    running = asyncio.create_task(runs(pool).run(evaluation.id))
    while (await get(api, evaluation)).progress.done < 4:
        await asyncio.sleep(0.02)
    cancelled = Evaluation.model_validate(ok(await api.post(f"{PATH}/{evaluation.id}/cancel")))
    assert cancelled.status is EvaluationStatus.CANCELLED
    await asyncio.wait_for(running, 3)
    assert pool.cancelled == 3
    assert len(await results(api, evaluation)) == 4
    assert ok(await api.post(f"{PATH}/{evaluation.id}/cancel"))["status"] == "cancelled"
    assert (await get(api, evaluation)).report is None
    told = [row["action"] for row in await rows.of("audit_events")]
    assert told.count("evaluation.cancel") == 1


async def test_a_dataset_stays_while_it_is_evaluated(api: httpx.AsyncClient, runs: Runs) -> None:
    """And its reports stay when it has gone."""
    evaluation = await create(api)
    problem = refused(await api.delete("/v1/datasets/d"), 409)
    assert problem["detail"] == "dataset 'd' is being evaluated: cancel that first"
    await runs(Pool()).run(evaluation.id)
    assert (await api.delete("/v1/datasets/d")).status_code == 204
    assert (await get(api, evaluation)).report is not None


async def test_what_cannot_be_run_fails_and_says_why(api: httpx.AsyncClient, runs: Runs) -> None:
    """The model is another one than when it was asked for."""
    evaluation = await create(api)
    ok(await api.patch("/v1/models/m", json={"model_name": "another"}))
    pool = Pool()
    await runs(pool).run(evaluation.id)
    failed = await get(api, evaluation)
    assert (failed.status, pool.evaluated.total()) == (EvaluationStatus.FAILED, 0)
    assert failed.error == (
        "the models of this evaluation have changed since it was asked for: ask again"
    )
    refused(await api.post(f"{PATH}/{evaluation.id}/cancel"), 409)


async def test_infrastructure_is_tried_again_but_not_for_ever(
    api: httpx.AsyncClient, runs: Runs
) -> None:
    class Away(Pool):
        async def evaluate(self, work: Work, item: Item) -> ExampleResult:
            raise ConnectionError("no actor")

    evaluation = await create(api)
    with pytest.raises(ConnectionError):
        await runs(Away()).run(evaluation.id)
    assert (await get(api, evaluation)).status is EvaluationStatus.RUNNING
    await runs(Away()).run(evaluation.id, last=True)
    failed = await get(api, evaluation)
    assert (failed.status, failed.error) == (EvaluationStatus.FAILED, "ConnectionError")


async def test_one_whose_job_the_queue_gave_up_fails_and_says_why(
    api: httpx.AsyncClient, runs: Runs, services: Services
) -> None:
    abandoned, waiting = await create(api), await create(api)
    async with services.database.write() as conn:
        await conn.execute(
            text("UPDATE procrastinate_jobs SET status = 'failed' WHERE args ->> :key = :value"),
            {"key": "evaluation_id", "value": str(abandoned.id)},
        )
    await runs(Pool()).fail_abandoned()
    ended = await get(api, abandoned)
    assert ended.status is EvaluationStatus.FAILED
    assert "kept dying" in (ended.error or "")
    assert (await get(api, waiting)).status is EvaluationStatus.PENDING


async def test_results_wait_while_the_database_is_away(
    api: httpx.AsyncClient, runs: Runs, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = await create(api)
    write, failures = services.database.write, [psycopg.OperationalError("away")] * 3

    def flaky() -> Any:
        if failures:
            raise failures.pop()
        return write()

    pool = Pool(wait_s=lambda item: 0.05)
    run = asyncio.create_task(runs(pool).run(evaluation.id))
    while not pool.evaluated:
        await asyncio.sleep(0.01)
    monkeypatch.setattr(services.database, "write", flaky)
    await run
    done = await get(api, evaluation)
    assert (done.status, done.progress.done, failures) == (EvaluationStatus.COMPLETED, COUNT, [])
    assert len(await results(api, done)) == COUNT


async def test_events_tell_of_progress_until_the_end(api: httpx.AsyncClient, runs: Runs) -> None:
    evaluation = await create(api, settings={"concurrency": 1})

    async def told() -> list[EvaluationEvent]:
        answer = await api.get(f"{PATH}/{evaluation.id}/events")
        assert answer.headers["content-type"].startswith("text/event-stream")
        data = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
        return [EvaluationEvent.model_validate_json(event) for event in data]

    following = asyncio.create_task(told())
    await asyncio.sleep(0.1)
    await runs(Pool(wait_s=lambda item: 0.1)).run(evaluation.id)
    events = await following
    assert events[0].status is EvaluationStatus.PENDING
    assert (events[-1].status, events[-1].progress.done) == (EvaluationStatus.COMPLETED, COUNT)
    counts = [event.progress.done for event in events]
    assert counts == sorted(counts)
    assert len(counts) > 3
    refused(await api.get(f"{PATH}/{UUID(int=0)}/events"), 404)


async def test_lists_are_filtered_and_paged(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    made = [(await create(api)).id for _ in range(3)]
    ok(await api.post(f"{PATH}/{made[1]}/cancel"))

    async def listed(**query: Any) -> list[str]:
        return [one["id"] for one in ok(await api.get(PATH, params=query))["items"]]

    newest_first = [str(one) for one in reversed(made)]
    assert await listed() == newest_first
    assert await listed(status="cancelled", program="p", dataset="d") == [str(made[1])]
    assert await listed(program="other") == []
    page = ok(await api.get(PATH, params={"limit": 2}))
    assert await listed(cursor=page["next_cursor"]) == newest_first[2:]
    assert ok(await stranger.get(PATH))["items"] == []
    refused(await stranger.get(f"{PATH}/{made[0]}"), 404)
    refused(await stranger.post(f"{PATH}/{made[0]}/cancel"), 404)
    refused(await api.get(PATH, params={"cursor": "x"}), 422, field="cursor", rule="opaque")
    where = f"{PATH}/{made[0]}/results"
    refused(await api.get(where, params={"cursor": "x"}), 422, field="cursor", rule="opaque")


async def test_a_pinned_version_is_measured_by_its_model_unless_told_otherwise(
    api: httpx.AsyncClient, services: Services
) -> None:
    ok(await api.post("/v1/models", json=a_model("n")), 201)
    ok(await api.post("/v1/models/n/approve"))
    source = {"signature": "question -> answer", "config": {"temperature": 0}, "model": "n"}
    ok(await api.post("/v1/programs/p/versions", json={"source": {"module": source}}), 201)
    ok(await api.post("/v1/programs", json={"name": "q", "source": {"module": source}}), 201)

    async def target(reference: str, model: str | None = None) -> Target:
        async with services.database.read() as conn:
            program, version = await find_version(conn, DEFAULT_PROJECT, reference)
            now = services.clock.now()
            return await version_target(conn, program, version, model=model, now=now)

    def routes(target: Target) -> list[tuple[str, RoutingStrategy]]:
        return [(row.model_name, row.routing_strategy) for row in target.routes]

    primary, fallback = RoutingStrategy.PRIMARY, RoutingStrategy.FALLBACK
    one, two, told = await target("p@1"), await target("p@2"), await target("p@2", "m")
    assert routes(one) == routes(told) == [("m", primary)]
    assert [row for row in routes(two) if row[0] == "n"] == [("n", primary)]
    assert ("m", fallback) in routes(two)
    assert [model.name for model in two.models] == ["n", "m"]
    assert len({target.configuration for target in (one, two, told)}) == 3
    assert routes(await target("q")) == [("n", primary)]  # it needs no assignment

    asked_for = await create(api, program="p@2")
    again = await create(api, program="p@2", settings={"model": "m"})
    assert asked_for.configuration != again.configuration
    ok(await api.post("/v1/models/n/deprecate"))
    refused(await api.post(PATH, json=asked(program="q")), 409)
    await create(api, program="p@2")  # what is assigned would answer


async def test_what_could_not_be_run_is_refused_and_nothing_is_written(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    ok(await api.post("/v1/programs", json=a_program("bare")), 201)
    ok(await api.post("/v1/programs", json=a_program("q", "topic -> answer")), 201)
    ok(await api.post("/v1/programs/q/assignments", json={"model": "m"}), 201)
    ok(await api.post("/v1/models", json=a_model("untested")), 201)
    exact = {"metric": "exact_match"}
    judge = {"metric": "llm_judge", "options": {"rubric": "r", "model": "none"}}
    cases: list[tuple[dict[str, Any], int, str | None, str | None]] = [
        ({"metrics": []}, 422, "metrics", "too_short"),
        ({"metrics": [exact, exact]}, 422, "body", "value_error"),
        ({"metrics": [{"metric": "bleu"}]}, 422, "metrics", "known metric"),
        ({"metrics": [exact | {"field": "x"}]}, 422, "metrics.0.field", "known output"),
        ({"metrics": [exact | {"expected": "x"}]}, 422, "metrics.0.expected", "known field"),
        ({"metrics": [judge]}, 404, None, None),
        ({"program": "none"}, 404, None, None),
        ({"program": "p@9"}, 404, None, None),
        ({"program": "p@production"}, 404, None, None),
        ({"program": "bare"}, 409, None, None),
        ({"program": "q"}, 422, "dataset", "inputs"),
        ({"dataset": "none"}, 404, None, None),
        ({"dataset": "d@9"}, 404, None, None),
        ({"dataset": "d@x"}, 422, "dataset", "name@number"),
        ({"examples": {"sample": 99}}, 422, "sample", "range"),
        ({"examples": {"split": "a", "sizes": {"a": 99}}}, 422, "sizes", "available"),
        ({"settings": {"model": "untested"}}, 409, None, None),
        ({"settings": {"model": "none"}}, 404, None, None),
        ({"settings": {"concurrency": 0}}, 422, "settings.concurrency", "greater_than_equal"),
    ]
    before = await rows.dump()
    for fields, status, field, rule in cases:
        refused(await api.post(PATH, json=asked(**fields)), status, field=field, rule=rule)
    assert await rows.dump() == before
