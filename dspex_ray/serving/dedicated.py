"""The `dedicated` placement: runs carried to a replica of the version's own, and its end there.

The gateway authenticates, admits, keeps the deadline and writes the one record; the replica runs
the program and calls the models. What crosses is plain JSON. Free of Ray: the way between them is
injected.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import BY_CODE, DeadlineExceeded, DspexRayError, Unavailable
from dspex_ray.core.ids import ExecutionId
from dspex_ray.core.noun import Noun
from dspex_ray.routing.cache import CacheUse, Lookup
from dspex_ray.routing.model import LmCall
from dspex_ray.routing.scope import RequestScope
from dspex_ray.serving.relay import relayed
from dspex_ray.serving.runner import Run, Runner, of_the_program
from dspex_ray.serving.snapshot import Pick
from dspex_ray.serving.tracing import continue_execution

_RETRY_AFTER_S = 1


class RunAsk(Noun):
    """What a gateway sends. `timeout_ms` is what is left of the request's deadline."""

    execution_id: ExecutionId
    inputs: dict[str, Any]
    context: dict[str, Any]
    timeout_ms: float
    traceparent: str
    capture_content: bool
    cache: CacheUse


class RunAnswer(Noun):
    """What comes back: `outputs`, or `error` as {code, message, details}; and in any case the LM
    calls that were made. A stream gives its deltas as they come, the calls among them, and the
    outcome last."""

    outputs: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    calls: tuple[LmCall, ...] = ()
    lookups: tuple[Lookup | None, ...] = ()


class ReplicaLost(Exception):
    """The way to a replica broke off. `begun`: the replica may have run some of it."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__(begun)
        self.begun = begun


class Replicas(Protocol):
    """The way to an application's replicas; both raise ReplicaLost. Cancelled, or closed, they
    cancel the call over there. A scaled-down application is started by a call, which waits."""

    async def run(self, application: str, ask: dict[str, Any]) -> dict[str, Any]: ...

    def stream(
        self, application: str, ask: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]: ...


class DedicatedRunner:
    """The gateway's end. A call whose replica is lost is made once more, unless the version is a
    class, whose code may have had effects, or a part of the answer is out."""

    def __init__(self, replicas: Replicas, clock: Clock) -> None:
        self._replicas = replicas
        self._clock = clock

    async def run(self, run: Run) -> dict[str, Any]:
        for again in (True, False):
            try:
                answer = await self._replicas.run(_application(run), self._ask(run))
            except ReplicaLost as lost:
                _give_up_unless(again and _repeatable(run, lost), run, lost)
            else:
                return _taken(run, answer)
        raise AssertionError("the second loss raises")

    async def stream(self, run: Run) -> AsyncGenerator[Any, None]:
        for again in (True, False):
            begun = False
            events = self._replicas.stream(_application(run), self._ask(run))
            try:
                async with aclosing(events):
                    async for event in events:
                        begun = True
                        if event["type"] == "calls":
                            _taken(run, event["answer"])
                        elif event["type"] == "answer":
                            outputs = _taken(run, event["answer"])
                            yield {"type": "outputs", "outputs": outputs}
                        else:
                            yield event
            except ReplicaLost as lost:
                _give_up_unless(again and not begun and _repeatable(run, lost), run, lost)
            else:
                return

    def _ask(self, run: Run) -> dict[str, Any]:
        scope = run.scope
        return RunAsk(
            execution_id=run.id,
            inputs=run.inputs,
            context=dict(scope.context),
            timeout_ms=max(0.0, (scope.deadline - self._clock.monotonic()) * 1000),
            traceparent=run.traceparent,
            capture_content=scope.capture_content,
            cache=scope.cache,
        ).model_dump(mode="json")


def _application(run: Run) -> str:
    place = run.version.placement
    assert place is not None
    assert place.application is not None  # `Snapshot.pick` refuses the others
    return place.application


def _repeatable(run: Run, lost: ReplicaLost) -> bool:
    return not lost.begun or run.version.artifact["kind"] == "modules"


def _give_up_unless(repeat: bool, run: Run, lost: ReplicaLost) -> None:
    if not repeat:
        raise Unavailable(
            f"the replica that ran version {run.version.number} of {run.program.name!r} was lost",
            retry_after_s=_RETRY_AFTER_S,
        ) from lost


def _taken(run: Run, told: dict[str, Any]) -> dict[str, Any]:
    """The outputs, the calls given to the run's sink; raises the replica's error as what it was."""
    answer = RunAnswer.model_validate(told)
    for call in answer.calls:
        run.scope.sink.lm_call(call)
    run.scope.lookups.extend(answer.lookups)
    if answer.error is not None:
        raise _raised(answer.error)
    return answer.outputs or {}


def _raised(error: dict[str, Any]) -> DspexRayError:
    kind = BY_CODE.get(error["code"], DspexRayError)
    return kind(error["message"], **error["details"])


@dataclass
class _Calls:
    """The sink of one run over there: what was made and not yet told."""

    made: list[LmCall] = field(default_factory=list)

    def lm_call(self, call: LmCall) -> None:
        self.made.append(call)

    def take(self) -> tuple[LmCall, ...]:
        taken, self.made = tuple(self.made), []
        return taken


class DedicatedVersion:
    """The replica's end: one version, run as the shared ones are. `pick` gives it, as the newest
    snapshot has it."""

    def __init__(self, runner: Runner, clock: Clock, pick: Callable[[], Pick]) -> None:
        self._runner = runner
        self._clock = clock
        self._pick = pick

    async def warm_up(
        self, inputs: dict[str, Any], execution_id: ExecutionId, timeout_ms: float
    ) -> None:
        """Run it as if it were asked, for no record; raises what that would answer."""
        ask = RunAsk(
            execution_id=execution_id,
            inputs=inputs,
            context={},
            timeout_ms=timeout_ms,
            traceparent="",
            capture_content=False,
            cache=CacheUse.NONE,
        )
        answer = RunAnswer.model_validate(await self.run(ask.model_dump(mode="json")))
        if answer.error is not None:
            raise _raised(answer.error)

    async def run(self, told: dict[str, Any]) -> dict[str, Any]:
        ask, calls = RunAsk.model_validate(told), _Calls()
        run = self._run(ask, calls)
        outputs, failure = None, None
        timer = asyncio.timeout(ask.timeout_ms / 1000)
        try:
            with continue_execution(run):
                async with timer:
                    outputs = await self._runner.run(run)
        except asyncio.CancelledError:
            run.scope.cancel()
            raise
        except Exception as error:
            run.scope.cancel()
            failure = _ours(error, out_of_time=timer.expired())
        return _answer(run.scope, calls, outputs, failure)

    def stream(self, told: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """In a task of its own, as deadlines and traces want."""
        return relayed(self._stream(RunAsk.model_validate(told)))

    async def _stream(self, ask: RunAsk) -> AsyncGenerator[dict[str, Any], None]:
        calls = _Calls()
        run = self._run(ask, calls)
        outputs, failure = None, None
        timer = asyncio.timeout(ask.timeout_ms / 1000)
        try:
            with continue_execution(run):
                async with timer, aclosing(self._runner.stream(run)) as events:
                    async for event in events:
                        if calls.made:
                            yield {"type": "calls", "answer": _answer(run.scope, calls)}
                        if event["type"] == "outputs":
                            outputs = event["outputs"]
                        else:
                            yield event
        except (asyncio.CancelledError, GeneratorExit):
            run.scope.cancel()
            raise
        except Exception as error:
            run.scope.cancel()
            failure = _ours(error, out_of_time=timer.expired())
        yield {"type": "answer", "answer": _answer(run.scope, calls, outputs, failure)}

    def _run(self, ask: RunAsk, calls: _Calls) -> Run:
        pick = self._pick()
        scope = RequestScope(
            deadline=self._clock.monotonic() + ask.timeout_ms / 1000,
            sink=calls,
            inputs=ask.inputs,
            context=ask.context,
            capture_content=ask.capture_content,
            cache=ask.cache,
        )
        return Run(ask.execution_id, pick.program, pick.version, ask.inputs, scope, ask.traceparent)


def _ours(error: Exception, *, out_of_time: bool) -> DspexRayError:
    if isinstance(error, DspexRayError):
        return error
    if isinstance(error, TimeoutError) and out_of_time:
        return DeadlineExceeded("the request ran out of time")
    return of_the_program(error)


def _answer(
    scope: RequestScope,
    calls: _Calls,
    outputs: dict[str, Any] | None = None,
    failure: DspexRayError | None = None,
) -> dict[str, Any]:
    """The calls and lookups since the last of it."""
    error = None
    if failure is not None:
        error = {"code": failure.code, "message": failure.message, "details": failure.details}
    lookups = tuple(scope.lookups)
    scope.lookups.clear()
    answer = RunAnswer(outputs=outputs, error=error, calls=calls.take(), lookups=lookups)
    return answer.model_dump(mode="json")
