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
from dspex_ray.declarations.model import (
    Change,
    Declaration,
    DeclaredModel,
    DeclaredProgram,
    Plan,
    Step,
)
from dspex_ray.models.model import ModelSpec, ModelStatus, ModelUpdate
from dspex_ray.models.service import ModelService
from dspex_ray.programs.artifacts import artifact_hash
from dspex_ray.programs.model import NewProgram, ProgramUpdate
from dspex_ray.programs.service import ProgramService
from dspex_ray.routing.model import AssignmentUpdate, NewAssignment, ProgramModel
from dspex_ray.routing.service import AssignmentService
from dspex_ray.serving.service import SplitService

_ASSIGNMENT_FIELDS = ("routing_strategy", "priority", "weight", "conditions")


class _Work(NamedTuple):
    step: Step
    run: Callable[[], Awaitable[object]] | None


def parse_declaration(text: str) -> Declaration:
    """YAML or JSON text to a Declaration; raises Invalid naming field and rule."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" at line {mark.line + 1}"
        raise Invalid(f"the file is not YAML{where}", field="file", rule="yaml") from error
    if not isinstance(content, dict):
        raise Invalid("the file must hold a mapping", field="file", rule="mapping")
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


class DeclarationService:
    def __init__(
        self,
        models: ModelService,
        programs: ProgramService,
        assignments: AssignmentService,
        splits: SplitService,
    ) -> None:
        self._models = models
        self._programs = programs
        self._assignments = assignments
        self._splits = splits

    async def apply(self, actor: Actor, text: str, *, dry_run: bool) -> Plan:
        declaration = parse_declaration(text)
        by = declaration.managed_by
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
                actor, f"route/{route.name}", route.assignments, existing, to_route
            )
        if not dry_run:
            for item in work:
                if item.run is not None:
                    await item.run()
        return Plan(steps=tuple(item.step for item in work), applied=not dry_run)

    # --- models ----------------------------------------------------------------------------

    async def _model(self, actor: Actor, declared: DeclaredModel, by: str) -> list[_Work]:
        spec = ModelSpec.model_validate(declared.model_dump(exclude={"approved"}))
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
            given = spec.model_dump(exclude_unset=True, exclude={"name", "provider", "api_key"})
            differs = _differences(given, existing, spec)

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
        name = declared.name
        try:
            existing = await self._programs.get(actor, name)
        except NotFound:
            new = NewProgram(
                name=name,
                description=declared.description,
                capture=declared.capture,
                source=declared.source,
                labels=declared.labels,
            )

            def create() -> Awaitable[object]:
                return self._programs.create(actor, new, managed_by=by)

            work = [_step(Change.CREATE, "program", name, {}, create)]
            assigned: list[ProgramModel] = []
        else:
            differs: dict[str, Any] = {
                field: _plain(getattr(declared, field))
                for field in ("description", "capture")
                if field in declared.model_fields_set
                and getattr(declared, field) != getattr(existing, field)
            }

            def update() -> Awaitable[object]:
                change = ProgramUpdate.model_validate(differs)
                return self._programs.update(actor, name, change, managed_by=by)

            change = Change.UPDATE if differs else Change.UNCHANGED
            work = [_step(change, "program", name, differs, update if differs else None)]
            work += await self._version(actor, declared)
            assigned = await self._assignments.list_for_program(actor, name)

        def to_program(new: NewAssignment) -> Awaitable[object]:
            return self._assignments.assign_to_program(actor, name, new, managed_by=by)

        work += self._assigned(actor, f"program/{name}", declared.assignments, assigned, to_program)
        if declared.split is not None:
            work += await self._split(actor, declared)
        return work

    async def _version(self, actor: Actor, declared: DeclaredProgram) -> list[_Work]:
        source = declared.source
        if source is None:
            return []
        artifact = await self._programs.resolve(source)
        program = await self._programs.get(actor, declared.name)
        number = await self._programs.find_version(actor, declared.name, artifact_hash(artifact))
        labelled = number is not None and all(
            program.labels.get(label) == number for label in declared.labels
        )
        if labelled:
            return [_step(Change.UNCHANGED, "version", f"{declared.name}@{number}", {}, None)]

        def add() -> Awaitable[object]:
            return self._programs.add_version(actor, declared.name, source, declared.labels)

        at = number or (program.latest_version or 0) + 1
        change = Change.CREATE if number is None else Change.UPDATE
        fields = {"labels": list(declared.labels)} if declared.labels else {}
        return [_step(change, "version", f"{declared.name}@{at}", fields, add)]

    async def _split(self, actor: Actor, declared: DeclaredProgram) -> list[_Work]:
        new = declared.split
        assert new is not None
        try:
            existing = await self._splits.get(actor, declared.name)
        except NotFound:
            existing = None
        if existing is not None and existing.arms == new.arms:
            return [_step(Change.UNCHANGED, "split", declared.name, {}, None)]

        def put() -> Awaitable[object]:
            return self._splits.put(actor, declared.name, new)

        change = Change.CREATE if existing is None else Change.UPDATE
        return [_step(change, "split", declared.name, _plain(new), put)]

    # --- assignments -----------------------------------------------------------------------

    def _assigned(
        self,
        actor: Actor,
        target: str,
        declared: Sequence[NewAssignment],
        existing: Sequence[ProgramModel],
        assign: Callable[[NewAssignment], Awaitable[object]],
    ) -> list[_Work]:
        held = {(row.model_name, row.predictor): row for row in existing}
        return [
            self._one_assigned(actor, target, new, held.get((new.model, new.predictor)), assign)
            for new in declared
        ]

    def _one_assigned(
        self,
        actor: Actor,
        target: str,
        new: NewAssignment,
        row: ProgramModel | None,
        assign: Callable[[NewAssignment], Awaitable[object]],
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
            return self._assignments.update(actor, held.id, change)

        return _step(Change.UPDATE, "assignment", name, differs, update)


def _differences(given: dict[str, Any], existing: BaseModel, spec: ModelSpec) -> dict[str, Any]:
    differs: dict[str, Any] = {}
    for field in given:
        if field == "cost_per_token":
            price = existing.price  # type: ignore[attr-defined]
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
