"""Configurations of a space: at random, on a grid, by latin hypercube or Sobol sequence.

Every design but the grid is points in the unit cube, one dimension a variable, taken to values
by `Domain.at`; those that break a constraint are left out and made up for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice, repeat

import numpy as np
from scipy.stats import qmc

from dspex_ray.core.errors import Invalid
from dspex_ray.variables.model import (
    Configuration,
    Leaf,
    SampleAsk,
    Samples,
    SamplingMethod,
    Space,
)
from dspex_ray.variables.rules import (
    MAX_TRIED,
    TooMany,
    broken_constraints,
    configuration_of,
    every,
    settle,
)

MAX_GRID = 100_000
_TRIES, _TRIES_EACH = 10_000, 50
_SOON = 1000  # tries that may fail before a search through all there is
_MORE = 256
_WORK = 2_000_000  # values and conditions looked at before a search for valid points is given up


def sample(space: Space, ask: SampleAsk) -> Samples:
    """`ask.n` configurations, all valid; the same for equal spaces and equal asks.

    Raises Invalid, rule "satisfiable", saying whether none can be found or none was found.
    """
    if ask.method is SamplingMethod.GRID:
        found = grid(space, levels=ask.levels, limit=ask.n)
    else:
        found = _drawn(space, ask.method, ask.n, ask.seed)
    return Samples(method=ask.method, seed=ask.seed, configurations=tuple(found))


def random(space: Space, n: int, seed: int) -> list[Configuration]:
    """Each variable uniform in its domain, where the constraints allow; may repeat itself."""
    return _drawn(space, SamplingMethod.RANDOM, n, seed)


def latin_hypercube(space: Space, n: int, seed: int) -> list[Configuration]:
    """Each variable's range is divided into n parts, with one configuration in each; exactly so
    where no constraint takes configurations away."""
    return _drawn(space, SamplingMethod.LATIN_HYPERCUBE, n, seed)


def sobol(space: Space, n: int, seed: int) -> list[Configuration]:
    """The first n valid points of a scrambled Sobol sequence."""
    return _drawn(space, SamplingMethod.SOBOL, n, seed)


def grid(space: Space, *, levels: int = 5, limit: int = MAX_GRID) -> list[Configuration]:
    """Every valid configuration exactly once, `levels` values standing for a float without step
    and for a range of more than `WHOLE_RANGE` values.

    Raises Invalid when there is none, and when there are more than `limit`.
    """
    try:
        found = list(islice(every(space, levels), limit + 1))
    except TooMany:
        raise Invalid(
            f"The grid takes over {MAX_TRIED:,} steps: fewer levels, or another method",
            field="levels",
            rule="grid size",
        ) from None
    if len(found) > limit:
        raise Invalid(
            f"The grid has more than {limit:,} configurations: ask for more, or for fewer levels",
            field="n",
            rule="grid size",
        )
    if found:
        return found
    if all(case.domain.whole(levels) for leaf in space.leaves() for case in leaf.branches()):
        raise _unsatisfiable(Counter())
    raise Invalid(
        "No configuration on the grid satisfies the constraints: more levels may find one",
        field="constraints",
        rule="satisfiable",
    )


def _drawn(space: Space, method: SamplingMethod, n: int, seed: int) -> list[Configuration]:
    leaves = space.leaves()
    broken: Counter[str] = Counter()
    points = _points(method, len(leaves), n, seed)
    tried = (_configuration(space, leaves, point, broken) for point in points)
    most = _tries(space, leaves, n)
    soon = min(n + _SOON, most)
    found = list(islice(_valid(islice(tried, soon)), n))
    if len(found) == n:
        return found
    try:
        every_one = list(every(space))
    except TooMany:
        found += islice(_valid(islice(tried, most - soon)), n - len(found))
        if len(found) == n:
            return found
        raise _none_found(len(found), most, broken) from None
    if not every_one:
        raise _unsatisfiable(broken)
    chosen = np.random.default_rng(seed).integers(len(every_one), size=n - len(found))
    return found + [every_one[k] for k in chosen]


def _configuration(
    space: Space, leaves: list[Leaf], point: list[float], broken: Counter[str]
) -> Configuration | None:
    """The configuration at a point; None, and the constraints counted, when it breaks some."""
    units = {leaf.path: unit for leaf, unit in zip(leaves, point, strict=True)}
    values = settle(leaves, lambda slot: slot.domain.at(units[slot.path]))
    faults = broken_constraints(space.constraints, values)
    broken.update(fault.name for fault in faults)
    return None if faults else configuration_of(values)


def _valid(tried: Iterator[Configuration | None]) -> Iterator[Configuration]:
    return (configuration for configuration in tried if configuration is not None)


def _points(method: SamplingMethod, dimensions: int, n: int, seed: int) -> Iterator[list[float]]:
    """The n points of the design, and without end more in the same manner, `_MORE` at a time."""
    if dimensions == 0:
        yield from repeat([])
    rng = np.random.default_rng(seed)
    exponent = max(n - 1, 0).bit_length()
    sequence = qmc.Sobol(dimensions, rng=rng) if method is SamplingMethod.SOBOL else None
    count = n
    while True:
        if sequence is not None:
            block = sequence.random_base2(exponent)
            # The sequence is balanced only at powers of two: each next block doubles it.
            exponent = sequence.num_generated.bit_length() - 1
        elif method is SamplingMethod.LATIN_HYPERCUBE:
            block = qmc.LatinHypercube(dimensions, rng=rng).random(count)
        else:
            block = rng.random((count, dimensions))
        yield from block.tolist()
        count = max(n, _MORE)


def _tries(space: Space, leaves: list[Leaf], n: int) -> int:
    """How many points to try, by what it costs to try one: a bound of seconds, yet no clock."""
    conditions = [condition for leaf in leaves for condition in leaf.when]
    conditions += [
        case.when for leaf in leaves for case in leaf.branches() if case.when is not None
    ]
    conditions += [constraint.rule for constraint in space.constraints]
    cost = len(leaves) + sum(1 for condition in conditions for _ in condition.mentions())
    return max(n, min(max(_TRIES, _TRIES_EACH * n), _WORK // max(cost, 1)))


def _none_found(found: int, tries: int, broken: Counter[str]) -> Invalid:
    return Invalid(
        f"{found or 'None'} of {tries:,} points satisfied the constraints, and there are too many "
        f"configurations to try all{_blame(broken)}",
        field="constraints",
        rule="satisfiable",
    )


def _unsatisfiable(broken: Counter[str]) -> Invalid:
    return Invalid(
        f"No configuration satisfies the constraints: all were tried{_blame(broken)}",
        field="constraints",
        rule="satisfiable",
    )


def _blame(broken: Counter[str]) -> str:
    worst = broken.most_common(3)
    return f" (most broken: {', '.join(name for name, _ in worst)})" if worst else ""
