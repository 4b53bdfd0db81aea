"""What a measurement says, as values that any room, the wire and the SDK may hold."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from dspex_ray.core.noun import Noun
from dspex_ray.core.values import Probability


class Interval(Noun):
    """The values that agree with what was seen; both ends belong to it. `low` <= `high`."""

    low: FiniteFloat
    high: FiniteFloat

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} must not be above high {self.high}")
        return self

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


class Spread(Noun):
    """How `n` >= 1 finite values lie. `std_dev` divides by n - 1, and is 0 for one value."""

    n: int = Field(ge=1)
    mean: FiniteFloat
    std_dev: FiniteFloat = Field(ge=0.0)
    min: FiniteFloat
    p50: FiniteFloat
    p90: FiniteFloat
    p95: FiniteFloat
    p99: FiniteFloat
    max: FiniteFloat


PairedMethod = Literal["mcnemar_mid_p", "sign_flip_exact", "sign_flip_drawn"]


class Comparison(Noun):
    """A variant against a baseline on the same `n` examples (or groups of them).

    `estimate` is the variant's lead: a difference of mean scores, or for amounts the relative
    change of the geometric mean (-0.2: a fifth less). `p` is two-sided. `effect_size` is Cohen's
    d_z, the mean difference in its own standard deviations; None when all differences are alike.
    On `higher`, `equal` and `lower` of the n the variant's figure was so.
    """

    method: PairedMethod
    n: int = Field(ge=2)
    estimate: FiniteFloat
    interval: Interval
    confidence: float = Field(gt=0.0, lt=1.0)
    p: Probability
    effect_size: FiniteFloat | None
    higher: int = Field(ge=0)
    equal: int = Field(ge=0)
    lower: int = Field(ge=0)
