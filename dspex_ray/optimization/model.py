"""What an optimizer is given, what it may spend, and what it hands back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from pydantic import Field

from dspex_ray.core.noun import Noun
from dspex_ray.core.values import Usd
from dspex_ray.datasets.model import Example
from dspex_ray.optimization.front import Front
from dspex_ray.optimization.held_out import HeldOut
from dspex_ray.programs.model import Artifact


class Metric(Protocol):
    """Judges one run; evaluation's metrics are such."""

    @property
    def name(self) -> str: ...

    async def score(
        self, example: Mapping[str, Any], outputs: Mapping[str, Any], context: Any
    ) -> float:
        """0 to 1, the higher the better. `example` holds inputs and expected outputs by field."""
        ...


class Budget(Noun):
    """Ceilings that are never passed; None is none. Each is checked before a call is made.

    `seconds` counts from the start of the run: a call that began in time may end after it.
    """

    usd: Usd | None = Field(default=None, ge=0)
    lm_calls: int | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0, description="of prompts and answers")
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class Spent(Noun):
    """`usd` is the sum of what is known; calls whose price nobody knows are in `unpriced_calls`."""

    usd: Usd = Decimal(0)
    lm_calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    unpriced_calls: int = 0


class Limits(Noun):
    """How hard an optimizer may drive the machine, and when it gives a program up."""

    threads: int = Field(default=8, ge=1, le=512, description="program runs at once")
    failures: int = Field(
        default=20, ge=1, description="program runs that fail from the first on, before giving up"
    )
    actors: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="processes that candidates run in; null: as the settings say",
    )


@dataclass(frozen=True)
class Problem:
    """What is to be improved, and by what it is judged.

    An optimizer learns from `train` and compares candidates on `dev`; without dev on train.
    `others` are measured beside the metric, for optimizers of several objectives.
    `metric_context` is handed to the metric with every example. `allowed_packages`: where an
    import artifact's class may come from.
    """

    artifact: Artifact
    train: tuple[Example, ...]
    metric: Metric
    dev: tuple[Example, ...] = ()
    others: tuple[Metric, ...] = ()
    seed: int = 0
    budget: Budget = field(default_factory=Budget)
    limits: Limits = field(default_factory=Limits)
    metric_context: Any = None
    allowed_packages: tuple[str, ...] = ()

    @property
    def selection(self) -> tuple[Example, ...]:
        """The examples on which candidates are compared."""
        return self.dev or self.train


class Score(NamedTuple):
    """Of one example. A failed run scores 0, has no outputs, and says why by the error's code.

    `latency_ms` is the program's own time and what its models took when they really answered, also
    when a resumed run remembers the answers; None: not measured. `cost_usd` None: nobody knows.
    `others` are the further metrics' scores by name, 0 to 1.
    """

    value: float
    outputs: Mapping[str, Any]
    error: str | None = None
    latency_ms: float | None = None
    cost_usd: Decimal | None = None
    tokens: int = 0
    lm_calls: int = 0
    others: Mapping[str, float] = MappingProxyType({})


class Candidate(Noun):
    """A program that was tried, or could be.

    `scores` by example hash, 0 to 1, of the examples it was run on (none: it was not measured).
    `parents` are hashes of the artifacts it was made of; `facts` says more about its making.
    """

    artifact: Artifact
    hash: str
    made_by: str
    parents: tuple[str, ...] = ()
    scores: dict[str, float] = Field(default_factory=dict)
    facts: dict[str, Any] = Field(default_factory=dict)

    def mean_on(self, hashes: Collection[str]) -> float | None:
        """The mean over these examples; None when it was not measured on all of them, or on none.

        Always summed in the same order, so that equal scores give equal means.
        """
        if not hashes or not all(key in self.scores for key in hashes):
            return None
        return sum(self.scores[key] for key in sorted(hashes)) / len(hashes)


class Trial(Noun):
    """One measurement of a candidate. `complete`: on all examples that candidates compete on."""

    number: int = Field(ge=1)
    candidate: str = Field(description="the artifact's hash")
    made_by: str
    score: float
    examples: int
    complete: bool
    lm_calls: int = Field(description="of the whole run until then")


class StopReason(StrEnum):
    FINISHED = "finished"
    BUDGET = "budget"
    CANCELLED = "cancelled"


class Outcome(Noun):
    """What an optimizer came to. `best` is the start itself when nothing better was found.

    `score` is the best one's mean on the dev examples (train without any), None when it was not
    measured on all of them: these are the examples it was chosen by, so that it flatters.
    `detail` names the limit that a budget ended at, or says who cancelled. `failed_runs` counts
    the program runs that raised, of `program_runs`.
    """

    best: Candidate
    score: float | None
    candidates: tuple[Candidate, ...]
    trials: tuple[Trial, ...]
    spent: Spent
    stopped_because: StopReason
    detail: str = ""
    program_runs: int = 0
    failed_runs: int = 0
    facts: dict[str, Any] = Field(default_factory=dict)
    front: Front | None = None
    held_out: HeldOut | None = None


class ParameterInfo(Noun):
    """One parameter as a caller may give it; `minimum` and `maximum` include the value."""

    name: str
    type: str
    required: bool
    default: Any = None
    description: str = ""
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    choices: tuple[Any, ...] = ()


class Needs(Noun):
    """What a problem must have for an optimizer to run."""

    train: int = Field(default=1, description="train examples at least")
    dev: int = Field(default=0, description="dev examples at least; 0: train stands in for dev")
    prompt_model: bool = Field(
        default=False, description="asks a model to write instructions: a strong one pays"
    )
    labels: bool = Field(default=False, description="train examples with expected outputs")
    embedding_model: bool = Field(
        default=False, description="clusters examples: by an embedding model, or by their words"
    )


class OptimizerInfo(Noun):
    """`refused` says why an optimizer cannot be run here; None when it can."""

    name: str
    aliases: tuple[str, ...] = ()
    description: str
    source: str = "dspex_ray"
    parameters: tuple[ParameterInfo, ...] = ()
    needs: Needs = Needs()
    refused: str | None = None
