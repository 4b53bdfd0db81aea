"""The SDK against the real control plane: one walk through every resource."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from dspex_ray.access.model import NewApiKey
from dspex_ray.client import AsyncDspex
from dspex_ray.core import errors
from dspex_ray.core.actor import Scope
from dspex_ray.core.ids import new_id
from dspex_ray.declarations.model import Change
from dspex_ray.models.model import ModelSpec, ModelStatus, ModelUpdate, Price, Provider
from dspex_ray.programs.model import (
    CapturePolicy,
    NewProgram,
    NewVersion,
    ProgramSource,
    ProgramUpdate,
)
from dspex_ray.routing.model import AssignmentUpdate, Conditions, NewAssignment, RoutingStrategy
from dspex_ray.serving.model import Arm, NewSplit
from dspex_ray.traces.model import ExecutionQuery, NewFeedback, UsageGroup, UsageQuery
from tests.integration.conftest import PUBLIC_URL, ScriptedProvider

pytestmark = pytest.mark.integration

SPEC = ModelSpec(
    name="m",
    provider=Provider.OPENAI_COMPATIBLE,
    model_name="any",
    base_url=PUBLIC_URL,
    api_key=SecretStr("sk-inline"),
    price=Price(
        prompt_usd_per_token=Decimal("0.000001"), completion_usd_per_token=Decimal("0.000002")
    ),
)


def source(signature: str) -> ProgramSource:
    return ProgramSource(module={"type": "predict", "signature": signature})


def a_client(app: FastAPI, key: str) -> AsyncDspex:
    """With addresses as Serve has them: the app stands under /api."""
    transport = httpx.ASGITransport(app=app, root_path="/api")
    return AsyncDspex("http://dspex", key, transport=transport)


@pytest.fixture
async def dspex(app: FastAPI, keys: dict[Scope, str]) -> AsyncIterator[AsyncDspex]:
    async with a_client(app, keys[Scope.ADMIN]) as client:
        yield client


async def test_models(dspex: AsyncDspex, provider: ScriptedProvider) -> None:
    model = await dspex.models.register(SPEC)
    assert (model.status, model.price, model.has_api_key) == (
        ModelStatus.TESTING,
        SPEC.price,
        True,
    )
    assert (await dspex.models.check("m")).ok
    assert provider.asked[-1] == ("m", "sk-inline")
    assert (await dspex.models.approve("m")).status is ModelStatus.AVAILABLE
    changed = await dspex.models.update("m", ModelUpdate(max_tokens=9, api_key=None))
    assert (changed.max_tokens, changed.has_api_key) == (9, False)
    with pytest.raises(errors.Stale):
        await dspex.models.update("m", ModelUpdate(max_tokens=8), revision=model.revision)
    cost = await dspex.models.estimate_cost("m", "hello there")
    assert cost.estimated_cost is not None
    assert len((await dspex.models.checks("m")).items) >= 1
    assert (await dspex.models.prices("m")).items[0].source == "operator"
    assert (await dspex.models.deprecate("m")).status is ModelStatus.DEPRECATED
    assert (await dspex.models.retest("m")).status is ModelStatus.TESTING
    await dspex.models.delete("m")
    with pytest.raises(errors.NotFound, match="'m'"):
        await dspex.models.get("m")


async def test_pages_of_models(dspex: AsyncDspex) -> None:
    for name in ("a", "b", "c"):
        await dspex.models.register(SPEC.model_copy(update={"name": name}), test_on_creation=False)
    page = await dspex.models.list(limit=2)
    assert [model.name for model in page.items] == ["a", "b"]
    rest = await dspex.models.list(limit=2, cursor=page.next_cursor)
    assert ([model.name for model in rest.items], rest.next_cursor) == (["c"], None)
    assert [model.name async for model in dspex.models.iterate()] == ["a", "b", "c"]
    none = dspex.models.iterate(status=ModelStatus.ERROR)
    assert [model async for model in none] == []


async def test_programs(dspex: AsyncDspex) -> None:
    new = NewProgram(name="p", source=source("question -> answer"), labels=("production",))
    program = await dspex.programs.create(new)
    assert (program.latest_version, program.labels) == (1, {"production": 1})
    second = await dspex.programs.add_version(
        "p", NewVersion(source=source("question -> answer, reason"))
    )
    assert second.number == 2
    assert (await dspex.programs.label("p", "production", 2)).labels == {"production": 2}
    moves = (await dspex.programs.label_moves("p")).items
    assert [(move.from_version, move.to_version) for move in moves] == [(1, 2), (None, 1)]
    assert [version.number for version in (await dspex.programs.versions("p")).items] == [2, 1]
    assert await dspex.programs.version("p", 2) == second
    change = ProgramUpdate(description="d", capture=CapturePolicy(mode="none"))
    updated = await dspex.programs.update("p", change)
    assert (updated.description, updated.capture.mode) == ("d", "none")
    assert [found.name async for found in dspex.programs.iterate()] == ["p"]
    assert (await dspex.programs.archive("p")).status == "archived"


async def test_an_export_loads_elsewhere_as_the_same_content(dspex: AsyncDspex) -> None:
    await dspex.programs.create(NewProgram(name="p", source=source("question -> answer")))
    await dspex.programs.create(NewProgram(name="q"))
    exported = await dspex.programs.export("p", 1)
    loaded = await dspex.programs.add_version("q", NewVersion(**exported.model_dump()))
    assert loaded.hash == exported.hash
    broken = NewVersion(artifact=exported.artifact, hash="0" * 64)
    with pytest.raises(errors.Invalid, match="hash"):
        await dspex.programs.add_version("q", broken)


async def test_assignments_and_splits(dspex: AsyncDspex) -> None:
    await dspex.models.register(SPEC, test_on_creation=False)
    await dspex.programs.create(NewProgram(name="p", source=source("question -> answer")))
    new = NewAssignment(
        model="m",
        predictor="main",
        routing_strategy=RoutingStrategy.FALLBACK,
        conditions=Conditions(cost_limit=Decimal("0.5")),
    )
    assigned = await dspex.assignments.assign("p", new)
    assert (await dspex.assignments.list("p")).items == [assigned]
    assert assigned.conditions == new.conditions
    changed = await dspex.assignments.update(
        assigned.id, AssignmentUpdate(weight=3), revision=assigned.revision
    )
    assert changed.weight == 3
    await dspex.assignments.remove(assigned.id)
    assert (await dspex.assignments.list("p")).items == []
    await dspex.assignments.assign_to_route("fast", NewAssignment(model="m"))
    assert [row.route for row in (await dspex.assignments.list_for_route("fast")).items] == ["fast"]
    assert (await dspex.assignments.routes()).items == ["fast"]

    with pytest.raises(errors.NotFound):
        await dspex.splits.get("p")
    whole = NewSplit(arms=(Arm(version=1, weight_bp=10_000),))
    applied = await dspex.splits.put("p", whole)
    assert (await dspex.splits.get("p")) == applied.split
    with pytest.raises(errors.Stale):
        await dspex.splits.put("p", whole, epoch=applied.split.epoch + 1)
    assert (await dspex.splits.remove("p")).version > applied.applied.version


async def test_executions(dspex: AsyncDspex) -> None:
    assert (await dspex.executions.list(ExecutionQuery(program="p", limit=3))).items == []
    assert [run async for run in dspex.executions.iterate()] == []
    wanted = UsageQuery(group_by=[UsageGroup.DAY, UsageGroup.MODEL])
    assert (await dspex.executions.usage(wanted)).items == []
    unknown = UUID(int=new_id().int)
    with pytest.raises(errors.NotFound):
        await dspex.executions.get(unknown)
    with pytest.raises(errors.NotFound):
        await dspex.executions.feedback(unknown, NewFeedback(score=1))
    with pytest.raises(errors.NotFound):
        await dspex.executions.list_feedback(unknown)


async def test_keys_and_scopes(dspex: AsyncDspex, app: FastAPI) -> None:
    minted = await dspex.keys.create(NewApiKey(name="reader", scopes=(Scope.READ,)))
    async with a_client(app, minted.secret) as reader:
        assert (await reader.models.list()).items == []
        with pytest.raises(errors.Denied, match="scope 'write'") as caught:
            await reader.models.register(SPEC)
        assert caught.value.details["reason"] == "forbidden"
        assert (await dspex.keys.revoke("reader")).revoked_at is not None
        with pytest.raises(errors.Denied, match="revoked"):
            await reader.models.list()
    assert "reader" in {key.name for key in (await dspex.keys.list()).items}


async def test_the_audit_trail(dspex: AsyncDspex, app: FastAPI) -> None:
    await dspex.models.register(SPEC, test_on_creation=False)
    await dspex.models.delete("m")
    found = [event async for event in dspex.audit.iterate(kind="model")]
    assert [event.action for event in found] == ["model.delete", "model.register"]
    assert "sk-inline" not in str(found)
    newest = await dspex.audit.list(kind="model", limit=1)
    assert newest.items == found[:1]
    rest = await dspex.audit.list(kind="model", limit=1, cursor=newest.next_cursor)
    assert rest.items == found[1:]


async def test_apply(dspex: AsyncDspex) -> None:
    text = (
        "models:\n"
        f"  - {{name: m, provider: openai_compatible, model_name: any, base_url: {PUBLIC_URL}}}\n"
    )
    plan = await dspex.apply(text, dry_run=True)
    assert ([step.change for step in plan.steps], plan.applied) == ([Change.CREATE], False)
    assert plan.replicas is None
    assert (await dspex.models.list()).items == []
    done = await dspex.apply(text)
    assert done.applied
    assert done.replicas is not None
    assert (done.replicas.applied, done.replicas.total) == (0, 0)  # no gateway runs here
    assert [step.change for step in (await dspex.apply(text)).steps] == [Change.UNCHANGED]
    with pytest.raises(errors.Invalid):
        await dspex.apply("modles: []")


async def test_refusals_are_the_platforms_own(dspex: AsyncDspex) -> None:
    await dspex.models.register(SPEC, test_on_creation=False)
    with pytest.raises(errors.AlreadyExists):
        await dspex.models.register(SPEC)
    with pytest.raises(errors.TransitionRefused) as caught:
        await dspex.models.retest("m")
    assert caught.value.details["state"] == "testing"
    with pytest.raises(errors.Invalid) as wrong:
        await dspex.models.list(limit=0)
    assert wrong.value.field is not None
    assert "limit" in wrong.value.field
