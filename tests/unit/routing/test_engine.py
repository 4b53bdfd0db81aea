"""DSPy over the router: sync in threads, async, streams, records, errors that survive."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

import dspy
import pytest
from dspy import lm15

from dspex_ray.core.errors import Conflict, Invalid, ProviderDown
from dspex_ray.routing.engine import (
    Assigned,
    AsyncRoutedEngine,
    Route,
    RoutedEngine,
    routed_lm,
    unwrap,
)
from dspex_ray.routing.scope import RequestScope, current_scope, request_scope
from dspex_ray.routing.threads import LoopThread
from tests.unit.routing.parts import (
    HANG,
    Bench,
    FakeLeaf,
    assignment,
    model,
    outcomes,
    request,
    response,
    words,
)

ANSWER = '{"answer": "blue"}'


@pytest.fixture
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


def route(bench: Bench, predictor: str | None = None) -> Route:
    """Every leaf's model is assigned, the first as primary, one named `own` to its predictor."""
    names = list(bench.leaves)

    def assigned() -> Assigned:
        return [
            (
                assignment(
                    model(name),
                    "fallback" if index and name != "own" else "primary",
                    predictor="draft" if name == "own" else None,
                ),
                model(name),
            )
            for index, name in enumerate(names)
        ]

    return Route(bench.router, assigned, lambda: predictor)


def ask(bench: Bench, lm: dspy.LM) -> Any:
    with (
        request_scope(bench.scope()),
        dspy.context(lm=lm, adapter=dspy.JSONAdapter(), disable_history=True, trace=None),
    ):
        return dspy.Predict("question -> answer")(question="sky?")


async def ask_async(bench: Bench, lm: dspy.LM) -> Any:
    with (
        request_scope(bench.scope()),
        dspy.context(lm=lm, adapter=dspy.JSONAdapter(), disable_history=True, trace=None),
    ):
        return await dspy.Predict("question -> answer").acall(question="sky?")


def failing() -> Bench:
    return Bench({"a": FakeLeaf([lm15.AuthError("bad key", status=401)])})


class TestPredict:
    def test_sync_from_a_thread(self, loop_thread: LoopThread) -> None:
        bench = Bench({"a": FakeLeaf([response(ANSWER)])})
        prediction = ask(bench, routed_lm("p", route(bench, "draft"), loop_thread.loop))
        assert prediction.answer == "blue"
        assert outcomes(bench.sink.calls[0]) == [("a", 1, "ok", None)]
        assert bench.sink.calls[0].predictor == "draft"

    async def test_async(self) -> None:
        bench = Bench({"a": FakeLeaf([response(ANSWER)])})
        lm = routed_lm("p", route(bench), asyncio.get_running_loop())
        assert (await ask_async(bench, lm)).answer == "blue"
        # The adapter sent a schema: the engine says that it supports one.
        sent = bench.leaves["a"].seen[0]
        assert sent.config.response_format["type"] == "json_schema"

    async def test_the_predictors_own_assignment(self) -> None:
        bench = Bench({"a": FakeLeaf([]), "own": FakeLeaf([response(ANSWER)])})
        await ask_async(bench, routed_lm("p", route(bench, "draft"), asyncio.get_running_loop()))
        assert bench.sink.calls[0].answered_by == "own"

    async def test_dspy_does_not_retry(self) -> None:
        bench = Bench({"a": FakeLeaf([lm15.AuthError("x"), response(ANSWER)])})
        with pytest.raises(dspy.LMError):
            await ask_async(bench, routed_lm("p", route(bench), asyncio.get_running_loop()))
        assert len(bench.leaves["a"].steps) == 1

    async def test_streamed_to_a_listener(self) -> None:
        bench = Bench({"a": FakeLeaf([words('{"answer": ', '"blue"', "}")])})
        lm = routed_lm("p", route(bench), asyncio.get_running_loop())
        with (
            request_scope(bench.scope()),
            dspy.context(lm=lm, adapter=dspy.JSONAdapter(), disable_history=True, trace=None),
        ):
            streaming = dspy.streamify(dspy.Predict("question -> answer"))
            items = [item async for item in streaming(question="sky?")]
        assert items[-1].answer == "blue"
        assert len(items) > 2
        assert bench.sink.calls[0].stream


async def test_an_async_stream() -> None:
    bench = Bench({"a": FakeLeaf([words("he", "llo")])})
    with request_scope(bench.scope()):
        events = [event async for event in AsyncRoutedEngine(route(bench)).stream(request())]
    assert [event.type for event in events] == ["start", "delta", "delta", "end"]
    assert outcomes(bench.sink.calls[0]) == [("a", 1, "ok", None)]


async def test_closing_an_async_stream_cancels_upstream() -> None:
    leaf = FakeLeaf([[*words("he")[:-1], HANG]])
    bench = Bench({"a": leaf})
    with request_scope(bench.scope()):
        stream = AsyncRoutedEngine(route(bench)).stream(request())
        assert (await anext(stream)).type == "start"
        await stream.aclose()
    assert leaf.closed == 1
    assert outcomes(bench.sink.calls[0]) == [("a", 1, "cancelled", "cancelled")]


class TestErrors:
    async def test_ours_is_inside_dspys(self) -> None:
        bench = failing()
        with pytest.raises(dspy.LMError) as raised:
            await ask_async(bench, routed_lm("p", route(bench), asyncio.get_running_loop()))
        ours = unwrap(raised.value)
        assert isinstance(ours, ProviderDown)
        assert ours.message == "the model failed: a: 401 auth (bad key)"

    def test_also_from_a_thread(self, loop_thread: LoopThread) -> None:
        bench = failing()
        with pytest.raises(dspy.LMError) as raised:
            ask(bench, routed_lm("p", route(bench), loop_thread.loop))
        assert isinstance(unwrap(raised.value), ProviderDown)

    async def test_also_from_a_task_group(self) -> None:
        bench = failing()
        lm = routed_lm("p", route(bench), asyncio.get_running_loop())
        with pytest.raises(BaseExceptionGroup) as raised:
            async with asyncio.TaskGroup() as group:
                group.create_task(ask_async(bench, lm))
        assert isinstance(unwrap(raised.value), ProviderDown)

    def test_what_is_not_ours(self) -> None:
        error = ValueError("x")
        error.__cause__ = KeyError("y")
        error.__cause__.__cause__ = error
        assert unwrap(error) is None

    async def test_dspy_hears_of_a_context_that_is_too_long(self) -> None:
        bench = Bench({"a": FakeLeaf([lm15.ContextLengthError("8192 tokens")])})
        with pytest.raises(dspy.ContextWindowExceededError) as raised:
            await ask_async(bench, routed_lm("p", route(bench), asyncio.get_running_loop()))
        assert isinstance(unwrap(raised.value), Invalid)

    async def test_outside_of_a_request(self) -> None:
        bench = Bench({"a": FakeLeaf([])})
        with pytest.raises(Conflict, match="request_scope"):
            await AsyncRoutedEngine(route(bench)).complete(request())

    async def test_sync_on_the_loop_is_refused_instead_of_waiting_for_ever(self) -> None:
        bench = Bench({"a": FakeLeaf([])})
        engine = RoutedEngine(route(bench), asyncio.get_running_loop())
        with request_scope(bench.scope()):
            with pytest.raises(Conflict, match="use a thread"):
                engine.complete(request())
            with pytest.raises(Conflict, match="use a thread"):
                next(engine.stream(request()))


class TestThreads:
    def stream(self, bench: Bench, loop: LoopThread) -> Iterator[Any]:
        with request_scope(bench.scope()):
            yield from RoutedEngine(route(bench), loop.loop).stream(request())

    def test_a_stream(self, loop_thread: LoopThread) -> None:
        bench = Bench({"a": FakeLeaf([words("he", "llo")])})
        types = [event.type for event in self.stream(bench, loop_thread)]
        assert types == ["start", "delta", "delta", "end"]

    def test_a_stream_that_breaks(self, loop_thread: LoopThread) -> None:
        bench = Bench({"a": FakeLeaf([[*words("he")[:-1], lm15.TransportError("cut")]])})
        got: list[Any] = []
        with pytest.raises(ProviderDown):
            got.extend(self.stream(bench, loop_thread))
        assert [event.type for event in got] == ["start", "delta"]

    def test_a_stream_that_is_closed_early(self, loop_thread: LoopThread) -> None:
        leaf = FakeLeaf([[*words("he")[:-1], HANG]])
        bench = Bench({"a": leaf})
        stream = self.stream(bench, loop_thread)
        assert next(stream).type == "start"
        stream.close()  # type: ignore[attr-defined]
        eventually(lambda: len(bench.sink.calls) == 1)
        assert outcomes(bench.sink.calls[0])[0][2] == "cancelled"

    @pytest.mark.parametrize("streaming", [False, True])
    def test_cancelling_the_request_frees_the_thread_and_the_model(
        self, loop_thread: LoopThread, streaming: bool
    ) -> None:
        leaf = FakeLeaf([[*words("he")[:-1], HANG] if streaming else HANG])
        bench = Bench({"a": leaf})
        scope = bench.scope()
        raised = Raised()

        def work() -> None:
            engine = RoutedEngine(route(bench), loop_thread.loop)
            with request_scope(scope):
                list(engine.stream(request())) if streaming else engine.complete(request())

        thread = raised.run(work)
        eventually(leaf.hanging.is_set)
        scope.cancel()
        thread.join(timeout=5)
        assert isinstance(raised.error, asyncio.CancelledError)
        eventually(lambda: leaf.cancelled == 1 and len(bench.sink.calls) == 1)
        assert outcomes(bench.sink.calls[0])[0][2] == "cancelled"

    def test_a_cancelled_request_makes_no_more_calls(self, loop_thread: LoopThread) -> None:
        bench = Bench({"a": FakeLeaf([])})
        scope = bench.scope()
        scope.cancel()
        engine = RoutedEngine(route(bench), loop_thread.loop)
        with request_scope(scope):
            with pytest.raises(asyncio.CancelledError):
                engine.complete(request())
            with pytest.raises(asyncio.CancelledError):
                next(engine.stream(request()))

    def test_the_scope_goes_with_the_context(self) -> None:
        scope = RequestScope(0.0, sink=Bench({}).sink)
        found: list[RequestScope] = []
        with request_scope(scope):
            context = contextvars.copy_context()
        thread = Thread(target=context.run, args=(lambda: found.append(current_scope()),))
        thread.start()
        thread.join()
        assert found == [scope]


class Raised:
    """What a function raised in a thread of its own."""

    error: BaseException | None = None

    def run(self, work: Any) -> Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                self.error = error

        thread = Thread(target=guarded)
        thread.start()
        return thread


def eventually(true: Any, within_s: float = 5.0) -> None:
    for _ in range(int(within_s * 200)):
        if true():
            return
        Event().wait(0.005)
    raise AssertionError("it did not come true")
