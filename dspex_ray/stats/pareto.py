"""Which candidates are worth keeping when several figures count at once.

`points` has shape (n, k): a row a candidate, a column an objective, in the objectives' own units
and order. Infinite figures are compared as they are; NaN is refused. `violations`, where given, has
shape (n,), 0 for a candidate within its limits: then Deb's constrained domination holds (Deb et al.
2002, NSGA-II, definition 1): within the limits beats outside, less outside beats more, and only
two candidates within them are compared by their objectives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dspex_ray.core.errors import Invalid
from dspex_ray.core.objectives import Objective
from dspex_ray.stats.vectors import Matrix, Vector

Points = Sequence[Sequence[float]] | Matrix
Violations = Sequence[float] | Vector | None
Bools = npt.NDArray[np.bool_]


def dominates(
    one: Sequence[float], other: Sequence[float], objectives: Sequence[Objective]
) -> bool:
    """At least as good in every objective, and better in one."""
    return bool(domination([one, other], objectives)[0, 1])


def domination(
    points: Points, objectives: Sequence[Objective], violations: Violations = None
) -> Bools:
    """Shape (n, n): whether the row's candidate dominates the column's."""
    losses = _losses(points, objectives)
    no_worse = (losses[:, None, :] <= losses[None, :, :]).all(axis=2)
    better = (losses[:, None, :] < losses[None, :, :]).any(axis=2)
    by_objectives = np.logical_and(no_worse, better)
    if violations is None:
        return by_objectives
    outside = _violations(violations, len(losses))
    both_within = (outside[:, None] == 0) & (outside[None, :] == 0)
    return np.where(both_within, by_objectives, outside[:, None] < outside[None, :])


def front(
    points: Points, objectives: Sequence[Objective], violations: Violations = None
) -> tuple[int, ...]:
    """The rows that no other dominates, ascending; equal rows stay together, no rows give ().

    When every candidate is outside its limits, the front is those least outside.
    """
    dominated = domination(points, objectives, violations).any(axis=0)
    return tuple(int(row) for row in np.flatnonzero(~dominated))


def ranks(
    points: Points, objectives: Sequence[Objective], violations: Violations = None
) -> tuple[int, ...]:
    """Each row's front: 0 for the front itself, 1 for the front of the rest, and so on."""
    beats = domination(points, objectives, violations)
    found = np.full(len(beats), -1)
    beaten_by = beats.sum(axis=0)
    rank = 0
    while (found < 0).any():
        layer = (beaten_by == 0) & (found < 0)
        found[layer] = rank
        beaten_by = beaten_by - beats[layer].sum(axis=0)
        rank += 1
    return tuple(int(row) for row in found)


def crowding(points: Points, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """How much room each row of one front has around it; infinite at the ends of an objective.

    The sum over objectives of the gap between a row's neighbours, as a share of the range (Deb et
    al. 2002, section III-B). Equal figures are taken in the order of the rows.
    """
    losses = _finite(_losses(points, objectives), "points")
    found = np.zeros(len(losses))
    for column in losses.T:
        order = np.argsort(column, kind="stable")
        span = np.ptp(column) if len(column) else 0.0
        if not span:
            continue
        found[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
        found[order[[0, -1]]] = np.inf
    return tuple(float(row) for row in found)


def hypervolume(
    points: Points, reference: Sequence[float], objectives: Sequence[Objective]
) -> float:
    """The volume that the points dominate up to `reference`, exact; grows with every better front.

    `reference` has shape (k,), a point worse than all that matter; points not better than it in
    every objective add nothing. Slices along the last objective (Knowles 2002, HSO): 2 ms for
    100 points of three objectives, 70 ms of four. Raises Invalid for infinite figures within the
    reference.
    """
    losses = _losses(points, objectives)
    corner = _finite(_losses([reference], objectives), "reference")[0]
    inside = _finite(losses[(losses < corner).all(axis=1)], "points")
    return _volume(inside, corner)


def reference_point(points: Points, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """The worst figure of each objective and a tenth of the range beyond (of 1 if all are alike).

    To follow one run over time, take it once and keep it. Raises Invalid for no points.
    """
    losses = _some(_finite(_losses(points, objectives), "points"))
    span = np.ptp(losses, axis=0)
    worst = losses.max(axis=0) + 0.1 * np.where(span > 0, span, 1.0)
    return tuple(float(figure) for figure in worst * _signs(objectives))


def normalised(points: Points, objectives: Sequence[Objective]) -> Matrix:
    """Shape (n, k): 0 for the worst row of an objective, 1 for the best; 1 where all are alike.

    Units vanish, so that a cost in dollars cannot drown an accuracy. A figure's place depends on
    the rows it is among: compare within one call only.
    """
    losses = _finite(_losses(points, objectives), "points")
    if not len(losses):
        return losses
    span = np.ptp(losses, axis=0)
    place = (losses.max(axis=0) - losses) / np.where(span > 0, span, 1.0)
    return np.where(span > 0, np.clip(place, 0.0, 1.0), 1.0)


def weighted(points: Points, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Each row's mean of its normalised figures by the objectives' weights, 0..1.

    Raises Invalid when all weights are 0.
    """
    weights = np.array([objective.weight for objective in objectives])
    if not weights.any():
        raise Invalid("every weight is 0", field="objectives.weight", rule="one weight above 0")
    return tuple(float(row) for row in normalised(points, objectives) @ (weights / weights.sum()))


def weighted_pick(
    points: Points, objectives: Sequence[Objective], violations: Violations = None
) -> int:
    """The row of the front with the highest weighted score, the first of equals.

    Scores are normalised within the front, so that dominated rows have no say. Raises Invalid for
    no points.
    """
    _some(_losses(points, objectives))
    rows = front(points, objectives, violations)
    scores = weighted([points[row] for row in rows], objectives)
    return rows[int(np.argmax(scores))]


def _signs(objectives: Sequence[Objective]) -> Vector:
    return np.array([-1.0 if o.direction == "maximize" else 1.0 for o in objectives])


def _losses(points: Points, objectives: Sequence[Objective]) -> Matrix:
    """The points with every objective turned to "less is better"; shape (0, k) for no points."""
    if not objectives:
        raise Invalid("there are no objectives", field="objectives", rule="at least one")
    found = np.asarray(points, dtype=np.float64)
    if not found.size:
        found = found.reshape(0, len(objectives))
    if found.ndim != 2 or found.shape[1] != len(objectives):
        raise Invalid(
            f"points has shape {found.shape} for {len(objectives)} objectives",
            field="points",
            rule="a row a candidate, a column an objective",
        )
    if np.isnan(found).any():
        raise Invalid("points holds NaN", field="points", rule="numbers only")
    return found * _signs(objectives)


def _violations(violations: Sequence[float] | Vector, rows: int) -> Vector:
    found = np.asarray(violations, dtype=np.float64)
    if found.shape != (rows,) or not (found >= 0).all():
        raise Invalid(
            f"violations has shape {found.shape} for {rows} points",
            field="violations",
            rule="one figure of 0 or more a point",
        )
    return found


def _finite(losses: Matrix, field: str) -> Matrix:
    if not np.isfinite(losses).all():
        raise Invalid(f"{field} holds an infinite figure", field=field, rule="finite")
    return losses


def _some(losses: Matrix) -> Matrix:
    if not len(losses):
        raise Invalid("there are no points", field="points", rule="at least one")
    return losses


def _volume(losses: Matrix, corner: Vector) -> float:
    if not len(losses):
        return 0.0
    if losses.shape[1] == 1:
        return float(corner[0] - losses.min())
    if losses.shape[1] == 2:
        return _area(losses, corner)
    losses = losses[np.argsort(losses[:, -1], kind="stable")]
    heights = np.diff(losses[:, -1], append=corner[-1])
    return sum(
        float(height) * _volume(losses[: row + 1, :-1], corner[:-1])
        for row, height in enumerate(heights)
        if height > 0
    )


def _area(losses: Matrix, corner: Vector) -> float:
    losses = losses[np.argsort(losses[:, 0], kind="stable")]
    widths = np.diff(losses[:, 0], append=corner[0])
    return float(widths @ (corner[1] - np.minimum.accumulate(losses[:, 1])))
