"""Records for tests: made by hand, or drawn by Hypothesis."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from dspex_ray.core.ids import DEFAULT_PROJECT, AssignmentId, ExecutionId, ModelId, uuid7
from dspex_ray.models.model import ErrorClass
from dspex_ray.routing.model import Attempt, LmCall, Loss, Lost, RoutingStrategy
from dspex_ray.traces.model import ExecutionRecord, ExecutionStatus, FeedbackRecord, Source

NOW = datetime(2026, 3, 4, 12, 0, 30, tzinfo=UTC)
MODELS = [ModelId(uuid7(1_700_000_000_000, n)) for n in range(1, 4)]
ASSIGNMENTS = [AssignmentId(uuid7(1_700_000_000_000, n)) for n in range(11, 14)]


class FixedClock:
    """A clock that tests move by hand."""

    def __init__(self, now: datetime = NOW) -> None:
        self.time = now
        self.seconds = 0.0

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.seconds


def record_id(number: int, at: datetime = NOW) -> ExecutionId:
    return ExecutionId(uuid7(int(at.timestamp() * 1000), number))


def an_attempt(place: int = 0, **change: Any) -> Attempt:
    """On the model and the assignment at `place`."""
    values: dict[str, Any] = {
        "model_id": MODELS[place],
        "model": f"model-{place}",
        "assignment_id": ASSIGNMENTS[place],
        "number": 1,
        "outcome": "ok",
        "latency_ms": 100.0,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cost_usd": Decimal("0.001"),
        "cost_source": "measured",
        "started_at": NOW,
    }
    return Attempt(**(values | change))


def a_failure(place: int = 0, error: ErrorClass = ErrorClass.SERVER, **change: Any) -> Attempt:
    values: dict[str, Any] = {
        "outcome": "failed",
        "error_class": error,
        "prompt_tokens": None,
        "completion_tokens": None,
        "cost_usd": None,
        "cost_source": "unknown",
    }
    return an_attempt(place, **(values | change))


def a_call(*attempts: Attempt, **change: Any) -> LmCall:
    answered = [attempt.model for attempt in attempts if attempt.outcome == "ok"]
    values: dict[str, Any] = {
        "predictor": "predict",
        "strategy": RoutingStrategy.PRIMARY,
        "chosen": attempts[0].model if attempts else None,
        "answered_by": answered[0] if answered else None,
        "losers": (Lost(model="x", strategy=RoutingStrategy.FALLBACK, reason=Loss.UNHEALTHY),),
        "attempts": attempts,
        "started_at": NOW,
        "latency_ms": 120.0,
        "usage": {"input_tokens": 10},
    }
    return LmCall(**(values | change))


def a_record(number: int = 1, *calls: LmCall, **change: Any) -> ExecutionRecord:
    values: dict[str, Any] = {
        "id": record_id(number),
        "project_id": DEFAULT_PROJECT,
        "status": ExecutionStatus.COMPLETED,
        "program": "news",
        "version": 1,
        "endpoint": "predict",
        "started_at": NOW,
        "duration_ms": 130.0,
        "lm_calls": calls,
    }
    return ExecutionRecord(**(values | change))


def a_feedback(number: int = 1, **change: Any) -> FeedbackRecord:
    """Of the execution 1, with an id of its own."""
    values: dict[str, Any] = {
        "id": record_id(1_000 + number),
        "project_id": DEFAULT_PROJECT,
        "execution_id": record_id(1),
        "score": 0.5,
        "actor": "key:dspex_1",
        "at": NOW,
    }
    return FeedbackRecord(**(values | change))


_cents = st.integers(0, 10**9).map(lambda units: Decimal(units).scaleb(-9))
_moments = st.integers(0, 200_000).map(lambda ms: NOW + timedelta(milliseconds=ms))


def a_replay(place: int = 0, **change: Any) -> Attempt:
    """Answered from the response cache."""
    values: dict[str, Any] = {
        "cached": True,
        "latency_ms": 0.1,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "cost_usd": Decimal(0),
        "cost_source": "cached",
    }
    return an_attempt(place, **(values | change))


@st.composite
def attempts(draw: st.DrawFn) -> Attempt:
    outcome = draw(st.sampled_from(["ok", "ok", "replay", "failed", "skipped", "cancelled"]))
    place = draw(st.integers(0, 2))
    if outcome == "replay":
        assigned = draw(st.sampled_from([None, ASSIGNMENTS[place]]))
        return a_replay(place, assignment_id=assigned, started_at=draw(_moments))
    return an_attempt(
        place,
        assignment_id=draw(st.sampled_from([None, ASSIGNMENTS[place]])),
        outcome=outcome,
        error_class=draw(st.sampled_from(list(ErrorClass))) if outcome == "failed" else None,
        latency_ms=float(draw(st.integers(0, 5_000))),
        prompt_tokens=draw(st.none() | st.integers(0, 1_000)),
        completion_tokens=draw(st.none() | st.integers(0, 1_000)),
        cost_usd=draw(st.none() | _cents),
        started_at=draw(_moments),
    )


@st.composite
def records(draw: st.DrawFn, project: UUID = DEFAULT_PROJECT) -> ExecutionRecord:
    calls = draw(st.lists(st.lists(attempts(), max_size=4), max_size=3))
    return a_record(
        draw(st.integers(0, 2**40)),
        *(a_call(*tried) for tried in calls),
        project_id=project,
        source=draw(st.sampled_from([Source.SERVING, Source.HEALTH, Source.EVALUATION])),
        program=draw(st.sampled_from([None, "news", "other"])),
        version=draw(st.sampled_from([None, 1, 2])),
        started_at=draw(_moments),
    )
