"""Which examples go where, by seed: the same on every machine and under every Python.

The order is that of SHA-256 over seed and content hash, so no generator's version matters. Rows
with equal hashes stay together: what an optimizer saw never turns up among held-out examples.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping, Sequence

from dspex_ray.core.canonical import content_hash
from dspex_ray.core.errors import Invalid
from dspex_ray.core.noun import require_name
from dspex_ray.datasets.model import ExampleQuery


def split(hashes: Sequence[str], sizes: Mapping[str, int], seed: int) -> dict[str, tuple[int, ...]]:
    """Disjoint positions in `hashes` by name, exactly as many as asked, in seeded order.

    The order of `sizes` does not matter: names are filled in alphabetical order. A group of equal
    hashes goes whole to the first name with room for it, or to none. Raises Invalid when there
    are too few, or when groups are too large to fill a name exactly.
    """
    _check_sizes(len(hashes), sizes)
    groups = _groups(hashes, seed)
    found: dict[str, tuple[int, ...]] = {}
    # Seeded order first; only if that leaves a gap are large groups placed before small ones.
    for ordered in (groups, sorted(groups, key=len, reverse=True)):
        found = _fill(ordered, sizes)
        if all(len(found[name]) == size for name, size in sizes.items()):
            return found
    short = next(name for name in sorted(sizes) if len(found[name]) < sizes[name])
    raise Invalid(
        f"split {short!r} gets {len(found[short])} of {sizes[short]}: the other examples are "
        "duplicates, which must not be on two sides",
        field=f"sizes.{short}",
        rule="duplicates on one side",
    )


def sample(hashes: Sequence[str], n: int, seed: int) -> tuple[int, ...]:
    """`n` positions in seeded order; a larger sample of the same seed begins with the smaller."""
    if not 1 <= n <= len(hashes):
        raise Invalid(
            f"a sample of {n} from {len(hashes)} examples (allowed: 1 to {len(hashes)})",
            field="sample",
            rule="range",
        )
    return tuple(position for group in _groups(hashes, seed) for position in group)[:n]


def folds(hashes: Sequence[str], k: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """`k` disjoint parts, in seeded order, that cover every position: what each fold holds out.

    Their sizes differ by no more than the largest group of equal hashes. Raises Invalid when `k`
    is under 2 or over the number of different hashes.
    """
    groups = _groups(hashes, seed)
    if not 2 <= k <= len(groups):
        raise Invalid(
            f"{k} folds of {len(groups)} different examples (allowed: 2 to {len(groups)})",
            field="folds",
            rule="range",
        )
    parts: list[list[int]] = [[] for _ in range(k)]
    smallest = [(0, number) for number in range(k)]
    for group in groups:
        _, number = heapq.heappop(smallest)
        parts[number].extend(group)
        heapq.heappush(smallest, (len(parts[number]), number))
    return tuple(tuple(part) for part in parts)


def chosen(query: ExampleQuery, hashes: Sequence[str]) -> tuple[int, ...]:
    """The positions that a query is after, in its order. Raises Invalid for a query that says two
    things, or half of one."""
    asked = [name for name in ("split", "sample", "fold") if getattr(query, name) is not None]
    if len(asked) > 1:
        raise Invalid(
            f"{' and '.join(asked)}: give one of them", field=asked[1], rule="one selection"
        )
    if query.split is not None:
        parts = split(hashes, sizes_of(query.sizes or ""), query.seed)
        return _named(parts, query.split)
    if query.sample is not None:
        return sample(hashes, query.sample, query.seed)
    if query.fold is not None:
        return _nth(folds(hashes, query.folds or 0, query.seed), query.fold)
    return tuple(range(len(hashes)))


def sizes_of(text: str) -> dict[str, int]:
    """`train=60,dev=40` as sizes by name."""
    found: dict[str, int] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, _, size = part.partition("=")
        if not size.isdecimal() or len(size) > 9 or name in found:
            raise Invalid(
                f"sizes {text[:100]!r} must read train=60,dev=40, each name once",
                field="sizes",
                rule="sizes",
            )
        found[require_name(name, "sizes")] = int(size)
    return found


def fingerprint(hashes: Sequence[str], positions: Sequence[int]) -> str:
    """Of the examples at `positions`, in that order: equal for equal content."""
    return content_hash([hashes[position] for position in positions])


def split_fingerprint(hashes: Sequence[str], parts: Mapping[str, Sequence[int]]) -> str:
    """Of a whole split: its names with their parts' fingerprints."""
    return content_hash({name: fingerprint(hashes, part) for name, part in parts.items()})


def _named(parts: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, ...]:
    if name not in parts:
        raise Invalid(
            f"there is no split {name!r} (there are: {', '.join(parts)})",
            field="split",
            rule="known split",
        )
    return parts[name]


def _nth(parts: Sequence[tuple[int, ...]], fold: int) -> tuple[int, ...]:
    if fold >= len(parts):
        raise Invalid(
            f"there is no fold {fold} of {len(parts)} (allowed: 0 to {len(parts) - 1})",
            field="fold",
            rule="range",
        )
    return parts[fold]


def _check_sizes(available: int, sizes: Mapping[str, int]) -> None:
    if not sizes:
        raise Invalid("a split needs sizes, such as train=60,dev=40", field="sizes", rule="given")
    for name, size in sizes.items():
        if size < 1:
            raise Invalid(
                f"split {name!r} of {size} examples (allowed: 1 or more)",
                field=f"sizes.{name}",
                rule="at least one",
            )
    wanted = sum(sizes.values())
    if wanted > available:
        raise Invalid(
            f"the splits need {wanted} examples, the dataset has {available}",
            field="sizes",
            rule="available",
        )


def _groups(hashes: Sequence[str], seed: int) -> list[list[int]]:
    """Positions by equal hash, groups in seeded order."""
    groups: dict[str, list[int]] = {}
    for position, digest in enumerate(hashes):
        groups.setdefault(digest, []).append(position)
    order = sorted(groups, key=lambda digest: hashlib.sha256(f"{seed}:{digest}".encode()).digest())
    return [groups[digest] for digest in order]


def _fill(groups: Sequence[Sequence[int]], sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Each group to the first name, in alphabetical order, that has room for all of it."""
    parts: dict[str, list[int]] = {name: [] for name in sorted(sizes)}
    for group in groups:
        for name, part in parts.items():
            if len(part) + len(group) <= sizes[name]:
                part.extend(group)
                break
    return {name: tuple(part) for name, part in parts.items()}
