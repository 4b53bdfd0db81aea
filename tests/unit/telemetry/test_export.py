"""What leaves the process: listed attributes to where the settings say, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import ValidationError

import dspex_ray
from dspex_ray.telemetry import export, spans
from dspex_ray.telemetry.export import ATTRIBUTES, Scrubbed, SpanFile, span_processors
from dspex_ray.telemetry.serve import serve_variables

SECRET = "Bearer planted-secret"


@pytest.fixture(autouse=True)
def _no_tracing_afterwards() -> Iterator[None]:
    yield
    spans.trace_with(None)


def a_span(provider: TracerProvider, name: str = "replica_handle_request") -> None:
    """As Serve and users' code make them: an exception, a status text, any attribute."""
    with (
        suppress(ValueError),
        provider.get_tracer("serve").start_as_current_span(name) as span,
    ):
        span.set_attribute("route", "/v1/programs/{program}/predict")
        span.set_attribute("gen_ai.input.messages", SECRET)
        span.add_event("said", {"prompt": SECRET})
        raise ValueError(SECRET)


def test_only_what_is_listed_leaves_the_process() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Scrubbed(exporter)))
    a_span(provider)
    [span] = exporter.get_finished_spans()
    assert dict(span.attributes or {}) == {"route": "/v1/programs/{program}/predict"}
    assert (span.name, span.events, span.status.description) == ("replica_handle_request", (), None)
    assert not span.status.is_ok
    assert SECRET not in span.to_json()


def test_a_file_holds_a_line_a_span(tmp_path: Path) -> None:
    file = tmp_path / "spans.jsonl"
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(SpanFile(file)))
    for name in ("one", "two"):
        provider.get_tracer("test").start_span(name).end()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["name"] for line in lines] == ["one", "two"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_full_file_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_MAX_FILE_BYTES", 10)
    file = tmp_path / "spans.jsonl"
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(SpanFile(file)))
    for name in ("one", "two"):
        provider.get_tracer("test").start_span(name).end()
    assert not file.exists()
    aside = (tmp_path / "spans.jsonl.1").read_text()
    assert json.loads(aside)["name"] == "two"


def test_a_file_that_cannot_be_written_is_a_failure_not_an_error(tmp_path: Path) -> None:
    assert SpanFile(tmp_path / "none" / "spans.jsonl").export([]) is SpanExportResult.FAILURE


def test_the_hook_of_serve_exports_to_where_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPEX_RAY_HOME", str(tmp_path))
    assert span_processors() == []
    monkeypatch.setenv("DSPEX_RAY_TELEMETRY__SPANS_FILE", "true")
    monkeypatch.setenv("DSPEX_RAY_TELEMETRY__OTLP_ENDPOINT", "http://127.0.0.1:9/")
    (tmp_path / "logs").mkdir()
    both = span_processors()
    provider = TracerProvider()
    provider.add_span_processor(both[1])
    a_span(provider)
    for processor in both:
        processor.shutdown()
    text = (tmp_path / "logs" / "spans.jsonl").read_text()
    assert json.loads(text)["name"] == "replica_handle_request"
    assert SECRET not in text


def test_serve_is_told_to_trace_only_when_spans_have_a_place_to_go() -> None:
    assert serve_variables({}) == {}
    assert serve_variables({"DSPEX_RAY_TELEMETRY__SAMPLE_RATIO": "0.5"}) == {}
    told = serve_variables(
        {
            "DSPEX_RAY_TELEMETRY__OTLP_ENDPOINT": "http://collector:4318",
            "DSPEX_RAY_TELEMETRY__SAMPLE_RATIO": "0.5",
        }
    )
    assert told == {
        "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": "dspex_ray.telemetry.export:span_processors",
        "RAY_SERVE_TRACING_SAMPLING_RATIO": "0.5",
        "OTEL_SERVICE_NAME": "dspex-ray",
    }
    with pytest.raises(ValidationError):
        serve_variables({"DSPEX_RAY_TELEMETRY__OTLP_ENDPOINT": "collector"})


def test_every_attribute_that_the_code_sets_is_listed() -> None:
    root = Path(dspex_ray.__file__).parent
    texts = [path.read_text() for path in root.glob("*/tracing.py")]
    texts.append((root / "telemetry" / "spans.py").read_text())
    named = set(re.findall(r'"((?:dspex|gen_ai|http|error)\.[a-z_.]+)"', "\n".join(texts)))
    assert named <= ATTRIBUTES
    assert len(named) > 15  # the pattern finds them


def test_no_prompt_is_ever_listed() -> None:
    content = {"input", "output", "messages", "prompt", "completion", "arguments", "result"}
    assert not {name for name in ATTRIBUTES if content & set(re.split(r"[._]", name))} - {
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
    }
