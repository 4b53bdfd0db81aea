"""What a search for several objectives hands back: the candidates that no other beats."""

from __future__ import annotations

from pydantic import Field

from dspex_ray.core.noun import Noun
from dspex_ray.core.objectives import Limit, Objective
from dspex_ray.variables.model import Configuration


class FrontPoint(Noun):
    """One candidate, `candidate` its artifact's hash. `figures` by name, in their own units, are of
    the examples it was chosen by; `held_out` of examples that the search never saw, None when
    they were not measured. `picked`: by the objectives' weights."""

    candidate: str
    trial: int = Field(ge=1, description="the trial that measured it whole")
    configuration: Configuration = Field(default_factory=dict)
    figures: dict[str, float]
    held_out: dict[str, float] | None = None
    picked: bool = False
    version: int | None = Field(default=None, description="of the program, once it is one")

    @property
    def flattered(self) -> dict[str, float]:
        """By how much each figure of the selection is above the held-out one; {} without these."""
        held_out = self.held_out or {}
        return {name: self.figures[name] - held_out[name] for name in held_out}


class HypervolumeMark(Noun):
    """The volume that the front dominated once so many trials were told."""

    trials: int
    value: float


class Front(Noun):
    """Points by the first objective, best first; each is on the front and within the limits, unless
    none is. `reference`, by objective, is what the hypervolume is measured from, the same all the
    run. `examples` and `held_out_examples` count what each point was measured on."""

    objectives: tuple[Objective, ...]
    limits: tuple[Limit, ...] = ()
    points: tuple[FrontPoint, ...] = ()
    hypervolume: tuple[HypervolumeMark, ...] = ()
    reference: dict[str, float] = Field(default_factory=dict)
    examples: int = 0
    held_out_examples: int = 0
