"""The landscapes have the fronts that they are known for, and the rows compare seed by seed."""

from __future__ import annotations

import math

import pytest

from benchmarks.optimize.hypervolume import OURS, SEARCHES, Figure, Seen, hypervolume, rows, run
from benchmarks.optimize.landscapes import Landscape, landscapes
from dspex_ray.variables import sampling
from dspex_ray.variables.model import Configuration

BY_NAME = {landscape.name: landscape for landscape in landscapes(0)}


def at(first: float, rest: float, landscape: Landscape) -> Configuration:
    return {name: first if name == "x0" else rest for name in landscape.space.variables}


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_every_valid_configuration_has_its_figures(name: str) -> None:
    landscape = BY_NAME[name]
    for given in sampling.random(landscape.space, 20, 0):
        true = landscape.true(given)
        wanted = {one.name for one in landscape.objectives} | {one.name for one in landscape.limits}
        assert wanted <= set(true)
        assert all(map(math.isfinite, true.values()))
        assert landscape.measured(given) == landscape.measured(given)


def test_the_known_fronts() -> None:
    assert BY_NAME["zdt1"].true(at(0.25, 0.0, BY_NAME["zdt1"])) == {"f1": 0.25, "f2": 0.5}
    assert BY_NAME["zdt2"].true(at(0.5, 0.0, BY_NAME["zdt2"])) == {"f1": 0.5, "f2": 0.75}
    sphere = BY_NAME["dtlz2"].true({**at(0.4, 0.3, BY_NAME["dtlz2"]), "x1": 0.7})
    assert sum(figure**2 for figure in sphere.values()) == pytest.approx(1)
    circle = BY_NAME["c2dtlz2"].true(at(0.5, 0.3, BY_NAME["c2dtlz2"]))
    assert circle["f1"] == pytest.approx(circle["f2"])
    assert circle["c"] == pytest.approx(-0.04)


def test_what_only_looked_good_counts_as_it_is() -> None:
    landscape = BY_NAME["prompts"]
    one, other = sampling.random(landscape.space, 2, 0)
    true = [landscape.true(one), landscape.true(other)]
    praised = {**true[0], "accuracy": 2.0, "cost": 0.0}
    found = hypervolume(landscape, [Seen(one, praised), Seen(other, true[1])])
    honest = true[0]["accuracy"] * (1 - true[0]["cost"] / landscape.reference[1])
    assert found == pytest.approx(max(honest, 0.0))


def test_rows_compare_seed_by_seed() -> None:
    ours = [Figure("a", "smooth", OURS, seed, 2.0 + seed) for seed in range(8)]
    theirs = [Figure("a", "smooth", "random", seed, 1.0 + seed) for seed in range(8)]
    mine, beside = rows([*ours, *theirs])
    assert (mine.median, mine.low, mine.high, mine.won, mine.p) == (5.5, 3.75, 7.25, None, None)
    assert beside.won == 1.0
    assert beside.p == pytest.approx(2 / 2**8)
    assert rows([*ours, *(each._replace(sampler="twin") for each in ours)])[1].p == 1.0


def test_all_get_the_same_number_of_evaluations() -> None:
    landscape = BY_NAME["tight prompts"]
    for name in ("Optuna NSGA-II", "random"):
        assert len(SEARCHES[name](landscape, 0)) == landscape.evaluations
    assert [each.sampler for each in run(0, ["zdt1"], ["random"])] == ["random"]
