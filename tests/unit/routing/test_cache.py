"""The response cache by its properties, and what its header says."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.ids import ModelId
from dspex_ray.routing.cache import ENTRY_BYTES, CacheKey, ResponseCache, told
from dspex_ray.testing.fake_clock import FakeClock

A, B, C = (CacheKey(ModelId(UUID(int=1)), 1, name, 0) for name in "abc")


def a_cache(max_bytes: int = 10**6, max_entries: int = 100) -> tuple[ResponseCache, FakeClock]:
    clock = FakeClock()
    return ResponseCache(max_bytes, max_entries, clock), clock


def test_an_answer_is_served_until_its_time_is_over() -> None:
    cache, clock = a_cache()
    cache.put(A, b"yes", 10)
    clock.advance(9.999)
    assert cache.get(A) == b"yes"
    clock.advance(0.001)
    assert cache.get(A) is None
    assert (len(cache), cache.held_bytes) == (0, 0)


def test_a_new_answer_takes_the_place_and_the_time_of_the_old_one() -> None:
    cache, clock = a_cache()
    cache.put(A, b"old", 10)
    clock.advance(9)
    cache.put(A, b"newer", 10)
    clock.advance(9)
    assert cache.get(A) == b"newer"
    assert (len(cache), cache.held_bytes) == (1, 5 + ENTRY_BYTES)


def test_the_least_recently_used_goes_first() -> None:
    cache, _ = a_cache(max_entries=2)
    cache.put(A, b"a", 10)
    cache.put(B, b"b", 10)
    assert cache.get(A) == b"a"
    cache.put(C, b"c", 10)
    assert [cache.get(key) for key in (A, B, C)] == [b"a", None, b"c"]


def test_what_is_too_large_is_not_kept_and_nothing_goes_for_it() -> None:
    cache, _ = a_cache(max_bytes=2 * ENTRY_BYTES)
    cache.put(A, b"a", 10)
    cache.put(B, bytes(ENTRY_BYTES + 1), 10)
    assert (cache.get(A), cache.get(B)) == (b"a", None)
    cache.put(A, bytes(ENTRY_BYTES + 1), 10)
    assert cache.get(A) is None  # never the old answer in place of the new one


def test_no_bytes_keep_nothing() -> None:
    cache, _ = a_cache(max_bytes=0)
    cache.put(A, b"", 10)
    assert (cache.get(A), len(cache)) == (None, 0)


_keys = st.builds(
    CacheKey,
    st.sampled_from([ModelId(UUID(int=1)), ModelId(UUID(int=2))]),
    st.integers(1, 2),
    st.sampled_from("ab"),
    st.integers(0, 1),
)
_steps = st.lists(
    st.tuples(st.just("put"), _keys, st.integers(0, 900), st.integers(1, 20))
    | st.tuples(st.just("get"), _keys)
    | st.tuples(st.just("wait"), st.integers(0, 15)),
    max_size=60,
)


@given(_steps, st.integers(0, 3_000), st.integers(1, 5))
def test_it_never_serves_past_the_time_nor_exceeds_its_bounds(
    steps: list[tuple[Any, ...]], max_bytes: int, max_entries: int
) -> None:
    cache, clock = a_cache(max_bytes, max_entries)
    newest: dict[CacheKey, tuple[bytes, float]] = {}
    for number, (what, *given_) in enumerate(steps):
        if what == "wait":
            clock.advance(given_[0])
        elif what == "put":
            key, size, ttl_s = given_
            answer = b"%d:" % number + bytes(size)
            cache.put(key, answer, ttl_s)
            newest[key] = answer, clock.monotonic() + ttl_s
        elif (found := cache.get(given_[0])) is not None:
            answer, expires = newest[given_[0]]
            assert found == answer
            assert clock.monotonic() < expires
        assert cache.held_bytes <= max_bytes
        assert len(cache) <= max_entries
        assert (cache.held_bytes == 0) == (len(cache) == 0)


@pytest.mark.parametrize(
    ("lookups", "header"),
    [
        ([], None),
        ([None, None], None),
        (["hit", "hit"], "hit"),
        (["hit", "miss"], "partial"),
        (["hit", None], "partial"),
        (["miss", None], "miss"),
        (["bypass", None, "bypass"], "bypass"),
    ],
)
def test_what_a_request_is_told(lookups: list[Any], header: str | None) -> None:
    assert told(lookups) == header
