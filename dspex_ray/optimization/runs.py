"""OptimizationRun: a search for a better program; what was asked, what it found, what it cost."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import Field, model_validator

from dspex_ray.core.convergence import Convergence, ConvergenceRules
from dspex_ray.core.ids import DatasetId, OptimizationId, ProgramId, ProjectId, VersionId
from dspex_ray.core.noun import Name, Noun
from dspex_ray.core.page import DEFAULT_LIMIT, MAX_LIMIT
from dspex_ray.core.states import Machine
from dspex_ray.core.values import Usd
from dspex_ray.datasets.model import Seed, SplitSizes
from dspex_ray.evaluation.model import MetricSpec
from dspex_ray.optimization.held_out import HeldOut
from dspex_ray.optimization.model import Budget, Limits, Spent, StopReason

TRAIN, DEV, TEST = "train", "dev", "test"


class RunStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Nothing happens to it any more, unless somebody resumes it."""
        return self in {RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED}


RUN_MACHINE = Machine(
    "optimization",
    RunStatus.PENDING,
    {
        (RunStatus.PENDING, "start"): RunStatus.RUNNING,
        (RunStatus.RUNNING, "complete"): RunStatus.COMPLETED,
        (RunStatus.PENDING, "fail"): RunStatus.FAILED,
        (RunStatus.RUNNING, "fail"): RunStatus.FAILED,
        (RunStatus.PENDING, "cancel"): RunStatus.CANCELLED,
        (RunStatus.RUNNING, "cancel"): RunStatus.CANCELLED,
        (RunStatus.RUNNING, "lose"): RunStatus.PENDING,
        (RunStatus.FAILED, "resume"): RunStatus.PENDING,
        (RunStatus.CANCELLED, "resume"): RunStatus.PENDING,
    },
)


class RunExamples(Noun):
    """Which examples the optimizer sees: the parts `train` and `dev` of a seeded split. On those of
    `test` what it found is measured afterwards; all others are held out. Without `sizes` it trains
    on all."""

    sizes: SplitSizes | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _has_train(self) -> RunExamples:
        if self.sizes is not None and TRAIN not in self.sizes:
            raise ValueError(
                f"sizes must have a part {TRAIN!r} (there are: {', '.join(self.sizes)})"
            )
        return self


class NewOptimization(Noun):
    """What is asked for, and what a file of `tune_configs/` holds.

    `program` as `name` (its newest version), `name@<number>` or `name@<label>`; `dataset` as `name`
    or `name@<number>`. `model` answers the program's calls instead of the assigned models,
    `prompt_model` writes instructions, `embedding_model` says which examples are alike. The best
    `register_best` programs that were measured on all dev examples become versions; of a front,
    every point does, and none only if this is 0.
    `confirm` starts a run whose estimate is over the threshold.
    """

    name: Name | None = None
    program: str = Field(min_length=1, max_length=202)
    dataset: str = Field(min_length=1, max_length=202)
    examples: RunExamples = RunExamples()
    optimizer: str = Field(min_length=1, max_length=100)
    parameters: dict[str, Any] = Field(default_factory=dict)
    metric: MetricSpec
    metrics: tuple[MetricSpec, ...] = Field(
        default=(), max_length=10, description="measured beside, for objectives and for looking at"
    )
    budget: Budget = Budget()
    limits: Limits = Limits()
    convergence: ConvergenceRules = ConvergenceRules()
    seed: Seed = 0
    model: Name | None = None
    prompt_model: Name | None = None
    embedding_model: Name | None = None
    call_timeout_s: float = Field(default=60.0, gt=0, le=600, description="of each LM call")
    register_best: int = Field(default=1, ge=0, le=20)
    confirm: bool = False

    @model_validator(mode="after")
    def _metrics_differ(self) -> NewOptimization:
        names = [spec.name for spec in (self.metric, *self.metrics)]
        if len(set(names)) < len(names):
            raise ValueError(f"metrics must differ in name or label (there are: {names})")
        return self


class RunEstimate(Noun):
    """What a run comes to at most, about, before it starts; None = not known.

    `lm_calls` never counts beyond the budget. `basis` says how it was made up.
    """

    lm_calls: int | None
    tokens: int | None
    cost_usd: Usd | None
    basis: str
    needs_confirmation: bool = False


class RunProgress(Noun):
    """How far along a run is, made up from its trials and what it has spent.

    `percent` is the share of the limit nearest to its end: a budget, or the estimated calls; None
    while no limit is known. `expected_end` follows the pace since the last start; patience may
    end it sooner.
    """

    percent: float | None = None
    trials: int = 0
    best_score: float | None = None
    best_trial: int | None = None
    convergence: Convergence
    expected_end: datetime | None = None
    duration_s: float | None = None


class RunVersion(Noun):
    """A program version that a run ended in; `created` unless its content was there before.

    `score` is its mean on the examples it was chosen by, which flatters.
    """

    rank: int = Field(ge=1, description="1 is the best")
    version_id: VersionId
    version: int
    hash: str
    label: str | None = None
    score: float | None = None
    created: bool


class OptimizationRun(Noun):
    """One run. `fingerprint` is the hash of its examples by part, `packages` the versions of what a
    rerun depends on, `attempt` counts its starts, `error` says why it failed.

    `stopped_because` and `detail` are the outcome's: which limit ended it. `program_runs` counts
    runs of the program by the last attempt, replayed ones too. `held_out_calls` of the budget are
    kept for the test examples. `front_points` counts those of its front, which is asked for apart.
    """

    id: OptimizationId
    project_id: ProjectId
    name: str | None = None
    program_id: ProgramId
    program: str
    version_id: VersionId
    version: int
    artifact_hash: str
    dataset_id: DatasetId
    dataset: str
    dataset_version: int
    examples: RunExamples
    train_examples: int
    dev_examples: int
    test_examples: int = 0
    held_out_calls: int = 0
    fingerprint: str
    optimizer: str
    parameters: dict[str, Any]
    metric: MetricSpec
    metrics: tuple[MetricSpec, ...] = ()
    budget: Budget
    limits: Limits
    convergence: ConvergenceRules
    seed: int
    model: str | None = None
    prompt_model: str | None = None
    embedding_model: str | None = None
    call_timeout_s: float
    register_best: int
    packages: dict[str, str]
    estimate: RunEstimate
    status: RunStatus = RunStatus.PENDING
    error: str | None = None
    attempt: int = 0
    submissions: int = 0
    job: str | None = Field(default=None, description="the Ray job's submission id")
    spent: Spent = Spent()
    stopped_because: StopReason | None = None
    detail: str = ""
    best_score: float | None = None
    program_runs: int = 0
    failed_runs: int = 0
    facts: dict[str, Any] = Field(default_factory=dict)
    held_out: HeldOut | None = None
    front_points: int = 0
    versions: tuple[RunVersion, ...] = ()
    progress: RunProgress | None = None
    created_by: str
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    heartbeat_at: datetime | None = None
    ended_at: datetime | None = None
    revision: int = 1
    created_at: datetime
    updated_at: datetime


class RunTrial(Noun):
    """One measurement of a candidate program, `candidate` its artifact's hash: `score` is the mean
    on these `examples`, `standing` on all that candidates compete on, None while it has not been
    measured on all. `lm_calls` of the whole run until then, with what was answered from memory."""

    number: int = Field(ge=1)
    candidate: str
    made_by: str
    parents: tuple[str, ...] = ()
    score: float
    examples: int
    standing: float | None = None
    lm_calls: int
    facts: dict[str, Any] = Field(default_factory=dict)
    at: datetime


class SeenExample(Noun):
    """An example that an optimizer saw, or of the part `test`, that people choose its versions by:
    never to be taken as held out."""

    hash: str
    part: str


class ObjectiveImportance(Noun):
    """Of the variation of a figure over `trials`, the share that each variable accounts for: 0 to
    1, the largest first, 1 in all; {} of a figure that does not vary, or of too few trials."""

    objective: str
    shares: dict[str, float]
    trials: int


class RunImportance(Noun):
    """Which variables mattered, by `evaluator`. It says what was searched, not what is true of all
    programs: a variable that hardly varied seems to matter little."""

    evaluator: str
    objectives: tuple[ObjectiveImportance, ...]


class RunQuery(Noun):
    """Newest first."""

    program: str | None = None
    dataset: str | None = None
    optimizer: str | None = None
    status: RunStatus | None = None
    cursor: str | None = None
    limit: int = Field(default=DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)


class RunEvent(Noun):
    """A run as it goes on; the last event's status has ended."""

    status: RunStatus
    progress: RunProgress
    spent: Spent
    error: str | None = None
