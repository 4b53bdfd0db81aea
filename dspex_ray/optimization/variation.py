"""Children of configurations: crossover, mutation, repair. Each is valid by construction.

A child is made by walking the space in dependency order: a variable takes its parent's value, or a
changed one, or, where only the change has switched it on, one at random; what the change switches
off is gone. Constraints that the child breaks are mended by drawing the variables anew that they
speak of.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Literal, NamedTuple, Protocol

import numpy as np

from dspex_ray.optimization.distributions import place
from dspex_ray.variables.conditions import Inactive, Scalar, same
from dspex_ray.variables.domains import ChoiceVariable, Domain, ModuleVariable
from dspex_ray.variables.model import Configuration, Leaf, Space
from dspex_ray.variables.rules import Slot, broken_constraints, configuration_of, settle

Kind = Literal["crossover", "mutation"]

_REPAIRS = 60
_MINTED = 0.4  # how often a change of a growing pool is a new member rather than a known one
_BLENDED = 0.5  # how often a number is taken between its parents rather than from one
_BEYOND = 0.25  # of the parents' distance: how far outside of them


class Mint(Protocol):
    """Makes a new member of an append-only pool, such as a demo set or an instruction.

    `path` is the variable whose choices are the pool's ids, `parents` the members to make it of:
    two for a crossover, one for a mutation. Returns the new member's id, or one that is already
    there when the making gives nothing new, or None when none can be made. Must be deterministic:
    the same calls in the same order give the same ids.
    """

    def __call__(self, kind: Kind, path: str, parents: tuple[str, ...]) -> str | None: ...


class Growth(NamedTuple):
    """The variables whose choices are pools that grow, and what makes their new members."""

    paths: Collection[str]
    mint: Mint


def crossover(
    space: Space,
    one: Configuration,
    other: Configuration,
    rng: np.random.Generator,
    growth: Growth | None = None,
) -> Configuration | None:
    """Each variable from either parent; numbers sometimes between or a little outside of both
    (BLX, Eshelman and Schaffer 1993). None when no child could be made to keep the constraints."""

    def choose(slot: Slot) -> Scalar:
        options = [p[slot.path] for p in (one, other) if _fits(slot, p)]
        if not options:
            return _drawn(slot, rng)
        if len(options) == 2 and not same(*options):
            return _between(slot.domain, options[0], options[1], rng)
        return options[0]

    child = _walked(space, choose, rng)
    if child is None or growth is None:
        return child
    differing = [p for p in growth.paths if p in one and p in other and one[p] != other[p]]
    return _grown(space, child, "crossover", differing, (one, other), growth, rng)


def mutate(
    space: Space,
    configuration: Configuration,
    rng: np.random.Generator,
    *,
    size: float = 0.2,
    changes: float = 1.5,
    growth: Growth | None = None,
) -> Configuration | None:
    """About `changes` variables changed, at least one; a number by about `size` of its range, a
    choice to another one. None when no child could be made to keep the constraints."""
    paths = sorted(configuration)
    if not paths:
        return None
    changed = {path for path in paths if rng.random() < changes / len(paths)}
    changed.add(paths[rng.integers(len(paths))])

    def choose(slot: Slot) -> Scalar:
        if not _fits(slot, configuration):
            return _drawn(slot, rng)
        value = configuration[slot.path]
        return _stepped(slot.domain, value, size, rng) if slot.path in changed else value

    child = _walked(space, choose, rng)
    if child is None or growth is None:
        return child
    changed &= set(growth.paths)
    return _grown(space, child, "mutation", changed, (configuration,), growth, rng)


def repaired(space: Space, wanted: Configuration, rng: np.random.Generator) -> Configuration | None:
    """The configuration itself where it is valid, else one that keeps what it can of it. None when
    none is found: the space's constraints are narrow then, or cannot be satisfied at all."""

    def choose(slot: Slot) -> Scalar:
        return wanted[slot.path] if _fits(slot, wanted) else _drawn(slot, rng)

    return _walked(space, choose, rng)


def _walked(
    space: Space, choose: Callable[[Slot], Scalar], rng: np.random.Generator
) -> Configuration | None:
    """What `choose` makes, mended by min-conflicts (Minton et al. 1992) where it must be."""
    leaves = space.leaves()
    values = settle(leaves, choose)
    broken = broken_constraints(space.constraints, values)
    for attempt in range(_REPAIRS):
        if not broken:
            break
        names = {name for constraint in broken for name in constraint.rule.mentions()}
        redrawn = _redrawn(leaves, configuration_of(values), _suspects(leaves, names), attempt, rng)
        now = broken_constraints(space.constraints, redrawn)
        if len(now) < len(broken):
            values, broken = redrawn, now
    return None if broken else configuration_of(values)


def _suspects(leaves: Iterable[Leaf], names: set[str]) -> list[str]:
    """The variables that a fault is about, and those that switch them on and off."""
    return sorted(names.union(*(leaf.needs() for leaf in leaves if leaf.path in names)))


def _redrawn(
    leaves: list[Leaf],
    kept: Configuration,
    suspects: list[str],
    attempt: int,
    rng: np.random.Generator,
) -> dict[str, Scalar | Inactive]:
    """One suspect drawn anew, later two, at last all: as little as possible is changed."""
    count = len(suspects) if attempt >= _REPAIRS * 2 // 3 else 1 + attempt * 3 // _REPAIRS
    drawn = set(rng.permutation(suspects)[:count].tolist())

    def choose(slot: Slot) -> Scalar:
        keep = slot.path not in drawn and _fits(slot, kept)
        return kept[slot.path] if keep else _drawn(slot, rng)

    return settle(leaves, choose)


def _grown(
    space: Space,
    child: Configuration,
    kind: Kind,
    paths: Iterable[str],
    parents: tuple[Configuration, ...],
    growth: Growth,
    rng: np.random.Generator,
) -> Configuration:
    """The child with new pool members on some of `paths`, where the constraints allow it."""
    for path in sorted(paths):
        members = tuple(str(parent[path]) for parent in parents)
        only = kind == "mutation" and child.get(path) == members[0]  # there is no other member
        if path not in child or not (only or rng.random() < _MINTED):
            continue
        member = growth.mint(kind, path, members)
        if member is not None and _holds(space, given := {**child, path: member}):
            child = given
    return child


def _holds(space: Space, given: Configuration) -> bool:
    """Whether the same variables are active and no constraint is broken."""
    values = settle(space.leaves(), lambda slot: given.get(slot.path))
    same_active = configuration_of(values).keys() == given.keys()
    return same_active and not broken_constraints(space.constraints, values)


def _fits(slot: Slot, configuration: Configuration) -> bool:
    return slot.path in configuration and slot.domain.misfit(configuration[slot.path]) is None


def _drawn(slot: Slot, rng: np.random.Generator) -> Scalar:
    return slot.domain.at(rng.random())


def _between(domain: Domain, one: Scalar, other: Scalar, rng: np.random.Generator) -> Scalar:
    if isinstance(domain, ChoiceVariable | ModuleVariable) or rng.random() >= _BLENDED:
        return one if rng.random() < 0.5 else other
    low, high = place(domain, one), place(domain, other)
    return domain.at(_unit(low + rng.uniform(-_BEYOND, 1 + _BEYOND) * (high - low)))


def _stepped(domain: Domain, value: Scalar, size: float, rng: np.random.Generator) -> Scalar:
    if isinstance(domain, ChoiceVariable | ModuleVariable):
        others = [choice for choice in domain.choices if not same(choice, value)]
        return others[rng.integers(len(others))] if others else value
    unit = place(domain, value)
    found = domain.at(_unit(unit + size * rng.standard_normal()))
    if not same(found, value) or domain.count is None:
        return found
    step = (1 if rng.random() < 0.5 else -1) / domain.count
    neighbours = (domain.at(_unit(unit + step)), domain.at(_unit(unit - step)))
    return next((near for near in neighbours if not same(near, value)), value)


def _unit(place: float) -> float:
    return min(max(place, 0.0), 1.0)
