"""Split and arm: how the traffic of a program is divided among its versions."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field, model_validator

from dspex_ray.core.ids import ProgramId, ProjectId
from dspex_ray.core.noun import Noun

WHOLE = 10_000  #: basis points

# Who holds a snapshot and calls models: those that take requests, those that run one version, and
# those that run examples, for whom no change of the configuration waits.
ReplicaKind = Literal["gateway", "dedicated", "evaluator"]


class Arm(Noun):
    """One version's share. A `valid_until` in the past gives its range to the newest arm without
    one: a canary whose controller is lost ends by itself."""

    version: int = Field(ge=1)
    weight_bp: int = Field(ge=0, le=WHOLE)
    valid_until: AwareDatetime | None = None


class NewSplit(Noun):
    """Weights in basis points that sum to exactly 10000; each version at most once."""

    arms: tuple[Arm, ...] = Field(min_length=1, max_length=20)

    @model_validator(mode="after")
    def _whole(self) -> NewSplit:
        total = sum(arm.weight_bp for arm in self.arms)
        if total != WHOLE:
            raise ValueError(f"weights sum to {total} basis points, not {WHOLE}")
        if len({arm.version for arm in self.arms}) != len(self.arms):
            raise ValueError("a version stands in the split twice")
        if all(arm.valid_until is not None for arm in self.arms):
            raise ValueError("one arm at least must have no valid_until")
        return self


class Split(Noun):
    """The stored split: `salt` is kept while the program lives, `epoch` only grows."""

    program_id: ProgramId
    project_id: ProjectId
    salt: str
    epoch: int
    arms: tuple[Arm, ...]
    revision: int = 1
    updated_at: datetime


class Applied(Noun):
    """How far a configuration change has come: replicas at or past `version`, of those alive."""

    version: int
    applied: int
    total: int


class SplitApplied(Noun):
    """A stored split, and how far its application has come."""

    split: Split
    applied: Applied


class PredictAsk(Noun):
    """Inputs by name. `context` is what `context_required` conditions look at."""

    inputs: dict[str, Any]
    context: dict[str, Any] = Field(default_factory=dict)
    stream: bool = False


class BatchAsk(Noun):
    """Many inputs; at most `concurrency` run at once, and one that fails fails alone."""

    items: list[dict[str, Any]] = Field(min_length=1, max_length=1000)
    context: dict[str, Any] = Field(default_factory=dict)
    concurrency: int = Field(default=8, ge=1, le=64)


class FeedbackAsk(Noun):
    """A judgment of one execution. `score` 0 to 1; at least one of the fields beside the id."""

    execution_id: UUID
    score: float | None = Field(default=None, ge=0, le=1)
    label: str | None = Field(default=None, max_length=200)
    comment: str | None = Field(default=None, max_length=10_000)
    expected: dict[str, Any] | None = None


class PredictionUsage(Noun):
    """Sums over the attempts that answered. `cost_usd` None = a price is unknown."""

    prompt_tokens: int
    completion_tokens: int
    cost_usd: Decimal | None
    attempts: int
    fallback: bool


class Prediction(Noun):
    """What a program answered; `model` is the one that answered last."""

    execution_id: UUID
    program: str
    version: int
    outputs: dict[str, Any]
    model: str | None
    usage: PredictionUsage


class FieldDelta(Noun):
    """A streamed piece of one output field of one predictor, as the model writes it."""

    type: Literal["delta"]
    predictor: str | None
    field: str
    text: str


class Outputs(Prediction):
    """The last event of a stream: the outputs, validated."""

    type: Literal["outputs"]


StreamEvent = Annotated[FieldDelta | Outputs, Field(discriminator="type")]


class BatchFailure(Noun):
    """An item of a batch that failed: `error` holds its code, message and details."""

    execution_id: UUID
    error: dict[str, Any]


class BatchResult(Noun):
    """In the order of the items that were sent."""

    items: list[Prediction | BatchFailure]
    succeeded: int
    failed: int


class FeedbackReceipt(Noun):
    """Feedback is in the spool; it is recorded with the next drain."""

    feedback_id: UUID
    status: Literal["accepted"]


class Readiness(Noun):
    """Whether a replica can serve. `snapshot_age_s` None: it holds no snapshot yet.

    `records_lost` had no room in this replica's spool; `records_lost_with_nodes` were, at least,
    on the disks of nodes of the cluster that are gone.
    """

    ready: bool
    snapshot_version: int
    snapshot_age_s: float | None
    database: Literal["reachable", "away"]
    inflight: int
    records_lost: int
    records_lost_with_nodes: int = 0
