"""Whether examples fit a program's signature: every input, and the outputs that they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dspex_ray.datasets.rows import Fault
from dspex_ray.programs.model import FieldSpec, SignatureSpec
from dspex_ray.programs.types import Misfit, coerce


class Fit(NamedTuple):
    """A signature beside the fields of a dataset version. What a row needs is `inputs` and
    `outputs`; `absent_outputs` no row has."""

    inputs: tuple[FieldSpec, ...]
    outputs: tuple[FieldSpec, ...]
    absent_outputs: tuple[str, ...]
    unused: tuple[str, ...]

    def faults(self, values: Mapping[str, Any]) -> list[Fault]:
        """Everything that is wrong with one row; empty when it fits. Never says a value."""
        found = (_fault(field, values) for field in (*self.inputs, *self.outputs))
        return [fault for fault in found if fault is not None]


def fit(signature: SignatureSpec, fields: Iterable[str]) -> Fit:
    """`fields` are all that occur in the version."""
    held = tuple(fields)
    named = {field.name for field in (*signature.inputs, *signature.outputs)}
    return Fit(
        inputs=signature.inputs,
        outputs=tuple(field for field in signature.outputs if field.name in held),
        absent_outputs=tuple(f.name for f in signature.outputs if f.name not in held),
        unused=tuple(name for name in held if name not in named),
    )


def _fault(field: FieldSpec, values: Mapping[str, Any]) -> Fault | None:
    if field.name not in values:
        if field.optional or field.default is not None:
            return None
        return Fault(field.name, "required", "is missing")
    try:
        coerce(field.type, values[field.name], optional=field.optional)
    except Misfit as error:
        where = f"{field.name}{error.path}"
        return Fault(where, error.rule, f"does not fit its type {field.type}: {error}")
    return None
