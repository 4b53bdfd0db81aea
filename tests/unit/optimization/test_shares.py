"""The space that a run's trials were in, as far as they show it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.errors import NotFound
from dspex_ray.optimization.front import Front
from dspex_ray.optimization.runs import OptimizationRun
from dspex_ray.optimization.shares import observed, run_importance
from dspex_ray.variables.domains import ChoiceVariable, FloatVariable
from dspex_ray.variables.rules import validate
from tests.unit.client import wire

VALUES = st.one_of(
    st.booleans(), st.integers(-100, 100), st.floats(-10, 10), st.sampled_from(["a", "b"])
)
CONFIGURATIONS = st.lists(
    st.dictionaries(st.sampled_from(["x", "y", "main.demos"]), VALUES), min_size=1, max_size=20
)


def a_run(status: str = "completed") -> OptimizationRun:
    return OptimizationRun.model_validate(wire.optimization(status=status))


@given(CONFIGURATIONS)
def test_every_configuration_is_one_of_the_space_that_they_span(
    configurations: list[dict[str, Any]],
) -> None:
    space, rows = observed(configurations)
    assert len(rows) == len(configurations)
    for row in rows:
        validate(space, row)
        assert row.keys() == space.variables.keys()


def test_numbers_are_a_range_and_what_was_not_always_set_is_a_choice() -> None:
    space, rows = observed([{"x": 1, "k": 3, "c": "a"}, {"x": 2.5, "k": 3}])
    assert space.variables == {
        "x": FloatVariable(low=1.0, high=2.5),
        "c": ChoiceVariable(choices=("a", "not set")),
    }
    assert rows == [{"x": 1.0, "c": "a"}, {"x": 2.5, "c": "not set"}]


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ("running", "no trial has recorded a configuration yet"),
        ("completed", "DspexSearch records no configurations"),
    ],
)
def test_without_configurations_there_is_none(status: str, why: str) -> None:
    with pytest.raises(NotFound) as refused:
        run_importance(a_run(status), [{"demos": ["h"]}, {"configuration": 3}], None)
    assert refused.value.message == f"optimization {a_run().id} has no importance: {why}"


def test_what_decides_a_figure_has_the_largest_share() -> None:
    facts = [
        {
            "configuration": {"model": model, "temperature": step / 9, "fixed": 1},
            "figures": {"accuracy": 0.9 if model == "big" else 0.1, "cost": step, "latency": 5.0},
        }
        for model in ("big", "small")
        for step in range(10)
    ]
    found = run_importance(a_run(), [*facts, *facts[:3], {"demos": []}], None)
    accuracy, cost, latency = found.objectives
    assert (accuracy.objective, accuracy.trials) == ("accuracy", 20)
    assert next(iter(accuracy.shares)) == "model"
    assert next(iter(cost.shares)) == "temperature"
    assert accuracy.shares.keys() == {"model", "temperature"}
    assert latency.shares == {}
    for one in (accuracy, cost):
        assert sum(one.shares.values()) == pytest.approx(1.0)
    front = Front.model_validate(wire.front())
    named = run_importance(a_run(), facts, front)
    assert [one.objective for one in named.objectives] == ["accuracy", "cost", "latency"]
    assert run_importance(a_run(), facts[:3], None).objectives[0].shares == {}
