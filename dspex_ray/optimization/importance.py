"""Which variables a figure hangs on, by PED-ANOVA over the trials that a run recorded.

PED-ANOVA (Watanabe et al. 2023; of conditional variables by its extension to hierarchical spaces,
as Optuna has it) asks how differently each variable is distributed among the best trials and among
all. It needs no model, and says what was important to get among the best of what was tried.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Final

import optuna
from optuna.importance import PedAnovaImportanceEvaluator

from dspex_ray.core.objectives import Direction
from dspex_ray.optimization.distributions import parameters
from dspex_ray.variables.model import Configuration, Space

EVALUATOR: Final = "PED-ANOVA (Optuna)"
LEAST_TRIALS: Final = 8  #: with fewer finite figures nothing can be told

_BEST = 0.1  # the share of trials that counts as the best, though never fewer than
_LEAST_BEST = 4


def importance(
    trials: Sequence[tuple[Configuration, float]],
    space: Space,
    direction: Direction = "maximize",
) -> dict[str, float]:
    """By path, the largest first, 1 in all; variables that none of the trials had are not there.

    `trials` are valid configurations of the space and their figures; figures that are no finite
    numbers are left out. {} for fewer than `LEAST_TRIALS`, for a figure that is always the same,
    and for a space with nothing to choose.
    """
    finite = [(given, figure) for given, figure in trials if math.isfinite(figure)]
    if len(finite) < LEAST_TRIALS or len({figure for _, figure in finite}) == 1:
        return {}
    with warnings.catch_warnings():
        # of branches with hardly a trial, whose shares are doubtful; and that trials are few
        warnings.simplefilter("ignore")
        evaluator = PedAnovaImportanceEvaluator(
            target_quantile=max(_BEST, _LEAST_BEST / len(finite))
        )
        found = evaluator.evaluate(_study(finite, space, direction))
    return _by_path(found)


def _study(
    trials: Sequence[tuple[Configuration, float]], space: Space, direction: Direction
) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction=direction)
    leaves = space.leaves()
    for configuration, figure in trials:
        params, distributions = parameters(leaves, configuration)
        study.add_trial(
            optuna.create_trial(params=params, distributions=distributions, value=figure)
        )
    return study


def _by_path(found: dict[str, float]) -> dict[str, float]:
    """The branches of a conditional variable added up; shares of the whole, {} of nothing."""
    paths: dict[str, float] = {}
    for name in sorted(found):
        path = name.partition("@")[0]
        paths[path] = paths.get(path, 0.0) + found[name]
    whole = sum(paths.values())
    if not whole > 0:
        return {}
    order = sorted(paths, key=lambda path: (-paths[path], path))
    return {path: paths[path] / whole for path in order}
