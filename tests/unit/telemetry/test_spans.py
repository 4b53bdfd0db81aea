"""Spans continue a sampled trace, and do nothing without one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from dspex_ray.telemetry import spans
from dspex_ray.telemetry.tracecontext import TraceContext

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
AT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans.trace_with(provider.get_tracer("test"))
    yield exporter
    spans.trace_with(None)


def lineage(exporter: InMemorySpanExporter) -> dict[str, str | None]:
    """Each span's name to the id of its parent or, where that was exported too, its name."""
    found = exporter.get_finished_spans()
    names = {span.context.span_id: span.name for span in found}
    return {span.name: _parent(span, names) for span in found}


def _parent(span: ReadableSpan, names: dict[int, str]) -> str | None:
    return span.parent and names.get(span.parent.span_id, f"{span.parent.span_id:016x}")


def test_spans_nest_in_the_trace_that_is_continued(exported: InMemorySpanExporter) -> None:
    with spans.continued(SAMPLED):
        assert spans.here() == TraceContext(TRACE, PARENT, True)
        outer = spans.begin("outer", {"dspex.endpoint": "predict", "dspex.program": None})
        assert outer is not None
        inner = spans.begin("inner")
        assert inner is not None
        spans.past("call", AT, 250.0, {"gen_ai.operation.name": "chat"}, error=None)
        inner.end(error=None)
        outer.end({"dspex.status": "failed"}, name="renamed", error="provider_down")
    assert spans.here() is None
    assert lineage(exported) == {"call": "inner", "inner": "renamed", "renamed": PARENT}
    call, inside, out = exported.get_finished_spans()
    assert {f"{span.context.trace_id:032x}" for span in (call, inside, out)} == {TRACE}
    assert call.kind is SpanKind.CLIENT
    assert call.start_time == int(AT.timestamp() * 1e9)
    assert call.end_time == call.start_time + 250_000_000
    assert dict(out.attributes or {}) == {
        "dspex.endpoint": "predict",
        "dspex.status": "failed",
        "error.type": "provider_down",
    }
    assert (out.status.is_ok, out.status.description) == (False, None)
    assert inside.status.is_unset


@pytest.mark.parametrize("traceparent", [None, "", "nonsense", NOT_SAMPLED])
def test_nothing_is_traced_that_nobody_sampled(
    exported: InMemorySpanExporter, traceparent: str | None
) -> None:
    with spans.continued(traceparent):
        assert spans.here() is None
        assert spans.begin("never") is None
        assert spans.surroundings() is None
        spans.past("never", AT, 1.0, {}, error=None)
    assert exported.get_finished_spans() == ()


def test_without_tracing_nothing_happens() -> None:
    with spans.continued(SAMPLED):
        assert spans.here() is None
        assert spans.begin("never") is None
        spans.past("never", AT, 1.0, {}, error=None)


def test_a_span_of_this_process_stays_the_parent(exported: InMemorySpanExporter) -> None:
    with spans.continued(SAMPLED):
        outer = spans.begin("outer")
        assert outer is not None
        with spans.continued(f"00-{'1' * 32}-{'2' * 16}-01"):
            inner = spans.begin("inner")
            assert inner is not None
            inner.end(error=None)
        outer.end(error=None)
    assert lineage(exported) == {"inner": "outer", "outer": PARENT}


def test_a_thread_without_context_hangs_on_what_it_is_given(
    exported: InMemorySpanExporter,
) -> None:
    def work() -> None:
        assert spans.begin("lost") is None
        span = spans.begin("threaded", inside=inside)
        assert span is not None
        span.end(error=None)

    with spans.continued(SAMPLED):
        inside = spans.surroundings()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert lineage(exported) == {"threaded": PARENT}


def test_calls_carry_what_surrounds_them_as_of_their_end(exported: InMemorySpanExporter) -> None:
    program: dict[str, str] = {}
    with spans.continued(SAMPLED):
        outer = spans.begin("outer", shared=lambda: program)
        assert outer is not None
        program["dspex.program"] = "judge"
        spans.past("call", AT, 1.0, {"dspex.model": "m"}, error="timeout")
        outer.end(error=None)
    call, _ = exported.get_finished_spans()
    assert dict(call.attributes or {}) == {
        "dspex.program": "judge",
        "dspex.model": "m",
        "error.type": "timeout",
    }


@pytest.mark.parametrize("around", [None, SAMPLED], ids=["remote", "within Serve's span"])
def test_what_is_continued_carries_it_too(
    exported: InMemorySpanExporter, around: str | None
) -> None:
    with (
        spans.continued(around),
        spans.continued(SAMPLED, shared=lambda: {"dspex.program": "judge"}),
    ):
        spans.past("call", AT, 1.0, {}, error=None)
    [call] = exported.get_finished_spans()
    assert dict(call.attributes or {}) == {"dspex.program": "judge"}


def test_a_request_is_at_its_span_or_at_a_place_that_nobody_goes_on_with(
    exported: InMemorySpanExporter,
) -> None:
    with spans.continued(SAMPLED):
        assert spans.place_of_request(NOT_SAMPLED, lambda bits: 7) == TraceContext(
            TRACE, PARENT, True
        )
    unsampled = spans.place_of_request(None, lambda bits: 7)
    assert unsampled == TraceContext(f"{7:032x}", f"{7:016x}", False)
    spans.trace_with(None)
    passed_on = spans.place_of_request(SAMPLED, lambda bits: 7)
    assert passed_on == TraceContext(TRACE, f"{7:016x}", True)
