"""A record becomes figures: each once, under labels that operators know."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from dspex_ray.api.problems import openai_status
from dspex_ray.core.errors import every_error
from dspex_ray.core.ids import DEFAULT_PROJECT, ExecutionId, ModelId, ProgramId, VersionId, uuid7
from dspex_ray.models.model import ErrorClass, Model, ModelStatus, Provider
from dspex_ray.routing.breaker import Breakers, Verdict
from dspex_ray.routing.model import Attempt, LmCall, RoutingStrategy
from dspex_ray.serving.metering import Metering, TimedThreads, status_class
from dspex_ray.serving.snapshot import Configuration, Snapshot
from dspex_ray.settings import RoutingSettings
from dspex_ray.telemetry.metrics import MemoryMeters
from dspex_ray.testing.fake_clock import FakeClock
from dspex_ray.traces.model import ExecutionRecord, ExecutionStatus

NOW = datetime(2026, 3, 1, tzinfo=UTC)
FIRST, SECOND = (ModelId(uuid7(1, number)) for number in (1, 2))


def model(identifier: ModelId, name: str, **fields: Any) -> Model:
    return Model(
        **{
            "id": identifier,
            "project_id": DEFAULT_PROJECT,
            "name": name,
            "provider": Provider.OPENAI,
            "model_name": f"upstream-{name}",
            "status": ModelStatus.AVAILABLE,
            "created_at": NOW,
            "updated_at": NOW,
            **fields,
        }
    )


CONFIGURATION = Configuration(
    Snapshot(
        version=7,
        taken_at=NOW - timedelta(seconds=4),
        models={
            FIRST: model(FIRST, "first"),
            SECOND: model(SECOND, "second", status=ModelStatus.ERROR),
        },
    )
)


def attempt(**fields: Any) -> Attempt:
    return Attempt(
        **{
            "model_id": FIRST,
            "model": "first",
            "number": 1,
            "outcome": "ok",
            "latency_ms": 200.0,
            "started_at": NOW,
            **fields,
        }
    )


FALLEN_BACK = LmCall(
    strategy=RoutingStrategy.PRIMARY,
    chosen="first",
    answered_by="second",
    attempts=(
        attempt(outcome="failed", error_class=ErrorClass.SERVER),
        attempt(number=2, outcome="skipped", latency_ms=0.0),
        attempt(
            model_id=SECOND,
            model="second",
            latency_ms=300.0,
            first_token_ms=50.0,
            prompt_tokens=11,
            completion_tokens=5,
            cost_usd=Decimal("0.25"),
        ),
    ),
    started_at=NOW,
    latency_ms=600.0,
)


def record(**fields: Any) -> ExecutionRecord:
    return ExecutionRecord(
        **{
            "id": ExecutionId(uuid7(1, 9)),
            "project_id": DEFAULT_PROJECT,
            "status": ExecutionStatus.COMPLETED,
            "program_id": ProgramId(uuid7(1, 5)),
            "program": "judge",
            "version_id": VersionId(uuid7(1, 6)),
            "version": 3,
            "endpoint": "predict",
            "started_at": NOW,
            "duration_ms": 700.0,
            "overhead_ms": 2.0,
            **fields,
        }
    )


def test_a_record_is_counted_once_and_wholly() -> None:
    meters = MemoryMeters()
    Metering(meters, CONFIGURATION).executed(record(lm_calls=(FALLEN_BACK,)))
    assert meters.counters == {
        ("dspex_requests_total", "predict", "judge", "3", "2xx", "ok"): 1,
        ("dspex_lm_calls_total", "first", "primary", "fallback"): 1,
        ("dspex_lm_attempt_errors_total", "first", "openai", "server"): 1,
        ("dspex_lm_attempt_errors_total", "first", "openai", "breaker_open"): 1,
        ("dspex_lm_tokens_total", "second", "openai", "input"): 11,
        ("dspex_lm_tokens_total", "second", "openai", "output"): 5,
        ("dspex_lm_cost_usd_total", "second", "openai"): 0.25,
    }
    assert meters.observed == {
        ("dspex_request_duration_seconds", "predict", "judge"): [0.7],
        ("dspex_request_overhead_seconds", "predict", "judge"): [0.002],
        ("dspex_lm_call_wait_seconds", "first"): [pytest.approx(0.1)],
        ("dspex_lm_attempt_duration_seconds", "first", "openai", "failed"): [0.2],
        ("dspex_lm_attempt_duration_seconds", "second", "openai", "ok"): [0.3],
        ("dspex_lm_time_to_first_token_seconds", "second", "openai"): [0.05],
    }


def test_a_name_that_the_client_made_up_is_no_label() -> None:
    meters = MemoryMeters()
    failed = record(
        program=None,
        program_id=None,
        version=None,
        version_id=None,
        endpoint="chat.completions",
        model="made-up-by-the-client",
        error_code="not_found",
        status=ExecutionStatus.FAILED,
    )
    Metering(meters, CONFIGURATION).executed(failed)
    key = ("dspex_requests_total", "chat.completions", "", "", "4xx", "not_found")
    assert meters.counters == {key: 1}


def test_an_unknown_cost_is_counted_as_unknown() -> None:
    meters = MemoryMeters()
    call = FALLEN_BACK.model_copy(update={"attempts": (attempt(prompt_tokens=2),)})
    Metering(meters, CONFIGURATION).executed(record(lm_calls=(call,)))
    assert meters.counters["dspex_lm_unpriced_answers_total", "first", "openai"] == 1
    assert not [key for key in meters.counters if "cost" in key[0]]


def test_an_answer_from_memory_is_no_call_of_the_model() -> None:
    meters = MemoryMeters()
    cached = attempt(cached=True, prompt_tokens=0, completion_tokens=0, cost_usd=Decimal(0))
    call = FALLEN_BACK.model_copy(update={"answered_by": "first", "attempts": (cached,)})
    Metering(meters, CONFIGURATION).executed(record(lm_calls=(call,)))
    assert meters.counters["dspex_lm_calls_total", "first", "primary", "cached"] == 1
    assert not [key for key in meters.observed if "attempt" in key[0]]
    assert not [key for key in meters.counters if "token" in key[0] or "cost" in key[0]]


def test_the_state_of_the_replica_is_sampled() -> None:
    meters = MemoryMeters()
    breakers = Breakers(RoutingSettings(breaker_failures=1, breaker_open_s=10))
    permit = breakers.enter(FIRST, 100.0)
    assert permit is not None
    breakers.settle(permit, Verdict.FAILURE, 100.0)
    metering = Metering(meters, CONFIGURATION)
    metering.shed()
    metering.waited_for_thread(0.5)
    for at in (101.0, 111.0):
        metering.sample(inflight=3, records_lost=2, breakers=breakers, now=NOW, at=at)
        state = 2.0 if at == 101.0 else 1.0
        assert meters.gauges == {
            ("dspex_inflight_requests",): 3,
            ("dspex_snapshot_version",): 7,
            ("dspex_snapshot_age_seconds",): 4.0,
            ("dspex_database_reachable",): 1.0,
            ("dspex_records_lost_with_nodes",): 0,
            ("dspex_breaker_state", "first"): state,
            ("dspex_breaker_state", "second"): 0.0,
            ("dspex_model_healthy", "first"): 1.0,
            ("dspex_model_healthy", "second"): 0.0,
        }
    assert meters.counters == {
        ("dspex_records_lost_total",): 2,
        ("dspex_shed_requests_total",): 1,
    }
    assert meters.observed == {("dspex_thread_wait_seconds",): [0.5]}


def test_a_piece_of_work_tells_how_long_it_waited_for_its_thread() -> None:
    clock, gate = FakeClock(), threading.Event()
    waits: list[float] = []
    with TimedThreads(1, "test", clock, waits.append) as threads:
        first = threads.submit(gate.wait, 5)
        second = threads.submit(lambda word: word, "done")
        while not waits:  # the first has begun
            gate.wait(0.001)
        clock.advance(2.0)
        gate.set()
        assert (first.result(5), second.result(5)) == (True, "done")
    assert waits == [0.0, 2.0]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.code)
def test_classes_of_status_are_those_of_the_answers(kind: Any) -> None:
    assert status_class(kind.code) == f"{openai_status(kind('told')) // 100}xx"


def test_other_ends_have_a_class_too() -> None:
    assert (status_class(None), status_class("cancelled")) == ("2xx", "499")
    assert status_class("unexpected") == "5xx"
