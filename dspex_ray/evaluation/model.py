"""Evaluation: a program version measured on examples by metrics; what is asked, what came out."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, model_validator

from dspex_ray.core.evidence import Interval, Spread
from dspex_ray.core.ids import (
    DatasetId,
    EvaluationId,
    ExecutionId,
    ProgramId,
    ProjectId,
    VersionId,
)
from dspex_ray.core.noun import Name, Noun
from dspex_ray.core.page import DEFAULT_LIMIT, MAX_LIMIT
from dspex_ray.core.states import Machine
from dspex_ray.core.values import Probability, Usd
from dspex_ray.datasets.model import Seed, SplitSizes
from dspex_ray.programs.model import FieldName

WEEK_S = 7 * 24 * 3600
KNOWN_METRICS = (
    "answer_exact_match",
    "answer_passage_match",
    "citation_recall",
    "exact_match",
    "f1",
    "llm_judge",
    "semantic_similarity",
)


class MetricSpec(Noun):
    """A metric and what it looks at. `metric`: the name of a known one, or an import path as in
    `package.module:function`.

    `field` is the output that is judged, by default the only one; `expected` the example's field
    that it is held against, by default of the same name. `label` names its scores.
    """

    metric: str = Field(min_length=1, max_length=300)
    field: FieldName | None = None
    expected: FieldName | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    label: Name | None = None

    @property
    def name(self) -> str:
        """What its scores are called: `exact_match:topic`."""
        if self.label is not None:
            return self.label
        return self.metric if self.field is None else f"{self.metric}:{self.field}"


Metrics = Annotated[tuple[MetricSpec, ...], Field(min_length=1, max_length=20)]


class Selection(Noun):
    """Which examples of a dataset version: all; or one part of a seeded split; or a seeded sample,
    of which a larger one of the same seed begins with the smaller."""

    split: Name | None = None
    sizes: SplitSizes | None = None
    sample: int | None = Field(default=None, ge=1)
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_way(self) -> Selection:
        if (self.split is None) != (self.sizes is None):
            raise ValueError("split and sizes go together: a part, and the sizes of all parts")
        if self.split is not None and self.sizes is not None and self.split not in self.sizes:
            raise ValueError(f"split {self.split!r} is not one of sizes ({', '.join(self.sizes)})")
        if self.split is not None and self.sample is not None:
            raise ValueError("give split or sample, not both")
        return self


class EvaluationSettings(Noun):
    """How an evaluation runs, and what its report says.

    `concurrency` examples run at once, over `actors` processes (None: one on each node). `model`
    answers every call instead of the program's assigned models. An example passes a metric with
    a score of `threshold` or more. `repeats` runs each example so often, `seed` makes the draws.
    A cached run is not made and not paid for again; see docs/evaluation.md for what it is kept by.
    """

    concurrency: int = Field(default=16, ge=1, le=1_024)
    actors: int | None = Field(default=None, ge=1, le=256)
    timeout_s: float = Field(default=60.0, gt=0, le=600)
    threshold: Probability = 1.0
    repeats: int = Field(default=1, ge=1, le=100)
    seed: Seed = 0
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    cache: bool = True
    cache_ttl_s: int = Field(default=WEEK_S, ge=1, le=366 * 24 * 3600)
    model: Name | None = None


class NewEvaluation(Noun):
    """`program` as `name` (its newest version), `name@<number>` or `name@<label>`; `dataset` as
    `name` or `name@<number>`."""

    program: str = Field(min_length=1, max_length=202)
    dataset: str = Field(min_length=1, max_length=202)
    examples: Selection = Selection()
    metrics: Metrics
    settings: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _each_once(self) -> NewEvaluation:
        names = [spec.name for spec in self.metrics]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"metric {twice!r} is there twice: give one a label")
        return self


class EvaluationStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return not EVALUATION_MACHINE.allowed(self)


EVALUATION_MACHINE = Machine(
    "evaluation",
    EvaluationStatus.PENDING,
    {
        (EvaluationStatus.PENDING, "start"): EvaluationStatus.RUNNING,
        (EvaluationStatus.RUNNING, "complete"): EvaluationStatus.COMPLETED,
        (EvaluationStatus.PENDING, "fail"): EvaluationStatus.FAILED,
        (EvaluationStatus.RUNNING, "fail"): EvaluationStatus.FAILED,
        (EvaluationStatus.PENDING, "cancel"): EvaluationStatus.CANCELLED,
        (EvaluationStatus.RUNNING, "cancel"): EvaluationStatus.CANCELLED,
    },
)


class ExampleError(Noun):
    """Why the program, or with `metric` that metric, has no answer for an example. Never content:
    `message` names fields and rules."""

    code: str
    message: str
    metric: str | None = None


class ExampleResult(Noun):
    """One run of one example. With an error of the program every score is 0, with one of a metric
    its own.

    Latency, tokens and costs (USD, None = unknown) are the run's; of a `cached` one, those of the
    run that was made. `metric_costs` holds the metrics that called models.
    """

    number: int = Field(ge=0)
    repeat: int = Field(default=0, ge=0)
    example_hash: str
    scores: dict[str, float]
    errors: tuple[ExampleError, ...] = ()
    latency_ms: float
    cost_usd: Usd | None
    metric_costs: dict[str, Usd | None] = Field(default_factory=dict)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached: bool = False
    execution_id: ExecutionId | None = None

    @property
    def key(self) -> tuple[int, int]:
        return self.number, self.repeat

    @property
    def answered(self) -> bool:
        """Whether the program answered; a metric may still have failed."""
        return all(error.metric is not None for error in self.errors)


class MetricSummary(Noun):
    """Scores of one metric over the examples, the mean of its repeats for each. `errors` counts
    examples that this metric failed on."""

    name: str
    mean: Probability
    interval: Interval
    pass_rate: Probability
    pass_interval: Interval
    spread: Spread
    errors: int


class Report(Noun):
    """`examples` different ones, run `runs` times in all. Intervals are at `confidence`.

    `latency_ms` is of runs that were answered. `cost_usd` is what the program's runs cost, the
    cached ones included; `spent_usd` what this evaluation paid, with its metrics' calls. Costs are
    None when one of their parts is unknown; `unpriced` counts runs of unknown cost.
    """

    examples: int
    runs: int
    failed: int
    cached: int
    confidence: float
    threshold: Probability
    metrics: tuple[MetricSummary, ...]
    latency_ms: Spread | None
    cost_usd: Usd | None
    metric_cost_usd: Usd | None
    spent_usd: Usd | None
    unpriced: int
    prompt_tokens: int | None
    completion_tokens: int | None
    errors: dict[str, int]  #: runs by the code of their first error


class Progress(Noun):
    """So far: runs of `total`, how many of them failed or came from the cache, mean scores."""

    total: int
    done: int = 0
    failed: int = 0
    cached: int = 0
    means: dict[str, float] = Field(default_factory=dict)
    spent_usd: Usd | None = None


class Evaluation(Noun):
    """`fingerprint` is the hash of its examples' hashes, in their order, `configuration` that of
    the models that it calls, as they were when it was asked for; `error` says why it failed."""

    id: EvaluationId
    project_id: ProjectId
    program_id: ProgramId
    program: str
    version_id: VersionId
    version: int
    artifact_hash: str
    dataset_id: DatasetId
    dataset: str
    dataset_version: int
    examples: Selection
    fingerprint: str
    metrics: tuple[MetricSpec, ...]
    settings: EvaluationSettings
    configuration: str
    status: EvaluationStatus = EvaluationStatus.PENDING
    error: str | None = None
    progress: Progress
    report: Report | None = None
    created_by: str
    started_at: datetime | None = None
    ended_at: datetime | None = None
    revision: int = 1
    created_at: datetime
    updated_at: datetime


class EvaluationQuery(Noun):
    """Newest first."""

    program: str | None = None
    dataset: str | None = None
    status: EvaluationStatus | None = None
    cursor: str | None = None
    limit: int = Field(default=DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)


class EvaluationEvent(Noun):
    """An evaluation as it goes on; the last event's status is final."""

    status: EvaluationStatus
    progress: Progress
    error: str | None = None


def split_reference(reference: str) -> tuple[str, str | None]:
    """`name@selector` as a pair; None without a selector."""
    name, at, selector = reference.partition("@")
    return name, selector if at else None
