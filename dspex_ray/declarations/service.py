"""Apply a declaration: plan everything first, then carry the plan out step by step.

Nothing is written before the whole file is understood. Each step is a transaction of its own, so
that applying again after a failure finishes what is left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError

from dspex_ray.core.actor import Actor
from dspex_ray.core.errors import Invalid, NotFound
from dspex_ray.core.noun import no_nul
from dspex_ray.declarations.model import (
    Change,
    Declaration,
    DeclaredModel,
    DeclaredProgram,
    Plan,
    Step,
)
from dspex_ray.models.model import Model, ModelSpec, ModelStatus, ModelUpdate
from dspex_ray.models.service import ModelService
from dspex_ray.placements.model import NewPlacement, PlacementStatus
from dspex_ray.placements.service import PlacementService
from dspex_ray.programs.artifacts import artifact_hash
from dspex_ray.programs.model import Artifact, NewProgram, Program, ProgramUpdate
from dspex_ray.programs.redaction import check_patterns
from dspex_ray.programs.rules import check_predictor
from dspex_ray.programs.service import ProgramService
from dspex_ray.programs.source import named_models
from dspex_ray.routing.model import AssignmentUpdate, NewAssignment, ProgramModel
from dspex_ray.routing.service import AssignmentService
from dspex_ray.serving.model import NewSplit
from dspex_ray.serving.service import SplitService

_MAX_DEPTH = 50
_ASSIGNMENT_FIELDS = ("routing_strategy", "priority", "weight", "conditions")


class _Work(NamedTuple):
    step: Step
    run: Callable[[], Awaitable[object]] | None


def parse_declaration(text: str) -> Declaration:
    """YAML or JSON text to a Declaration; raises Invalid naming field and rule."""
    content = _read_yaml(text)
    if not isinstance(content, dict):
        raise Invalid("the file must hold a mapping", field="file", rule="mapping")
    no_nul(content, "file")
    try:
        declaration = Declaration.model_validate(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in fault["loc"])
        raise Invalid(f"{field}: {fault['msg']}", field=field, rule=fault["type"]) from error
    for model in declaration.models:
        if model.api_key is not None:
            raise Invalid(
                f"models.{model.name}: a key does not belong in a file; use api_key_ref",
                field=f"models.{model.name}.api_key",
                rule="no secrets in files",
            )
    return declaration


def _read_yaml(text: str) -> Any:
    try:
        _check_shape(text)
        return yaml.load(text, yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" at line {mark.line + 1}"
        raise Invalid(f"the file is not YAML{where}", field="file", rule="yaml") from error


def _check_shape(text: str) -> None:
    """Refuse what a few lines can make endless: aliases of aliases, and nesting."""
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise Invalid("the file holds a YAML alias", field="file", rule="no aliases")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise Invalid(f"nested deeper than {_MAX_DEPTH}", field="file", rule="depth")


class DeclarationService:
    def __init__(
        self,
        models: ModelService,
        programs: ProgramService,
        assignments: AssignmentService,
        splits: SplitService,
        placements: PlacementService,
    ) -> None:
        self._models = models
        self._programs = programs
        self._assignments = assignments
        self._splits = splits
        self._placements = placements

    async def apply(self, actor: Actor, text: str, *, dry_run: bool) -> Plan:
        """Returns when the gateway's replicas serve by the file, after a second at the latest."""
        declaration = parse_declaration(text)
        by = declaration.managed_by
        await self._check_assigned_models(actor, declaration)
        work: list[_Work] = []
        for model in declaration.models:
            work += await self._model(actor, model, by)
        for program in declaration.programs:
            work += await self._program(actor, program, by)
        for route in declaration.routes:
            existing = await self._assignments.list_for_route(actor, route.name)

            def to_route(new: NewAssignment, name: str = route.name) -> Awaitable[object]:
                return self._assignments.assign_to_route(actor, name, new, managed_by=by)

            work += self._assigned(
                actor, f"route/{route.name}", route.assignments, existing, to_route, by
            )
        runs = [] if dry_run else [item.run for item in work if item.run is not None]
        for run in runs:
            await run()
        return Plan(
            steps=tuple(item.step for item in work),
            applied=not dry_run,
            replicas=await self._splits.wait_current() if runs else None,
        )

    async def _check_assigned_models(self, actor: Actor, declaration: Declaration) -> None:
        """Raises NotFound for a model that is assigned or pinned, and neither here nor declared."""
        declared = {model.name for model in declaration.models}
        assigned = {new.model for program in declaration.programs for new in program.assignments}
        assigned |= {new.model for route in declaration.routes for new in route.assignments}
        sources = [program.source for program in declaration.programs]
        assigned |= {name for source in sources if source for name in named_models(source)}
        for name in sorted(assigned - declared):
            await self._models.get(actor, name)

    # --- models ----------------------------------------------------------------------------

    async def _model(self, actor: Actor, declared: DeclaredModel, by: str) -> list[_Work]:
        given = declared.model_dump(exclude={"approved"}, exclude_unset=True)
        spec = ModelSpec.model_validate(given)
        await self._models.check_spec(spec)
        try:
            existing = await self._models.get(actor, declared.name)
        except NotFound:

            def register() -> Awaitable[object]:
                return self._models.register(actor, spec, managed_by=by)

            work = [_step(Change.CREATE, "model", declared.name, {}, register)]
            status = ModelStatus.TESTING
        else:
            if existing.provider is not spec.provider:
                raise Invalid(
                    f"model {spec.name!r} is of provider {existing.provider.value!r}: a provider "
                    "is not changed, register another model",
                    field=f"models.{spec.name}.provider",
                    rule="immutable",
                )
            differs = _differences(spec.model_fields_set - {"name", "provider"}, existing, spec)

            def update() -> Awaitable[object]:
                change = ModelUpdate.model_validate({name: getattr(spec, name) for name in differs})
                return self._models.update(actor, spec.name, change, managed_by=by)

            change = Change.UPDATE if differs else Change.UNCHANGED
            work = [_step(change, "model", spec.name, differs, update if differs else None)]
            status = existing.status
        if declared.approved and status is not ModelStatus.AVAILABLE:

            def approve() -> Awaitable[object]:
                return self._models.approve(actor, declared.name)

            fields = {"status": ModelStatus.AVAILABLE.value}
            work.append(_step(Change.UPDATE, "model", declared.name, fields, approve))
        return work

    # --- programs --------------------------------------------------------------------------

    async def _program(self, actor: Actor, declared: DeclaredProgram, by: str) -> list[_Work]:
        artifact = None
        if declared.source is not None:
            artifact = await self._programs.resolve(declared.source)
        check_patterns(declared.capture)
        try:
            existing = await self._programs.get(actor, declared.name)
        except NotFound:
            existing = None
        await self._check_predictors(actor, declared, artifact)
        if existing is None:
            work = [self._create_program(actor, declared, by)]
            newest = number = 0 if artifact is None else 1
            assigned: list[ProgramModel] = []
        else:
            work = [self._update_program(actor, declared, existing, by)]
            newest = number = existing.latest_version or 0
            if artifact is not None:
                added, number = await self._version(actor, declared, existing, artifact)
                work.append(added)
                newest = max(newest, number)
            assigned = await self._assignments.list_for_program(actor, declared.name)

        def to_program(new: NewAssignment) -> Awaitable[object]:
            return self._assignments.assign_to_program(actor, declared.name, new, managed_by=by)

        target = f"program/{declared.name}"
        work += self._assigned(actor, target, declared.assignments, assigned, to_program, by)
        if declared.placement is not None:
            known = existing is not None and number <= (existing.latest_version or 0)
            work.append(
                await self._placement(actor, declared.name, number, declared.placement, known, by)
            )
        if declared.split is not None:
            work.append(await self._split(actor, declared.name, declared.split, newest))
        return work

    async def _check_predictors(
        self, actor: Actor, declared: DeclaredProgram, artifact: Artifact | None
    ) -> None:
        for new in declared.assignments:
            if new.predictor is None:
                continue
            if artifact is None:
                await self._programs.require_predictor(actor, declared.name, new.predictor)
            else:
                check_predictor(declared.name, artifact, new.predictor)

    def _create_program(self, actor: Actor, declared: DeclaredProgram, by: str) -> _Work:
        new = NewProgram(
            name=declared.name,
            description=declared.description,
            capture=declared.capture,
            source=declared.source,
            labels=declared.labels,
        )

        def create() -> Awaitable[object]:
            return self._programs.create(actor, new, managed_by=by)

        return _step(Change.CREATE, "program", declared.name, {}, create)

    def _update_program(
        self, actor: Actor, declared: DeclaredProgram, existing: Program, by: str
    ) -> _Work:
        differs: dict[str, Any] = {
            field: _plain(getattr(declared, field))
            for field in ("description", "capture")
            if field in declared.model_fields_set
            and getattr(declared, field) != getattr(existing, field)
        }

        def update() -> Awaitable[object]:
            change = ProgramUpdate.model_validate(differs)
            return self._programs.update(actor, declared.name, change, managed_by=by)

        change = Change.UPDATE if differs else Change.UNCHANGED
        return _step(change, "program", declared.name, differs, update if differs else None)

    async def _version(
        self, actor: Actor, declared: DeclaredProgram, program: Program, artifact: Artifact
    ) -> tuple[_Work, int]:
        """The step, and the number of the version that it leads to."""
        held = await self._programs.find_version(actor, declared.name, artifact_hash(artifact))
        number = held or (program.latest_version or 0) + 1
        name = f"{declared.name}@{number}"
        moved = [label for label in declared.labels if program.labels.get(label) != number]
        if held is not None and not moved:
            return _step(Change.UNCHANGED, "version", name, {}, None), number

        def add() -> Awaitable[object]:
            return self._programs.add_artifact(actor, declared.name, artifact, declared.labels)

        change = Change.CREATE if held is None else Change.UPDATE
        return _step(change, "version", name, {"labels": moved} if moved else {}, add), number

    async def _split(self, actor: Actor, program: str, new: NewSplit, newest: int) -> _Work:
        """`newest` is the program's newest version once the file is applied."""
        for arm in new.arms:
            if arm.version > newest:
                raise Invalid(
                    f"program {program!r} has no version {arm.version} (newest: {newest})",
                    field=f"programs.{program}.split.arms",
                    rule="known version",
                )
        try:
            existing = await self._splits.get(actor, program)
        except NotFound:
            existing = None
        if existing is not None and existing.arms == new.arms:
            return _step(Change.UNCHANGED, "split", program, {}, None)

        def put() -> Awaitable[object]:
            return self._splits.put(actor, program, new)

        change = Change.CREATE if existing is None else Change.UPDATE
        return _step(change, "split", program, _plain(new), put)

    async def _placement(
        self, actor: Actor, program: str, number: int, new: NewPlacement, known: bool, by: str
    ) -> _Work:
        """`known`: the version is there before the file is applied."""
        self._placements.check_spec(new)
        try:
            existing = await self._placements.get(actor, program, number) if known else None
        except NotFound:
            existing = None

        def put() -> Awaitable[object]:
            return self._placements.put(actor, program, number, new, managed_by=by)

        name = f"{program}@{number}"
        ends = existing is not None and existing.status is PlacementStatus.DRAINING
        if existing is not None and existing.spec == new and not ends:
            return _step(Change.UNCHANGED, "placement", name, {}, None)
        change = Change.CREATE if existing is None else Change.UPDATE
        return _step(change, "placement", name, _plain(new), put)

    # --- assignments -----------------------------------------------------------------------

    def _assigned(
        self,
        actor: Actor,
        target: str,
        declared: Sequence[NewAssignment],
        existing: Sequence[ProgramModel],
        assign: Callable[[NewAssignment], Awaitable[object]],
        by: str,
    ) -> list[_Work]:
        held = {(row.model_name, row.predictor): row for row in existing}
        return [
            self._one_assigned(actor, target, new, held.get((new.model, new.predictor)), assign, by)
            for new in declared
        ]

    def _one_assigned(
        self,
        actor: Actor,
        target: str,
        new: NewAssignment,
        row: ProgramModel | None,
        assign: Callable[[NewAssignment], Awaitable[object]],
        by: str,
    ) -> _Work:
        name = f"{target}:{new.model}" + (f"/{new.predictor}" if new.predictor else "")
        if row is None:

            def create() -> Awaitable[object]:
                return assign(new)

            return _step(Change.CREATE, "assignment", name, {}, create)
        held = row
        differs: dict[str, Any] = {
            field: _plain(getattr(new, field))
            for field in _ASSIGNMENT_FIELDS
            if getattr(new, field) != getattr(held, field)
        }
        if not differs:
            return _step(Change.UNCHANGED, "assignment", name, {}, None)
        change = AssignmentUpdate.model_validate({field: getattr(new, field) for field in differs})

        def update() -> Awaitable[object]:
            return self._assignments.update(actor, held.id, change, managed_by=by)

        return _step(Change.UPDATE, "assignment", name, differs, update)


def _differences(given: set[str], existing: Model, spec: ModelSpec) -> dict[str, Any]:
    differs: dict[str, Any] = {}
    for field in sorted(given):
        if field == "cost_per_token":
            price = existing.price
            same = price.prompt_usd_per_token == price.completion_usd_per_token
            if not same or price.prompt_usd_per_token != spec.cost_per_token:
                differs[field] = str(spec.cost_per_token)
        elif getattr(spec, field) != getattr(existing, field):
            differs[field] = _plain(getattr(spec, field))
    return differs


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _step(
    change: Change,
    kind: str,
    name: str,
    fields: dict[str, Any],
    run: Callable[[], Awaitable[object]] | None,
) -> _Work:
    return _Work(Step(change=change, kind=kind, name=name, fields=fields), run)
