"""Variables in one line each: as a file has them, or made by `variable(...)`, to a Space.

temperature:                                  # the usual range
adapter: [chat, json]                         # one of these
draft.max_tokens: {integer: [50, 400]}        # a range: float or integer
draft.temperature: {float: [0, 1], default: 0.2, when: {variable: adapter, op: ==, value: chat}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from dspex_ray.core.errors import Invalid
from dspex_ray.variables.conditions import Condition, Scalar
from dspex_ray.variables.domains import Domain
from dspex_ray.variables.ml import standard
from dspex_ray.variables.model import Constraint, Space, Variable

_VARIABLE: TypeAdapter[Variable] = TypeAdapter(Variable)
_DOMAIN: TypeAdapter[Domain] = TypeAdapter(Domain)
_CONDITION: TypeAdapter[Condition] = TypeAdapter(Condition)
_CONSTRAINTS: TypeAdapter[tuple[Constraint, ...]] = TypeAdapter(tuple[Constraint, ...])
_MODULES = ("module", "adapter")  #: whose lists are implementations


def variable(kind: str, *values: Scalar, **options: Any) -> Domain:
    """`variable("float", 0, 2, default=0.7)`, `variable("integer", 1, 8)`,
    `variable("choice", "a", "b")`, `variable("module", "predict", "chain_of_thought")`.

    Raises Invalid naming the option.
    """
    with _asked(kind):
        if kind in ("choice", "module"):
            return _DOMAIN.validate_python({"kind": kind, "choices": values, **options})
        if kind in ("float", "integer") and len(values) == 2:
            low, high = values
            return _DOMAIN.validate_python({"kind": kind, "low": low, "high": high, **options})
    raise Invalid(
        f"variable({kind!r}, ...) is none (there are: float and integer with low and high, "
        "choice and module with their choices)",
        field="variable",
        rule="kind",
    )


def declared(variables: Mapping[str, Any], constraints: Sequence[Any] = ()) -> Space:
    """The space of variables as they are written. Raises Invalid naming variable and rule."""
    found: dict[str, Variable] = {}
    dependencies: dict[str, Condition] = {}
    for name, written in variables.items():
        with _asked(f"variables.{name}"):
            when = written.get("when") if isinstance(written, Mapping) else None
            found[name] = _variable(name, written)
            if when is not None:
                dependencies[name] = _CONDITION.validate_python(_plain(when))
    with _asked("constraints"):
        rules = _CONSTRAINTS.validate_python([_plain(rule) for rule in constraints])
    with _asked("variables"):
        return Space(variables=found, dependencies=dependencies, constraints=rules)


def load_space(payload: Any) -> Space:
    """A space from its JSON form. Raises Invalid naming the field."""
    with _asked("space"):
        return Space.model_validate(payload)


def _variable(name: str, written: Any) -> Variable:
    if isinstance(written, BaseModel):
        written = _plain(written)
    if written is None:
        return standard(name)
    if isinstance(written, list | tuple):
        kind = "module" if name.rpartition(".")[2] in _MODULES else "choice"
        return _VARIABLE.validate_python({"kind": kind, "choices": written})
    if not isinstance(written, Mapping):
        raise Invalid(
            "a variable is a list of choices, a mapping, or empty for the usual range",
            field=f"variables.{name}",
            rule="type",
        )
    fields = {field: value for field, value in written.items() if field != "when"}
    return _VARIABLE.validate_python(_opened(name, fields))


def _opened(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """`float: [0, 2]` as kind, low and high; `choice: [...]` and `module: [...]` likewise."""
    kinds = [kind for kind in ("float", "integer", "choice", "module") if kind in fields]
    if not kinds or "kind" in fields:
        return fields
    kind = kinds[0]
    values = fields.pop(kind)
    if kind in ("choice", "module"):
        return {"kind": kind, "choices": values, **fields}
    if not isinstance(values, list | tuple) or len(values) != 2:
        raise Invalid(f"{kind} takes [low, high]", field=f"variables.{name}.{kind}", rule="range")
    return {"kind": kind, "low": values[0], "high": values[1], **fields}


def _plain(written: Any) -> Any:
    return written.model_dump(by_alias=True) if isinstance(written, BaseModel) else written


@contextmanager
def _asked(where: str) -> Iterator[None]:
    """Faults of pydantic as Invalid, with the place and the rule."""
    try:
        yield
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        inside = [str(part) for part in wrong["loc"]]
        own = wrong.get("ctx", {}).get("variable")
        field = ".".join([where, *inside, *([str(own)] if own else [])])
        raise Invalid(f"{field}: {wrong['msg']}", field=field, rule=wrong["type"]) from None
