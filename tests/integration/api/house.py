"""A project with one of everything, and one call of every endpoint of the control plane on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import httpx
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from dspex_ray.access.model import NewApiKey
from dspex_ray.bootstrap import Services
from dspex_ray.core.actor import SYSTEM, Scope
from dspex_ray.core.ids import DEFAULT_PROJECT, OptimizationId
from dspex_ray.core.objectives import Objective
from dspex_ray.optimization import store
from dspex_ray.optimization.front import Front, FrontPoint
from dspex_ray.optimization.runs import RunTrial
from tests.integration.conftest import a_model, a_program, ok
from tests.integration.traces.conftest import drain_all, drainer, spooled
from tests.unit.traces.records import a_call, a_record, an_attempt, record_id

SECRET_MARK = "mark-of-the-house"  # in every text that a stranger could be shown

NAMES = ("house-m", "house-idle", "house-p", "house-old", "house-r", "house-key", "house-d")

MEASURE = {
    "program": "house-p@1",
    "dataset": "house-d",
    "metrics": [{"metric": "exact_match"}],
    "settings": {"model": "house-idle"},
}
SEARCH = {
    "program": "house-p@1",
    "dataset": "house-d",
    "optimizer": "LabeledFewShot",
    "metric": {"metric": "exact_match"},
    "model": "house-idle",
}


class Call(NamedTuple):
    """One use of an endpoint. `at` fills the path, `writes` audit events follow from it."""

    method: str
    path: str
    at: dict[str, str] = {}
    body: Any = None
    writes: int = 1

    @property
    def endpoint(self) -> tuple[str, str]:
        return self.method, self.path

    async def send(self, client: httpx.AsyncClient) -> httpx.Response:
        url = self.path.format(**self.at)
        if isinstance(self.body, bytes):
            headers = {"content-type": "application/x-ndjson"}
            return await client.request(self.method, url, content=self.body, headers=headers)
        if isinstance(self.body, str):
            headers = {"content-type": "application/yaml"}
            return await client.request(self.method, url, content=self.body, headers=headers)
        return await client.request(self.method, url, json=self.body)


class House(NamedTuple):
    assignment: str
    execution: str
    evaluation: str = ""  #: an ended one: the events of another would go on
    optimization: str = ""  #: an ended one too


def endpoints(app: FastAPI) -> set[tuple[str, str]]:
    """(method, path) of all that the app serves, as FastAPI itself will match it."""
    return {
        (method, str(route.path))
        for route in iter_route_contexts(app.routes)
        for method in route.methods or ()
        if method != "HEAD"
    }


def scope_of(method: str, path: str) -> Scope:
    """The rule that endpoints follow: keys and audit are for admins, looking needs `read`."""
    if path.startswith(("/v1/keys", "/v1/audit")):
        return Scope.ADMIN
    looks = method == "GET" or path.endswith(
        ("/estimate-cost", "/estimate", "/space/sample", "/space/validate")
    )
    if path.startswith("/v1/datasets/"):
        looks = looks or path.endswith(("/check", "/split"))
    return Scope.READ if looks else Scope.WRITE


async def build(api: httpx.AsyncClient, services: Services, spool: Path) -> House:
    """One of everything in the default project, each with the mark in it."""
    await api.post("/v1/models", json=a_model("house-m", model_name=SECRET_MARK))
    await api.post("/v1/models", json=a_model("house-idle", model_name=SECRET_MARK))
    body = a_program("house-p", description=SECRET_MARK, labels=["production"])
    ok(await api.post("/v1/programs", json=body), 201)
    ok(await api.post("/v1/programs", json=a_program("house-old")), 201)
    assignment = ok(
        await api.post("/v1/programs/house-p/assignments", json={"model": "house-m"}), 201
    )
    ok(await api.post("/v1/routes/house-r/assignments", json={"model": "house-m"}), 201)
    whole = {"arms": [{"version": 1, "weight_bp": 10_000}]}
    ok(await api.put("/v1/programs/house-p/split", json=whole))
    ok(await api.put("/v1/programs/house-old/versions/1/placement", json={}), 202)
    await services.keys.create(SYSTEM, NewApiKey(name="house-key", scopes=(Scope.READ,)))
    call = a_call(an_attempt(model=SECRET_MARK))
    held = {"capture": "full", "inputs": {"question": SECRET_MARK}, "outputs": {"answer": "a"}}
    spooled(spool, [a_record(1, call, tags={"t": SECRET_MARK}, program="house-p", **held)])
    await drain_all(drainer(services.database, spool))
    execution = str(record_id(1))
    said = {"comment": SECRET_MARK, "score": 1}
    ok(await api.post(f"/v1/executions/{execution}/feedback", json=said), 201)
    row = json.dumps({"question": SECRET_MARK, "answer": "b"}).encode()
    upload = Call("POST", "/v1/datasets/{name}/versions?create=true", {"name": "house-d"}, row)
    ok(await upload.send(api), 201)
    ok(await api.post("/v1/datasets", json={"name": "house-unused"}), 201)
    ok(await api.post("/v1/models/house-idle/approve"))
    evaluation = ok(await api.post("/v1/evaluations", json=MEASURE), 202)["id"]
    ok(await api.post(f"/v1/evaluations/{evaluation}/cancel"))
    optimization = ok(await api.post("/v1/optimizations", json=SEARCH), 202)["id"]
    ok(await api.post(f"/v1/optimizations/{optimization}/cancel"))
    await _searched(services, OptimizationId(UUID(optimization)))
    return House(assignment["id"], execution, evaluation, optimization)


async def _searched(services: Services, run_id: OptimizationId) -> None:
    """What a search for several objectives leaves."""
    configuration, figures = {"instructions": SECRET_MARK}, {"accuracy": 0.5}
    point = FrontPoint(candidate="c", trial=1, configuration=configuration, figures=figures)
    front = Front(objectives=(Objective(name="accuracy"),), points=(point,))
    trial = RunTrial(
        number=1,
        candidate="c",
        made_by="house",
        score=0.5,
        examples=1,
        lm_calls=1,
        facts={"configuration": configuration, "figures": figures},
        at=services.clock.now(),
    )
    async with services.database.write() as conn:
        await store.put_trials(conn, DEFAULT_PROJECT, run_id, [trial])
        await store.set_fields(conn, run_id, outcome={"front": front.model_dump(mode="json")})


def calls(house: House) -> list[Call]:
    """Every endpoint once, in an order in which each succeeds for the house's own key."""
    m, p, run = {"name": "house-m"}, {"name": "house-p"}, {"execution_id": house.execution}
    two = {"source": {"module": {"type": "predict", "signature": "question -> reply"}}}
    whole = {"arms": [{"version": 1, "weight_bp": 10_000}]}
    placement = "/v1/programs/{name}/versions/{number}/placement"
    space = "/v1/programs/{name}/versions/{number}/space"
    dataset = "/v1/datasets/{name}/versions/{number}"
    e, o = {"evaluation_id": house.evaluation}, {"run_id": house.optimization}
    d, d1 = {"name": "house-d"}, {"name": "house-d", "number": "1"}
    looks = [
        Call("GET", "/v1/models"),
        Call("GET", "/v1/models/{name}", m),
        Call("GET", "/v1/models/{name}/checks", m),
        Call("GET", "/v1/models/{name}/prices", m),
        Call("POST", "/v1/models/{name}/estimate-cost", m, {"text": "how much"}),
        Call("GET", "/v1/programs"),
        Call("GET", "/v1/programs/{name}", p),
        Call("GET", "/v1/programs/{name}/versions", p),
        Call("GET", "/v1/programs/{name}/versions/{number}", {**p, "number": "1"}),
        Call("GET", "/v1/programs/{name}/versions/{number}/export", {**p, "number": "1"}),
        Call("GET", space, {**p, "number": "1"}),
        Call("POST", space + "/sample", {**p, "number": "1"}, {"n": 2}),
        Call("POST", space + "/validate", {**p, "number": "1"}, {"configuration": {}}),
        Call("GET", "/v1/programs/{name}/label-moves", p),
        Call("GET", "/v1/programs/{name}/assignments", p),
        Call("GET", "/v1/programs/{name}/split", p),
        Call("GET", "/v1/programs/{name}/placements", {"name": "house-old"}),
        Call("GET", placement, {"name": "house-old", "number": "1"}),
        Call("GET", "/v1/routes"),
        Call("GET", "/v1/routes/{name}/assignments", {"name": "house-r"}),
        Call("GET", "/v1/executions"),
        Call("GET", "/v1/executions/{execution_id}", run),
        Call("GET", "/v1/executions/{execution_id}/feedback", run),
        Call("GET", "/v1/usage"),
        Call("GET", "/v1/datasets"),
        Call("GET", "/v1/datasets/{name}", d),
        Call("GET", "/v1/datasets/{name}/versions", d),
        Call("GET", dataset, d1),
        Call("GET", dataset + "/examples", d1),
        Call("GET", dataset + "/export", d1),
        Call("POST", dataset + "/split", d1, {"sizes": {"train": 1}}),
        Call("POST", dataset + "/check", d1, {"program": "house-p"}),
        Call("GET", "/v1/evaluations"),
        Call("GET", "/v1/evaluations/{evaluation_id}", e),
        Call("GET", "/v1/evaluations/{evaluation_id}/results", e),
        Call("GET", "/v1/evaluations/{evaluation_id}/events", e),
        Call("GET", "/v1/optimizers"),
        Call("GET", "/v1/optimizers/{name}", {"name": "MIPROv2"}),
        Call("POST", "/v1/optimizations/estimate", {}, SEARCH),
        Call("GET", "/v1/optimizations"),
        Call("GET", "/v1/optimizations/{run_id}", o),
        Call("GET", "/v1/optimizations/{run_id}/trials", o),
        Call("GET", "/v1/optimizations/{run_id}/examples", o),
        Call("GET", "/v1/optimizations/{run_id}/front", o),
        Call("GET", "/v1/optimizations/{run_id}/importance", o),
        Call("GET", "/v1/optimizations/{run_id}/events", o),
        Call("GET", "/v1/keys"),
        Call("GET", "/v1/audit"),
    ]
    assign = {"model": "house-idle"}
    assignment = {"assignment_id": house.assignment}
    changes = [
        Call("POST", "/v1/keys", {}, {"name": "another"}),
        Call("POST", "/v1/keys/{key}/revoke", {"key": "house-key"}),
        Call("POST", "/v1/models", {}, a_model("another")),
        Call("PATCH", "/v1/models/{name}", m, {"max_tokens": 7}),
        Call("POST", "/v1/models/{name}/check", m),
        Call("POST", "/v1/models/{name}/approve", m),
        Call("POST", "/v1/models/{name}/deprecate", m),
        Call("POST", "/v1/models/{name}/retest", m),
        Call("POST", "/v1/programs", {}, a_program("another"), writes=2),
        Call("PATCH", "/v1/programs/{name}", p, {"description": "changed"}),
        Call("POST", "/v1/programs/{name}/versions", p, two),
        Call("PUT", "/v1/programs/{name}/labels/{label}", {**p, "label": "best"}, {"version": 1}),
        Call("POST", "/v1/programs/{name}/assignments", p, assign),
        Call("POST", "/v1/routes/{name}/assignments", {"name": "house-r"}, assign),
        Call("PATCH", "/v1/assignments/{assignment_id}", assignment, {"weight": 5}),
        Call("DELETE", "/v1/assignments/{assignment_id}", assignment),
        Call("PUT", "/v1/programs/{name}/split", p, whole),
        Call("DELETE", "/v1/programs/{name}/split", p),
        Call("PUT", placement, {**p, "number": "2"}, {}),
        Call("DELETE", placement, {**p, "number": "2"}),
        Call("POST", "/v1/executions/{execution_id}/feedback", run, {"score": 0.5}),
        Call("POST", "/v1/datasets", {}, {"name": "another"}),
        Call("PATCH", "/v1/datasets/{name}", d, {"description": "changed"}),
        Call("POST", "/v1/datasets/{name}/versions", d, b'{"question": "other"}'),
        Call("POST", "/v1/datasets/{name}/versions/from-executions", d, {"program": "house-p"}),
        Call("POST", "/v1/evaluations", {}, MEASURE),
        Call("POST", "/v1/evaluations/{evaluation_id}/cancel", e, writes=0),
        Call("POST", "/v1/optimizations", {}, SEARCH),
        Call("POST", "/v1/optimizations/{run_id}/resume", o),
        Call("POST", "/v1/optimizations/{run_id}/cancel", o),
        Call("POST", "/v1/apply", {}, "routes: [{name: applied, assignments: [{model: another}]}]"),
        Call("DELETE", "/v1/models/{name}", {"name": "unused"}),
        Call("DELETE", "/v1/datasets/{name}", {"name": "house-unused"}),
        Call("POST", "/v1/programs/{name}/archive", {"name": "house-old"}),
    ]
    return [call._replace(writes=0) for call in looks] + changes
