"""What a search over a space tries before it has learnt anything: its first design."""

from __future__ import annotations

from contextlib import suppress
from itertools import chain, zip_longest

from dspex_ray.core.errors import Invalid
from dspex_ray.optimization.samplers import Draft
from dspex_ray.variables import sampling
from dspex_ray.variables.conditions import same
from dspex_ray.variables.domains import ChoiceVariable, ModuleVariable
from dspex_ray.variables.model import Configuration, Space
from dspex_ray.variables.rules import check, defaults, validate

_LEAST, _MOST = 8, 16


def first_design(
    space: Space, start: Configuration | None, seed: int, initial: int | None = None
) -> list[Draft]:
    """The start, neighbours of it for up to half of the rest, and points of a Sobol sequence:
    `initial` in all, or twice the dimensions within bounds.

    Without a start it is the space's defaults, where these are valid, and there are no
    neighbours: what nobody chose is no better a place than another. Raises Invalid for a start
    that is not valid, and when no configuration is.
    """
    count = initial or min(max(2 * len(space.leaves()), _LEAST), _MOST)
    first: list[Draft] = []
    if start is not None:
        validate(space, start)
        first = [Draft(start, "start"), *neighbours(space, start)[: (count - 1) // 2]]
    elif check(space, given := defaults(space)).valid:
        first = [Draft(given, "start")]
    found = sampling.random(space, 1, seed)  # says so when there is none
    with suppress(Invalid):  # so few keep the constraints: the sampler goes on from the one
        found = sampling.sobol(space, count, seed)
    return [*first, *(Draft(configuration, "sobol") for configuration in found)][:count]


def neighbours(space: Space, start: Configuration) -> list[Draft]:
    """All valid ones that differ from the start in one choice alone, the variables in turn: what
    is cheaper by one change, such as a shorter instruction, is seldom drawn with all else equal."""
    turns = zip_longest(
        *(
            [{**start, leaf.path: choice} for choice in leaf.variable.choices]
            for leaf in space.leaves()
            if isinstance(leaf.variable, ChoiceVariable | ModuleVariable) and leaf.path in start
        )
    )
    changed = (one for one in chain.from_iterable(turns) if one is not None)
    return [
        Draft(one, "neighbour")
        for one in changed
        if any(not same(one[path], start[path]) for path in start) and check(space, one).valid
    ]
