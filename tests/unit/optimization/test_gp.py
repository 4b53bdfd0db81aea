"""The process against what is known of Gaussian processes, and the search by it on Branin."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from dspex_ray.core.objectives import Limit, Objective
from dspex_ray.optimization import gp
from dspex_ray.optimization.samplers import Scene, Told
from dspex_ray.optimization.study import SamplerName, Study
from dspex_ray.optimization.surrogate import gaussian_process, weighed
from dspex_ray.variables import sampling
from dspex_ray.variables.declare import declared
from dspex_ray.variables.model import Configuration

LOSS = Objective(name="loss", direction="minimize")
PLANE = declared({"x": {"float": [-5, 10]}, "y": {"float": [0, 15]}})
MIXED = declared(
    {
        "x": {"float": [-5, 10]},
        "y": {"float": [0, 15]},
        "model": ["a", "b", "c"],
        "z": {"float": [0, 1], "when": {"variable": "model", "op": "==", "value": "b"}},
    }
)


def branin(given: Configuration) -> float:
    """Its three minima are 0.397887."""
    x, y = float(given["x"]), float(given["y"])  # type: ignore[arg-type]
    bowl = (y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6) ** 2
    return bowl + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def mixed(given: Configuration) -> float:
    offsets: dict[object, float] = {"a": 20.0, "b": 0.0, "c": 10.0}
    away = 20 * (float(given.get("z", 0.3) or 0) - 0.3) ** 2
    return branin(given) + offsets[given["model"]] + away


def process(n: int = 40) -> tuple[gp.Process, gp.Encoded, list[float]]:
    given = sampling.random(MIXED, n, 0)
    seen, targets = gp.encoded(MIXED.leaves(), given), [mixed(one) for one in given]
    return gp.fitted(seen, targets), seen, targets


def test_it_interpolates_and_generalises() -> None:
    found, seen, targets = process(60)
    means, deviations = found.predicted(seen.rows)
    assert means == pytest.approx(targets, abs=0.05 * float(np.std(targets)))
    fresh = sampling.random(MIXED, 100, 1)
    means, unsure = found.predicted(gp.encoded(MIXED.leaves(), fresh).rows)
    errors = means - np.array([mixed(one) for one in fresh])
    assert float(np.mean(errors**2)) < 0.2 * float(np.var(targets))
    assert unsure.mean() > deviations.mean()


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    _, seen, targets = process(25)
    squares = gp._by_owner(seen)
    standard = (np.array(targets) - np.mean(targets)) / np.std(targets)
    prior = np.array([gp._PRIOR["length"]] * 4 + [gp._PRIOR["scale"], gp._PRIOR["noise"]])
    theta = np.array([-0.5, 0.3, 0.2, 0.1, 0.4, -3.0])
    _, slope = gp._loss(theta, squares, standard, prior)
    numeric = approx_fprime(theta, lambda t: gp._loss(t, squares, standard, prior)[0], 1e-6)
    assert slope == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_what_is_believed_is_nothing_to_learn_from() -> None:
    found, _, _ = process()
    rows = gp.encoded(MIXED.leaves(), sampling.random(MIXED, 1, 7)).rows
    before, after = found.predicted(rows), found.believing(rows).predicted(rows)
    assert after[0] == pytest.approx(before[0], rel=1e-2, abs=0.05 * found.deviation)
    assert after[1][0] < 0.6 * before[1][0]
    assert found.believing(rows[:0]).predicted(rows)[0] == pytest.approx(before[0])


def test_what_is_promised_is_what_its_formula_says() -> None:
    found, seen, targets = process()
    rows = gp.encoded(MIXED.leaves(), sampling.random(MIXED, 3, 5)).rows
    best = min(targets)
    means, deviations = found.predicted(rows)
    drawn = np.random.default_rng(0).standard_normal((200_000, 1)) * deviations + means
    improved = gp.promise(found, rows, best)
    by_chance = np.maximum(best - drawn, 0).mean(axis=0)
    assert improved == pytest.approx(by_chance, rel=0.05, abs=0.01 * found.deviation)
    likely = gp.promise(found, rows, best, "probability_improvement")
    assert likely == pytest.approx((drawn < best).mean(axis=0), abs=0.01)
    bound = gp.promise(found, rows, best, "upper_confidence_bound")
    assert bound == pytest.approx(gp.BETA * deviations - means)
    assert len(gp.promise(found, seen.rows[:0], best)) == 0


def test_alike_targets_are_fitted_and_one_is_not() -> None:
    given = sampling.random(PLANE, 5, 0)
    seen = gp.encoded(PLANE.leaves(), given)
    means, _ = gp.fitted(seen, [2.0] * 5).predicted(seen.rows)
    assert means == pytest.approx([2.0] * 5)
    with pytest.raises(ValueError, match="two targets"):
        gp.fitted(gp.encoded(PLANE.leaves(), given[:1]), [1.0])


def searched(sampler: SamplerName, seed: int) -> float:
    study = Study(PLANE, (LOSS,), seed=seed, sampler=sampler, initial=8)
    for _ in range(8):
        for proposal in study.ask(4):
            study.tell(proposal.number, {"loss": branin(proposal.configuration)})
    return min(trial.figures[0] for trial in study.told if trial.figures)


def test_on_branin_it_beats_chance() -> None:
    by_process = [searched("gp", seed) for seed in range(3)]
    by_chance = [searched("random", seed) for seed in range(3)]
    assert statistics.median(by_process) < 0.5
    assert sum(one < other for one, other in zip(by_process, by_chance, strict=True)) >= 2


@pytest.mark.parametrize("acquisition", ["upper_confidence_bound", "probability_improvement"])
def test_the_other_acquisitions_draft_too(acquisition: gp.Acquisition) -> None:
    told = [
        Told(k, one, "sobol", (mixed(one),))
        for k, one in enumerate(sampling.random(MIXED, 12, 0), start=1)
    ]
    scene = Scene(lambda: MIXED, (LOSS,), told, (), None)
    drafts = gaussian_process(acquisition)(scene, np.random.default_rng(0))
    found = [next(drafts) for _ in range(3)]
    assert all(draft is not None and draft.made_by == "gp" for draft in found)


def test_breaking_a_limit_costs_by_how_much_it_does() -> None:
    limit = Limit(name="loss", at_most=1.0)
    told = [
        Told(k, {"x": 0.0, "y": 0.0}, "sobol", (loss,), (limit.violation(loss),))
        for k, loss in enumerate((0.0, 1.0, 2.0, 5.0, math.inf), start=1)
        if math.isfinite(loss)
    ]
    found = weighed(Scene(lambda: PLANE, (LOSS,), told, (), None), np.ones(1))
    assert found.tolist() == sorted(found.tolist())
    assert found[2] > found[1] + 0.3
