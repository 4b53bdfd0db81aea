"""Conditions on a configuration, as data: comparisons, sums, and, or, not, implication.

Three-valued (Kleene): True, False, or None for "cannot be told", which is what a comparison with
a variable that is inactive or not yet chosen gives. A variable is active where its condition is
True; a constraint is broken where it is False. So what is False of a part of a configuration is
False of the whole, and a search may stop there.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from dspex_ray.core.noun import Noun

Finite = Annotated[float, Field(allow_inf_nan=False)]
Scalar = bool | int | Finite | str | None

VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.\[\]'-]{0,199}$")]

_SUM_SLACK = 1e-9  # 0.1 + 0.2 is 0.3


class Inactive(Enum):
    """What stands for a variable that its conditions switch off."""

    INACTIVE = "inactive"


INACTIVE: Final = Inactive.INACTIVE
Values = Mapping[str, Scalar | Inactive]  #: by path; what is not decided yet is absent

_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class _Rule(Noun):
    """What every condition can be asked. The classes below are the closed set `Condition`."""

    def holds(self, values: Values) -> bool | None:
        """True, False, or None when the values do not tell."""
        raise NotImplementedError

    def mentions(self) -> Iterator[str]:
        """The variables that it looks at, some maybe more than once."""
        return (name for part in self.parts for name in part.mentions())

    def needs_numbers(self) -> Iterator[str]:
        """Of these, the ones that are added up or put in order."""
        return (name for part in self.parts for name in part.needs_numbers())

    @property
    def parts(self) -> tuple[Condition, ...]:
        return ()

    @property
    def depth(self) -> int:
        return 1 + max((part.depth for part in self.parts), default=0)

    @property
    def text(self) -> str:
        """As a person would write it: `if temperature > 1.5 then top_p >= 0.3`."""
        raise NotImplementedError


class Compare(_Rule):
    """A variable against `value` (a list for `in`, `not in`), or against the variable `other`."""

    kind: Literal["compare"] = "compare"
    variable: VariableName
    op: Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in"]
    value: Scalar | tuple[Scalar, ...] = None
    other: VariableName | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        several, listed = self.op in ("in", "not in"), isinstance(self.value, tuple)
        if self.other is not None and (several or self.value is not None):
            raise ValueError(f"`{self.op}` takes `value` or `other`, not both, and no list of them")
        if self.other is None and several != listed:
            raise ValueError(f"`{self.op}` takes {'a list' if several else 'one value'}")
        number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if self.op in _ORDERS and self.other is None and not number:
            raise ValueError(f"`{self.op}` takes a number")
        return self

    def holds(self, values: Values) -> bool | None:
        left = values.get(self.variable, INACTIVE)
        right = self.value if self.other is None else values.get(self.other, INACTIVE)
        if left is INACTIVE or right is INACTIVE:
            return None
        if self.op in _ORDERS:
            return _ORDERS[self.op](left, right)
        options = right if isinstance(right, tuple) else (right,)
        return any(same(left, option) for option in options) == (self.op in ("==", "in"))

    def mentions(self) -> Iterator[str]:
        yield self.variable
        if self.other is not None:
            yield self.other

    def needs_numbers(self) -> Iterator[str]:
        return self.mentions() if self.op in _ORDERS else iter(())

    @property
    def text(self) -> str:
        if self.other is not None:
            right = self.other
        elif isinstance(self.value, tuple):
            right = f"[{', '.join(map(repr, self.value))}]"
        else:
            right = repr(self.value)
        return f"{self.variable} {self.op} {right}"


class Active(_Rule):
    """A variable is there at all. Always True or False, once that is decided."""

    kind: Literal["active"] = "active"
    variable: VariableName

    def holds(self, values: Values) -> bool | None:
        return None if self.variable not in values else values[self.variable] is not INACTIVE

    def mentions(self) -> Iterator[str]:
        yield self.variable

    @property
    def text(self) -> str:
        return f"{self.variable} is active"


class Sum(_Rule):
    """The sum of coefficient times variable against `value`; one that is inactive counts 0."""

    kind: Literal["sum"] = "sum"
    terms: dict[VariableName, Finite] = Field(min_length=1)
    op: Literal["==", "<", "<=", ">", ">="]
    value: Finite

    def holds(self, values: Values) -> bool | None:
        total = 0.0
        for name, factor in self.terms.items():
            if name not in values:
                return None
            value = values[name]
            if isinstance(value, int | float):
                total += factor * value
        if math.isclose(total, self.value, rel_tol=_SUM_SLACK, abs_tol=_SUM_SLACK):
            return self.op in ("==", "<=", ">=")
        return self.op != "==" and _ORDERS[self.op](total, self.value)

    def mentions(self) -> Iterator[str]:
        return iter(self.terms)

    def needs_numbers(self) -> Iterator[str]:
        return iter(self.terms)

    @property
    def text(self) -> str:
        terms = (
            name if factor == 1 else f"{factor:g} * {name}" for name, factor in self.terms.items()
        )
        return f"{' + '.join(terms)} {self.op} {self.value:g}"


class AllOf(_Rule):
    kind: Literal["all"] = "all"
    of: tuple[Condition, ...] = Field(min_length=1)

    def holds(self, values: Values) -> bool | None:
        return _all(part.holds(values) for part in self.of)

    @property
    def parts(self) -> tuple[Condition, ...]:
        return self.of

    @property
    def text(self) -> str:
        return _joined(" and ", self.of)


class AnyOf(_Rule):
    kind: Literal["any"] = "any"
    of: tuple[Condition, ...] = Field(min_length=1)

    def holds(self, values: Values) -> bool | None:
        return _not(_all(_not(part.holds(values)) for part in self.of))

    @property
    def parts(self) -> tuple[Condition, ...]:
        return self.of

    @property
    def text(self) -> str:
        return _joined(" or ", self.of)


class Not(_Rule):
    kind: Literal["not"] = "not"
    of: Condition

    def holds(self, values: Values) -> bool | None:
        return _not(self.of.holds(values))

    @property
    def parts(self) -> tuple[Condition, ...]:
        return (self.of,)

    @property
    def text(self) -> str:
        return f"not ({self.of.text})"


class Implies(_Rule):
    """Where `when` holds, `then` must."""

    kind: Literal["implies"] = "implies"
    when: Condition
    then: Condition

    def holds(self, values: Values) -> bool | None:
        return _not(_all((self.when.holds(values), _not(self.then.holds(values)))))

    @property
    def parts(self) -> tuple[Condition, ...]:
        return (self.when, self.then)

    @property
    def text(self) -> str:
        return f"if {self.when.text} then {self.then.text}"


def _kind(value: Any) -> str | None:
    """A condition that does not say its kind is a comparison."""
    kind = value.get("kind", "compare") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if isinstance(kind, str) else None


Condition = Annotated[
    Annotated[Compare, Tag("compare")]
    | Annotated[Active, Tag("active")]
    | Annotated[Sum, Tag("sum")]
    | Annotated[AllOf, Tag("all")]
    | Annotated[AnyOf, Tag("any")]
    | Annotated[Not, Tag("not")]
    | Annotated[Implies, Tag("implies")],
    Discriminator(_kind),
]

for _noun in (AllOf, AnyOf, Not, Implies):
    _noun.model_rebuild()


def same(left: object, right: object) -> bool:
    """Equal as JSON has it: 1 is 1.0, and neither is true."""
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _all(parts: Iterable[bool | None]) -> bool | None:
    found: bool | None = True
    for part in parts:
        if part is False:
            return False
        if part is None:
            found = None
    return found


def _not(part: bool | None) -> bool | None:
    return None if part is None else not part


def _joined(word: str, parts: tuple[Condition, ...]) -> str:
    return parts[0].text if len(parts) == 1 else word.join(f"({part.text})" for part in parts)
