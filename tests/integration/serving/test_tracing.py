"""One trace from the request through the program's modules to each attempt; and the figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dspex_ray.core.errors import ProviderDown
from dspex_ray.programs.model import ProgramSource
from dspex_ray.serving.model import BatchAsk, PredictAsk
from dspex_ray.telemetry import spans
from dspex_ray.telemetry.export import ATTRIBUTES
from dspex_ray.testing.data_plane import DataPlane
from dspex_ray.testing.provider_simulator import Fault, Prompt, ProviderSimulator
from dspex_ray.traces.model import ExecutionRecord

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
PLANTED = "planted-prompt-text"

ASYNC = ProgramSource(module={"type": "chain_of_thought", "signature": "question -> answer"})
SYNC = ProgramSource(import_path="dspex_ray.testing.sample_programs:TwoSteps")


def answer(prompt: Prompt) -> str:
    """Every field that DSPy's chat prompts ever ask for here."""
    fields = ("reasoning", "answer", "draft", "sure", "shout")
    told = "".join(f"[[ ## {name} ## ]]\ntrue {PLANTED}\n\n" for name in fields)
    return told.replace(f"[[ ## sure ## ]]\ntrue {PLANTED}", "[[ ## sure ## ]]\ntrue")


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator(answer) as simulator:
        yield simulator


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    found = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    spans.trace_with(provider.get_tracer("test"))
    yield found
    spans.trace_with(None)


@pytest.fixture
def plane(tmp_path: Path) -> DataPlane:
    """Not served: what Serve's own span is to a request is `spans.continued` here."""
    return DataPlane(tmp_path / "spool")


async def predict(plane: DataPlane, name: str, inputs: dict[str, Any]) -> Any:
    with spans.continued(TRACEPARENT):
        ask = plane.gateway.asks.read({"authorization": f"Bearer {plane.key}"})
        return await plane.gateway.predict(ask, name, PredictAsk(inputs=inputs))


def paths(exporter: InMemorySpanExporter) -> list[str]:
    """Each span as the names from the outermost to it; all must be of the client's trace."""
    found = {span.context.span_id: span for span in exporter.get_finished_spans()}

    def path(span: ReadableSpan) -> str:
        assert f"{span.context.trace_id:032x}" == TRACE
        assert span.parent is not None
        if span.parent.span_id == int(PARENT, 16):
            return span.name
        return f"{path(found[span.parent.span_id])} > {span.name}"

    return sorted(path(span) for span in found.values())


async def test_spans_nest_from_the_request_to_the_attempt(
    plane: DataPlane, sim: ProviderSimulator, exporter: InMemorySpanExporter
) -> None:
    program = plane.add_program("judge", ASYNC)
    plane.assign(program, plane.add_model("bad", sim.url), priority=2)
    plane.assign(program, plane.add_model("good", sim.url), priority=1)
    sim.script([Fault.SERVER_ERROR])
    answered = await predict(plane, "judge", {"question": PLANTED})
    assert PLANTED in answered.body["outputs"]["answer"]
    run = "invoke_workflow judge"
    nested = [run, "module Pipeline", "module ChainOfThought", "module main.predict"]
    chat = "chat upstream-bad"
    assert paths(exporter) == [
        *(" > ".join(nested[:depth]) for depth in (1, 2, 3, 4)),
        " > ".join([*nested, chat]),
        " > ".join([*nested, chat]),
    ]
    failed, made = (s for s in exporter.get_finished_spans() if s.name.startswith("chat"))
    [record] = plane.records()
    assert isinstance(record, ExecutionRecord)
    shared = {
        "dspex.execution": str(record.id),
        "dspex.endpoint": "predict",
        "dspex.project": str(record.project_id),
        "dspex.program": "judge",
        "dspex.program.version": 1,
    }
    attempt = {
        **shared,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai_compatible",
        "gen_ai.request.model": "upstream-bad",
        "gen_ai.request.stream": False,
        "dspex.model": "bad",
        "dspex.predictor": "main.predict",
        "dspex.strategy": "primary",
    }
    assert dict(failed.attributes or {}) == {
        **attempt,
        "dspex.attempt.number": 1,
        "dspex.attempt.outcome": "failed",
        "error.type": "server",
        "http.response.status_code": 500,
    }
    [used] = [a for a in record.lm_calls[0].attempts if a.outcome == "ok"]
    assert dict(made.attributes or {}) == {
        **attempt,
        "dspex.attempt.number": 2,
        "dspex.attempt.outcome": "ok",
        "dspex.cost_usd": float(used.cost_usd or 0),
        "gen_ai.response.model": "upstream-bad",
        "gen_ai.usage.input_tokens": used.prompt_tokens,
        "gen_ai.usage.output_tokens": used.completion_tokens,
    }
    [execution] = [s for s in exporter.get_finished_spans() if s.name == run]
    assert dict(execution.attributes or {}) == {
        **shared,
        "dspex.status": "completed",
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "judge",
    }
    assert (record.trace_id, record.span_id) == (TRACE, PARENT)
    assert answered.headers["traceparent"] == TRACEPARENT


async def test_the_trace_reaches_into_threads(
    plane: DataPlane, sim: ProviderSimulator, exporter: InMemorySpanExporter
) -> None:
    program = plane.add_program("judge", SYNC)
    plane.assign(program, plane.add_model("good", sim.url))
    await predict(plane, "judge", {"question": PLANTED})
    found = [path.split(" > ") for path in paths(exporter)]
    callers = [path[-2] for path in found if path[-1].startswith("chat")]
    assert sorted(callers) == ["module draft", "module judge.predict"]


async def test_no_span_holds_content_or_a_key(
    plane: DataPlane, sim: ProviderSimulator, exporter: InMemorySpanExporter
) -> None:
    program = plane.add_program("judge", ASYNC)
    plane.assign(program, plane.add_model("bad", sim.url, timeout_s=5.0))
    await predict(plane, "judge", {"question": PLANTED})
    sim.always(Fault.SERVER_ERROR)
    with pytest.raises(ProviderDown):
        await predict(plane, "judge", {"question": PLANTED})
    text = json.dumps([json.loads(span.to_json()) for span in exporter.get_finished_spans()])
    assert "provider_down" in text
    assert PLANTED not in text
    assert plane.key not in text
    for span in exporter.get_finished_spans():
        assert set(span.attributes or {}) <= ATTRIBUTES
        assert span.events == ()


async def test_items_of_a_batch_are_executions_of_one_trace(
    plane: DataPlane, sim: ProviderSimulator, exporter: InMemorySpanExporter
) -> None:
    program = plane.add_program("judge", ASYNC)
    plane.assign(program, plane.add_model("good", sim.url))
    with spans.continued(TRACEPARENT):
        ask = plane.gateway.asks.read({"authorization": f"Bearer {plane.key}"})
        items = [{"question": "a"}, {"question": "b"}, {}]
        await plane.gateway.batch(ask, "judge", BatchAsk(items=items))
    runs = [s for s in exporter.get_finished_spans() if s.name == "invoke_workflow judge"]
    assert len(paths(exporter)) == 3 + 2 * 4  # three runs; the last one's inputs are refused
    assert sorted(str((s.attributes or {}).get("error.type")) for s in runs) == [
        "None",
        "None",
        "invalid",
    ]


async def test_a_request_that_nobody_sampled_leaves_no_span(
    plane: DataPlane, sim: ProviderSimulator, exporter: InMemorySpanExporter
) -> None:
    program = plane.add_program("judge", ASYNC)
    plane.assign(program, plane.add_model("good", sim.url))
    headers = {"authorization": f"Bearer {plane.key}", "traceparent": TRACEPARENT[:-1] + "0"}
    ask = plane.gateway.asks.read(headers)
    answered = await plane.gateway.predict(ask, "judge", PredictAsk(inputs={"question": "q"}))
    assert exporter.get_finished_spans() == ()
    assert answered.headers["traceparent"].endswith("-00")
    assert answered.headers["traceparent"].startswith(f"00-{TRACE}-")
