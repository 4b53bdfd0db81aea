"""Trace context: what is valid goes on unchanged, what is not starts a new trace."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.telemetry.tracecontext import (
    TraceContext,
    new_trace,
    parse,
    request_id,
    span_of,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"

ids = st.builds(
    TraceContext,
    st.integers(1, 2**128 - 1).map("{:032x}".format),
    st.integers(1, 2**64 - 1).map("{:016x}".format),
    st.booleans(),
)


@given(ids)
def test_a_context_survives_its_header(context: TraceContext) -> None:
    assert parse(context.traceparent) == context
    assert len(context.traceparent) == 55


@given(ids, st.integers())
def test_a_child_is_another_span_of_the_same_trace(context: TraceContext, seed: int) -> None:
    child = context.child(random.Random(seed).getrandbits)
    assert (child.trace_id, child.sampled) == (context.trace_id, context.sampled)
    assert parse(child.traceparent) == child
    assert child.span_id != context.span_id


@given(st.text())
def test_any_text_is_read_or_ignored(text: str) -> None:
    found = parse(text)
    assert found is None or parse(found.traceparent) == found


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "garbage",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE[:-1]}-{SPAN}-01",
    ],
)
def test_what_the_standard_forbids_is_ignored(header: str | None) -> None:
    assert parse(header) is None


def test_a_later_version_is_read_as_the_first() -> None:
    assert parse(f"cc-{TRACE}-{SPAN}-01-what.the.future.holds") == TraceContext(TRACE, SPAN, True)


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False)])
def test_the_lowest_flag_says_sampled(flags: str, sampled: bool) -> None:
    assert parse(f"00-{TRACE}-{SPAN}-{flags}") == TraceContext(TRACE, SPAN, sampled)


def test_a_request_continues_the_callers_trace_or_starts_one() -> None:
    bits = random.Random(7).getrandbits
    assert span_of(f"00-{TRACE}-{SPAN}-01", bits).trace_id == TRACE
    assert span_of("nonsense", bits).trace_id not in {TRACE, "0" * 32}


def test_ids_are_never_all_zero() -> None:
    assert new_trace(lambda bits: 0) == TraceContext("0" * 31 + "1", "0" * 15 + "1", True)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128))
def test_a_fit_request_id_is_kept(sent: str) -> None:
    assert request_id(sent, lambda: "made") == sent


@pytest.mark.parametrize("sent", [None, "", "a b", "a\n", "a\x7f", "é", "a" * 129])
def test_any_other_request_id_is_replaced(sent: str | None) -> None:
    assert request_id(sent, lambda: "made") == "made"
