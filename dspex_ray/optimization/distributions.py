"""A space of variables for Optuna 5, define-by-run, and a variable's values as numbers.

Conditional variables are suggested where they are active, so that TPE's groups follow the
branches; the branches of one conditional variable are parameters of their own. Choices are
suggested by index. Stepped ranges are indices too: Optuna would cut a range that the step does not
divide. Hard constraints of the space are unknown to Optuna: see `variation.repaired`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from dspex_ray.variables.conditions import Inactive, Scalar, same
from dspex_ray.variables.domains import (
    ChoiceVariable,
    Domain,
    FloatVariable,
    IntegerVariable,
    ModuleVariable,
)
from dspex_ray.variables.model import Configuration, Leaf
from dspex_ray.variables.rules import Slot, configuration_of, settle


def distribution_of(domain: Domain) -> BaseDistribution:
    match domain:
        case FloatVariable(step=None):
            return FloatDistribution(domain.low, domain.high, log=domain.log)
        case IntegerVariable(log=True):
            return IntDistribution(domain.low, domain.high, log=True)
        case ChoiceVariable() | ModuleVariable():
            return CategoricalDistribution(tuple(range(len(domain.choices))))
    assert domain.count is not None
    return IntDistribution(0, domain.count - 1)


def suggested(trial: optuna.Trial, leaves: Sequence[Leaf]) -> Configuration:
    """What Optuna wants tried; constraints are not looked at."""

    def choose(slot: Slot) -> Scalar:
        distribution, name = distribution_of(slot.domain), _parameter(slot)
        if isinstance(distribution, CategoricalDistribution):
            index = trial.suggest_categorical(name, distribution.choices)
            assert isinstance(index, int)
            return value_of(slot.domain, index)
        if isinstance(distribution, FloatDistribution):
            low, high, log = distribution.low, distribution.high, distribution.log
            return value_of(slot.domain, trial.suggest_float(name, low, high, log=log))
        assert isinstance(distribution, IntDistribution)
        low, high, log = distribution.low, distribution.high, distribution.log
        return value_of(slot.domain, trial.suggest_int(name, int(low), int(high), log=log))

    return configuration_of(settle(leaves, choose))


def parameters(
    leaves: Sequence[Leaf], configuration: Configuration
) -> tuple[dict[str, int | float], dict[str, BaseDistribution]]:
    """The configuration as a trial's params and distributions by the names that Optuna knows."""
    params: dict[str, int | float] = {}
    distributions: dict[str, BaseDistribution] = {}

    def note(slot: Slot) -> Scalar:
        value = configuration[slot.path]
        params[_parameter(slot)] = parameter_of(slot.domain, value)
        distributions[_parameter(slot)] = distribution_of(slot.domain)
        return value

    settle(leaves, note)
    return params, distributions


def parameter_of(domain: Domain, value: Scalar) -> int | float:
    """The number that stands for `value` in `distribution_of(domain)`."""
    if isinstance(domain, ChoiceVariable | ModuleVariable):
        return next(k for k, choice in enumerate(domain.choices) if same(choice, value))
    assert isinstance(value, int | float)
    if isinstance(domain, IntegerVariable):
        return int(value) if domain.log else (int(value) - domain.low) // domain.step
    return float(value) if domain.step is None else round((value - domain.low) / domain.step)


def value_of(domain: Domain, parameter: float) -> Scalar:
    """The inverse of `parameter_of`."""
    if isinstance(domain, ChoiceVariable | ModuleVariable):
        return domain.choices[int(parameter)]
    if isinstance(domain, IntegerVariable):
        return int(parameter) if domain.log else domain.low + domain.step * int(parameter)
    if domain.step is None:
        return min(max(float(parameter), domain.low), domain.high)
    assert domain.count is not None
    return domain.at((parameter + 0.5) / domain.count)


def place(domain: Domain, value: Scalar) -> float:
    """Where `value` lies from low to high, 0 to 1, or among the choices: `domain.at` undone."""
    number = parameter_of(domain, value)
    if isinstance(domain, FloatVariable) and domain.step is None:
        low, high = domain.low, domain.high
        if low == high:
            return 0.5
        if domain.log:
            return math.log(number / low) / math.log(high / low)
        return number / (high - low) - low / (high - low)
    if isinstance(domain, IntegerVariable) and domain.log:
        low, high = domain.low - 0.5, domain.high + 0.5
        return math.log(number / low) / math.log(high / low)
    assert domain.count is not None
    return (number + 0.5) / domain.count


def active_slots(leaves: Sequence[Leaf], configuration: Configuration) -> list[Slot]:
    """The variables that a valid configuration gives values to, with their domains there."""
    found: list[Slot] = []

    def note(slot: Slot) -> Scalar:
        found.append(slot)
        return configuration[slot.path]

    settle(leaves, note)
    return found


def values_of(leaves: Sequence[Leaf], configuration: Configuration) -> dict[str, Scalar | Inactive]:
    return settle(leaves, lambda slot: configuration[slot.path])


def _parameter(slot: Slot) -> str:
    return slot.path if slot.case is None else f"{slot.path}@{slot.case}"
