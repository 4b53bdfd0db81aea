"""Runs that are carried to another process and back: values, errors, losses, leaving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import orjson
import pytest
import uvloop

from dspex_ray.core.clock import SystemClock
from dspex_ray.core.errors import DeadlineExceeded, DspexRayError, Invalid, Unavailable
from dspex_ray.core.ids import DEFAULT_PROJECT, ExecutionId, ProgramId, VersionId
from dspex_ray.placements.model import DedicatedPlace
from dspex_ray.programs.model import Program
from dspex_ray.routing.cache import CacheUse
from dspex_ray.routing.model import LmCall
from dspex_ray.routing.scope import RequestScope
from dspex_ray.serving.dedicated import DedicatedRunner, DedicatedVersion, ReplicaLost
from dspex_ray.serving.runner import ByPlacement, Run
from dspex_ray.serving.snapshot import Pick, ServedVersion
from dspex_ray.testing.fake_clock import NOON
from tests.unit.traces.records import a_call, an_attempt

CLOCK = SystemClock()
PROGRAM = Program(
    id=ProgramId(UUID(int=1)),
    project_id=DEFAULT_PROJECT,
    name="p",
    created_at=NOON,
    updated_at=NOON,
)
SHARED = ServedVersion(VersionId(UUID(int=2)), 3, "hash", {"kind": "modules"})
PLACED = replace(SHARED, placement=DedicatedPlace(application="app"))
A_CLASS = replace(PLACED, artifact={"kind": "import"})
CALL = LmCall.model_validate(a_call(an_attempt()).model_dump())


@dataclass
class Sink:
    calls: list[LmCall] = field(default_factory=list)

    def lm_call(self, call: LmCall) -> None:
        self.calls.append(call)


def a_run(version: ServedVersion = PLACED, *, timeout_s: float = 5, **scope: Any) -> Run:
    inputs = {"question": "why?"}
    held = RequestScope(CLOCK.monotonic() + timeout_s, Sink(), inputs, **scope)
    return Run(ExecutionId(UUID(int=7)), PROGRAM, version, inputs, held, "")


def calls_of(run: Run) -> list[LmCall]:
    assert isinstance(run.scope.sink, Sink)
    return run.scope.sink.calls


@dataclass
class Told:
    """What runs over there: makes one call, then does as it is told."""

    does: Callable[[Run], Any] = lambda run: {"answer": "yes"}
    runs: list[Run] = field(default_factory=list)

    async def run(self, run: Run) -> dict[str, Any]:
        self.runs.append(run)
        run.scope.sink.lm_call(CALL)
        run.scope.lookups.append("miss")
        done = self.does(run)
        outputs: dict[str, Any] = await done if asyncio.iscoroutine(done) else done
        return outputs

    async def stream(self, run: Run) -> AsyncGenerator[Any, None]:
        yield {"type": "delta", "predictor": None, "field": "answer", "text": "y"}
        outputs = await self.run(run)
        yield {"type": "delta", "predictor": None, "field": "answer", "text": "es"}
        yield {"type": "outputs", "outputs": outputs}


class Wire:
    """Ray's part, in one process: everything that crosses is bytes; it may lose replicas."""

    def __init__(self, program: Told, *lost: ReplicaLost) -> None:
        self._version = DedicatedVersion(program, CLOCK, lambda: Pick(PROGRAM, SHARED))
        self._lost = list(lost)
        self.asked: list[str] = []

    async def run(self, application: str, ask: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(application)
        if self._lost:
            raise self._lost.pop()
        answer: dict[str, Any] = _carried(await self._version.run(_carried(ask)))
        return answer

    async def stream(
        self, application: str, ask: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        self.asked.append(application)
        async with aclosing(self._version.stream(_carried(ask))) as events:
            async for event in events:
                if self._lost and event["type"] != "delta":
                    raise self._lost.pop()
                yield _carried(event)


def _carried(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


async def test_outputs_calls_and_lookups_come_back() -> None:
    program = Told()
    run = a_run(context={"tier": "gold"}, capture_content=True, cache=CacheUse.REFRESH)
    wire = Wire(program)
    assert await DedicatedRunner(wire, CLOCK).run(run) == {"answer": "yes"}
    assert calls_of(run) == [CALL]
    assert run.scope.lookups == ["miss"]
    assert wire.asked == ["app"]
    [there] = program.runs
    assert (there.id, there.inputs, there.version) == (run.id, run.inputs, SHARED)
    assert there.scope.context == {"tier": "gold"}
    assert (there.scope.capture_content, there.scope.cache) == (True, CacheUse.REFRESH)
    assert 0 <= run.scope.deadline - there.scope.deadline + 0.5 <= 1.0


async def test_a_stream_gives_deltas_then_outputs_and_its_calls() -> None:
    run = a_run()
    events = [event async for event in DedicatedRunner(Wire(Told()), CLOCK).stream(run)]
    assert [event["type"] for event in events] == ["delta", "delta", "outputs"]
    assert events[-1] == {"type": "outputs", "outputs": {"answer": "yes"}}
    assert calls_of(run) == [CALL]
    assert run.scope.lookups == ["miss"]


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_come_back_as_what_they_were_and_with_their_calls(stream: bool) -> None:
    def refuse(run: Run) -> Any:
        raise Invalid("Unknown inputs: x", field="x", rule="unknown")

    run = a_run()
    with pytest.raises(Invalid) as refused:
        await _outputs(DedicatedRunner(Wire(Told(refuse)), CLOCK), run, stream)
    assert (refused.value.message, refused.value.field) == ("Unknown inputs: x", "x")
    assert calls_of(run) == [CALL]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_text_of_the_programs_own_errors_stays_there(stream: bool) -> None:
    def fail(run: Run) -> Any:
        raise KeyError("a customer's name")

    with pytest.raises(DspexRayError) as failed:
        await _outputs(DedicatedRunner(Wire(Told(fail)), CLOCK), a_run(), stream)
    assert failed.value.message == "the program raised KeyError"
    assert "customer" not in str(failed.value.details)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_deadline_is_kept_there(stream: bool) -> None:
    program = Told(lambda run: asyncio.sleep(30))
    run = a_run(timeout_s=0.05)
    with pytest.raises(DeadlineExceeded):
        await _outputs(DedicatedRunner(Wire(program), CLOCK), run, stream)
    assert calls_of(run) == [CALL]
    assert program.runs[0].scope.cancelled


@pytest.mark.parametrize("stream", [False, True])
def test_the_deadline_of_a_loop_that_wakes_early(stream: bool) -> None:
    """Serve's loop is uvloop, whose timers fire up to a millisecond before their time."""

    async def late() -> None:
        program = Told(lambda run: asyncio.sleep(30))
        for _ in range(20):
            run = a_run(timeout_s=0.01)
            with pytest.raises(DeadlineExceeded):
                await _outputs(DedicatedRunner(Wire(program), CLOCK), run, stream)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(late())


@pytest.mark.parametrize("stream", [False, True])
async def test_a_timeout_of_the_programs_own_is_no_deadline(stream: bool) -> None:
    def fail(run: Run) -> Any:
        raise TimeoutError

    with pytest.raises(DspexRayError) as failed:
        await _outputs(DedicatedRunner(Wire(Told(fail)), CLOCK), a_run(), stream)
    assert failed.value.message == "the program raised TimeoutError"


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_cancels_the_run_there(stream: bool) -> None:
    begun = asyncio.Event()

    async def hang() -> None:
        begun.set()
        await asyncio.sleep(30)

    program = Told(lambda run: hang())
    asked = asyncio.create_task(_outputs(DedicatedRunner(Wire(program), CLOCK), a_run(), stream))
    await begun.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert program.runs[0].scope.cancelled


@pytest.mark.parametrize(
    ("version", "lost", "runs"),
    [
        (PLACED, [True], True),
        (PLACED, [False], True),
        (A_CLASS, [False], True),
        (A_CLASS, [True], False),  # its code may have had effects
        (PLACED, [True, True], False),
        (PLACED, [False, False], False),
    ],
)
async def test_a_lost_call_is_made_once_more_where_that_is_safe(
    version: ServedVersion, lost: list[bool], runs: bool
) -> None:
    wire = Wire(Told(), *(ReplicaLost(begun=begun) for begun in lost))
    runner = DedicatedRunner(wire, CLOCK)
    if runs:
        assert await runner.run(a_run(version)) == {"answer": "yes"}
        assert len(wire.asked) == 2
        return
    with pytest.raises(Unavailable) as failed:
        await runner.run(a_run(version))
    assert failed.value.message == "the replica that ran version 3 of 'p' was lost"
    assert failed.value.retry_after_s == 1
    assert len(wire.asked) == len(lost)


async def test_a_stream_that_was_begun_is_not_begun_again() -> None:
    wire = Wire(Told(), ReplicaLost(begun=True))
    events = DedicatedRunner(wire, CLOCK).stream(a_run())
    assert (await anext(events))["type"] == "delta"
    with pytest.raises(Unavailable):
        await anext(events)
    assert wire.asked == ["app"]


async def test_warm_up_raises_what_the_run_answers() -> None:
    def refuse(run: Run) -> Any:
        raise Unavailable("no model")

    program = Told()
    version = DedicatedVersion(program, CLOCK, lambda: Pick(PROGRAM, SHARED))
    await version.warm_up({"question": "q"}, ExecutionId(UUID(int=9)), 1_000)
    assert program.runs[0].inputs == {"question": "q"}
    failing = DedicatedVersion(Told(refuse), CLOCK, lambda: Pick(PROGRAM, SHARED))
    with pytest.raises(Unavailable, match="no model"):
        await failing.warm_up({"question": "q"}, ExecutionId(UUID(int=9)), 1_000)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_goes_where_its_version_is(stream: bool) -> None:
    here, there = Told(lambda run: {"at": "here"}), Told(lambda run: {"at": "there"})
    runner = ByPlacement(here, there)
    assert await _outputs(runner, a_run(SHARED), stream) == {"at": "here"}
    assert await _outputs(runner, a_run(PLACED), stream) == {"at": "there"}


async def _outputs(runner: Any, run: Run, stream: bool) -> Any:
    if not stream:
        return await runner.run(run)
    async with aclosing(runner.stream(run)) as events:
        return [event async for event in events][-1]["outputs"]
