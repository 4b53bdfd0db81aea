from __future__ import annotations

import copy
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import dspy
import pytest
from dspy import lm15

from dspex_ray.core.errors import Invalid
from dspex_ray.core.ids import DEFAULT_PROJECT, ModelId
from dspex_ray.models.model import Model, Price, Provider
from dspex_ray.optimization.budget import Amount, BudgetExhausted, Ledger
from dspex_ray.optimization.metering import FlatMeter, ModelsMeter, metered
from dspex_ray.optimization.model import Budget
from dspex_ray.testing.fake_lm import FakeEngine, fake_lm

CENT = FlatMeter(Decimal("0.01"), tokens=7)


def request(text: str = "one two three", max_tokens: int | None = None) -> Any:
    return lm15.Request(
        model="fake/model",
        messages=(lm15.Message.user(text),),
        config=lm15.Config(max_tokens=max_tokens),
    )


def model(name: str, prompt: str | None, completion: str | None) -> Model:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Model(
        id=ModelId(UUID(int=1)),
        project_id=DEFAULT_PROJECT,
        name=name,
        provider=Provider.OPENAI,
        model_name=name,
        price=Price.model_validate(
            {"prompt_usd_per_token": prompt, "completion_usd_per_token": completion}
        ),
        max_tokens=100,
        created_at=now,
        updated_at=now,
    )


def test_a_refused_call_never_reaches_the_engine() -> None:
    engine, ledger = FakeEngine(lambda _: "yes"), Ledger(Budget(lm_calls=2))
    lm = metered(fake_lm(engine), ledger, CENT)
    assert [lm("a"), lm("b")] == [["yes"], ["yes"]]
    with pytest.raises(BudgetExhausted):
        lm("c")
    assert len(engine.requests) == 2
    assert (ledger.spent.lm_calls, ledger.spent.tokens) == (2, 14)
    assert ledger.spent.usd == Decimal("0.02")


async def test_async_and_streamed_calls_are_paid_for_too() -> None:
    engine, ledger = FakeEngine(lambda _: "some words"), Ledger(Budget(lm_calls=3))
    lm = metered(fake_lm(engine), ledger, CENT)
    assert await lm.acall("a") == ["some words"]
    assert len(list(lm.engine.stream(request()))) == 4
    assert [e async for e in lm._async_engine_spec.stream(request())]
    with pytest.raises(BudgetExhausted):
        await lm.acall("d")
    assert (len(engine.requests), ledger.spent.lm_calls, ledger.in_flight) == (3, 3, 0)


@pytest.mark.parametrize(
    ("error", "usd"),
    [
        (lm15.RateLimitError("slow down"), "0"),
        (Invalid("too long", field="messages"), "0"),
        (lm15.ServerError("broke"), "0.01"),
        (lm15.TimeoutError("late"), "0.01"),
    ],
)
def test_a_failed_call_costs_what_was_reserved_unless_surely_nothing(
    error: Exception, usd: str
) -> None:
    ledger = Ledger(Budget())
    lm = metered(fake_lm([error]), ledger, CENT)
    with pytest.raises(Exception, match=r".+"):
        lm("a")
    assert ledger.spent.usd == Decimal(usd)
    assert (ledger.spent.lm_calls, ledger.in_flight) == (1, 0)


def test_a_stream_that_is_left_costs_what_was_reserved() -> None:
    ledger = Ledger(Budget())
    lm = metered(fake_lm(["one two three"]), ledger, CENT)
    stream = lm.engine.stream(request())
    next(stream)
    stream.close()
    assert (ledger.spent.usd, ledger.in_flight) == (Decimal("0.01"), 0)


def test_copies_of_the_lm_spend_from_the_same_ledger() -> None:
    ledger = Ledger(Budget(lm_calls=2))
    lm = metered(fake_lm(lambda _: "yes"), ledger, CENT)
    lm.copy(temperature=1.0, rollout_id=1)("a")
    copy.deepcopy(lm)("b")
    with pytest.raises(BudgetExhausted):
        lm("c")


def test_an_lm_without_an_engine_of_its_own_is_refused() -> None:
    with pytest.raises(Invalid, match="no engine of its own") as refused:
        metered(dspy.LM("openai/gpt-4.1-mini"), Ledger(Budget()), CENT)
    assert (refused.value.field, refused.value.rule) == ("lm", "engine")


def test_an_estimate_bounds_what_the_call_comes_to() -> None:
    dear, cheap = model("gpt-4o", "0.01", "0.02"), model("gpt-4o-mini", "0.001", "0.002")
    meter, asked = ModelsMeter([cheap, dear]), request(max_tokens=50)
    bound = meter.estimate(asked)
    assert bound.tokens == 3 + 2 * 8 + 50
    assert bound.usd == 19 * Decimal("0.01") + 50 * Decimal("0.02")
    usage = lm15.Usage(input_tokens=10, output_tokens=4)
    assert meter.actual(asked, "gpt-4o-mini", usage) == Amount(14, Decimal("0.018"))
    assert meter.actual(asked, "who knows", usage) == Amount(14, Decimal("0.18"))
    assert meter.actual(asked, "gpt-4o", lm15.Usage()) == bound


def test_one_unknown_price_makes_the_estimate_unknown() -> None:
    meter = ModelsMeter([model("gpt-4o", "0.01", "0.02"), model("gpt-4o-mini", None, None)])
    assert meter.estimate(request()).usd is None
    usage = lm15.Usage(input_tokens=1, output_tokens=1)
    assert meter.actual(request(), "gpt-4o-mini", usage) == Amount(2, None)


def test_without_models_tokens_are_counted_and_money_is_unknown() -> None:
    meter = ModelsMeter(answer_tokens=9)
    assert meter.estimate(request("x" * 30)) == Amount(10 + 16 + 9, None)
