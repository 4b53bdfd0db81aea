"""Split and arm: how the traffic of a program is divided among its versions."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field, model_validator

from dspex_ray.core.ids import ProgramId, ProjectId
from dspex_ray.core.noun import Noun

WHOLE = 10_000  #: basis points


class Arm(Noun):
    """One version's share. A `valid_until` in the past gives its range to the first arm without
    one: a canary whose controller is lost ends by itself."""

    version: int = Field(ge=1)
    weight_bp: int = Field(ge=0, le=WHOLE)
    valid_until: datetime | None = None


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
