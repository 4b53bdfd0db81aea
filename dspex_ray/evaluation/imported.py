"""Metrics of a user's own package: a function or a `dspy.Module`, called as DSPy calls metrics."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import dspy

from dspex_ray.core.errors import Invalid
from dspex_ray.evaluation.metrics import Made, MetricContext, Own, Values
from dspex_ray.programs.imports import import_class, import_function, make_instance, source_sha256
from dspex_ray.programs.runtime import call_quietly

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def imported(
    path: str, kwargs: Mapping[str, Any], model: str | None, allowed: tuple[str, ...]
) -> Made:
    """`metric(example, prediction, trace=None)`, sync or async. What it needs beyond the first
    two gets None. Its score is a number, or a Prediction with a `score`."""
    try:
        metric, source = _found(path, kwargs, allowed)
    except Invalid as error:
        raise Invalid(error.message, field="metrics.metric", rule=error.rule) from error
    extra = _extra(path, metric)

    async def score(example: Values, outputs: Values, context: MetricContext) -> Any:
        gold = dspy.Example(**example).with_inputs(*(context.inputs & example.keys()))
        call = partial(metric, gold, dspy.Prediction(**outputs), *extra)
        lm = None if model is None else context.lm(model)
        return await call_quietly(call, lm=lm, threads=context.threads)

    return Own(score, code=source, models=() if model is None else (model,))


def _found(
    path: str, kwargs: Mapping[str, Any], allowed: tuple[str, ...]
) -> tuple[Callable[..., Any], str]:
    """The metric, and the hash of the file that it is written in."""
    found = import_function(path, allowed)
    if isinstance(found, type):
        cls = import_class(path, allowed)
        return make_instance(cls, kwargs), source_sha256(cls)
    return partial(found, **kwargs) if kwargs else found, source_sha256(found)


def _extra(path: str, metric: Callable[..., Any]) -> list[None]:
    """A None for each required parameter after example and prediction (the trace, as a rule)."""
    target = metric.forward if isinstance(metric, dspy.Module) else metric
    parameters = list(inspect.signature(target).parameters.values())
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    rest = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    if len(positional) < 2 and not rest:
        raise Invalid(
            f"{path} does not take an example and a prediction",
            field="metrics.metric",
            rule="takes example and prediction",
        )
    return [None for p in positional[2:] if p.default is p.empty]
