"""What is wrong with a configuration is said of variable and rule, all of it at once."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings

from dspex_ray.core.errors import Invalid
from dspex_ray.variables.conditions import INACTIVE, Active, Compare, Not, Scalar, Sum
from dspex_ray.variables.declare import declared
from dspex_ray.variables.model import Difficulty, Fault, Space, Verdict
from dspex_ray.variables.rules import check, defaults, every, figures, validate
from tests.unit.variables.spaces import spaces

SPACE = declared(
    yaml.safe_load(
        """
        provider: [openai, groq]
        model: [gpt, llama]
        temperature: {float: [0, 2]}
        top_p: {float: [0, 1], when: {variable: temperature, op: '>', value: 0}}
        max_tokens: {integer: [10, 100], step: 10}
        answer.module: [predict, chain_of_thought]
        """
    ),
    yaml.safe_load(
        """
        - name: models-of-groq
          rule:
            kind: implies
            when: {variable: provider, op: ==, value: groq}
            then: {variable: model, op: in, value: [llama]}
        - name: hot-is-wide
          message: a temperature over 1.5 wants a top_p of 0.3 or more
          rule:
            kind: implies
            when: {variable: temperature, op: '>', value: 1.5}
            then: {variable: top_p, op: '>=', value: 0.3}
        """
    ),
)
GOOD: dict[str, Scalar] = {
    "provider": "groq",
    "model": "llama",
    "temperature": 0.5,
    "top_p": 0.9,
    "max_tokens": 50,
    "answer.module": "predict",
}


def faults(**changes: object) -> list[tuple[str, str, str]]:
    given = {**GOOD, **{name.replace("__", "."): value for name, value in changes.items()}}
    given = {name: value for name, value in given.items() if value is not ...}
    return [(fault.field, fault.rule, fault.message) for fault in check(SPACE, given).faults]


def test_a_good_configuration_is_given_back() -> None:
    assert validate(SPACE, GOOD) == GOOD
    assert check(SPACE, GOOD) == Verdict(valid=True)


WRONG: dict[str, tuple[dict[str, object], tuple[str, str, str]]] = {
    "missing": ({"model": ...}, ("model", "required", "is missing")),
    "unknown": (
        {"modle": "gpt"},
        (
            "modle",
            "unknown",
            "there is no such variable (there are: answer.module, max_tokens, model, provider, "
            "temperature, top_p)",
        ),
    ),
    "out of range": ({"temperature": 2.5}, ("temperature", "float", "must be 0 to 2")),
    "not a number": ({"temperature": True}, ("temperature", "float", "must be a number")),
    "nan": ({"temperature": float("nan")}, ("temperature", "float", "must be 0 to 2")),
    "off the grid": (
        {"max_tokens": 15},
        ("max_tokens", "integer", "must be 10 plus a multiple of 10"),
    ),
    "not whole": ({"max_tokens": 20.0}, ("max_tokens", "integer", "must be a whole number")),
    "no choice": ({"provider": "x"}, ("provider", "choice", "must be one of 'openai', 'groq'")),
    "no module": (
        {"answer__module": "react"},
        ("answer.module", "module", "must be one of 'predict', 'chain_of_thought'"),
    ),
    "inactive": (
        {"temperature": 0},
        (
            "top_p",
            "inactive",
            "is inactive here (active only if temperature > 0): leave it out",
        ),
    ),
    "a broken constraint": (
        {"model": "gpt"},
        (
            "model",
            "models-of-groq",
            "must satisfy: if provider == 'groq' then model in ['llama']",
        ),
    ),
    "its message": (
        {"temperature": 1.8, "top_p": 0.1},
        (
            "top_p",
            "hot-is-wide",
            "must satisfy: a temperature over 1.5 wants a top_p of 0.3 or more",
        ),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_one_fault_is_named_and_no_other(case: str) -> None:
    changes, wanted = WRONG[case]
    assert faults(**changes) == [wanted]


def test_all_faults_come_at_once() -> None:
    given = {**GOOD, "model": "gpt", "max_tokens": 5, "extra": 1}
    del given["answer.module"]
    with pytest.raises(Invalid) as caught:
        validate(SPACE, given)
    assert [fault["field"] for fault in caught.value.details["faults"]] == [
        "extra",
        "answer.module",
        "max_tokens",
        "model",
    ]
    assert (caught.value.field, caught.value.rule) == ("extra", "unknown")
    assert "max_tokens: must be 10 to 100" in caught.value.message


def test_what_a_fault_makes_doubtful_is_no_fault_of_its_own() -> None:
    """Without a temperature nobody knows whether top_p is wanted, or the constraint broken."""
    assert faults(temperature=..., top_p=...) == [("temperature", "required", "is missing")]
    assert faults(temperature=3, top_p=0.1) == [("temperature", "float", "must be 0 to 2")]


def test_an_inactive_variable_breaks_no_constraint() -> None:
    assert faults(temperature=0, top_p=...) == []


def test_a_condition_without_its_variable_cannot_be_told() -> None:
    asked = Compare(variable="a", op="==", value=1)
    assert [asked.holds({}), asked.holds({"a": INACTIVE}), asked.holds({"a": 1})] == [
        None,
        None,
        True,
    ]
    assert Not(of=asked).holds({"a": INACTIVE}) is None
    assert asked.holds({"a": True}) is False
    there = Active(variable="a")
    assert [there.holds({}), there.holds({"a": INACTIVE}), there.holds({"a": 0})] == [
        None,
        False,
        True,
    ]
    total = Sum(terms={"a": 1, "b": 2}, op="==", value=0.3)
    assert total.holds({"a": 0.3, "b": INACTIVE}) is True
    assert total.holds({"a": 0.1, "b": 0.1}) is True
    assert total.holds({"a": 0.1}) is None


@settings(max_examples=50)
@given(spaces(finite=True))
def test_the_figures_of_a_finite_space_are_counted(space: Space) -> None:
    found = figures(space)
    assert found.size_is == "exact"
    assert found.size == sum(1 for _ in every(space))
    assert found.variable_count == found.dimensions == len(space.leaves())
    assert found.continuous_dimensions == 0
    assert found.complexity_score == len(space.leaves()) + 2 * len(space.constraints)


def test_figures_by_the_book() -> None:
    found = figures(SPACE)
    assert (found.size, found.size_is, found.discrete_size) == (None, "infinite", 2 * 2 * 10 * 2)
    assert (found.variable_count, found.continuous_dimensions) == (6, 2)
    assert (found.complexity_score, found.optimization_difficulty) == (10.0, Difficulty.MEDIUM)


@pytest.mark.parametrize(
    ("variables", "difficulty"),
    [(0, "easy"), (3, "easy"), (4, "medium"), (8, "medium"), (15, "hard"), (16, "extreme")],
)
def test_difficulty_goes_by_the_number_of_variables(variables: int, difficulty: str) -> None:
    found = figures(declared({f"v{k}": [1, 2] for k in range(variables)}))
    assert found.optimization_difficulty == difficulty
    assert found.size == 2**variables


def test_what_cannot_be_counted_is_a_bound_or_said_to_be_over_it() -> None:
    rule = [{"name": "r", "rule": {"variable": "v0", "op": "!=", "value": 1}}]
    bounded = figures(declared({f"v{k}": [1, 2] for k in range(30)}, rule))
    assert (bounded.size, bounded.size_is) == (2**30, "at_most")
    huge = figures(declared({f"v{k}": [1, 2] for k in range(70)}))
    assert (huge.size, huge.size_is, huge.discrete_size) == (None, "over_1e18", None)
    free = figures(declared({"t": {"float": [0, 1]}}))
    assert (free.size, free.size_is, free.discrete_size) == (None, "infinite", 1)


def test_defaults_are_defaults_first_choices_and_middles() -> None:
    space = declared(
        yaml.safe_load("{a: {float: [0, 2]}, b: {float: [0, 2], default: 0.5}, c: [x, y]}")
    )
    assert defaults(space) == {"a": 1.0, "b": 0.5, "c": "x"}


def test_a_fault_is_a_noun() -> None:
    first = check(SPACE, {}).faults[0]
    assert first == Fault(field="answer.module", rule="required", message="is missing")
