"""Short loops that do what an attempt machine says, on leaf engines: whole answers and streams.

A caller who goes away ends the call upstream too, and the machine is told before the driver
lets go: `done` gets the result exactly once, whatever happens.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dspex_ray.core.ids import ModelId
from dspex_ray.models.failure import Failure
from dspex_ray.models.model import ErrorClass
from dspex_ray.routing.attempt import (
    CANCELLED,
    Answered,
    Attempts,
    Broke,
    Call,
    CallResult,
    Effect,
    Outcome,
    Relay,
    Started,
    Wait,
    Waited,
)
from dspex_ray.routing.rules import Candidate
from dspex_ray.routing.scope import find_gate

if TYPE_CHECKING:
    from dspy.lm15 import Request

    from dspex_ray.models.providers import LeafEngine

StreamEvent = Any  # one of dspy.lm15's Stream*Event classes
Done = Callable[[CallResult], None]


@dataclass(frozen=True, slots=True)
class Leaves:
    """How effects are performed: the engine of a model, what its exceptions mean, and sleep."""

    engines: Callable[[ModelId], LeafEngine]
    classify: Callable[[BaseException], Failure]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def broke(self, exc: BaseException) -> Broke:
        return Broke(self.classify(exc))


class _Misconfigured(Exception):
    """No engine for the model: its key or its configuration, never this request."""


async def drive(machine: Attempts, request: Request, leaves: Leaves, done: Done) -> CallResult:
    """Carry out a call for a whole answer. Errors are in the result; cancellation is raised, and
    what the gate of further attempts raises."""
    step, gate, failed = _advance(machine, None), find_gate(), None
    while not isinstance(step, CallResult):
        try:
            if gate is not None and failed is not None and isinstance(step, Call):
                await gate(failed)
            outcome = await _perform(step, request, leaves)
        except BaseException:
            done(_give_up(machine))
            raise
        failed = outcome.failure if isinstance(outcome, Broke) else failed
        step = _advance(machine, outcome)
    done(step)
    return step


async def drive_stream(
    machine: Attempts,
    request: Request,
    leaves: Leaves,
    done: Done,
    started: Callable[[Candidate], None],
) -> AsyncGenerator[StreamEvent, None]:
    """The events of the model that answers, which `started` names: a start, content, one end.

    The end event comes after `done`, and only for a whole answer. Without one, the result's
    error is raised. Closing the generator cancels the call upstream. An answer from memory is
    whole from the start: `done` comes first.
    """
    async with aclosing(_Source(leaves, request)) as source:
        step = _advance(machine, None)
        while not isinstance(step, CallResult):
            try:
                if isinstance(step, Call):
                    outcome = await source.open(step)
                elif isinstance(step, Relay):
                    started(step.candidate)
                    source.relay(step)
                    while (event := await source.next()) is not None:
                        yield event
                    outcome = source.outcome()
                else:
                    outcome = await _perform(step, request, leaves)
            except BaseException:
                done(_give_up(machine))
                raise
            step = _advance(machine, outcome)
        done(step)
        if step.error is not None:
            raise step.error
        if not step.events:
            yield source.end
            return
        assert step.answered_by is not None
        started(step.answered_by)
        for event in step.events:
            yield event


def _advance(machine: Attempts, outcome: Outcome | None) -> Effect | CallResult:
    try:
        return next(machine) if outcome is None else machine.send(outcome)
    except StopIteration as stop:
        result: CallResult = stop.value
        return result


def _give_up(machine: Attempts) -> CallResult:
    step = _advance(machine, CANCELLED)
    assert isinstance(step, CallResult)  # nothing follows a cancelled caller
    return step


async def _perform(effect: Effect, request: Request, leaves: Leaves) -> Outcome:
    if isinstance(effect, Wait):
        await leaves.sleep(effect.seconds)
        return Waited()
    if not isinstance(effect, Call):
        raise TypeError(f"{type(effect).__name__} belongs to a stream")
    try:
        engine = _engine(leaves, effect.candidate)
        async with asyncio.timeout(effect.timeout_s):
            return Answered(await engine.complete(_for_model(request, effect.candidate)))
    except _Misconfigured as error:
        return _misconfigured(leaves, error)
    except Exception as error:
        return leaves.broke(error)


class _Source:
    """The stream of one attempt, a step at a time: every wait has its own timeout.

    No timeout may span a yield: another task may be the one that asks for the next event.
    """

    def __init__(self, leaves: Leaves, request: Request) -> None:
        self._leaves = leaves
        self._request = request
        self._events: AsyncGenerator[StreamEvent, None] | None = None
        self._held: list[StreamEvent] = []
        self._failure: Broke | None = None
        self._relay_ends = 0.0
        self._idle_s = 0.0
        self.end: StreamEvent = None

    async def open(self, call: Call) -> Outcome:
        """Started once content (or the end of an empty answer) is here; it is held back."""
        await self.aclose()
        self._held, self._failure, self.end = [], None, None
        try:
            engine = _engine(self._leaves, call.candidate)
            request = _for_model(self._request, call.candidate)
            self._events = _checked(engine.stream(request))
            self._answer = _accumulator(request)
            async with asyncio.timeout(call.timeout_s):
                while True:
                    event = await anext(self._events)
                    self._held.append(event)
                    if event.type != "start":
                        return Started()
        except _Misconfigured as error:
            return _misconfigured(self._leaves, error)
        except Exception as error:
            return self._leaves.broke(error)

    def relay(self, relay: Relay) -> None:
        self._relay_ends = asyncio.get_running_loop().time() + relay.timeout_s
        self._idle_s = relay.idle_s

    async def next(self) -> StreamEvent | None:
        """The next event to pass on; None when the answer is whole or broken (see `outcome`)."""
        try:
            event = self._held.pop(0) if self._held else await self._pull()
            self._answer.push(event)
        except Exception as error:
            self._failure = self._leaves.broke(error)
            await self.aclose()
            return None
        if event.type == "end":
            self.end = event
            return None
        return event

    async def _pull(self) -> StreamEvent:
        assert self._events is not None
        now = asyncio.get_running_loop().time()
        async with asyncio.timeout_at(min(now + self._idle_s, self._relay_ends)):
            return await anext(self._events)

    def outcome(self) -> Outcome:
        if self._failure is not None:
            return self._failure
        try:
            return Answered(self._answer.response())
        except Exception as error:
            return self._leaves.broke(error)

    async def aclose(self) -> None:
        """Close the connection. What closing stumbles over must not hide how the call went."""
        if self._events is not None:
            events, self._events = self._events, None
            with contextlib.suppress(Exception):
                await events.aclose()


def _engine(leaves: Leaves, candidate: Candidate) -> LeafEngine:
    try:
        return leaves.engines(candidate.model.id)
    except Exception as error:
        raise _Misconfigured from error


def _misconfigured(leaves: Leaves, error: _Misconfigured) -> Broke:
    assert error.__cause__ is not None
    failure = leaves.classify(error.__cause__)
    return Broke(replace(failure, error_class=ErrorClass.CONFIGURATION))


def _for_model(request: Request, candidate: Candidate) -> Request:
    return replace(request, model=candidate.model.model_name)


def _checked(events: AsyncIterator[StreamEvent]) -> AsyncGenerator[StreamEvent, None]:
    """Raises for error events, for a stream out of order, and for one without its end."""
    from dspy.clients.engines.stream_guard import achecked_stream

    guarded: AsyncGenerator[StreamEvent, None] = achecked_stream(events)
    return guarded


def _accumulator(request: Request) -> Any:
    from dspy._vendor.lm15.result import StreamAccumulator

    return StreamAccumulator(request)
