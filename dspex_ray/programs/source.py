"""A program as a person wrote it, resolved to an artifact: everything checked, nothing implied."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from dspex_ray.core.errors import Invalid
from dspex_ray.programs.artifacts import artifact_payload
from dspex_ray.programs.model import (
    Artifact,
    FieldSpec,
    GenerationConfig,
    ModulesArtifact,
    ModuleSpec,
    ModuleType,
    ProgramSource,
    SignatureSpec,
)
from dspex_ray.programs.rules import REASONING, levels, outputs_of, split_binding
from dspex_ray.programs.signature import (
    RESERVED_FIELDS,
    check_identifier,
    make_signature,
    signature_from,
)
from dspex_ray.programs.types import Misfit, coerce

MAIN = "main"  #: the name of the predictor of a program with one, unless its `name` says another

_MODULE_KEYS = ("type", "signature", "instructions", "config", "demos", "inputs")

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
    artifact_payload(artifact)  # what JSON or Postgres cannot hold is refused here
    return artifact


def _refuse(source: ProgramSource, names: tuple[str, ...], kind: str) -> None:
    for name in names:
        if getattr(source, name):
            raise Invalid(f"`{name}` has no meaning beside `{kind}`", field=name, rule="unused")


def _modules(source: ProgramSource) -> ModulesArtifact:
    modules = _named_modules(source)
    _check_bindings(modules)
    levels({name: module.inputs for name, module in modules.items()})
    outputs = source.outputs or _sink_outputs(modules)
    derived = _derived_signature(modules, outputs)
    signature = derived
    if source.signature is not None:
        with _within("signature"):
            signature = signature_from(source.signature)
        _check_covers(signature, derived)
    return ModulesArtifact(
        signature=signature, modules=modules, outputs=outputs, adapter=source.adapter
    )


def _named_modules(source: ProgramSource) -> dict[str, ModuleSpec]:
    if source.modules:
        found = {}
        for name, written in source.modules.items():
            _check_module_name(name)
            with _within(f"modules.{name}"):
                found[name] = _module(written)
        return found
    written = dict(source.module or {})
    name = written.pop("name", MAIN)
    _check_module_name(name)
    # The only module's signature may stand beside it: it is the program's as well.
    written.setdefault("signature", source.signature)
    with _within("module"):
        return {name: _module(written)}


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
    fields = {field.name: field for field in (*module.signature.inputs, *outputs_of(module))}
    checked = tuple(_demo(demo, fields, f"demos[{index}]") for index, demo in enumerate(demos))
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
    with _within("signature"):
        spec = signature_from(signature)
    if kind is ModuleType.CHAIN_OF_THOUGHT and REASONING.name in _names(spec):
        raise Invalid(
            "chain_of_thought adds the output `reasoning` itself",
            field="signature.reasoning",
            rule="unique",
        )
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


def _demo(demo: Any, fields: Mapping[str, FieldSpec], where: str) -> dict[str, Any]:
    """A demo may leave fields out, as DSPy's optimizers do, but not all of them."""
    if not isinstance(demo, Mapping) or not demo:
        raise Invalid(f"{where} must hold values by field", field=where, rule="type")
    checked = {}
    for name, value in demo.items():
        if name not in fields:
            allowed = ", ".join(fields)
            raise Invalid(
                f"{where} has an unknown field `{name}` (allowed: {allowed})",
                field=f"{where}.{name}",
                rule="unknown",
            )
        try:
            checked[name] = coerce(fields[name].type, value, optional=fields[name].optional)
        except Misfit as error:
            raise Invalid(
                f"Invalid value of `{name}` in {where}: {error} (its type is {fields[name].type})",
                field=f"{where}.{name}",
                rule=error.rule,
            ) from None
    return checked


def _check_bindings(modules: Mapping[str, ModuleSpec]) -> None:
    for name, module in modules.items():
        inputs = [field.name for field in module.signature.inputs]
        for field, binding in module.inputs.items():
            where = f"modules.{name}.inputs.{field}"
            if field not in inputs:
                raise Invalid(
                    f"Module `{name}` has no input `{field}` (allowed: {', '.join(inputs)})",
                    field=where,
                    rule="unknown field",
                )
            _source_field(modules, binding, where)


def _source_field(modules: Mapping[str, ModuleSpec], binding: Any, where: str) -> FieldSpec:
    """The output field that `module.field` names."""
    name, field = split_binding(str(binding))
    if name not in modules:
        raise Invalid(
            f"`{str(binding)[:100]}` names an unknown module `{name[:80]}` "
            f"(allowed: {', '.join(modules)})",
            field=where,
            rule="unknown module",
        )
    found = {output.name: output for output in outputs_of(modules[name])}
    if field not in found:
        raise Invalid(
            f"Module `{name}` has no output `{field[:80]}` (allowed: {', '.join(found)})",
            field=where,
            rule="unknown field",
        )
    return found[field]


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


def _derived_signature(
    modules: Mapping[str, ModuleSpec], outputs: Mapping[str, str]
) -> SignatureSpec:
    """Inputs: what the modules leave unbound, in order. Outputs: as mapped."""
    for name in outputs:
        check_identifier(name, RESERVED_FIELDS, kind="output", field=f"outputs.{name[:80]}")
    only = next(iter(modules.values()))
    instructions = only.signature.instructions if len(modules) == 1 else ""
    with _within("outputs"):
        produced = [
            _source_field(modules, binding, name).model_copy(update={"name": name})
            for name, binding in outputs.items()
        ]
    return make_signature(_unbound_inputs(modules), produced, instructions)


def _unbound_inputs(modules: Mapping[str, ModuleSpec]) -> list[FieldSpec]:
    found: dict[str, FieldSpec] = {}
    for name, module in modules.items():
        for field in module.signature.inputs:
            if field.name in module.inputs:
                continue
            before = found.setdefault(field.name, field)
            if before.type != field.type:
                raise Invalid(
                    f"Input `{field.name}` is {before.type} before and {field.type} in module "
                    f"`{name}`: bind one of them or make them equal",
                    field=f"modules.{name}.signature.{field.name}",
                    rule="one type",
                )
            if before.optional and not field.optional:
                found[field.name] = field
    if not found:
        raise Invalid("Every input is bound: the program has none", field="modules", rule="inputs")
    return list(found.values())


def _check_covers(signature: SignatureSpec, derived: SignatureSpec) -> None:
    """A given signature names exactly the inputs and outputs that the modules have."""
    for side in ("inputs", "outputs"):
        given = [field.name for field in getattr(signature, side)]
        wanted = [field.name for field in getattr(derived, side)]
        for name in [
            *(n for n in wanted if n not in given),
            *(n for n in given if n not in wanted),
        ]:
            reason = "is not in" if name in wanted else "is of no use to the modules but in"
            raise Invalid(
                f"`{name}` {reason} the signature's {side} (the modules have: {', '.join(wanted)})",
                field=f"signature.{name}",
                rule=side,
            )


def _names(spec: SignatureSpec) -> set[str]:
    return {field.name for field in (*spec.inputs, *spec.outputs)}


@contextmanager
def _within(prefix: str) -> Iterator[None]:
    """Errors from inside name their field from the program's root."""
    try:
        yield
    except Invalid as error:
        inside = [error.field] if error.field and error.field != prefix else []
        field = ".".join([prefix, *inside])
        raise Invalid(f"{prefix}: {error.message}", field=field, rule=error.rule) from None
