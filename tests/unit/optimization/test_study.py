"""What is asked is valid and new; what is told decides what comes next, in whatever order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dspex_ray.core.canonical import content_hash
from dspex_ray.core.errors import Invalid
from dspex_ray.core.objectives import Limit, Objective
from dspex_ray.optimization.design import neighbours
from dspex_ray.optimization.front import HypervolumeMark
from dspex_ray.optimization.portfolio import ARMS, arm_shares
from dspex_ray.optimization.samplers import Scene, Told
from dspex_ray.optimization.study import SAMPLERS, Proposal, SamplerName, Study
from dspex_ray.stats import pareto
from dspex_ray.variables import sampling
from dspex_ray.variables.conditions import same
from dspex_ray.variables.declare import declared
from dspex_ray.variables.model import Configuration, Space
from dspex_ray.variables.rules import TooMany, check, every
from tests.unit.variables.spaces import spaces

ACCURACY = Objective(name="accuracy")
COST = Objective(name="cost", direction="minimize")
BOTH = (ACCURACY, COST)
CHEAP = Limit(name="cost", at_most=0.5)

samplers = st.sampled_from(sorted(SAMPLERS))
seeds = st.integers(0, 2**32 - 1)
LINE = declared({"x": {"float": [0, 1]}, "y": {"float": [0, 1]}})
SMALL = declared({"a": [1, 2, 3], "b": ["u", "v"]})
NEVER = declared(
    {"a": [1, 2]}, [{"name": "none", "rule": {"variable": "a", "op": ">", "value": 2}}]
)


def figures(configuration: Configuration) -> dict[str, float] | None:
    """Something that varies with every variable; now and then a failure."""
    drawn = int(content_hash(configuration)[:8], 16)
    if drawn % 11 == 0:
        return None
    return {"accuracy": drawn % 101 / 101, "cost": drawn % 103 / 103}


def told(study: Study, generations: int, size: int, *, backwards: bool = False) -> list[Proposal]:
    found: list[Proposal] = []
    for _ in range(generations):
        asked = study.ask(size)
        found += asked
        for proposal in reversed(asked) if backwards else asked:
            study.tell(proposal.number, figures(proposal.configuration))
    return found


def study(space: Space, seed: int = 0, sampler: Any = "portfolio", **options: Any) -> Study:
    try:
        return Study(space, BOTH, (CHEAP,), seed=seed, sampler=sampler, **options)
    except Invalid:
        assume(False)
        raise


@settings(max_examples=15)
@given(spaces(), seeds, samplers)
def test_what_is_asked_is_valid_and_new(space: Space, seed: int, sampler: SamplerName) -> None:
    asked = told(study(space, seed, sampler), 3, 7)
    assert [proposal.number for proposal in asked] == list(range(1, len(asked) + 1))
    assert all(check(space, proposal.configuration).valid for proposal in asked)
    assert len({content_hash(p.configuration) for p in asked}) == len(asked)
    assert all(parent < p.number for p in asked for parent in p.parents)


@settings(max_examples=8)
@given(spaces(finite=True), seeds, samplers)
def test_a_finite_space_is_asked_to_its_end(space: Space, seed: int, sampler: SamplerName) -> None:
    try:
        whole = list(every(space))
    except TooMany:
        assume(False)
    assume(0 < len(whole) <= 40)
    asked = told(study(space, seed, sampler), 6, 8)
    assert sorted(content_hash(p.configuration) for p in asked) == sorted(map(content_hash, whole))


@settings(max_examples=6)
@given(spaces(), seeds, samplers)
def test_the_order_of_telling_changes_nothing(
    space: Space, seed: int, sampler: SamplerName
) -> None:
    one, other = study(space, seed, sampler), study(space, seed, sampler)
    assert told(one, 3, 6) == told(other, 3, 6, backwards=True)
    assert one.told == other.told
    assert one.hypervolume() == other.hypervolume()


def test_seeds_differ() -> None:
    first = [told(study(LINE, seed), 3, 8) for seed in (1, 2)]
    assert first[0] != first[1]


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_the_start_comes_first_then_sobol_then_the_sampler(sampler: SamplerName) -> None:
    asked = told(study(LINE, sampler=sampler, start={"x": 0.1, "y": 0.9}, initial=5), 4, 5)
    assert asked[0] == Proposal(1, {"x": 0.1, "y": 0.9}, "start")
    assert [p.made_by for p in asked[1:5]] == ["sobol"] * 4
    made = {
        "random": {"random"},
        "tpe": {"tpe"},
        "gp": {"gp"},
        "nsga2": {"crossover"},
        "portfolio": set(ARMS),
    }
    assert {p.made_by for p in asked[5:]} <= made[sampler]


@settings(max_examples=25)
@given(spaces(), seeds)
def test_a_neighbour_is_valid_and_one_choice_away(space: Space, seed: int) -> None:
    try:
        (start,) = sampling.random(space, 1, seed)
    except Invalid:
        assume(False)
        raise
    for draft in neighbours(space, start):
        found = draft.configuration
        assert check(space, found).valid
        assert found.keys() == start.keys()
        assert sum(not same(found[path], start[path]) for path in start) == 1


def test_a_starts_neighbours_come_next_the_variables_in_turn() -> None:
    space = declared(
        {
            "x": {"float": [0, 1]},
            "model": {"choice": ["m", "n", "o"]},
            "module": {"module": ["predict", "chain_of_thought"]},
        },
        [
            {
                "name": "no-o",
                "rule": {"variable": "model", "op": "!=", "value": "o"},
            }
        ],
    )
    start = {"x": 0.5, "model": "n", "module": "predict"}
    asked = study(space, start=start).ask(8)
    assert [(p.made_by, p.configuration) for p in asked[:3]] == [
        ("start", start),
        ("neighbour", start | {"model": "m"}),
        ("neighbour", start | {"module": "chain_of_thought"}),
    ]
    assert {p.made_by for p in asked[3:]} == {"sobol"}
    assert [p.made_by for p in study(space, start=start, initial=4).ask(4)] == [
        "start",
        "neighbour",
        "sobol",
        "sobol",
    ]


def test_without_a_start_it_is_the_defaults_where_they_are_valid() -> None:
    space = declared({"x": {"float": [0, 1], "default": 0.25}})
    assert study(space).ask(1)[0] == Proposal(1, {"x": 0.25}, "start")
    narrow = declared(
        {"x": {"float": [0, 1], "default": 0.25}},
        [{"name": "high", "rule": {"variable": "x", "op": ">", "value": 0.5}}],
    )
    assert study(narrow).ask(1)[0].made_by == "sobol"


def test_a_small_space_is_exhausted() -> None:
    searched = study(SMALL)
    assert len(searched.ask(50)) == 6
    assert searched.ask(1) == []


def test_an_empty_space_has_one_configuration() -> None:
    assert [p.configuration for p in study(Space()).ask(4)] == [{}]


def test_more_is_asked_before_all_is_told() -> None:
    searched = study(LINE)
    first = searched.ask(12)
    searched.tell(first[3].number, {"accuracy": 0.5, "cost": 0.1})
    again = searched.ask(12)
    assert len({content_hash(p.configuration) for p in [*first, *again]}) == 24


@settings(max_examples=25)
@given(
    st.lists(st.none() | st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=20),
    st.booleans(),
)
def test_the_front_is_what_its_definition_says(
    outcomes: Sequence[tuple[int, int] | None], limited: bool
) -> None:
    limits = (Limit(name="cost", at_most=2.0),) if limited else ()
    searched = Study(LINE, BOTH, limits, seed=0, sampler="random")
    for proposal, outcome in zip(searched.ask(len(outcomes)), outcomes, strict=True):
        found = None if outcome is None else dict(zip(("accuracy", "cost"), outcome, strict=True))
        searched.tell(proposal.number, found)

    def outside(cost: int) -> float:
        return max(0.0, (cost - 2) / 2) if limited else 0.0

    def beats(one: tuple[int, int], other: tuple[int, int]) -> bool:
        if outside(one[1]) or outside(other[1]):
            return outside(one[1]) < outside(other[1])
        return one[0] >= other[0] and one[1] <= other[1] and one != other

    whole = {number: each for number, each in enumerate(outcomes, start=1) if each is not None}
    expected = tuple(
        number
        for number, each in whole.items()
        if not any(beats(other, each) for other in whole.values())
    )
    assert searched.front() == expected
    assert (searched.pick() in expected) if expected else (searched.pick() is None)


def test_the_hypervolume_never_shrinks_and_is_measured_from_one_place() -> None:
    searched = study(LINE, initial=8)
    told(searched, 2, 8)
    reference, marks = searched.reference, searched.hypervolume()
    told(searched, 3, 8)
    assert searched.reference == reference
    assert searched.hypervolume()[: len(marks)] == marks
    values = [mark.value for mark in searched.hypervolume()]
    assert values == sorted(values)
    within = [t.figures for t in searched.told if t.figures is not None and not t.violation]
    assert reference is not None
    whole = pareto.hypervolume(within, tuple(reference.values()), BOTH)
    assert values[-1] == pytest.approx(whole)


def test_one_objective_has_a_best_and_a_patience() -> None:
    searched = Study(LINE, (ACCURACY,), seed=0, sampler="tpe", initial=4)
    for number, value in enumerate((0.2, 0.8, None, 0.5, 0.8), start=1):
        (proposal,) = searched.ask(1)
        searched.tell(number, None if value is None else {"accuracy": value})
        assert proposal.number == number
    assert searched.front() == (2, 5)
    assert searched.best() == 2
    assert searched.since_better() == 3
    assert searched.hypervolume()[2] == HypervolumeMark(
        trials=3, value=searched.hypervolume()[1].value
    )


def test_before_anything_succeeded_there_is_nothing() -> None:
    searched = Study(LINE, (ACCURACY,), seed=0)
    assert (searched.front(), searched.best(), searched.pick()) == ((), None, None)
    assert (searched.reference, searched.hypervolume(), searched.since_better()) == (None, (), 0)
    told_all = searched.ask(20)
    for proposal in told_all:
        searched.tell(proposal.number, None)
    assert len(searched.ask(5)) == 5
    assert (searched.front(), searched.since_better()) == ((), 20)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_an_objective_that_is_no_number_is_a_failure(odd: float) -> None:
    searched = study(LINE)
    searched.ask(2)
    searched.tell(1, {"accuracy": odd, "cost": 0.1})
    searched.tell(2, {"accuracy": 0.1, "cost": 0.1})
    assert searched.front() == (2,)
    assert searched.told[0].figures is None


def test_a_limit_that_was_not_measured_is_broken() -> None:
    slow = Limit(name="latency_ms", at_most=100.0)
    searched = Study(LINE, BOTH, (slow,), seed=0)
    for proposal in searched.ask(20):
        late = math.nan if proposal.number % 2 else 50.0
        points = {"accuracy": 0.5 + late / 1000 if proposal.number % 2 else 0.5, "cost": 0.1}
        searched.tell(proposal.number, {**points, "accuracy": 0.9, "latency_ms": late})
    assert all(number % 2 == 0 for number in searched.front())
    assert len(searched.ask(8)) == 8


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (lambda: Study(NEVER, BOTH, seed=0), "constraints"),
        (lambda: Study(LINE, (), seed=0), "objectives"),
        (lambda: Study(LINE, (COST, COST), seed=0), "objectives"),
        (lambda: Study(LINE, BOTH, seed=0, sampler="best"), "sampler"),  # type: ignore[arg-type]
        (lambda: Study(LINE, BOTH, seed=0, start={"x": 2.0, "y": 0.0}), "x"),
        (lambda: Study(LINE, BOTH, seed=0, growing=("x",)), "x"),
        (lambda: Study(LINE, BOTH, seed=0).ask(0), "n"),
        (lambda: Study(LINE, BOTH, seed=0).tell(1, None), "number"),
        (lambda: Study(LINE, BOTH, seed=0).extend("z", "new"), "z"),
        (lambda: Study(LINE, BOTH, seed=0).best(), "objectives"),
    ],
)
def test_what_is_wrong_is_named(wrong: Any, field: str) -> None:
    with pytest.raises(Invalid) as raised:
        wrong()
    assert raised.value.field == field
    assert raised.value.rule


def test_a_trial_is_told_once_and_whole() -> None:
    searched = study(LINE)
    searched.ask(2)
    with pytest.raises(Invalid, match="figure 'cost' is missing"):
        searched.tell(1, {"accuracy": 0.5})
    searched.tell(1, None)
    with pytest.raises(Invalid, match="trial 1 was told already"):
        searched.tell(1, None)


POOLS = declared({"demos": {"kind": "choice", "choices": ["d0"]}, "k": {"integer": [0, 3]}})


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_pool_may_grow_in_between(sampler: SamplerName) -> None:
    searched = study(POOLS, sampler=sampler)
    told(searched, 2, 2)
    for number in range(1, 20):
        searched.extend("demos", f"d{number}")
        searched.extend("demos", f"d{number}")
    found = told(searched, 8, 4)
    assert len({p.configuration["demos"] for p in found}) > 2
    assert all(check(searched.space, p.configuration).valid for p in found)


def test_a_pool_inside_a_composite_may_grow() -> None:
    space = Space.model_validate(
        {"variables": {"draft": {"parts": {"demos": {"choices": ["d0"]}}}}}
    )
    searched = study(space)
    searched.extend("draft.demos", "d1")
    assert [p.configuration["draft.demos"] for p in searched.ask(5)] == ["d0", "d1"]
    assert space.leaves()[0].variable.choices == ("d0",)  # type: ignore[union-attr]


@pytest.mark.parametrize("sampler", ["portfolio", "nsga2"])
def test_new_members_are_minted_the_same_again(sampler: SamplerName) -> None:
    def grown() -> tuple[list[Proposal], list[object]]:
        made: list[tuple[str, ...]] = []

        def mint(kind: str, path: str, parents: tuple[str, ...]) -> str:
            made.append(parents)
            return f"{kind}{len(made)}"

        searched = study(POOLS, sampler=sampler, growing=("demos",), mint=mint)
        found = told(searched, 6, 6)
        known = searched.space.leaves()[0].variable.choices  # type: ignore[union-attr]
        assert {p.configuration["demos"] for p in found} <= set(known)
        assert len(known) == 1 + len(made)
        assert {member for parents in made for member in parents} <= set(known)
        return found, list(known)

    first = grown()
    assert first == grown()
    assert len(first[1]) > 3


@pytest.mark.parametrize("best", ARMS)
def test_the_arm_that_gains_leads_and_none_gets_nothing(best: str) -> None:
    def found(number: int) -> Told:
        made_by = ARMS[number % len(ARMS)]
        return Told(number, {}, made_by, (number if made_by == best else 0.5,))

    scene = Scene(lambda: LINE, (ACCURACY,), [found(k) for k in range(1, 40)], (), None)
    shares = dict(zip(ARMS, arm_shares(scene), strict=True))
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) >= 0.1
    assert shares[best] > 0.5
    assert max(shares, key=lambda arm: shares[arm]) == best


def test_where_nothing_is_known_the_arms_are_equal() -> None:
    outside = [Told(k, {}, ARMS[1], (0.5,), (1.0,)) for k in range(1, 9)]
    for told_before in ([], outside):
        shares = arm_shares(Scene(lambda: LINE, (ACCURACY,), told_before, (), None))
        assert shares == pytest.approx([0.25] * 4)
