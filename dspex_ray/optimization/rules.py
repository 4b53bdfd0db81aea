"""Decisions about problems, parameters and scores that need no model to be called."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from dspex_ray.core.errors import Invalid
from dspex_ray.optimization.model import Budget, Needs, ParameterInfo, Problem

P = TypeVar("P", bound="OptimizerParameters")


class OptimizerParameters(BaseModel):
    """Base of each optimizer's parameters: frozen, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def stored(self) -> dict[str, Any]:
        """As JSON values, by the names under which they can be given again."""
        return self.model_dump(mode="json", by_alias=True)


def checked_parameters(kind: type[P], optimizer: str, given: Mapping[str, Any]) -> P:
    """Raises Invalid naming the parameter and the rule it breaks; never quotes other values."""
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(["parameters", *(str(part) for part in wrong["loc"])])
    if wrong["type"] == "extra_forbidden":
        allowed = ", ".join(kind.model_fields) or "none"
        message = f"{optimizer} has no parameter {wrong['loc'][-1]!r} (it has: {allowed})"
        raise Invalid(message, field=where, rule="known parameter")
    raise Invalid(f"{optimizer}: {where}: {wrong['msg']}", field=where, rule=wrong["type"])


def described(kind: type[OptimizerParameters]) -> tuple[ParameterInfo, ...]:
    """The parameters as data, from their JSON schema."""
    schema = kind.model_json_schema()
    required = schema.get("required", ())
    definitions = schema.get("$defs", {})
    return tuple(
        _described(name, part, name in required, definitions)
        for name, part in schema.get("properties", {}).items()
    )


def check_problem(optimizer: str, needs: Needs, problem: Problem) -> None:
    """Raises Invalid, naming the field, for what would fail only after models were called."""
    _check_budget(problem.budget)
    for name, have, want in (
        ("train", len(problem.train), max(needs.train, 1)),
        ("dev", len(problem.dev), needs.dev),
    ):
        if have < want:
            raise Invalid(
                f"{optimizer} needs at least {want} {name} examples, not {have}",
                field=name,
                rule=f"at least {want}",
            )
    outputs = [output.name for output in problem.artifact.signature.outputs]
    if needs.labels and not any(_labelled(e.values, outputs) for e in problem.train):
        raise Invalid(
            f"{optimizer} needs train examples that hold {', '.join(outputs)}: none does",
            field="train",
            rule="expected outputs",
        )


def checked_score(metric: str, value: Any) -> float:
    """A metric's answer as a number from 0 to 1. Raises Invalid for anything else."""
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, int | float):
        raise Invalid(
            f"metric {metric!r} gave {type(value).__name__}, not a number",
            field="metric",
            rule="number",
        )
    if not math.isfinite(value):
        raise Invalid(f"metric {metric!r} gave {value}", field="metric", rule="finite")
    if not 0 <= value <= 1:
        raise Invalid(f"metric {metric!r} gave {value:g}", field="metric", rule="0 to 1")
    return float(value)


def metric_failed(metric: str, error: Exception) -> Invalid:
    """What a metric that raised is reported as: by type alone, since texts may quote content."""
    if isinstance(error, Invalid) and error.field == "metric":
        return error
    return Invalid(
        f"metric {metric!r} raised {type(error).__name__}", field="metric", rule="does not raise"
    )


def program_fails(runs: int, codes: Iterable[str]) -> Invalid:
    """A program of which no run succeeded: nothing can be learnt from it."""
    seen = ", ".join(sorted(set(codes)))
    return Invalid(
        f"the program failed in all of its {runs} runs ({seen})", field="program", rule="runs"
    )


def _check_budget(budget: Budget) -> None:
    for name in Budget.model_fields:
        if getattr(budget, name) == 0:
            raise Invalid(
                f"budget.{name} is 0: no call could be made (None is no limit)",
                field=f"budget.{name}",
                rule="above 0",
            )


def _labelled(values: Mapping[str, Any], outputs: Iterable[str]) -> bool:
    return any(values.get(name) is not None for name in outputs)


def _described(
    name: str, part: Mapping[str, Any], required: bool, definitions: Mapping[str, Any]
) -> ParameterInfo:
    variants = [_resolved(v, definitions) for v in part.get("anyOf", [part])]
    kinds = [v for v in variants if v.get("type") != "null"]
    first = kinds[0] if kinds else {}
    return ParameterInfo(
        name=name,
        type=" | ".join([*(_type_text(kind) for kind in kinds), *_null(variants)]),
        required=required,
        default=part.get("default"),
        description=part.get("description", ""),
        minimum=first.get("minimum"),
        maximum=first.get("maximum"),
        above=first.get("exclusiveMinimum"),
        choices=tuple(first.get("enum", ())),
    )


def _resolved(part: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = part.get("$ref")
    return definitions[reference.rsplit("/", 1)[-1]] if reference else part


def _type_text(part: Mapping[str, Any]) -> str:
    return str(part.get("type", "any"))


def _null(variants: Iterable[Mapping[str, Any]]) -> list[str]:
    return ["null"] if any(v.get("type") == "null" for v in variants) else []
