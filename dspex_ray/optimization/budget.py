"""The ledger of a run: what it may spend, checked before each call; and what ends a run.

What ends a run is a BaseException: DSPy's optimizers swallow every Exception and go on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal
from threading import Condition
from typing import NamedTuple

from dspex_ray.core.clock import Clock, SystemClock
from dspex_ray.core.errors import DspexRayError, Invalid
from dspex_ray.optimization.model import Budget, Spent


class RunHalted(BaseException):
    """Ends an optimization from inside, past every `except Exception`."""


class BudgetExhausted(RunHalted):
    """`limit` is the field of Budget that has no room for one more call."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


class RunCancelled(RunHalted):
    """`reason` says who or what asked for it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RunRefused(RunHalted):
    """The problem itself is at fault; `error` is what the caller is told."""

    def __init__(self, error: DspexRayError) -> None:
        super().__init__(error)
        self.error = error


def halted(error: BaseException) -> RunHalted | None:
    """What ended the run, inside of what task groups make of it; None when something else did."""
    if isinstance(error, RunHalted):
        return error
    inside = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return next((found for part in inside if (found := halted(part))), None)


class Amount(NamedTuple):
    """Of one call: tokens of prompt and answer, and USD (None: nobody knows)."""

    tokens: int
    usd: Decimal | None


NOTHING = Amount(0, Decimal(0))


@dataclass(eq=False)
class Reservation:
    """Room for one call. Settle it once with what the call came to; it counts as made already."""

    estimate: Amount
    ledger: Ledger
    _open: bool = field(default=True, init=False)

    def settle(self, actual: Amount) -> None:
        """A second settlement is ignored. An estimate that was too low may pass the ceiling by
        the difference: estimates are to be upper bounds."""
        if self._open:
            self._open = False
            self.ledger._settle(self.estimate, actual)


class Ledger:
    """Shared by all threads and tasks of one run, and nobody else's.

    A call is refused when what is spent, what calls under way have reserved, and its own
    estimate do not fit under a ceiling together. While calls are under way, one that does not
    fit waits for them: they may come to less than they reserved.
    """

    def __init__(
        self, budget: Budget, clock: Clock | None = None, already: Spent | None = None
    ) -> None:
        """`already`: what the run spent before it was interrupted."""
        self._budget = budget
        self._clock = clock or SystemClock()
        self._before = already or Spent()
        self._started = self._clock.monotonic()
        self._changed = Condition()
        self._calls = self._before.lm_calls
        self._tokens, self._usd = self._before.tokens, self._before.usd
        self._unpriced = self._before.unpriced_calls
        self._held_tokens, self._held_usd, self._in_flight = 0, Decimal(0), 0
        self._cancelled: str | None = None
        # In the order of waiting, so that tasks get their turn as they came.
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    @property
    def spent(self) -> Spent:
        with self._changed:
            return Spent(
                usd=self._usd,
                lm_calls=self._calls,
                tokens=self._tokens,
                seconds=self._seconds(),
                unpriced_calls=self._unpriced,
            )

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def cancel(self, reason: str) -> None:
        """No further call is made: each raises RunCancelled. Calls under way end by themselves."""
        with self._changed:
            self._cancelled = reason
            self._wake()

    def check(self) -> None:
        """Raises BudgetExhausted or RunCancelled when not even a free call could be made."""
        with self._changed:
            self._refuse(Amount(0, Decimal(0)))

    def reserve(self, estimate: Amount) -> Reservation:
        """Room for one call, for a thread; it may wait for calls under way.

        Raises BudgetExhausted, RunCancelled, or RunRefused when USD are limited and the call has
        no price.
        """
        with self._changed:
            while not self._fits(estimate):
                self._changed.wait()
            return self._take(estimate)

    async def areserve(self, estimate: Amount) -> Reservation:
        """As `reserve`, for a task."""
        while True:
            event = asyncio.Event()
            with self._changed:
                if self._fits(estimate):
                    return self._take(estimate)
                self._waiting[event] = asyncio.get_running_loop()
            try:
                await event.wait()
            finally:
                with self._changed:
                    del self._waiting[event]

    def wait_idle(self, timeout_s: float) -> bool:
        """Whether all calls under way ended within that time. Blocks: call it in a thread."""
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight == 0, timeout_s)

    def _settle(self, estimate: Amount, actual: Amount) -> None:
        with self._changed:
            self._held_tokens -= estimate.tokens
            self._held_usd -= estimate.usd or 0
            self._tokens += actual.tokens
            self._usd += actual.usd or 0
            self._unpriced += actual.usd is None
            self._in_flight -= 1
            self._wake()

    def _take(self, estimate: Amount) -> Reservation:
        self._calls += 1
        self._in_flight += 1
        self._held_tokens += estimate.tokens
        self._held_usd += estimate.usd or 0
        return Reservation(estimate, self)

    def _fits(self, estimate: Amount) -> bool:
        """False: not now, but maybe once calls under way have settled. Raises when never."""
        self._refuse(estimate)
        tokens, usd = self._budget.tokens, self._budget.usd
        held_back = tokens is not None and (
            self._tokens + self._held_tokens + estimate.tokens > tokens
        )
        return not held_back and (
            usd is None or self._usd + self._held_usd + (estimate.usd or 0) <= usd
        )

    def _refuse(self, estimate: Amount) -> None:
        """Raises when the call could not be made even if all calls under way came to nothing."""
        if self._cancelled is not None:
            raise RunCancelled(self._cancelled)
        budget = self._budget
        if budget.lm_calls is not None and self._calls >= budget.lm_calls:
            raise BudgetExhausted("lm_calls")
        if budget.seconds is not None and self._seconds() >= budget.seconds:
            raise BudgetExhausted("seconds")
        if budget.tokens is not None and self._tokens + estimate.tokens > budget.tokens:
            raise BudgetExhausted("tokens")
        if budget.usd is None:
            return
        if estimate.usd is None:
            raise RunRefused(
                Invalid(
                    "USD are limited, but a model that is called has no known price",
                    field="budget.usd",
                    rule="known price",
                )
            )
        if self._usd + estimate.usd > budget.usd:
            raise BudgetExhausted("usd")

    def _seconds(self) -> float:
        return self._before.seconds + self._clock.monotonic() - self._started

    def _wake(self) -> None:
        self._changed.notify_all()
        for event, loop in self._waiting.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)
