"""A provider key that was given is nowhere but in the sealed column, and in the provider's ear."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog
from cryptography.fernet import Fernet
from pydantic import SecretStr

from dspex_ray.bootstrap import Services, keyring_of, services_of
from dspex_ray.core.actor import SYSTEM
from dspex_ray.settings import Settings
from tests.integration.conftest import ScriptedProvider, a_model, ok
from tests.integration.rows import Rows

pytestmark = pytest.mark.integration
SECRET = "sk-planted-5f1e"
OTHER = "sk-planted-77aa"


@pytest.fixture
def logs(caplog: pytest.LogCaptureFixture) -> Iterator[list[Any]]:
    """What structlog and the standard library are told, at every level."""
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as events:
        yield events


def holds(text: str, secret: str) -> bool:
    return secret in text or secret.encode().hex() in text


async def test_an_inline_key_is_sealed_and_never_shown(
    api: httpx.AsyncClient,
    provider: ScriptedProvider,
    rows: Rows,
    logs: list[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers = [
        await api.post("/v1/models", json=a_model(api_key=SECRET)),
        await api.post("/v1/models", json=a_model(api_key=SECRET)),  # 409
        await api.post("/v1/models", json=a_model("x", api_key=SECRET, colour="red")),  # 422
        await api.get("/v1/models/m"),
        await api.post("/v1/models/m/check"),
        await api.patch("/v1/models/m", json={"api_key": OTHER}),
        await api.post("/v1/models/m/check"),
        await api.get("/v1/models"),
        await api.get("/v1/audit"),
        await api.post("/v1/apply", json={"models": [a_model("y", api_key=SECRET)]}),  # 422
    ]
    assert [answer.status_code for answer in answers] == [
        201, 409, 422, 200, 200, 200, 200, 200, 200, 422,
    ]  # fmt: skip
    assert provider.asked == [("m", SECRET), ("m", OTHER)]
    assert answers[0].json()["has_api_key"] is True
    written = json.dumps(await rows.dump())
    for secret in (SECRET, OTHER):
        assert not holds(written, secret)
        assert not any(holds(answer.text, secret) for answer in answers)
        assert not holds(caplog.text, secret)
        assert not holds(str(logs), secret)
    (model,) = await rows.of("models")
    assert model["api_key_ciphertext"] is not None


async def test_the_search_would_find_a_secret_in_a_table(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    ok(await api.post("/v1/models", json=a_model(model_name=SECRET)), 201)
    assert holds(json.dumps(await rows.dump()), SECRET)


async def test_our_own_keys_are_hashed_and_shown_once(
    api: httpx.AsyncClient, rows: Rows, logs: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    minted = ok(await api.post("/v1/keys", json={"name": "k"}), 201)
    secret = minted["secret"]
    later = [await api.get("/v1/keys"), await api.get("/v1/audit"), await api.get("/v1/models")]
    assert secret.startswith(minted["key"]["prefix"])
    assert not any(secret in answer.text for answer in later)
    assert not holds(json.dumps(await rows.dump()), secret)
    assert not holds(caplog.text + str(logs), secret)


async def test_a_key_by_reference_is_read_from_the_environment(
    api: httpx.AsyncClient, provider: ScriptedProvider, rows: Rows, environment: dict[str, str]
) -> None:
    model = ok(await api.post("/v1/models", json=a_model(api_key_ref={"env": "PROVIDER_KEY"})), 201)
    assert (model["has_api_key"], model["api_key_ref"]) == (True, {"env": "PROVIDER_KEY"})
    ok(await api.post("/v1/models/m/check"))
    assert provider.asked == [("m", environment["PROVIDER_KEY"])]
    assert not holds(json.dumps(await rows.dump()), environment["PROVIDER_KEY"])


async def test_a_missing_variable_is_a_failed_check_of_ours_to_mend(
    api: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    ok(await api.post("/v1/models", json=a_model(api_key_ref={"env": "NOT_SET"})), 201)
    check = ok(await api.post("/v1/models/m/check"))
    assert (check["ok"], check["error_class"]) == (False, "configuration")
    assert check["message"] == "environment variable 'NOT_SET' is not set on the server"
    assert provider.asked == []
    for _ in range(2):
        ok(await api.post("/v1/models/m/check"))
    assert ok(await api.get("/v1/models/m"))["status"] == "error"


async def test_an_update_replaces_one_form_of_key_by_the_other_or_removes_it(
    api: httpx.AsyncClient, provider: ScriptedProvider, environment: dict[str, str]
) -> None:
    ok(await api.post("/v1/models", json=a_model(api_key=SECRET)), 201)
    steps: list[tuple[dict[str, Any], str | None]] = [
        ({"api_key_ref": {"env": "PROVIDER_KEY"}}, environment["PROVIDER_KEY"]),
        ({"max_tokens": 5}, environment["PROVIDER_KEY"]),
        ({"api_key": OTHER}, OTHER),
        ({"api_key": None}, None),
    ]
    for change, key in steps:
        model = ok(await api.patch("/v1/models/m", json=change))
        ok(await api.post("/v1/models/m/check"))
        assert provider.asked.pop() == ("m", key)
        assert model["has_api_key"] is (key is not None)


async def test_a_key_sealed_with_another_secret_key_is_a_failed_check(
    api: httpx.AsyncClient, services: Services, settings: Settings, provider: ScriptedProvider
) -> None:
    ok(await api.post("/v1/models", json=a_model(api_key=SECRET)), 201)
    rotated = SecretStr(Fernet.generate_key().decode())
    ring = keyring_of(settings.model_copy(update={"secret_key": rotated}), {})
    other = services_of(settings, services.database, ring, provider, services.clock)
    check = await other.models.check(SYSTEM, "m")
    assert check.error_class == "configuration"
    assert check.message is not None
    assert "DSPEX_RAY_SECRET_KEY" in check.message
    assert SECRET not in check.message


async def test_what_is_named_like_a_secret_is_masked_in_the_audit_trail(
    api: httpx.AsyncClient,
) -> None:
    """Before and after; tokens that are counted are not secrets."""
    config = {"headers": {"x-org-token": OTHER}, "defaults": {"max_tokens": 5}}
    ok(await api.post("/v1/models", json=a_model(config=config, max_tokens=9)), 201)
    ok(await api.patch("/v1/models/m", json={"max_tokens": 8}))
    answer = await api.get("/v1/audit?kind=model")
    update, register = ok(answer)["items"]
    for shown in (register["after"], update["before"], update["after"]):
        assert shown["config"] == {
            "headers": {"x-org-token": "***"},
            "defaults": {"max_tokens": 5},
        }
    assert (update["before"]["max_tokens"], update["after"]["max_tokens"]) == (9, 8)
    assert OTHER not in answer.text
