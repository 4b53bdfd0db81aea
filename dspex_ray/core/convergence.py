"""When a search has stopped paying, as settings and as a verdict."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field, FiniteFloat

from dspex_ray.core.noun import Noun
from dspex_ray.core.values import Probability


class ConvergenceStatus(StrEnum):
    PENDING = "pending"  #: no trial has a score yet
    IMPROVING = "improving"
    PLATEAUED = "plateaued"  #: nothing better lately, and patience left
    CONVERGED = "converged"


ConvergenceReason = Literal[
    "target_achieved",
    "score_plateau",
    "no_improvement",
    "minimal_improvement",
    "low_variance",
    "no_significant_improvement",
]


class ConvergenceRules(Noun):
    """The rules by which a search counts as converged; None switches a rule off.

    Scores are better when higher, differences are in the unit of the score.
    """

    #: a gain above this over the last real gain is a real gain, and starts the plateau anew
    improvement: FiniteFloat = Field(default=0.01, ge=0.0)
    #: trials without a real gain until the search is plateaued, and until it has converged
    plateaued_after: int = Field(default=3, ge=1)
    score_plateau: int | None = Field(default=5, ge=1)
    #: trials without any gain at all
    no_improvement: int | None = Field(default=8, ge=1)
    #: the last three gains were all below this
    minimal_improvement: FiniteFloat | None = Field(default=0.005, gt=0.0)
    #: three scores at least, and the best reaches this
    target: FiniteFloat | None = 0.95
    #: the standard deviation of the last five scores is below this
    low_variance: FiniteFloat | None = Field(default=0.001, gt=0.0)
    #: so many trials in a row whose gain over the best before was tested and not significant
    no_significant_improvement: int | None = Field(default=3, ge=1)
    significance: float = Field(default=0.05, gt=0.0, lt=1.0)
    #: trials before which only the target counts, such as a sampler's random first ones
    warm_up: int = Field(default=0, ge=0)


class Convergence(Noun):
    """What a search's history says. `best_trial` counts from 0 and is the first of equals.

    `trials_without_gain` are those since the last real gain; `patience_used` is their share of the
    nearest limit, 1 when converged.
    """

    status: ConvergenceStatus
    reason: ConvergenceReason | None = None
    best_score: FiniteFloat | None = None
    best_trial: int | None = Field(default=None, ge=0)
    trials_without_gain: int = Field(default=0, ge=0)
    patience_used: Probability = 0.0
