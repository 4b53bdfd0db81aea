"""Structured logs, metrics, spans and W3C trace context, without secrets or content."""
