"""Intervals match published figures, stay in range, and cover the truth as often as they say."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dspex_ray.core.errors import Invalid
from dspex_ray.stats.intervals import (
    Interval,
    Spread,
    amount_interval,
    mean_interval,
    spread,
    wilson,
)

SCORES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(9, 10, 0.5958, 0.9821), (0, 30, 0.0, 0.1135), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_published(successes: int, n: int, low: float, high: float) -> None:
    found = wilson(successes, n)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


@given(n=st.integers(1, 2_000), share=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
def test_wilson_is_scipys(n: int, share: float, confidence: float) -> None:
    k = round(share * n)
    theirs = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    ours = wilson(k, n, confidence)
    assert ours.low == pytest.approx(theirs.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.high, abs=1e-12)


def test_wilson_of_nothing_is_everything() -> None:
    assert wilson(0, 0) == Interval(low=0.0, high=1.0)


@pytest.mark.parametrize(
    ("successes", "n"), [(3, 2), (-1, 2), (math.nan, 2), (0, math.inf), (0, -1)]
)
def test_wilson_refuses(successes: float, n: float) -> None:
    with pytest.raises(Invalid) as refused:
        wilson(successes, n)
    assert (refused.value.field, refused.value.rule) == ("successes", "0 <= successes <= n")


@given(SCORES)
def test_a_mean_lies_in_its_interval_and_that_in_the_range(scores: list[float]) -> None:
    found = mean_interval(scores)
    assert 0.0 <= found.low <= found.high <= 1.0
    assert found.low - 1e-12 <= np.mean(scores) <= found.high + 1e-12


@given(SCORES, st.randoms(use_true_random=False))
def test_the_order_of_scores_does_not_matter(scores: list[float], random: object) -> None:
    shuffled = sorted(scores)
    one, other = mean_interval(scores), mean_interval(shuffled)
    assert one.low == pytest.approx(other.low, abs=1e-6)
    assert one.high == pytest.approx(other.high, abs=1e-6)


def test_a_mean_of_zeros_and_ones_is_a_share() -> None:
    assert mean_interval([1.0] * 9 + [0.0]) == wilson(9, 10)


@pytest.mark.parametrize("score", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("n", [1, 7])
def test_scores_all_alike_are_no_certainty(score: float, n: int) -> None:
    found = mean_interval([score] * n)
    assert found == wilson(float(np.mean([score] * n)) * n, n)
    assert found.high - found.low > 0.3


Draw = Callable[[np.random.Generator, tuple[int, int]], npt.NDArray[np.float64]]

DRAWS: dict[str, tuple[Draw, float]] = {
    "peaked": (lambda rng, size: rng.beta(8, 2, size), 0.8),
    "piled at 1": (lambda rng, size: np.where(rng.random(size) < 0.8, 1, rng.random(size)), 0.9),
    "binary": (lambda rng, size: (rng.random(size) < 0.9).astype(float), 0.9),
    "rubric": (lambda rng, size: rng.choice([0.2, 0.6, 1.0], p=[0.1, 0.4, 0.5], size=size), 0.76),
}


@pytest.mark.parametrize("n", [5, 20, 100])
@pytest.mark.parametrize("shape", DRAWS)
def test_the_truth_is_covered(shape: str, n: int) -> None:
    draw, truth = DRAWS[shape]
    rows = draw(np.random.default_rng(7), (600, n)).tolist()
    covered = sum(truth in mean_interval(row) for row in rows)
    assert covered >= 0.90 * 600  # nominal 570; measured 548 to 585


@pytest.mark.parametrize("scores", [[], [0.5, math.nan], [1.5], [-0.1], [math.inf]])
def test_scores_out_of_range_are_refused(scores: list[float]) -> None:
    with pytest.raises(Invalid) as refused:
        mean_interval(scores)
    assert refused.value.field == "scores"


def test_a_refusal_says_which_value() -> None:
    with pytest.raises(Invalid, match=r"scores\[1\] is 1.5") as refused:
        mean_interval([0.5, 1.5])
    assert refused.value.rule == "between 0 and 1"


ASKS: list[Callable[[float], object]] = [
    lambda confidence: wilson(1, 2, confidence),
    lambda confidence: mean_interval([0.5], confidence),
    lambda confidence: amount_interval([0.5], confidence),
]


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, math.nan])
@pytest.mark.parametrize("ask", ASKS)
def test_confidence_lies_between(ask: Callable[[float], object], confidence: float) -> None:
    with pytest.raises(Invalid) as refused:
        ask(confidence)
    assert (refused.value.field, refused.value.rule) == ("confidence", "above 0 and below 1")


SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]  # Student 1908: differences


def test_amounts_have_students_interval() -> None:
    found = amount_interval(SLEEP)
    assert found is not None
    assert (round(found.low, 4), round(found.high, 4)) == (0.7001, 2.4599)


def test_one_amount_has_none_and_equal_ones_no_width() -> None:
    assert amount_interval([]) is None
    assert amount_interval([3.0]) is None
    assert amount_interval([3.0, 3.0]) == Interval(low=3.0, high=3.0)


def test_spread() -> None:
    found = spread(range(1, 102))
    assert found == Spread(
        n=101,
        mean=51.0,
        std_dev=math.sqrt(858.5),
        min=1.0,
        p50=51.0,
        p90=91.0,
        p95=96.0,
        p99=100.0,
        max=101.0,
    )
    assert spread([2.0]).std_dev == 0.0


def test_spread_of_nothing_is_refused() -> None:
    with pytest.raises(Invalid) as refused:
        spread([])
    assert refused.value.rule == "one axis with at least one value"


def test_an_interval_is_in_order() -> None:
    assert 0.5 in Interval(low=0.0, high=0.5)
    assert 0.6 not in Interval(low=0.0, high=0.5)
    with pytest.raises(ValueError, match=r"low 1\.0 must not be above high 0\.0"):
        Interval(low=1.0, high=0.0)
