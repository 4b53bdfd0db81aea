from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from dspy.lm15 import Config, Message, NotConfiguredError, Request, Response, Usage
from pydantic import SecretStr

from dspex_ray.core.errors import Invalid
from dspex_ray.core.ids import DEFAULT_PROJECT, ModelId
from dspex_ray.models.failure import classify
from dspex_ray.models.hosting import HostingOptions, hosting_options
from dspex_ray.models.model import ErrorClass, Model, Provider
from dspex_ray.models.providers import ModelEngine, build_engine, read_options

NOW = datetime(2026, 3, 1, tzinfo=UTC)
KEY = SecretStr("sk-1234567890abcdef")


def model(provider: Provider = Provider.OPENAI, **more: Any) -> Model:
    fields: dict[str, Any] = {"model_name": "sim-1", **more}
    return Model(
        id=ModelId(UUID(int=1)),
        project_id=DEFAULT_PROJECT,
        name="m",
        provider=provider,
        created_at=NOW,
        updated_at=NOW,
        **fields,
    )


class RecordingLM:
    provider = "openai"

    def __init__(self) -> None:
        self.seen: list[Request] = []

    async def complete(self, request: Request) -> Response:
        self.seen.append(request)
        return Response(
            id="1",
            model="sim-1",
            message=Message.assistant("ok"),
            finish_reason="stop",
            usage=Usage(input_tokens=1, output_tokens=1),
        )


async def sent(model: Model, config: Config) -> Request:
    """The request that reaches the wire code for one that asks for `config`."""
    lm = RecordingLM()
    options = read_options(model.provider, model.config)
    engine = ModelEngine(lm, model, options.defaults, secret="none", owns_transport=False)
    await engine.complete(Request(model="any", messages=(Message.user("hi"),), config=config))
    return lm.seen[0]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"compt": "vllm"}, "config.compt"),
        ({"compat": "no-such-server"}, "config.compat"),
        ({"compat": ["vllm"]}, "config.compat"),
        ({"headers": []}, "config.headers"),
        ({"headers": {"Authorization": "Bearer x"}}, "config.headers.Authorization"),
        ({"headers": {"X-API-Key": "x"}}, "config.headers.X-API-Key"),
        ({"headers": {"x y": "1"}}, "config.headers.x y"),
        ({"headers": {"x-team": "a\r\nHost: b"}}, "config.headers.x-team"),
        ({"headers": {"x-team": 1}}, "config.headers.x-team"),
        ({"defaults": "hot"}, "config.defaults"),
        ({"defaults": {"heat": 1}}, "config.defaults.heat"),
        ({"defaults": {"temperature": 3}}, "config.defaults.temperature"),
        ({"defaults": {"max_tokens": "many"}}, "config.defaults.max_tokens"),
        ({"defaults": {"extensions": {"api_key": "sk-1"}}}, "config.defaults.extensions"),
        ({"defaults": {"extensions": {"n": 2}}}, "config.defaults.extensions"),
    ],
)
def test_a_wrong_option_is_named(config: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        read_options(Provider.OPENAI, config)
    assert refused.value.field == field
    assert "sk-1" not in refused.value.message


@pytest.mark.parametrize(
    ("hosting", "field"),
    [
        ("two", "config.hosting"),
        ({"replicas": 0}, "config.hosting.replicas"),
        ({"parallel": 17}, "config.hosting.parallel"),
        ({"prompt_batch": 0}, "config.hosting.prompt_batch"),
        ({"copies": 2}, "config.hosting.copies"),
    ],
)
def test_a_wrong_option_of_hosting_is_named(hosting: Any, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        read_options(Provider.LOCAL, {"hosting": hosting})
    assert refused.value.field == field


def test_only_local_models_are_hosted() -> None:
    config = {"hosting": {"replicas": 2}}
    assert hosting_options(config) == HostingOptions(replicas=2, parallel=2)
    read_options(Provider.LOCAL, config)
    with pytest.raises(Invalid, match=r"config\.hosting is unknown"):
        read_options(Provider.OPENAI, config)


def test_presets_are_those_of_the_providers_wire() -> None:
    assert read_options(Provider.OPENAI_COMPATIBLE, {"compat": "vllm"}).compat is not None
    assert read_options(Provider.ANTHROPIC, {"compat": "deepseek"}).compat is not None
    with pytest.raises(Invalid, match="known for provider 'anthropic' are anthropic, deepseek"):
        read_options(Provider.ANTHROPIC, {"compat": "vllm"})


async def test_defaults_fill_what_the_request_leaves_open() -> None:
    config = {
        "defaults": {
            "temperature": 0.2,
            "stop": ["END"],
            "extensions": {"chat_template_kwargs": {"a": 1}, "verbosity": "low"},
        }
    }
    open_request = await sent(model(config=config), Config())
    assert open_request.model == "sim-1"
    assert open_request.config == Config(
        temperature=0.2,
        stop=("END",),
        extensions={"chat_template_kwargs": {"a": 1}, "verbosity": "low"},
    )
    own = await sent(
        model(config=config), Config(temperature=0.0, stop=("X",), extensions={"verbosity": "high"})
    )
    assert own.config == Config(
        temperature=0.0,
        stop=("X",),
        extensions={"chat_template_kwargs": {"a": 1}, "verbosity": "high"},
    )


@pytest.mark.parametrize(
    ("cap", "default", "asked", "expected"),
    [
        (None, None, None, None),
        (100, None, None, 100),
        (100, None, 50, 50),
        (100, None, 500, 100),
        (100, 20, None, 20),
        (100, 200, None, 100),
        (None, 20, None, 20),
        (None, 20, 500, 500),
    ],
)
async def test_max_tokens_is_default_and_cap(
    cap: int | None, default: int | None, asked: int | None, expected: int | None
) -> None:
    config = {} if default is None else {"defaults": {"max_tokens": default}}
    request = await sent(model(max_tokens=cap, config=config), Config(max_tokens=asked))
    assert request.config.max_tokens == expected


async def test_execution_controls_in_a_request_are_refused() -> None:
    with pytest.raises(ValueError, match="api_key"):
        await sent(model(), Config(extensions={"api_key": "sk-1"}))


@pytest.mark.parametrize(
    "provider", [Provider.OPENAI, Provider.ANTHROPIC, Provider.COHERE, Provider.HUGGINGFACE]
)
@pytest.mark.parametrize("key", [None, SecretStr("")])
def test_a_missing_key_is_a_configuration_error(
    provider: Provider, key: SecretStr | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-process")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-the-process")
    with pytest.raises(NotConfiguredError, match="has no API key") as refused:
        build_engine(model(provider), key)
    assert classify(refused.value).error_class is ErrorClass.CONFIGURATION


def test_a_hosted_model_needs_a_way_to_it() -> None:
    with pytest.raises(NotConfiguredError) as refused:
        build_engine(model(Provider.LOCAL), None)
    assert classify(refused.value).error_class is ErrorClass.CONFIGURATION


@pytest.mark.parametrize("key", ["sk-1\r\nHost: x", "sk-ключ", "sk-1\x00"])
def test_a_key_that_no_header_can_carry_is_not_repeated(key: str) -> None:
    with pytest.raises(Invalid) as refused:
        build_engine(model(), SecretStr(key))
    assert refused.value.field == "api_key"
    assert key not in refused.value.message
