"""Races: who is dropped and why, what it costs, and that the order of arrival does not matter."""

from __future__ import annotations

import math
import random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.errors import Invalid
from dspex_ray.stats.racing import Dropped, Plan, Race, Standing, Wanted, rungs_of

Scores = npt.NDArray[np.float64]  # a row a candidate, a column an example


def names(n: int) -> tuple[str, ...]:
    return tuple(f"c{row}" for row in range(n))


def plan_for(
    scores: Scores,
    *,
    first: int = 5,
    incumbent: str | None = None,
    eta: float = 2.0,
    alpha: float = 0.05,
) -> Plan:
    examples = tuple(range(scores.shape[1]))
    rungs = rungs_of(len(examples), min(first, len(examples)))
    return Plan(names(len(scores)), examples, rungs, incumbent, eta, alpha=alpha)


def run(plan: Plan, scores: Scores, order: random.Random | None = None) -> tuple[Race, int]:
    """The finished race and how many scores it asked for, told one by one, shuffled by `order`."""
    race, asked = Race(plan), 0
    while wanted := race.next():
        pairs = [(name, example) for name, examples in wanted for example in examples]
        asked += len(pairs)
        if order is not None:
            order.shuffle(pairs)
        for name, example in pairs:
            race.told(name, {example: float(scores[plan.candidates.index(name), example])})
    return race, asked


@st.composite
def races(draw: st.DrawFn) -> tuple[Plan, Scores]:
    rows, columns = draw(st.integers(1, 8)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    steps = draw(st.sampled_from([1, 2, 10]))
    scores = np.round(rng.random((rows, columns)) * steps) / steps
    incumbent = draw(st.sampled_from([None, "c0", f"c{rows - 1}"]))
    eta = draw(st.sampled_from([1.0, 1.5, 2.0, 4.0]))
    return plan_for(scores, first=draw(st.integers(1, 9)), incumbent=incumbent, eta=eta), scores


def test_a_race_by_hand() -> None:
    scores = np.array([[1.0] * 8, [0.0] * 8, [1, 1, 1, 0, 1, 1, 1, 0], [0, 0, 1, 0, 0, 0, 0, 0]])
    race = Race(Plan(("a", "b", "c", "d"), tuple(range(8)), (4, 8)))
    assert race.standing == tuple(Standing(name, 0.0, 0) for name in "abcd")
    assert race.next() == [Wanted(name, (0, 1, 2, 3)) for name in "abcd"]
    for row, name in enumerate("abcd"):
        race.told(name, dict(enumerate(scores[row, :4])))
    assert race.standing == (Standing("a", 1.0, 4), Standing("c", 0.75, 4))
    assert [(drop.candidate, drop.reason) for drop in race.dropped] == [
        ("d", "halved"),
        ("b", "halved"),
    ]
    last = race.dropped[1]
    assert last == Dropped("b", "halved", 4, 0.0, "a", 1.0, last.e_value, last.threshold)
    assert (last.e_value, last.threshold) == pytest.approx((31 / 5, 60))
    assert race.next() == [Wanted("a", (4, 5, 6, 7)), Wanted("c", (4, 5, 6, 7))]
    assert race.winner is None
    race.told("c", {4: 1, 5: 1, 6: 1, 7: 0})
    assert race.next() == [Wanted("a", (4, 5, 6, 7))]
    race.told("a", {4: 1, 5: 1, 6: 1, 7: 1})
    assert race.over
    assert race.next() == []
    assert race.winner == "a"
    assert race.standing == (Standing("a", 1.0, 8), Standing("c", 0.75, 8))
    assert race.against_incumbent() is None


def test_a_clear_loser_goes_early_and_the_winner_still_runs_to_the_end() -> None:
    scores = np.array([[1.0] * 60, [0.0] * 60])
    race, asked = run(plan_for(scores, first=10, eta=1.0, incumbent="c0"), scores)
    assert [(d.candidate, d.reason, d.n, d.leader) for d in race.dropped] == [
        ("c1", "clear_loser", 10, "c0")
    ]
    assert race.dropped[0].e_value == pytest.approx((2**11 - 1) / 11)
    assert race.dropped[0].threshold == pytest.approx(20)
    assert asked == 70
    assert race.standing == (Standing("c0", 1.0, 60),)


def test_the_incumbent_stays_and_the_winner_is_compared_with_it() -> None:
    scores = np.vstack([np.zeros(40), np.ones(40), np.full(40, 0.5), np.full(40, 0.4)])
    race, _ = run(plan_for(scores, incumbent="c0"), scores)
    assert race.winner == "c1"
    assert [standing.candidate for standing in race.standing] == ["c1", "c0"]
    comparison = race.against_incumbent()
    assert comparison is not None
    assert (comparison.n, comparison.estimate, comparison.higher) == (40, 1.0, 40)
    assert comparison.p < 1e-9


def test_equals_leave_the_incumbent_in_place() -> None:
    scores = np.full((3, 12), 0.5)
    race, _ = run(plan_for(scores, incumbent="c2"), scores)
    assert race.winner == "c2"
    assert race.against_incumbent() is None
    assert run(plan_for(scores), scores)[0].winner == "c0"


def test_sixteen_candidates_cost_less_than_half() -> None:
    scores = np.tile(np.linspace(0, 1, 16)[:, None], (1, 40))
    race, asked = run(plan_for(scores, first=10), scores)
    assert race.plan.rungs == (10, 20, 40)
    assert race.plan.most_scores == 16 * 10 + 8 * 10 + 4 * 20
    assert asked <= race.plan.most_scores
    assert race.winner == "c15"


@given(races())
def test_the_plan_is_never_exceeded(case: tuple[Plan, Scores]) -> None:
    plan, scores = case
    race, asked = run(plan, scores)
    assert asked <= plan.most_scores <= scores.size
    left = {standing.candidate for standing in race.standing}
    assert left | {drop.candidate for drop in race.dropped} == set(plan.candidates)
    assert len(left) + len(race.dropped) == len(plan.candidates)
    assert plan.incumbent is None or plan.incumbent in left
    assert race.winner in left
    assert all(standing.n == len(plan.examples) for standing in race.standing)


@given(races(), st.integers())
def test_the_order_of_arrival_does_not_matter(case: tuple[Plan, Scores], seed: int) -> None:
    plan, scores = case
    one, asked = run(plan, scores)
    other, also_asked = run(plan, scores, random.Random(seed))
    assert (one.standing, one.dropped, asked) == (other.standing, other.dropped, also_asked)


@given(races(), st.integers())
def test_scores_known_beforehand_change_nothing_but_the_cost(
    case: tuple[Plan, Scores], seed: int
) -> None:
    """A cache, or a run resumed after a crash, tells all it has at once, in any order."""
    plan, scores = case
    race = Race(plan)
    rows = random.Random(seed).sample(range(len(scores)), len(scores))
    for row in rows:
        race.told(plan.candidates[row], dict(enumerate(scores[row].tolist())))
        race.told(plan.candidates[row], dict(enumerate(scores[row].tolist())))
    assert race.next() == []
    expected, _ = run(plan, scores)
    assert (race.standing, race.dropped) == (expected.standing, expected.dropped)


def test_the_last_score_of_one_who_leaves_lets_all_the_others_go_on() -> None:
    race = Race(Plan(("a", "b"), (0, 1, 2, 3), (2, 4)))
    race.told("a", dict.fromkeys(range(4), 0.9))
    race.told("b", {0: 0.1, 1: 0.1})
    assert (race.over, race.winner) == (True, "a")
    race.told("b", {2: 0.1})  # late: it was already asked elsewhere
    assert [drop.n for drop in race.dropped] == [2]


@given(st.integers(2, 12), st.integers(1, 40), st.integers(0, 2**32), st.booleans())
def test_without_noise_the_best_always_wins(
    rows: int, columns: int, seed: int, halving: bool
) -> None:
    """Each score is the candidate's quality less the example's difficulty."""
    rng = np.random.default_rng(seed)
    quality = rng.permutation(np.linspace(0.5, 1.0, rows))
    scores = quality[:, None] - rng.random(columns)[None, :] * 0.5
    race, _ = run(plan_for(scores, eta=2.0 if halving else 1.0), scores)
    assert race.winner == f"c{int(np.argmax(quality))}"


@pytest.mark.parametrize("lead", [0.0, 0.05])
def test_the_best_is_called_a_clear_loser_within_alpha(lead: float) -> None:
    """Eight candidates, the best ahead by `lead`, 0/1 scores on 80 examples, six looks."""
    rng = np.random.default_rng(17)
    alpha, wrong = 0.2, 0
    for _ in range(120):
        quality = np.array([0.5 + lead] + [0.5] * 7)
        scores = (rng.random((8, 80)) < quality[:, None]).astype(float)
        race, _ = run_rungs(scores, (5, 10, 20, 40, 60, 80), alpha)
        wrong += any(drop.candidate == "c0" for drop in race.dropped)
    assert wrong <= alpha * 120


def test_poor_candidates_are_found_out() -> None:
    """Power: 90 % against 40 % on 100 examples leaves no doubt, nearly always before the end."""
    rng = np.random.default_rng(18)
    asked = []
    for _ in range(40):
        scores = (rng.random((6, 100)) < np.array([[0.9]] + [[0.4]] * 5)).astype(float)
        race, scored = run_rungs(scores, (10, 20, 40, 100), 0.05)
        assert race.winner == "c0"
        assert all(drop.reason == "clear_loser" for drop in race.dropped)
        asked.append(scored)
    assert np.mean(asked) < 0.6 * 600


def run_rungs(scores: Scores, rungs: tuple[int, ...], alpha: float) -> tuple[Race, int]:
    """A race without halving, each rung told at once."""
    plan = Plan(names(len(scores)), tuple(range(scores.shape[1])), rungs, eta=1.0, alpha=alpha)
    race, asked = Race(plan), 0
    while wanted := race.next():
        for name, examples in wanted:
            row = scores[plan.candidates.index(name)]
            race.told(name, {example: float(row[example]) for example in examples})
            asked += len(examples)
    return race, asked


@pytest.mark.parametrize(
    ("examples", "first", "eta", "expected"),
    [
        (40, 10, 2, (10, 20, 40)),
        (50, 10, 2, (10, 20, 50)),
        (10, 10, 2, (10,)),
        (3, 10, 2, (3,)),
        (5, 1, 1.2, (1, 2, 3, 4, 5)),
        (1, 1, 2, (1,)),
    ],
)
def test_rungs(examples: int, first: int, eta: float, expected: tuple[int, ...]) -> None:
    assert rungs_of(examples, first, eta) == expected


@given(st.integers(1, 500), st.integers(1, 500), st.floats(1.01, 9))
def test_rungs_make_a_plan(examples: int, first: int, eta: float) -> None:
    plan = Plan(("a",), tuple(range(examples)), rungs_of(examples, first, eta))
    assert plan.most_scores == examples


@pytest.mark.parametrize(
    ("examples", "first", "eta"), [(0, 1, 2), (5, 0, 2), (5, 1, 1), (5, 1, math.nan)]
)
def test_rungs_refused(examples: int, first: int, eta: float) -> None:
    with pytest.raises(Invalid) as refused:
        rungs_of(examples, first, eta)
    assert refused.value.field == "rungs"


GOOD: dict[str, object] = {"candidates": ("a", "b"), "examples": (3, 1), "rungs": (1, 2)}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"candidates": ()}, "at least one"),
        ({"candidates": ("a", "a")}, "no name twice"),
        ({"examples": (1, 1)}, "no example twice"),
        ({"rungs": ()}, "growing from 1 or more to the number of examples"),
        ({"rungs": (2, 2)}, "growing from 1 or more to the number of examples"),
        ({"rungs": (0, 2)}, "growing from 1 or more to the number of examples"),
        ({"rungs": (1,)}, "growing from 1 or more to the number of examples"),
        ({"incumbent": "z"}, "one of the candidates"),
        ({"eta": 0.5}, "1 or more"),
        ({"eta": math.nan}, "1 or more"),
        ({"finalists": 0}, "1 or more"),
        ({"alpha": 1.0}, "above 0 and below 1"),
    ],
)
def test_plans_refused(change: dict[str, object], rule: str) -> None:
    with pytest.raises(Invalid) as refused:
        Plan(**(GOOD | change))  # type: ignore[arg-type]
    assert (refused.value.field, refused.value.rule) == (next(iter(change)), rule)


@pytest.mark.parametrize(
    ("candidate", "scores", "field", "rule"),
    [
        ("z", {1: 0.5}, "candidate", "a candidate of the plan"),
        ("a", {1: 0.5, 9: 0.5}, "scores", "examples of the plan"),
        ("a", {1: 0.5, 3: math.nan}, "scores", "between 0 and 1"),
        ("a", {1: 1.5}, "scores", "between 0 and 1"),
        ("b", {1: 0.5, 3: 0.9}, "scores", "one score a candidate and example"),
    ],
)
def test_scores_refused(candidate: str, scores: dict[int, float], field: str, rule: str) -> None:
    race = Race(Plan(("a", "b"), (3, 1), (1, 2)))
    race.told("b", {3: 0.1})
    with pytest.raises(Invalid) as refused:
        race.told(candidate, scores)
    assert (refused.value.field, refused.value.rule) == (field, rule)
    assert race.next() == [Wanted("a", (3,))]
    race.told("a", {3: 0.1})
    assert race.next() == [Wanted("a", (1,))]
