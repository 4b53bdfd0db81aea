"""What may be changed about a program: as its source declares, or as follows from its artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from dspex_ray.core.errors import Invalid
from dspex_ray.programs.configure import changed, checked, read_configuration
from dspex_ray.programs.model import (
    AdapterName,
    Artifact,
    FieldSpec,
    ImportArtifact,
    ModuleType,
    ProgramVersion,
    VersionSpace,
)
from dspex_ray.programs.paths import TEXTS, target_of
from dspex_ray.programs.rules import REASONING
from dspex_ray.programs.types import annotation_for
from dspex_ray.variables import ml
from dspex_ray.variables.conditions import Scalar
from dspex_ray.variables.declare import declared
from dspex_ray.variables.domains import ChoiceVariable, Domain, FloatVariable, IntegerVariable
from dspex_ray.variables.model import Space, Variable
from dspex_ray.variables.rules import figures

_UNIT_TYPES = ("probability", "confidence_score")


def space_of(artifact: Artifact) -> Space:
    """The declared space; without one the default."""
    return default_space(artifact) if artifact.space is None else artifact.space


def version_space(program: str, version: ProgramVersion) -> VersionSpace:
    space = space_of(version.artifact)
    paths = [leaf.path for leaf in space.leaves()]
    return VersionSpace(
        program=program,
        version=version.number,
        declared=version.artifact.space is not None,
        hash=space.hash,
        space=space,
        figures=figures(space),
        current=read_configuration(version.artifact, paths),
    )


def default_space(artifact: Artifact, *, models: Sequence[str] = ()) -> Space:
    """Adapter, temperature, max_tokens, where they can change the type of each module, inputs of
    closed types that have a default, and with `models` which of them is called.

    Ranges are stretched to hold the artifact's own values, which are the defaults.
    """
    found: dict[str, Domain] = {
        "adapter": ml.adapter(tuple(AdapterName)),
        "temperature": ml.temperature(),
        "max_tokens": ml.max_tokens(),
        **_module_types(artifact),
        **signature_variables(artifact.signature.inputs),
    }
    if models:
        found["model"] = ml.model(models)
    now = read_configuration(artifact, list(found))
    variables: dict[str, Variable] = {
        path: _around(domain, now[path]) if path in now else domain
        for path, domain in found.items()
    }
    return Space(name="default", variables=variables)


def signature_variables(inputs: Sequence[FieldSpec]) -> dict[str, Domain]:
    """The inputs with a default whose type says all of their values: what a caller may leave to
    the program, an optimizer may set."""
    found = {f"inputs.{spec.name}": _domain(spec) for spec in inputs if spec.default is not None}
    return {path: domain for path, domain in found.items() if domain is not None}


def declared_space(
    artifact: Artifact, variables: Mapping[str, Any] | None, constraints: Sequence[Any]
) -> Space | None:
    """None when none are declared. Raises Invalid for a variable that changes nothing of the
    artifact, or has a value that cannot be applied."""
    if not variables:
        if constraints:
            raise Invalid(
                "`constraints` have no meaning without `variables`",
                field="constraints",
                rule="unused",
            )
        return None
    space = declared(variables, constraints)
    check_applicable(artifact, space)
    return space


def check_applicable(artifact: Artifact, space: Space) -> None:
    """Raises Invalid for a variable that changes nothing of the artifact, or has a value that
    cannot be applied."""
    for leaf in space.leaves():
        for case in leaf.branches():
            _check_applicable(artifact, leaf.path, case.domain)


def _check_applicable(artifact: Artifact, path: str, domain: Domain) -> None:
    """All choices, and of a range both ends, are tried; texts are known only to who searches."""
    attribute = target_of(artifact, path).attribute
    if attribute in TEXTS:
        return
    for value in domain.values(2):
        after = changed(artifact, path, value)
        if attribute == "module":
            checked(after)


def _module_types(artifact: Artifact) -> dict[str, Domain]:
    """`module` of the only module, `draft.module` of several; not where the type is settled: by
    a use of its reasoning, or by a field of that name."""
    if isinstance(artifact, ImportArtifact):
        return {}
    used = {*artifact.outputs.values()}
    used |= {source for module in artifact.modules.values() for source in module.inputs.values()}
    return {
        "module" if len(artifact.modules) == 1 else f"{name}.module": ml.reasoning_strategy(
            tuple(ModuleType)
        )
        for name, module in artifact.modules.items()
        if f"{name}.{REASONING.name}" not in used
        and all(
            field.name != REASONING.name
            for field in (*module.signature.inputs, *module.signature.outputs)
        )
    }


def _domain(spec: FieldSpec) -> Domain | None:
    if spec.type in _UNIT_TYPES:
        return FloatVariable(low=0.0, high=1.0, default=float(spec.default))
    if spec.type == "bool":
        return ChoiceVariable(choices=(False, True), default=spec.default)
    annotation = annotation_for(spec.type)
    if get_origin(annotation) is Literal:
        return ChoiceVariable(choices=get_args(annotation), default=spec.default)
    return None


def _around(domain: Domain, value: Scalar) -> Domain:
    """With this default, its range stretched to hold it."""
    changes: dict[str, Any] = {"default": value}
    if isinstance(domain, FloatVariable | IntegerVariable) and isinstance(value, int | float):
        changes |= {"low": min(domain.low, value), "high": max(domain.high, value)}
    if isinstance(domain, ChoiceVariable) and value not in domain.choices:
        changes |= {"choices": (*domain.choices, value)}  # a pinned model that was not named
    return domain.model_copy(update=changes)
