"""Values against a signature: inputs before any model is called, outputs after."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from dspex_ray.core.errors import Invalid, OutputInvalid
from dspex_ray.programs.model import FieldSpec, SignatureSpec
from dspex_ray.programs.types import Misfit, coerce


def validate_inputs(spec: SignatureSpec, values: Any) -> dict[str, Any]:
    """Every input of the signature, in its order, as plain JSON values of its type.

    Absent ones take their default; absent optional ones are None. Raises Invalid naming `field`
    and `rule` ("unknown", "required", or pydantic's name of the rule).
    """
    if not isinstance(values, Mapping):
        raise Invalid("Inputs must be an object of values by field", field="inputs", rule="type")
    names = [field.name for field in spec.inputs]
    unknown = [name for name in values if name not in names]
    if unknown:
        shown = [_named(name) for name in unknown[:5]]
        raise Invalid(
            f"Unknown inputs: {', '.join(shown)} (allowed: {', '.join(names)})",
            field=shown[0],
            rule="unknown",
        )
    missing = _missing(spec.inputs, values)
    if missing:
        raise Invalid(
            f"Missing required inputs: {', '.join(missing)}", field=missing[0], rule="required"
        )
    checked = {}
    for field in spec.inputs:
        try:
            checked[field.name] = _checked(field, values)
        except Misfit as error:
            where = f"{field.name}{error.path}"
            raise Invalid(
                f"Invalid input `{where}`: {error} (its type is {field.type})",
                field=where,
                rule=error.rule,
            ) from None
    return checked


def validate_outputs(spec: SignatureSpec, values: Mapping[str, Any]) -> dict[str, Any]:
    """Every output of the signature as plain JSON values; what it does not name is dropped.

    A program may well return more than it promises (its reasoning). Raises OutputInvalid with
    the details `field` and `rule`, never with content.
    """
    missing = _missing(spec.outputs, values)
    if missing:
        raise OutputInvalid(
            f"Missing outputs: {', '.join(missing)}", field=missing[0], rule="required"
        )
    checked = {}
    for field in spec.outputs:
        try:
            checked[field.name] = _checked(field, values)
        except Misfit as error:
            where = f"{field.name}{error.path}"
            raise OutputInvalid(
                f"Invalid output `{where}`: {error} (its type is {field.type})",
                field=where,
                rule=error.rule,
            ) from None
    return checked


def _named(name: Any) -> str:
    """A field's name as it is; anything else may be content, which messages never carry."""
    return name if isinstance(name, str) and name.isidentifier() else "(not a field's name)"


def _missing(fields: Iterable[FieldSpec], values: Mapping[str, Any]) -> list[str]:
    return [
        field.name
        for field in fields
        if field.name not in values and field.default is None and not field.optional
    ]


def _checked(field: FieldSpec, values: Mapping[str, Any]) -> Any:
    if field.name in values:
        return coerce(field.type, values[field.name], optional=field.optional)
    return copy.deepcopy(field.default)
