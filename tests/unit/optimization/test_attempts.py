"""The router's own retries and fallbacks under a run's budget: each is charged, none passes it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from dspy import lm15

from dspex_ray.core.errors import ProviderDown
from dspex_ray.optimization.budget import BudgetExhausted, Ledger
from dspex_ray.optimization.metering import FlatMeter, metered
from dspex_ray.optimization.model import Budget
from dspex_ray.routing.engine import Route, routed_lm
from dspex_ray.routing.scope import request_scope
from dspex_ray.routing.threads import LoopThread
from tests.unit.routing.parts import Bench, FakeLeaf, assignment, model, request, response

CENT = FlatMeter(Decimal("0.01"), tokens=10)


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    made = LoopThread()
    yield made
    made.close()


def away() -> Any:
    return lm15.ServerError("away", status=500)


def lm_on(bench: Bench, ledger: Ledger, loop: asyncio.AbstractEventLoop) -> Any:
    def assigned() -> Any:
        return [
            (assignment(model(name), "fallback" if place else "primary"), model(name))
            for place, name in enumerate(bench.leaves)
        ]

    return metered(routed_lm("p", Route(bench.router, assigned, lambda: None), loop), ledger, CENT)


async def complete(bench: Bench, ledger: Ledger) -> Any:
    lm = lm_on(bench, ledger, asyncio.get_running_loop())
    with request_scope(bench.scope()):
        return await lm._async_engine_spec.complete(request())


def made(bench: Bench) -> int:
    return sum(len(leaf.seen) for leaf in bench.leaves.values())


async def test_each_attempt_is_a_call_of_the_budget() -> None:
    bench = Bench({"a": FakeLeaf([away(), away(), response("yes")])})
    ledger = Ledger(Budget(lm_calls=10))
    answer = await complete(bench, ledger)
    assert answer.text == "yes"
    assert made(bench) == ledger.spent.lm_calls == 3
    assert (ledger.spent.usd, ledger.spent.tokens) == (Decimal("0.03"), 30)
    assert ledger.in_flight == 0


@pytest.mark.parametrize(
    ("budget", "limit"), [({"lm_calls": 2}, "lm_calls"), ({"usd": Decimal("0.025")}, "usd")]
)
async def test_a_retry_that_the_budget_has_no_room_for_is_not_made(
    budget: dict[str, Any], limit: str
) -> None:
    bench = Bench({"a": FakeLeaf([away(), away(), response("yes")])})
    ledger = Ledger(Budget(**budget))
    with pytest.raises(BudgetExhausted) as halt:
        await complete(bench, ledger)
    assert halt.value.limit == limit
    assert made(bench) == ledger.spent.lm_calls == 2
    assert ledger.in_flight == 0
    assert len(bench.sink.calls) == 1  # on record, as the given up


async def test_a_fallback_is_an_attempt_too_and_a_refusal_costs_nothing() -> None:
    bench = Bench(
        {"a": FakeLeaf([lm15.AuthError("no", status=401)]), "b": FakeLeaf([response("b")])}
    )
    ledger = Ledger(Budget(lm_calls=10))
    assert (await complete(bench, ledger)).text == "b"
    assert ledger.spent.lm_calls == 2
    assert ledger.spent.usd == Decimal("0.01")


async def test_a_call_that_never_succeeds_is_charged_for_all_its_attempts() -> None:
    bench = Bench({"a": FakeLeaf([away() for _ in range(9)])})
    ledger = Ledger(Budget(lm_calls=100))
    with pytest.raises(ProviderDown):
        await complete(bench, ledger)
    assert made(bench) == ledger.spent.lm_calls > 1
    assert ledger.spent.usd == Decimal("0.01") * made(bench)


async def test_calls_side_by_side_that_all_retry_pass_no_ceiling_and_wait_for_no_one() -> None:
    bench = Bench({"a": FakeLeaf([step for _ in range(20) for step in (away(), response("y"))])})
    ledger = Ledger(Budget(usd=Decimal("0.1")))
    found = await asyncio.wait_for(
        asyncio.gather(*(complete(bench, ledger) for _ in range(20)), return_exceptions=True), 10
    )
    assert made(bench) == 10
    assert ledger.spent.usd == Decimal("0.1")
    assert {type(one) for one in found} <= {BudgetExhausted, lm15.Response}


def test_from_a_thread(thread: LoopThread) -> None:
    bench = Bench({"a": FakeLeaf([away(), away(), response("yes")])})
    ledger = Ledger(Budget(lm_calls=2))
    lm = lm_on(bench, ledger, thread.loop)
    with request_scope(bench.scope()), pytest.raises(BudgetExhausted):
        lm.engine.complete(request())
    assert made(bench) == ledger.spent.lm_calls == 2
