"""Paired comparisons: published examples, scipy's own tests, and the rates they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dspex_ray.core.errors import Invalid
from dspex_ray.core.evidence import Comparison, Interval
from dspex_ray.stats import paired
from dspex_ray.stats.paired import compare_amounts, compare_scores, mcnemar, wilcoxon

# Student (1908), The probable error of a mean: hours of sleep gained by two drugs.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

# Bentur et al. (2009) in Fagerland et al. (2013): airway hyperresponsiveness before and after.
BEFORE = [1.0] * 2 + [0.0] * 19
AFTER = [1.0] + [0.0] + [1.0] * 7 + [0.0] * 12


def test_sleep_by_logs_of_ratios() -> None:
    """The test works on differences of logs, so exp() of the hours gives the published figures."""
    found = compare_amounts(np.exp(DRUG_1).tolist(), np.exp(DRUG_2).tolist())
    assert (found.method, found.n) == ("sign_flip_exact", 10)
    assert found.p == 4 / 1024
    assert found.effect_size == pytest.approx(1.2846, abs=5e-5)
    assert math.log1p(found.estimate) == pytest.approx(1.58)
    assert math.log1p(found.interval.low) == pytest.approx(0.7001, abs=5e-5)
    assert math.log1p(found.interval.high) == pytest.approx(2.4599, abs=5e-5)
    assert (found.higher, found.equal, found.lower) == (9, 1, 0)


def test_sleep_by_signed_ranks() -> None:
    assert wilcoxon(DRUG_1, DRUG_2) == pytest.approx(0.009091, abs=5e-7)


def test_bentur_mcnemar() -> None:
    found = mcnemar(1, 7)
    assert found.exact == pytest.approx(0.070313, abs=1e-6)
    assert found.mid_p == pytest.approx(0.0390625)


def test_bentur_newcombe() -> None:
    found = compare_scores(AFTER, BEFORE)
    assert (found.method, found.n) == ("mcnemar_mid_p", 21)
    assert found.p == pytest.approx(0.0390625)
    assert found.estimate == pytest.approx(-6 / 21)
    assert found.interval.low == pytest.approx(-0.5069, abs=5e-5)
    assert found.interval.high == pytest.approx(-0.0256, abs=5e-5)
    assert (found.higher, found.equal, found.lower) == (1, 13, 7)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mid_p_lies_under_exact_and_neither_minds_the_side(b: int, c: int) -> None:
    found = mcnemar(b, c)
    assert 0.0 < found.mid_p <= found.exact + 1e-12
    assert found.exact <= 1.0 + 1e-12
    assert mcnemar(c, b) == pytest.approx(found)


def test_no_discordant_pair_is_no_evidence() -> None:
    assert mcnemar(0, 0) == (1.0, 1.0)
    assert mcnemar(3, 3).mid_p == 1.0


PAIRS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12)


@given(PAIRS)
def test_swapping_the_sides_mirrors_the_comparison(pairs: list[tuple[float, float]]) -> None:
    before, after = [a for a, _ in pairs], [b for _, b in pairs]
    one, other = compare_scores(before, after), compare_scores(after, before)
    assert one.estimate == pytest.approx(-other.estimate)
    assert one.interval.low == pytest.approx(-other.interval.high, abs=1e-9)
    assert one.p == pytest.approx(other.p)
    assert (one.higher, one.lower) == (other.lower, other.higher)
    assert one.interval.low - 1e-9 <= one.estimate <= one.interval.high + 1e-9


@given(st.lists(st.sampled_from([(0, 0), (0, 1), (1, 0), (1, 1)]), min_size=2, max_size=80))
def test_a_difference_of_shares_stays_within_one(pairs: list[tuple[int, int]]) -> None:
    found = compare_scores([a for a, _ in pairs], [b for _, b in pairs])
    assert found.method == "mcnemar_mid_p"
    assert -1.0 <= found.interval.low <= found.estimate <= found.interval.high <= 1.0


def test_scores_that_never_differ() -> None:
    found = compare_scores([0.5] * 4, [0.5] * 4)
    assert (found.p, found.estimate, found.effect_size) == (1.0, 0.0, None)
    assert found.interval.low < -0.5
    assert found.interval.high > 0.5


def test_one_difference_is_not_significant() -> None:
    assert compare_scores([0.5, 0.5], [0.5, 0.6]).p == 1.0


def test_many_differences_are_drawn_by_seed() -> None:
    rng = np.random.default_rng(3)
    before = rng.random(60)
    after = np.clip(before + rng.normal(0.03, 0.1, 60), 0, 1)
    rows = before.tolist(), after.tolist()
    found = compare_scores(*rows, seed=1)
    assert found.method == "sign_flip_drawn"
    assert found == compare_scores(*rows, seed=1)
    assert found.p == pytest.approx(stats.ttest_rel(after, before).pvalue, abs=0.01)


def test_students_interval_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(4)
    before, after = rng.beta(2, 4, 80), rng.beta(3, 4, 80)
    found = compare_scores(before.tolist(), after.tolist()).interval
    check = stats.bootstrap((after - before,), np.mean, method="BCa", rng=rng).confidence_interval
    assert found.low == pytest.approx(check.low, abs=0.012)
    assert found.high == pytest.approx(check.high, abs=0.012)


def test_groups_count_once() -> None:
    before, after = [0.2, 0.4, 0.6, 0.8, 0.1], [0.4, 0.4, 0.8, 0.8, 0.3]
    found = compare_scores(before, after, groups=["a", "a", "b", "b", "c"])
    assert found == compare_scores([0.3, 0.7, 0.1], [0.4, 0.8, 0.3])
    assert found.n == 3


def test_false_alarms_stay_at_the_level() -> None:
    """400 comparisons of a program with itself, by mid-p and by sign flips."""
    rng = np.random.default_rng(5)
    alarms = {"binary": 0, "scores": 0}
    for _ in range(200):
        ease = rng.random(60)
        rows = [(rng.random(60) < ease).astype(float).tolist() for _ in range(2)]
        alarms["binary"] += compare_scores(*rows).p < 0.05
        rows = [np.clip(ease[:9] + rng.normal(0, 0.1, 9), 0, 1).tolist() for _ in range(2)]
        alarms["scores"] += compare_scores(*rows).p < 0.05
    assert max(alarms.values()) <= 19  # 10 expected; 19 is three standard deviations above


def test_the_interval_of_shares_covers() -> None:
    """Ten points of gain on 60 examples, the cells of Newcombe's own study around it."""
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(500):
        ease = rng.random(60)
        before = (ease < 0.6).astype(float)
        after = np.where(rng.random(60) < 0.9, ease < 0.7, rng.random(60) < 0.7).astype(float)
        covered += 0.1 in compare_scores(before.tolist(), after.tolist()).interval
    assert covered >= 0.92 * 500


def test_amounts_are_told_as_relative_change() -> None:
    found = compare_amounts([100.0, 200.0, 400.0], [80.0, 160.0, 320.0])
    assert found == Comparison(
        method="sign_flip_exact",
        n=3,
        estimate=found.estimate,
        interval=found.interval,
        confidence=0.95,
        p=0.25,
        effect_size=found.effect_size,
        higher=0,
        equal=0,
        lower=3,
    )
    assert found.estimate == pytest.approx(-0.2)


def test_amounts_by_group() -> None:
    found = compare_amounts([1.0, 4.0, 2.0], [2.0, 2.0, 2.0], groups=["a", "a", "b"])
    assert (found.n, found.p) == (2, 1.0)
    assert found.estimate == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("baseline", "variant", "groups", "field", "rule"),
    [
        (
            [0.1, 0.2],
            [0.1],
            None,
            "variant",
            "as many values as the baseline, of the same examples",
        ),
        ([0.1], [0.2], None, "baseline", "two examples or groups at least"),
        ([0.1, 0.2], [0.1, 0.2], ["a", "a"], "baseline", "two examples or groups at least"),
        ([0.1, 0.2], [0.1, 0.2], ["a"], "groups", "one key an example"),
        ([0.1, 0.2], [0.1, math.nan], None, "variant", "finite"),
        ([0.1, 1.2], [0.1, 0.2], None, "baseline", "between 0 and 1"),
        ([], [], None, "baseline", "one axis with at least one value"),
    ],
)
def test_refusals(
    baseline: list[float], variant: list[float], groups: list[str] | None, field: str, rule: str
) -> None:
    with pytest.raises(Invalid) as refused:
        compare_scores(baseline, variant, groups=groups)
    assert (refused.value.field, refused.value.rule) == (field, rule)


def test_amounts_of_nothing_have_no_ratio() -> None:
    with pytest.raises(Invalid) as refused:
        compare_amounts([1.0, 2.0], [1.0, 0.0])
    assert (refused.value.field, refused.value.rule) == ("variant", "above 0")


def test_ranks_of_no_difference() -> None:
    assert wilcoxon([1.0, 2.0], [1.0, 2.0]) == 1.0


def test_a_comparison_survives_the_wire() -> None:
    found = compare_scores([0.0, 1.0], [1.0, 1.0])
    assert Comparison.model_validate_json(found.model_dump_json()) == found
    assert isinstance(found.interval, Interval)
    assert paired.EXACT_FLIPS == 16
