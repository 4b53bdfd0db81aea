from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.client.backoff import is_transient, wait_s
from dspex_ray.core import errors


@given(st.integers(1, 50), st.none() | st.floats(0, 1000), st.integers())
def test_waits_grow_to_8_s_and_never_undercut_retry_after(
    attempt: int, retry_after_s: float | None, seed: int
) -> None:
    wait = wait_s(attempt, retry_after_s, random.Random(seed))
    ceiling = min(8.0, 0.25 * 2.0 ** (attempt - 1))
    assert wait >= max(ceiling / 2, retry_after_s or 0.0)
    assert wait <= max(ceiling, (retry_after_s or 0.0) * 1.1)


def test_what_is_worth_another_try() -> None:
    transient = {kind for kind in errors.every_error() if is_transient(kind("x"))}
    assert transient == {errors.RateLimited, errors.Unavailable, errors.Overloaded}
