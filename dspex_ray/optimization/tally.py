"""What one run of a program came to: the time it took of its own, and what its LM calls did.

The engines that a run's calls go through share one `Called` each; whoever is outermost reports it
to the run's `Tally`, which DSPy's settings carry into every task and thread of the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from decimal import Decimal
from threading import Lock
from typing import NamedTuple

from dspex_ray.core.clock import Clock, SystemClock
from dspex_ray.optimization.budget import Amount
from dspex_ray.programs.runtime import run_setting

TALLY = "dspex_run_tally"  #: the name among DSPy's settings


@dataclass
class Called:
    """One LM call. `latency_ms` is how long the model took when it really answered: without waits
    for the budget, and the first time's when it is answered from memory; None: nobody knows."""

    amount: Amount | None = None
    latency_ms: float | None = None


class Figures(NamedTuple):
    """Of one run. USD None: some call's price is unknown; latency None: some call's is."""

    latency_ms: float | None
    cost_usd: Decimal | None
    tokens: int
    lm_calls: int


@dataclass
class Tally:
    """Of one run of a program, by any number of tasks and threads."""

    clock: Clock = field(default_factory=SystemClock)
    _calls: list[Called] = field(default_factory=list, init=False)
    _under_way: int = field(default=0, init=False)
    _since: float = field(default=0.0, init=False)
    _inside_s: float = field(default=0.0, init=False)  #: with any call under way
    _summed_s: float = field(default=0.0, init=False)  #: call by call
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self._started = self.clock.monotonic()

    @contextmanager
    def calling(self) -> Iterator[None]:
        """While an LM call is under way, whatever it waits for."""
        began = self.clock.monotonic()
        with self._lock:
            if not self._under_way:
                self._since = began
            self._under_way += 1
        try:
            yield
        finally:
            ended = self.clock.monotonic()
            with self._lock:
                self._under_way -= 1
                self._summed_s += ended - began
                if not self._under_way:
                    self._inside_s += ended - self._since

    def add(self, call: Called) -> None:
        with self._lock:
            self._calls.append(call)

    def figures(self) -> Figures:
        """Until now. Calls side by side count by the share of their time that passed at all."""
        wall_s = self.clock.monotonic() - self._started
        with self._lock:
            calls, inside_s, summed_s = list(self._calls), self._inside_s, self._summed_s
        models_ms = [call.latency_ms for call in calls]
        known_ms = [latency for latency in models_ms if latency is not None]
        beside = inside_s / summed_s if summed_s > 0 else 1.0
        own_ms = max(0.0, wall_s - inside_s) * 1000
        costs = [call.amount.usd for call in calls if call.amount is not None]
        known_usd = [usd for usd in costs if usd is not None]
        return Figures(
            latency_ms=own_ms + sum(known_ms) * beside if len(known_ms) == len(calls) else None,
            cost_usd=sum(known_usd, Decimal(0)) if len(known_usd) == len(calls) else None,
            tokens=sum(call.amount.tokens for call in calls if call.amount is not None),
            lm_calls=len(calls),
        )


_call: ContextVar[Called | None] = ContextVar("dspex_ray_lm_call", default=None)


@contextmanager
def called() -> Iterator[Called]:
    """The LM call that is under way here: the one that was entered already, or a new one, which the
    run's tally hears of at its end, however it ends."""
    outer = _call.get()
    if outer is not None:
        yield outer
        return
    call = Called()
    tally: Tally | None = run_setting(TALLY)
    token = _call.set(call)
    try:
        with nullcontext() if tally is None else tally.calling():
            yield call
    finally:
        _call.reset(token)
        if tally is not None:
            tally.add(call)
