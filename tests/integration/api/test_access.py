"""Every endpoint asks for a key and a scope, and answers for one project alone.

Driven by the app's own list of routes: an endpoint that is added and not walked through fails.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from dspex_ray.core.actor import Scope
from dspex_ray.core.ids import DEFAULT_PROJECT
from tests.integration.api.house import NAMES, SECRET_MARK, Call, House, calls, endpoints, scope_of
from tests.integration.conftest import STRANGER, Client, a_model, ok, refused
from tests.integration.rows import Rows

pytestmark = pytest.mark.integration

# The reference of the API itself: it wants a key too, by HTTP Basic, and has a test of its own.
REFERENCE = {("GET", path) for path in ("/openapi.json", "/docs")}


def test_every_endpoint_is_walked_through(app: FastAPI) -> None:
    walked = [call.endpoint for call in calls(House("", ""))]
    assert set(walked) == endpoints(app) - REFERENCE
    assert len(walked) == len(set(walked))


@pytest.mark.parametrize("authorization", [None, "", "Bearer ", "Basic YTpi", "Bearer nonsense"])
async def test_no_endpoint_answers_without_a_key(
    app: FastAPI, client_of: Client, authorization: str | None
) -> None:
    client = client_of(None)
    headers = {} if authorization is None else {"authorization": authorization}
    for method, path in sorted(endpoints(app) - REFERENCE):
        answer = await client.request(method, path, headers=headers)
        problem = refused(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
        assert problem["code"] == "denied"


async def test_the_reference_asks_a_browser_for_the_key(
    client_of: Client, keys: dict[Scope, str]
) -> None:
    for _, path in sorted(REFERENCE):
        without = await client_of(None).get(path)
        assert without.status_code == 401
        assert without.headers["www-authenticate"].startswith("Basic ")
        basic = httpx.BasicAuth("anybody", keys[Scope.READ])
        shown = await client_of(None).get(path, auth=basic)
        assert shown.status_code == 200
        assert "/v1/models" in shown.text


async def test_every_endpoint_asks_for_its_own_scope(
    app: FastAPI, client_of: Client, keys: dict[Scope, str]
) -> None:
    for method, path in sorted(endpoints(app) - REFERENCE):
        needed = scope_of(method, path)
        for held in set(Scope) - {needed, Scope.ADMIN}:
            problem = refused(await client_of(keys[held]).request(method, path), 403)
            assert problem["details"] == {"reason": "forbidden", "scope": needed}, (method, path)
        for held in {needed, Scope.ADMIN}:
            answer = await client_of(keys[held]).request(method, path)
            assert answer.status_code not in (401, 403), (method, path)


async def test_an_expired_and_a_revoked_key_are_refused(
    api: httpx.AsyncClient, client_of: Client, clock: Any
) -> None:
    dated = {"name": "dated", "expires_at": "2026-01-01T12:00:10Z"}
    expiring = ok(await api.post("/v1/keys", json=dated), 201)["secret"]
    lasting = ok(await api.post("/v1/keys", json={"name": "lasting"}), 201)["secret"]
    assert ok(await client_of(expiring).get("/v1/models"))["items"] == []
    clock.advance(10)
    assert "has expired" in refused(await client_of(expiring).get("/v1/models"), 401)["detail"]
    assert ok(await api.post("/v1/keys/lasting/revoke"))["revoked_at"] is not None
    assert "is revoked" in refused(await client_of(lasting).get("/v1/models"), 401)["detail"]


async def test_a_stranger_sees_and_changes_nothing(
    house: House, api: httpx.AsyncClient, stranger: httpx.AsyncClient, rows: Rows
) -> None:
    before = await house_rows(rows)
    assert SECRET_MARK in str(before)
    for call in calls(house):
        answer = await call.send(stranger)
        expected = {404} if call.at and call.endpoint not in OPEN else {200, 201, 404}
        assert answer.status_code in expected, (call, answer.text)
        traces = {SECRET_MARK, str(DEFAULT_PROJECT), house.assignment, *NAMES}
        asked = f"{call.at} {call.body}"  # what the stranger knew, a refusal may repeat
        assert not [t for t in traces if t not in asked and t in answer.text], (call, answer.text)
    assert await house_rows(rows) == before
    assert str(STRANGER) in str(await rows.dump())  # what it made, it made in its own project


async def test_a_name_is_free_in_another_project(house: House, stranger: httpx.AsyncClient) -> None:
    made = ok(await stranger.post("/v1/models", json=a_model("house-m")), 201)
    assert made["project_id"] == str(STRANGER)
    assert [m["name"] for m in ok(await stranger.get("/v1/models"))["items"]] == ["house-m"]


async def test_every_mutation_leaves_its_audit_events(
    house: House, api: httpx.AsyncClient, client_of: Client, keys: dict[Scope, str], rows: Rows
) -> None:
    """The same walk with the house's own key: all of it succeeds, and each change has its row."""
    ok(await api.post("/v1/models", json=a_model("unused")), 201)
    prefix = keys[Scope.ADMIN].rsplit("_", 1)[0]
    for call in calls(house):
        before = {event["id"] for event in await rows.of("audit_events")}
        ok_status(await call.send(api), call)
        new = [event for event in await rows.of("audit_events") if event["id"] not in before]
        assert len(new) == call.writes, (call, new)
        for event in new:
            assert prefix.startswith(event["actor"].removeprefix("key:"))
            assert event["project_id"] == DEFAULT_PROJECT
            assert event["before"] is not None or event["after"] is not None


# A route is there for whoever asks, and optimizers are of no project.
OPEN = {("GET", "/v1/routes/{name}/assignments"), ("GET", "/v1/optimizers/{name}")}


def ok_status(answer: httpx.Response, call: Call) -> None:
    assert answer.status_code in (200, 201, 202, 204), (call, answer.text)


async def house_rows(rows: Rows) -> dict[str, list[str]]:
    """All rows of the default project, and those that have no project."""
    return {
        table: [row for row in held if str(STRANGER) not in row]
        for table, held in (await rows.dump()).items()
        if table not in ("configuration", "procrastinate_jobs", "procrastinate_events")
    }
