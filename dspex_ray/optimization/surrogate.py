"""Drafts where a Gaussian process expects an improvement.

Several objectives are weighed at random for every draft, so that drafts spread along the front
(Knowles 2006, ParEGO): the augmented Chebyshev distance of the normalised figures. What breaks a
limit pays for it by how much it does, in a figure that has no step at the limit, so that the
process can follow it there; what failed is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from dspex_ray.core.canonical import content_hash
from dspex_ray.optimization.gp import Acquisition, encoded, fitted, promise
from dspex_ray.optimization.samplers import Draft, Drafts, Sampler, Scene, random
from dspex_ray.optimization.variation import mutate, repaired
from dspex_ray.stats.vectors import Vector
from dspex_ray.variables.model import Configuration, Space
from dspex_ray.variables.rules import walk

_LEAST = 4  # trials, before there is anything to fit
_MOST = 150  # trials that a process is fitted to, the best: it takes their cube
_ANYWHERE, _NEAR, _BEST = 64, 32, 4  # candidates; those near are of so many of the best
_STEPS = (0.2, 0.03)  # of the candidates near, as shares of the range
_SPREAD = 0.05  # how much the sum of the losses counts beside the largest
_OUTSIDE = 1.0  # of the losses' range: the most that breaking a limit costs


def gaussian_process(acquisition: Acquisition = "expected_improvement") -> Sampler:
    return partial(_drafts, acquisition)


def _drafts(acquisition: Acquisition, scene: Scene, rng: np.random.Generator) -> Drafts:
    space = scene.space  # what its pools grow by meanwhile is for the next generation
    if len(scene.whole) < _LEAST or not space.leaves():
        yield from random(scene, rng)
    believed = list(scene.pending)
    known = {content_hash(trial.configuration) for trial in scene.told}
    anywhere = _sampled(space, rng)
    while True:
        weights = rng.dirichlet(np.ones(len(scene.objectives)))
        search = _Search(space, scene, weights, believed, acquisition)
        found = search.found(anywhere, known, rng)
        if found is None:
            yield None
            continue
        believed.append(found)
        known.add(content_hash(found))
        yield Draft(found, "gp")


class _Search:
    """For the best place to try next, as one set of weights has it."""

    def __init__(
        self,
        space: Space,
        scene: Scene,
        weights: Vector,
        believed: Sequence[Configuration],
        acquisition: Acquisition,
    ) -> None:
        self._space, self._leaves, self._acquisition = space, space.leaves(), acquisition
        targets = weighed(scene, weights)
        order = np.argsort(targets, kind="stable")[:_MOST]
        seen = [scene.whole[int(row)].configuration for row in order]
        within = np.array([trial.violation == 0 for trial in scene.whole])
        self._best = seen[:_BEST]
        self._least = float(targets[within].min() if within.any() else targets.min())
        process = fitted(encoded(self._leaves, seen), targets[order].tolist())
        self._process = process.believing(encoded(self._leaves, believed).rows)

    def found(
        self, anywhere: Sequence[Configuration], known: set[str], rng: np.random.Generator
    ) -> Configuration | None:
        """Not one of `known`; None when all that was looked at is."""
        candidates = self._ranked([*anywhere, *self._near(self._best, _STEPS[0], rng)], known)
        nearer = self._near([*candidates[:_BEST], *self._best], _STEPS[1], rng)
        return next(iter(self._ranked([*candidates[:_BEST], *nearer], known)), None)

    def _near(
        self, parents: Sequence[Configuration], size: float, rng: np.random.Generator
    ) -> list[Configuration]:
        children = (
            mutate(self._space, parents[k % len(parents)], rng, size=size) for k in range(_NEAR)
        )
        return [child for child in children if child is not None]

    def _ranked(self, candidates: Iterable[Configuration], known: set[str]) -> list[Configuration]:
        new = {content_hash(each): each for each in candidates}
        distinct = [each for key, each in new.items() if key not in known]
        if not distinct:
            return []
        rows = encoded(self._leaves, distinct).rows
        promises = promise(self._process, rows, self._least, self._acquisition)
        return [distinct[int(row)] for row in np.argsort(-promises, kind="stable")]


def weighed(scene: Scene, weights: Vector) -> Vector:
    """One figure for each trial that did not fail, the less the better, shape (n,)."""
    signs = np.array([-1.0 if o.direction == "maximize" else 1.0 for o in scene.objectives])
    losses = np.array([trial.figures for trial in scene.whole]) * signs
    outside = np.array([min(trial.violation, 1e9) for trial in scene.whole])
    within = outside == 0
    ranged = losses[within] if within.any() else losses
    spans = np.ptp(ranged, axis=0)
    places = (losses - ranged.min(axis=0)) / np.where(spans > 0, spans, 1.0) * weights
    found = places.max(axis=1) + _SPREAD * places.sum(axis=1)
    if not within.all():
        found[~within] += _outside(outside[~within])
    return np.asarray(found)


def _outside(violations: Vector) -> Vector:
    """0 to `_OUTSIDE`, half of it at the median."""
    found: Vector = _OUTSIDE * violations / (violations + float(np.median(violations)))
    return found


def _sampled(space: Space, rng: np.random.Generator) -> list[Configuration]:
    drawn = (walk(space, lambda slot: slot.domain.at(rng.random())) for _ in range(_ANYWHERE))
    mended = (repaired(space, each, rng) for each in drawn)
    return [each for each in mended if each is not None]
