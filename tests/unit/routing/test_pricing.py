"""Costs before and after a call: unknown is never zero."""

from __future__ import annotations

from decimal import Decimal

import pytest
from dspy import lm15

from dspex_ray.models.model import Price, Provider
from dspex_ray.models.tokenizers import count_tokens
from dspex_ray.routing.pricing import cost_estimator, price_attempt, token_counts
from tests.unit.routing.parts import model, request

PRICE = Price(prompt_usd_per_token=Decimal("0.001"), completion_usd_per_token=Decimal("0.01"))
WORDS = "why is the sky blue?"


@pytest.mark.parametrize(
    ("asked", "cap", "expected_output"), [(None, None, 256), (10, None, 10), (None, 20, 20)]
)
def test_an_estimate_is_the_prompt_and_an_expected_answer(
    asked: int | None, cap: int | None, expected_output: int
) -> None:
    its_model = model(
        "a", provider=Provider.OPENAI, model_name="gpt-4o", price=PRICE, max_tokens=cap
    )
    sent = lm15.Request(
        model="router/p",
        system="Answer shortly.",
        messages=(lm15.Message.user(WORDS),),
        config=lm15.Config(max_tokens=asked),
    )
    prompt = count_tokens(f"Answer shortly.\n{WORDS}", Provider.OPENAI, "gpt-4o").tokens
    expected = prompt * Decimal("0.001") + expected_output * Decimal("0.01")
    assert cost_estimator(sent, its_model)() == expected


def test_a_prompt_in_parts_is_counted_too_and_an_image_is_not() -> None:
    its_model = model("a", provider=Provider.OPENAI, model_name="gpt-4o", price=PRICE)
    image = lm15.ImagePart(url="https://example.com/cat.png")
    parts = lm15.Message(role="user", parts=(lm15.TextPart(WORDS), image))
    sent = lm15.Request(model="router/p", messages=(parts,))
    with_image = cost_estimator(sent, its_model)()
    without = cost_estimator(request(WORDS), its_model)()
    assert with_image is not None
    assert without is not None
    assert without <= with_image <= without + Decimal("0.002")


@pytest.mark.parametrize("price", [Price(), Price(prompt_usd_per_token=Decimal(1))])
def test_no_price_no_estimate(price: Price) -> None:
    assert cost_estimator(request(), model("a", price=price))() is None


def test_measured_needs_usage_and_price() -> None:
    usage = lm15.Usage(input_tokens=2, output_tokens=3)
    assert price_attempt(usage, model("a", price=PRICE)) == (Decimal("0.032"), "measured")
    assert price_attempt(usage, model("a")) == (None, "unknown")
    assert price_attempt(lm15.Usage(), model("a", price=PRICE)) == (None, "unknown")


def test_a_free_model_costs_zero_and_that_is_measured() -> None:
    free = Price(prompt_usd_per_token=Decimal(0), completion_usd_per_token=Decimal(0))
    usage = lm15.Usage(input_tokens=2, output_tokens=3)
    assert price_attempt(usage, model("a", price=free)) == (Decimal(0), "measured")


def test_unreported_counts_stay_unknown() -> None:
    assert token_counts(lm15.Usage(), Provider.ANTHROPIC) == (None, None)
