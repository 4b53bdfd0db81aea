"""Other instructions, demos and module types for an artifact: a new artifact each, of its kind.

Predictors go by the names that DSPy's `named_predictors` gives them ("main", "draft.predict").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dspex_ray.core.errors import Invalid
from dspex_ray.programs.build import build
from dspex_ray.programs.configure import Pool, changed
from dspex_ray.programs.model import (
    Artifact,
    FieldSpec,
    ImportArtifact,
    ModulesArtifact,
    ModuleSpec,
    ModuleType,
)
from dspex_ray.programs.paths import target_of
from dspex_ray.programs.rules import outputs_of, predictor_names, with_modules
from dspex_ray.programs.types import Misfit, coerce

Demo = dict[str, Any]
_NEW = "new"  # in a pool of one


class Predictor(NamedTuple):
    """What can be changed of a predictor: its field names, its instructions, its demos."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    instructions: str
    demos: tuple[Demo, ...]


def predictors_of(artifact: Artifact, *, allowed_packages: Iterable[str]) -> tuple[Predictor, ...]:
    """In the artifact's order. Raises Invalid as `build` does."""
    module = build(artifact, allowed_packages=allowed_packages)
    found = {
        name: Predictor(
            name,
            tuple(predictor.signature.input_fields),
            tuple(predictor.signature.output_fields),
            str(predictor.signature.instructions),
            tuple(dict(demo.items()) for demo in predictor.demos),
        )
        for name, predictor in module.named_predictors()
    }
    return tuple(found[name] for name in predictor_names(artifact))


def with_instructions(artifact: Artifact, predictor: str, text: str) -> Artifact:
    """The same program, that predictor told to do `text`. Raises Invalid for an unknown one."""
    return changed(artifact, f"{predictor}.instructions", _NEW, Pool(instructions={_NEW: text}))


def with_demos(artifact: Artifact, predictor: str, demos: Sequence[Mapping[str, Any]]) -> Artifact:
    """The same program with these demos on that predictor, in this order, instead of its own.

    Fields that the predictor does not have are left out; a demo with a value that does not fit
    its field's type, or with no field at all, is left out whole.
    """
    path, fitting = f"{predictor}.demos", [dict(demo) for demo in demos]
    if isinstance(artifact, ModulesArtifact):
        (owner,) = target_of(artifact, path).owners
        module = artifact.modules[owner]
        fields = {field.name: field for field in (*module.signature.inputs, *outputs_of(module))}
        fitting = [found for demo in demos if (found := _fitting(demo, fields))]
    return changed(artifact, path, _NEW, Pool(demos={_NEW: fitting}))


def with_module_type(artifact: Artifact, kind: ModuleType) -> Artifact:
    """All modules of that type; the artifact itself when it is a class, whose modules are fixed.

    Going back to `predict` drops the reasoning from demos. Raises Invalid when a module's
    `reasoning` feeds another, or is an output: it cannot do without then.
    """
    if isinstance(artifact, ImportArtifact):
        return artifact
    modules = artifact.modules.items()
    return with_modules(
        artifact, {name: _retyped(artifact, name, module, kind) for name, module in modules}
    )


def _retyped(
    artifact: ModulesArtifact, name: str, module: ModuleSpec, kind: ModuleType
) -> ModuleSpec:
    own = {field.name for field in (*module.signature.inputs, *module.signature.outputs)}
    used = {
        *artifact.outputs.values(),
        *(source for other in artifact.modules.values() for source in other.inputs.values()),
    }
    wrong = "has a field of that name" if "reasoning" in own else ""
    if kind is ModuleType.PREDICT and "reasoning" not in own and f"{name}.reasoning" in used:
        wrong = "gives its reasoning to another"
    elif kind is ModuleType.PREDICT or kind is module.type:
        wrong = ""
    if wrong:
        raise Invalid(f"module {name!r} {wrong}", field="module_types", rule="reasoning")
    if kind is module.type:
        return module
    retyped = module.model_copy(update={"type": kind})
    fields = {field.name for field in (*module.signature.inputs, *outputs_of(retyped))}
    demos = tuple({k: v for k, v in demo.items() if k in fields} for demo in module.demos)
    return retyped.model_copy(update={"demos": demos})


def _fitting(demo: Mapping[str, Any], fields: Mapping[str, FieldSpec]) -> Demo | None:
    """The demo as JSON values of its fields' types; None when it is none."""
    found: Demo = {}
    for name, field in fields.items():
        if demo.get(name) is None:
            continue
        try:
            found[name] = coerce(field.type, demo[name], optional=field.optional)
        except Misfit:
            return None
    return found or None
