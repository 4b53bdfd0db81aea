"""The one attempt logic, for plain and streaming calls: decides here, calls models elsewhere.

`attempts` is a generator: it yields what to do, is sent what came of it, and returns the result.
The policy:

- A model gets 1 + `retries` attempts. Only a rate limit, a timeout, a server or transport error
  and an unreadable answer are retried, after a jittered exponential backoff or the provider's
  Retry-After, whichever is longer.
- Anything else but a cancelled caller goes on to the next model of the chain at once: another
  provider may accept what this one refuses, an invalid request included.
- So does a wait of more than 3 s while another model would take the call, and any wait that the
  deadline does not allow.
- A model whose breaker is open, whose limit is reached or whose provider asked to wait is
  skipped, and that is recorded.
- An answer that memory holds needs none of this: no permit, no limit, no call.
- After the first streamed content there is no retry and no other model: the reader has seen it.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Protocol

from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import DspexRayError
from dspex_ray.models.failure import Failure
from dspex_ray.models.model import ErrorClass, Model
from dspex_ray.routing.breaker import Breakers, Permit, Verdict, verdict_on
from dspex_ray.routing.limits import Limits
from dspex_ray.routing.model import Attempt
from dspex_ray.routing.outcome import broken_stream, no_answer
from dspex_ray.routing.pricing import price_attempt, token_counts
from dspex_ray.routing.recall import Recalled
from dspex_ray.routing.rules import Candidate
from dspex_ray.settings import RoutingSettings

RETRYABLE = frozenset(
    {
        ErrorClass.RATE_LIMIT,
        ErrorClass.TIMEOUT,
        ErrorClass.SERVER,
        ErrorClass.TRANSPORT,
        ErrorClass.MALFORMED,
    }
)
PATIENCE_S = 3.0
# An event loop may wake its sleepers early (uvloop's, by up to 1.2 ms); no call fits in this.
LAST_MOMENT_S = 0.005


@dataclass(frozen=True, slots=True)
class Call:
    """Call the model. Plain: send Answered or Broke. Stream: send Started or Broke.

    `timeout_s` (over 0) is for the whole answer, or for the first content of a stream.
    """

    candidate: Candidate
    number: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Relay:
    """Pass the events of the started stream on to its end; send Answered or Broke.

    `timeout_s` (0 or more) is for all that remains, `idle_s` for any one event.
    """

    candidate: Candidate
    timeout_s: float
    idle_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Sleep; send Waited, or Broke when the caller went away meanwhile."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answered:
    """The whole answer: an lm15 Response."""

    response: Any


@dataclass(frozen=True, slots=True)
class Started:
    """The first content of the stream has arrived."""


@dataclass(frozen=True, slots=True)
class Broke:
    failure: Failure


@dataclass(frozen=True, slots=True)
class Waited:
    pass


Effect = Call | Relay | Wait
Outcome = Answered | Started | Broke | Waited

CANCELLED = Broke(Failure(ErrorClass.CANCELLED, "the caller went away"))


@dataclass(frozen=True, slots=True)
class CallResult:
    """Exactly one of an answer, an error, and `cancelled`.

    `events` are those of a stream that was answered from memory, and are still to be passed on.
    """

    attempts: tuple[Attempt, ...]
    answered_by: Candidate | None = None
    response: Any = None  #: lm15 Response
    error: DspexRayError | None = None
    cancelled: bool = False
    events: tuple[Any, ...] = ()


class Memory(Protocol):
    """Earlier answers to this call's request, if the model and the caller allow them."""

    def find(self, model: Model) -> Recalled | None: ...

    def keep(self, model: Model, response: Any) -> None: ...


Attempts = Generator[Effect, Outcome, CallResult]


def attempts(
    chain: Sequence[Candidate],
    *,
    settings: RoutingSettings,
    breakers: Breakers,
    limits: Limits,
    clock: Clock,
    rng: random.Random,
    deadline: float,
    memory: Memory | None = None,
) -> Attempts:
    """Try the candidates in order until one answers. `deadline` is monotonic seconds.

    Close it, or send CANCELLED, when the call is given up: a breaker's probe hangs on it.
    """
    call = _LogicalCall(chain, settings, breakers, limits, clock, rng, deadline, memory)
    return (yield from call.run())


class _LogicalCall:
    def __init__(
        self,
        chain: Sequence[Candidate],
        settings: RoutingSettings,
        breakers: Breakers,
        limits: Limits,
        clock: Clock,
        rng: random.Random,
        deadline: float,
        memory: Memory | None,
    ) -> None:
        self.chain = chain
        self.settings = settings
        self.breakers = breakers
        self.limits = limits
        self.clock = clock
        self.rng = rng
        self.deadline = deadline
        self.memory = memory
        self.records: list[Attempt] = []

    def run(self) -> Attempts:
        for index, candidate in enumerate(self.chain):
            if self._out_of_time():
                break
            result = yield from self._on_model(candidate, self.chain[index + 1 :])
            if result is not None:
                return result
        return self._result(error=no_answer(self.records, out_of_time=self._out_of_time()))

    def _on_model(
        self, candidate: Candidate, rest: Sequence[Candidate]
    ) -> Generator[Effect, Outcome, CallResult | None]:
        """The result that ends the call, or None: go on to the next model."""
        recalled = None if self.memory is None else self.memory.find(candidate.model)
        if recalled is not None:
            self.records.append(_replayed(candidate, recalled))
            return self._result(
                answered_by=candidate, response=recalled.response, events=recalled.events
            )
        number = 1
        while not self._out_of_time():
            permit = self._enter(candidate, number)
            if permit is None:
                return None
            outcome = yield from self._one(candidate, number, permit)
            if isinstance(outcome, CallResult):
                return outcome
            delay = self._retry_in(candidate.model, outcome, number, rest)
            if delay is None:
                return None
            if isinstance((yield Wait(delay)), Broke):
                return self._result(cancelled=True)
            number += 1
        return None

    def _enter(self, candidate: Candidate, number: int) -> Permit | None:
        """Leave to call the model; else the skip is on record."""
        model, now = candidate.model, self.clock.monotonic()
        permit = self.breakers.enter(model.id, now)
        if permit is None:
            opens_in = self.breakers.closed_in(model.id, now) or None
            self._skip(candidate, number, None, "circuit breaker is open", opens_in)
            return None
        hit = self.limits.take(model, now)
        if hit is not None:
            self.breakers.settle(permit, Verdict.NEUTRAL, now)
            self._skip(candidate, number, ErrorClass.RATE_LIMIT, hit.reason, hit.retry_after_s)
            return None
        return permit

    def _one(
        self, candidate: Candidate, number: int, permit: Permit
    ) -> Generator[Effect, Outcome, CallResult | Failure]:
        """One attempt, recorded: the failure when the call may go on, else the result."""
        started_at, began = self.clock.now(), self.clock.monotonic()
        timeout_s = min(candidate.model.timeout_s, self._remaining())
        first_content: float | None = None
        outcome: Outcome = CANCELLED
        try:
            outcome = yield Call(candidate, number, timeout_s)
            if isinstance(outcome, Started):
                first_content = self.clock.monotonic()
                timeout_s = max(self._remaining(), 0.0)
                outcome = CANCELLED
                outcome = yield Relay(candidate, timeout_s, candidate.model.timeout_s)
        finally:
            now = self.clock.monotonic()
            self.breakers.settle(permit, self._verdict(outcome, candidate.model, timeout_s), now)
        first_ms = None if first_content is None else (first_content - began) * 1000
        record = _Timing(number, started_at, (now - began) * 1000, first_ms)
        return self._concluded(candidate, outcome, record)

    def _concluded(
        self, candidate: Candidate, outcome: Outcome, timing: _Timing
    ) -> CallResult | Failure:
        if isinstance(outcome, Answered):
            self.records.append(_answered(candidate, timing, outcome.response))
            if self.memory is not None:
                self.memory.keep(candidate.model, outcome.response)
            return self._result(answered_by=candidate, response=outcome.response)
        if not isinstance(outcome, Broke):
            raise TypeError(f"a call cannot end with {type(outcome).__name__}")
        failure = outcome.failure
        self.records.append(_failed(candidate, timing, failure))
        if failure.error_class is ErrorClass.CANCELLED:
            return self._result(cancelled=True)
        if failure.retry_after_s is not None:
            now = self.clock.monotonic()
            self.limits.hold_off(candidate.model.id, failure.retry_after_s, now)
        if timing.first_content_ms is not None:
            late = self._out_of_time()
            return self._result(error=broken_stream(self.records[-1], out_of_time=late))
        return failure

    def _verdict(self, outcome: Outcome, model: Model, timeout_s: float) -> Verdict:
        if not isinstance(outcome, Broke):
            return verdict_on(None)
        error_class = outcome.failure.error_class
        if error_class is ErrorClass.TIMEOUT and timeout_s < model.timeout_s / 2:
            return Verdict.NEUTRAL  # it was this call's deadline that left the model no time
        return verdict_on(error_class)

    def _retry_in(
        self, model: Model, failure: Failure, number: int, rest: Sequence[Candidate]
    ) -> float | None:
        """Seconds until the next attempt on this model; None = go on to the next one."""
        if number > self.settings.retries or failure.error_class not in RETRYABLE:
            return None
        delay = backoff_s(number, self.settings, self.rng)
        if failure.retry_after_s is not None:
            # Everybody who was refused waits as long: the jitter keeps them from coming at once.
            # The millisecond is for sleeps that end early.
            spread = 0.001 + self.rng.random() * self.settings.retry_base_ms / 1000
            delay = max(delay, failure.retry_after_s + spread)
        if delay >= self._remaining() - LAST_MOMENT_S:
            return None
        if delay < self.breakers.closed_in(model.id, self.clock.monotonic()):
            return None  # this failure opened it: the wait would end in a skip
        if delay > PATIENCE_S and any(self._would_take(c.model) for c in rest):
            return None
        return delay

    def _would_take(self, model: Model) -> bool:
        now = self.clock.monotonic()
        return self.breakers.admits(model.id, now) and self.limits.admits(model, now)

    def _out_of_time(self) -> bool:
        return self._remaining() <= LAST_MOMENT_S

    def _remaining(self) -> float:
        return self.deadline - self.clock.monotonic()

    def _skip(
        self,
        candidate: Candidate,
        number: int,
        error_class: ErrorClass | None,
        reason: str,
        retry_after_s: float | None,
    ) -> None:
        timing = _Timing(number, self.clock.now(), 0.0, None)
        self.records.append(
            _record(
                candidate,
                timing,
                "skipped",
                error_class=error_class,
                message=reason,
                retry_after_s=retry_after_s,
            )
        )

    def _result(
        self,
        *,
        answered_by: Candidate | None = None,
        response: Any = None,
        error: DspexRayError | None = None,
        cancelled: bool = False,
        events: tuple[Any, ...] = (),
    ) -> CallResult:
        return CallResult(tuple(self.records), answered_by, response, error, cancelled, events)


def backoff_s(number: int, settings: RoutingSettings, rng: random.Random) -> float:
    """Half to all of base times 2^(number - 1), at most the maximum; `number` failed, from 1."""
    full = min(settings.retry_base_ms * 2.0 ** min(number - 1, 30), settings.retry_max_ms) / 1000
    return full * (0.5 + rng.random() / 2)


@dataclass(frozen=True, slots=True)
class _Timing:
    number: int
    started_at: datetime
    latency_ms: float
    first_content_ms: float | None


def _answered(candidate: Candidate, timing: _Timing, response: Any) -> Attempt:
    model = candidate.model
    tokens = token_counts(response.usage, model.provider)
    price = price_attempt(response.usage, model)
    return _record(
        candidate,
        timing,
        "ok",
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        cost_usd=price.cost_usd,
        cost_source=price.source,
    )


def _replayed(candidate: Candidate, recalled: Recalled) -> Attempt:
    return _record(
        candidate,
        _Timing(1, recalled.started_at, recalled.latency_ms, None),
        "ok",
        cached=True,
        prompt_tokens=0,
        completion_tokens=0,
        cost_usd=Decimal(0),
        cost_source="cached",
    )


def _failed(candidate: Candidate, timing: _Timing, failure: Failure) -> Attempt:
    return _record(
        candidate,
        timing,
        "cancelled" if failure.error_class is ErrorClass.CANCELLED else "failed",
        error_class=failure.error_class,
        message=failure.message,
        retry_after_s=failure.retry_after_s,
        provider_status=failure.status,
    )


def _record(
    candidate: Candidate,
    timing: _Timing,
    outcome: Literal["ok", "failed", "skipped", "cancelled"],
    **fields: Any,
) -> Attempt:
    return Attempt(
        model_id=candidate.model.id,
        model=candidate.model.name,
        assignment_id=candidate.assignment_id,
        number=timing.number,
        outcome=outcome,
        latency_ms=timing.latency_ms,
        first_token_ms=timing.first_content_ms,
        price_version=candidate.model.price_version,
        started_at=timing.started_at,
        **fields,
    )
