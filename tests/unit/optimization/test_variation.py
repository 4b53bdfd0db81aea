"""Children are valid whatever the space, and take after their parents."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dspex_ray.core.errors import Invalid
from dspex_ray.optimization.distributions import parameter_of, place, value_of
from dspex_ray.optimization.variation import Growth, Kind, crossover, mutate, repaired
from dspex_ray.variables import sampling
from dspex_ray.variables.conditions import same
from dspex_ray.variables.declare import declared
from dspex_ray.variables.domains import Domain, FloatVariable, IntegerVariable
from dspex_ray.variables.model import Configuration, Space
from dspex_ray.variables.rules import check
from tests.unit.variables.spaces import domains, spaces

seeds = st.integers(0, 2**32 - 1)

IS_COT = {"variable": "module", "op": "==", "value": "chain_of_thought"}
PROGRAM = declared(
    {
        "module": ["predict", "chain_of_thought"],
        "rationale": {"choice": ["short", "long"], "when": IS_COT},
        "temperature": {"float": [0, 1]},
        "k": {"integer": [0, 8]},
        "demos": {"kind": "choice", "choices": ["d0", "d1", "d2"]},
    }
)


def sampled(space: Space, seed: int, n: int = 2) -> list[Configuration]:
    try:
        return sampling.random(space, n, seed)
    except Invalid:
        assume(False)
        raise


@settings(max_examples=25)
@given(spaces(), seeds)
def test_children_are_valid(space: Space, seed: int) -> None:
    one, other = sampled(space, seed)
    rng = np.random.default_rng(seed)
    children = [crossover(space, one, other, rng), mutate(space, one, rng)]
    for child in children:
        assert child is None or check(space, child).valid


@settings(max_examples=25)
@given(spaces(), seeds)
def test_what_is_valid_needs_no_repair(space: Space, seed: int) -> None:
    (one,) = sampled(space, seed, 1)
    assert repaired(space, one, np.random.default_rng(seed)) == one


@settings(max_examples=25)
@given(spaces(), seeds)
def test_the_same_stream_makes_the_same_child(space: Space, seed: int) -> None:
    one, other = sampled(space, seed)
    twice = [crossover(space, one, other, np.random.default_rng(seed)) for _ in range(2)]
    assert twice[0] == twice[1]


@given(domains(), st.floats(0, 1))
def test_places_and_parameters_are_undone(domain: Domain, unit: float) -> None:
    value = domain.at(unit)
    found = place(domain, value)
    assert -1e-9 <= found <= 1 + 1e-9
    for back in (value_of(domain, parameter_of(domain, value)), domain.at(found)):
        if isinstance(domain, FloatVariable):
            spread = 1e-9 * (abs(domain.low) + abs(domain.high))
            assert back == pytest.approx(value, rel=1e-9, abs=spread)
        else:
            assert same(back, value)


def test_a_repair_changes_only_what_is_at_fault() -> None:
    space = declared(
        {"a": {"integer": [0, 9]}, "b": {"integer": [0, 9]}, "c": {"integer": [0, 9]}},
        [{"name": "r", "rule": {"variable": "a", "op": "<", "other": "b"}}],
    )
    for seed in range(20):
        found = repaired(space, {"a": 5, "b": 3, "c": 7}, np.random.default_rng(seed))
        assert found is not None
        assert found["a"] < found["b"]  # type: ignore[operator]
        assert found["c"] == 7
        assert found["a"] == 5 or found["b"] == 3


def test_what_cannot_be_repaired_is_none() -> None:
    space = declared(
        {"a": {"integer": [0, 9]}},
        [{"name": "r", "rule": {"variable": "a", "op": ">", "value": 99}}],
    )
    assert repaired(space, {"a": 5}, np.random.default_rng(0)) is None
    assert mutate(space, {"a": 5}, np.random.default_rng(0)) is None


def test_conditional_parts_follow() -> None:
    parent: Configuration = {
        "module": "predict", "temperature": 0.5, "k": 4, "demos": "d0",
    }  # fmt: skip
    rng = np.random.default_rng(0)
    children = [mutate(PROGRAM, parent, rng, changes=2.0) for _ in range(40)]
    assert {child["module"] for child in children if child} == {"predict", "chain_of_thought"}
    for child in children:
        assert child is not None
        assert ("rationale" in child) == (child["module"] == "chain_of_thought")


def test_a_mutation_changes_something_and_a_crossover_mixes() -> None:
    rng = np.random.default_rng(1)
    one, other = sampled(PROGRAM, 3)
    assert all(mutate(PROGRAM, one, rng) != one for _ in range(30))
    for _ in range(30):
        child = crossover(PROGRAM, one, other, rng)
        assert child is not None
        assert child["demos"] in (one["demos"], other["demos"])


def test_an_integer_moves_by_one_at_least() -> None:
    space = Space(variables={"n": IntegerVariable(low=1, high=100)})
    rng = np.random.default_rng(0)
    found = {mutate(space, {"n": 50}, rng, size=1e-6)["n"] for _ in range(20)}  # type: ignore[index]
    assert found == {49, 51}


class Pool:
    """Counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Kind, str, tuple[str, ...]]] = []

    def mint(self, kind: Kind, path: str, parents: tuple[str, ...]) -> str | None:
        self.asked.append((kind, path, parents))
        return None if len(self.asked) == 1 else f"new{len(self.asked)}"


def test_new_members_are_made_of_the_parents_own() -> None:
    pool, rng = Pool(), np.random.default_rng(2)
    growth = Growth(("demos",), pool.mint)
    common: Configuration = {"module": "predict", "temperature": 0.5, "k": 4}
    one, other = common | {"demos": "d0"}, common | {"demos": "d1"}
    crossed = [crossover(PROGRAM, one, other, rng, growth) for _ in range(20)]
    assert {asked[:2] for asked in pool.asked} == {("crossover", "demos")}
    assert {asked[2] for asked in pool.asked} == {("d0", "d1")}
    minted = {child["demos"] for child in crossed if child} - {"d0", "d1"}
    assert minted == {f"new{k}" for k in range(2, len(pool.asked) + 1)}
    pool.asked.clear()
    for _ in range(20):
        mutate(PROGRAM, one, rng, changes=5.0, growth=growth)
    assert {asked[2] for asked in pool.asked} == {("d0",)}


def test_a_pool_of_one_member_always_grows() -> None:
    pool, rng = Pool(), np.random.default_rng(0)
    pool.asked.append(("mutation", "", ()))
    space = declared({"demos": {"kind": "choice", "choices": ["d0"]}})
    child = mutate(space, {"demos": "d0"}, rng, growth=Growth(("demos",), pool.mint))
    assert child == {"demos": "new2"}


def test_a_member_that_breaks_a_constraint_is_not_taken() -> None:
    space = declared(
        {"demos": {"kind": "choice", "choices": ["d0"]}},
        [{"name": "own", "rule": {"variable": "demos", "op": "==", "value": "d0"}}],
    )
    growth = Growth(("demos",), lambda kind, path, parents: "new")
    child = mutate(space, {"demos": "d0"}, np.random.default_rng(0), growth=growth)
    assert child == {"demos": "d0"}
