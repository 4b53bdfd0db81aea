"""Requests a minute, and hold-offs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.routing.limits import MAX_HOLD_OFF_S, LimitHit, Limits, RateWindow
from tests.unit.routing.parts import model


@given(
    st.integers(1, 20),
    st.sampled_from([1.0, 0.5, 0.3]),
    st.lists(st.floats(0, 5), min_size=1, max_size=150),
)
def test_never_more_than_the_share_in_any_window(
    per_minute: int, share: float, gaps: list[float]
) -> None:
    limits, limited, now = Limits(share), model("a", requests_per_minute=per_minute), 0.0
    taken: list[float] = []
    for gap in gaps:
        now += gap
        hit = limits.take(limited, now)
        if hit is None:
            taken.append(now)
        else:
            assert 0 < hit.retry_after_s <= 60 / min(1.0, per_minute * share) + 1e-9
            # The hint is honest: then there is room again.
            assert limits.admits(limited, now + hit.retry_after_s + 1e-6)
    calls = max(1, int(per_minute * share))
    window = 60 * calls / (per_minute * share)
    for first in taken:
        assert sum(first <= at < first + window - 1e-6 for at in taken) <= calls


def test_a_share_below_one_call_a_minute_is_a_call_in_a_longer_window() -> None:
    limits, limited = Limits(share=0.25), model("a", requests_per_minute=2)
    assert limits.take(limited, 0.0) is None
    assert limits.take(limited, 30.0) == LimitHit("requests_per_minute reached", 90.0)
    assert limits.take(limited, 120.0) is None


def test_what_is_left_comes_back_with_time() -> None:
    window = RateWindow()
    for at in (0.0, 10.0):
        window.take(at, 3)
    assert [window.left(now, 3) for now in (10.0, 59.9, 60.0, 70.0)] == [1, 1, 2, 3]
    assert window.left(10.0, 1) == 0


def test_no_limit_and_other_models_are_free() -> None:
    limits = Limits()
    assert all(limits.take(model("a"), 0.0) is None for _ in range(1000))
    assert limits.take(model("b", requests_per_minute=1), 0.0) is None


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 100)), min_size=1, max_size=20))
def test_a_longer_hold_off_always_wins(asked: list[tuple[float, float]]) -> None:
    limits, held = Limits(), model("a")
    for at, seconds in asked:
        limits.hold_off(held.id, seconds, at)
    until = max(at + seconds for at, seconds in asked)
    assert limits.held_for(held.id, 50.0) == pytest.approx(max(0.0, until - 50.0))
    if until > 50:
        assert limits.take(held, 50.0) == LimitHit("the provider asked to wait", until - 50.0)
    assert limits.take(held, until) is None


def test_a_hold_off_has_an_end() -> None:
    limits, held = Limits(), model("a")
    limits.hold_off(held.id, 1e12, 0.0)
    assert limits.held_for(held.id, 0.0) == MAX_HOLD_OFF_S


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_is_a_part(share: float) -> None:
    with pytest.raises(ValueError, match="over 0 and at most 1"):
        Limits(share)
