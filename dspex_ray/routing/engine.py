"""DSPy's engine contract over the router: what `dspy.LM("router/<program>")` runs on.

DSPy's own retries and cache are off there: attempts belong to the router, and a cached answer
under the router's name would replay yesterday's route.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dspex_ray.core.errors import DspexRayError, Invalid
from dspex_ray.models.model import Model
from dspex_ray.routing.drivers import StreamEvent
from dspex_ray.routing.model import ProgramModel
from dspex_ray.routing.outcome import CONTEXT_LENGTH_RULE
from dspex_ray.routing.pricing import cost_estimator
from dspex_ray.routing.router import Router
from dspex_ray.routing.rules import Candidate, applicable
from dspex_ray.routing.scope import current_scope
from dspex_ray.routing.threads import drive_stream_sync, drive_sync

if TYPE_CHECKING:
    import dspy
    from dspy.lm15 import Request, Response

Assigned = Sequence[tuple[ProgramModel, Model]]

SUPPORTED_PARAMS = frozenset(
    {
        "frequency_penalty",
        "logprobs",
        "max_tokens",
        "presence_penalty",
        "response_format",
        "seed",
        "stop",
        "temperature",
        "tool_choice",
        "tools",
        "top_p",
    }
)


@dataclass(frozen=True, slots=True)
class Route:
    """Where the calls of one program go. Both functions are asked anew for every call.

    `assigned` gives every assignment of the program; those of the predictor that calls win over
    those of the whole program. `current_predictor` runs in the calling task or thread.
    """

    router: Router
    assigned: Callable[[], Assigned]
    current_predictor: Callable[[], str | None]

    def candidates(self, request: Request, predictor: str | None) -> list[Candidate]:
        pairs = applicable(self.assigned(), predictor)
        return [Candidate(row, model, cost_estimator(request, model)) for row, model in pairs]


def routed_lm(name: str, route: Route, loop: asyncio.AbstractEventLoop) -> dspy.LM:
    """The LM of program `name`; use it with `dspy.context` inside a `request_scope`.

    `loop` is where models are called when a sync program asks, from a thread that is not its own.
    """
    import dspy

    return dspy.LM(
        f"router/{name}",
        engine=RoutedEngine(route, loop),
        async_engine=AsyncRoutedEngine(route),
        cache=False,
        num_retries=0,
    )


def unwrap(exc: BaseException) -> DspexRayError | None:
    """Our own error inside what DSPy or a task group made of it; None when there is none."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [exc]
    while waiting:
        error = waiting.pop(0)
        if error is None or id(error) in seen:
            continue
        if isinstance(error, DspexRayError):
            return error
        seen.add(id(error))
        if isinstance(error, BaseExceptionGroup):
            waiting.extend(error.exceptions)
        waiting.append(error.__cause__)
    return None


class AsyncRoutedEngine:
    """For `acall`: the call runs in the caller's own task, and is cancelled with it."""

    supports_response_schema = True
    supported_params = SUPPORTED_PARAMS

    def __init__(self, route: Route) -> None:
        self._route = route

    async def complete(self, request: Request) -> Response:
        scope, predictor = current_scope(), self._route.current_predictor()
        candidates = self._route.candidates(request, predictor)
        with _as_dspy_knows_it():
            answer = await self._route.router.complete(request, candidates, scope, predictor)
        return answer.response

    async def stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        scope, predictor = current_scope(), self._route.current_predictor()
        candidates = self._route.candidates(request, predictor)
        events = self._route.router.stream(request, candidates, scope, predictor)
        try:
            with _as_dspy_knows_it():
                async for event in events:
                    yield event
        finally:
            await events.aclose()

    async def aclose(self) -> None:
        """Leaf engines belong to the router."""


class RoutedEngine:
    """For DSPy's threads: the call runs on the event loop, this thread waits for it."""

    supports_response_schema = True
    supported_params = SUPPORTED_PARAMS

    def __init__(self, route: Route, loop: asyncio.AbstractEventLoop) -> None:
        self._route = route
        self._loop = loop

    def complete(self, request: Request) -> Response:
        scope, predictor = current_scope(), self._route.current_predictor()
        candidates = self._route.candidates(request, predictor)
        call = self._route.router.complete(request, candidates, scope, predictor)
        with _as_dspy_knows_it():
            return drive_sync(call, self._loop, scope).response

    def stream(self, request: Request) -> Iterator[StreamEvent]:
        scope, predictor = current_scope(), self._route.current_predictor()
        candidates = self._route.candidates(request, predictor)
        events = self._route.router.stream(request, candidates, scope, predictor)
        with _as_dspy_knows_it():
            yield from drive_stream_sync(aiter(events), self._loop, scope)

    def close(self) -> None:
        """Leaf engines belong to the router."""


@contextmanager
def _as_dspy_knows_it() -> Iterator[None]:
    """DSPy shortens an overlong history when it hears its own error for it; ours is the cause."""
    try:
        yield
    except Invalid as error:
        if error.rule != CONTEXT_LENGTH_RULE:
            raise
        from dspy.lm15 import ContextLengthError

        raise ContextLengthError(error.message) from error
