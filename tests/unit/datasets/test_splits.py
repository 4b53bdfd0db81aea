"""Splits, samples and folds: disjoint, exact, covering, and the same for everybody."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from itertools import chain

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dspex_ray.core.canonical import content_hash
from dspex_ray.core.errors import Invalid
from dspex_ray.datasets.model import ExampleQuery
from dspex_ray.datasets.rules import (
    chosen,
    fingerprint,
    folds,
    sample,
    sizes_of,
    split,
    split_fingerprint,
)

SEEDS = st.integers(0, 2**63 - 1)
# Few different contents among many rows: most are duplicates.
REPEATED = st.lists(st.integers(0, 12), min_size=1, max_size=60).map(
    lambda contents: [content_hash(content) for content in contents]
)
DIFFERENT = st.integers(1, 60).map(lambda n: [content_hash(place) for place in range(n)])
NAMES = st.sampled_from(("train", "dev", "test", "rest"))
SIZES = st.dictionaries(NAMES, st.integers(1, 12), min_size=1)
TEN = [content_hash({"question": f"q{place}"}) for place in range(10)]

GOLDEN_SPLIT = {"dev": (2, 0, 8), "test": (6, 9), "train": (1, 5, 4, 7, 3)}
GOLDEN_SAMPLE = (3, 1, 0, 9)
GOLDEN_FOLDS = ((4, 3, 2, 8), (5, 7, 6), (0, 9, 1))
GOLDEN_FINGERPRINT = "0ce4f9e7472ca22966181e1f8ac4126d366540439a5211d906c5f54b447be916"


def sides(hashes: list[str], parts: dict[str, tuple[int, ...]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, positions in parts.items():
        for position in positions:
            found.setdefault(hashes[position], set()).add(name)
    return found


@given(hashes=REPEATED, sizes=SIZES, seed=SEEDS)
def test_splits_are_exact_disjoint_and_keep_equal_rows_together(
    hashes: list[str], sizes: dict[str, int], seed: int
) -> None:
    try:
        parts = split(hashes, sizes, seed)
    except Invalid:  # which the tests below are about
        assume(False)
    assert {name: len(part) for name, part in parts.items()} == sizes
    positions = list(chain.from_iterable(parts.values()))
    assert len(set(positions)) == len(positions)
    assert all(len(names) == 1 for names in sides(hashes, parts).values())


@given(hashes=REPEATED, sizes=SIZES, seed=SEEDS)
def test_a_group_is_whole_or_out(hashes: list[str], sizes: dict[str, int], seed: int) -> None:
    try:
        parts = split(hashes, sizes, seed)
    except Invalid:
        assume(False)
    placed = Counter(hashes[position] for position in chain.from_iterable(parts.values()))
    whole = Counter(hashes)
    assert all(placed[digest] == whole[digest] for digest in placed)


@given(hashes=DIFFERENT, sizes=SIZES, seed=SEEDS)
def test_different_rows_can_be_split_as_one_likes(
    hashes: list[str], sizes: dict[str, int], seed: int
) -> None:
    if sum(sizes.values()) > len(hashes):
        with pytest.raises(Invalid) as refused:
            split(hashes, sizes, seed)
        assert (refused.value.field, refused.value.rule) == ("sizes", "available")
        return
    parts = split(hashes, sizes, seed)
    if sum(sizes.values()) == len(hashes):
        assert set(chain.from_iterable(parts.values())) == set(range(len(hashes)))


@given(hashes=REPEATED, sizes=SIZES, seed=SEEDS, shuffle=st.randoms(use_true_random=False))
def test_neither_the_order_of_names_nor_of_rows_changes_who_is_where(
    hashes: list[str], sizes: dict[str, int], seed: int, shuffle: random.Random
) -> None:
    try:
        parts = split(hashes, sizes, seed)
    except Invalid:
        assume(False)
    turned = dict(reversed(sizes.items()))
    assert split(hashes, turned, seed) == parts
    mixed = list(hashes)
    shuffle.shuffle(mixed)
    assert sides(mixed, split(mixed, sizes, seed)) == sides(hashes, parts)


@given(hashes=REPEATED, seed=SEEDS, n=st.integers(1, 60), more=st.integers(0, 60))
def test_a_sample_is_exact_and_a_larger_one_begins_with_it(
    hashes: list[str], seed: int, n: int, more: int
) -> None:
    assume(n <= len(hashes))
    drawn = sample(hashes, n, seed)
    assert len(set(drawn)) == n
    assert sample(hashes, min(n + more, len(hashes)), seed)[:n] == drawn


@given(hashes=REPEATED, k=st.integers(0, 12), seed=SEEDS)
def test_folds_cover_everything_once(hashes: list[str], k: int, seed: int) -> None:
    counts = Counter(hashes)
    if not 2 <= k <= len(counts):
        with pytest.raises(Invalid) as refused:
            folds(hashes, k, seed)
        assert (refused.value.field, refused.value.rule) == ("folds", "range")
        return
    parts = folds(hashes, k, seed)
    assert sorted(chain.from_iterable(parts)) == list(range(len(hashes)))
    named = {str(number): part for number, part in enumerate(parts)}
    assert all(len(where) == 1 for where in sides(hashes, named).values())
    assert max(map(len, parts)) - min(map(len, parts)) <= max(counts.values())


def test_golden_values() -> None:
    """Of release 0.1: a stored seed must mean the same rows for ever."""
    parts = split(TEN, {"train": 5, "dev": 3, "test": 2}, 1)
    assert parts == GOLDEN_SPLIT
    assert sample(TEN, 4, 7) == GOLDEN_SAMPLE
    assert folds(TEN, 3, 0) == GOLDEN_FOLDS
    assert split_fingerprint(TEN, parts) == GOLDEN_FINGERPRINT


def test_another_process_with_other_hash_seeds_agrees() -> None:
    program = (
        "from dspex_ray.core.canonical import content_hash\n"
        "from dspex_ray.datasets.rules import split\n"
        "ten = [content_hash({'question': f'q{place}'}) for place in range(10)]\n"
        "print(split(ten, {'train': 5, 'dev': 3, 'test': 2}, 1))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert told == {str(GOLDEN_SPLIT)}


def test_seeds_differ() -> None:
    assert len({split(TEN, {"a": 5}, seed)["a"] for seed in range(20)}) > 15


def test_one_example_and_none() -> None:
    assert split(TEN[:1], {"train": 1}, 0) == {"train": (0,)}
    assert sample(TEN[:1], 1, 0) == (0,)
    for refused in (
        lambda: split(TEN[:1], {"train": 1, "dev": 1}, 0),
        lambda: split([], {"train": 1}, 0),
        lambda: split(TEN, {}, 0),
        lambda: split(TEN, {"train": 0}, 0),
        lambda: sample([], 1, 0),
        lambda: sample(TEN, 11, 0),
        lambda: sample(TEN, 0, 0),
        lambda: folds(TEN[:1], 2, 0),
    ):
        with pytest.raises(Invalid) as error:
            refused()
        assert error.value.field
        assert error.value.rule


def test_duplicates_that_fit_nowhere_are_an_error_that_says_so() -> None:
    with pytest.raises(Invalid) as refused:
        split([TEN[0]] * 4, {"train": 2, "dev": 2}, 0)
    assert (refused.value.field, refused.value.rule) == ("sizes.dev", "duplicates on one side")
    assert "gets 0 of 2" in refused.value.message


def test_large_groups_are_placed_first_where_the_seeded_order_leaves_a_gap() -> None:
    """Whichever single row comes first, the group of three still finds its place."""
    hashes = [TEN[0], TEN[0], TEN[0], TEN[1]]
    for seed in range(20):
        parts = split(hashes, {"a": 3, "b": 1}, seed)
        assert (set(parts["a"]), parts["b"]) == ({0, 1, 2}, (3,))


def test_fingerprints_tell_content_and_order() -> None:
    assert fingerprint(TEN, (1, 2)) == content_hash([TEN[1], TEN[2]])
    assert fingerprint(TEN, (1, 2)) != fingerprint(TEN, (2, 1))
    assert split_fingerprint(TEN, {"a": (1,)}) != split_fingerprint(TEN, {"b": (1,)})


def test_queries_choose() -> None:
    assert chosen(ExampleQuery(), TEN) == tuple(range(10))
    by_split = ExampleQuery(split="dev", sizes="train=5,dev=3,test=2", seed=1)
    assert chosen(by_split, TEN) == GOLDEN_SPLIT["dev"]
    assert chosen(ExampleQuery(sample=4, seed=7), TEN) == GOLDEN_SAMPLE
    assert chosen(ExampleQuery(fold=1, folds=3), TEN) == GOLDEN_FOLDS[1]


@pytest.mark.parametrize(
    ("query", "field", "rule"),
    [
        (ExampleQuery(split="a", sizes="a=1", sample=1), "sample", "one selection"),
        (ExampleQuery(split="b", sizes="a=1"), "split", "known split"),
        (ExampleQuery(split="b"), "sizes", "given"),
        (ExampleQuery(fold=3, folds=3), "fold", "range"),
        (ExampleQuery(fold=3), "folds", "range"),
        (ExampleQuery(sample=11), "sample", "range"),
        (ExampleQuery(split="a", sizes="a=x"), "sizes", "sizes"),
        (ExampleQuery(split="a", sizes="a=1,a=2"), "sizes", "sizes"),
        (ExampleQuery(split="a", sizes="a b=1"), "sizes", "name"),
    ],
)
def test_queries_that_choose_nothing(query: ExampleQuery, field: str, rule: str) -> None:
    with pytest.raises(Invalid) as refused:
        chosen(query, TEN)
    assert (refused.value.field, refused.value.rule) == (field, rule)


def test_sizes_are_read() -> None:
    assert sizes_of("train=60, dev=40,") == {"train": 60, "dev": 40}
