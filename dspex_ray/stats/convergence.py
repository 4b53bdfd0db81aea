"""Whether a search still pays, how far along it is, and when it will be done: from its history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from dspex_ray.core.convergence import (
    Convergence,
    ConvergenceReason,
    ConvergenceRules,
    ConvergenceStatus,
)
from dspex_ray.core.errors import Invalid

MARKS = 20  # the latest marks that an estimate rests on: a search slows down as its trials grow


class Trial(NamedTuple):
    """A finished trial. `score` is None when it failed, which is a trial without gain.

    `p` is of the test whether it beats the best before it on the same examples, where one was made.
    """

    score: float | None
    p: float | None = None


class Mark(NamedTuple):
    """How far along a search was: `percent`, 0..100, at a time."""

    at: datetime
    percent: float


DEFAULTS = ConvergenceRules()


def convergence(trials: Sequence[Trial], rules: ConvergenceRules = DEFAULTS) -> Convergence:
    """What the trials, in the order of their numbers, say; no trials are pending.

    A verdict on the whole history, so a late gain of a trial that was under way reopens a search
    that had converged. Raises Invalid for a score that is not finite.
    """
    seen = _Seen()
    for number, trial in enumerate(trials):
        seen.take(number, trial, rules)
    if seen.best_trial is None:
        return Convergence(
            status=ConvergenceStatus.PENDING, trials_without_gain=seen.without_real_gain
        )
    reason = _reason(seen, rules)
    return Convergence(
        status=_status(seen, rules, reason),
        reason=reason,
        best_score=seen.best,
        best_trial=seen.best_trial,
        trials_without_gain=seen.without_real_gain,
        patience_used=1.0 if reason else _patience_used(seen, rules),
    )


def progress_percent(used: Mapping[str, float], limits: Mapping[str, float]) -> float | None:
    """0..100: the share of the limit nearest to its end, by name (trials, calls, usd, seconds).

    The search ends at whichever limit comes first, so no mean of them. A limit of 0 is used up;
    what `used` does not name is 0. None without limits: how far along is then not known.
    """
    shares = [used.get(name, 0.0) / limit if limit > 0 else 1.0 for name, limit in limits.items()]
    return 100.0 * min(1.0, max(0.0, *shares)) if shares else None


def estimated_completion(marks: Sequence[Mark], now: datetime) -> datetime | None:
    """When the marks reach 100 at their latest pace; `marks` in order of time, `now` not before.

    The pace runs from the oldest of the latest 20 marks until now, so a search that stalls is
    estimated later by the minute. Give the marks since the last start: a pause is not pace. None
    while fewer than two marks or no progress tell a pace, or when it is beyond the calendar.
    Patience may end the search sooner.
    """
    latest = marks[-MARKS:]
    if latest and latest[-1].percent >= 100.0:
        return latest[-1].at
    if len(latest) < 2:
        return None
    gained = latest[-1].percent - latest[0].percent
    elapsed_s = (now - latest[0].at).total_seconds()
    if gained <= 0 or elapsed_s <= 0:
        return None
    try:
        return now + timedelta(seconds=elapsed_s * (100.0 - latest[-1].percent) / gained)
    except OverflowError:
        return None


@dataclass
class _Seen:
    """The history so far, one pass."""

    trials: int = 0
    best: float = -math.inf
    best_trial: int | None = None
    last_real_gain: float = -math.inf  # the score that started the present plateau
    without_real_gain: int = 0
    without_gain: int = 0
    not_significant: int = 0  # tested trials in a row that were no significant gain
    gains: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def take(self, number: int, trial: Trial, rules: ConvergenceRules) -> None:
        score = -math.inf if trial.score is None else _finite(number, trial.score)
        self.trials += 1
        self._count_significance(trial.p, score, rules)
        real = score > self.last_real_gain + rules.improvement
        self.without_real_gain = 0 if real else self.without_real_gain + 1
        self.without_gain = 0 if score > self.best else self.without_gain + 1
        if real:
            self.last_real_gain = score
        if score > self.best:
            if self.best_trial is not None:
                self.gains.append(score - self.best)
            self.best, self.best_trial = score, number
        if trial.score is not None:
            self.scores.append(score)

    def _count_significance(self, p: float | None, score: float, rules: ConvergenceRules) -> None:
        gained = p is not None and p < rules.significance and score > self.best
        self.not_significant = 0 if p is None or gained else self.not_significant + 1


def _finite(number: int, score: float) -> float:
    if not math.isfinite(score):
        raise Invalid(f"trial {number} has score {score}", field="trials.score", rule="finite")
    return score


def _reason(seen: _Seen, rules: ConvergenceRules) -> ConvergenceReason | None:
    """The first rule that holds, a reached target before any sign of standing still."""
    if rules.target is not None and len(seen.scores) >= 3 and seen.best >= rules.target:
        return "target_achieved"
    if seen.trials <= rules.warm_up:
        return None
    for reason, count, limit in _patience(seen, rules):
        if count >= limit:
            return reason
    small, narrow = rules.minimal_improvement, rules.low_variance
    if small is not None and len(seen.gains) >= 3 and max(seen.gains[-3:]) < small:
        return "minimal_improvement"
    if narrow is not None and len(seen.scores) >= 5 and np.std(seen.scores[-5:], ddof=1) < narrow:
        return "low_variance"
    return None


def _patience(seen: _Seen, rules: ConvergenceRules) -> list[tuple[ConvergenceReason, int, int]]:
    """The rules that count trials: reason, trials counted, limit."""
    counts: list[tuple[ConvergenceReason, int, int | None]] = [
        ("score_plateau", seen.without_real_gain, rules.score_plateau),
        ("no_improvement", seen.without_gain, rules.no_improvement),
        (
            "no_significant_improvement",
            seen.not_significant,
            rules.no_significant_improvement,
        ),
    ]
    return [(reason, count, limit) for reason, count, limit in counts if limit is not None]


def _patience_used(seen: _Seen, rules: ConvergenceRules) -> float:
    return min(1.0, max((count / limit for _, count, limit in _patience(seen, rules)), default=0.0))


def _status(
    seen: _Seen, rules: ConvergenceRules, reason: ConvergenceReason | None
) -> ConvergenceStatus:
    if reason:
        return ConvergenceStatus.CONVERGED
    if seen.without_real_gain >= rules.plateaued_after:
        return ConvergenceStatus.PLATEAUED
    return ConvergenceStatus.IMPROVING
