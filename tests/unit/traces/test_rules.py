"""Sums, counters, figures and roll-ups that follow from records."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.errors import Invalid
from dspex_ray.core.ids import DEFAULT_PROJECT, uuid7
from dspex_ray.models.model import ErrorClass
from dspex_ray.traces import rules
from dspex_ray.traces.model import ExecutionRecord, Source
from tests.unit.traces.records import (
    ASSIGNMENTS,
    MODELS,
    NOW,
    a_call,
    a_failure,
    a_record,
    a_replay,
    an_attempt,
    record_id,
    records,
)

TODAY = NOW.date()
SKIPPED = an_attempt(1, outcome="skipped", cost_usd=None, prompt_tokens=None)


def test_sums_of_an_execution() -> None:
    record = a_record(
        1,
        a_call(a_failure(0), an_attempt(0, number=2), chosen="model-0"),
        a_call(SKIPPED, an_attempt(2), chosen="model-1"),
    )
    assert rules.sums(record) == {
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "cost_usd": Decimal("0.002"),
        "attempts": 3,
        "fallback": True,
    }


def test_an_unknown_price_makes_the_cost_unknown_and_a_failure_does_not() -> None:
    unknown = a_record(1, a_call(an_attempt()), a_call(an_attempt(cost_usd=None)))
    failed = a_record(1, a_call(a_failure(), an_attempt(1)))
    assert rules.sums(unknown)["cost_usd"] is None
    assert rules.sums(failed)["cost_usd"] == Decimal("0.001")


def test_nothing_called_cost_nothing() -> None:
    assert rules.sums(a_record())["cost_usd"] == 0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(error, "0") for error in sorted(rules.SPEAKS_OF_MODEL)]
    + [(error, None) for error in sorted(set(ErrorClass) - rules.SPEAKS_OF_MODEL)],
)
def test_which_failures_speak_of_the_model(error: ErrorClass, outcome: str | None) -> None:
    assert rules.outcome_of(a_failure(error=error)) == outcome


def test_the_failures_that_do_not_speak_of_the_model() -> None:
    silent = set(ErrorClass) - rules.SPEAKS_OF_MODEL
    assert silent == {
        ErrorClass.INVALID_REQUEST,
        ErrorClass.CONTEXT_LENGTH,
        ErrorClass.CANCELLED,
        ErrorClass.CONFIGURATION,
        ErrorClass.UNEXPECTED,
    }


@pytest.mark.parametrize(
    ("attempts", "total", "successful", "cost"),
    [
        ([an_attempt()], 1, 1, "0.001"),
        ([a_failure()], 1, 0, "0"),
        ([a_failure(), an_attempt(number=2)], 1, 1, "0.001"),
        ([an_attempt(outcome="cancelled", cost_usd=Decimal("0.01"))], 0, 0, "0.01"),
        ([a_failure(), an_attempt(outcome="cancelled", number=2, cost_usd=None)], 1, 0, "0"),
    ],
)
def test_counters_of_one_call(attempts: Any, total: int, successful: int, cost: str) -> None:
    counts = rules.assignment_counts([a_record(1, a_call(*attempts))])
    key = (DEFAULT_PROJECT, ASSIGNMENTS[0])
    assert counts == {key: rules.AssignmentCounts(total, successful, Decimal(cost))}


def test_a_fallback_counts_on_both_assignments() -> None:
    counts = rules.assignment_counts([a_record(1, a_call(a_failure(0), an_attempt(1)))])
    assert counts == {
        (DEFAULT_PROJECT, ASSIGNMENTS[0]): rules.AssignmentCounts(1, 0, Decimal(0)),
        (DEFAULT_PROJECT, ASSIGNMENTS[1]): rules.AssignmentCounts(1, 1, Decimal("0.001")),
    }


def test_what_was_skipped_or_has_no_assignment_counts_nothing() -> None:
    call = a_call(SKIPPED, an_attempt(assignment_id=None))
    assert rules.assignment_counts([a_record(1, call)]) == {}


def test_figures_move_in_order_of_time() -> None:
    late = an_attempt(latency_ms=200.0, started_at=NOW + timedelta(seconds=9))
    early = an_attempt(latency_ms=100.0)
    between = a_failure(started_at=NOW + timedelta(seconds=5))
    found = rules.model_attempts([a_record(1, a_call(late)), a_record(2, a_call(between, early))])
    attempts = found[DEFAULT_PROJECT, MODELS[0]]
    assert attempts == [early, between, late]
    figures = rules.next_figures(rules.ModelFigures(None, "1", 4), attempts)
    assert figures == rules.ModelFigures(0.9 * 100 + 0.1 * 200, "1101", 7)


def test_health_checks_keep_their_own_account() -> None:
    assert rules.model_attempts([a_record(1, a_call(an_attempt()), source=Source.HEALTH)]) == {}


def test_usage_of_two_minutes() -> None:
    later = an_attempt(cost_usd=None, started_at=NOW + timedelta(minutes=1), latency_ms=50.0)
    usage = rules.usage_counts([a_record(1, a_call(a_failure(), an_attempt(), SKIPPED, later))])
    first = rules.UsageKey(
        datetime(2026, 3, 4, 12, 0, tzinfo=UTC), DEFAULT_PROJECT, "news", 1, MODELS[0], "serving"
    )
    second = first._replace(minute=first.minute + timedelta(minutes=1))
    assert usage == {
        first: rules.UsageCounts(2, 1, 1, 10, 5, Decimal("0.001"), 0, 100.0),
        second: rules.UsageCounts(1, 1, 0, 10, 5, Decimal(0), 1, 50.0),
    }


def test_an_answer_from_the_cache_is_counted_apart_and_moves_no_figure() -> None:
    record = a_record(1, a_call(a_replay()))
    assert rules.assignment_counts([record]) == {}
    assert rules.model_attempts([record]) == {}
    assert list(rules.usage_counts([record]).values()) == [rules.UsageCounts(cached=1)]
    assert rules.sums(record) == {
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "cost_usd": Decimal(0),
        "attempts": 0,
        "fallback": False,
    }


@given(st.lists(records(), max_size=5))
def test_roll_ups_hold_every_attempt_once(found: list[ExecutionRecord]) -> None:
    every = [a for r in found for c in r.lm_calls for a in c.attempts]
    made = [a for a in every if a.outcome != "skipped" and not a.cached]
    usage = list(rules.usage_counts(found).values())
    assert sum(counts.attempts for counts in usage) == len(made)
    assert sum(counts.cached for counts in usage) == sum(a.cached for a in every)
    assert sum((c.cost_usd for c in usage), Decimal(0)) == sum(a.cost_usd or 0 for a in made)


def test_the_day_of_a_record() -> None:
    assert rules.record_day(record_id(1), TODAY) == TODAY
    assert rules.record_day(record_id(1, NOW + timedelta(days=1)), TODAY) == date(2026, 3, 5)


@pytest.mark.parametrize(
    "bad", [uuid4(), record_id(1, NOW + timedelta(days=2)), uuid7(2**48 - 1, 1), UUID(int=0)]
)
def test_an_id_of_no_sane_day_is_refused(bad: UUID) -> None:
    with pytest.raises(Invalid, match="is not the id of a record") as refused:
        rules.record_day(bad, TODAY)
    assert refused.value.field == "id"


def test_spans_are_widened_to_whole_minutes() -> None:
    noon = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
    after = noon + timedelta(minutes=1)
    assert rules.whole_minutes(NOW, NOW, NOW) == (noon, after)
    assert rules.whole_minutes(noon, noon, NOW) == (noon, noon)
    assert rules.whole_minutes(None, None, NOW) == (noon - timedelta(days=1), after)
    with pytest.raises(Invalid, match="is after until"):
        rules.whole_minutes(NOW, noon - timedelta(days=1), NOW)


def test_days_at_the_ends_of_the_calendar() -> None:
    assert rules.first_day(NOW) == date(2026, 3, 3)
    assert rules.last_day(NOW) == date(2026, 3, 5)
    assert rules.first_day(datetime.min.replace(tzinfo=UTC)) == date.min
    assert rules.last_day(datetime.max.replace(tzinfo=UTC)) == date.max


@pytest.mark.parametrize("bad", [{"a": "\x00"}, {"a": 2**70}, {"a": ["\ud800"]}])
def test_what_postgres_cannot_hold_is_refused(bad: Any) -> None:
    with pytest.raises(Invalid) as refused:
        rules.require_storable(bad, "expected")
    assert str(refused.value.field).startswith("expected")


def test_null_bytes_are_replaced_at_every_depth() -> None:
    assert rules.storable({"a\x00": ["\x00", ("b", 1)]}) == {"a\ufffd": ["\ufffd", ["b", 1]]}
