"""Fronts, ranks and volumes against their definitions, drawn at random and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dspex_ray.core.errors import Invalid
from dspex_ray.core.objectives import Limit, Objective
from dspex_ray.stats.pareto import (
    crowding,
    dominates,
    domination,
    front,
    hypervolume,
    normalised,
    ranks,
    reference_point,
    weighted,
    weighted_pick,
)

ACCURACY = Objective(name="accuracy", weight=0.6)
LATENCY = Objective(name="latency_ms", direction="minimize", weight=0.2)
COST = Objective(name="cost_usd", direction="minimize", weight=0.2)
ALL = (ACCURACY, LATENCY, COST)

FIGURES = st.one_of(st.integers(-3, 3).map(float), st.sampled_from([math.inf, -math.inf]))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[float]], tuple[Objective, ...], list[float]]:
    """Few distinct figures, so that duplicates and ties are common; infinite ones among them."""
    objectives = ALL[: draw(st.integers(1, 3))]
    row = st.lists(FIGURES, min_size=len(objectives), max_size=len(objectives))
    points = draw(st.lists(row, max_size=12))
    outside = st.lists(
        st.sampled_from([0.0, 0.0, 0.5, 1.0]), min_size=len(points), max_size=len(points)
    )
    return points, objectives, draw(outside)


def beats(a: list[float], b: list[float], objectives: tuple[Objective, ...]) -> bool:
    """The definition, one figure at a time."""
    better = worse = False
    for mine, theirs, objective in zip(a, b, objectives, strict=True):
        lead = (mine > theirs) - (mine < theirs)
        if objective.direction == "minimize":
            lead = -lead
        better |= lead > 0
        worse |= lead < 0
    return better and not worse


def beats_within(
    points: list[list[float]],
    outside: list[float],
    i: int,
    j: int,
    objectives: tuple[Objective, ...],
) -> bool:
    if outside[i] == outside[j] == 0:
        return beats(points[i], points[j], objectives)
    return outside[i] < outside[j]


@given(problems())
def test_domination_is_its_definition(
    problem: tuple[list[list[float]], tuple[Objective, ...], list[float]],
) -> None:
    points, objectives, outside = problem
    plain, bound = domination(points, objectives), domination(points, objectives, outside)
    for i in range(len(points)):
        for j in range(len(points)):
            assert plain[i, j] == beats(points[i], points[j], objectives)
            assert plain[i, j] == dominates(points[i], points[j], objectives)
            assert bound[i, j] == beats_within(points, outside, i, j, objectives)


@given(problems())
def test_ranks_are_fronts_peeled_one_by_one(
    problem: tuple[list[list[float]], tuple[Objective, ...], list[float]],
) -> None:
    points, objectives, outside = problem
    found = ranks(points, objectives, outside)
    left = list(range(len(points)))
    rank = 0
    while left:
        peel = [
            j
            for j in left
            if not any(beats_within(points, outside, i, j, objectives) for i in left)
        ]
        assert [row for row, its in enumerate(found) if its == rank] == peel
        left = [row for row in left if row not in peel]
        rank += 1
    assert front(points, objectives, outside) == tuple(
        row for row, its in enumerate(found) if its == 0
    )


def test_the_front_of_a_day() -> None:
    points = [
        [0.9, 800, 0.02],
        [0.7, 200, 0.01],
        [0.7, 300, 0.01],
        [0.5, 100, 0.001],
        [0.9, 800, 0.02],
    ]
    assert front(points, ALL) == (0, 1, 3, 4)
    assert ranks(points, ALL) == (0, 0, 1, 0, 0)
    slow = [Limit(name="latency_ms", at_most=400).violation(row[1]) for row in points]
    assert slow == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert front(points, ALL, slow) == (1, 3)
    assert ranks(points, ALL, slow) == (2, 0, 1, 0, 2)


def test_none_within_the_limits() -> None:
    assert front([[0.9], [0.1], [0.5]], [ACCURACY], [2.0, 1.0, 1.0]) == (1, 2)


def test_nothing_has_an_empty_front() -> None:
    assert front([], ALL) == ()
    assert ranks([], ALL) == ()
    assert crowding([], ALL) == ()
    assert hypervolume([], [0, 1, 1], ALL) == 0.0
    assert normalised([], ALL).shape == (0, 3)


def test_crowding() -> None:
    two = (ACCURACY, LATENCY)
    assert crowding([[0, 0], [1, 1], [2, 2], [4, 4]], two) == (math.inf, 1.0, 1.5, math.inf)
    assert crowding([[1, 2]], two) == (0.0,)
    assert crowding([[1, 5], [1, 5], [1, 5]], two) == (0.0, 0.0, 0.0)


BOX = st.lists(st.lists(st.integers(0, 6).map(float), min_size=3, max_size=3), max_size=7)


def by_inclusion_exclusion(points: list[list[float]], corner: list[float]) -> float:
    total = 0.0
    for size in range(1, len(points) + 1):
        for chosen in combinations(points, size):
            sides = np.array(corner) - np.max(chosen, axis=0)
            total -= (-1) ** size * float(np.prod(np.maximum(sides, 0)))
    return total


@given(BOX, st.integers(1, 3))
def test_hypervolume_is_inclusion_and_exclusion(points: list[list[float]], k: int) -> None:
    objectives = [Objective(name=f"o{n}", direction="minimize") for n in range(k)]
    rows = [row[:k] for row in points]
    assert hypervolume(rows, [5.0] * k, objectives) == by_inclusion_exclusion(rows, [5.0] * k)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_hypervolume_is_the_share_of_random_points_dominated(k: int) -> None:
    rng = np.random.default_rng(k)
    points = rng.random((15, k))
    objectives = [Objective(name=f"o{n}") for n in range(k)]
    samples = rng.random((100_000, k))
    under = np.all(samples[:, None, :] <= points[None, :, :], axis=2)
    hit = float(np.any(under, axis=1).mean())
    assert hypervolume(points, [0.0] * k, objectives) == pytest.approx(hit, abs=0.006)


@given(BOX, st.lists(st.integers(0, 6).map(float), min_size=3, max_size=3))
def test_another_point_never_lowers_the_volume(points: list[list[float]], one: list[float]) -> None:
    corner = [7.0, 7.0, 7.0]
    objectives = [Objective(name=name, direction="minimize") for name in "abc"]
    before, after = (hypervolume(rows, corner, objectives) for rows in (points, [*points, one]))
    news = not any(all(a <= b for a, b in zip(row, one, strict=True)) for row in points)
    assert (after > before) == news


def test_the_volume_ignores_what_is_beyond_the_reference() -> None:
    two = (ACCURACY, COST)
    assert hypervolume([[0.5, 2.0], [0.5, math.inf]], [0.0, 1.0], two) == 0.0
    assert hypervolume([[0.5, 0.5], [0.9, 2.0]], [0.0, 1.0], two) == 0.25


def test_reference_point() -> None:
    assert reference_point([[0.9, 100.0], [0.4, 300.0]], (ACCURACY, LATENCY)) == pytest.approx(
        (0.35, 320.0)
    )
    assert reference_point([[0.5]], [ACCURACY]) == (0.4,)


def test_normalised_and_weighted() -> None:
    points = [[0.9, 800.0, 0.02], [0.7, 200.0, 0.02], [0.4, 500.0, 0.02]]
    expected = [[1.0, 0.0, 1.0], [0.6, 1.0, 1.0], [0.0, 0.5, 1.0]]
    assert normalised(points, ALL) == pytest.approx(np.array(expected))
    assert weighted(points, ALL) == pytest.approx((0.8, 0.76, 0.3))
    assert weighted_pick(points, ALL) == 0
    assert weighted_pick(points, ALL, [1.0, 0.0, 0.0]) == 1


@given(
    st.lists(st.lists(st.integers(0, 4).map(float), min_size=3, max_size=3), min_size=1, max_size=9)
)
def test_the_pick_is_of_the_front(points: list[list[float]]) -> None:
    assert weighted_pick(points, ALL) in front(points, ALL)


def test_equal_points_pick_the_first() -> None:
    assert weighted_pick([[0.5, 1, 1]] * 3, ALL) == 0


REFUSED: list[tuple[Callable[[], object], str, str]] = [
    (lambda: front([[1.0]], []), "objectives", "at least one"),
    (lambda: front([[1.0]], ALL), "points", "a row a candidate, a column an objective"),
    (lambda: front([[math.nan]], [ACCURACY]), "points", "numbers only"),
    (lambda: front([[1.0]], [ACCURACY], [-1.0]), "violations", "one figure of 0 or more a point"),
    (lambda: front([[1.0]], [ACCURACY], []), "violations", "one figure of 0 or more a point"),
    (lambda: crowding([[math.inf]], [ACCURACY]), "points", "finite"),
    (lambda: normalised([[math.inf]], [ACCURACY]), "points", "finite"),
    (lambda: hypervolume([[math.inf]], [0.0], [ACCURACY]), "points", "finite"),
    (lambda: hypervolume([[1.0]], [-math.inf], [ACCURACY]), "reference", "finite"),
    (lambda: weighted_pick([], [ACCURACY]), "points", "at least one"),
    (lambda: reference_point([], [ACCURACY]), "points", "at least one"),
    (
        lambda: weighted([[1.0]], [Objective(name="a", weight=0)]),
        "objectives.weight",
        "one weight above 0",
    ),
]


@pytest.mark.parametrize(("ask", "field", "rule"), REFUSED)
def test_refusals(ask: Callable[[], object], field: str, rule: str) -> None:
    with pytest.raises(Invalid) as refused:
        ask()
    assert (refused.value.field, refused.value.rule) == (field, rule)


def test_limits() -> None:
    limit = Limit(name="p95_ms", at_least=100, at_most=800)
    assert [limit.violation(figure) for figure in (50, 100, 800, 1000)] == [0.5, 0.0, 0.0, 0.25]
    assert Limit(name="errors", at_most=0).violation(3) == 3.0
    assert limit.violation(math.nan) == math.inf


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "at_least or at_most must be given"),
        ({"at_least": 2, "at_most": 1}, "at_least 2.0 must not be above at_most 1.0"),
    ],
)
def test_limits_that_say_nothing(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Limit(name="x", **fields)
