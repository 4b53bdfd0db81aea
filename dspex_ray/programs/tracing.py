"""A span for each module and tool that DSPy runs, through its callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspy.utils.callback import BaseCallback
from opentelemetry.context import Context

from dspex_ray.telemetry import spans
from dspex_ray.telemetry.spans import OpenSpan


def module_spans(names: Mapping[int, str]) -> list[BaseCallback]:
    """DSPy's `callbacks` for one run; none, and so no cost, when the run is not traced.

    `names`: predictors by id, as `named_predictors` calls them.
    """
    inside = spans.surroundings()
    return [] if inside is None else [_ModuleSpans(names, inside)]


class _ModuleSpans(BaseCallback):  # type: ignore[misc] # dspy is Any to mypy
    """Of one run. DSPy calls start and end in the task or thread of what they enclose.

    Threads that DSPy starts inherit no context: their spans hang on the run's own.
    """

    def __init__(self, names: Mapping[int, str], inside: Context) -> None:
        self._names = names
        self._inside = inside
        self._open: dict[str, OpenSpan] = {}

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        kind = type(instance).__name__
        predictor = self._names.get(id(instance))
        attributes = {"dspex.module": kind, "dspex.predictor": predictor}
        self._start(call_id, f"module {predictor or kind}", attributes)

    def on_module_end(
        self, call_id: str, outputs: Any | None, exception: BaseException | None = None
    ) -> None:
        self._end(call_id, exception)

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        name = str(instance.name)
        attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
        self._start(call_id, f"execute_tool {name}", attributes)

    def on_tool_end(
        self,
        call_id: str,
        outputs: dict[str, Any] | None,
        exception: BaseException | None = None,
    ) -> None:
        self._end(call_id, exception)

    def _start(self, call_id: str, name: str, attributes: spans.Attributes) -> None:
        span = spans.begin(name, attributes, inside=self._inside)
        if span is not None:
            self._open[call_id] = span

    def _end(self, call_id: str, exception: BaseException | None) -> None:
        span = self._open.pop(call_id, None)
        if span is not None:
            span.end(error=None if exception is None else type(exception).__name__)
