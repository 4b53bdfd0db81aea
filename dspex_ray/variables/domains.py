"""What one variable can be: floats, integers, choices and modules, and the arithmetic on them.

`at` takes a number of the unit interval to a value, so that every design of points in the unit
cube (random, latin hypercube, Sobol) samples every kind of variable.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from dspex_ray.core.noun import Noun
from dspex_ray.variables.conditions import Finite, Scalar, same

Impact = Literal["low", "medium", "high"]
Integer = Annotated[int, Field(strict=True, ge=-(2**53), le=2**53)]

WHOLE_RANGE = 64  #: a range of more values than this is not tried one by one in a grid

_STEP_SLACK = 1e-6  # of a step: how far from the grid a float may lie and still be on it


class Hints(Noun):
    """What a smarter optimizer may know beforehand. Weights are relative, by choice."""

    optimization_priority: str | None = None
    compatibility_aware: bool = False  #: not every value goes with every other variable's
    model_compatibility: bool = False  #: which value is best depends on the model
    performance_impact: Impact | None = None
    accuracy_impact: Impact | None = None
    cost_impact: Impact | None = None
    cost_weights: dict[str, Finite] = Field(default_factory=dict)
    performance_weights: dict[str, Finite] = Field(default_factory=dict)
    complexity: dict[str, int] = Field(default_factory=dict)
    token_multipliers: dict[str, Finite] = Field(default_factory=dict)

    def named_choices(self) -> set[str]:
        return set(
            chain(
                self.cost_weights, self.performance_weights, self.complexity, self.token_multipliers
            )
        )


class _Described(Noun):
    description: str = ""
    hints: Hints = Hints()


class _Counted(_Described):
    """What every domain has beside its values."""

    @property
    def count(self) -> int | None:
        """How many values there are; None when there is no end of them."""
        raise NotImplementedError

    def whole(self, levels: int) -> bool:
        """Whether `values(levels)` are all there are."""
        return self.count is not None and self.count <= max(WHOLE_RANGE, levels)


class FloatVariable(_Counted):
    """`low` to `high`, both included; with `step` only low, low + step, ...; `log` spreads the
    values evenly over orders of magnitude."""

    kind: Literal["float"] = "float"
    low: Finite
    high: Finite
    step: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    log: bool = False
    default: Finite | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_range(self.low, self.high, self.log, self.step)
        _check_default(self)
        return self

    @property
    def count(self) -> int | None:
        if self.low == self.high:
            return 1
        return None if self.step is None else _steps(self.low, self.high, self.step) + 1

    @property
    def numeric(self) -> bool:
        return True

    def misfit(self, value: object) -> str | None:
        """What is wrong with a value; None when it fits."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "must be a number"
        if not self.low <= value <= self.high:  # False for NaN as well
            return f"must be {self.low:g} to {self.high:g}"
        if self.step is not None:
            nearest = round((value - self.low) / self.step)
            if abs(value - self._stepped(nearest)) > self.step * _STEP_SLACK:
                return f"must be {self.low:g} plus a multiple of {self.step:g}"
        return None

    def at(self, unit: float) -> float:
        """The value at `unit` (0 to 1) of the way from low to high."""
        if self.step is not None:
            return self._stepped(_index(unit, _steps(self.low, self.high, self.step) + 1))
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            found = math.exp(low + unit * (high - low))
        else:
            found = self.low * (1 - unit) + self.high * unit
        return min(max(found, self.low), self.high)

    def values(self, levels: int) -> list[float]:
        """All values when there are `WHOLE_RANGE` or fewer, else `levels` from low to high."""
        count = self.count
        if count == 1:
            return [self.low]
        if count is None:
            return [self.at(unit) for unit in _units(levels)]
        return [self._stepped(k) for k in _spread(count, levels)]

    def _stepped(self, k: int) -> float:
        assert self.step is not None
        places = 9 - math.floor(math.log10(self.step))  # 0.1 + 2 * 0.1 is 0.3
        return min(max(round(self.low + k * self.step, places), self.low), self.high)


class IntegerVariable(_Counted):
    """As `FloatVariable`, of whole numbers."""

    kind: Literal["integer"] = "integer"
    low: Integer
    high: Integer
    step: Annotated[int, Field(strict=True, ge=1)] = 1
    log: bool = False
    default: Integer | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_range(self.low, self.high, self.log, None if self.step == 1 else self.step)
        _check_default(self)
        return self

    @property
    def count(self) -> int:
        return (self.high - self.low) // self.step + 1

    @property
    def numeric(self) -> bool:
        return True

    def misfit(self, value: object) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int):
            return "must be a whole number"
        if not self.low <= value <= self.high:
            return f"must be {self.low} to {self.high}"
        if (value - self.low) % self.step:
            return f"must be {self.low} plus a multiple of {self.step}"
        return None

    def at(self, unit: float) -> int:
        if not self.log:
            return self.low + self.step * _index(unit, self.count)
        low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
        found = round(math.exp(low + unit * (high - low)))
        return min(max(found, self.low), self.high)

    def values(self, levels: int) -> list[int]:
        """All values when there are `WHOLE_RANGE` or fewer, else `levels` from low to high."""
        if self.log and self.count > max(WHOLE_RANGE, levels):
            return sorted({self.at(unit) for unit in _units(levels)})
        return [self.low + self.step * k for k in _spread(self.count, levels)]


class _OneOf(_Counted):
    default: Scalar = None

    @property
    def count(self) -> int:
        return len(self._options)

    @property
    def numeric(self) -> bool:
        return all(
            isinstance(value, int | float) and not isinstance(value, bool)
            for value in self._options
        )

    def misfit(self, value: object) -> str | None:
        if any(same(value, option) for option in self._options):
            return None
        return f"must be one of {', '.join(map(_shown, self._options[:20]))}"

    def at(self, unit: float) -> Scalar:
        return self._options[_index(unit, len(self._options))]

    def values(self, levels: int) -> list[Any]:
        return list(self._options)

    def whole(self, levels: int) -> bool:
        return True

    @property
    def _options(self) -> tuple[Scalar, ...]:
        raise NotImplementedError


class ChoiceVariable(_OneOf):
    """One of `choices`, in their order. Numbers that are equal are one choice; true is not 1."""

    kind: Literal["choice"] = "choice"
    choices: tuple[Scalar, ...] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_options(self, self.choices)
        return self

    @property
    def _options(self) -> tuple[Scalar, ...]:
        return self.choices


class ModuleVariable(_OneOf):
    """One of several implementations by name, such as module types or adapters.

    `behaviour` says what they all do, so that one can stand for another.
    """

    kind: Literal["module"] = "module"
    choices: tuple[str, ...] = Field(min_length=1, max_length=1000)
    behaviour: str = ""

    @field_validator("choices")
    @classmethod
    def _named(cls, choices: tuple[str, ...]) -> tuple[str, ...]:
        if not all(choices):
            raise ValueError("a module's name is empty")
        return choices

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_options(self, self.choices)
        return self

    @property
    def _options(self) -> tuple[Scalar, ...]:
        return self.choices


def _kinded(value: Any) -> Any:
    """A domain that does not say its kind is told by its fields, if they can tell it."""
    if isinstance(value, dict) and "kind" not in value and "choices" in value:
        return {**value, "kind": "choice"}
    return value


Domain = Annotated[
    FloatVariable | IntegerVariable | ChoiceVariable | ModuleVariable,
    Field(discriminator="kind"),
    BeforeValidator(_kinded),
]


def default_of(domain: Domain) -> Scalar:
    """Its default; without one the first choice, or the middle of the range."""
    if domain.default is not None:
        return domain.default
    return domain.at(0.0 if isinstance(domain, _OneOf) else 0.5)


def _check_range(low: float, high: float, log: bool, step: float | None) -> None:
    if low > high:
        raise ValueError(f"low is {low:g}, over high, which is {high:g}")
    if log and low <= 0:
        raise ValueError(f"low is {low:g}: log wants it over 0")
    if log and step is not None:
        raise ValueError("log and step exclude each other")
    if step is not None and step * _STEP_SLACK < math.ulp(max(abs(low), abs(high))):
        raise ValueError(f"step {step:g} is too small for {low:g} to {high:g}")


def _check_options(variable: Any, options: tuple[Scalar, ...]) -> None:
    seen: set[tuple[bool, Scalar]] = set()
    for option in options:
        key = (isinstance(option, bool), option)
        if key in seen:
            raise ValueError(f"choice {_shown(option)} stands twice")
        seen.add(key)
    strangers = sorted(variable.hints.named_choices() - {str(option) for option in options})
    if strangers:
        raise ValueError(f"hints speak of {_shown(strangers[0])}, which is no choice")
    _check_default(variable)


def _check_default(variable: Any) -> None:
    if variable.default is not None and (wrong := variable.misfit(variable.default)):
        raise ValueError(f"default {_shown(variable.default)} {wrong}")


def _steps(low: float, high: float, step: float) -> int:
    return math.floor((high - low) / step + _STEP_SLACK)


def _index(unit: float, count: int) -> int:
    """The part of [0, 1] that `unit` lies in, when there are `count` equal ones."""
    return min(int(unit * count), count - 1)


def _units(levels: int) -> list[float]:
    return [0.5] if levels == 1 else [k / (levels - 1) for k in range(levels)]


def _shown(value: Scalar) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _spread(count: int, levels: int) -> list[int]:
    """All of 0 to count - 1, or `levels` of them, when there are more and more than a few."""
    if count <= max(WHOLE_RANGE, levels):
        return list(range(count))
    return [round(unit * (count - 1)) for unit in _units(levels)]
