"""`dspex model ...`: the model registry."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import typer

from dspex_ray.cli.door import door_of
from dspex_ray.cli.inputs import json_object, noun
from dspex_ray.cli.output import Json, emit, fields, ms, say, share, table, usd, when
from dspex_ray.core.page import Page
from dspex_ray.models.model import (
    HealthCheck,
    KeyReference,
    Model,
    ModelSpec,
    ModelStatus,
    ModelUpdate,
    Price,
    Provider,
)

app = typer.Typer(no_args_is_help=True, help="The model registry.")

Name = Annotated[str, typer.Argument(help="The model's registered name.")]
ModelName = Annotated[
    str | None, typer.Option("--model", help="What the provider calls the model.")
]
KeyEnv = Annotated[
    str | None, typer.Option(help="The server's environment variable that holds the key.")
]
AskKey = Annotated[
    bool, typer.Option("--ask-key", help="Ask for the provider's key, or read it from stdin.")
]
BaseUrl = Annotated[str | None, typer.Option(help="An OpenAI-compatible server's URL.")]
Config = Annotated[str | None, typer.Option(help="Further options of the provider, as JSON.")]
PromptPrice = Annotated[str | None, typer.Option(help="USD a prompt token.")]
CompletionPrice = Annotated[str | None, typer.Option(help="USD a completion token.")]
MaxTokens = Annotated[int | None, typer.Option(help="The longest answer, in tokens.")]
ContextWindow = Annotated[int | None, typer.Option(help="Prompt and answer, in tokens.")]
Functions = Annotated[bool | None, typer.Option("--functions/--no-functions")]
Streaming = Annotated[bool | None, typer.Option("--streaming/--no-streaming")]
PerMinute = Annotated[int | None, typer.Option(help="Requests a minute, at most.")]
TimeoutS = Annotated[float | None, typer.Option(help="Seconds an attempt may take.")]
CacheTtlS = Annotated[
    int | None, typer.Option(help="Seconds an answer may be replayed to the same request.")
]


@app.command()
def register(
    context: typer.Context,
    name: Name,
    provider: Annotated[Provider, typer.Option(help="Who runs the model.")],
    model: Annotated[str, typer.Option(help="What the provider calls the model.")],
    key_env: KeyEnv = None,
    ask_key: AskKey = False,
    base_url: BaseUrl = None,
    config: Config = None,
    prompt_price: PromptPrice = None,
    completion_price: CompletionPrice = None,
    max_tokens: MaxTokens = None,
    context_window: ContextWindow = None,
    functions: Functions = None,
    streaming: Streaming = None,
    requests_per_minute: PerMinute = None,
    timeout_s: TimeoutS = None,
    cache_ttl_s: CacheTtlS = None,
    test: Annotated[bool, typer.Option("--test/--no-test", help="Check it by a call.")] = True,
    as_json: Json = False,
) -> None:
    """Register a model. It is checked by a real call soon after."""
    spec = noun(
        ModelSpec,
        name=name,
        provider=provider,
        model_name=model,
        **_settings(key_env, ask_key, config, prompt_price, completion_price),
        base_url=base_url,
        max_tokens=max_tokens,
        context_window=context_window,
        supports_functions=functions,
        supports_streaming=streaming,
        requests_per_minute=requests_per_minute,
        timeout_s=timeout_s,
        cache_ttl_s=cache_ttl_s,
    )
    with door_of(context).client() as client:
        registered = client.models.register(spec, test_on_creation=test)
    emit(as_json, registered, lambda: _draw(registered))


@app.command()
def update(
    context: typer.Context,
    name: Name,
    model: ModelName = None,
    key_env: KeyEnv = None,
    ask_key: AskKey = False,
    base_url: BaseUrl = None,
    config: Config = None,
    prompt_price: PromptPrice = None,
    completion_price: CompletionPrice = None,
    max_tokens: MaxTokens = None,
    context_window: ContextWindow = None,
    functions: Functions = None,
    streaming: Streaming = None,
    requests_per_minute: PerMinute = None,
    timeout_s: TimeoutS = None,
    cache_ttl_s: CacheTtlS = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Turn the response cache off.")
    ] = False,
    revision: Annotated[int | None, typer.Option(help="Only if it is at this revision.")] = None,
    as_json: Json = False,
) -> None:
    """Change what is given; the rest stays."""
    change = noun(
        ModelUpdate,
        model_name=model,
        **_settings(key_env, ask_key, config, prompt_price, completion_price),
        base_url=base_url,
        max_tokens=max_tokens,
        context_window=context_window,
        supports_functions=functions,
        supports_streaming=streaming,
        requests_per_minute=requests_per_minute,
        timeout_s=timeout_s,
        cache_ttl_s=cache_ttl_s,
    )
    if no_cache:
        if cache_ttl_s is not None:
            raise typer.BadParameter("give --cache-ttl-s or --no-cache, not both")
        change = change.model_copy(update={"cache_ttl_s": None})
    if not change.model_fields_set:
        raise typer.BadParameter("nothing to change: give at least one option")
    with door_of(context).client() as client:
        changed = client.models.update(name, change, revision=revision)
    emit(as_json, changed, lambda: _draw(changed))


def _settings(
    key_env: str | None,
    ask_key: bool,
    config: str | None,
    prompt_price: str | None,
    completion_price: str | None,
) -> dict[str, Any]:
    """The fields that take more than one option, or more than text."""
    priced = prompt_price is not None or completion_price is not None
    return {
        "api_key_ref": None if key_env is None else noun(KeyReference, env=key_env),
        "api_key": typer.prompt("Key", hide_input=True, err=True) if ask_key else None,
        "config": None if config is None else json_object(config, "--config"),
        "price": noun(
            Price,
            prompt_usd_per_token=prompt_price,
            completion_usd_per_token=completion_price,
        )
        if priced
        else None,
    }


@app.command("list")
def list_models(
    context: typer.Context,
    status: Annotated[ModelStatus | None, typer.Option()] = None,
    provider: Annotated[Provider | None, typer.Option()] = None,
    as_json: Json = False,
) -> None:
    """All models, with their health."""
    with door_of(context).client() as client:
        found = list(client.models.iterate(status=status, provider=provider))
    columns = ("NAME", "PROVIDER", "MODEL", "STATUS", "HEALTH", "SUCCESS", "LATENCY", "CALLS")
    rows = (
        (
            model.name,
            model.provider,
            model.model_name,
            model.status,
            model.health_status,
            share(model.stats.success_rate),
            ms(model.stats.average_latency_ms),
            model.stats.calls_total,
        )
        for model in found
    )
    emit(as_json, Page(items=found), lambda: table(columns, rows))


@app.command()
def show(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """One model."""
    with door_of(context).client() as client:
        model = client.models.get(name)
    emit(as_json, model, lambda: _draw(model))


@app.command()
def check(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Call the provider now. Exits with 1 when the check fails."""
    with door_of(context).client() as client:
        result = client.models.check(name)
    emit(as_json, result, lambda: _draw_check(result))
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def approve(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Let it serve, once a health check has passed."""
    with door_of(context).client() as client:
        model = client.models.approve(name)
    emit(as_json, model, lambda: _draw(model))


@app.command()
def deprecate(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Take it out of service; its records stay."""
    with door_of(context).client() as client:
        model = client.models.deprecate(name)
    emit(as_json, model, lambda: _draw(model))


@app.command()
def retest(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Bring a deprecated or failed model back to testing."""
    with door_of(context).client() as client:
        model = client.models.retest(name)
    emit(as_json, model, lambda: _draw(model))


@app.command()
def delete(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Remove it from the registry."""
    with door_of(context).client() as client:
        client.models.delete(name)
    emit(as_json, {"deleted": name}, lambda: f"Deleted {name}.")


@app.command()
def prices(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Its price book, newest first: USD a million tokens."""
    with door_of(context).client() as client:
        book = client.models.prices(name)
    rows = (
        (
            line.version,
            _per_million(line.prompt_usd_per_token),
            _per_million(line.completion_usd_per_token),
            _per_million(line.cached_prompt_usd_per_token),
            line.source,
            when(line.effective_at),
        )
        for line in book.items
    )
    columns = ("VERSION", "PROMPT", "COMPLETION", "CACHED", "SOURCE", "SINCE")
    emit(as_json, book, lambda: table(columns, rows))


@app.command()
def estimate(
    context: typer.Context,
    name: Name,
    text: Annotated[str, typer.Argument(help="What would be sent.")],
    as_json: Json = False,
) -> None:
    """What a text would cost; the tokenizer that counted is named."""
    with door_of(context).client() as client:
        cost = client.models.estimate_cost(name, text)
    emit(
        as_json,
        cost,
        lambda: fields(
            (
                ("tokens", cost.estimated_tokens),
                ("cost", usd(cost.estimated_cost)),
                ("tokenizer", cost.tokenizer + ("" if cost.exact else " (not the model's own)")),
            )
        ),
    )


def _draw(model: Model) -> Any:
    if model.status is ModelStatus.TESTING:
        say(f"It serves once it is approved: dspex model approve {model.name}")
    key = model.api_key_ref.env if model.api_key_ref else ("kept" if model.has_api_key else None)
    return fields(
        (
            ("name", model.name),
            ("provider", model.provider),
            ("model", model.model_name),
            ("base URL", model.base_url),
            ("key", key),
            ("status", model.status),
            ("health", model.health_status),
            ("last check", when(model.stats.last_health_check)),
            ("success rate", share(model.stats.success_rate)),
            ("latency", ms(model.stats.average_latency_ms)),
            ("calls", model.stats.calls_total),
            ("prompt price", _per_million(model.price.prompt_usd_per_token)),
            ("completion price", _per_million(model.price.completion_usd_per_token)),
            ("max tokens", model.max_tokens),
            ("context window", model.context_window),
            ("requests a minute", model.requests_per_minute),
            ("timeout", f"{model.timeout_s:g} s"),
            ("cached for", None if model.cache_ttl_s is None else f"{model.cache_ttl_s} s"),
            ("managed by", model.managed_by),
            ("revision", model.revision),
        )
    )


def _draw_check(result: HealthCheck) -> Any:
    return fields(
        (
            ("passed", "yes" if result.ok else "no"),
            ("latency", ms(result.latency_ms)),
            ("error", result.error_class),
            ("message", result.message),
            ("cost", usd(result.cost_usd)),
            ("at", when(result.at)),
        )
    )


def _per_million(price: Decimal | None) -> str:
    return "unknown" if price is None else f"{usd(price * 1_000_000)} per million"
