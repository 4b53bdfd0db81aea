"""A configuration applied to a program: another artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from pydantic import ValidationError

from dspex_ray.core.errors import Invalid
from dspex_ray.core.noun import require_name
from dspex_ray.programs.artifacts import artifact_payload, load_artifact
from dspex_ray.programs.fitting import check_modules
from dspex_ray.programs.model import (
    AdapterName,
    Artifact,
    FieldSpec,
    GenerationConfig,
    ImportArtifact,
    ModulesArtifact,
    ModuleSpec,
    ModuleType,
    SignatureSpec,
)
from dspex_ray.programs.paths import GENERATION, Target, predictors_by_owner, target_of
from dspex_ray.programs.rules import check_pins, outputs_of, with_modules, with_pin
from dspex_ray.programs.signature import make_field
from dspex_ray.variables.conditions import Scalar
from dspex_ray.variables.model import Configuration

_E = TypeVar("_E", bound=StrEnum)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Pool:
    """Instructions and demos that a configuration picks from, by name."""

    instructions: Mapping[str, str] = field(default_factory=dict)
    demos: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


EMPTY_POOL = Pool()


def apply_configuration(
    artifact: Artifact, configuration: Mapping[str, Scalar], pool: Pool = EMPTY_POOL
) -> Artifact:
    """What is said of one predictor goes before what is said of all.

    None gives a generation parameter back to the model's default, and leaves instructions, demos
    and models alone. Raises Invalid naming the variable and the rule; a class's arguments are
    checked only when it is built, whether models are registered when it becomes a version.
    """
    targets = {path: target_of(artifact, path) for path in configuration}
    for path in sorted(targets, key=lambda path: targets[path].of == "predictor"):
        artifact = changed(artifact, path, configuration[path], pool)
    return checked(artifact)


def checked(artifact: Artifact) -> Artifact:
    """The artifact as it comes back when it was stored. Raises Invalid."""
    artifact = load_artifact(artifact_payload(artifact))
    check_pins(artifact)
    if isinstance(artifact, ModulesArtifact):
        check_modules(artifact)
    return artifact


def changed(artifact: Artifact, path: str, value: Scalar, pool: Pool = EMPTY_POOL) -> Artifact:
    """The artifact with one variable set; what it then is as a whole is not checked.

    Raises Invalid naming the path.
    """
    target = target_of(artifact, path)
    match target.of:
        case "inputs":
            return _with_default(artifact, path, target.attribute, value)
        case "kwargs":
            assert isinstance(artifact, ImportArtifact)
            kwargs = {**artifact.kwargs, target.attribute: value}
            return artifact.model_copy(update={"kwargs": kwargs})
    match target.attribute:
        case "adapter":
            return artifact.model_copy(update={"adapter": _member(AdapterName, path, value)})
        case "provider":  # it picks no model by itself: constraints and conditions look at it
            _text(path, value)
            return artifact
        case "model":
            return _with_model(artifact, target, path, value)
    for owner in target.owners:
        if isinstance(artifact, ImportArtifact):
            artifact = _with_part(artifact, owner, target.attribute, path, value, pool)
        else:
            artifact = _with_module(artifact, owner, target.attribute, path, value, pool)
    return artifact


def read_configuration(
    artifact: Artifact, paths: Sequence[str], pool: Pool = EMPTY_POOL
) -> Configuration:
    """What `apply_configuration` would have to put at these paths to make the artifact.

    Absent are the provider, models that are not pinned, parameters that are left to the model,
    texts that the pool does not hold, and what the predictors without a path of their own do not
    agree on.
    """
    targets = {path: target_of(artifact, path) for path in paths}
    own = {
        (owner, target.attribute)
        for target in targets.values()
        for owner in target.owners
        if target.of == "predictor"
    }
    found: Configuration = {}
    for path, target in targets.items():
        if target.attribute == "adapter":
            found[path] = artifact.adapter.value
        values = [
            _read(artifact, owner, target.attribute, pool)
            for owner in target.owners
            if target.of == "predictor" or (owner, target.attribute) not in own
        ]
        if target.of == "inputs":
            values = [_default(artifact, target.attribute)]
        if target.of == "kwargs" and isinstance(artifact, ImportArtifact):
            values = [artifact.kwargs[target.attribute]]
        first = values[0] if values else None
        if isinstance(first, str | int | float) and all(value == first for value in values):
            found[path] = first
    return found


def _with_model(artifact: Artifact, target: Target, path: str, value: Scalar) -> Artifact:
    name = _text(path, value)
    if name is None:
        return artifact
    require_name(name, path)
    if target.of == "program":
        return with_pin(artifact, "", name)
    (owner,) = target.owners
    return with_pin(artifact, predictors_by_owner(artifact)[owner], name)


def _with_module(
    artifact: ModulesArtifact, name: str, attribute: str, path: str, value: Scalar, pool: Pool
) -> ModulesArtifact:
    module = artifact.modules[name]
    program: dict[str, Any] = {}
    if attribute in GENERATION:
        config = _generation({**module.config.model_dump(), attribute: value}, attribute, path)
        module = module.model_copy(update={"config": config})
    elif attribute == "module":
        module = _retyped(module, _member(ModuleType, path, value))
    elif value is not None and attribute == "instructions":
        told = {"instructions": _picked(pool.instructions, path, value)}
        module = module.model_copy(update={"signature": module.signature.model_copy(update=told)})
        if len(artifact.modules) == 1:  # the program's own say what those of its only one say
            program = {"signature": artifact.signature.model_copy(update=told)}
    elif value is not None:
        demos = tuple(dict(demo) for demo in _picked(pool.demos, path, value))
        module = module.model_copy(update={"demos": demos})
    after = with_modules(artifact, {**artifact.modules, name: module})
    return after.model_copy(update=program)


def _with_part(
    artifact: ImportArtifact, name: str, attribute: str, path: str, value: Scalar, pool: Pool
) -> ImportArtifact:
    """The same for a predictor of a class, which is kept as DSPy's state."""
    if attribute in GENERATION:
        _generation({attribute: value}, attribute, path)
        config = {k: v for k, v in artifact.predictor_configs[name].items() if k != attribute}
        if value is not None:
            config[attribute] = value
        configs = {**artifact.predictor_configs, name: config}
        return artifact.model_copy(update={"predictor_configs": configs})
    if value is None:
        return artifact
    if attribute == "instructions":
        signature = artifact.state[name]["signature"]
        told = {**signature, "instructions": _picked(pool.instructions, path, value)}
        part = {**artifact.state[name], "signature": told}
    else:
        demos = [dict(demo) for demo in _picked(pool.demos, path, value)]
        part = {**artifact.state[name], "demos": demos}
    return artifact.model_copy(update={"state": {**artifact.state, name: part}})


def _retyped(module: ModuleSpec, kind: ModuleType) -> ModuleSpec:
    """Demos keep what the module of the new type has fields for."""
    module = module.model_copy(update={"type": kind})
    fields = {spec.name for spec in (*module.signature.inputs, *outputs_of(module))}
    demos = ({k: v for k, v in demo.items() if k in fields} for demo in module.demos)
    return module.model_copy(update={"demos": tuple(demo for demo in demos if demo)})


def _with_default(artifact: Artifact, path: str, name: str, value: Scalar) -> Artifact:
    """The default of an input, in the program's signature and in those it comes to unbound."""
    signature = _defaulted(artifact.signature, path, name, value)
    if isinstance(artifact, ImportArtifact):
        return artifact.model_copy(update={"signature": signature})
    modules = {
        key: module
        if name in module.inputs
        else module.model_copy(
            update={"signature": _defaulted(module.signature, path, name, value)}
        )
        for key, module in artifact.modules.items()
    }
    return artifact.model_copy(update={"signature": signature, "modules": modules})


def _defaulted(spec: SignatureSpec, path: str, name: str, value: Scalar) -> SignatureSpec:
    def made(old: FieldSpec) -> FieldSpec:
        try:
            return make_field(
                old.name, old.type, old.description, optional=old.optional, default=value
            )
        except Invalid as error:
            raise Invalid(f"{path}: {error.message}", field=path, rule=error.rule) from None

    inputs = tuple(made(old) if old.name == name else old for old in spec.inputs)
    return spec.model_copy(update={"inputs": inputs})


def _read(artifact: Artifact, owner: str, attribute: str, pool: Pool) -> Any:
    if attribute == "model":
        predictor = predictors_by_owner(artifact)[owner]
        return artifact.models.get(predictor, artifact.models.get(""))
    if isinstance(artifact, ImportArtifact):
        config: Mapping[str, Any] = artifact.predictor_configs[owner]
        instructions = artifact.state[owner]["signature"]["instructions"]
        demos = artifact.state[owner]["demos"]
    else:
        module = artifact.modules[owner]
        config = module.config.model_dump()
        instructions, demos = module.signature.instructions, module.demos
        if attribute == "module":
            return module.type.value
    if attribute == "instructions":
        return _named(pool.instructions, instructions)
    if attribute == "demos":
        return _named({name: list(some) for name, some in pool.demos.items()}, list(demos))
    return config.get(attribute)


def _default(artifact: Artifact, name: str) -> Any:
    return next(spec.default for spec in artifact.signature.inputs if spec.name == name)


def _named(pool: Mapping[str, Any], wanted: Any) -> str | None:
    return next((name for name, found in pool.items() if found == wanted), None)


def _picked(pool: Mapping[str, _T], path: str, value: Scalar) -> _T:
    if isinstance(value, str) and value in pool:
        return pool[value]
    raise Invalid(
        f"{path} is {str(value)[:80]!r}, which the pool has not "
        f"(it has: {', '.join(list(pool)[:20]) or 'none'})",
        field=path,
        rule="pool",
    )


def _generation(values: Mapping[str, Any], attribute: str, path: str) -> GenerationConfig:
    try:
        return GenerationConfig.model_validate(values)
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)[0]
        raise Invalid(
            f"{path} cannot be {attribute} here: {wrong['msg']}", field=path, rule=wrong["type"]
        ) from None


def _member(kind: type[_E], path: str, value: Scalar) -> _E:
    for member in kind:
        if member.value == value:
            return member
    raise Invalid(
        f"{path} is {str(value)[:80]!r} (allowed: {', '.join(kind)})", field=path, rule="choice"
    )


def _text(path: str, value: Scalar) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise Invalid(f"{path} must be a name", field=path, rule="type")
