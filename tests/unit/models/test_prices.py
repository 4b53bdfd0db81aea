from __future__ import annotations

import socket
from decimal import Decimal
from typing import Any

import pytest

from dspex_ray.models import prices
from dspex_ray.models.model import ModelSpec, Price, Provider
from dspex_ray.models.prices import price_of


def spec(provider: Provider, model_name: str, **more: Any) -> ModelSpec:
    return ModelSpec(name="m", provider=provider, model_name=model_name, **more)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a price was looked up over the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    prices._catalog.cache_clear()


def test_an_operators_price_wins_over_the_catalog() -> None:
    given = Price(prompt_usd_per_token=Decimal(1), completion_usd_per_token=Decimal(2))
    assert price_of(spec(Provider.OPENAI, "gpt-4o-mini", price=given)) == (given, "operator")


def test_the_shorthand_is_one_price_for_both() -> None:
    found = price_of(spec(Provider.OPENAI, "gpt-4o-mini", cost_per_token=Decimal("0.00003")))
    assert found.source == "shorthand"
    assert found.price == Price(
        prompt_usd_per_token=Decimal("0.00003"), completion_usd_per_token=Decimal("0.00003")
    )


def test_the_catalog_gives_exact_decimals() -> None:
    found = price_of(spec(Provider.OPENAI, "gpt-4o-mini"))
    assert found.source == "catalog"
    assert found.price == Price(
        prompt_usd_per_token=Decimal("0.00000015"),
        completion_usd_per_token=Decimal("0.0000006"),
        cached_prompt_usd_per_token=Decimal("0.000000075"),
    )


@pytest.mark.parametrize(
    ("provider", "model_name"),
    [(Provider.ANTHROPIC, "claude-sonnet-4-5"), (Provider.COHERE, "command-r-plus-08-2024")],
)
def test_other_providers_are_listed_too(provider: Provider, model_name: str) -> None:
    found = price_of(spec(provider, model_name))
    assert found.source == "catalog"
    assert found.price.known


@pytest.mark.parametrize(
    ("provider", "model_name", "base_url"),
    [
        (Provider.OPENAI, "no-such-model", None),
        (Provider.OPENAI, "gpt-4o-mini", "https://proxy.example.com/v1"),
        (Provider.OPENAI, "claude-sonnet-4-5", None),
        (Provider.LOCAL, "gpt-4o-mini", None),
        (Provider.OPENAI_COMPATIBLE, "gpt-4o-mini", "https://proxy.example.com/v1"),
    ],
)
def test_unknown_is_not_zero(provider: Provider, model_name: str, base_url: str | None) -> None:
    assert price_of(spec(provider, model_name, base_url=base_url)) == (Price(), "unknown")
