"""The record that the spool benchmarks measure: one prediction, one call, a failed attempt."""

from __future__ import annotations

from decimal import Decimal

from dspex_ray.core.ids import DEFAULT_PROJECT, ExecutionId, ModelId, created_at, new_id
from dspex_ray.models.model import ErrorClass
from dspex_ray.routing.model import Attempt, LmCall, RoutingStrategy
from dspex_ray.traces.model import ExecutionRecord, ExecutionStatus

_MODELS = [ModelId(new_id()), ModelId(new_id())]
_TEXT = "Shares of the company rose after its results for the quarter were announced. " * 12


def typical() -> ExecutionRecord:
    """A kilobyte of input in the record, and again in the prompt."""
    identifier = new_id()
    now = created_at(identifier)
    failed = Attempt(
        model_id=_MODELS[0],
        model="first",
        number=1,
        outcome="failed",
        error_class=ErrorClass.SERVER,
        message="HTTP 500",
        latency_ms=20.0,
        started_at=now,
    )
    answered = Attempt(
        model_id=_MODELS[1],
        model="second",
        number=1,
        outcome="ok",
        latency_ms=310.0,
        prompt_tokens=220,
        completion_tokens=6,
        cost_usd=Decimal("0.00004"),
        cost_source="measured",
        started_at=now,
    )
    call = LmCall(
        predictor="predict",
        strategy=RoutingStrategy.PRIMARY,
        chosen="first",
        answered_by="second",
        attempts=(failed, answered),
        started_at=now,
        latency_ms=331.0,
        usage={"input_tokens": 220, "output_tokens": 6},
        request={"messages": [{"role": "user", "content": _TEXT}]},
        response={"text": "business"},
    )
    return ExecutionRecord(
        id=ExecutionId(identifier),
        project_id=DEFAULT_PROJECT,
        status=ExecutionStatus.COMPLETED,
        program="news",
        version=1,
        endpoint="predict",
        started_at=now,
        duration_ms=333.0,
        overhead_ms=2.0,
        request_id=str(identifier),
        lm_calls=(call,),
        inputs={"article": _TEXT},
        outputs={"topic": "business"},
        capture="full",
    )
