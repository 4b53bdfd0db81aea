"""One logical LM call from its candidates to its record: select, attempt, hand the record over."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import DspexRayError
from dspex_ray.core.ids import ModelId
from dspex_ray.models.failure import Failure, classify
from dspex_ray.routing.attempt import Attempts, CallResult, attempts
from dspex_ray.routing.breaker import Breakers
from dspex_ray.routing.cache import ResponseCache
from dspex_ray.routing.drivers import Leaves, StreamEvent, drive, drive_stream
from dspex_ray.routing.limits import Limits
from dspex_ray.routing.model import LmCall
from dspex_ray.routing.recall import Recall
from dspex_ray.routing.rules import Candidate, Selection, select_model
from dspex_ray.routing.scope import RequestScope
from dspex_ray.routing.tracing import trace_attempts
from dspex_ray.settings import RoutingSettings

if TYPE_CHECKING:
    from dspy.lm15 import Request, Response

    from dspex_ray.models.providers import LeafEngine


class Answer(NamedTuple):
    response: Response
    call: LmCall


class Router:
    """Calls models for whoever asks in this process: `/v1/chat/completions` and DSPy alike.

    `on_degraded` hears of models whose health is in doubt; it must not block. The response cache
    is this process's own.
    """

    def __init__(
        self,
        settings: RoutingSettings,
        clock: Clock,
        rng: random.Random,
        engines: Callable[[ModelId], LeafEngine],
        breakers: Breakers,
        limits: Limits,
        on_degraded: Callable[[ModelId], None],
        *,
        classify: Callable[[BaseException], Failure] = classify,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._breakers = breakers
        self._limits = limits
        self._on_degraded = on_degraded
        self._leaves = Leaves(engines, classify, sleep)
        self._cache = ResponseCache(settings.cache_max_bytes, settings.cache_max_entries, clock)

    async def complete(
        self,
        request: Request,
        candidates: Sequence[Candidate],
        scope: RequestScope,
        predictor: str | None = None,
    ) -> Answer:
        """The answer of the first model that gives one, and the record that the sink got.

        Raises what `select_model` and `routing.outcome.no_answer` raise. The sink gets the record
        on every path, a cancelled one included.
        """
        trip = _Trip(self._clock, request, scope, predictor, stream=False)
        machine = self._start(trip, candidates)
        result = await drive(machine, request, self._leaves, trip.finish)
        if result.error is not None:
            raise result.error
        assert trip.call is not None
        return Answer(result.response, trip.call)

    def stream(
        self,
        request: Request,
        candidates: Sequence[Candidate],
        scope: RequestScope,
        predictor: str | None = None,
    ) -> RoutedStream:
        """As `complete`, for a stream; errors of the selection too come with the first event."""
        trip = _Trip(self._clock, request, scope, predictor, stream=True)
        return RoutedStream(self._events(trip, candidates), trip)

    async def _events(
        self, trip: _Trip, candidates: Sequence[Candidate]
    ) -> AsyncGenerator[StreamEvent, None]:
        machine = self._start(trip, candidates)
        events = drive_stream(machine, trip.request, self._leaves, trip.finish, trip.started)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    def _start(self, trip: _Trip, candidates: Sequence[Candidate]) -> Attempts:
        scope = trip.scope
        rng = scope.rng or self._rng
        try:
            selection = select_model(
                candidates, scope.inputs, scope.context, self._clock.now(), rng
            )
        except DspexRayError:
            trip.finish(CallResult(attempts=()))
            raise
        trip.selection = selection
        for model_id in selection.check_requested:
            self._on_degraded(model_id)
        return attempts(
            (selection.choice, *selection.chain),
            settings=self._settings,
            breakers=self._breakers,
            limits=self._limits,
            clock=self._clock,
            rng=rng,
            deadline=scope.deadline,
            memory=Recall(self._cache, self._clock, trip.request, scope, stream=trip.stream),
        )


class RoutedStream:
    """The events of a streamed call; close it to cancel the call upstream."""

    def __init__(self, events: AsyncGenerator[StreamEvent, None], trip: _Trip) -> None:
        self._events = events
        self._trip = trip

    def __aiter__(self) -> AsyncGenerator[StreamEvent, None]:
        return self._events

    @property
    def answering(self) -> Candidate | None:
        """Whose events these are; None before the first of them."""
        return self._trip.answering

    @property
    def call(self) -> LmCall | None:
        """The record; None before the end event or the error."""
        return self._trip.call

    async def aclose(self) -> None:
        await self._events.aclose()


class _Trip:
    """What is gathered on the way for the record of the call."""

    def __init__(
        self,
        clock: Clock,
        request: Request,
        scope: RequestScope,
        predictor: str | None,
        *,
        stream: bool,
    ) -> None:
        self.request = request
        self.scope = scope
        self.stream = stream
        self.selection: Selection | None = None
        self.answering: Candidate | None = None
        self.call: LmCall | None = None
        self._predictor = predictor
        self._clock = clock
        self._started_at = clock.now()
        self._began = clock.monotonic()

    def started(self, candidate: Candidate) -> None:
        self.answering = candidate

    def finish(self, result: CallResult) -> None:
        """Make the record and hand it to the sink."""
        choice = self.selection.choice.assignment if self.selection else None
        capture = self.scope.capture_content
        self.call = LmCall(
            predictor=self._predictor,
            strategy=choice.routing_strategy if choice else None,
            chosen=choice.model_name if choice else None,
            answered_by=result.answered_by.model.name if result.answered_by else None,
            losers=self.selection.losers if self.selection else (),
            attempts=result.attempts,
            stream=self.stream,
            started_at=self._started_at,
            latency_ms=(self._clock.monotonic() - self._began) * 1000,
            usage=_usage(result.response),
            request=_request_content(self.request) if capture else None,
            response=_response_content(result.response) if capture else None,
        )
        self.scope.sink.lm_call(self.call)
        trace_attempts(self.call, result, self.selection)


def _usage(response: Any) -> dict[str, Any]:
    from dspy._vendor.lm15.serde import usage_to_dict

    return {} if response is None else dict(usage_to_dict(response.usage))


def _request_content(request: Request) -> dict[str, Any]:
    from dspy._vendor.lm15.serde import request_to_dict

    return dict(request_to_dict(request))


def _response_content(response: Any) -> dict[str, Any] | None:
    from dspy._vendor.lm15.serde import response_to_dict

    return None if response is None else dict(response_to_dict(response))
