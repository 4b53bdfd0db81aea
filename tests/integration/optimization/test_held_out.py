"""Runs with test examples: kept from the optimizer, measured at the end; and fronts."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from dspex_ray.bootstrap import Services
from dspex_ray.core.page import Page
from dspex_ray.optimization import service
from dspex_ray.optimization.front import Front
from dspex_ray.optimization.model import StopReason
from dspex_ray.optimization.registry import Registry, builtin_registry
from dspex_ray.optimization.run_rules import label_of
from dspex_ray.optimization.runs import OptimizationRun, RunImportance, RunStatus, SeenExample
from tests.integration.conftest import ok, refused
from tests.integration.optimization import parts
from tests.integration.optimization.parts import PATH, asked, create, driver, get, resources
from tests.unit.optimization.fronts import SmallFront
from tests.unit.optimization.parts import engine

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("_resources")]
TESTED = {"examples": {"sizes": {"train": 8, "dev": 8, "test": 6}, "seed": 1}}
SMALL = {"optimizer": "SmallFront", "parameters": {}, "confirm": True, **TESTED}
MANY = SMALL | {"parameters": {"sizes": [1, 2, 3, 4, 5, 6, 7, 8]}}
KEPT = 5 * 6  #: the start and four points on six examples


@pytest.fixture
async def _resources(api: httpx.AsyncClient) -> None:
    await resources(api)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> SmallFront:
    """An optimizer of fronts, in the registry of API and driver for this test."""
    optimizer, known = SmallFront(), builtin_registry()
    known.register(optimizer)

    def registry() -> Registry:
        return known

    monkeypatch.setattr(service, "registry", registry)
    monkeypatch.setattr(parts, "registry", registry)
    return optimizer


async def parts_of(api: httpx.AsyncClient, run: OptimizationRun) -> dict[str, set[str]]:
    answered = ok(await api.get(f"{PATH}/{run.id}/examples", params={"limit": 200}))
    found: dict[str, set[str]] = {}
    for one in Page[SeenExample].model_validate(answered).items:
        found.setdefault(one.part, set()).add(one.hash)
    return found


async def front_of(api: httpx.AsyncClient, run: OptimizationRun) -> Front:
    return Front.model_validate(ok(await api.get(f"{PATH}/{run.id}/front")))


@pytest.mark.parametrize("optimizer", ["DspexSearch", "LabeledFewShot"])
async def test_every_optimizers_version_is_measured_beside_its_start(
    api: httpx.AsyncClient, services: Services, optimizer: str
) -> None:
    pending = await create(api, optimizer=optimizer, parameters={}, **TESTED)
    assert (pending.test_examples, pending.held_out_calls) == (6, 12)
    model = engine()
    await (await driver(services, model)).drive(pending.id)
    shown = await get(api, pending)
    assert (shown.status, shown.error) == (RunStatus.COMPLETED, None)
    evidence = shown.held_out
    assert evidence is not None
    assert (evidence.examples, evidence.missing) == (6, None)
    assert evidence.start is not None
    (found,), (made,) = evidence.versions, shown.versions
    assert (found.candidate, found.version) == (made.hash, made.version)
    assert found.selection == made.score
    assert found.selection is not None
    assert found.flattered == pytest.approx(found.selection - found.score)
    assert found.lead is not None
    assert found.lead.estimate == pytest.approx(found.score - evidence.start.score)
    assert found.lead.n == 6
    assert found.score in found.interval
    assert found.figures["accuracy"] == found.score
    assert shown.spent.lm_calls == len(model.requests) == shown.program_runs


async def test_what_is_tested_on_is_no_optimizers_to_see(
    api: httpx.AsyncClient, services: Services, small: SmallFront
) -> None:
    run = await create(api, **SMALL)
    await (await driver(services, engine())).drive(run.id)
    seen = await parts_of(api, run)
    assert {part: len(hashes) for part, hashes in seen.items()} == {"train": 8, "dev": 8, "test": 6}
    assert small.given == seen["train"] | seen["dev"]
    assert not small.given & seen["test"]


async def test_the_search_leaves_room_for_it(
    api: httpx.AsyncClient, services: Services, small: SmallFront
) -> None:
    budget = 2 * KEPT + 2
    run = await create(api, **MANY, budget={"lm_calls": budget})
    assert run.held_out_calls == KEPT
    model = engine()
    await (await driver(services, model)).drive(run.id)
    shown = await get(api, run)
    assert small.budgets == [budget - KEPT]
    assert (shown.stopped_because, shown.detail) == (StopReason.BUDGET, "lm_calls")
    assert shown.held_out is not None
    assert shown.held_out.missing is None
    assert shown.held_out.start is not None
    assert len(model.requests) == shown.spent.lm_calls == budget - KEPT + 2 * 6


@pytest.mark.parametrize("calls", [1, 12])
async def test_a_budget_without_room_for_the_search_is_refused(
    api: httpx.AsyncClient, small: SmallFront, calls: int
) -> None:
    body = asked(**SMALL, budget={"lm_calls": calls})
    problem = refused(await api.post(PATH, json=body), 422, field="budget.lm_calls",
                      rule="above 12")  # fmt: skip
    assert problem["detail"] == (
        f"budget.lm_calls is {calls}: measuring the start and the best version on 6 test examples "
        "takes 12 calls, and leaves none for the search"
    )


async def test_what_is_kept_is_in_the_estimate(api: httpx.AsyncClient) -> None:
    quick = {"optimizer": "LabeledFewShot", "parameters": {}}
    without = ok(await api.post(f"{PATH}/estimate", json=asked(**quick)))
    sizes = parts.SIZES | {"test": 4}
    told = ok(await api.post(f"{PATH}/estimate", json=asked(**quick, examples={"sizes": sizes})))
    assert told["lm_calls"] == without["lm_calls"] + 8
    assert told["basis"] == without["basis"] + ", and 8 calls on test examples"


async def test_a_budget_that_ends_meanwhile_loses_only_the_evidence(
    api: httpx.AsyncClient, services: Services, small: SmallFront
) -> None:
    """A front of more points than it was said to have: they find no room."""
    one = SMALL | {"parameters": {"front_size": 1}}
    searching, kept = 4 * 8, 2 * 6
    run = await create(api, **one, budget={"lm_calls": searching + kept})
    assert run.held_out_calls == kept
    model = engine()
    await (await driver(services, model)).drive(run.id)
    shown, front = await get(api, run), await front_of(api, run)
    assert (shown.status, shown.error) == (RunStatus.COMPLETED, None)
    assert shown.stopped_because is StopReason.FINISHED
    assert len(model.requests) == shown.spent.lm_calls == searching + kept
    assert len(shown.versions) == len(front.points) > 2
    evidence = shown.held_out
    assert evidence is not None
    assert evidence.missing == (
        f"the budget of lm_calls ended: 2 of {len(front.points)} programs were measured"
    )
    versions = [one.version for one in evidence.versions]
    assert versions == [shown.versions[0].version, run.version]  # the pick, and the start
    measured = {point.version for point in front.points if point.held_out is not None}
    assert measured == set(versions)


async def test_every_point_of_a_front_is_a_version(
    api: httpx.AsyncClient, services: Services, small: SmallFront
) -> None:
    run = await create(api, **SMALL)
    await (await driver(services, engine())).drive(run.id)
    shown, front = await get(api, run), await front_of(api, run)
    assert shown.status is RunStatus.COMPLETED
    assert len(front.points) == shown.front_points == len(shown.versions) > 2
    assert (front.examples, front.held_out_examples) == (8, 6)
    numbers = {version.hash: version.version for version in shown.versions}
    assert {point.candidate: point.version for point in front.points} == numbers
    (pick,) = [point for point in front.points if point.picked]
    assert (shown.versions[0].hash, shown.versions[0].label) == (pick.candidate, label_of(run))
    assert {version.label for version in shown.versions[1:]} == {None}
    start = next(v for v in shown.versions if v.hash == run.artifact_hash)
    assert (start.version, start.created) == (run.version, False)
    assert shown.held_out is not None
    scores = {one.version: one.score for one in shown.held_out.versions}
    told = {point.version: point.held_out for point in front.points}
    assert told == {number: {"accuracy": score} for number, score in scores.items()}
    leads = {one.version: one.lead is None for one in shown.held_out.versions}
    assert leads == {number: number == run.version for number in scores}
    assert ok(await api.get("/v1/programs/p"))["labels"][label_of(run)] == pick.version
    listed = ok(await api.get(PATH))["items"]
    assert "front" not in listed[0]
    assert listed[0]["front_points"] == len(front.points)


async def test_a_front_needs_no_version(
    api: httpx.AsyncClient, services: Services, small: SmallFront
) -> None:
    run = await create(api, optimizer="SmallFront", parameters={}, register_best=0, confirm=True)
    await (await driver(services, engine())).drive(run.id)
    shown, front = await get(api, run), await front_of(api, run)
    assert shown.versions == ()
    assert shown.held_out is None
    versions = {point.version for point in front.points}
    assert versions == {None, run.version}  # the start is one already


async def test_a_run_without_a_front_says_why(
    api: httpx.AsyncClient, services: Services, stranger: httpx.AsyncClient
) -> None:
    run = await create(api, optimizer="LabeledFewShot", parameters={"k": 2})
    pending = refused(await api.get(f"{PATH}/{run.id}/front"), 404)
    assert pending["detail"] == (
        f"optimization {run.id} has no front: it is pending, and has one when it ends"
    )
    await (await driver(services, engine())).drive(run.id)
    done = refused(await api.get(f"{PATH}/{run.id}/front"), 404)
    assert done["detail"] == (
        f"optimization {run.id} has no front: LabeledFewShot searches by one objective, which has "
        "a best and no front"
    )
    for suffix in ("front", "importance"):
        refused(await stranger.get(f"{PATH}/{run.id}/{suffix}"), 404)


async def test_cancelled_while_it_is_measured_it_keeps_its_versions(
    api: httpx.AsyncClient, services: Services, small: SmallFront
) -> None:
    run = await create(api, **SMALL)
    model, waiting = engine(), asyncio.Event()

    async def before() -> None:
        if len(model.requests) >= 4 * 8 + 3:
            waiting.set()
            await asyncio.sleep(600)

    model.asynchronous.before = before
    driving = asyncio.create_task((await driver(services, model)).drive(run.id))
    await asyncio.wait_for(waiting.wait(), 20)
    ok(await api.post(f"{PATH}/{run.id}/cancel"))
    await asyncio.wait_for(driving, 10)
    shown = await get(api, run)
    assert shown.status is RunStatus.CANCELLED
    assert len(shown.versions) > 1
    assert shown.held_out is not None
    assert shown.held_out.missing is not None
    assert shown.held_out.missing.startswith("the run was cancelled: 0 of ")
    asked_before = len(model.requests)
    ok(await api.post(f"{PATH}/{run.id}/resume"), 202)
    whole = engine()
    await (await driver(services, whole)).drive(run.id)
    again = await get(api, run)
    assert (again.status, again.versions) == (RunStatus.COMPLETED, shown.versions)
    assert again.held_out is not None
    assert again.held_out.missing is None
    assert len(whole.requests) + asked_before <= again.spent.lm_calls + again.limits.threads


async def test_importance_is_of_the_trials_that_were_recorded(
    api: httpx.AsyncClient, services: Services, small: SmallFront
) -> None:
    run = await create(api, **MANY)
    refused(await api.get(f"{PATH}/{run.id}/importance"), 404)
    await (await driver(services, engine())).drive(run.id)
    found = RunImportance.model_validate(ok(await api.get(f"{PATH}/{run.id}/importance")))
    assert {one.objective for one in found.objectives} == {"accuracy", "demos"}
    for one in found.objectives:
        assert one.shares == {"demos": pytest.approx(1.0)}
        assert one.trials == 9


async def test_embeddings_leave_the_held_out_examples_their_calls(
    api: httpx.AsyncClient, services: Services
) -> None:
    run = await create(
        api,
        metric={"metric": "semantic_similarity", "options": {"model": "other"}},
        optimizer="DspexSearch",
        parameters={"num_candidates": 8},
        budget={"lm_calls": 44},  # each run of the program and its metric are two of them
        **TESTED,
    )
    assert run.held_out_calls == 24  # the start and the best; the search wants more than the rest
    await (await driver(services, engine())).drive(run.id)
    shown = await get(api, run)
    assert (shown.stopped_because, shown.detail) == (StopReason.BUDGET, "lm_calls")
    assert shown.held_out is not None
    assert shown.held_out.missing is None
    assert shown.spent.lm_calls <= 44
