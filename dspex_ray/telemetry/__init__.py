"""Structured logs and W3C trace context, without secrets or content."""
