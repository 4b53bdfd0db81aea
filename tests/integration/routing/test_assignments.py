"""Assignments through HTTP: every strategy and condition is kept, everything unknown refused."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import pytest

from dspex_ray.routing.model import RoutingStrategy
from tests.integration.conftest import a_model, a_program, ok, refused
from tests.integration.rows import Rows

pytestmark = pytest.mark.integration
ON_P = "/v1/programs/p/assignments"
TWO = {
    "modules": {
        "draft": {"type": "predict", "signature": "question -> draft"},
        "judge": {
            "type": "chain_of_thought",
            "signature": "draft -> answer",
            "inputs": {"draft": "draft.draft"},
        },
    }
}


@pytest.fixture(autouse=True)
async def things(api: httpx.AsyncClient) -> None:
    """A program with two predictors, and five models."""
    ok(await api.post("/v1/programs", json={"name": "p", "source": TWO}), 201)
    for number in range(5):
        ok(await api.post("/v1/models", json=a_model(f"m{number}")), 201)


async def test_every_strategy_and_condition_is_kept(api: httpx.AsyncClient) -> None:
    conditions = {"input_size_max": 100, "context_required": "tenant", "cost_limit": "0.01"}
    made = []
    for number, strategy in enumerate(RoutingStrategy):
        body = {
            "model": f"m{number}",
            "routing_strategy": strategy,
            "priority": number,
            "weight": number,
            "conditions": conditions,
        }
        assignment = ok(await api.post(ON_P, json=body), 201)
        assert body.items() <= (assignment | {"model": assignment["model_name"]}).items()
        made.append(assignment)
    assert ok(await api.get(ON_P))["items"] == made[::-1]  # highest priority first


async def test_a_new_assignment_has_counted_nothing(api: httpx.AsyncClient) -> None:
    new = ok(await api.post(ON_P, json={"model": "m0"}), 201)
    assert (new["routing_strategy"], new["priority"], new["weight"]) == ("primary", 0, 100)
    assert new["conditions"] == {
        "input_size_max": None,
        "context_required": None,
        "cost_limit": None,
    }
    assert (new["total_requests"], new["successful_requests"], new["total_cost"]) == (0, 0, "0")


async def test_an_unknown_condition_is_refused_by_name(api: httpx.AsyncClient, rows: Rows) -> None:
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"moon_phase": "full"}, "conditions.moon_phase", "extra_forbidden"),
        ({"input_size_max": -1}, "conditions.input_size_max", "greater_than_equal"),
        ({"input_size_max": "big"}, "conditions.input_size_max", "int_parsing"),
        ({"context_required": ""}, "conditions.context_required", "string_too_short"),
        ({"cost_limit": "-0.1"}, "conditions.cost_limit", "greater_than_equal"),
    ]
    kept = ok(await api.post(ON_P, json={"model": "m1"}), 201)
    before = await rows.dump()
    for conditions, field, rule in cases:
        for answer in (
            await api.post(ON_P, json={"model": "m0", "conditions": conditions}),
            await api.post(
                "/v1/routes/r/assignments", json={"model": "m0", "conditions": conditions}
            ),
            await api.patch(f"/v1/assignments/{kept['id']}", json={"conditions": conditions}),
        ):
            refused(answer, 422, field=field, rule=rule)
    assert await rows.dump() == before


async def test_what_does_not_exist_is_not_assigned(api: httpx.AsyncClient, rows: Rows) -> None:
    before = await rows.dump()
    problem = refused(await api.post(ON_P, json={"model": "none"}), 404)
    assert problem["details"] == {"kind": "model", "name": "none"}
    problem = refused(await api.post("/v1/programs/none/assignments", json={"model": "m0"}), 404)
    assert problem["details"] == {"kind": "program", "name": "none"}
    answer = await api.post(ON_P, json={"model": "m0", "predictor": "judge"})
    problem = refused(answer, 422, field="predictor", rule="known predictor")
    assert problem["detail"] == (
        "program 'p' has no predictor 'judge' (it has: draft, judge.predict)"
    )
    answer = await api.post(ON_P, json={"model": "m0", "routing_strategy": "guess"})
    refused(answer, 422, field="routing_strategy", rule="enum")
    answer = await api.post("/v1/routes/a%20b/assignments", json={"model": "m0"})
    refused(answer, 422, field="route", rule="name")
    assert await rows.dump() == before


async def test_a_program_without_a_version_has_no_predictors(api: httpx.AsyncClient) -> None:
    ok(await api.post("/v1/programs", json={"name": "draft"}), 201)
    path = "/v1/programs/draft/assignments"
    refused(await api.post(path, json={"model": "m0", "predictor": "main"}), 409)
    ok(await api.post(path, json={"model": "m0"}), 201)


async def test_a_model_serves_each_target_once(api: httpx.AsyncClient, rows: Rows) -> None:
    """The whole program and each of its predictors are targets of their own."""
    ok(await api.post("/v1/programs", json=a_program("q")), 201)
    targets: list[tuple[str, dict[str, Any]]] = [
        (ON_P, {}),
        (ON_P, {"predictor": "draft"}),
        (ON_P, {"predictor": "judge.predict"}),
        ("/v1/programs/q/assignments", {}),
        ("/v1/routes/p/assignments", {}),
        ("/v1/routes/other/assignments", {}),
    ]
    for path, more in targets:
        ok(await api.post(path, json={"model": "m0", **more}), 201)
    before = await rows.dump()
    for path, more in targets:
        problem = refused(await api.post(path, json={"model": "m0", "priority": 9, **more}), 409)
        assert problem["code"] == "already_exists"
        assert problem["details"]["field"] == "model"
    assert await rows.dump() == before
    assert ok(await api.get("/v1/routes"))["items"] == ["other", "p"]
    assert len(ok(await api.get(ON_P))["items"]) == 3


async def test_an_update_changes_what_it_names(api: httpx.AsyncClient, rows: Rows) -> None:
    new = ok(await api.post(ON_P, json={"model": "m0", "priority": 3}), 201)
    path = f"/v1/assignments/{new['id']}"
    change = {"weight": 7, "routing_strategy": "fallback", "conditions": {"input_size_max": 5}}
    changed = ok(await api.patch(path, json=change, headers={"if-match": '"1"'}))
    assert (changed["weight"], changed["priority"], changed["revision"]) == (7, 3, 2)
    assert changed["conditions"]["input_size_max"] == 5
    before = await rows.dump()
    problem = refused(await api.patch(path, json={"weight": 8}, headers={"if-match": '"1"'}), 412)
    assert problem["detail"] == "assignment is at revision 2, not 1: read it again"
    for bad, field in (({"weight": -1}, "weight"), ({"model": "m1"}, "model")):
        assert refused(await api.patch(path, json=bad), 422)["details"]["field"] == field
    assert await rows.dump() == before


async def test_a_removed_assignment_is_gone(api: httpx.AsyncClient) -> None:
    new = ok(await api.post("/v1/routes/r/assignments", json={"model": "m0"}), 201)
    ok(await api.delete(f"/v1/assignments/{new['id']}"), 204)
    refused(await api.delete(f"/v1/assignments/{new['id']}"), 404)
    refused(await api.patch(f"/v1/assignments/{uuid4()}", json={"weight": 1}), 404)
    refused(await api.delete("/v1/assignments/no-id"), 422)
    assert ok(await api.get("/v1/routes"))["items"] == []


async def test_a_value_out_of_its_columns_range_is_refused(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    before = await rows.dump()
    refused(
        await api.post(ON_P, json={"model": "m0", "priority": 2**31}),
        422,
        rule="range",
        field="body",
    )
    assert await rows.dump() == before
