"""The paired e-value: published figures, its Beta form, and its promise under peeking."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc, betaln

from dspex_ray.core.errors import Invalid
from dspex_ray.stats.sequential import log_paired_e


@pytest.mark.parametrize(("wins", "losses", "e"), [(7, 0, 31.875), (6, 0, 18.142857)])
def test_published(wins: int, losses: int, e: float) -> None:
    assert math.exp(log_paired_e([1.0] * wins + [-1.0] * losses)) == pytest.approx(e, abs=1e-6)


@given(st.integers(0, 100), st.integers(0, 100))
def test_the_beta_form(wins: int, losses: int) -> None:
    tail = 1.0 - betainc(wins + 1, losses + 1, 0.5)
    expected = (wins + losses + 1) * math.log(2) + betaln(wins + 1, losses + 1)
    if tail > 1e-6:  # below, the closed form itself has lost its digits
        found = log_paired_e([1.0] * wins + [-1.0] * losses)
        assert found == pytest.approx(expected + math.log(tail), abs=1e-6)


def test_nothing_seen_is_no_evidence() -> None:
    assert log_paired_e([]) == 0.0
    assert log_paired_e([0.0] * 50) == pytest.approx(0.0, abs=1e-9)


@given(st.lists(st.floats(-1, 1), max_size=40), st.integers())
def test_order_does_not_matter(leads: list[float], seed: int) -> None:
    shuffled = random.Random(seed).sample(leads, len(leads))
    assert log_paired_e(shuffled) == pytest.approx(log_paired_e(leads), abs=1e-9)


def test_very_long_runs_stay_finite() -> None:
    assert log_paired_e([-1.0] * 50_000) < -10
    assert 34_000 < log_paired_e([1.0] * 50_000) < 50_000 * math.log(2)


@pytest.mark.parametrize("shape", ["binary", "scores", "skewed"])
def test_looking_at_every_example_raises_no_alarm(shape: str) -> None:
    """Leads of mean 0, 150 of them, looked at each time: at most alpha = 10 % ever alarm."""
    rng = np.random.default_rng(11)
    draws: dict[str, Callable[[], npt.NDArray[np.float64]]] = {
        "binary": lambda: rng.choice([-1.0, 0.0, 1.0], size=150, p=[0.2, 0.6, 0.2]),
        "scores": lambda: rng.uniform(-0.5, 0.5, 150),
        "skewed": lambda: np.where(rng.random(150) < 0.1, -0.9, 0.1),
    }
    alarms = sum(_ever_alarms(draws[shape]().tolist(), math.log(1 / 0.1)) for _ in range(150))
    assert alarms <= 0.1 * 150


def _ever_alarms(leads: list[float], threshold: float) -> bool:
    return any(log_paired_e(leads[:n]) >= threshold for n in range(1, len(leads) + 1, 3))


def test_a_lead_beyond_one_is_refused() -> None:
    with pytest.raises(Invalid) as refused:
        log_paired_e([1.5])
    assert (refused.value.field, refused.value.rule) == ("leads", "between -1 and 1")
