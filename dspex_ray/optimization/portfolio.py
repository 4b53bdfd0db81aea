"""The portfolio sampler: each draft comes from one of several arms, the oftener the more the arm's
trials have lately enlarged the hypervolume."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dspex_ray.core.objectives import Objective
from dspex_ray.optimization.samplers import Draft, Drafts, Scene, Told, chosen, tpe
from dspex_ray.optimization.surrogate import gaussian_process
from dspex_ray.optimization.variation import crossover, mutate
from dspex_ray.stats import pareto

ARMS = ("gp", "tpe", "crossover", "mutation")
_FLOOR = 0.1  # the least share of an arm
_KEENNESS = 2.0  # the power of a mean gain that an arm's share goes by
_MEMORY = 30.0  # trials after which a gain counts about a third
_DOUBT = 3.0  # trials as good as the usual that every arm is believed to have made
_CORNER = -0.1  # of the hypervolume, where 0 is the worst of each figure and 1 the best
_PARENTS = 10  # variation takes at least so many of the best, also when the front is smaller
_SIZES = (0.3, 0.05)  # of a step, as a share of the range, of the first trials and in the end
_SETTLED = 80  # trials after which steps are smallest


def portfolio(scene: Scene, rng: np.random.Generator) -> Drafts:
    shares = arm_shares(scene)
    streams = {
        "tpe": tpe(scene, rng),
        "gp": gaussian_process()(scene, rng),
        "crossover": _varied(scene, "crossover", rng),
        "mutation": _varied(scene, "mutation", rng),
    }
    while True:
        yield next(streams[ARMS[int(rng.choice(len(ARMS), p=shares))]])


def arm_shares(scene: Scene) -> tuple[float, ...]:
    """Each arm's share, by what its trials have enlarged the hypervolume by, the later the more.
    They sum to 1, none is under the floor, and where nothing tells them apart they are equal."""
    last = scene.told[-1].number if scene.told else 0
    weights = {t.number: math.exp((t.number - last) / _MEMORY) for t in scene.told}
    gains = _gains(scene)
    whole, tried = sum(weights.values()), dict.fromkeys(ARMS, _DOUBT)
    usual = sum(weights[number] * gain for number, gain in gains.items()) / whole if whole else 0.0
    won = dict.fromkeys(ARMS, _DOUBT * usual)
    for trial in scene.told:
        if trial.made_by in won:
            tried[trial.made_by] += weights[trial.number]
            won[trial.made_by] += weights[trial.number] * gains.get(trial.number, 0.0)
    rates = np.array([won[arm] / tried[arm] for arm in ARMS]) ** _KEENNESS
    shares = rates / rates.sum() if rates.any() else np.full(len(ARMS), 1 / len(ARMS))
    return tuple((_FLOOR + (1 - _FLOOR * len(ARMS)) * shares).tolist())


def _gains(scene: Scene) -> dict[int, float]:
    """By number, what the trials within the limits added to the hypervolume when they were new."""
    within = [trial for trial in scene.whole if not trial.violation]
    if not within:
        return {}
    normal = pareto.normalised([trial.figures or () for trial in within], scene.objectives)
    places = [Objective(name=objective.name) for objective in scene.objectives]
    corner = (_CORNER,) * len(places)
    found: dict[int, float] = {}
    front: list[tuple[float, ...]] = []
    volume = 0.0
    for trial, place in zip(within, map(tuple, normal.tolist()), strict=True):
        rows = pareto.front([*front, place], places)
        found[trial.number] = 0.0
        if len(front) in rows:
            front = [[*front, place][row] for row in rows]
            grown = pareto.hypervolume(front, corner, places)
            found[trial.number], volume = grown - volume, grown
    return found


def _varied(scene: Scene, kind: str, rng: np.random.Generator) -> Drafts:
    parents = scene.best_first[: max(_PARENTS, len(scene.front))]
    if not parents:
        while True:
            yield None
    size = _size(len(scene.told))
    while True:
        yield (
            _crossed(scene, parents, rng)
            if kind == "crossover"
            else _mutated(scene, parents, size, rng)
        )


def _crossed(scene: Scene, parents: Sequence[Told], rng: np.random.Generator) -> Draft | None:
    one, other = chosen(parents, rng), parents[int(rng.integers(len(parents)))]
    if one.number == other.number:
        return None
    child = crossover(scene.space, one.configuration, other.configuration, rng, scene.growth)
    return None if child is None else Draft(child, "crossover", (one.number, other.number))


def _mutated(
    scene: Scene, parents: Sequence[Told], size: float, rng: np.random.Generator
) -> Draft | None:
    parent = chosen(parents, rng)
    child = mutate(scene.space, parent.configuration, rng, size=size, growth=scene.growth)
    return None if child is None else Draft(child, "mutation", (parent.number,))


def _size(told: int) -> float:
    first, least = _SIZES
    return float(first * (least / first) ** min(told / _SETTLED, 1.0))
