"""A space of configurations: variables, when they are active, what must hold among them.

A configuration is flat: values by path. A part of a composite has the path `composite.part`; an
inactive variable is absent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from dspex_ray.core.canonical import canonical_json, content_hash
from dspex_ray.core.noun import Name, Noun
from dspex_ray.variables.conditions import (
    Condition,
    Scalar,
    VariableName,
)
from dspex_ray.variables.domains import (
    ChoiceVariable,
    Domain,
    FloatVariable,
    Hints,
    IntegerVariable,
    ModuleVariable,
)

SPACE_SCHEMA = 1
MAX_VARIABLES = 1000
MAX_DEPTH = 32  #: of conditions in conditions

Configuration = dict[str, Scalar]


class Case(NamedTuple):
    """One branch of a conditional variable; `number` is None for the last resort."""

    number: int | None
    when: Condition | None
    domain: Domain


class Branch(Noun):
    """Where `when` holds, the variable is `then`."""

    when: Condition
    then: Domain


class ConditionalVariable(Noun):
    """Another domain under another condition: the first case that holds counts.

    Where none does it is `otherwise`; without that it is inactive.
    """

    kind: Literal["conditional"] = "conditional"
    description: str = ""
    hints: Hints = Hints()
    cases: tuple[Branch, ...] = Field(min_length=1, max_length=100)
    otherwise: Domain | None = None

    def branches(self) -> list[Case]:
        found = [Case(k, case.when, case.then) for k, case in enumerate(self.cases)]
        if self.otherwise is not None:
            found.append(Case(None, None, self.otherwise))
        return found


class CompositeVariable(Noun):
    """Variables that belong together; a dependency of the composite switches all of them."""

    kind: Literal["composite"] = "composite"
    description: str = ""
    hints: Hints = Hints()
    parts: dict[VariableName, Variable] = Field(min_length=1)


def _kinded(value: Any) -> Any:
    """A variable that does not say its kind is told by its fields, if they can tell it."""
    if not isinstance(value, dict) or "kind" in value:
        return value
    telling = {"choices": "choice", "parts": "composite", "cases": "conditional"}
    kind = next((kind for field, kind in telling.items() if field in value), None)
    return value if kind is None else {**value, "kind": kind}


Variable = Annotated[
    FloatVariable
    | IntegerVariable
    | ChoiceVariable
    | ModuleVariable
    | CompositeVariable
    | ConditionalVariable,
    Field(discriminator="kind"),
    BeforeValidator(_kinded),
]

CompositeVariable.model_rebuild()


class Constraint(Noun):
    """What must hold among variables. One that is about an inactive variable cannot be told, and
    is not broken."""

    name: Name
    rule: Condition
    message: str = ""

    @property
    def text(self) -> str:
        return self.message or self.rule.text


class Leaf(NamedTuple):
    """A variable that has a value of its own, and all conditions under which it is active."""

    path: str
    variable: (
        FloatVariable | IntegerVariable | ChoiceVariable | ModuleVariable | ConditionalVariable
    )
    when: tuple[Condition, ...]

    def branches(self) -> list[Case]:
        if isinstance(self.variable, ConditionalVariable):
            return self.variable.branches()
        return [Case(None, None, self.variable)]

    def needs(self) -> set[str]:
        """The variables that must be decided before this one."""
        cases = [case.when for case in self.branches() if case.when is not None]
        return {name for condition in (*self.when, *cases) for name in condition.mentions()}


class Space(Noun):
    """`dependencies` are by variable or composite: active only where the condition holds.

    `metadata` and `optimization_config` travel with it and mean nothing to it.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    name: Name = "space"
    variables: dict[VariableName, Variable] = Field(default_factory=dict)
    dependencies: dict[VariableName, Condition] = Field(default_factory=dict)
    constraints: tuple[Constraint, ...] = Field(default=(), max_length=1000)
    metadata: dict[str, Any] = Field(default_factory=dict)
    optimization_config: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        leaves = list(_flat(self))
        _check_paths(self, leaves)
        known = {leaf.path: leaf for leaf in leaves}
        for leaf in leaves:
            for condition in (*leaf.when, *(case.when for case in leaf.branches())):
                if condition is not None:
                    _check_condition(condition, known, leaf.path, "dependency")
        for constraint in self.constraints:
            _check_condition(constraint.rule, known, constraint.name, "constraint")
        _ordered(leaves)
        _check_json(self)
        return self

    def leaves(self) -> list[Leaf]:
        """Every variable with a value of its own, after those that it depends on; otherwise by
        name, so that equal spaces are searched in the same order."""
        return _ordered(list(_flat(self)))

    @property
    def hash(self) -> str:
        """64 hex digits, the same for every space of equal content."""
        return content_hash(self.model_dump(by_alias=True))

    def with_variable(self, name: str, variable: Variable, when: Condition | None = None) -> Space:
        """With one variable more, or another one in its place."""
        given = self.model_dump(by_alias=True)
        given["variables"][name] = variable
        if when is not None:
            given["dependencies"][name] = when
        return Space.model_validate(given)


class Difficulty(StrEnum):
    """By the number of variables: up to 3, up to 8, up to 15, more."""

    EASY = "easy"
    MEDIUM = "medium"
    HARD = "hard"
    EXTREME = "extreme"


class Figures(Noun):
    """`size` counts configurations; it is None when there is no end of them or over 10^18.

    `discrete_size` is the product over the variables that are no floats, constraints and
    conditions left out.
    """

    variable_count: int
    dimensions: int
    continuous_dimensions: int
    discrete_size: int | None
    size: int | None
    size_is: Literal["exact", "at_most", "over_1e18", "infinite"]
    complexity_score: float
    optimization_difficulty: Difficulty


class Fault(Noun):
    """What is wrong with a configuration: at which variable, or by which constraint."""

    field: str
    rule: str
    message: str


class Verdict(Noun):
    valid: bool
    faults: tuple[Fault, ...] = ()


class SamplingMethod(StrEnum):
    RANDOM = "random"
    GRID = "grid"
    LATIN_HYPERCUBE = "latin_hypercube"
    SOBOL = "sobol"


class SampleAsk(Noun):
    """`n` is how many; of a grid, how many at most. `levels`: values of each float in a grid."""

    method: SamplingMethod = SamplingMethod.RANDOM
    n: int = Field(default=10, ge=1, le=1000)
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    levels: int = Field(default=5, ge=1, le=100)


class Samples(Noun):
    method: SamplingMethod
    seed: int
    configurations: tuple[Configuration, ...]


class ConfigurationAsk(Noun):
    configuration: Configuration


def _flat(space: Space) -> Iterator[Leaf]:
    """Leaves as they are written, composites opened."""

    def opened(
        variables: Mapping[str, Variable], prefix: str, when: tuple[Condition, ...]
    ) -> Iterator[Leaf]:
        for name, variable in variables.items():
            path = prefix + name
            own = space.dependencies.get(path)
            active = when if own is None else (*when, own)
            if isinstance(variable, CompositeVariable):
                yield from opened(variable.parts, f"{path}.", active)
            else:
                yield Leaf(path, variable, active)

    return opened(space.variables, "", ())


def _groups(variables: Mapping[str, Variable], prefix: str = "") -> Iterator[str]:
    """The paths of composites."""
    for name, variable in variables.items():
        if isinstance(variable, CompositeVariable):
            yield prefix + name
            yield from _groups(variable.parts, f"{prefix}{name}.")


def _check_paths(space: Space, leaves: list[Leaf]) -> None:
    if len(leaves) > MAX_VARIABLES:
        raise _wrong("count", "variables", f"{len(leaves)} variables, over {MAX_VARIABLES}")
    paths = [*_groups(space.variables), *(leaf.path for leaf in leaves)]
    for path, again in zip(sorted(paths), sorted(paths)[1:], strict=False):
        if path == again:
            raise _wrong("unique", path, f"variable {path!r} stands twice")
    for name in space.dependencies:
        if name not in paths:
            raise _unknown(name, name, "dependency", leaves)
    names = Counter(constraint.name for constraint in space.constraints)
    for name, times in names.items():
        if times > 1:
            raise _wrong("unique", name, f"constraint {name!r} stands twice")


def _check_condition(
    condition: Condition, known: Mapping[str, Leaf], owner: str, what: str
) -> None:
    if condition.depth > MAX_DEPTH:
        raise _wrong("depth", owner, f"{what} of {owner!r} is nested deeper than {MAX_DEPTH}")
    for name in condition.mentions():
        if name not in known:
            raise _unknown(name, owner, what, known.values())
    for name in condition.needs_numbers():
        if not all(case.domain.numeric for case in known[name].branches()):
            text = f"{what} of {owner!r} puts {name!r} in order, whose values are no numbers"
            raise _wrong("type", name, text)


def _ordered(leaves: list[Leaf]) -> list[Leaf]:
    by_path = {leaf.path: leaf for leaf in leaves}
    sorter = TopologicalSorter({leaf.path: sorted(leaf.needs()) for leaf in leaves})
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = error.args[1]
        text = f"variables depend on each other: {' -> '.join(cycle)}"
        raise _wrong("cycle", cycle[0], text) from None
    found = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        found += [by_path[path] for path in ready]
        sorter.done(*ready)
    return found


def _check_json(space: Space) -> None:
    try:
        canonical_json(space.model_dump(by_alias=True))
    except (TypeError, ValueError):  # NaN and lone surrogates
        raise _wrong("json", "space", "the space holds what JSON has no form for") from None


def _unknown(name: str, owner: str, what: str, leaves: Iterable[Leaf]) -> PydanticCustomError:
    known = ", ".join(sorted(leaf.path for leaf in leaves)[:20]) or "none"
    text = f"{what} of {owner!r} names the unknown variable {name!r} (there are: {known})"
    return _wrong("unknown", name, text)


def _wrong(rule: str, variable: str, message: str) -> PydanticCustomError:
    return PydanticCustomError(rule, "{text}", {"text": message, "variable": variable})
