from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.errors import Invalid
from dspex_ray.optimization.budget import (
    NOTHING,
    Amount,
    BudgetExhausted,
    Ledger,
    RunCancelled,
    RunRefused,
    halted,
)
from dspex_ray.optimization.model import Budget, Spent
from dspex_ray.testing.fake_clock import FakeClock

CENT = Amount(10, Decimal("0.01"))


def at_once(count: int, call: Callable[[], object]) -> list[object]:
    """What `count` threads came to that began together: a result, or what was raised."""
    start = threading.Barrier(count)

    def one(_: int) -> object:
        start.wait()
        try:
            return call()
        except BudgetExhausted as error:
            return error.limit

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def test_64_threads_at_the_last_call_make_one() -> None:
    ledger = Ledger(Budget(lm_calls=10), already=Spent(lm_calls=9))
    found = at_once(64, lambda: ledger.reserve(CENT).settle(CENT))
    assert sorted(map(str, found)) == ["None", *["lm_calls"] * 63]
    assert ledger.spent.lm_calls == 10


def test_64_threads_at_the_last_cent_spend_one() -> None:
    ledger = Ledger(Budget(usd=Decimal(1)), already=Spent(usd=Decimal("0.99")))
    found = at_once(64, lambda: ledger.reserve(CENT).settle(CENT))
    assert sorted(map(str, found)) == ["None", *["usd"] * 63]
    assert ledger.spent.usd == Decimal("1.00")


async def test_64_tasks_at_the_last_cent_spend_one() -> None:
    ledger = Ledger(Budget(usd=Decimal(1)), already=Spent(usd=Decimal("0.99")))

    async def call() -> str:
        try:
            held = await ledger.areserve(CENT)
        except BudgetExhausted as error:
            return error.limit
        await asyncio.sleep(0)
        held.settle(CENT)
        return "made"

    found = await asyncio.gather(*(call() for _ in range(64)))
    assert sorted(found) == ["made", *["usd"] * 63]
    assert (ledger.spent.usd, ledger.in_flight) == (Decimal("1.00"), 0)


@given(
    limit=st.integers(1, 50),
    calls=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=40),
)
def test_no_sequence_of_honest_estimates_passes_a_ceiling(
    limit: int, calls: list[tuple[int, int]]
) -> None:
    ledger = Ledger(Budget(tokens=limit, usd=Decimal(limit)))
    for estimate, less in calls:
        actual = max(0, estimate - less)
        try:
            held = ledger.reserve(Amount(estimate, Decimal(estimate)))
        except BudgetExhausted:
            assert ledger.spent.tokens + estimate > limit
            continue
        held.settle(Amount(actual, Decimal(actual)))
        assert ledger.spent.tokens <= limit
        assert ledger.spent.usd <= limit


def test_a_call_that_does_not_fit_yet_waits_for_one_that_comes_to_less() -> None:
    ledger = Ledger(Budget(tokens=100), FakeClock())
    held = ledger.reserve(Amount(80, None))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ledger.reserve, Amount(50, None))
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.05)
        held.settle(Amount(10, None))
        waiting.result(timeout=5).settle(Amount(50, None))
    assert ledger.spent == Spent(lm_calls=2, tokens=60, unpriced_calls=2)


async def test_a_task_waits_the_same_way_and_hears_of_a_cancel() -> None:
    ledger = Ledger(Budget(tokens=100))
    held = await ledger.areserve(Amount(80, None))
    first = asyncio.create_task(ledger.areserve(Amount(50, None)))
    second = asyncio.create_task(ledger.areserve(Amount(90, None)))
    await asyncio.sleep(0.01)
    assert not first.done()
    held.settle(Amount(10, None))
    await asyncio.wait_for(first, 5)
    ledger.cancel("by Ada")
    with pytest.raises(RunCancelled, match="by Ada"):
        await asyncio.wait_for(second, 5)


def test_a_settlement_counts_once() -> None:
    ledger = Ledger(Budget())
    held = ledger.reserve(CENT)
    held.settle(CENT)
    held.settle(CENT)
    assert (ledger.spent.usd, ledger.spent.tokens, ledger.in_flight) == (Decimal("0.01"), 10, 0)


def test_a_failed_call_is_a_call_though_it_cost_nothing() -> None:
    ledger = Ledger(Budget(lm_calls=1))
    ledger.reserve(CENT).settle(NOTHING)
    with pytest.raises(BudgetExhausted, match="lm_calls"):
        ledger.reserve(CENT)
    assert ledger.spent.usd == 0


def test_seconds_run_from_the_start_and_from_what_was_before() -> None:
    clock = FakeClock()
    ledger = Ledger(Budget(seconds=10), clock, already=Spent(seconds=4))
    clock.advance(5.9)
    ledger.check()
    clock.advance(0.1)
    with pytest.raises(BudgetExhausted, match="seconds"):
        ledger.check()
    assert ledger.spent.seconds == pytest.approx(10)


def test_money_with_an_unknown_price_is_refused_and_not_taken_for_free() -> None:
    with pytest.raises(RunRefused) as refused:
        Ledger(Budget(usd=Decimal(5))).reserve(Amount(1, None))
    assert isinstance(refused.value.error, Invalid)
    assert (refused.value.error.field, refused.value.error.rule) == ("budget.usd", "known price")


def test_what_ends_a_run_is_no_exception_and_is_found_in_groups() -> None:
    stop = BudgetExhausted("usd")
    assert not isinstance(stop, Exception)
    assert halted(BaseExceptionGroup("g", [ValueError(), BaseExceptionGroup("h", [stop])])) is stop
    assert halted(ValueError()) is None


@pytest.mark.parametrize(
    "stop", [BudgetExhausted("usd"), RunCancelled("by Ada"), RunRefused(Invalid("no", field="f"))]
)
def test_it_crosses_processes(stop: BaseException) -> None:
    again = pickle.loads(pickle.dumps(stop))
    assert type(again) is type(stop)
    assert vars(again).keys() == vars(stop).keys()
    assert str(again) == str(stop)


def test_idle_is_when_nothing_is_under_way() -> None:
    ledger = Ledger(Budget())
    held = ledger.reserve(CENT)
    assert not ledger.wait_idle(0.01)
    held.settle(CENT)
    assert ledger.wait_idle(0.01)
