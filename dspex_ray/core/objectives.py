"""What an optimisation wants of a program, figure by figure."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from dspex_ray.core.noun import Name, Noun

Direction = Literal["maximize", "minimize"]


class Objective(Noun):
    """A measured figure and which way it is better; `weight` counts in a weighted pick alone."""

    name: Name
    direction: Direction = "maximize"
    weight: FiniteFloat = Field(default=1.0, ge=0.0)


class Limit(Noun):
    """A figure that must hold, whatever the objectives say, in the unit of the figure."""

    name: Name
    at_least: FiniteFloat | None = None
    at_most: FiniteFloat | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("at_least or at_most must be given")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least} must not be above at_most {self.at_most}")
        return self

    def violation(self, figure: float) -> float:
        """How far `figure` lies outside, as a share of the limit (of 1 for a limit of 0); 0 within.

        Shares, so that dollars and milliseconds can be added up. A figure that is not a number
        (nothing was measured) violates infinitely.
        """
        if math.isnan(figure):
            return math.inf
        under = _share(self.at_least - figure, self.at_least) if self.at_least is not None else 0.0
        over = _share(figure - self.at_most, self.at_most) if self.at_most is not None else 0.0
        return max(0.0, under, over)


def _share(excess: float, limit: float) -> float:
    return excess / (abs(limit) or 1.0)
