"""Texts as vectors, clusters of them, and choices that are good and unlike each other."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import kmeans, vq

Vectors = npt.NDArray[np.float64]  # shape (texts, dimensions), rows of length 1 (or 0)

_DIMENSIONS = 1024
_WORD = re.compile(r"\w+")


def text_vectors(texts: Sequence[str]) -> Vectors:
    """TF-IDF of words, hashed into 1024 dimensions: the same under every process and Python.

    Rows have length 1; a text without words has a row of zeros.
    """
    counts = [Counter(_slot(w) for w in _WORD.findall(text.lower())) for text in texts]
    held_by = Counter(slot for count in counts for slot in count)
    found = np.zeros((len(texts), _DIMENSIONS))
    for row, count in enumerate(counts):
        for slot, times in count.items():
            rarity = math.log((1 + len(texts)) / (1 + held_by[slot])) + 1
            found[row, slot] = (1 + math.log(times)) * rarity
    return unit_rows(found)


def unit_rows(vectors: npt.ArrayLike) -> Vectors:
    """Each row divided by its length; rows of zeros stay."""
    found = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(np.divide(found, lengths, out=np.zeros_like(found), where=lengths > 0))


def similarities(vectors: Vectors) -> npt.NDArray[np.float64]:
    """Cosine of each pair, 0 to 1 (opposites count as unlike): shape (n, n)."""
    found: Vectors = np.clip(vectors @ vectors.T, 0.0, 1.0)
    return found


def central(vectors: Vectors, count: int, rng: np.random.Generator) -> list[int]:
    """Up to `count` rows that cover all: of each k-means cluster the row next to its middle."""
    if count >= len(vectors):
        return list(range(len(vectors)))
    middles, _ = kmeans(vectors, count, iter=4, rng=rng)
    clusters, distances = vq(vectors, middles)
    nearest: dict[int, int] = {}
    for row in np.argsort(distances, kind="stable"):
        nearest.setdefault(int(clusters[row]), int(row))
    return sorted(nearest.values())


def marginally_best(
    quality: Sequence[float],
    alike: npt.NDArray[np.float64],
    count: int,
    diversity: float,
    quotas: Mapping[int, str] | None = None,
) -> list[int]:
    """Greedily the argmax of (1 - diversity) quality + diversity (1 - greatest similarity to one
    chosen): Carbonell and Goldstein 1998, MMR. The first choice has diversity 1.

    `alike`: shape (n, n), 0 to 1. `quotas`: a label by index; each label gets its even share.
    Ties go to the lower index. `diversity` 0 is plain order of quality.
    """
    chosen: list[int] = []
    open_to = _Quota(quotas or {})
    while len(chosen) < min(count, len(quality)):
        left = open_to.of(i for i in range(len(quality)) if i not in chosen)

        def gain(i: int) -> float:
            unlike = 1.0 - max((float(alike[i, j]) for j in chosen), default=0.0)
            return (1 - diversity) * quality[i] + diversity * unlike

        best = max(left, key=gain)
        chosen.append(best)
        open_to.take(best)
    return chosen


def determinantal(
    quality: Sequence[float],
    alike: npt.NDArray[np.float64],
    count: int,
    quotas: Mapping[int, str] | None = None,
) -> list[int]:
    """Greedy MAP of the determinantal point process with kernel q_i S_ij q_j: Chen, Zhang and
    Zhou 2018, algorithm 1, which grows a Cholesky factor. Arguments as `marginally_best`."""
    size = len(quality)
    weight = np.asarray(quality, dtype=np.float64) + 1e-6
    kernel = weight[:, None] * alike * weight[None, :]
    gains, factor = np.diag(kernel).copy(), np.zeros((min(count, size), size))
    chosen: list[int] = []
    open_to = _Quota(quotas or {})
    while len(chosen) < min(count, size):
        left = open_to.of(i for i in range(size) if i not in chosen)
        best = max(left, key=lambda i: float(gains[i]))
        k = len(chosen)
        root = math.sqrt(max(float(gains[best]), 1e-12))
        factor[k] = (kernel[best] - factor[:k, best] @ factor[:k]) / root
        gains = gains - factor[k] ** 2
        chosen.append(best)
        open_to.take(best)
    return chosen


class _Quota:
    """Labels in even shares: one that has fewest so far, among those that have any left."""

    def __init__(self, labels: Mapping[int, str]) -> None:
        self._labels = labels
        self._taken: Counter[str] = Counter()

    def of(self, indices: Iterable[int]) -> list[int]:
        left = list(indices)
        if not self._labels:
            return left
        fewest = min(self._taken[self._labels[i]] for i in left)
        return [i for i in left if self._taken[self._labels[i]] == fewest]

    def take(self, index: int) -> None:
        if self._labels:
            self._taken[self._labels[index]] += 1


def _slot(word: str) -> int:
    return zlib.crc32(word.encode()) % _DIMENSIONS
