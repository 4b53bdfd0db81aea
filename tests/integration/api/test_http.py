"""Bad requests, each with one clear answer; and what the API says when Postgres is away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from dspex_ray.api.control import control_app
from dspex_ray.bootstrap import Services, keyring_of, services_of
from dspex_ray.core.page import encode_cursor
from dspex_ray.db.engine import Database
from dspex_ray.settings import Settings
from dspex_ray.testing.fake_clock import FakeClock
from tests.integration.conftest import ScriptedProvider, a_model, a_program, ok, refused
from tests.integration.rows import Rows

pytestmark = pytest.mark.integration
JSON = {"content-type": "application/json"}
CURSORS_OF_NOBODY = [
    *("x", "!!!", "e30", "bnVsbA", "W10", "é", "AAAA"),
    encode_cursor("a", "b"),
    encode_cursor(),
]
BAD_BODIES = [
    (b"", "body", "missing"),
    (b"no json", "body", "json_invalid"),
    (b'{"name": "m"', "body", "json_invalid"),
    (b"[]", "body", "model_attributes_type"),
    (b"null", "body", "model_attributes_type"),
    (b'{"name": 5, "provider": "local", "model_name": "m"}', "name", "string_type"),
    (b'{"name": "m", "provider": "acme", "model_name": "m"}', "provider", "enum"),
    (b'{"name": "m", "provider": "local"}', "model_name", "missing"),
    (
        b'{"name": "m", "provider": "local", "model_name": "m", "colour": "red"}',
        "colour",
        "extra_forbidden",
    ),
    (
        b'{"name": "m", "provider": "local", "model_name": "m", "timeout_s": NaN}',
        "timeout_s",
        "less_than_equal",
    ),
    (b'{"name": "m\\u0000", "provider": "local"}', "body.name", "no null bytes"),
    (b'{"name": "m\x00"}', "body", "no null bytes"),
    (b'{"name": "\\ud800", "provider": "local", "model_name": "m"}', "name", "value_error"),
    (
        b'{"name": "m", "provider": "local", "model_name": "\\ud800"}',
        "model_name",
        "string_unicode",
    ),
    (
        b'{"name": "m", "provider": "local", "model_name": "m", "max_tokens": 99999999999}',
        "body",
        "range",
    ),
]


@pytest.fixture
async def untouched(api: httpx.AsyncClient, rows: Rows) -> AsyncIterator[None]:
    """The test writes nothing to any table."""
    before = await rows.dump()
    yield
    assert await rows.dump() == before


@pytest.mark.usefixtures("untouched")
async def test_an_oversized_body_is_refused_by_its_declared_length(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    limit = settings.gateway.max_body_bytes
    headers = {**JSON, "content-length": str(limit + 1)}
    problem = refused(await api.post("/v1/models", content=b"{}", headers=headers), 413)
    assert problem["detail"] == f"the body is over {limit} bytes"
    assert problem["code"] == "too_large"


@pytest.mark.usefixtures("untouched")
async def test_an_oversized_body_in_chunks_is_stopped_on_its_way(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1_000):
            sent += 100_000
            yield b" " * 100_000

    refused(await api.post("/v1/apply", content=endless(), headers=JSON), 413)
    assert sent <= settings.gateway.max_body_bytes + 200_000


@pytest.mark.usefixtures("untouched")
async def test_half_a_file_of_a_client_that_went_away_is_not_applied(
    app: FastAPI, api: httpx.AsyncClient
) -> None:
    """The first half of this file would be a whole one."""
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"managed_by: me\n", "more_body": True},
        {"type": "http.disconnect"},
    ]
    answered: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        answered.append(message)

    key = api.headers["authorization"].encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/apply",
        "root_path": "/api",
        "query_string": b"",
        "headers": [(b"authorization", key)],
    }
    await app(scope, receive, send)
    assert answered == []


@pytest.mark.usefixtures("untouched")
async def test_a_bad_body_is_refused_by_field_and_rule(api: httpx.AsyncClient) -> None:
    for body, field, rule in BAD_BODIES:
        answer = await api.post("/v1/models", content=body, headers=JSON)
        refused(answer, 422, field=field, rule=rule)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a": "\\u0000", "b": ' + b"[" * 100_000])
async def test_a_bottomless_body_is_refused(api: httpx.AsyncClient, body: bytes) -> None:
    answer = await api.post("/v1/models", content=body, headers=JSON)
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_every_fault_is_listed_and_no_value_is_repeated(api: httpx.AsyncClient) -> None:
    body = {"name": "x" * 101, "model_name": {"not": "planted-here"}, "apikey": "sk-planted"}
    answer = await api.post("/v1/models", json=body)
    faults = refused(answer, 422)["details"]["faults"]
    assert {fault["field"] for fault in faults} == {"name", "provider", "model_name", "apikey"}
    assert "planted" not in answer.text


@pytest.mark.usefixtures("untouched")
async def test_names_are_checked_wherever_they_are_given(api: httpx.AsyncClient) -> None:
    bodies = {"/v1/models": a_model(), "/v1/programs": a_program(), "/v1/keys": {}}
    for name in ("", "ünïcode", "a b", "-a", "a" * 101, "a/b", "..", "名前"):
        for path, body in bodies.items():
            answer = await api.post(path, json=body | {"name": name})
            refused(answer, 422, field="name", rule="value_error")


@pytest.mark.usefixtures("untouched")
async def test_strange_names_in_paths_are_refused_or_not_found(api: httpx.AsyncClient) -> None:
    calls = [
        ("GET", "/v1/models/{}"),
        ("POST", "/v1/models/{}/approve"),
        ("GET", "/v1/programs/{}/split"),
        ("DELETE", "/v1/programs/{}/split"),
        ("POST", "/v1/keys/{}/revoke"),
    ]
    for name in ("%00", "a%00b", "%F0%9F%A6%86", "%FF", "..%2f..", "a" * 5_000):
        for method, path in calls:
            answer = await api.request(method, path.format(name))
            refused(answer, 422 if "%00" in name else 404)


async def test_a_null_byte_in_a_query_is_refused(api: httpx.AsyncClient) -> None:
    refused(await api.get("/v1/audit?kind=%00"), 422)


async def test_a_cursor_of_nobody_or_of_another_list_is_refused(api: httpx.AsyncClient) -> None:
    await api.post("/v1/programs", json=a_program())
    by_name = ("/v1/models", "/v1/programs")
    for path in (*by_name, "/v1/programs/p/versions", "/v1/audit", "/v1/executions"):
        others = [] if path in by_name else [encode_cursor("a-model")]
        for cursor in CURSORS_OF_NOBODY + others:
            answer = await api.get(path, params={"cursor": cursor})
            refused(answer, 422, field="cursor", rule="opaque")


async def test_pages_follow_each_other_without_gap_or_double(api: httpx.AsyncClient) -> None:
    names = [f"m{number}" for number in range(7)]
    for name in reversed(names):
        ok(await api.post("/v1/models", json=a_model(name)), 201)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = ok(
            await api.get(
                "/v1/models", params={"limit": 3} | ({"cursor": cursor} if cursor else {})
            )
        )
        seen += [item["name"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        assert seen[-1] not in cursor  # opaque
    assert seen == names
    audited = ok(await api.get("/v1/audit", params={"limit": 4, "kind": "model"}))
    rest = ok(
        await api.get("/v1/audit", params={"kind": "model", "cursor": audited["next_cursor"]})
    )
    resources = [event["resource_id"] for event in audited["items"] + rest["items"]]
    assert resources == names  # registered in reverse, listed newest first
    for limit in ("0", "501", "many"):
        assert (await api.get("/v1/models", params={"limit": limit})).status_code == 422


async def test_unknown_addresses_and_methods_are_problems_too(api: httpx.AsyncClient) -> None:
    assert refused(await api.get("/v1/nothing"), 404)["code"] == "not_found"
    assert refused(await api.put("/v1/models", json={}), 405)["title"] == "Invalid"
    answer = await api.get("/v1/models/none", headers={"x-request-id": "r-1"})
    assert refused(answer, 404) == {
        "type": "urn:dspex-ray:not_found",
        "title": "NotFound",
        "status": 404,
        "detail": "no model 'none' in this project",
        "instance": "/api/v1/models/none",
        "code": "not_found",
        "request_id": "r-1",
        "details": {"kind": "model", "name": "none"},
    }


async def test_an_etag_of_nobody_is_refused(api: httpx.AsyncClient) -> None:
    ok(await api.post("/v1/models", json=a_model()), 201)
    for value in ("x", "W/", '"-1"', '"1.5"', '"²"'):
        headers = {b"if-match": value.encode()}
        answer = await api.patch("/v1/models/m", json={"max_tokens": 1}, headers=headers)
        refused(answer, 422, field="If-Match", rule="etag")


async def test_postgres_away_is_503_and_says_when_to_come_back(
    settings: Settings, clock: FakeClock
) -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/none")
    services = services_of(settings, away, keyring_of(settings), ScriptedProvider(clock), clock)
    async with _client(services, "dspex_0000000000_x") as client:
        for path in ("/v1/models", "/v1/programs", "/v1/executions"):
            answer = await client.get(path)
            assert refused(answer, 503)["code"] == "unavailable"
            assert answer.headers["retry-after"] == "1"
            assert "127.0.0.1" not in answer.text
    await away.close()


async def test_an_exhausted_pool_is_503(
    services: Services, keys: dict[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All connections are held by others, for longer than a request waits for one."""
    pool = services.database.engine.pool
    monkeypatch.setattr(pool, "_timeout", 0.05)
    async with asyncio.timeout(10):
        held = [await services.database.engine.connect() for _ in range(5)]
        try:
            async with _client(services, keys[next(iter(keys))]) as client:
                refused(await client.get("/v1/models"), 503)
        finally:
            for connection in held:
                await connection.close()


def _client(services: Services, key: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=control_app(services), root_path="/api")
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(transport=transport, base_url="http://dspex/api", headers=headers)


async def test_an_error_of_postgres_repeats_no_value(
    api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    body = a_model(max_tokens=99_999_999_999, model_name="planted-text")
    answer = await api.post("/v1/models", json=body)
    assert "planted" not in json.dumps(answer.json())
    assert "planted" not in caplog.text
