"""Buckets match the published vectors, are stable, and fill evenly."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from dspex_ray.stats.assignment import BUCKETS, bucket

VECTORS = [
    ("ro_1", "user-1", 1282),
    ("ro_1", "user-2", 1516),
    ("ro_2", "user-1", 1421),
    ("", "a", 7100),
    ("ro_1", "ünïcode", 9365),
]


@pytest.mark.parametrize(("salt", "unit", "expected"), VECTORS)
def test_published_vectors(salt: str, unit: str, expected: int) -> None:
    assert bucket(salt, unit) == expected


@given(st.text(), st.text())
def test_any_text_has_one_bucket(salt: str, unit: str) -> None:
    first = bucket(salt, unit)
    assert 0 <= first < BUCKETS
    assert bucket(salt, unit) == first


def test_a_lone_surrogate_has_a_bucket() -> None:
    assert 0 <= bucket("s", "\ud800") < BUCKETS


def test_another_process_agrees() -> None:
    code = "from dspex_ray.stats.assignment import bucket; print(bucket('ro_1', 'user-1'))"
    answer = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, capture_output=True, check=True
    )
    assert answer.stdout.split() == [b"1282"]


@pytest.mark.parametrize("salt", ["ro_1", "ro_2", ""])
def test_units_spread_evenly(salt: str) -> None:
    counts = [0] * 50
    for unit in range(20_000):
        counts[bucket(salt, f"user-{unit}") * 50 // BUCKETS] += 1
    assert chisquare(counts).pvalue > 0.001


def test_another_salt_deals_anew() -> None:
    moved = sum(
        bucket("a", f"u{n}") // 5_000 != bucket("b", f"u{n}") // 5_000 for n in range(4_000)
    )
    assert 1_850 < moved < 2_150  # half of them, within five standard deviations
