"""Execution, LM call, feedback: what happened, as it is recorded and read back."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from dspex_ray.core.ids import ExecutionId, ProgramId, ProjectId, VersionId
from dspex_ray.core.noun import Noun
from dspex_ray.routing.model import LmCall

RECORD_SCHEMA = 1


class Source(StrEnum):
    SERVING = "serving"
    EVALUATION = "evaluation"
    OPTIMIZATION = "optimization"
    SHADOW = "shadow"
    HEALTH = "health"


class ExecutionStatus(StrEnum):
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ExecutionRecord(Noun):
    """What the data plane writes to the spool, once per request: self-contained, immutable."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    id: ExecutionId
    project_id: ProjectId
    source: Source = Source.SERVING
    status: ExecutionStatus
    program_id: ProgramId | None = None
    program: str | None = None
    version_id: VersionId | None = None
    version: int | None = None
    endpoint: str  #: "predict", "chat.completions", "health"
    model: str | None = None  #: what the caller named on /v1/chat/completions
    started_at: datetime
    duration_ms: float
    overhead_ms: float | None = None  #: duration less the time spent waiting for models
    error_code: str | None = None
    error_message: str | None = None
    key_id: str | None = None
    request_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    unit: str | None = None  #: assignment unit: the sticky key, or the request id
    split_epoch: int | None = None
    arm: str | None = None
    propensity: float | None = None  #: share of traffic that the arm had
    tags: dict[str, str] = Field(default_factory=dict)
    rollout: str | None = None
    step: int | None = None
    seed: int | None = None
    lm_calls: tuple[LmCall, ...] = ()
    inputs: dict[str, Any] | None = None
    outputs: dict[str, Any] | None = None
    capture: Literal["full", "redacted", "none"] = "none"
    content_retention_days: int | None = None


class Execution(Noun):
    """An execution as it is read back; `lm_calls` only when one execution is shown."""

    id: ExecutionId
    project_id: ProjectId
    source: Source
    status: ExecutionStatus
    program_id: ProgramId | None = None
    program: str | None = None
    version: int | None = None
    endpoint: str
    model: str | None = None
    started_at: datetime
    duration_ms: float
    overhead_ms: float | None = None
    error_code: str | None = None
    error_message: str | None = None
    key_id: str | None = None
    request_id: str | None = None
    trace_id: str | None = None
    unit: str | None = None
    split_epoch: int | None = None
    arm: str | None = None
    propensity: float | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: Decimal | None = None  #: None when any attempt's price is unknown
    attempts: int = 0
    fallback: bool = False
    lm_calls: tuple[LmCall, ...] = ()
    inputs: dict[str, Any] | None = None
    outputs: dict[str, Any] | None = None


class Feedback(Noun):
    """A judgment of one execution, by a person or a program. `score` 0 to 1."""

    execution_id: ExecutionId
    score: float | None = Field(default=None, ge=0, le=1)
    label: str | None = Field(default=None, max_length=200)
    comment: str | None = Field(default=None, max_length=10_000)
    expected: dict[str, Any] | None = None
