"""A program as a person wrote it, resolved to an artifact: everything checked, nothing implied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from dspex_ray.core.errors import Invalid
from dspex_ray.core.noun import require_name
from dspex_ray.programs.artifacts import artifact_payload
from dspex_ray.programs.fitting import (
    check_bindings,
    check_covers,
    check_demos,
    check_reasoning,
    derived_signature,
    within,
)
from dspex_ray.programs.model import (
    Artifact,
    GenerationConfig,
    ModulesArtifact,
    ModuleSpec,
    ModuleType,
    ProgramSource,
    SignatureSpec,
)
from dspex_ray.programs.paths import predictors_by_owner
from dspex_ray.programs.rules import check_pins, levels, pin_field, split_binding, with_pin
from dspex_ray.programs.signature import check_identifier, make_signature, signature_from
from dspex_ray.programs.space import declared_space

MAIN = "main"  #: the name of the predictor of a program with one, unless its `name` says another

_MODULE_KEYS = ("type", "signature", "instructions", "config", "demos", "inputs", "model")

# What dspy.Module keeps for itself, modules being attributes; a test holds it to DSPy's own.
RESERVED_MODULES = frozenset(
    """
    acall aforward batch callbacks deepcopy dump_state forward get_lm history inspect_history lm
    load load_state map_named_predictors named_parameters named_predictors named_sub_modules
    parameters predictors reset_copy save self set_lm
    """.split()  # noqa: SIM905 - a list literal takes thirty lines
)


def resolve_source(source: ProgramSource, *, allowed_packages: Iterable[str]) -> Artifact:
    """The artifact of a source. Raises Invalid naming the field and the rule that it breaks.

    An import path outside `allowed_packages` is refused before anything is imported.
    """
    given = [name for name in ("module", "modules", "import_path") if getattr(source, name)]
    if len(given) != 1:
        raise Invalid(
            f"A program is one of module, modules or import_path, not {', '.join(given) or 'none'}",
            field=given[1] if given else "module",
            rule="exactly one",
        )
    artifact: Artifact
    if source.import_path:
        from dspex_ray.programs.imports import resolve_import  # brings DSPy, 2 s

        _refuse(source, ("outputs",), "import_path")
        artifact = resolve_import(source, allowed_packages=allowed_packages)
    else:
        _refuse(source, ("kwargs", "state"), given[0])
        artifact = _modules(source)
    artifact = _pinned(artifact, source)
    space = declared_space(artifact, source.variables, source.constraints)
    artifact = artifact.model_copy(update={"space": space})
    artifact_payload(artifact)  # what JSON or Postgres cannot hold is refused here
    return artifact


def named_models(source: ProgramSource) -> set[str]:
    """The registered models that a source names. Raises Invalid for what cannot be a name."""
    return {*source.models.values(), *_own_models(source).values()}


def _refuse(source: ProgramSource, names: tuple[str, ...], kind: str) -> None:
    for name in names:
        if getattr(source, name):
            raise Invalid(f"`{name}` has no meaning beside `{kind}`", field=name, rule="unused")


def _modules(source: ProgramSource) -> ModulesArtifact:
    modules = _named_modules(source)
    check_bindings(modules)
    levels({name: module.inputs for name, module in modules.items()})
    outputs = source.outputs or _sink_outputs(modules)
    derived = derived_signature(modules, outputs)
    signature = derived
    if source.signature is not None:
        with within("signature"):
            signature = signature_from(source.signature)
        check_covers(signature, derived)
    return ModulesArtifact(
        signature=signature, modules=modules, outputs=outputs, adapter=source.adapter
    )


def _named_modules(source: ProgramSource) -> dict[str, ModuleSpec]:
    if source.modules:
        found = {}
        for name, written in source.modules.items():
            _check_module_name(name)
            with within(f"modules.{name}"):
                found[name] = _module(written)
        return found
    written = dict(source.module or {})
    name = written.pop("name", MAIN)
    _check_module_name(name)
    # The only module's signature may stand beside it: it is the program's as well.
    written.setdefault("signature", source.signature)
    with within("module"):
        return {name: _module(written)}


def _pinned(artifact: Artifact, source: ProgramSource) -> Artifact:
    """With the models that `models` names by module or predictor, and modules by their `model`."""
    predictors = predictors_by_owner(artifact)
    seen: set[str] = set()
    for name, model in sorted([*source.models.items(), *_own_models(source).items()]):
        predictor = predictors.get(name, name)
        if predictor in seen:
            field = pin_field(name)
            raise Invalid(f"{field} is said twice", field=field, rule="unique")
        seen.add(predictor)
        artifact = with_pin(artifact, predictor, model)  # "" comes first
    check_pins(artifact)
    return artifact


def _own_models(source: ProgramSource) -> dict[str, str]:
    """By module. Raises Invalid for what cannot be a model's name."""
    modules = source.modules or {}
    if source.module:
        modules = {str(source.module.get("name", MAIN)): source.module}
    found: dict[str, str] = {}
    for name, written in modules.items():
        if written.get("model") is None:
            continue
        field = f"modules.{name}.model" if source.modules else "module.model"
        found[name] = require_name(str(written["model"]), field)
    return found


def _check_module_name(name: Any) -> None:
    check_identifier(name, RESERVED_MODULES, kind="module", field="modules")


def _module(written: Mapping[str, Any]) -> ModuleSpec:
    unknown = sorted(str(key) for key in written if key not in _MODULE_KEYS)
    if unknown:
        raise Invalid(
            f"Unknown key `{unknown[0]}` of a module (allowed: {', '.join(_MODULE_KEYS)})",
            field=unknown[0],
            rule="unknown key",
        )
    kind = _module_type(written.get("type", ModuleType.PREDICT))
    module = ModuleSpec(
        type=kind,
        signature=_module_signature(written, kind),
        config=_config(written.get("config") or {}),
        inputs=_bindings(written.get("inputs") or {}),
    )
    demos = written.get("demos") or []
    if not isinstance(demos, list | tuple):
        raise Invalid("demos must be a list", field="demos", rule="type")
    checked = check_demos(module.model_copy(update={"demos": tuple(demos)}))
    return module.model_copy(update={"demos": checked})


def _module_type(text: Any) -> ModuleType:
    try:
        return ModuleType(text)
    except ValueError:
        allowed = ", ".join(ModuleType)
        raise Invalid(
            f"Unknown module type: `{str(text)[:80]}` (allowed: {allowed})",
            field="type",
            rule="module type",
        ) from None


def _module_signature(written: Mapping[str, Any], kind: ModuleType) -> SignatureSpec:
    signature = written.get("signature")
    if not isinstance(signature, str | dict | SignatureSpec):
        raise Invalid(
            "A module needs a signature, as text or as field lists",
            field="signature",
            rule="required",
        )
    with within("signature"):
        spec = signature_from(signature)
    check_reasoning(kind, spec)
    instructions = written.get("instructions")
    if instructions is None:
        return spec
    if spec.instructions:
        raise Invalid("instructions stand twice", field="instructions", rule="unique")
    return make_signature(spec.inputs, spec.outputs, instructions)


def _config(written: Any) -> GenerationConfig:
    try:
        return GenerationConfig.model_validate(written)
    except ValidationError as error:
        wrong = error.errors(include_input=False)[0]
        where = ".".join(["config", *(str(part) for part in wrong["loc"])])
        raise Invalid(f"Invalid {where}: {wrong['msg']}", field=where, rule=wrong["type"]) from None


def _bindings(written: Any) -> dict[str, str]:
    if not isinstance(written, Mapping) or not all(
        isinstance(part, str) for pair in written.items() for part in pair
    ):
        raise Invalid("inputs must map fields to `module.field`", field="inputs", rule="type")
    return dict(written)


def _sink_outputs(modules: Mapping[str, ModuleSpec]) -> dict[str, str]:
    """The outputs of the modules that feed no other."""
    feeding = {
        split_binding(binding)[0]
        for module in modules.values()
        for binding in module.inputs.values()
    }
    outputs: dict[str, str] = {}
    for name, module in modules.items():
        for field in () if name in feeding else module.signature.outputs:
            if field.name in outputs:
                raise Invalid(
                    f"Output `{field.name}` comes from `{outputs[field.name]}` and from "
                    f"`{name}.{field.name}`: say which in `outputs`",
                    field="outputs",
                    rule="ambiguous",
                )
            outputs[field.name] = f"{name}.{field.name}"
    return outputs
