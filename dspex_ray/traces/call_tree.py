"""An execution as a tree: execution, its LM calls, their attempts. Drawing it is the CLI's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from dspex_ray.routing.model import Attempt, LmCall
from dspex_ray.traces.model import Execution
from dspex_ray.traces.rules import spent


@dataclass(frozen=True)
class Node:
    """`start_ms` counts from the start of the execution. None = unknown."""

    kind: Literal["execution", "call", "attempt"]
    label: str  #: program and version, predictor, or model
    outcome: str
    start_ms: float
    ms: float
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: Decimal | None
    error_class: str | None = None
    message: str | None = None
    note: str | None = None  #: why it went so: the strategy, a fallback, a retry
    children: tuple[Node, ...] = ()


def call_tree(execution: Execution) -> Node:
    """The root; its children and theirs in the order in which they began."""
    return Node(
        kind="execution",
        label=_title(execution),
        outcome=execution.status,
        start_ms=0.0,
        ms=execution.duration_ms,
        prompt_tokens=execution.prompt_tokens,
        completion_tokens=execution.completion_tokens,
        cost_usd=execution.cost_usd,
        error_class=execution.error_code,
        message=execution.error_message,
        note="fallback" if execution.fallback else None,
        children=tuple(
            _call(call, execution.started_at)
            for call in sorted(execution.lm_calls, key=lambda call: call.started_at)
        ),
    )


def _title(execution: Execution) -> str:
    if execution.program is None:
        return execution.model or execution.endpoint
    version = "" if execution.version is None else f"@{execution.version}"
    return f"{execution.program}{version}"


def _call(call: LmCall, origin: datetime) -> Node:
    total = spent(call.attempts)
    return Node(
        kind="call",
        label=call.predictor or "call",
        outcome=_outcome(call),
        start_ms=_since(origin, call.started_at),
        ms=call.latency_ms,
        prompt_tokens=total.prompt_tokens,
        completion_tokens=total.completion_tokens,
        cost_usd=total.cost_usd,
        note=_decision(call),
        children=tuple(_attempt(attempt, origin) for attempt in call.attempts),
    )


def _attempt(attempt: Attempt, origin: datetime) -> Node:
    return Node(
        kind="attempt",
        label=attempt.model,
        outcome=attempt.outcome,
        start_ms=_since(origin, attempt.started_at),
        ms=attempt.latency_ms,
        prompt_tokens=attempt.prompt_tokens,
        completion_tokens=attempt.completion_tokens,
        cost_usd=attempt.cost_usd,
        error_class=attempt.error_class,
        message=attempt.message,
        note=_way(attempt),
    )


def _way(attempt: Attempt) -> str | None:
    if attempt.cached:
        return "cached"
    return f"retry {attempt.number - 1}" if attempt.number > 1 else None


def _outcome(call: LmCall) -> str:
    if call.answered_by is not None:
        return "ok"
    cancelled = any(attempt.outcome == "cancelled" for attempt in call.attempts)
    return "cancelled" if cancelled else "failed"


def _decision(call: LmCall) -> str | None:
    if call.fallback:
        return f"fallback: {call.chosen} -> {call.answered_by}"
    return None if call.strategy is None else str(call.strategy)


def _since(origin: datetime, moment: datetime) -> float:
    return (moment - origin).total_seconds() * 1000
