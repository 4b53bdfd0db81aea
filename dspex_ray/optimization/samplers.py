"""What to try next, given what was told: endless streams of drafts, some maybe tried before.

`random`, `tpe` (Optuna's; for one objective multivariate and grouped, where it maximises expected
improvement, Bergstra et al. 2011; for several each variable by itself, which finds more),
`nsga2` (selection by rank and crowding, Deb et al. 2002, over our own variation: Optuna's draws
every conditional variable at random, and its choices cannot grow). `portfolio` is a module of
its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.trial import TrialState

from dspex_ray.core.objectives import Objective
from dspex_ray.optimization.distributions import parameters, suggested
from dspex_ray.optimization.variation import Growth, crossover, mutate, repaired
from dspex_ray.stats import pareto
from dspex_ray.variables.model import Configuration, Leaf, Space
from dspex_ray.variables.rules import walk

_POPULATION = 20


class Told(NamedTuple):
    """A finished trial. `figures` in the order of the objectives, None when it failed;
    `violations` in the order of the limits, 0 within (`Limit.violation`)."""

    number: int
    configuration: Configuration
    made_by: str
    figures: tuple[float, ...] | None
    violations: tuple[float, ...] = ()

    @property
    def violation(self) -> float:
        return sum(self.violations)


class Draft(NamedTuple):
    """A configuration that keeps the space's constraints; `parents` are trial numbers."""

    configuration: Configuration
    made_by: str
    parents: tuple[int, ...] = ()


class Scene:
    """What a sampler may know. `told` is by number; `pending` was asked and is not told yet."""

    def __init__(
        self,
        space: Callable[[], Space],
        objectives: Sequence[Objective],
        told: Sequence[Told],
        pending: Sequence[Configuration],
        growth: Growth | None,
    ) -> None:
        self._space = space
        self.objectives = tuple(objectives)
        self.told = tuple(told)
        self.pending = tuple(pending)
        self.growth = growth

    @property
    def space(self) -> Space:
        """As it is now: its pools may have grown since the last draft."""
        return self._space()

    @cached_property
    def whole(self) -> tuple[Told, ...]:
        """The trials that did not fail."""
        return tuple(trial for trial in self.told if trial.figures is not None)

    @cached_property
    def ranked(self) -> tuple[tuple[int, float], ...]:
        """Of each of `whole`: its front, 0 the best, and its crowding there (negative, so that the
        least is the best)."""
        points = [trial.figures or () for trial in self.whole]
        if not points:
            return ()
        ranks = pareto.ranks(points, self.objectives, [trial.violation for trial in self.whole])
        crowding = np.zeros(len(points))
        for rank in set(ranks):
            rows = [row for row, own in enumerate(ranks) if own == rank]
            crowding[rows] = pareto.crowding([points[row] for row in rows], self.objectives)
        return tuple((rank, -float(room)) for rank, room in zip(ranks, crowding, strict=True))

    @cached_property
    def best_first(self) -> tuple[Told, ...]:
        """`whole` by rank, then by crowding, then by number."""
        order = sorted(range(len(self.whole)), key=lambda row: (self.ranked[row], row))
        return tuple(self.whole[row] for row in order)

    @cached_property
    def front(self) -> tuple[Told, ...]:
        """The trials that no other beats, the most alone first."""
        count = sum(1 for rank, _ in self.ranked if rank == 0)
        return self.best_first[:count]


Drafts = Iterator[Draft | None]  #: without end; None: that time it made nothing
Sampler = Callable[[Scene, np.random.Generator], Drafts]


def random(scene: Scene, rng: np.random.Generator) -> Drafts:
    while True:
        space = scene.space
        drawn = walk(space, lambda slot: slot.domain.at(rng.random()))
        found = repaired(space, drawn, rng)
        yield None if found is None else Draft(found, "random")


def tpe(scene: Scene, rng: np.random.Generator) -> Drafts:
    """Suggestions that break a constraint are mended. What is pending, and what is drafted here,
    counts as a bad trial until it is told (constant liar), so that a generation spreads."""
    leaves = scene.space.leaves()  # as they are now: within one Optuna study no pool may grow
    study = _optuna_study(scene, leaves, int(rng.integers(2**31)))
    while True:
        found = repaired(scene.space, suggested(study.ask(), leaves), rng)
        yield None if found is None else Draft(found, "tpe")


def nsga2(scene: Scene, rng: np.random.Generator) -> Drafts:
    parents = scene.best_first[:_POPULATION]
    if not parents:
        yield from random(scene, rng)
    while True:
        one, other = chosen(parents, rng), chosen(parents, rng)
        child = crossover(scene.space, one.configuration, other.configuration, rng, scene.growth)
        if child is None:
            yield None
            continue
        numbers = tuple(dict.fromkeys((one.number, other.number)))
        mutated = mutate(scene.space, child, rng, changes=1.0, growth=scene.growth)
        yield Draft(mutated or child, "crossover", numbers)


def chosen(best_first: Sequence[Told], rng: np.random.Generator) -> Told:
    """The better of two at random."""
    return best_first[int(rng.integers(len(best_first), size=2).min())]


def _optuna_study(scene: Scene, leaves: Sequence[Leaf], seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = [objective.direction for objective in scene.objectives]
    joint = len(directions) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=0, seed=seed, multivariate=joint, group=joint, constant_liar=True
        )
    study = optuna.create_study(sampler=sampler, directions=directions)
    for trial in scene.told:
        failed = trial.figures is None
        study.add_trial(
            _optuna_trial(
                leaves,
                trial.configuration,
                state=TrialState.PRUNED if failed else TrialState.COMPLETE,
                values=trial.figures,
                constraints={str(k): v for k, v in enumerate(trial.violations)},
            )
        )
    for configuration in scene.pending:
        study.add_trial(_optuna_trial(leaves, configuration, state=TrialState.RUNNING))
    return study


def _optuna_trial(
    leaves: Sequence[Leaf], configuration: Configuration, **facts: Any
) -> optuna.trial.FrozenTrial:
    params, distributions = parameters(leaves, configuration)
    return optuna.trial.create_trial(params=params, distributions=distributions, **facts)
