"""Router and drivers over fake leaf engines: retries, streams, timeouts, cancellation, records."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from dspy import lm15

from dspex_ray.core.errors import Conflict, DeadlineExceeded, ProviderDown
from dspex_ray.models.model import HealthStatus
from dspex_ray.routing.model import RoutingStrategy
from dspex_ray.routing.router import RoutedStream
from dspex_ray.settings import RoutingSettings
from tests.unit.routing.parts import (
    HANG,
    Bench,
    FakeLeaf,
    Pause,
    candidate,
    outcomes,
    request,
    response,
    words,
)


def text_of(events: list[Any]) -> str:
    return "".join(event.delta.text for event in events if event.type == "delta")


async def collect(stream: RoutedStream, into: list[Any] | None = None) -> list[Any]:
    events = [] if into is None else into
    async for event in stream:
        events.append(event)
    return events


class TestComplete:
    async def test_an_answer_and_its_record(self) -> None:
        bench = Bench({"a": FakeLeaf([response("yes")])})
        answer = await bench.router.complete(
            request(), [candidate("a")], bench.scope(), predictor="draft"
        )
        assert answer.response.text == "yes"
        assert bench.sink.calls == [answer.call]
        assert outcomes(answer.call) == [("a", 1, "ok", None)]
        assert (answer.call.predictor, answer.call.strategy) == ("draft", RoutingStrategy.PRIMARY)
        assert (answer.call.chosen, answer.call.answered_by) == ("a", "a")
        assert answer.call.usage == {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}
        assert answer.call.request is None
        assert answer.call.response is None
        assert bench.leaves["a"].seen[0].model == "vendor-a"

    async def test_content_is_recorded_only_when_asked(self) -> None:
        bench = Bench({"a": FakeLeaf([response("yes")])})
        scope = bench.scope(capture_content=True)
        answer = await bench.router.complete(request("why"), [candidate("a")], scope)
        assert "why" in str(answer.call.request)
        assert "yes" in str(answer.call.response)

    async def test_retries_fall_back_and_wait_by_the_clock(self) -> None:
        a = FakeLeaf([lm15.ServerError("x", status=500), lm15.AuthError("bad", status=401)])
        bench = Bench({"a": a, "b": FakeLeaf([response("b")])})
        chain = [candidate("a"), candidate("b", "fallback")]
        answer = await bench.router.complete(request(), chain, bench.scope())
        assert outcomes(answer.call) == [
            ("a", 1, "failed", "server"),
            ("a", 2, "failed", "auth"),
            ("b", 1, "ok", None),
        ]
        assert answer.call.fallback
        assert len(bench.clock.slept) == 1
        assert answer.call.latency_ms == pytest.approx(bench.clock.slept[0] * 1000)
        assert [a.provider_status for a in answer.call.attempts] == [500, 401, None]

    async def test_all_failed_is_recorded_and_raised(self) -> None:
        bench = Bench({"a": FakeLeaf([lm15.AuthError("bad key")])})
        with pytest.raises(ProviderDown, match="the model failed: a: auth"):
            await bench.router.complete(request(), [candidate("a")], bench.scope())
        assert outcomes(bench.sink.calls[0]) == [("a", 1, "failed", "auth")]
        assert bench.sink.calls[0].answered_by is None

    async def test_no_model_is_recorded_too(self) -> None:
        bench = Bench({})
        with pytest.raises(Conflict, match="No models configured"):
            await bench.router.complete(request(), [], bench.scope())
        assert [call.attempts for call in bench.sink.calls] == [()]

    async def test_a_model_without_an_engine_is_a_matter_of_configuration(self) -> None:
        bench = Bench({"b": FakeLeaf([response("b")])})
        chain = [candidate("a"), candidate("b", "fallback")]
        answer = await bench.router.complete(request(), chain, bench.scope())
        assert outcomes(answer.call)[0] == ("a", 1, "failed", "configuration")

    async def test_a_hanging_model_times_out_and_is_cancelled(self) -> None:
        a = FakeLeaf([HANG])
        bench = Bench({"a": a, "b": FakeLeaf([response("b")])}, RoutingSettings(retries=0))
        chain = [candidate("a", of={"timeout_s": 0.01}), candidate("b", "fallback")]
        answer = await bench.router.complete(request(), chain, bench.scope())
        assert outcomes(answer.call)[0] == ("a", 1, "failed", "timeout")
        assert a.cancelled == 1
        assert answer.response.text == "b"

    async def test_a_passed_deadline(self) -> None:
        bench = Bench({"a": FakeLeaf([])})
        with pytest.raises(DeadlineExceeded):
            await bench.router.complete(request(), [candidate("a")], bench.scope(-1))

    async def test_doubtful_health_is_told(self) -> None:
        bench = Bench({"a": FakeLeaf([response("yes")])})
        doubtful = candidate("a", health=HealthStatus.DEGRADED)
        await bench.router.complete(request(), [doubtful], bench.scope())
        assert bench.degraded == [doubtful.model.id]

    async def test_a_cancelled_caller_cancels_upstream_and_is_recorded(self) -> None:
        leaf = FakeLeaf([HANG])
        bench = Bench({"a": leaf})
        chain = [candidate("a"), candidate("b", "fallback")]
        task = asyncio.create_task(bench.router.complete(request(), chain, bench.scope()))
        await leaf.hanging.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert leaf.cancelled == 1
        assert outcomes(bench.sink.calls[0]) == [("a", 1, "cancelled", "cancelled")]


class TestStream:
    async def test_events_of_the_answer_in_order(self) -> None:
        leaf = FakeLeaf([words("he", "llo")])
        bench = Bench({"a": leaf})
        stream = bench.router.stream(request(), [candidate("a")], bench.scope())
        events = await collect(stream)
        assert [event.type for event in events] == ["start", "delta", "delta", "end"]
        assert text_of(events) == "hello"
        assert stream.call == bench.sink.calls[0]
        assert outcomes(bench.sink.calls[0]) == [("a", 1, "ok", None)]
        assert bench.sink.calls[0].stream
        assert bench.sink.calls[0].usage["output_tokens"] == 2
        assert bench.sink.calls[0].attempts[0].first_token_ms is not None
        assert leaf.closed == 1

    async def test_the_record_comes_before_the_end_event(self) -> None:
        bench = Bench({"a": FakeLeaf([words("x")])})
        stream = bench.router.stream(request(), [candidate("a")], bench.scope())
        async for event in stream:
            assert (len(bench.sink.calls) == 1) == (event.type == "end")
            assert stream.answering == candidate_named(stream, "a")

    async def test_an_empty_answer_is_an_answer(self) -> None:
        bench = Bench({"a": FakeLeaf([words()])})
        stream = bench.router.stream(request(), [candidate("a")], bench.scope())
        assert [event.type for event in await collect(stream)] == ["start", "end"]
        assert outcomes(bench.sink.calls[0]) == [("a", 1, "ok", None)]

    async def test_before_content_it_retries_and_falls_back(self) -> None:
        start = words()[0]
        a = FakeLeaf([[start, lm15.ServerError("x")], [lm15.AuthError("x")]])
        bench = Bench({"a": a, "b": FakeLeaf([words("b")])})
        chain = [candidate("a"), candidate("b", "fallback")]
        events = await collect(bench.router.stream(request(), chain, bench.scope()))
        assert [event.type for event in events] == ["start", "delta", "end"]
        assert text_of(events) == "b"
        assert outcomes(bench.sink.calls[0]) == [
            ("a", 1, "failed", "server"),
            ("a", 2, "failed", "auth"),
            ("b", 1, "ok", None),
        ]

    @pytest.mark.parametrize(
        ("breaks_with", "error_class"),
        [
            ([lm15.TransportError("cut")], "transport"),
            ([], "malformed"),
            (
                [lm15.StreamErrorEvent(error=lm15.ErrorDetail(code="server", message="x"))],
                "server",
            ),
            ([HANG], "timeout"),
        ],
        ids=["raises", "ends without an end", "error event", "falls silent"],
    )
    async def test_after_content_it_ends_in_an_error(
        self, breaks_with: list[Any], error_class: str
    ) -> None:
        a = FakeLeaf([[*words("he")[:-1], *breaks_with], words("again")])
        bench = Bench({"a": a, "b": FakeLeaf([words("b")])})
        chain = [candidate("a", of={"timeout_s": 0.01}), candidate("b", "fallback")]
        got: list[Any] = []
        with pytest.raises(ProviderDown, match="broke off after its first content"):
            await collect(bench.router.stream(request(), chain, bench.scope()), got)
        assert [event.type for event in got] == ["start", "delta"]
        assert outcomes(bench.sink.calls[0]) == [("a", 1, "failed", error_class)]
        assert a.closed == 1

    async def test_no_content_in_time_falls_back(self) -> None:
        a = FakeLeaf([[words()[0], HANG]])
        bench = Bench({"a": a, "b": FakeLeaf([words("b")])}, RoutingSettings(retries=0))
        chain = [candidate("a", of={"timeout_s": 0.01}), candidate("b", "fallback")]
        assert text_of(await collect(bench.router.stream(request(), chain, bench.scope()))) == "b"
        assert (a.cancelled, a.closed) == (1, 1)

    async def test_the_deadline_ends_a_stream_that_never_falls_silent(self) -> None:
        start, delta, _ = words("x")
        leaf = FakeLeaf([[start, *[delta, Pause(0.005)] * 2000]])
        bench = Bench({"a": leaf})
        with pytest.raises(ProviderDown, match="timeout"):
            await collect(bench.router.stream(request(), [candidate("a")], bench.scope(0.05)))
        assert leaf.closed == 1

    async def test_a_reader_who_leaves_cancels_upstream(self) -> None:
        leaf = FakeLeaf([[*words("he")[:-1], HANG]])
        bench = Bench({"a": leaf})
        stream = bench.router.stream(request(), [candidate("a")], bench.scope())
        async for event in stream:
            if event.type == "delta":
                break
        await stream.aclose()
        assert leaf.closed == 1
        assert outcomes(bench.sink.calls[0]) == [("a", 1, "cancelled", "cancelled")]
        assert bench.sink.calls[0].attempts[0].first_token_ms is not None

    async def test_a_cancelled_reader_cancels_upstream(self) -> None:
        leaf = FakeLeaf([[*words("he")[:-1], HANG]])
        bench = Bench({"a": leaf})
        stream = bench.router.stream(request(), [candidate("a")], bench.scope())
        task = asyncio.create_task(collect(stream))
        await leaf.hanging.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await stream.aclose()
        assert (leaf.cancelled, leaf.closed) == (1, 1)
        assert outcomes(bench.sink.calls[0]) == [("a", 1, "cancelled", "cancelled")]

    async def test_what_comes_after_the_end_cannot_spoil_the_answer(self) -> None:
        bench = Bench({"a": FakeLeaf([[*words("x"), lm15.TransportError("reset")]])})
        events = await collect(bench.router.stream(request(), [candidate("a")], bench.scope()))
        assert events[-1].type == "end"
        assert outcomes(bench.sink.calls[0]) == [("a", 1, "ok", None)]

    async def test_a_tool_call_without_a_name_is_no_answer(self) -> None:
        start, end = words()
        fragment = lm15.StreamDeltaEvent(delta=lm15.ToolCallDelta(input="{}"))
        bench = Bench({"a": FakeLeaf([[start, fragment, end]])})
        with pytest.raises(ProviderDown, match="malformed"):
            await collect(bench.router.stream(request(), [candidate("a")], bench.scope()))


def candidate_named(stream: RoutedStream, name: str) -> Any:
    assert stream.answering is not None
    assert stream.answering.model.name == name
    return stream.answering
