"""What is evaluated, read from the registry: a version or an artifact, and the models it calls."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime

from dspex_ray.core.errors import Conflict, Invalid, NotFound
from dspex_ray.core.ids import ProjectId
from dspex_ray.datasets.model import Dataset, DatasetVersion
from dspex_ray.datasets.store import get_dataset
from dspex_ray.datasets.store import get_version as get_dataset_version
from dspex_ray.db.engine import Read, Write
from dspex_ray.evaluation.model import split_reference
from dspex_ray.evaluation.work import PinnedModel, Target, pinned
from dspex_ray.models.model import Model, ModelStatus
from dspex_ray.models.store import find_model_by_id, get_model
from dspex_ray.programs.artifacts import artifact_hash, artifact_payload
from dspex_ray.programs.model import Artifact, Program, ProgramVersion
from dspex_ray.programs.store import get_program, get_version
from dspex_ray.routing.model import ProgramModel
from dspex_ray.routing.rules import direct
from dspex_ray.routing.store import Target as Assigned
from dspex_ray.routing.store import list_assignments


async def find_version(
    conn: Read | Write, project_id: ProjectId, reference: str
) -> tuple[Program, ProgramVersion]:
    """Of `name` (its newest), `name@<number>` or `name@<label>`. Raises NotFound, or Conflict for
    a program without versions."""
    name, selector = split_reference(reference)
    program = await get_program(conn, project_id, name)
    number = program.latest_version
    if selector is not None:
        number = int(selector) if selector.isdecimal() else program.labels.get(selector)
        if number is None:
            labels = ", ".join(sorted(program.labels)) or "none"
            raise NotFound(f"program {name!r} has no label {selector!r} (labels: {labels})")
    if number is None:
        raise Conflict(f"program {name!r} has no version yet")
    return program, await get_version(conn, program, number)


async def version_target(
    conn: Read | Write,
    program: Program,
    version: ProgramVersion,
    *,
    model: str | None,
    now: datetime,
) -> Target:
    """`model` answers every call instead of pinned and assigned ones. Raises Conflict when no model
    that could answer is available."""
    target = await artifact_target(conn, program, version.artifact, model=model, now=now)
    return target.model_copy(update={"version_id": version.id, "version": version.number})


async def artifact_target(
    conn: Read | Write, program: Program, artifact: Artifact, *, model: str | None, now: datetime
) -> Target:
    """As `version_target`, for an artifact that is no version (yet) of this program."""
    pins: list[ProgramModel] = []
    if model is not None:
        found = await get_model(conn, program.project_id, model, now)
        assignments, models = [direct(found, now)], [found]
    else:
        of = Assigned(program.id, None)
        assignments = await list_assignments(conn, program.project_id, of)
        named = await _pinned(conn, program.project_id, artifact, now)
        pins = [direct(one, now, predictor or None) for predictor, one in named.items()]
        ids = dict.fromkeys(row.model_id for row in (*pins, *assignments))
        read = [await find_model_by_id(conn, identifier, now) for identifier in ids]
        models = [one for one in read if one is not None]
    _require_available(program, models)
    return Target(
        program=program,
        artifact=artifact_payload(artifact),
        hash=artifact_hash(artifact),
        assignments=tuple(assignments),
        pins=tuple(pins),
        models=tuple(pinned(one) for one in models),
    )


async def find_dataset_version(
    conn: Read, project_id: ProjectId, reference: str
) -> tuple[Dataset, DatasetVersion]:
    """Of `name` (its newest) or `name@<number>`. Raises NotFound, or Invalid for another form."""
    name, selector = split_reference(reference)
    if selector is not None and not selector.isdecimal():
        raise Invalid(
            f"dataset {reference!r} must read name or name@number",
            field="dataset",
            rule="name@number",
        )
    dataset = await get_dataset(conn, project_id, name)
    number = None if selector is None else int(selector)
    return dataset, await get_dataset_version(conn, dataset, number)


async def pinned_models(
    conn: Read | Write, project_id: ProjectId, names: Iterable[str], now: datetime
) -> tuple[PinnedModel, ...]:
    """Raises NotFound."""
    found = [await get_model(conn, project_id, name, now) for name in dict.fromkeys(names)]
    return tuple(pinned(model) for model in found)


async def _pinned(
    conn: Read | Write, project_id: ProjectId, artifact: Artifact, now: datetime
) -> dict[str, Model]:
    """By predictor; those that are gone are left out, as they are when the version is served."""
    found: dict[str, Model] = {}
    for predictor, name in artifact.models.items():
        with suppress(NotFound):
            found[predictor] = await get_model(conn, project_id, name, now)
    return found


def _require_available(program: Program, models: list[Model]) -> None:
    if not models:
        raise Conflict(
            f"program {program.name!r} has no models assigned: assign one, or say which model"
        )
    if all(model.status is not ModelStatus.AVAILABLE for model in models):
        states = ", ".join(f"{model.name} is {model.status}" for model in models)
        raise Conflict(f"no model of program {program.name!r} is available: {states}")
