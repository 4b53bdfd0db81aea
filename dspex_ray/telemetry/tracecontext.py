"""Who a request belongs to: W3C trace context (level 1) and the request id. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

RandomBits = Callable[[int], int]

MAX_REQUEST_ID = 128

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_VISIBLE_ASCII = re.compile(rf"[\x21-\x7e]{{1,{MAX_REQUEST_ID}}}")
_SAMPLED = 0x01


class TraceContext(NamedTuple):
    """A place in a trace. `trace_id`: 32 lower-case hex digits, `span_id`: 16; never all zero."""

    trace_id: str
    span_id: str
    sampled: bool

    @property
    def traceparent(self) -> str:
        """The header to send on, version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{_SAMPLED if self.sampled else 0:02x}"

    def child(self, random_bits: RandomBits) -> TraceContext:
        """A new span of the same trace, sampled as its parent is."""
        return self._replace(span_id=_hex_id(64, random_bits))


def new_trace(random_bits: RandomBits, *, sampled: bool = True) -> TraceContext:
    return TraceContext(_hex_id(128, random_bits), _hex_id(64, random_bits), sampled)


def parse(traceparent: str | None) -> TraceContext | None:
    """None when there is no header or it is not valid: the standard says to start a new trace.

    A version later than 00 is read as 00, whatever follows its four fields.
    """
    found = _TRACEPARENT.fullmatch(traceparent.strip(" \t")) if traceparent else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    if not (int(trace_id, 16) and int(span_id, 16)):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def span_of(traceparent: str | None, random_bits: RandomBits) -> TraceContext:
    """The span for a request: a child of the caller's when it sent one, else of a new trace."""
    parent = parse(traceparent)
    return parent.child(random_bits) if parent else new_trace(random_bits)


def request_id(sent: str | None, make: Callable[[], str]) -> str:
    """The client's x-request-id when it is 1 to 128 visible ASCII characters, else a made one."""
    return sent if sent is not None and _VISIBLE_ASCII.fullmatch(sent) else make()


def _hex_id(bits: int, random_bits: RandomBits) -> str:
    # All zeros means "no id"; 1 in 2^64 draws, but a test's generator may well return 0.
    return f"{random_bits(bits) or 1:0{bits // 4}x}"
