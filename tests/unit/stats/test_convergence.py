"""Each rule of convergence at its edge; progress and completion from what was measured."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.convergence import Convergence, ConvergenceRules, ConvergenceStatus
from dspex_ray.core.errors import Invalid
from dspex_ray.stats.convergence import (
    Mark,
    Trial,
    convergence,
    estimated_completion,
    progress_percent,
)

OFF = ConvergenceRules(
    score_plateau=None,
    no_improvement=None,
    minimal_improvement=None,
    target=None,
    low_variance=None,
    no_significant_improvement=None,
)


def verdict(scores: list[float | None], rules: ConvergenceRules = OFF) -> tuple[str, str | None]:
    found = convergence([Trial(score) for score in scores], rules)
    return found.status.value, found.reason


def only(**rules: float | None) -> ConvergenceRules:
    return OFF.model_copy(update=rules)


def test_no_trials_and_failed_ones_are_pending() -> None:
    assert convergence([]) == Convergence(status=ConvergenceStatus.PENDING)
    assert convergence([Trial(None)] * 9) == Convergence(
        status=ConvergenceStatus.PENDING, trials_without_gain=9
    )


def test_a_whole_verdict() -> None:
    trials = [Trial(score) for score in (0.5, 0.6, 0.605, None)]
    assert convergence(trials) == Convergence(
        status=ConvergenceStatus.IMPROVING,
        best_score=0.605,
        best_trial=2,
        trials_without_gain=2,
        patience_used=0.4,
    )


@pytest.mark.parametrize(
    ("scores", "rules", "expected"),
    [
        ([0.5, 0.6], OFF, ("improving", None)),
        ([0.5, 0.4, 0.4], OFF, ("improving", None)),
        ([0.5, 0.4, 0.4, 0.4], OFF, ("plateaued", None)),
        ([0.5, 0.4, 0.4, 0.4, 0.52], OFF, ("improving", None)),
        # score_plateau: five trials without a gain above 0.01
        ([0.5, 0.4, 0.3, 0.4, 0.3], only(score_plateau=5), ("plateaued", None)),
        ([0.5, 0.4, 0.3, 0.4, 0.3, 0.5], only(score_plateau=5), ("converged", "score_plateau")),
        (
            [0.5, 0.502, 0.504, 0.506, 0.508, 0.509],
            only(score_plateau=5),
            ("converged", "score_plateau"),
        ),
        ([0.5, 0.504, 0.508, 0.512, 0.516, 0.518], only(score_plateau=5), ("improving", None)),
        # no_improvement: eight trials without any gain
        ([0.5] + [0.3] * 7, only(no_improvement=8), ("plateaued", None)),
        ([0.5] + [0.3] * 8, only(no_improvement=8), ("converged", "no_improvement")),
        ([0.5] + [0.3] * 7 + [0.501], only(no_improvement=8), ("plateaued", None)),
        ([0.5] + [None] * 8, only(no_improvement=8), ("converged", "no_improvement")),
        # minimal_improvement: the last three gains below 0.005
        ([0.5, 0.504, 0.508], only(minimal_improvement=0.005), ("improving", None)),
        (
            [0.5, 0.504, 0.508, 0.512],
            only(minimal_improvement=0.005),
            ("converged", "minimal_improvement"),
        ),
        ([0.5, 0.504, 0.508, 0.518], only(minimal_improvement=0.005), ("improving", None)),
        # target_achieved: three scores, the best of them at 0.95
        ([0.99, 0.2], only(target=0.95), ("improving", None)),
        ([0.99, None, 0.2], only(target=0.95), ("improving", None)),
        ([0.2, 0.95, 0.2], only(target=0.95), ("converged", "target_achieved")),
        # low_variance: five scores within a standard deviation of 0.001
        ([0.9] + [0.5] * 4, only(low_variance=0.001), ("plateaued", None)),
        ([0.9] + [0.5] * 5, only(low_variance=0.001), ("converged", "low_variance")),
        ([0.5, 0.52] * 3, only(low_variance=0.001), ("plateaued", None)),
        # the sampler's first trials do not count, a reached target does
        ([0.5] * 10, ConvergenceRules(warm_up=10), ("plateaued", None)),
        ([0.5] * 11, ConvergenceRules(warm_up=10), ("converged", "score_plateau")),
        ([0.99] * 3, ConvergenceRules(warm_up=10), ("converged", "target_achieved")),
        # a late gain reopens the search
        ([0.5] + [0.3] * 9 + [0.8], ConvergenceRules(), ("improving", None)),
    ],
)
def test_rules(
    scores: list[float | None], rules: ConvergenceRules, expected: tuple[str, str | None]
) -> None:
    assert verdict(scores, rules) == expected


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (Trial(0.8, 0.2), "no_significant_improvement"),
        (Trial(0.8, 0.05), "no_significant_improvement"),
        (Trial(0.8, 0.04), None),
        (Trial(0.1, 0.001), "no_significant_improvement"),  # significantly worse is no gain
        (Trial(0.8), None),  # not tested
    ],
)
def test_three_insignificant_trials_in_a_row(last: Trial, expected: str | None) -> None:
    rules = only(no_significant_improvement=3)
    trials = [Trial(0.5), Trial(0.55, 0.4), Trial(0.6, 0.3), last]
    assert convergence(trials, rules).reason == expected


SCORES = st.lists(st.none() | st.floats(0, 1), max_size=30)


@given(SCORES)
def test_a_verdict_is_whole(scores: list[float | None]) -> None:
    found = convergence([Trial(score) for score in scores])
    known = [score for score in scores if score is not None]
    assert found.best_score == max(known, default=None)
    assert found.best_trial is None or scores[found.best_trial] == found.best_score
    assert (found.reason is not None) == (found.status is ConvergenceStatus.CONVERGED)
    assert found.status is not ConvergenceStatus.CONVERGED or found.patience_used == 1.0


@given(SCORES)
def test_without_rules_nothing_converges(scores: list[float | None]) -> None:
    found = convergence([Trial(score) for score in scores], OFF)
    assert found.status is not ConvergenceStatus.CONVERGED
    assert found.patience_used == 0.0


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(Invalid, match="trial 1 has score nan") as refused:
        convergence([Trial(0.5), Trial(math.nan)])
    assert (refused.value.field, refused.value.rule) == ("trials.score", "finite")


def test_progress_is_of_the_nearest_limit() -> None:
    limits = {"trials": 20.0, "usd": 2.0, "calls": 1_000.0}
    assert progress_percent({"trials": 5, "usd": 1.5, "calls": 10, "tokens": 9e9}, limits) == 75.0
    assert progress_percent({}, limits) == 0.0
    assert progress_percent({"usd": 2.5}, limits) == 100.0
    assert progress_percent({"usd": 0.0}, {"usd": 0.0}) == 100.0
    assert progress_percent({"trials": 3}, {}) is None


START = datetime(2026, 1, 1, tzinfo=UTC)


def after(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def test_completion_at_a_steady_pace() -> None:
    marks = [Mark(after(n), 5.0 * n) for n in range(5)]
    assert estimated_completion(marks, after(4)) == after(20)


def test_completion_moves_away_while_nothing_happens() -> None:
    marks = [Mark(after(0), 0.0), Mark(after(4), 20.0)]
    assert estimated_completion(marks, after(8)) == after(40)


def test_completion_follows_the_latest_pace() -> None:
    quick = [Mark(after(n), n) for n in range(20)]
    slow = [Mark(after(19 + 10 * n), 19.0 + n) for n in range(1, 21)]
    last = slow[-1].at
    found = estimated_completion(quick + slow, last)
    assert found is not None
    assert found - last == timedelta(minutes=10 * (100 - 39))


def test_completion_is_not_guessed() -> None:
    assert estimated_completion([], after(1)) is None
    assert estimated_completion([Mark(after(0), 50.0)], after(1)) is None
    assert estimated_completion([Mark(after(0), 5.0), Mark(after(1), 5.0)], after(2)) is None
    assert estimated_completion([Mark(after(0), 5.0), Mark(after(0), 6.0)], after(0)) is None
    assert estimated_completion([Mark(after(0), 0.0), Mark(after(1), 1e-9)], after(2)) is None


def test_completion_of_what_is_done_was_then() -> None:
    assert estimated_completion([Mark(after(0), 5.0), Mark(after(3), 100.0)], after(9)) == after(3)
