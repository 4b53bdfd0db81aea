"""Importance of variables in figures that hang on known ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dspex_ray.core.errors import Invalid
from dspex_ray.optimization.importance import LEAST_TRIALS, importance
from dspex_ray.variables import sampling
from dspex_ray.variables.declare import declared
from dspex_ray.variables.model import Configuration, Space
from tests.unit.variables.spaces import spaces

SPACE = declared(
    {
        "model": ["small", "large"],
        "temperature": {"float": [0, 1]},
        "noise": {"float": [0, 1]},
        "steps": {
            "integer": [1, 5],
            "when": {"variable": "model", "op": "==", "value": "large"},
        },
    }
)


def trials(
    figure: Callable[[Configuration], float], n: int = 60
) -> list[tuple[Configuration, float]]:
    return [(given, figure(given)) for given in sampling.random(SPACE, n, 0)]


def hot(given: Configuration) -> float:
    return float(given["temperature"])  # type: ignore[arg-type]


def test_the_variable_that_decides_comes_first() -> None:
    found = importance(trials(hot), SPACE)
    assert next(iter(found)) == "temperature"
    assert found["temperature"] > 0.8
    assert sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_conditional_variable_counts_where_it_is_active() -> None:
    found = importance(trials(lambda given: float(given.get("steps", 0) or 0), 120), SPACE)
    assert set(found) == set(SPACE.variables)
    assert next(iter(found)) == "steps"


def test_the_branches_of_one_variable_are_added_up() -> None:
    space = Space.model_validate(
        {
            "variables": {
                "model": {"choices": ["a", "b"]},
                "heat": {
                    "cases": [
                        {
                            "when": {"variable": "model", "op": "==", "value": "a"},
                            "then": {"kind": "float", "low": 0, "high": 1},
                        }
                    ],
                    "otherwise": {"kind": "float", "low": 1, "high": 2},
                },
            }
        }
    )
    given = sampling.random(space, 50, 0)
    found = importance([(one, float(one["heat"]) % 1) for one in given], space)  # type: ignore[arg-type]
    assert set(found) == {"model", "heat"}
    assert next(iter(found)) == "heat"


def test_the_direction_says_which_trials_are_the_best() -> None:
    """Only among the hot does the noise decide: for the coldest the temperature does alone."""

    def figure(given: Configuration) -> float:
        heat = hot(given)
        return heat if heat < 0.5 else 0.5 + float(given["noise"])  # type: ignore[arg-type]

    most = importance(trials(figure, 200), SPACE, "maximize")
    least = importance(trials(figure, 200), SPACE, "minimize")
    assert most["noise"] > 0.3
    assert least["noise"] < 0.1
    assert next(iter(least)) == "temperature"


def test_too_few_or_all_the_same_say_nothing() -> None:
    assert importance([], SPACE) == {}
    assert importance(trials(hot, LEAST_TRIALS - 1), SPACE) == {}
    assert importance(trials(hot, LEAST_TRIALS), SPACE)
    assert importance(trials(lambda given: 1.0), SPACE) == {}
    lost = [(given, math.nan) for given, _ in trials(hot)]
    assert importance(lost, SPACE) == {}


def test_figures_that_are_no_numbers_are_left_out() -> None:
    kept = trials(hot, 30)
    odd = [(given, math.nan) for given, _ in kept[:5]] + [(kept[0][0], math.inf)]
    assert importance(kept + odd, SPACE) == importance(kept, SPACE)


@settings(max_examples=25)
@given(spaces(), st.integers(0, 99), st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_shares_are_of_one(space: Space, seed: int, figures: list[int]) -> None:
    try:
        configurations = sampling.random(space, len(figures), seed)
    except Invalid:
        assume(False)
    found = importance(list(zip(configurations, map(float, figures), strict=True)), space)
    assert set(found) <= {leaf.path for leaf in space.leaves()}
    assert not found or sum(found.values()) == pytest.approx(1)
    assert all(share >= 0 for share in found.values())
