"""Percentiles and ratios, on which every claim of the results rests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks.figures import UPSTREAM, Row, Unit, compared, percentile, ratio


@pytest.mark.parametrize(
    ("ours", "theirs", "unit", "expected"),
    [
        (200.0, 100.0, "req/s", 2.0),
        (5000.0, 10_000.0, "records/s", 0.5),
        (1.0, 4.0, "ms", 4.0),
        (4.0, 1.0, "us", 0.25),
        (10.0, 20.0, "s", 2.0),
        (100.0, 150.0, "MB", 1.5),
    ],
)
def test_above_one_is_ahead(ours: float, theirs: float, unit: Unit, expected: float) -> None:
    assert ratio(ours, theirs, unit) == expected


@pytest.mark.parametrize(("ours", "theirs"), [(0.0, 1.0), (1.0, 0.0), (-0.1, 2.0), (2.0, -0.1)])
def test_there_is_no_ratio_to_nothing(ours: float, theirs: float) -> None:
    assert ratio(ours, theirs, "ms") is None


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.501, 51), (0.99, 99), (1.0, 100)]
)
def test_a_percentile_is_one_of_the_values(share: float, expected: int) -> None:
    assert percentile(range(1, 101), share) == expected


def test_the_percentile_of_one_value_is_that_value() -> None:
    assert percentile([7.0], 0.99) == 7.0


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


@given(st.lists(st.integers(0, 1000), min_size=1).map(sorted), st.floats(0, 1, exclude_min=True))
def test_a_percentile_is_the_least_value_that_covers_its_share(
    ordered: list[int], share: float
) -> None:
    found = percentile(ordered, share)
    covered = sum(value <= found for value in ordered)
    less = sum(value < found for value in ordered)
    assert covered >= share * len(ordered) > less


def test_a_peer_is_compared_with_ours_of_the_same_name_and_connections() -> None:
    rows = [
        Row(name="gateway.requests", value=300, unit="req/s", connections=1),
        Row(name="gateway.requests", value=900, unit="req/s", connections=16),
        Row(name="gateway.requests", value=100, unit="req/s", connections=1, peer="other"),
        Row(name="gateway.requests", value=1800, unit="req/s", connections=16, peer="other"),
        Row(name="gateway.p50", value=5, unit="ms", connections=1, peer="other"),
        Row(name="gateway.requests", value=9000, unit="req/s", connections=1, peer=UPSTREAM),
    ]
    assert [row.ratio for row in compared(rows)] == [None, None, 3.0, 0.5, None, None]


def test_a_figure_is_finite() -> None:
    with pytest.raises(ValidationError, match="finite"):
        Row(name="gateway.p50", value=float("inf"), unit="ms")
