"""Figures of scores, how objectives are written, and when a candidate has no chance any more."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.errors import Invalid
from dspex_ray.core.objectives import Limit, Objective
from dspex_ray.optimization.figures import (
    DEFAULT_OBJECTIVES,
    KNOWN,
    check_measured,
    check_names,
    check_priced,
    figures_of,
    hopeless,
    known_only,
    objectives_given,
    violation_of,
)
from dspex_ray.optimization.model import Score
from dspex_ray.stats.pareto import domination

FAST = Objective(name="latency", direction="minimize")
GOOD = Objective(name="accuracy")
FREE = Objective(name="cost", direction="minimize", weight=0)


def score(value: float = 1.0, latency: float | None = 100.0, usd: str | None = "0.01") -> Score:
    cost = None if usd is None else Decimal(usd)
    return Score(value, {}, None, latency, cost, 30, 2, {"style": value / 2})


def test_figures_are_means_and_a_percentile() -> None:
    runs = [score(1.0, float(n), "0.01") for n in range(1, 20)]
    runs.append(Score(0.0, {}, "output_invalid", 20.0, Decimal("0.03"), 50, 1))
    assert figures_of(runs, ["style"]) == {
        "accuracy": 0.95,
        "latency": 10.5,
        "latency_p95": pytest.approx(19.05),
        "cost": pytest.approx(0.011),
        "tokens": 31.0,
        "lm_calls": 1.95,
        "failures": 0.05,
        "style": 0.475,
    }


def test_what_nobody_measured_is_not_known() -> None:
    found = figures_of([score(usd=None), score(latency=None)])
    assert math.isnan(found["cost"])
    assert found["latency"] == 100.0
    assert "cost" not in known_only(found)
    assert set(figures_of([])) == set(KNOWN)
    assert known_only(figures_of([])) == {}


def test_objectives_may_be_weights_by_name() -> None:
    written = objectives_given({"accuracy": 0.6, "latency": 0.2, "cost": 0.2})
    assert tuple(Objective(**one) for one in written) == DEFAULT_OBJECTIVES
    assert objectives_given([{"name": "tokens"}])[0]["direction"] == "minimize"
    assert objectives_given([{"name": "tokens", "direction": "maximize"}])[0] == {
        "name": "tokens",
        "direction": "maximize",
    }
    assert objectives_given("accuracy") == "accuracy"


@pytest.mark.parametrize(
    ("objectives", "limits", "others", "field", "rule"),
    [
        ((Objective(name="speed"),), (), (), "parameters.objectives", "known figure"),
        ((GOOD,), (Limit(name="style", at_least=1),), (), "parameters.limits", "known figure"),
        ((GOOD, GOOD), (), (), "parameters.objectives", "no name twice"),
        ((FREE,), (), (), "parameters.objectives", "one weight above 0"),
        ((GOOD,), (), ("latency",), "others", "name"),
    ],
)  # fmt: skip
def test_names_that_mean_nothing(
    objectives: tuple[Objective, ...],
    limits: tuple[Limit, ...],
    others: tuple[str, ...],
    field: str,
    rule: str,
) -> None:
    with pytest.raises(Invalid) as refused:
        check_names(objectives, limits, others)
    assert (refused.value.field, refused.value.rule) == (field, rule)


def test_an_unknown_figure_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Invalid, match=r"nothing measures 'speed' \(known figures: accuracy, lat.*"):
        check_names((Objective(name="speed"),), (), ("style",))
    check_names((Objective(name="style"),), (Limit(name="cost", at_most=1),), ("style",))


def test_a_cost_that_counts_must_be_known() -> None:
    unknown = figures_of([score(usd=None)])
    check_measured(unknown, (GOOD, FAST), ())
    with pytest.raises(Invalid, match="model 'gift' has no known price"):
        check_measured(unknown, DEFAULT_OBJECTIVES, (), "gift")
    with pytest.raises(Invalid, match="a model that the program calls has no known price"):
        check_measured(unknown, (GOOD,), (Limit(name="cost", at_most=1),))


def test_models_without_a_price_are_refused_beforehand() -> None:
    check_priced(DEFAULT_OBJECTIVES, (), ())
    check_priced((GOOD, FAST), (), ("gift",))
    with pytest.raises(Invalid, match="model 'gift' has no known price"):
        check_priced(DEFAULT_OBJECTIVES, (), ("gift", "other"))


def test_violations_add_up_in_shares() -> None:
    limits = (Limit(name="latency", at_most=100), Limit(name="accuracy", at_least=0.8))
    assert violation_of({"latency": 150, "accuracy": 0.4}, limits) == pytest.approx(1.0)
    assert violation_of({"latency": 100, "accuracy": 0.8}, limits) == 0
    assert violation_of({"latency": math.nan, "accuracy": 0.8}, limits) == math.inf


# --- hopeless ------------------------------------------------------------------------------------


def test_a_wrong_and_slow_start_is_hopeless_against_a_good_and_fast_one() -> None:
    best = figures_of([score(latency=50.0)] * 19 + [score(0.0, 50.0)])
    slow = [score(0.0, 100.0)] * 5
    assert hopeless(slow, 20, [best], (GOOD, FAST), ())
    assert not hopeless(slow, 20, [], (GOOD, FAST), ())
    assert not hopeless([score(0.0, 40.0)] * 5, 20, [best], (GOOD, FAST), ())
    assert not hopeless([score(1.0, 100.0)] * 5, 20, [best], (GOOD, FAST), ())
    assert not hopeless([], 20, [best], (GOOD, FAST), ())


def test_one_beyond_a_limit_is_hopeless_once_another_is_within() -> None:
    limits = (Limit(name="failures", at_most=0.2),)
    within = figures_of([score(0.1)] * 10)
    failing = [Score(1.0, {}, "boom", 1.0, Decimal(0), 1, 1)] * 8
    assert hopeless(failing, 10, [within], (GOOD,), limits)
    assert not hopeless(failing, 10, [within], (GOOD,), ())
    assert not hopeless(failing, 10, [figures_of(failing)], (GOOD,), limits)


def test_a_latency_that_varies_leaves_hope() -> None:
    best = figures_of([score(1.0, 90.0)] * 20)
    wavering = [score(0.0, latency) for latency in (10.0, 300.0, 20.0, 280.0)]
    assert not hopeless(wavering, 20, [best], (FAST,), ())
    assert hopeless([score(0.0, 300.0)] * 4, 20, [best], (FAST,), ())


def test_the_percentile_is_hopeless_only_by_many_slow_runs() -> None:
    tail = Objective(name="latency_p95", direction="minimize")
    best = figures_of([score(1.0, 90.0)] * 100)
    assert not hopeless([score(1.0, 300.0)], 100, [best], (tail,), ())
    assert hopeless([score(1.0, 300.0)] * 50, 100, [best], (tail,), ())


runs = st.lists(
    st.builds(
        score,
        st.sampled_from((0.0, 0.5, 1.0)),
        st.sampled_from((10.0, 20.0, 400.0)),
        st.sampled_from(("0.01", "0.02")),
    ),
    min_size=1,
    max_size=12,
)


@given(runs, runs)
def test_what_is_dropped_was_beaten_by_what_beat_it(first: list[Score], other: list[Score]) -> None:
    """So that its figures until then, told to a study, can never be on a front."""
    objectives, limits = DEFAULT_OBJECTIVES, (Limit(name="latency", at_most=150),)
    rival, figures = figures_of(other), figures_of(first)
    if hopeless(first, len(first) + 6, [rival], objectives, limits):
        points = [[row[o.name] for o in objectives] for row in (rival, figures)]
        outside = [violation_of(row, limits) for row in (rival, figures)]
        assert domination(points, objectives, outside)[0, 1]


@given(runs)
def test_nobody_is_hopeless_against_itself(whole: list[Score]) -> None:
    rival = figures_of(whole)
    for rung in range(1, len(whole)):
        prefix = whole[:rung]
        exact = figures_of(prefix)["accuracy"] >= rival["accuracy"]
        if exact:
            assert not hopeless(prefix, len(whole), [rival], (GOOD,), ())
