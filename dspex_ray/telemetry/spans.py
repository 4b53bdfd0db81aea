"""The platform's spans: children of whatever sampled span is current, and nothing without one.

Ray Serve makes the tracer provider and the span of the HTTP request, where tracing is configured
(`telemetry.export`); until then every function here returns at once. Spans carry names, counts and
codes, never content, and never an exception's text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, Tracer
from opentelemetry.trace.status import Status, StatusCode

from dspex_ray.telemetry.tracecontext import RandomBits, TraceContext, parse, span_of

Attributes = Mapping[str, str | int | float | bool | None]  #: None = unknown: left out

_SHARED = contexts.create_key("dspex-shared-attributes")
_tracer: Tracer | None = None


def trace_with(tracer: Tracer | None) -> None:
    """Begin to trace in this process, or stop (None)."""
    global _tracer  # noqa: PLW0603 - one switch a process, as its tracer provider is
    _tracer = tracer


def here() -> TraceContext | None:
    """The sampled span that this code runs in; None when it is not traced."""
    inside = None if _tracer is None else _sampled()
    if inside is None:
        return None
    place = trace.get_current_span(inside).get_span_context()
    return TraceContext(f"{place.trace_id:032x}", f"{place.span_id:016x}", sampled=True)


def place_of_request(traceparent: str | None, random_bits: RandomBits) -> TraceContext:
    """Serve's span of this request, where it is traced; else a place that only the record names.

    That one is not sampled where this process traces others: nobody shall go on with it.
    """
    found = here()
    if found is not None:
        return found
    made = span_of(traceparent, random_bits)
    return made if _tracer is None else made._replace(sampled=False)


def surroundings() -> Context | None:
    """What `begin` takes as `inside` in a thread that inherits no context; None when untraced."""
    return None if _tracer is None else _sampled()


@contextmanager
def continued(
    traceparent: str | None, *, shared: Callable[[], Attributes] | None = None
) -> Iterator[None]:
    """Go on with the trace that another process named; for payloads of calls between processes.

    Within a sampled span of this process (Serve's own, of the same call) that one stays the parent.
    Nothing happens for a traceparent that is missing, not valid or not sampled. `shared` is as
    `begin` takes it.
    """
    inside = None if _tracer is None else _sampled() or _remote(traceparent)
    if inside is None:
        yield
        return
    if shared is not None:
        inside = contexts.set_value(_SHARED, shared, inside)
    token = contexts.attach(inside)
    try:
        yield
    finally:
        contexts.detach(token)


class OpenSpan:
    """A span that is current in its context until `end`, which is called there, once."""

    def __init__(self, span: Span, inside: Context) -> None:
        self._span = span
        self._token = contexts.attach(inside)

    def end(
        self, attributes: Attributes | None = None, *, name: str | None = None, error: str | None
    ) -> None:
        """`error`: a code or a class name when it failed, never a message."""
        if name is not None:
            self._span.update_name(name)
        _conclude(self._span, attributes or {}, error)
        self._span.end()
        contexts.detach(self._token)


def begin(
    name: str,
    attributes: Attributes | None = None,
    *,
    inside: Context | None = None,
    shared: Callable[[], Attributes] | None = None,
) -> OpenSpan | None:
    """A span within the current one, or within `inside` where none is; None when untraced.

    `shared` gives attributes for every span that `past` adds within it, as of that moment.
    """
    if _tracer is None:
        return None
    parent = _sampled() or inside
    if parent is None:
        return None
    span = _tracer.start_span(name, parent, attributes=_known(attributes or {}))
    within = trace.set_span_in_context(span, parent)
    if shared is not None:
        within = contexts.set_value(_SHARED, shared, within)
    return OpenSpan(span, within)


def past(
    name: str,
    started_at: datetime,
    latency_ms: float,
    attributes: Attributes,
    *,
    error: str | None,
) -> None:
    """A call to somebody else that is over already, as a span within the current one."""
    parent = None if _tracer is None else _sampled()
    if _tracer is None or parent is None:
        return
    shared = contexts.get_value(_SHARED, parent)
    around: Attributes = shared() if callable(shared) else {}
    start_ns = int(started_at.timestamp() * 1e9)
    span = _tracer.start_span(name, parent, kind=SpanKind.CLIENT, start_time=start_ns)
    _conclude(span, {**around, **attributes}, error)
    span.end(start_ns + int(latency_ms * 1e6))


def _remote(traceparent: str | None) -> Context | None:
    """A context whose span is another process's, when it is sampled."""
    place = parse(traceparent)
    if place is None or not place.sampled:
        return None
    span = SpanContext(
        int(place.trace_id, 16), int(place.span_id, 16), True, TraceFlags(TraceFlags.SAMPLED)
    )
    return trace.set_span_in_context(NonRecordingSpan(span))


def _sampled() -> Context | None:
    """The current context, when its span is sampled."""
    current = contexts.get_current()
    place = trace.get_current_span(current).get_span_context()
    return current if place.is_valid and place.trace_flags.sampled else None


def _conclude(span: Span, attributes: Attributes, error: str | None) -> None:
    span.set_attributes(_known(attributes))
    if error is not None:
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR))


def _known(attributes: Attributes) -> dict[str, str | int | float | bool]:
    return {name: value for name, value in attributes.items() if value is not None}
