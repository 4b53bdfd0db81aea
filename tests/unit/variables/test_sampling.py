"""Samples: valid, all of them, the same for the same seed, or a clear no."""

from __future__ import annotations

from itertools import product

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dspex_ray.core.errors import Invalid
from dspex_ray.variables.conditions import Scalar
from dspex_ray.variables.declare import declared
from dspex_ray.variables.model import SampleAsk, SamplingMethod, Space
from dspex_ray.variables.rules import Slot, check, every, walk
from dspex_ray.variables.sampling import grid, latin_hypercube, random, sample, sobol
from tests.unit.variables.spaces import spaces

ANY = st.sampled_from(SamplingMethod)


def space_of(text: str, constraints: str = "[]") -> Space:
    return declared(yaml.safe_load(text), yaml.safe_load(constraints))


@settings(max_examples=60)
@given(spaces(), ANY, st.integers(1, 12), st.integers(0, 99))
def test_every_sample_is_valid_or_there_is_none(
    space: Space, method: SamplingMethod, n: int, seed: int
) -> None:
    ask = SampleAsk(method=method, n=n, seed=seed, levels=2)
    try:
        found = sample(space, ask)
    except Invalid as error:
        refused = error.rule
    else:
        refused = None
    if refused is not None:
        assert refused in ("satisfiable", "grid size")
        return
    assert len(found.configurations) <= n
    if method is not SamplingMethod.GRID:
        assert len(found.configurations) == n
    for configuration in found.configurations:
        assert check(space, configuration).faults == ()
    assert sample(space, ask) == found


@settings(max_examples=60)
@given(spaces(finite=True))
def test_a_grid_holds_each_valid_configuration_exactly_once(space: Space) -> None:
    """Against the definition: all combinations of all values, valid and active."""
    leaves = space.leaves()
    absent = object()
    options = [
        [absent, *(v for case in leaf.branches() for v in case.domain.values(99))]
        for leaf in leaves
    ]
    size = 1
    for some in options:
        size *= len(some)
    assume(size <= 4000)
    wanted = set()
    for values in product(*options):
        found = {
            leaf.path: value
            for leaf, value in zip(leaves, values, strict=True)
            if value is not absent
        }
        if check(space, found).valid:
            wanted.add(repr(sorted(found.items())))
    listed = [repr(sorted(found.items())) for found in every(space)]
    assert sorted(listed) == sorted(wanted)
    if wanted:
        assert [repr(sorted(found.items())) for found in grid(space)] == listed
    else:
        for method in SamplingMethod:
            with pytest.raises(Invalid, match="No configuration satisfies the constraints: all"):
                sample(space, SampleAsk(method=method))


IMPOSSIBLE = "[{name: both, rule: {kind: sum, terms: {a: 1, b: 1}, op: '>', value: 99}}]"


@pytest.mark.parametrize("method", SamplingMethod)
def test_a_finite_space_without_a_solution_says_that_there_is_none(method: SamplingMethod) -> None:
    space = space_of("{a: {integer: [1, 9]}, b: {integer: [1, 9]}}", IMPOSSIBLE)
    with pytest.raises(Invalid, match="No configuration satisfies the constraints: all were"):
        sample(space, SampleAsk(method=method))


def test_an_endless_space_says_how_long_it_looked_and_at_what_it_failed() -> None:
    space = space_of("{a: {float: [1, 9]}, b: {float: [1, 9]}}", IMPOSSIBLE)
    with pytest.raises(Invalid) as caught:
        random(space, 3, seed=0)
    assert caught.value.message == (
        "None of 10,000 points satisfied the constraints, and there are too many configurations "
        "to try all (most broken: both)"
    )
    assert (caught.value.field, caught.value.rule) == ("constraints", "satisfiable")
    with pytest.raises(Invalid, match="more levels may find one"):
        grid(space)


def test_a_needle_in_a_finite_haystack_is_found() -> None:
    exact = "[{name: one, rule: {kind: sum, terms: {a: 1000, b: 1}, op: ==, value: 123045}}]"
    space = space_of("{a: {integer: [0, 300]}, b: {integer: [0, 300]}}", exact)
    for draw in (random, latin_hypercube, sobol):
        assert draw(space, 2, seed=1) == [{"a": 123, "b": 45}] * 2


def test_a_latin_hypercube_has_one_point_in_each_part_of_each_range() -> None:
    space = space_of("{a: {float: [0, 1]}, b: {float: [10, 20]}}")
    found = latin_hypercube(space, 16, seed=4)
    assert sorted(int(float(c["a"] or 0) * 16) for c in found) == list(range(16))
    assert sorted(int((float(c["b"] or 0) - 10) * 1.6) for c in found) == list(range(16))


def test_a_sobol_sequence_goes_on_where_a_shorter_one_ended_and_is_balanced() -> None:
    space = space_of("{a: {float: [0, 1]}, b: {float: [0, 1]}}")
    found = sobol(space, 64, seed=2)
    assert found[:10] == sobol(space, 10, seed=2)
    quarters = [(float(c["a"] or 0) < 0.5, float(c["b"] or 0) < 0.5) for c in found]
    assert {quarter: quarters.count(quarter) for quarter in quarters} == dict.fromkeys(
        product((True, False), repeat=2), 16
    )


def test_logarithmic_ranges_are_even_over_orders_of_magnitude() -> None:
    space = space_of("{a: {float: [0.001, 1], log: true}, k: {integer: [1, 1000], log: true}}")
    found = latin_hypercube(space, 300, seed=0)
    assert sum(float(c["a"] or 0) < 0.01 for c in found) == 100
    # 1 to 9 are ln(9.5 / 0.5) of the ln(1000.5 / 0.5) that the range spans.
    assert sum(int(c["k"] or 0) < 10 for c in found) == 116


def test_seeds_differ_and_methods_differ() -> None:
    space = space_of("{a: {float: [0, 1]}}")
    drawn = [tuple(c["a"] for c in random(space, 5, seed)) for seed in range(5)]
    assert len(set(drawn)) == 5


def test_a_grid_spreads_levels_over_what_has_no_end() -> None:
    space = space_of("{a: {float: [0, 1]}, k: {integer: [1, 1001]}, m: [x, y]}")
    found = grid(space, levels=3)
    assert [(c["a"], c["k"], c["m"]) for c in found] == list(
        product((0.0, 0.5, 1.0), (1, 501, 1001), ("x", "y"))
    )


def test_a_grid_over_its_limit_is_refused() -> None:
    space = space_of("{a: {integer: [1, 40]}, b: {integer: [1, 40]}}")
    with pytest.raises(Invalid, match="more than 10 configurations"):
        sample(space, SampleAsk(method=SamplingMethod.GRID))
    endless = declared(
        {f"v{k}": [1, 2, 3] for k in range(30)},
        [{"name": "none", "rule": {"kind": "not", "of": {"kind": "active", "variable": "v9"}}}],
    )
    with pytest.raises(Invalid, match="takes over 100,000 steps"):
        grid(endless)


def test_a_space_of_a_thousand_variables_is_no_deeper_than_python() -> None:
    space = declared({f"v{k}": [k] for k in range(1000)})
    assert len(grid(space)[0]) == 1000
    assert len(sobol(space, 2, seed=0)) == 2


def test_a_space_without_variables_has_one_configuration() -> None:
    assert grid(Space()) == [{}]
    assert random(Space(), 2, seed=0) == [{}, {}]


def test_who_walks_is_told_which_branch_of_a_conditional_holds() -> None:
    space = space_of(
        """
        p: [x, y, z]
        t:
          kind: conditional
          cases:
            - {when: {variable: p, op: ==, value: x}, then: {kind: float, low: 0, high: 1}}
            - {when: {variable: p, op: ==, value: y}, then: {kind: float, low: 5, high: 6}}
        """
    )
    seen = []

    def asked(p: str) -> None:
        def choose(slot: Slot) -> Scalar:
            seen.append((p, slot.path, slot.case))
            return p if slot.path == "p" else 0.5

        walk(space, choose)

    for p in "xyz":
        asked(p)
    assert seen == [
        ("x", "p", None),
        ("x", "t", 0),
        ("y", "p", None),
        ("y", "t", 1),
        ("z", "p", None),
    ]
