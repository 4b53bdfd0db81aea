"""How much of what is possible a search finds: ours beside plain Optuna, at equal evaluations.

    python -m benchmarks.optimize.hypervolume [--seeds 20] [--first-seed 0]

Each sampler gets the same number of evaluations, in generations of eight that are told together,
as a cluster would measure them. A figure is the true hypervolume of the candidates that a run's
measurements put on its front. Optuna is used as its users do: define-by-run, limits by
`set_constraint`, and a configuration that breaks the space's own constraints told at once as
outside them, with figures at the reference; that does not count as an evaluation.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from scipy import stats as tests

from benchmarks.optimize.landscapes import Landscape, landscapes
from dspex_ray.optimization.distributions import suggested
from dspex_ray.optimization.study import Study
from dspex_ray.stats import pareto
from dspex_ray.variables.model import Configuration
from dspex_ray.variables.rules import check

RESULT = Path(__file__).with_name("hypervolume.json")
GENERATION = 8
_TRIES = 10  # suggestions for each evaluation, most of which may break the space's constraints
OURS = "dspex-ray"


class Seen(NamedTuple):
    configuration: Configuration
    figures: dict[str, float]


class Figure(NamedTuple):
    """One run, and what of the landscape's box its front dominates."""

    landscape: str
    kind: str
    sampler: str
    seed: int
    hypervolume: float


def ours(landscape: Landscape, seed: int, sampler: Any = "portfolio") -> list[Seen]:
    study = Study(
        landscape.space, landscape.objectives, landscape.limits, seed=seed, sampler=sampler
    )
    found: list[Seen] = []
    while len(found) < landscape.evaluations:
        asked = study.ask(min(GENERATION, landscape.evaluations - len(found)))
        if not asked:
            break
        for proposal in asked:
            figures = landscape.measured(proposal.configuration)
            study.tell(proposal.number, figures)
            found.append(Seen(proposal.configuration, figures))
    return found


def optunas(
    make: Callable[..., optuna.samplers.BaseSampler], landscape: Landscape, seed: int
) -> list[Seen]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = [objective.direction for objective in landscape.objectives]
    study = optuna.create_study(sampler=make(seed=seed), directions=directions)
    asking = _asked(study, landscape)
    found: list[Seen] = []
    while len(found) < landscape.evaluations:
        count = min(GENERATION, landscape.evaluations - len(found))
        generation = [trial for _, trial in zip(range(count), asking, strict=False)]
        if not generation:
            break
        for trial, configuration in generation:
            figures = landscape.measured(configuration)
            for limit in landscape.limits:
                trial.set_constraint(limit.name, limit.violation(figures[limit.name]))
            study.tell(trial, [figures[objective.name] for objective in landscape.objectives])
            found.append(Seen(configuration, figures))
    return found


def _asked(
    study: optuna.Study, landscape: Landscape
) -> Iterator[tuple[optuna.Trial, Configuration]]:
    leaves = landscape.space.leaves()
    for _ in range(_TRIES * landscape.evaluations):
        trial = study.ask()
        configuration = suggested(trial, leaves)
        faults = check(landscape.space, configuration).faults
        if not faults:
            yield trial, configuration
            continue
        trial.set_constraint("space", float(len(faults)))
        study.tell(trial, landscape.reference)


def _nsga2(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.NSGAIISampler(population_size=20, seed=seed)


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed)


def _random(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


SEARCHES: dict[str, Callable[[Landscape, int], list[Seen]]] = {
    OURS: ours,
    "Optuna NSGA-II": partial(optunas, _nsga2),
    "Optuna TPE": partial(optunas, _tpe),
    "random": partial(optunas, _random),
}


def hypervolume(landscape: Landscape, seen: Sequence[Seen]) -> float:
    """Of the truth about the candidates that look best, as a share of the landscape's box."""
    names = [objective.name for objective in landscape.objectives]
    points = [[each.figures[name] for name in names] for each in seen]
    rows = pareto.front(points, landscape.objectives, _violations(landscape, seen))
    true = [Seen(seen[row].configuration, landscape.true(seen[row].configuration)) for row in rows]
    within = [
        [each.figures[name] for name in names]
        for each, outside in zip(true, _violations(landscape, true), strict=True)
        if not outside
    ]
    box = pareto.hypervolume([landscape.ideal], landscape.reference, landscape.objectives)
    return pareto.hypervolume(within, landscape.reference, landscape.objectives) / box


def _violations(landscape: Landscape, seen: Sequence[Seen]) -> list[float]:
    return [
        sum(limit.violation(each.figures[limit.name]) for limit in landscape.limits)
        for each in seen
    ]


class Row(NamedTuple):
    """One landscape and sampler over all seeds; `won` and `p` compare ours with it, seed by seed:
    the share of seeds on which ours is ahead, and Wilcoxon's signed-rank test, two-sided."""

    landscape: str
    kind: str
    sampler: str
    median: float
    low: float  # the quartiles
    high: float
    won: float | None
    p: float | None


def run(
    seed: int, only: Sequence[str] = (), searches: Sequence[str] = tuple(SEARCHES)
) -> list[Figure]:
    """Every search on every landscape with one seed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            Figure(
                landscape.name,
                landscape.kind,
                name,
                seed,
                hypervolume(landscape, SEARCHES[name](landscape, seed)),
            )
            for landscape in landscapes(seed)
            if not only or landscape.name in only
            for name in searches
        ]


def measure(seeds: range, processes: int = 2) -> list[Figure]:
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        return [figure for found in pool.map(run, seeds) for figure in found]


def rows(figures: Sequence[Figure]) -> list[Row]:
    """In the order of the figures; ours has nothing to be compared with."""
    by: dict[tuple[str, str], dict[int, Figure]] = {}
    for figure in figures:
        by.setdefault((figure.landscape, figure.sampler), {})[figure.seed] = figure
    found = []
    for (landscape, sampler), runs in by.items():
        values = [figure.hypervolume for figure in runs.values()]
        low, median, high = np.percentile(values, [25, 50, 75]).tolist()
        kind = next(iter(runs.values())).kind
        won, p = None, None
        if sampler != OURS:
            leads = [
                by[landscape, OURS][seed].hypervolume - v.hypervolume for seed, v in runs.items()
            ]
            won = float(np.mean(np.array(leads) > 0))
            p = float(tests.wilcoxon(leads).pvalue) if any(leads) else 1.0
        found.append(Row(landscape, kind, sampler, median, low, high, won, p))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first-seed", type=int, default=0, help="100: none that we tuned on")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args(arguments)
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    found = rows(measure(seeds, given.processes))
    result = {
        "seeds": [seeds.start, seeds.stop],
        "evaluations": {each.name: each.evaluations for each in landscapes(0)},
        "rows": [row._asdict() for row in found],
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    for row in found:
        beside = "" if row.p is None else f"  ours ahead on {row.won:.0%}, p = {row.p:.2g}"
        spread = f"{row.median:.4f} ({row.low:.4f} to {row.high:.4f})"
        print(f"{row.landscape:14} {row.sampler:15} {spread}{beside}")


if __name__ == "__main__":
    main()
