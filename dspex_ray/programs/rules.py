"""Decisions about modules and what binds them: which outputs they have, in which order they run."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from dspex_ray.core.errors import Invalid
from dspex_ray.programs.model import (
    Artifact,
    FieldSpec,
    ImportArtifact,
    ModulesArtifact,
    ModuleSpec,
    ModuleType,
)

REASONING = FieldSpec(name="reasoning", description="")


def outputs_of(module: ModuleSpec) -> tuple[FieldSpec, ...]:
    """The fields a module answers with: chain of thought adds `reasoning` before its own."""
    if module.type is ModuleType.CHAIN_OF_THOUGHT:
        return (REASONING, *module.signature.outputs)
    return module.signature.outputs


def split_binding(binding: str) -> tuple[str, str]:
    """`module.field` as a pair; without a dot the field is empty."""
    module, _, field = binding.partition(".")
    return module, field


def levels(bindings: Mapping[str, Mapping[str, str]]) -> list[list[str]]:
    """Modules by dependency: each level needs only the levels before it; sorted within.

    `bindings` maps each module to its bound inputs. Raises Invalid showing a cycle.
    """
    needs = {
        name: {split_binding(source)[0] for source in bound.values()}
        for name, bound in bindings.items()
    }
    sorter = TopologicalSorter(needs)
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = " -> ".join(error.args[1])
        raise Invalid(f"The modules form a cycle: {cycle}", field="modules", rule="cycle") from None
    found = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        found.append(ready)
        sorter.done(*ready)
    return found


def check_predictor(program: str, artifact: Artifact, predictor: str) -> None:
    """Raises Invalid when the artifact of `program` has no such predictor."""
    names = predictor_names(artifact)
    if predictor not in names:
        raise Invalid(
            f"program {program!r} has no predictor {predictor!r} (it has: {', '.join(names)})",
            field="predictor",
            rule="known predictor",
        )


def pin_field(predictor: str) -> str:
    """What an error about a pinned model names: `models.draft`, or `models` for all predictors."""
    return f"models.{predictor}" if predictor else "models"


def check_pins(artifact: Artifact) -> None:
    """Raises Invalid when a model is pinned to a predictor that there is not."""
    names = predictor_names(artifact)
    for predictor in artifact.models:
        if predictor and predictor not in names:
            raise Invalid(
                f"a model is pinned to an unknown predictor {predictor[:80]!r} "
                f"(there are: {', '.join(names)})",
                field=pin_field(predictor[:80]),
                rule="known predictor",
            )


def with_pin(artifact: Artifact, predictor: str, model: str) -> Artifact:
    """`model` answers this predictor; "" is all of them, also those that had one of their own."""
    if not predictor:
        return artifact.model_copy(update={"models": {"": model}})
    others = {name: pinned for name, pinned in artifact.models.items() if name != predictor}
    own = {} if others.get("") == model else {predictor: model}
    return artifact.model_copy(update={"models": {**others, **own}})


def with_modules(artifact: ModulesArtifact, modules: Mapping[str, ModuleSpec]) -> ModulesArtifact:
    """The program with these modules instead of its own, of the same names. A module of another
    type has a predictor of another name: a model that is pinned to it goes along."""
    after = artifact.model_copy(update={"modules": dict(modules)})
    renamed = dict(zip(predictor_names(artifact), predictor_names(after), strict=True))
    models = {renamed.get(name, name): model for name, model in artifact.models.items()}
    return after.model_copy(update={"models": models})


def predictor_names(artifact: Artifact) -> tuple[str, ...]:
    """The predictors that assignments can name, as DSPy's `named_predictors` gives them."""
    if isinstance(artifact, ImportArtifact):
        return tuple(artifact.predictor_configs)
    return tuple(
        f"{name}.predict" if module.type is ModuleType.CHAIN_OF_THOUGHT else name
        for name, module in artifact.modules.items()
    )
