"""Whether the modules of a program fit together: their bindings, fields, outputs and demos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dspex_ray.core.errors import Invalid
from dspex_ray.programs.model import (
    FieldSpec,
    ModulesArtifact,
    ModuleSpec,
    ModuleType,
    SignatureSpec,
)
from dspex_ray.programs.rules import REASONING, levels, outputs_of, split_binding
from dspex_ray.programs.signature import RESERVED_FIELDS, check_identifier, make_signature
from dspex_ray.programs.types import Misfit, coerce


def check_modules(artifact: ModulesArtifact) -> None:
    """Raises Invalid naming the field: of an artifact that was changed, all that is checked of a
    source."""
    for name, module in artifact.modules.items():
        with within(f"modules.{name}"):
            check_reasoning(module.type, module.signature)
            check_demos(module)
    check_bindings(artifact.modules)
    levels({name: module.inputs for name, module in artifact.modules.items()})
    check_covers(artifact.signature, derived_signature(artifact.modules, artifact.outputs))


def check_reasoning(kind: ModuleType, spec: SignatureSpec) -> None:
    names = {field.name for field in (*spec.inputs, *spec.outputs)}
    if kind is ModuleType.CHAIN_OF_THOUGHT and REASONING.name in names:
        raise Invalid(
            "chain_of_thought adds the output `reasoning` itself",
            field="signature.reasoning",
            rule="unique",
        )


def check_demos(module: ModuleSpec) -> tuple[dict[str, Any], ...]:
    """The demos with their values as the fields' types want them."""
    fields = {field.name: field for field in (*module.signature.inputs, *outputs_of(module))}
    return tuple(_demo(demo, fields, f"demos[{k}]") for k, demo in enumerate(module.demos))


def check_bindings(modules: Mapping[str, ModuleSpec]) -> None:
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
            source_field(modules, binding, where)


def source_field(modules: Mapping[str, ModuleSpec], binding: Any, where: str) -> FieldSpec:
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


def derived_signature(
    modules: Mapping[str, ModuleSpec], outputs: Mapping[str, str]
) -> SignatureSpec:
    """Inputs: what the modules leave unbound, in order. Outputs: as mapped."""
    for name in outputs:
        check_identifier(name, RESERVED_FIELDS, kind="output", field=f"outputs.{name[:80]}")
    only = next(iter(modules.values()))
    instructions = only.signature.instructions if len(modules) == 1 else ""
    with within("outputs"):
        produced = [
            source_field(modules, binding, name).model_copy(update={"name": name})
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


def check_covers(signature: SignatureSpec, derived: SignatureSpec) -> None:
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


@contextmanager
def within(prefix: str) -> Iterator[None]:
    """Errors from inside name their field from the program's root."""
    try:
        yield
    except Invalid as error:
        inside = [error.field] if error.field and error.field != prefix else []
        field = ".".join([prefix, *inside])
        raise Invalid(f"{prefix}: {error.message}", field=field, rule=error.rule) from None


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
