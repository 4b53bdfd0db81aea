"""Where spans go: OTLP over HTTP, and a file of JSON lines on a laptop.

Ray Serve calls `span_processors` in each of its processes when its environment says so
(`telemetry.serve`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace.status import Status

from dspex_ray import __version__
from dspex_ray.settings import Settings, TelemetrySettings
from dspex_ray.telemetry import spans

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

SPANS_FILE = "spans.jsonl"

_TRACES = "/v1/traces"
_DELAY_MS = 1000
_MAX_FILE_BYTES = 50_000_000

# Whatever else a span holds, Serve's own spans included, stays here: it might quote a request.
ATTRIBUTES = frozenset(
    {
        "app",
        "call_method",
        "deployment",
        "dspex.attempt.number",
        "dspex.attempt.outcome",
        "dspex.cost_usd",
        "dspex.endpoint",
        "dspex.execution",
        "dspex.model",
        "dspex.module",
        "dspex.predictor",
        "dspex.program",
        "dspex.program.version",
        "dspex.project",
        "dspex.status",
        "dspex.strategy",
        "error.type",
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "gen_ai.request.stream",
        "gen_ai.response.model",
        "gen_ai.response.time_to_first_chunk",
        "gen_ai.tool.name",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "gen_ai.workflow.name",
        "http.method",
        "http.response.status_code",
        "http.route",
        "http.status_code",
        "is_streaming",
        "replica_id",
        "request_id",
        "route",
    }
)


def span_processors() -> list[SpanProcessor]:
    """Serve's exporter hook. Begins the tracing of this process, to where the settings say."""
    settings = Settings()
    spans.trace_with(trace.get_tracer("dspex_ray", __version__))
    return [
        BatchSpanProcessor(Scrubbed(exporter), schedule_delay_millis=_DELAY_MS)
        for exporter in _exporters(settings.telemetry, settings.home)
    ]


class Scrubbed(SpanExporter):
    """Passes on only what is known to be harmless: no events, no status texts, listed attributes.

    Serve puts a failing request's exception, text and all, into its span; nor do we answer for
    what users' code adds to spans of its own.
    """

    def __init__(self, to: SpanExporter) -> None:
        self._to = to

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._to.export([_scrubbed(span) for span in spans])

    def shutdown(self) -> None:
        self._to.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._to.force_flush(timeout_millis)


class SpanFile(SpanExporter):
    """Appends a line of JSON a span; several processes may share the file (mode 0600).

    At 50 MB it becomes `<name>.1`, and the one of that name before goes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        lines = "".join(f"{span.to_json(indent=None)}\n" for span in spans)
        try:
            # Opened for each batch: another process may have put it aside.
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(fd, lines.encode())
                full = os.fstat(fd).st_size > _MAX_FILE_BYTES
            finally:
                os.close(fd)
            if full:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        except OSError:
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing is held open."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def _exporters(settings: TelemetrySettings, home: Path) -> list[SpanExporter]:
    found: list[SpanExporter] = []
    if settings.otlp_endpoint is not None:
        # Imported here: it brings an HTTP client that nobody else needs.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        base = settings.otlp_endpoint.rstrip("/")
        found.append(OTLPSpanExporter(base if base.endswith(_TRACES) else base + _TRACES))
    if settings.spans_file:
        found.append(SpanFile(home / "logs" / SPANS_FILE))
    return found


def _scrubbed(span: ReadableSpan) -> ReadableSpan:
    kept: dict[str, AttributeValue] = {
        name: value for name, value in (span.attributes or {}).items() if name in ATTRIBUTES
    }
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=kept,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )
