"""Decisions about configurations: walking a space, what is wrong with one, how big a space is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from dspex_ray.core.errors import Invalid
from dspex_ray.variables.conditions import (
    INACTIVE,
    Inactive,
    Scalar,
    Values,
)
from dspex_ray.variables.domains import Domain, FloatVariable, default_of
from dspex_ray.variables.model import (
    Configuration,
    Constraint,
    Difficulty,
    Fault,
    Figures,
    Leaf,
    Space,
    Verdict,
)

MAX_TRIED = 100_000  #: values that an exhaustive search tries before it gives up
_COUNTABLE = 10**18
_SHOWN_FAULTS = 5


class Slot(NamedTuple):
    """A variable that is active, with the domain that holds here.

    `case` tells the branches of a conditional variable apart: its number, or None for the last
    resort and for all other variables.
    """

    path: str
    domain: Domain
    case: int | None


def walk(space: Space, choose: Callable[[Slot], Scalar]) -> Configuration:
    """The configuration that `choose` makes, asked for each active variable in dependency order.

    Constraints are not looked at: `check` does.
    """
    return configuration_of(settle(space.leaves(), choose))


def settle(
    leaves: Iterable[Leaf], choose: Callable[[Slot], Scalar]
) -> dict[str, Scalar | Inactive]:
    """As `walk`, with what is inactive marked so: what conditions are asked about."""
    values: dict[str, Scalar | Inactive] = {}
    for leaf in leaves:
        slot = slot_of(leaf, values)
        values[leaf.path] = INACTIVE if slot is None else choose(slot)
    return values


def configuration_of(values: Values) -> Configuration:
    """The active ones."""
    return {path: value for path, value in values.items() if not isinstance(value, Inactive)}


def slot_of(leaf: Leaf, values: Values) -> Slot | None:
    """None when the variable is inactive. `values` holds all that the leaf needs."""
    if not all(condition.holds(values) for condition in leaf.when):
        return None
    for case in leaf.branches():
        if case.when is None or case.when.holds(values):
            return Slot(leaf.path, case.domain, case.number)
    return None


def defaults(space: Space) -> Configuration:
    """Every active variable at its default; constraints are not looked at."""
    return walk(space, lambda slot: default_of(slot.domain))


def check(space: Space, configuration: Mapping[str, Any]) -> Verdict:
    """Everything that is wrong with a configuration, at once.

    All variables are there, their values fit, dependencies hold, then constraints. What cannot
    be told because of a fault before it is not another fault.
    """
    leaves = space.leaves()
    known = {leaf.path for leaf in leaves}
    faults = [
        Fault(
            field=str(name)[:200],
            rule="unknown",
            message=f"there is no such variable (there are: {', '.join(sorted(known)[:20])})",
        )
        for name in configuration
        if name not in known
    ]
    values: dict[str, Scalar | Inactive] = {}
    doubtful: set[str] = set()
    for leaf in leaves:
        if doubtful and leaf.needs() & doubtful:
            doubtful.add(leaf.path)
            continue
        slot = slot_of(leaf, values)
        fault = _fault(leaf, slot, configuration)
        if fault is not None:
            faults.append(fault)
            doubtful.add(leaf.path)
        else:
            values[leaf.path] = INACTIVE if slot is None else configuration[leaf.path]
    faults += [
        Fault(field=_field(broken), rule=broken.name, message=f"must satisfy: {broken.text}")
        for broken in broken_constraints(space.constraints, values)
    ]
    return Verdict(valid=not faults, faults=tuple(faults))


def validate(space: Space, configuration: Mapping[str, Any]) -> Configuration:
    """The configuration, checked. Raises Invalid naming variable and rule of the first fault,
    all of them in its detail `faults`."""
    verdict = check(space, configuration)
    if verdict.valid:
        return dict(configuration)
    shown = "; ".join(f"{fault.field}: {fault.message}" for fault in verdict.faults[:_SHOWN_FAULTS])
    more = len(verdict.faults) - _SHOWN_FAULTS
    first = verdict.faults[0]
    raise Invalid(
        f"Invalid configuration: {shown}" + (f"; and {more} more" if more > 0 else ""),
        field=first.field,
        rule=first.rule,
        faults=[fault.model_dump() for fault in verdict.faults],
    )


def broken_constraints(constraints: Iterable[Constraint], values: Values) -> list[Constraint]:
    return [constraint for constraint in constraints if constraint.rule.holds(values) is False]


class TooMany(Exception):
    """An exhaustive search tried `MAX_TRIED` values and was not through."""


def every(space: Space, levels: int | None = None) -> Iterator[Configuration]:
    """Every configuration that satisfies the constraints, each once, the first variable slowest.

    With `levels`, of what has too many values only so many are tried, evenly spread. Raises
    TooMany when that is a long search, or without `levels` when there is no end of values.
    """
    leaves = space.leaves()
    if not leaves:
        yield {}
        return
    due = [
        [rule.rule for rule in space.constraints if leaf.path in set(rule.rule.mentions())]
        for leaf in leaves
    ]
    values: dict[str, Scalar | Inactive] = {}
    trying = [_tried(leaves[0], values, levels)]
    tried = 0
    while trying:  # a stack rather than recursion: a space may be deeper than Python's
        depth = len(trying) - 1
        values.pop(leaves[depth].path, None)
        value = next(trying[depth], _END)
        if isinstance(value, _End):
            trying.pop()
            continue
        tried += 1
        if tried > MAX_TRIED:
            raise TooMany
        values[leaves[depth].path] = value
        if any(rule.holds(values) is False for rule in due[depth]):
            continue
        if depth + 1 == len(leaves):
            yield configuration_of(values)
        else:
            trying.append(_tried(leaves[depth + 1], values, levels))


def figures(space: Space) -> Figures:
    """Size, dimensions, complexity (a point a variable, two a constraint) and difficulty."""
    leaves = space.leaves()
    counts = [_count(leaf) for leaf in leaves]
    discrete = [count for leaf, count in zip(leaves, counts, strict=True) if not _is_float(leaf)]
    size, size_is = _size(space, leaves, counts)
    return Figures(
        variable_count=len(leaves),
        dimensions=len(leaves),
        continuous_dimensions=sum(map(_is_float, leaves)),
        discrete_size=_countable(math.prod(count or 1 for count in discrete)),
        size=size,
        size_is=size_is,
        complexity_score=float(len(leaves) + 2 * len(space.constraints)),
        optimization_difficulty=_difficulty(len(leaves)),
    )


class _End:
    pass


_END = _End()


def _tried(leaf: Leaf, values: Values, levels: int | None) -> Iterator[Scalar | Inactive]:
    slot = slot_of(leaf, values)
    if slot is None:
        return iter((INACTIVE,))
    if levels is not None:
        return iter(slot.domain.values(levels))
    count = slot.domain.count
    if count is None or count > MAX_TRIED:
        raise TooMany
    return iter(slot.domain.values(MAX_TRIED))


def _fault(leaf: Leaf, slot: Slot | None, configuration: Mapping[str, Any]) -> Fault | None:
    given = leaf.path in configuration
    if slot is None:
        why = f"is inactive here ({_inactive_why(leaf)}): leave it out"
        return Fault(field=leaf.path, rule="inactive", message=why) if given else None
    if not given:
        return Fault(field=leaf.path, rule="required", message="is missing")
    wrong = slot.domain.misfit(configuration[leaf.path])
    return None if wrong is None else Fault(field=leaf.path, rule=slot.domain.kind, message=wrong)


def _inactive_why(leaf: Leaf) -> str:
    if leaf.when:
        return "active only if " + " and ".join(condition.text for condition in leaf.when)
    return "none of its cases holds"


def _field(broken: Constraint) -> str:
    """The variable that a broken constraint mentions last: of an implication, the consequence."""
    return list(broken.rule.mentions())[-1]


def _size(
    space: Space, leaves: list[Leaf], counts: list[int | None]
) -> tuple[int | None, Literal["exact", "at_most", "over_1e18", "infinite"]]:
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return None, "infinite"
    most = _countable(math.prod(known))
    if not space.constraints and not any(leaf.needs() for leaf in leaves):
        return most, "over_1e18" if most is None else "exact"
    try:
        return sum(1 for _ in every(space)), "exact"
    except TooMany:
        return most, "over_1e18" if most is None else "at_most"


def _count(leaf: Leaf) -> int | None:
    """The most values that it can have at one place; None when there is no end of them."""
    counts = [case.domain.count for case in leaf.branches()]
    known = [count for count in counts if count is not None]
    return max(known) if len(known) == len(counts) else None


def _is_float(leaf: Leaf) -> bool:
    return any(isinstance(case.domain, FloatVariable) for case in leaf.branches())


def _countable(count: int) -> int | None:
    return count if count <= _COUNTABLE else None


def _difficulty(variables: int) -> Difficulty:
    bounds = ((3, Difficulty.EASY), (8, Difficulty.MEDIUM), (15, Difficulty.HARD))
    return next((level for most, level in bounds if variables <= most), Difficulty.EXTREME)
