"""What programs come to on examples that no search has seen: the evidence of its gain."""

from __future__ import annotations

from pydantic import Field

from dspex_ray.core.evidence import Comparison, Interval
from dspex_ray.core.noun import Noun


class HeldOutStart(Noun):
    """The program that a search began with. `score` is its mean by the metric, 0 to 1; `figures`
    are by name, in their own units, all of the same examples."""

    score: float
    interval: Interval
    figures: dict[str, float] = Field(default_factory=dict)


class HeldOutVersion(Noun):
    """A program that a search ended in, `candidate` its artifact's hash.

    `selection` is its mean on the examples it was chosen by, which exceeds `score` by `flattered`.
    `lead` compares it with the start on the same examples; None of one example, or of the start.
    """

    candidate: str
    version: int | None = Field(default=None, description="of the program, once it is one")
    score: float
    interval: Interval
    figures: dict[str, float] = Field(default_factory=dict)
    selection: float | None = None
    flattered: float | None = None
    lead: Comparison | None = None


class HeldOut(Noun):
    """On these `examples`, of which the search saw none. What is not there could not be measured,
    and `missing` says why."""

    examples: int = Field(ge=1)
    start: HeldOutStart | None = None
    versions: tuple[HeldOutVersion, ...] = ()
    missing: str | None = None
