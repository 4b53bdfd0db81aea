from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr

from dspex_ray.client.address import Address, address_of
from dspex_ray.client.bodies import calling, json_of, made, params, path, payload, query, read
from dspex_ray.core.errors import DspexRayError, Invalid
from dspex_ray.core.page import Page
from dspex_ray.models.model import Model, ModelSpec, ModelUpdate, Price, Provider
from dspex_ray.serving.model import BatchAsk, Prediction
from dspex_ray.traces.model import ExecutionQuery, UsageGroup, UsageQuery
from tests.unit.client import wire


def test_only_what_was_given_is_sent_and_secrets_in_clear() -> None:
    spec = ModelSpec(
        name="m",
        provider=Provider.OPENAI,
        model_name="gpt",
        api_key=SecretStr("sk-1"),
        price=Price(prompt_usd_per_token=Decimal("0.0000015")),
    )
    assert json.loads(payload(spec)) == {
        "name": "m",
        "provider": "openai",
        "model_name": "gpt",
        "api_key": "sk-1",
        "price": {"prompt_usd_per_token": "0.0000015"},
    }


def test_null_is_sent_when_it_was_given() -> None:
    assert json.loads(payload(ModelUpdate(api_key=None))) == {"api_key": None}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), "\ud800"])
def test_what_json_cannot_say_is_refused_before_it_is_sent(value: Any) -> None:
    with pytest.raises(Invalid) as caught:
        json_of({"x": value})
    assert (caught.value.field, caught.value.rule) == ("body", "json")


def test_a_noun_of_ours_that_does_not_fit_names_field_and_rule() -> None:
    with pytest.raises(Invalid) as caught:
        made(BatchAsk, items=[])
    assert (caught.value.field, caught.value.rule) == ("items", "too_short")


def test_parts_of_paths_are_quoted() -> None:
    assert path("/v1/{a}/x/{b}", a="né ws/../x", b="p@2") == "/v1/n%C3%A9%20ws%2F..%2Fx/x/p@2"


@pytest.mark.parametrize("part", ["", ".", ".."])
def test_what_would_be_another_path_is_refused(part: str) -> None:
    with pytest.raises(Invalid) as caught:
        path("/v1/models/{name}", name=part)
    assert caught.value.field == "name"


def test_queries() -> None:
    assert params(a=None, b=False, c=Provider.LOCAL) == {"b": False, "c": "local"}
    assert query(None) == {}
    assert query(ExecutionQuery(fallback=True, program=None)) == {"fallback": True}
    wanted = UsageQuery(group_by=[UsageGroup.DAY, UsageGroup.MODEL])
    assert query(wanted) == {"group_by": ["day", "model"]}


def test_fields_of_a_newer_server_are_dropped() -> None:
    body = {"items": [wire.model(stats={"new": 1}, newer=2)], "next_cursor": None, "newest": 3}
    found = read(Page[Model], json.dumps(body), "http://platform")
    assert found.items[0].name == "smol"


@pytest.mark.parametrize("content", [b"", b"<html>secret</html>", b"{}", b'{"outputs": "secret"}'])
def test_answers_that_do_not_fit(content: bytes) -> None:
    with pytest.raises(DspexRayError, match=r"^http://platform answered something") as caught:
        read(Prediction, content, "http://platform")
    assert type(caught.value) is DspexRayError
    assert "secret" not in caught.value.message


def test_headers_of_a_call() -> None:
    assert calling(None, None, None) == {}
    assert calling("u-1", 1.5, {"a": "1", "b": "2"}) == {
        "x-dspex-session": "u-1",
        "x-dspex-timeout-ms": "1500",
        "x-dspex-tags": "a=1,b=2",
    }
    with pytest.raises(Invalid) as caught:
        calling("u\r\nx: y", None, None)
    assert caught.value.field == "x-dspex-session"


def test_address_as_given_else_by_environment_else_local() -> None:
    environment = {"DSPEX_URL": "https://there/", "DSPEX_API_KEY": "k"}
    assert address_of(None, None, {}) == Address("http://127.0.0.1:8000", None)
    assert address_of(None, None, environment) == Address("https://there", SecretStr("k"))
    assert address_of("http://x:1", "mine", environment) == Address("http://x:1", SecretStr("mine"))
    assert "mine" not in repr(address_of("http://x:1", "mine", {}))


@pytest.mark.parametrize("url", ["there", "ftp://x", "http://", "http://x:port", "file:///etc"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        address_of(url, None, {})
    assert caught.value.field == "base_url"


def test_a_key_that_is_none_is_refused_without_quoting_it() -> None:
    with pytest.raises(Invalid) as caught:
        address_of(None, "ke\ny", {})
    assert "ke" not in caught.value.message.replace("key", "")
