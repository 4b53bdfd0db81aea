from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.optimization.spread import (
    central,
    determinantal,
    marginally_best,
    similarities,
    text_vectors,
    unit_rows,
)

TEXTS = ["the market fell", "the market rose", "goal in the match", "a late goal", "new phone"]


def test_texts_with_shared_rare_words_are_alike() -> None:
    alike = similarities(text_vectors(TEXTS))
    assert np.allclose(np.diag(alike), 1.0)
    assert alike[0, 1] > alike[0, 2] > alike[0, 4] == 0.0
    assert alike[2, 3] > alike[2, 1]


def test_vectors_are_the_same_in_another_process() -> None:
    code = (
        "from dspex_ray.optimization.spread import text_vectors\n"
        f"print(repr(text_vectors({TEXTS!r}).sum(axis=0).nonzero()[0].tolist()))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert eval(told.stdout) == text_vectors(TEXTS).sum(axis=0).nonzero()[0].tolist()


def test_a_text_without_words_has_no_direction() -> None:
    found = text_vectors(["", "?!", "word"])
    assert np.linalg.norm(found, axis=1).tolist() == [0.0, 0.0, 1.0]
    assert text_vectors([]).shape[0] == 0


def test_central_rows_cover_the_clusters() -> None:
    middles = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    near = np.random.default_rng(0).normal(0, 0.01, (30, 3))
    points = unit_rows(np.repeat(middles, 10, axis=0) + near)
    chosen = central(points, 3, np.random.default_rng(0))
    assert [row // 10 for row in chosen] == [0, 1, 2]
    assert central(points, 3, np.random.default_rng(0)) == chosen
    assert central(points[:2], 5, np.random.default_rng(0)) == [0, 1]


def test_equal_rows_are_one_cluster() -> None:
    chosen = central(np.ones((9, 2)), 3, np.random.default_rng(0))
    assert len(chosen) == 1


def test_marginal_relevance_weighs_quality_against_likeness() -> None:
    alike = np.array([[1.0, 0.9, 0.1], [0.9, 1.0, 0.1], [0.1, 0.1, 1.0]])
    assert marginally_best([1.0, 0.9, 0.5], alike, 2, 0.0) == [0, 1]
    assert marginally_best([1.0, 0.9, 0.5], alike, 2, 0.5) == [0, 2]
    assert marginally_best([0.2, 0.9, 0.5], alike, 1, 1.0) == [0]  # all are 1 away from nothing


def test_labels_get_even_shares() -> None:
    labels = {0: "a", 1: "a", 2: "a", 3: "b"}
    quality = [1.0, 0.9, 0.8, 0.1]
    for chosen in (
        marginally_best(quality, np.eye(4), 3, 0.3, labels),
        determinantal(quality, np.eye(4), 3, labels),
    ):
        assert [labels[i] for i in chosen].count("b") == 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_the_determinantal_choice_is_the_greedy_maximum_of_the_determinant(
    seed: int, count: int
) -> None:
    """Against its definition: each step takes the row that makes the determinant greatest."""
    rng = np.random.default_rng(seed)
    points = unit_rows(rng.normal(size=(6, 8)))
    alike = points @ points.T
    quality = rng.uniform(0.1, 1, 6)
    kernel = (quality[:, None] + 1e-6) * alike * (quality[None, :] + 1e-6)
    greedy: list[int] = []
    for _ in range(count):
        left = [i for i in range(6) if i not in greedy]
        sizes = {i: np.linalg.det(kernel[np.ix_([*greedy, i], [*greedy, i])]) for i in left}
        greedy.append(max(left, key=lambda i: float(sizes[i])))
    assert determinantal(quality.tolist(), alike, count) == greedy


@pytest.mark.parametrize("how", ["mmr", "dpp"])
def test_any_count_is_served_without_repeats(how: str) -> None:
    alike = similarities(text_vectors(TEXTS + TEXTS))  # every text twice: singular
    for count in range(12):
        found = (
            marginally_best([0.5] * 10, alike, count, 0.5)
            if how == "mmr"
            else determinantal([0.5] * 10, alike, count)
        )
        assert len(found) == len(set(found)) == min(count, 10)
    assert not any(a == b for a, b in itertools.pairwise(found))
