"""Execution, LM call, feedback: what happened, as it is recorded and read back."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from dspex_ray.core.ids import ExecutionId, ModelId, ProgramId, ProjectId, VersionId
from dspex_ray.core.noun import Noun
from dspex_ray.core.page import DEFAULT_LIMIT, MAX_LIMIT
from dspex_ray.core.values import Usd
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
    kind: Literal["execution"] = "execution"
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
    cost_usd: Usd | None = None  #: None when any attempt's price is unknown
    attempts: int = 0
    fallback: bool = False
    lm_calls: tuple[LmCall, ...] = ()
    inputs: dict[str, Any] | None = None
    outputs: dict[str, Any] | None = None


class ExecutionQuery(Noun):
    """Which executions to list, newest first. All that are given must hold."""

    program: str | None = None
    version: int | None = None
    model: str | None = None  #: named by the caller, or tried by one of its LM calls
    status: ExecutionStatus | None = None
    source: Source | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None  #: exclusive
    request_id: str | None = None
    tag: str | None = None  #: "name" or "name=value"
    fallback: bool | None = None
    cursor: str | None = None
    limit: int = Field(default=DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)


class UsageGroup(StrEnum):
    PROGRAM = "program"
    VERSION = "version"  #: implies the program
    MODEL = "model"
    SOURCE = "source"
    DAY = "day"
    HOUR = "hour"


class UsageQuery(Noun):
    """Of which time, in whole minutes (by default the last 24 hours), and apart by what."""

    group_by: list[UsageGroup] = Field(default=[UsageGroup.PROGRAM, UsageGroup.MODEL], max_length=5)
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None


class Percentiles(Noun):
    """Milliseconds, interpolated between neighbours as Postgres' percentile_cont does."""

    p50: float
    p95: float
    p99: float


class UsageRow(Noun):
    """What one group used. Grouping fields that were not asked for are None.

    Attempts are calls to models; requests are executions, and are None when grouped by model,
    since one request may use several. A success rate is None when nothing succeeded or failed.
    """

    program: str | None = None  #: "" for direct model calls
    version: int | None = None  #: 0 for direct model calls
    model_id: ModelId | None = None
    model: str | None = None  #: None too when the model has been deleted
    source: Source | None = None
    at: datetime | None = None  #: start of the day or hour, UTC
    attempts: int = 0
    succeeded: int = 0
    failed: int = 0
    success_rate: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: Usd | None = None  #: of the attempts with a price; None when none has one
    unpriced: int = 0  #: successful attempts of unknown cost, missing from cost_usd
    cached: int = 0  #: answers from the response cache, none of the attempts: they cost nothing
    mean_latency_ms: float | None = None  #: of successful attempts
    latency_ms: Percentiles | None = None  #: of successful attempts
    requests: int | None = None
    request_success_rate: float | None = None
    request_ms: Percentiles | None = None  #: of completed requests


class NewFeedback(Noun):
    """A judgment, by a person or a program. `score` 0 to 1. At least one field is given."""

    score: float | None = Field(default=None, ge=0, le=1)
    label: str | None = Field(default=None, max_length=200)
    comment: str | None = Field(default=None, max_length=10_000)
    expected: dict[str, Any] | None = None


class Feedback(NewFeedback):
    """A judgment of one execution."""

    execution_id: ExecutionId


class FeedbackEntry(Feedback):
    """Feedback as it is kept."""

    id: UUID
    actor: str
    at: datetime


class FeedbackRecord(Noun):
    """Feedback as the data plane spools it; it may arrive before its execution is drained."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["feedback"] = "feedback"
    id: ExecutionId
    project_id: ProjectId
    execution_id: ExecutionId
    score: float | None = None
    label: str | None = None
    comment: str | None = None
    expected: dict[str, Any] | None = None
    actor: str
    at: datetime


SpoolRecord = Annotated[ExecutionRecord | FeedbackRecord, Field(discriminator="kind")]
