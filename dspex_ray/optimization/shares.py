"""Which variables of a run mattered, by the configurations and figures that its trials recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dspex_ray.core.canonical import canonical_json
from dspex_ray.core.errors import NotFound
from dspex_ray.optimization.front import Front
from dspex_ray.optimization.runs import ObjectiveImportance, OptimizationRun, RunImportance
from dspex_ray.variables.conditions import Scalar
from dspex_ray.variables.domains import ChoiceVariable, FloatVariable
from dspex_ray.variables.model import Configuration, Space, Variable

_NOT_SET = "not set"  #: stands for a variable that a condition left out


class _Recorded(NamedTuple):
    configuration: Configuration
    figures: Mapping[str, float]


def run_importance(
    run: OptimizationRun, facts: Sequence[Mapping[str, Any]], front: Front | None
) -> RunImportance:
    """For the objectives of the front, else for every figure that there is. Raises NotFound when
    no trial recorded a configuration with its figures."""
    trials = _recorded(facts)
    if not trials:
        why = "no trial has recorded a configuration yet"
        if run.status.ended:
            why = f"{run.optimizer} records no configurations"
        raise NotFound(f"optimization {run.id} has no importance: {why}", kind="importance")
    from dspex_ray.optimization.figures import direction_of  # brings scipy
    from dspex_ray.optimization.importance import EVALUATOR, importance  # brings Optuna

    wanted = {name: direction_of(name) for trial in trials for name in trial.figures}
    if front is not None:
        wanted = {one.name: one.direction for one in front.objectives}
    space, configurations = observed([trial.configuration for trial in trials])
    found = []
    for name, direction in wanted.items():
        told = zip(configurations, (trial.figures.get(name) for trial in trials), strict=True)
        pairs = [(where, float(figure)) for where, figure in told if figure is not None]
        shares = importance(pairs, space, direction)
        found.append(ObjectiveImportance(objective=name, shares=shares, trials=len(pairs)))
    return RunImportance(evaluator=EVALUATOR, objectives=tuple(found))


def observed(configurations: Sequence[Configuration]) -> tuple[Space, list[Configuration]]:
    """The space of what was tried, without what never varied, and the configurations in it.

    It knows no conditions: a variable that was not always set is a choice, one of them that it is
    not set.
    """
    names = dict.fromkeys(name for one in configurations for name in one)
    variables: dict[str, Variable] = {}
    columns: dict[str, Sequence[Scalar]] = {}
    for name in names:
        column = [one.get(name, _NOT_SET) for one in configurations]
        if len({str(value) for value in column}) > 1:
            variables[name], columns[name] = _observed(column)
    rows = range(len(configurations))
    values = [{name: column[row] for name, column in columns.items()} for row in rows]
    return Space(variables=variables), values


def _recorded(facts: Iterable[Mapping[str, Any]]) -> list[_Recorded]:
    """Each configuration once, as it was measured last."""
    found: dict[bytes, _Recorded] = {}
    for one in facts:
        configuration, figures = one.get("configuration"), one.get("figures")
        if isinstance(configuration, dict) and isinstance(figures, dict):
            found[canonical_json(configuration)] = _Recorded(configuration, figures)
    return list(found.values())


def _observed(column: Sequence[Scalar]) -> tuple[Variable, Sequence[Scalar]]:
    """A range when all are numbers, else a choice of texts; and the column as its values."""
    numbers = [
        float(value)
        for value in column
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    if len(numbers) == len(column):
        return FloatVariable(low=min(numbers), high=max(numbers)), numbers
    texts = [str(value) for value in column]
    return ChoiceVariable(choices=tuple(dict.fromkeys(texts))), texts
