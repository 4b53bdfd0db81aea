"""The variables that programs of language models have in common, and what must hold among them.

Weights and hints are starting points for optimizers; what a choice really costs is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from dspex_ray.core.errors import Invalid
from dspex_ray.variables.conditions import AllOf, Compare, Condition, Implies
from dspex_ray.variables.domains import (
    ChoiceVariable,
    Domain,
    FloatVariable,
    Hints,
    IntegerVariable,
    ModuleVariable,
)
from dspex_ray.variables.model import Branch, ConditionalVariable, Constraint

_PROVIDER_COST = {"openai": 1.0, "anthropic": 1.2, "groq": 0.3, "google": 0.8}
_PROVIDER_PERFORMANCE = {"openai": 0.9, "anthropic": 0.95, "groq": 0.7, "google": 0.85}
_STRATEGY_COMPLEXITY = {
    "predict": 1,
    "chain_of_thought": 3,
    "program_of_thought": 4,
    "react": 5,
}
_STRATEGY_TOKENS = {
    "predict": 1.0,
    "chain_of_thought": 2.5,
    "program_of_thought": 3.0,
    "react": 4.0,
}


def provider(choices: Sequence[str] = tuple(_PROVIDER_COST)) -> ChoiceVariable:
    return ChoiceVariable(
        choices=tuple(choices),
        hints=Hints(
            optimization_priority="cost_performance",
            compatibility_aware=True,
            cost_weights=_of(choices, _PROVIDER_COST),
            performance_weights=_of(choices, _PROVIDER_PERFORMANCE),
        ),
    )


def model(choices: Sequence[str]) -> ChoiceVariable:
    """Names of registered models."""
    return ChoiceVariable(
        choices=tuple(choices),
        hints=Hints(
            compatibility_aware=True,
            performance_impact="high",
            accuracy_impact="high",
            cost_impact="high",
        ),
    )


def adapter(choices: Sequence[str] = ("chat", "json", "minimal")) -> ModuleVariable:
    return ModuleVariable(
        choices=tuple(choices),
        behaviour="adapter",
        hints=Hints(performance_impact="medium", model_compatibility=True),
    )


def reasoning_strategy(choices: Sequence[str] = tuple(_STRATEGY_COMPLEXITY)) -> ModuleVariable:
    return ModuleVariable(
        choices=tuple(choices),
        behaviour="module",
        hints=Hints(
            performance_impact="high",
            accuracy_impact="high",
            cost_impact="high",
            complexity={
                name: _STRATEGY_COMPLEXITY[name] for name in choices if name in _STRATEGY_COMPLEXITY
            },
            token_multipliers=_of(choices, _STRATEGY_TOKENS),
        ),
    )


def temperature(default: float = 0.7) -> FloatVariable:
    return FloatVariable(low=0.0, high=2.0, default=default)


def max_tokens(default: int = 1000) -> IntegerVariable:
    return IntegerVariable(low=50, high=4000, default=default, hints=Hints(cost_impact="high"))


def top_p(default: float = 1.0) -> FloatVariable:
    """From 0.05: at 0 a model has nothing to choose from."""
    return FloatVariable(low=0.05, high=1.0, default=default)


STANDARD: Mapping[str, Callable[[], Domain]] = {
    "provider": provider,
    "adapter": adapter,
    "module": reasoning_strategy,
    "temperature": temperature,
    "max_tokens": max_tokens,
    "top_p": top_p,
}


def standard(name: str) -> Domain:
    """The usual variable of a name or of a path that ends in it. Raises Invalid for others."""
    last = name.rpartition(".")[2]
    if last not in STANDARD:
        raise Invalid(
            f"variable {name!r} has no usual range (those that have: {', '.join(STANDARD)})",
            field=f"variables.{name}",
            rule="range",
        )
    return STANDARD[last]()


def conditional_temperature(
    cases: Iterable[tuple[Mapping[str, str], tuple[float, float], float]],
    otherwise: tuple[tuple[float, float], float] | None = None,
) -> ConditionalVariable:
    """A range and a default by what is chosen: `({"provider": "groq"}, (0.1, 0.9), 0.5)`.

    The first case counts whose variables all have the values that it names.
    """
    return ConditionalVariable(
        cases=tuple(
            Branch(when=_chosen(wanted), then=_ranged(bounds, default))
            for wanted, bounds, default in cases
        ),
        otherwise=None if otherwise is None else _ranged(*otherwise),
    )


def compatible_models(models: Mapping[str, Sequence[str]]) -> tuple[Constraint, ...]:
    """Each provider goes with its own models only: `models` by provider."""
    return tuple(
        Constraint(
            name=f"models-of-{name}",
            rule=Implies(
                when=Compare(variable="provider", op="==", value=name),
                then=Compare(variable="model", op="in", value=tuple(served)),
            ),
        )
        for name, served in models.items()
    )


def context_windows(tokens: Mapping[str, int]) -> tuple[Constraint, ...]:
    """`max_tokens` stays within the chosen model's context window: `tokens` by model."""
    return tuple(
        Constraint(
            name=f"context-window-{number}",
            rule=Implies(
                when=Compare(variable="model", op="==", value=name),
                then=Compare(variable="max_tokens", op="<=", value=window),
            ),
        )
        for number, (name, window) in enumerate(tokens.items(), start=1)
    )


def no_hot_narrow_sampling() -> Constraint:
    """A temperature over 1.5 with a top_p under 0.3 writes noise, cut off."""
    return Constraint(
        name="no-hot-narrow-sampling",
        rule=Implies(
            when=Compare(variable="temperature", op=">", value=1.5),
            then=Compare(variable="top_p", op=">=", value=0.3),
        ),
    )


def _chosen(wanted: Mapping[str, str]) -> Condition:
    parts = tuple(Compare(variable=name, op="==", value=value) for name, value in wanted.items())
    return parts[0] if len(parts) == 1 else AllOf(of=parts)


def _ranged(bounds: tuple[float, float], default: float) -> FloatVariable:
    return FloatVariable(low=bounds[0], high=bounds[1], default=default)


def _of(choices: Sequence[str], weights: Mapping[str, float]) -> dict[str, float]:
    return {name: weights[name] for name in choices if name in weights}
