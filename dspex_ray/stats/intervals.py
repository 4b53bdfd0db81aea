"""How far the truth may lie from what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from dspex_ray.core.errors import Invalid
from dspex_ray.core.evidence import Interval, Spread
from dspex_ray.stats.vectors import PRECISION, Vector, check_confidence, vector

__all__ = ["Interval", "Spread", "amount_interval", "mean_interval", "spread", "wilson"]

UNIT = Interval(low=0.0, high=1.0)


def wilson(successes: float, n: float, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share (Wilson 1927), inside 0..1; n = 0 gives all of 0..1.

    Raises Invalid unless 0 <= successes <= n.
    """
    check_confidence(confidence)
    if not (math.isfinite(n) and 0 <= successes <= n):
        raise Invalid(
            f"successes is {successes} of {n}", field="successes", rule="0 <= successes <= n"
        )
    return _score_interval(successes / n, n, _normal(confidence)) if n else UNIT


def mean_interval(scores: Sequence[float], confidence: float = 0.95) -> Interval:
    """The interval of a mean of scores in 0..1, inside 0..1.

    0/1 scores: Wilson. Other scores: Wilson at the effective sample size n * m(1-m) / s2 and
    Student's quantile (Dean & Pagano 2015, as survey statistics does), because Student's t and the
    bootstrap collapse where scores pile up at 0 or 1: 20 scores, four in five of them 1, are
    covered 88 % by t and 93 % by this, at 95 % nominal. One score, or all alike, says nothing of
    the spread, so they count as if they were 0/1, the widest spread there is: 1 of 1 gives
    (0.2065, 1). No randomness, so no seed. Raises Invalid for no scores, NaN or out of 0..1.
    """
    check_confidence(confidence)
    values = vector(scores, "scores", within=UNIT)
    n, mean = values.size, min(1.0, float(values.mean()))
    variance = float(values.var(ddof=1)) if np.ptp(np.round(values, PRECISION)) else 0.0
    if not variance or np.isin(values, (0.0, 1.0)).all():
        return wilson(mean * n, n, confidence)
    effective = max(1.0, n * mean * (1.0 - mean) / variance)
    return _score_interval(mean, effective, _student(confidence, n - 1))


def amount_interval(amounts: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Student's interval of a mean of amounts without bounds (milliseconds, dollars).

    None for fewer than two amounts: one says nothing about the spread. Amounts all alike give an
    interval without width. Raises Invalid for NaN or infinite amounts.
    """
    check_confidence(confidence)
    if len(amounts) < 2:
        return None
    values = vector(amounts, "amounts")
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(values.size)
    reach = _student(confidence, values.size - 1) * error
    return Interval(low=mean - reach, high=mean + reach)


def spread(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and percentiles, linear between neighbours (Hyndman-Fan 7).

    Raises Invalid for no values, NaN or infinite ones.
    """
    found = vector(values, "values")
    p50, p90, p95, p99 = (float(q) for q in np.quantile(found, (0.5, 0.9, 0.95, 0.99)))
    return Spread(
        n=found.size,
        mean=float(found.mean()),
        std_dev=_std_dev(found),
        min=float(found.min()),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=float(found.max()),
    )


def _std_dev(values: Vector) -> float:
    return float(values.std(ddof=1)) if values.size > 1 else 0.0


def _score_interval(share: float, n: float, quantile: float) -> Interval:
    squared = quantile**2
    centre = (share + squared / (2 * n)) / (1 + squared / n)
    reach = quantile * math.sqrt(share * (1 - share) / n + squared / (4 * n**2)) / (1 + squared / n)
    # rounding must not exclude the share itself, nor leave 0..1
    return Interval(
        low=max(0.0, min(share, centre - reach)), high=min(1.0, max(share, centre + reach))
    )


def _normal(confidence: float) -> float:
    return float(stats.norm.ppf((1 + confidence) / 2))


def _student(confidence: float, degrees: int) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, degrees))
