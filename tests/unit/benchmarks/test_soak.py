"""The slope of memory over time."""

from __future__ import annotations

import pytest

from benchmarks.soak import slope


def test_the_slope_is_in_megabytes_an_hour() -> None:
    found = slope([(second, 100 + second / 3600 * 6) for second in range(0, 600, 5)])
    assert found is not None
    assert found.mb_per_hour == pytest.approx(6)
    assert found.within == pytest.approx(0, abs=1e-6)
    assert found.first_mb == 100
    assert found.last_mb == pytest.approx(100 + 595 / 600)


def test_noise_widens_the_interval_and_flat_memory_lies_in_it() -> None:
    found = slope([(second, 100 + second % 2) for second in range(0, 600, 5)])
    assert found is not None
    assert abs(found.mb_per_hour) < found.within


def test_two_readings_tell_no_interval() -> None:
    assert slope([(0, 100), (5, 101)]) is None


def test_memory_that_does_not_move_is_flat() -> None:
    assert slope([(second, 100) for second in range(0, 60, 5)]) == (0, 0, 100, 100)
