"""Runs whose candidates are elsewhere: the ledger, the memory and the record as in one process."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from dspex_ray.bootstrap import Services
from dspex_ray.optimization.door import CallDoor
from dspex_ray.optimization.model import StopReason
from dspex_ray.optimization.runs import OptimizationRun, RunStatus
from dspex_ray.testing.fake_lm import FakeEngine
from tests.integration.optimization.parts import create, driver, fake_models, get, resources
from tests.integration.optimization.test_driver import Dies, lose, trials_of
from tests.integration.rows import Rows
from tests.unit.optimization.parts import answer, engine
from tests.unit.optimization.wired import Wired

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("_resources")]
SIMILAR = {"metric": "semantic_similarity", "options": {"model": "other"}}


@pytest.fixture
async def _resources(api: httpx.AsyncClient) -> None:
    await resources(api)


@pytest.fixture
def wired(monkeypatch: pytest.MonkeyPatch) -> Wired:
    return Wired(monkeypatch, CallDoor())


def parts(wired: Wired, actors: int = 2) -> dict[str, Any]:
    return {"pool": lambda limits: wired.pool(actors), "door": wired.door, "name": "run"}


async def told(api: httpx.AsyncClient, run: OptimizationRun) -> list[Any]:
    what = {"number", "candidate", "score", "examples", "lm_calls"}
    return [trial.model_dump(include=what) for trial in await trials_of(api, run)]


@pytest.mark.parametrize("actors", [1, 2])
async def test_it_finds_what_one_process_finds(
    api: httpx.AsyncClient, services: Services, wired: Wired, actors: int
) -> None:
    metrics = [{"metric": "exact_match", "label": "again"}]
    here, there = await create(api, metrics=metrics), await create(api, metrics=metrics)
    local, remote = engine(), engine()
    await (await driver(services, local)).drive(here.id)
    await (await driver(services, remote, **parts(wired, actors))).drive(there.id)
    one, other = await get(api, here), await get(api, there)
    assert (other.status, other.error) == (RunStatus.COMPLETED, None)
    assert [v.hash for v in other.versions] == [v.hash for v in one.versions]
    assert await told(api, other) == await told(api, one)
    assert len(remote.requests) == len(local.requests) == other.spent.lm_calls
    assert other.spent.usd == one.spent.usd
    assert len(wired.actors) == actors
    assert [spec.name for spec in other.metrics] == ["again"]


@pytest.mark.parametrize("optimizer", ["DspexSearch", "BootstrapFewShotWithRandomSearch"])
async def test_a_killed_one_goes_on_elsewhere_too_without_paying_twice(
    api: httpx.AsyncClient, services: Services, rows: Rows, wired: Wired, optimizer: str
) -> None:
    asked: dict[str, Any] = {"optimizer": optimizer}
    if optimizer != "DspexSearch":
        asked["parameters"] = {"num_candidate_programs": 2}
    whole = engine()
    reference = await create(api, **asked)
    await (await driver(services, whole)).drive(reference.id)
    made = 0

    def until_killed(request: Any) -> Any:
        nonlocal made
        made += 1
        if made > 20:
            raise Dies
        return answer(request)

    run = await create(api, **asked)
    first = await driver(services, FakeEngine(until_killed), **parts(wired))
    with pytest.raises(BaseException):  # noqa: B017, PT011 - a group around Dies, or itself
        await first.drive(run.id)
    kept = await rows.of("optimization_answers")
    assert len(kept) == 20
    assert all(row["latency_ms"] is not None for row in kept)
    await lose(services, run)
    second = engine()
    await (await driver(services, second, **parts(wired))).drive(run.id)
    done = await get(api, run)
    assert (done.status, done.attempt) == (RunStatus.COMPLETED, 2)
    assert len(second.requests) == len(whole.requests) - 20
    assert [v.hash for v in done.versions] == [v.hash for v in (await get(api, reference)).versions]


async def test_a_cancel_reaches_what_is_under_way(
    api: httpx.AsyncClient, services: Services, wired: Wired
) -> None:
    run, model, waiting = await create(api), engine(), asyncio.Event()

    async def before() -> None:
        if len(model.requests) >= 15:
            waiting.set()
            await asyncio.sleep(600)

    model.asynchronous.before = before
    driving = asyncio.create_task((await driver(services, model, **parts(wired))).drive(run.id))
    await asyncio.wait_for(waiting.wait(), 20)
    assert (await api.post(f"/v1/optimizations/{run.id}/cancel")).status_code == 200
    await asyncio.wait_for(driving, 10)
    shown = await get(api, run)
    assert (shown.status, shown.stopped_because) == (RunStatus.CANCELLED, StopReason.CANCELLED)


async def test_embeddings_are_calls_that_are_remembered(
    api: httpx.AsyncClient, services: Services, rows: Rows, wired: Wired
) -> None:
    run = await create(api, metric=SIMILAR, optimizer="LabeledFewShot", parameters={"k": 2})
    model = engine()
    models = await fake_models(services, model)
    embed, made = models.embed, 0

    async def until_killed(*arguments: Any) -> Any:
        nonlocal made
        made += 1
        if made > 3:
            raise Dies
        return await embed(*arguments)

    models.embed = until_killed  # type: ignore[assignment, method-assign]
    with pytest.raises(BaseException):  # noqa: B017, PT011
        await (await driver(services, model, models, **parts(wired))).drive(run.id)
    answered = len(await rows.of("optimization_answers"))
    assert answered == len(model.requests) + 3
    await lose(services, run)
    models.embed = embed  # type: ignore[method-assign]
    await (await driver(services, model, models, **parts(wired))).drive(run.id)
    done = await get(api, run)
    assert (done.status, done.error) == (RunStatus.COMPLETED, None)
    assert len(models.embedded) == len(model.requests) == done.dev_examples
    # Those that were under way when it was killed are charged.
    assert 2 * done.dev_examples <= done.spent.lm_calls <= 2 * done.dev_examples + 8


async def test_candidates_go_by_the_models_that_they_name(
    api: httpx.AsyncClient, services: Services, wired: Wired
) -> None:
    source = {
        "adapter": "minimal",
        "models": {"": "other"},
        "module": {
            "type": "predict",
            "signature": "text -> topic: Literal['business', 'politics', 'sports', 'tech']",
            "config": {"temperature": 0},
        },
    }
    assert (await api.post("/v1/programs", json={"name": "q", "source": source})).status_code == 201
    assert (await api.post("/v1/programs/q/assignments", json={"model": "m"})).status_code == 201
    for asked, pins in (({}, {"": "other"}), ({"model": "m"}, {})):
        model = engine()
        models = await fake_models(services, model)
        run = await create(
            api, program="q@1", optimizer="LabeledFewShot", parameters={"k": 2}, **asked
        )
        await (await driver(services, model, models, **parts(wired))).drive(run.id)
        done = await get(api, run)
        assert (done.status, done.error) == (RunStatus.COMPLETED, None)
        assert models.pinned == [pins]
