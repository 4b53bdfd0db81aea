"""DSPy's modules and tools become spans, in every thread, and say nothing of what they carry."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import dspy
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dspex_ray.programs.model import ProgramSource
from dspex_ray.programs.runtime import load_program, run_program
from dspex_ray.programs.source import resolve_source
from dspex_ray.programs.tracing import module_spans
from dspex_ray.telemetry import spans
from dspex_ray.testing.fake_lm import chat_answer, fake_lm

ALLOWED = ("dspex_ray.testing",)
TRACEPARENT = f"00-{'1' * 32}-{'2' * 16}-01"
PLANTED = "planted-text"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    found = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    spans.trace_with(provider.get_tracer("test"))
    yield found
    spans.trace_with(None)


async def test_threads_that_dspy_starts_belong_to_the_run(exporter: InMemorySpanExporter) -> None:
    source = ProgramSource(
        import_path="dspex_ray.testing.sample_programs:Everywhere",
        signature="words: list[str] -> shouts: list[str]",
    )
    program = load_program(
        resolve_source(source, allowed_packages=ALLOWED), allowed_packages=ALLOWED
    )
    lm = fake_lm(lambda request: chat_answer(shout=PLANTED))
    with spans.continued(TRACEPARENT), ThreadPoolExecutor(1) as threads:
        await run_program(program, {"words": ["a", "b"]}, lm=lm, threads=threads)
    found = exporter.get_finished_spans()
    whole = next(span for span in found if span.name == "module Everywhere")
    parents = [(span.name, span.parent and span.parent.span_id) for span in found]
    assert sorted(parents, key=str) == [
        ("module Everywhere", 0x2222222222222222),
        ("module Predict", whole.context.span_id),
        ("module upper", 0x2222222222222222),
        ("module upper", 0x2222222222222222),
    ]
    assert PLANTED not in "".join(span.to_json() for span in found)


def test_a_tool_is_a_span_and_its_failure_a_class_name(exporter: InMemorySpanExporter) -> None:
    def look_up(word: str) -> str:
        raise LookupError(word)

    with spans.continued(TRACEPARENT), dspy.context(callbacks=module_spans({})):
        tool = dspy.Tool(look_up)
        with pytest.raises(LookupError):
            tool(word=PLANTED)
    [span] = exporter.get_finished_spans()
    assert span.name == "execute_tool look_up"
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "look_up",
        "error.type": "LookupError",
    }
    assert PLANTED not in span.to_json()


def test_a_run_that_is_not_traced_has_no_callbacks(exporter: InMemorySpanExporter) -> None:
    assert module_spans({}) == []
    spans.trace_with(None)
    with spans.continued(TRACEPARENT):
        assert module_spans({}) == []
