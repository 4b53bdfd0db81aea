"""API keys through HTTP and through the door that makes the first one."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import pytest

from dspex_ray.access.rules import bearer, prefix_of, verify
from dspex_ray.access.store import every_live_record
from dspex_ray.bootstrap import Services
from dspex_ray.core.errors import Denied
from tests.integration.conftest import Client, ok, refused
from tests.integration.rows import Rows

pytestmark = pytest.mark.integration


async def test_the_first_key_is_made_once(services: Services, client_of: Client) -> None:
    first = await services.keys.first("dev")
    assert first is not None
    assert await services.keys.first("dev") is None
    (listed,) = ok(await client_of(first.secret).get("/v1/keys"))["items"]
    assert listed == first.key.model_dump(mode="json")
    assert listed["scopes"] == ["admin"]


async def test_a_name_is_taken_by_a_live_key_alone(api: httpx.AsyncClient, rows: Rows) -> None:
    ok(await api.post("/v1/keys", json={"name": "k"}), 201)
    before = await rows.dump()
    problem = refused(await api.post("/v1/keys", json={"name": "k"}), 409)
    assert problem["detail"] == "a live key named 'k' exists"
    assert await rows.dump() == before
    ok(await api.post("/v1/keys/k/revoke"))
    refused(await api.post("/v1/keys/k/revoke"), 404)
    ok(await api.post("/v1/keys", json={"name": "k"}), 201)


async def test_a_key_is_revoked_by_its_prefix_too(
    api: httpx.AsyncClient, client_of: Client
) -> None:
    minted = ok(await api.post("/v1/keys", json={"name": "k"}), 201)
    ok(await client_of(minted["secret"]).get("/v1/models"))
    ok(await api.post(f"/v1/keys/{minted['key']['prefix']}/revoke"))
    refused(await client_of(minted["secret"]).get("/v1/models"), 401)


async def test_what_a_key_cannot_be_is_refused(api: httpx.AsyncClient, rows: Rows) -> None:
    before = await rows.dump()
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"scopes": []}, "scopes", "too_short"),
        ({"scopes": ["everything"]}, "scopes.0", "enum"),
        ({"requests_per_minute": 0}, "requests_per_minute", "greater_than_equal"),
        ({"expires_at": "2030-01-01T00:00:00"}, "expires_at", "timezone_aware"),
        ({"secret": "mine"}, "secret", "extra_forbidden"),
    ]
    for change, field, rule in cases:
        answer = await api.post("/v1/keys", json={"name": "k", **change})
        refused(answer, 422, field=field, rule=rule)
    assert await rows.dump() == before


async def test_the_data_plane_judges_a_key_as_the_control_plane_does(
    api: httpx.AsyncClient, services: Services
) -> None:
    """From its snapshot of records, without the database."""
    body = {"name": "k", "scopes": ["invoke"], "requests_per_minute": 5}
    secret = ok(await api.post("/v1/keys", json=body), 201)["secret"]
    prefix = prefix_of(secret)
    async with services.database.read() as conn:
        records = {record.prefix: record for record in await every_live_record(conn)}
    record = records[str(prefix)]
    assert record.hash == hashlib.sha256(secret.encode()).digest()
    assert record.requests_per_minute == 5
    now = services.clock.now()
    assert verify(bearer(f"bearer  {secret} "), record, now).actor.name == f"key:{prefix}"
    for wrong in (secret[:-1], secret + "x", f"{prefix}_other"):
        with pytest.raises(Denied, match="this API key is not known"):
            verify(wrong, record, now)
    ok(await api.post("/v1/keys/k/revoke"))
    async with services.database.read() as conn:
        assert prefix not in {record.prefix for record in await every_live_record(conn)}


async def test_every_change_of_keys_is_a_change_of_the_configuration(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    """Replicas learn of it by the version."""
    versions = []
    for path, body in (("/v1/keys", {"name": "k"}), ("/v1/keys/k/revoke", None)):
        versions.append((await rows.of("configuration"))[0]["version"])
        await api.post(path, json=body)
    versions.append((await rows.of("configuration"))[0]["version"])
    assert versions == [versions[0], versions[0] + 1, versions[0] + 2]
