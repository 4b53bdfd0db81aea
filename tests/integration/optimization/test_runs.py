"""Runs through HTTP and the worker's use cases: asked for, estimated, submitted, looked after."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from dspex_ray.bootstrap import Services
from dspex_ray.core.errors import Unavailable
from dspex_ray.core.page import Page
from dspex_ray.optimization.run_rules import MAX_SUBMISSIONS, JobState
from dspex_ray.optimization.runs import OptimizationRun, RunEvent, RunStatus, SeenExample
from dspex_ray.optimization.submitting import RunJobs
from dspex_ray.settings import OptimizationSettings
from dspex_ray.testing.fake_clock import FakeClock
from tests.integration.conftest import ok, refused
from tests.integration.optimization.parts import (
    PATH,
    SIZES,
    FakeJobs,
    asked,
    create,
    driver,
    endings,
    get,
    resources,
)
from tests.integration.rows import Rows
from tests.unit.optimization.parts import engine

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("_resources")]
QUICK: dict[str, Any] = {"optimizer": "LabeledFewShot", "parameters": {"k": 2}}


@pytest.fixture
async def _resources(api: httpx.AsyncClient) -> None:
    await resources(api)


@pytest.fixture
def jobs() -> FakeJobs:
    return FakeJobs()


@pytest.fixture
def runs(services: Services, jobs: FakeJobs) -> RunJobs:
    return RunJobs(services.database, services.clock, jobs, OptimizationSettings())


def later(clock: FakeClock, **by: float) -> None:
    clock.advance(timedelta(**by).total_seconds())


async def test_what_is_asked_for_is_stored_whole(api: httpx.AsyncClient, rows: Rows) -> None:
    run = await create(api, name="first", budget={"lm_calls": 100, "usd": "0.5"}, seed=7)
    assert (run.status, run.program, run.version, run.dataset_version) == ("pending", "p", 1, 1)
    assert (run.train_examples, run.dev_examples) == (12, 8)
    assert run.parameters["num_candidates"] == 6
    assert run.parameters["proposed_instructions"] == 4  # a default is stored too
    assert {"dspy", "python", "dspex-ray"} <= run.packages.keys()
    assert run.progress is not None
    assert run.progress.percent == 0.0
    (job,) = [row for row in await rows.of("procrastinate_jobs") if "optim" in row["task_name"]]
    assert (job["task_name"], job["args"]) == ("optimization.submit", {"run_id": str(run.id)})
    seen = Page[SeenExample].model_validate(ok(await api.get(f"{PATH}/{run.id}/examples")))
    assert [one.part for one in seen.items].count("train") == 12
    assert len({one.hash for one in seen.items}) == 20
    assert (await get(api, run)) == run
    listed = Page[OptimizationRun].model_validate(
        ok(await api.get(PATH, params={"program": "p", "status": "pending"}))
    )
    assert listed.items == [run]
    audited = [row["action"] for row in await rows.of("audit_events")]
    assert "optimization.create" in audited


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        ({"optimizer": "Magic"}, "optimizer", "known optimizer"),
        ({"optimizer": "KNNFewShot", "parameters": {}}, "optimizer", "saved as data"),
        ({"parameters": {"breadth": 1}}, "parameters.breadth", "known parameter"),
        ({"parameters": {"max_demos": -1}}, "parameters.max_demos", "greater_than_equal"),
        ({"budget": {"lm_calls": 0}}, "budget.lm_calls", "above 0"),
        ({"metric": {"metric": "no_such"}}, "metrics", "known metric"),
        ({"examples": {"sizes": {"train": 40}}}, "sizes", "available"),
        ({"embedding_model": "m"}, "embedding_model", "used by the optimizer"),
        ({"optimizer": "MIPROv2", "parameters": {}, "examples": {"sizes": {"train": 1}}}, "train",
         "at least 2"),
    ],
)  # fmt: skip
async def test_what_could_not_be_run_is_refused_and_nothing_written(
    api: httpx.AsyncClient, rows: Rows, fields: dict[str, Any], field: str, rule: str
) -> None:
    before = await rows.dump()
    refused(await api.post(PATH, json=asked(**fields)), 422, field=field, rule=rule)
    assert await rows.dump() == before


async def test_sizes_need_a_train_part(api: httpx.AsyncClient) -> None:
    answer = await api.post(PATH, json=asked(examples={"sizes": {"test": 4}}))
    assert "train" in refused(answer, 422, field="examples", rule="value_error")["detail"]


async def test_a_dear_run_must_be_confirmed(api: httpx.AsyncClient, rows: Rows) -> None:
    dear = {"optimizer": "COPRO", "parameters": {"breadth": 60, "depth": 20}}
    estimated = ok(await api.post(f"{PATH}/estimate", json=asked(**dear)))
    assert estimated["needs_confirmation"] is True
    problem = refused(await api.post(PATH, json=asked(**dear)), 409, field="confirm",
                      rule="confirmed")  # fmt: skip
    assert problem["details"]["estimate"] == estimated
    assert await rows.of("optimization_runs") == []
    confirmed = await create(api, **dear, confirm=True)
    assert confirmed.estimate.lm_calls == estimated["lm_calls"] > 10_000
    bounded = await create(api, **dear, budget={"lm_calls": 50})
    assert (bounded.estimate.lm_calls, bounded.estimate.needs_confirmation) == (50, False)


async def test_optimizers_are_listed_with_their_parameters(api: httpx.AsyncClient) -> None:
    names = [one["name"] for one in ok(await api.get("/v1/optimizers"))["items"]]
    assert {"BootstrapFewShot", "MIPROv2", "COPRO", "DspexSearch"} <= set(names)
    shown = ok(await api.get("/v1/optimizers/MIPRO"))
    assert shown["name"] == "MIPROv2"
    assert "auto" in [one["name"] for one in shown["parameters"]]
    problem = refused(await api.get("/v1/optimizers/none"), 404)
    assert problem["detail"].startswith("Unknown optimizer: none (known: AdvancedBootstrap, ")


async def test_every_optimizer_has_an_estimate(api: httpx.AsyncClient) -> None:
    for one in ok(await api.get("/v1/optimizers"))["items"]:
        if one["refused"] is not None:
            continue
        given = {"parameters": {"bsize": 4}} if one["name"] == "SIMBA" else {"parameters": {}}
        told = ok(await api.post(f"{PATH}/estimate", json=asked(optimizer=one["name"], **given)))
        assert told["lm_calls"] is not None, one["name"]
        assert told["lm_calls"] >= SIZES["dev"]
        assert float(told["cost_usd"]) > 0


async def test_events_end_with_the_run(api: httpx.AsyncClient, services: Services) -> None:
    run = await create(api, **QUICK)
    await (await driver(services, engine())).drive(run.id)
    async with api.stream("GET", f"{PATH}/{run.id}/events") as answer:
        lines = [line async for line in answer.aiter_lines() if line.startswith("data: ")]
    (event,) = [RunEvent.model_validate_json(line.removeprefix("data: ")) for line in lines]
    assert (event.status, event.progress.percent) == (RunStatus.COMPLETED, 100.0)


async def test_submitted_once_and_claimed_by_its_job(
    api: httpx.AsyncClient, services: Services, runs: RunJobs, jobs: FakeJobs
) -> None:
    run = await create(api, **QUICK)
    jobs.away = True
    with pytest.raises(Unavailable):
        await runs.submit(run.id)
    jobs.away = False
    await runs.submit(run.id)
    await runs.reconcile()
    ((name, of),) = jobs.submitted
    assert of == run.id
    submitted = await get(api, run)
    assert (submitted.job, submitted.submissions, submitted.status) == (name, 1, "pending")
    await (await driver(services, engine())).drive(run.id, name)
    assert (await get(api, run)).status is RunStatus.COMPLETED
    await runs.submit(run.id)  # a late job of the queue
    await runs.reconcile()
    assert len(jobs.submitted) == 1


async def test_a_run_whose_job_died_goes_on_in_another_a_bounded_number_of_times(
    api: httpx.AsyncClient, services: Services, runs: RunJobs, jobs: FakeJobs, clock: FakeClock
) -> None:
    run = await create(api, **QUICK)
    await runs.submit(run.id)
    for number in range(2, MAX_SUBMISSIONS + 1):
        job, _ = jobs.submitted[-1]
        claimed = await endings(services).claim(run.id, job)
        assert claimed is not None
        jobs.states[job] = JobState.DEAD
        await runs.reconcile()
        assert (await get(api, run)).status is RunStatus.RUNNING  # its end may be on its way
        later(clock, seconds=6)
        await runs.reconcile()
        assert (await get(api, run)).status is RunStatus.PENDING
        assert len(jobs.submitted) == len({name for name, _ in jobs.submitted}) == number
    jobs.states[jobs.submitted[-1][0]] = JobState.DEAD
    later(clock, seconds=5)
    await runs.reconcile()
    failed = await get(api, run)
    assert (failed.status, failed.error) == (RunStatus.FAILED, "its process died 5 times")
    ok(await api.post(f"{PATH}/{run.id}/resume"), 202)
    await runs.submit(run.id)
    assert len(jobs.submitted) == MAX_SUBMISSIONS + 1
    await (await driver(services, engine())).drive(run.id)
    assert (await get(api, run)).status is RunStatus.COMPLETED


async def test_a_job_that_somebody_stopped_cancels_its_run(
    api: httpx.AsyncClient, runs: RunJobs, jobs: FakeJobs, clock: FakeClock
) -> None:
    run = await create(api, **QUICK)
    await runs.submit(run.id)
    jobs.states[jobs.submitted[0][0]] = JobState.STOPPED
    later(clock, seconds=5)
    await runs.reconcile()
    assert (await get(api, run)).status is RunStatus.CANCELLED


async def test_cancelled_before_it_began(
    api: httpx.AsyncClient, services: Services, runs: RunJobs, jobs: FakeJobs
) -> None:
    run = await create(api, **QUICK)
    ok(await api.post(f"{PATH}/{run.id}/cancel"))
    again = ok(await api.post(f"{PATH}/{run.id}/cancel"))
    assert again["status"] == "cancelled"
    await runs.submit(run.id)
    assert jobs.submitted == []
    assert await (await driver(services, engine())).drive(run.id) is None
    ok(await api.post(f"{PATH}/{run.id}/resume"), 202)
    await runs.submit(run.id)
    await (await driver(services, engine())).drive(run.id)
    done = await get(api, run)
    assert done.status is RunStatus.COMPLETED
    refused(await api.post(f"{PATH}/{run.id}/resume"), 409)
    refused(await api.post(f"{PATH}/{run.id}/cancel"), 409)


async def test_answers_of_old_unfinished_runs_are_forgotten(
    api: httpx.AsyncClient, services: Services, runs: RunJobs, rows: Rows, clock: FakeClock
) -> None:
    from dspex_ray.optimization import store

    run = await create(api, **QUICK)
    claimed = await endings(services).claim(run.id, None)
    assert claimed is not None
    answer = store.Answer("d", 0, {"a": 1}, 3, None)
    async with services.database.write() as conn:
        await store.keep_answers(conn, claimed, [answer, answer], services.clock.now())
    ok(await api.post(f"{PATH}/{run.id}/cancel"))
    await runs.forget()
    assert len(await rows.of("optimization_answers")) == 1
    later(clock, days=8)
    await runs.forget()
    assert await rows.of("optimization_answers") == []


async def test_a_dataset_is_kept_while_a_run_is_under_way_on_it(api: httpx.AsyncClient) -> None:
    run = await create(api, **QUICK)
    refused(await api.delete("/v1/datasets/d"), 409)
    ok(await api.post(f"{PATH}/{run.id}/cancel"))
    ok(await api.delete("/v1/datasets/d"), 204)
    assert (await get(api, run)).dataset == "d"


async def test_another_project_sees_nothing_of_it(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    run = await create(api, **QUICK)
    for suffix in ("", "/trials", "/examples", "/events"):
        refused(await stranger.get(f"{PATH}/{run.id}{suffix}"), 404)
    refused(await stranger.post(f"{PATH}/{run.id}/cancel"), 404)
    assert ok(await stranger.get(PATH))["items"] == []
