"""What a configuration file may say, and the plan that comes of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field, model_validator

from dspex_ray.core.noun import Name, Noun
from dspex_ray.models.model import ModelSpec
from dspex_ray.placements.model import NewPlacement
from dspex_ray.programs.model import CapturePolicy, ProgramSource
from dspex_ray.routing.model import NewAssignment
from dspex_ray.serving.model import Applied, NewSplit


class DeclaredModel(ModelSpec):
    """A model; `approved` asks for a passing health check and the state `available`."""

    approved: bool = False


class DeclaredProgram(Noun):
    """A program: `source` becomes a version unless one of its content exists; `labels` are put
    on that version."""

    name: Name
    description: str = ""
    capture: CapturePolicy = CapturePolicy()
    source: ProgramSource | None = None
    labels: tuple[Name, ...] = ()
    assignments: tuple[NewAssignment, ...] = ()
    split: NewSplit | None = None
    placement: NewPlacement | None = None  #: of the version that `source` becomes

    @model_validator(mode="after")
    def _labels_have_a_version(self) -> DeclaredProgram:
        if self.labels and self.source is None:
            raise ValueError("labels need a source: they are put on its version")
        if self.placement is not None and self.source is None:
            raise ValueError("a placement needs a source: it is that of its version")
        return self


class DeclaredRoute(Noun):
    name: Name
    assignments: tuple[NewAssignment, ...] = Field(min_length=1)


class Declaration(Noun):
    """A whole file. Resources are found by name; what the file does not name is left alone."""

    managed_by: Name = "apply"
    models: tuple[DeclaredModel, ...] = ()
    programs: tuple[DeclaredProgram, ...] = ()
    routes: tuple[DeclaredRoute, ...] = ()


class Change(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"


class Step(Noun):
    """One line of a plan: what happens to which resource; `fields` says what differs."""

    change: Change
    kind: str
    name: str
    fields: dict[str, Any] = Field(default_factory=dict)


class Plan(Noun):
    """`applied` False is a dry run. `replicas` says how many gateway replicas serve by it already;
    None when nothing was changed."""

    steps: tuple[Step, ...]
    applied: bool
    replicas: Applied | None = None
