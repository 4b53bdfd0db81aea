"""The driver on a fake model: what it finds, what it records, how it stops and goes on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from dspex_ray.bootstrap import Services
from dspex_ray.core.convergence import ConvergenceStatus
from dspex_ray.core.page import Page
from dspex_ray.optimization.model import StopReason
from dspex_ray.optimization.runs import OptimizationRun, RunStatus, RunTrial
from dspex_ray.testing.fake_lm import FakeEngine
from tests.integration.conftest import ok
from tests.integration.optimization.parts import PATH, create, driver, fake_models, get, resources
from tests.integration.rows import Rows
from tests.unit.optimization.parts import answer, engine

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("_resources")]


@pytest.fixture
async def _resources(api: httpx.AsyncClient) -> None:
    await resources(api)


class Dies(BaseException):
    """As a process that is killed: nothing is written any more, no handler runs."""


async def trials_of(api: httpx.AsyncClient, run: OptimizationRun) -> list[RunTrial]:
    page = ok(await api.get(f"{PATH}/{run.id}/trials", params={"limit": 200}))
    return Page[RunTrial].model_validate(page).items


async def test_a_run_ends_in_a_version_that_is_better(
    api: httpx.AsyncClient, services: Services, rows: Rows
) -> None:
    pending = await create(api)
    model = engine()
    done = await (await driver(services, model)).drive(pending.id)
    shown = await get(api, pending)
    assert done is not None
    assert (shown.status, shown.error, shown.attempt) == (RunStatus.COMPLETED, None, 1)
    assert shown.stopped_because is StopReason.FINISHED
    trials = await trials_of(api, shown)
    assert [trial.number for trial in trials] == list(range(1, len(trials) + 1))
    [*_, start] = [t.standing for t in trials if t.candidate == shown.artifact_hash]
    assert start is not None
    assert shown.best_score is not None
    assert shown.best_score > start
    (made,) = shown.versions
    assert (made.rank, made.version, made.created, made.score) == (1, 2, True, shown.best_score)
    program = ok(await api.get("/v1/programs/p"))
    assert program["labels"] == {"production": 1, made.label: 2}
    version = ok(await api.get("/v1/programs/p/versions/2"))
    assert version["hash"] == made.hash
    assert version["artifact"]["modules"]["main"]["demos"]
    assert shown.spent.lm_calls == len(model.requests) == shown.program_runs
    assert shown.spent.usd > 0
    assert shown.progress is not None
    assert shown.progress.percent == 100.0
    assert shown.progress.convergence.status is not ConvergenceStatus.PENDING
    assert await rows.of("optimization_answers") == []  # nothing is kept that nobody needs
    moves = await rows.of("state_events")
    events = [row["event"] for row in moves if row["resource_id"] == shown.id]
    assert events == ["start", "complete"]


@pytest.mark.parametrize(
    ("optimizer", "parameters"),
    [
        ("LabeledFewShot", {"k": 4}),
        ("BootstrapFewShotWithRandomSearch", {"num_candidate_programs": 2}),
        ("AdvancedBootstrap", {"candidates_per_strategy": 4, "measured_runs": 8}),
    ],
)
async def test_other_optimizers_end_in_versions_too(
    api: httpx.AsyncClient, services: Services, optimizer: str, parameters: dict[str, Any]
) -> None:
    pending = await create(api, optimizer=optimizer, parameters=parameters)
    model = engine()
    await (await driver(services, model)).drive(pending.id)
    shown = await get(api, pending)
    assert (shown.status, shown.error) == (RunStatus.COMPLETED, None)
    assert shown.versions
    assert shown.spent.lm_calls == len(model.requests)
    assert shown.estimate.lm_calls is not None
    assert shown.spent.lm_calls <= shown.estimate.lm_calls


async def test_a_killed_run_goes_on_without_paying_twice(
    api: httpx.AsyncClient, services: Services, rows: Rows
) -> None:
    whole = engine()
    uninterrupted = await create(api)
    await (await driver(services, whole)).drive(uninterrupted.id)
    killed_after, made = 20, 0

    def until_killed(request: Any) -> Any:
        nonlocal made
        made += 1
        if made > killed_after:
            raise Dies
        return answer(request)

    run = await create(api)
    first = FakeEngine(until_killed)
    with pytest.raises(BaseException):  # noqa: B017, PT011 - a group around Dies, or itself
        await (await driver(services, first)).drive(run.id)
    await asyncio.sleep(0)
    assert (await get(api, run)).status is RunStatus.RUNNING
    kept = len(await rows.of("optimization_answers"))
    assert kept == killed_after
    await lose(services, run)
    second = engine()
    await (await driver(services, second)).drive(run.id)
    done, reference = await get(api, run), await get(api, uninterrupted)
    assert (done.status, done.attempt) == (RunStatus.COMPLETED, 2)
    assert len(second.requests) == len(whole.requests) - kept
    assert [version.hash for version in done.versions] == [
        version.hash for version in reference.versions
    ]
    what = {"number", "candidate", "score", "examples", "lm_calls"}
    told = [trial.model_dump(include=what) for trial in await trials_of(api, done)]
    assert told == [trial.model_dump(include=what) for trial in await trials_of(api, reference)]


async def lose(services: Services, run: OptimizationRun) -> None:
    """As the reconciler does."""
    from dspex_ray.db.move import move
    from dspex_ray.db.tables import optimization_runs
    from dspex_ray.optimization.endings import system
    from dspex_ray.optimization.runs import RUN_MACHINE

    async with services.database.write() as conn:
        now, actor = services.clock.now(), system(run)
        await move(conn, optimization_runs, RUN_MACHINE, run.id, "lose", actor=actor, now=now)


async def test_cancelled_it_ends_within_seconds_and_keeps_what_was_found(
    api: httpx.AsyncClient, services: Services
) -> None:
    run = await create(api)
    model, waiting = engine(), asyncio.Event()

    async def before() -> None:
        if len(model.requests) >= 15:
            waiting.set()
            await asyncio.sleep(600)

    model.asynchronous.before = before
    driving = asyncio.create_task((await driver(services, model)).drive(run.id))
    await asyncio.wait_for(waiting.wait(), 20)
    cancelled = OptimizationRun.model_validate(ok(await api.post(f"{PATH}/{run.id}/cancel")))
    assert cancelled.status is RunStatus.CANCELLED
    done = await asyncio.wait_for(driving, 10)
    assert done is not None
    shown = await get(api, run)
    assert (shown.status, shown.stopped_because) == (RunStatus.CANCELLED, StopReason.CANCELLED)
    assert len(await trials_of(api, shown)) > 0
    asked = len(model.requests)
    model.asynchronous.before = None
    ok(await api.post(f"{PATH}/{run.id}/resume"), 202)
    whole = engine()
    await (await driver(services, whole)).drive(run.id)
    again = await get(api, run)
    assert (again.status, again.error, again.attempt) == (RunStatus.COMPLETED, None, 2)
    assert again.versions
    answered = asked + len(whole.requests)
    # Those that were under way at the cancel are charged: their providers may have answered.
    assert answered <= again.spent.lm_calls <= answered + again.limits.threads


async def test_an_attempt_that_another_followed_stops_and_writes_no_more(
    api: httpx.AsyncClient, services: Services, rows: Rows
) -> None:
    run = await create(api)
    model, waiting = engine(), asyncio.Event()

    async def before() -> None:
        if len(model.requests) >= 5:
            waiting.set()
            await asyncio.sleep(600)

    model.asynchronous.before = before
    first = asyncio.create_task((await driver(services, model)).drive(run.id))
    await asyncio.wait_for(waiting.wait(), 20)
    await lose(services, run)
    await (await driver(services, engine())).drive(run.id)
    done = await get(api, run)
    written = await rows.dump()
    await asyncio.wait_for(first, 10)
    assert (done.status, done.attempt) == (RunStatus.COMPLETED, 2)
    answers = written.pop("optimization_answers")
    now = await rows.dump()
    assert answers == now.pop("optimization_answers") == []
    assert now == written


async def test_a_budget_is_never_passed_and_what_was_found_is_kept(
    api: httpx.AsyncClient, services: Services
) -> None:
    run = await create(
        api,
        optimizer="BootstrapFewShotWithRandomSearch",
        parameters={"num_candidate_programs": 4},
        budget={"lm_calls": 30},
    )
    model = engine()
    await (await driver(services, model)).drive(run.id)
    shown = await get(api, run)
    assert (shown.status, shown.stopped_because) == (RunStatus.COMPLETED, StopReason.BUDGET)
    assert shown.detail == "lm_calls"
    assert len(model.requests) == shown.spent.lm_calls == 30


async def test_a_program_that_only_fails_says_so(
    api: httpx.AsyncClient, services: Services, rows: Rows
) -> None:
    run = await create(api)
    model = FakeEngine(lambda request: json.dumps({"topic": "no such topic"}))
    await (await driver(services, model)).drive(run.id)
    shown = await get(api, run)
    assert shown.status is RunStatus.FAILED
    assert shown.error is not None
    assert "the program failed in all of its" in shown.error
    assert (await rows.of("optimization_versions"), len(await rows.of("program_versions"))) == (
        [],
        1,
    )


async def test_a_metric_may_ask_a_model_of_its_own(
    api: httpx.AsyncClient, services: Services
) -> None:
    judge = {
        "metric": "llm_judge",
        "options": {"model": "other", "rubric": "is it the topic?", "adapter": "json"},
    }
    run = await create(api, optimizer="LabeledFewShot", parameters={"k": 2}, metric=judge)

    def judged(request: Any) -> Any:
        wanted = str(request.config.response_format)
        return answer(request) if "topic" in wanted else json.dumps({"grounds": "so", "score": 0.5})

    model = FakeEngine(judged)
    await (await driver(services, model)).drive(run.id)
    shown = await get(api, run)
    assert (shown.status, shown.error) == (RunStatus.COMPLETED, None)
    assert shown.spent.lm_calls == len(model.requests) == 2 * shown.dev_examples


async def test_an_embedding_model_says_which_examples_are_alike(
    api: httpx.AsyncClient, services: Services
) -> None:
    parameters = {"strategies": ["diverse"], "candidates_per_strategy": 3}
    run = await create(
        api, optimizer="AdvancedBootstrap", parameters=parameters, embedding_model="other"
    )
    assert (run.embedding_model, run.estimate.cost_usd is None) == ("other", False)
    model = engine()
    models = await fake_models(services, model)
    await (await driver(services, model, models)).drive(run.id)
    shown = await get(api, run)
    assert (shown.status, shown.error) == (RunStatus.COMPLETED, None)
    assert [len(texts) for texts in models.embedded] == [12, 3]  # to cluster, and to tell apart
    assert shown.spent.lm_calls == len(model.requests) + 2


async def test_one_attempt_at_a_time(api: httpx.AsyncClient, services: Services) -> None:
    run = await create(api, optimizer="LabeledFewShot", parameters={})
    drivers = [await driver(services, engine()) for _ in range(3)]
    done = await asyncio.gather(*(one.drive(run.id) for one in drivers))
    assert [one.attempt for one in done if one is not None] == [1]
