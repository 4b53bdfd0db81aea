"""From assignments and the snapshot to what the router chooses among."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from dspex_ray.core.ids import AssignmentId
from dspex_ray.models.model import Model
from dspex_ray.routing.model import ProgramModel, RoutingStrategy
from dspex_ray.serving.snapshot import Configuration

Assigned = tuple[ProgramModel, Model]

_DIRECT = AssignmentId(UUID(int=0))


def assigned(configuration: Configuration, assignments: Sequence[ProgramModel]) -> list[Assigned]:
    """Assignments with their models, the fast-moving figures filled in."""
    snapshot = configuration.snapshot
    pairs: list[Assigned] = []
    for assignment in assignments:
        model = snapshot.models.get(assignment.model_id)
        if model is not None:
            pairs.append((assignment, with_figures(configuration, model)))
    return pairs


def with_figures(configuration: Configuration, model: Model) -> Model:
    stats = configuration.figures.get(model.id)
    return model if stats is None else model.model_copy(update={"stats": stats})


def direct(model: Model, now: datetime) -> Assigned:
    """A model that the caller named itself: the sole candidate, under no assignment's row."""
    assignment = ProgramModel(
        id=_DIRECT,
        project_id=model.project_id,
        model_id=model.id,
        model_name=model.name,
        routing_strategy=RoutingStrategy.PRIMARY,
        created_at=now,
        updated_at=now,
    )
    return assignment, model
