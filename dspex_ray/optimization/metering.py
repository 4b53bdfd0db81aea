"""A DSPy engine that asks the ledger before each call and tells it what the call came to.

An attempt of the router's after a call's first is charged as a call of its own, when it is made. Of
a whole answer the tally of the run hears too; a program that reads its own stream is charged once,
and not measured.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Protocol

from dspy import lm15

from dspex_ray.core.clock import Clock, SystemClock
from dspex_ray.core.errors import Denied, DspexRayError, Invalid, RateLimited
from dspex_ray.models.failure import Failure
from dspex_ray.models.model import ErrorClass, Model
from dspex_ray.models.rules import cost_of
from dspex_ray.models.tokenizers import count_tokens, estimate_call_cost, estimated_tokens
from dspex_ray.optimization.budget import NOTHING, Amount, Ledger, Reservation
from dspex_ray.optimization.tally import Called, called
from dspex_ray.routing.scope import attempts_gated

ANSWER_TOKENS = 4096  #: what an answer is taken to be at most when nobody limits it
_MESSAGE_TOKENS = 8  #: what a chat template adds a message
_CLOCK = SystemClock()

# Refused before a model read the prompt: nobody is charged for these.
_UNBILLED = (
    lm15.AuthError,
    lm15.BillingError,
    lm15.ConfigurationError,
    lm15.ContextLengthError,
    lm15.InvalidRequestError,
    lm15.RateLimitError,
    Denied,
    Invalid,
    RateLimited,
)
_REFUSED = frozenset(
    {
        ErrorClass.AUTH,
        ErrorClass.BILLING,
        ErrorClass.RATE_LIMIT,
        ErrorClass.INVALID_REQUEST,
        ErrorClass.CONTEXT_LENGTH,
        ErrorClass.UNSUPPORTED,
        ErrorClass.CONFIGURATION,
    }
)


class Meter(Protocol):
    """What calls cost. One of each LM; shared by threads."""

    def estimate(self, request: Any) -> Amount:
        """At most this, for an lm15 Request about to be sent."""
        ...

    def actual(self, request: Any, model: str, usage: Any) -> Amount:
        """What it came to, by the model that answered and the lm15 Usage that it reported."""
        ...


class ModelsMeter:
    """Prices of registered models, any of which may answer (`model_name` as the answer says).

    An estimate is that of the dearest, and None as soon as one has no price. Without models,
    tokens alone are counted.
    """

    def __init__(self, models: Sequence[Model] = (), answer_tokens: int = ANSWER_TOKENS) -> None:
        self._models = tuple(models)
        self._answer_tokens = answer_tokens

    def estimate(self, request: Any) -> Amount:
        text, messages = _text(request), len(request.messages) + 1
        overhead = messages * _MESSAGE_TOKENS
        if not self._models:
            return Amount(
                estimated_tokens(len(text.encode())) + overhead + self._most(request), None
            )
        bounds = [self._bound(request, model, text, overhead) for model in self._models]
        prices = [bound.usd for bound in bounds]
        known = [price for price in prices if price is not None]
        usd = max(known) if len(known) == len(prices) else None
        return Amount(max(bound.tokens for bound in bounds), usd)

    def actual(self, request: Any, model: str, usage: Any) -> Amount:
        """The estimate where nothing was reported; the dearest price where nobody says who."""
        bound = self.estimate(request)
        counts = (getattr(usage, "input_tokens", None), getattr(usage, "output_tokens", None))
        if None in counts:
            return bound
        tokens = sum(count or 0 for count in counts)
        answered = [m for m in self._models if m.model_name == model] or self._models
        costs = [cost_of(usage, m.price, m.provider) for m in answered]
        known = [cost for cost in costs if cost is not None]
        return Amount(tokens, max(known) if known and len(known) == len(costs) else None)

    def _bound(self, request: Any, model: Model, text: str, overhead: int) -> Amount:
        prompt = count_tokens(text, model.provider, model.model_name).tokens + overhead
        answer = self._most(request, model.max_tokens)
        return Amount(prompt + answer, estimate_call_cost(prompt, answer, model.price))

    def _most(self, request: Any, models_own: int | None = None) -> int:
        limits = [n for n in (request.config.max_tokens, models_own) if n is not None]
        return min(limits, default=self._answer_tokens)


class FlatMeter:
    """Each call costs the same: what is simulated, or priced by the call."""

    def __init__(self, usd: Decimal | None = Decimal(0), tokens: int = 0) -> None:
        self._amount = Amount(tokens, usd)

    def estimate(self, request: Any) -> Amount:
        return self._amount

    def actual(self, request: Any, model: str, usage: Any) -> Amount:
        return self._amount


class MeteredEngine:
    """The sync engine. A call that the budget has no room for never reaches `engine`."""

    def __init__(self, engine: Any, ledger: Ledger, meter: Meter) -> None:
        self._engine, self._ledger, self._meter = engine, ledger, meter
        self.supports_response_schema = getattr(engine, "supports_response_schema", False)
        self.supported_params: frozenset[str] = getattr(engine, "supported_params", frozenset())

    def complete(self, request: Any) -> Any:
        with called() as measured:
            held = self._ledger.reserve(self._meter.estimate(request))
            call = _Settling(held, self._meter, request, measured)
            with call, attempts_gated(call.again):
                response = self._engine.complete(request)
                call.answered(response.model, response.usage)
        return response

    def stream(self, request: Any) -> Iterator[Any]:
        held = self._ledger.reserve(self._meter.estimate(request))
        with _Settling(held, self._meter, request) as call:
            for event in self._engine.stream(request):
                call.saw(event)
                yield event

    def close(self) -> None:
        self._engine.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> MeteredEngine:
        """Optimizers copy programs with their LMs; a copy spends from the same ledger."""
        return self


class AsyncMeteredEngine:
    """For `acall`."""

    def __init__(self, engine: Any, ledger: Ledger, meter: Meter) -> None:
        self._engine, self._ledger, self._meter = engine, ledger, meter
        self.supports_response_schema = getattr(engine, "supports_response_schema", False)
        self.supported_params: frozenset[str] = getattr(engine, "supported_params", frozenset())

    async def complete(self, request: Any) -> Any:
        with called() as measured:
            held = await self._ledger.areserve(self._meter.estimate(request))
            call = _Settling(held, self._meter, request, measured)
            with call, attempts_gated(call.again):
                response = await self._engine.complete(request)
                call.answered(response.model, response.usage)
        return response

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        held = await self._ledger.areserve(self._meter.estimate(request))
        with _Settling(held, self._meter, request) as call:
            async for event in self._engine.stream(request):
                call.saw(event)
                yield event

    async def aclose(self) -> None:
        await self._engine.aclose()

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncMeteredEngine:
        return self


def metered(lm: Any, ledger: Ledger, meter: Meter) -> Any:
    """A copy of the `dspy.LM` whose calls the ledger pays for.

    Its engines must be objects: an LM that resolves its provider by name has none to wrap. DSPy's
    own cache lies before the engine, so that a hit costs nothing.
    """
    if isinstance(lm.engine, str):
        raise Invalid(
            f"the LM {lm.model!r} has no engine of its own to meter: make it with engine=",
            field="lm",
            rule="engine",
        )
    asynchronous = lm._async_engine_spec  # DSPy shows the sync one only
    wrapped = None if asynchronous is None else AsyncMeteredEngine(asynchronous, ledger, meter)
    return lm.copy(engine=MeteredEngine(lm.engine, ledger, meter), async_engine=wrapped)


class _Settling:
    """Settles a reservation however the call ends: an unfinished one at its estimate.

    `measured` learns what it came to from the innermost of several, or from a memory in between.
    """

    def __init__(
        self,
        held: Reservation,
        meter: Meter,
        request: Any,
        measured: Called | None = None,
        clock: Clock = _CLOCK,
    ) -> None:
        self._held, self._meter, self._request = held, meter, request
        self._measured, self._clock = measured, clock
        self._began = clock.monotonic()
        self._actual: Callable[[], Amount] = lambda: self._held.estimate
        self._model = str(request.model)

    async def again(self, failure: Failure) -> None:
        """Before a further attempt of the router's: the one before is settled, this one needs room
        of its own. Raises as `areserve`."""
        began = self._clock.monotonic()
        unbilled = failure.error_class in _REFUSED
        self._held.settle(NOTHING if unbilled else self._held.estimate)
        self._held = await self._held.ledger.areserve(self._held.estimate)
        self._began += self._clock.monotonic() - began

    def answered(self, model: str | None, usage: Any) -> None:
        self._actual = lambda: self._meter.actual(self._request, model or self._model, usage)

    def saw(self, event: Any) -> None:
        self._model = getattr(event, "model", None) or self._model
        if isinstance(event, lm15.StreamEndEvent):
            self.answered(self._model, event.usage)

    def __enter__(self) -> _Settling:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _UNBILLED) or isinstance(_cause(error), _UNBILLED):
            self._settle(NOTHING)
            return
        amount = self._held.estimate
        try:
            amount = self._actual()
        finally:  # a meter that fails must not leave a call under way for ever
            self._settle(amount)

    def _settle(self, amount: Amount) -> None:
        self._held.settle(amount)
        if self._measured is not None and self._measured.amount is None:
            self._measured.amount = amount
            self._measured.latency_ms = (self._clock.monotonic() - self._began) * 1000


def _cause(error: BaseException | None) -> BaseException | None:
    while error is not None and not isinstance(error, DspexRayError):
        error = error.__cause__
    return error


def _text(request: Any) -> str:
    system = request.system
    parts = [system] if isinstance(system, str) else list(system or ())
    parts += [part for message in request.messages for part in message.parts]
    texts = (part if isinstance(part, str) else getattr(part, "text", None) for part in parts)
    return "\n".join(text for text in texts if isinstance(text, str))
