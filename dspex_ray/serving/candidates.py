"""From assignments and the snapshot to what the router chooses among."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from dspex_ray.core.errors import Unavailable
from dspex_ray.core.ids import ProjectId
from dspex_ray.models.model import Model
from dspex_ray.routing import rules
from dspex_ray.routing.model import ProgramModel
from dspex_ray.serving.snapshot import Configuration

Assigned = tuple[ProgramModel, Model]


def assigned(configuration: Configuration, assignments: Sequence[ProgramModel]) -> list[Assigned]:
    """Assignments with their models, the fast-moving figures filled in."""
    snapshot = configuration.snapshot
    pairs: list[Assigned] = []
    for assignment in assignments:
        model = snapshot.models.get(assignment.model_id)
        if model is not None:
            pairs.append((assignment, with_figures(configuration, model)))
    return pairs


def assigned_for(
    configuration: Configuration,
    assignments: Sequence[ProgramModel],
    pins: Mapping[str, str],
    project: ProjectId,
) -> list[Assigned]:
    """As `assigned`, for an artifact whose `models` are `pins`: those models come first, the
    program's assignments after them (`routing.rules.under_pins`).

    A pin of a model that is gone is as if it were not there. Raises Unavailable when nothing is
    left.
    """
    if not pins:
        return assigned(configuration, assignments)
    snapshot = configuration.snapshot
    named = {predictor: snapshot.model_ids.get((project, name)) for predictor, name in pins.items()}
    rows = [
        rules.direct(snapshot.models[found], snapshot.taken_at, predictor or None)
        for predictor, found in named.items()
        if found is not None
    ]
    pairs = assigned(configuration, rules.under_pins(rows, assignments))
    if not pairs:
        gone = ", ".join(dict.fromkeys(pins.values()))
        raise Unavailable(f"No available models: {gone} is not registered any more")
    return pairs


def with_figures(configuration: Configuration, model: Model) -> Model:
    stats = configuration.figures.get(model.id)
    return model if stats is None else model.model_copy(update={"stats": stats})


def direct(model: Model, now: datetime) -> Assigned:
    """A model that the caller named itself: the sole candidate, under no assignment's row."""
    return rules.direct(model, now), model
