"""A Gaussian process over a mixed space, and where it expects an improvement.

The kernel is Matern 5/2 with a length for every variable (ARD), a scale and a noise, which maximise
the posterior under log-normal priors (Rasmussen and Williams 2006, equations 5.8 and 5.9).
A number is its place in its range, a choice is one column for each option, an inactive variable
lies at 0 in all of its columns, apart from where it is active. Targets are minimised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import linalg, optimize, special

from dspex_ray.optimization.distributions import parameter_of, place
from dspex_ray.stats.vectors import Matrix, Vector
from dspex_ray.variables.conditions import Scalar
from dspex_ray.variables.domains import ChoiceVariable, ModuleVariable
from dspex_ray.variables.model import Configuration, Leaf
from dspex_ray.variables.rules import Slot, settle

Acquisition = Literal["expected_improvement", "upper_confidence_bound", "probability_improvement"]
BETA = 2.0  #: deviations that upper_confidence_bound hopes for

_ROOT5 = math.sqrt(5.0)
_PRIOR = {"length": (math.log(0.6), 1.0), "scale": (0.0, 1.0), "noise": (math.log(1e-3), 2.0)}
_BOUNDS = {"length": (-4.0, 4.0), "scale": (-4.0, 4.0), "noise": (-12.0, 1.0)}
_APART = 1.0  # an inactive number's distance from the range, so that it is like no active one
_STEPS = 30


class Encoded(NamedTuple):
    """`rows` has shape (n, columns); `owners`, shape (columns,), is whose variable each is of."""

    rows: Matrix
    owners: npt.NDArray[np.intp]


def encoded(leaves: Sequence[Leaf], configurations: Sequence[Configuration]) -> Encoded:
    offsets: dict[tuple[str, int | None], int] = {}
    owners: list[int] = []
    for owner, leaf in enumerate(leaves):
        for case in leaf.branches():
            offsets[leaf.path, case.number] = len(owners)
            columns = 1
            if isinstance(case.domain, ChoiceVariable | ModuleVariable):
                columns = len(case.domain.choices)
            owners += [owner] * columns
    rows = np.zeros((len(configurations), len(owners)))

    def fill(row: Vector, configuration: Configuration) -> None:
        def note(slot: Slot) -> Scalar:
            value, at = configuration[slot.path], offsets[slot.path, slot.case]
            if isinstance(slot.domain, ChoiceVariable | ModuleVariable):
                row[at + int(parameter_of(slot.domain, value))] = math.sqrt(0.5)
            else:
                row[at] = _APART + place(slot.domain, value)
            return value

        settle(leaves, note)

    for row, configuration in zip(rows, configurations, strict=True):
        fill(row, configuration)
    return Encoded(rows, np.array(owners, dtype=np.intp))


class Process(NamedTuple):
    """`targets` are of mean 0 and variance 1 where it was fitted: `mean` and `deviation` turn
    predictions back."""

    seen: Encoded
    targets: Vector
    theta: Vector  # the logs of the lengths by owner, of the scale, of the noise
    mean: float
    deviation: float
    factor: Matrix  # lower Cholesky factor of the covariance
    weights: Vector  # covariance^-1 targets

    def predicted(self, rows: Matrix) -> tuple[Vector, Vector]:
        """Means and standard deviations, shape (m,), without the noise."""
        means, deviations = self._standard(rows)
        return self.mean + self.deviation * means, self.deviation * deviations

    def believing(self, rows: Matrix) -> Process:
        """As if `rows` had been seen and been what they are expected to be (Ginsbourger et al.
        2010, kriging believer): nothing more is to be learnt there."""
        means, _ = self._standard(rows)
        seen = Encoded(np.vstack([self.seen.rows, rows]), self.seen.owners)
        targets = np.concatenate([self.targets, means])
        return _posed(seen, targets, self.theta, self.mean, self.deviation)

    def _standard(self, rows: Matrix) -> tuple[Vector, Vector]:
        lengths = np.exp(self.theta)[self.seen.owners]
        distances = np.sqrt(_squares(rows / lengths, self.seen.rows / lengths))
        scale = math.exp(self.theta[-2])
        across = scale * _matern(distances)
        explained = linalg.solve_triangular(self.factor, across.T, lower=True)
        variances = np.maximum(scale - (explained**2).sum(axis=0), 1e-12)
        return across @ self.weights, np.sqrt(variances)


def fitted(seen: Encoded, targets: Sequence[float]) -> Process:
    """Shape (n,) of targets. Raises ValueError for fewer than two. They may all be alike."""
    given = np.asarray(targets, dtype=np.float64)
    if len(given) < 2:
        raise ValueError("a process is fitted to two targets or more")
    mean, deviation = float(given.mean()), float(given.std()) or 1.0
    standard = (given - mean) / deviation
    kinds = ["length"] * (int(seen.owners.max(initial=-1)) + 1) + ["scale", "noise"]
    prior = np.array([_PRIOR[kind] for kind in kinds])
    found = optimize.minimize(
        _loss,
        prior[:, 0],
        args=(_by_owner(seen), standard, prior),
        jac=True,
        method="L-BFGS-B",
        bounds=[_BOUNDS[kind] for kind in kinds],
        options={"maxiter": _STEPS},
    )
    return _posed(seen, standard, found.x, mean, deviation)


def promise(
    process: Process, rows: Matrix, best: float, acquisition: Acquisition = "expected_improvement"
) -> Vector:
    """The higher the better to try next, shape (m,); `best` is the least target so far.

    Expected improvement (Jones et al. 1998, equation 15), the lower bound at `BETA` deviations
    (Srinivas et al. 2010), or the probability of an improvement (Kushner 1964).
    """
    means, deviations = process.predicted(rows)
    if acquisition == "upper_confidence_bound":
        return BETA * deviations - means
    leads = (best - means) / deviations
    if acquisition == "probability_improvement":
        return special.ndtr(leads)  # type: ignore[no-any-return]
    density = np.exp(-0.5 * leads**2) / math.sqrt(2 * math.pi)
    return deviations * (leads * special.ndtr(leads) + density)  # type: ignore[no-any-return]


def _posed(seen: Encoded, targets: Vector, theta: Vector, mean: float, deviation: float) -> Process:
    covariance, _, _ = _covariance(theta, _by_owner(seen))
    factor = linalg.cholesky(covariance, lower=True)
    weights = linalg.cho_solve((factor, True), targets)
    return Process(seen, targets, theta, mean, deviation, factor, weights)


def _by_owner(seen: Encoded) -> Matrix:
    """Squared distances by each variable alone, shape (variables, n, n)."""
    count = int(seen.owners.max(initial=-1)) + 1
    columns = [seen.rows[:, seen.owners == owner] for owner in range(count)]
    return np.stack([_squares(own, own) for own in columns])


def _loss(theta: Vector, squares: Matrix, targets: Vector, prior: Matrix) -> tuple[float, Vector]:
    """The negative log posterior of the logs of lengths, scale and noise, and its gradient."""
    covariance, smooth, slope = _covariance(theta, squares)
    factor = linalg.cholesky(covariance, lower=True)
    inverse = linalg.cho_solve((factor, True), np.eye(len(targets)))
    weights = inverse @ targets
    pull = inverse - np.outer(weights, weights)
    scale, noise = math.exp(theta[-2]), math.exp(theta[-1])
    shares = squares * np.exp(-2 * theta[:-2])[:, None, None]
    gradient = 0.5 * np.array(
        [
            *np.einsum("ij,kij->k", pull * slope * scale, shares),
            float((pull * smooth).sum()) * scale,
            float(np.trace(pull)) * noise,
        ]
    )
    away = (theta - prior[:, 0]) / prior[:, 1]
    loss = 0.5 * float(targets @ weights) + float(np.log(np.diag(factor)).sum())
    return loss + 0.5 * float(away @ away), gradient + away / prior[:, 1]


def _covariance(theta: Vector, squares: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """With the noise; the correlation; and by how much that falls with a square's log length."""
    distances = np.sqrt(np.einsum("k,kij->ij", np.exp(-2 * theta[:-2]), squares))
    smooth = _matern(distances)
    slope = 5 / 3 * (1 + _ROOT5 * distances) * np.exp(-_ROOT5 * distances)
    noise = math.exp(theta[-1]) + 1e-8
    return math.exp(theta[-2]) * smooth + noise * np.eye(len(smooth)), smooth, slope


def _matern(distances: Matrix) -> Matrix:
    scaled = _ROOT5 * distances
    found: Matrix = (1 + scaled + scaled**2 / 3) * np.exp(-scaled)
    return found


def _squares(one: Matrix, other: Matrix) -> Matrix:
    found = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None, :] - 2 * one @ other.T
    return np.asarray(np.maximum(found, 0.0))
