"""What DSPy's optimizers do, as seen through DSPy's callbacks and the metric that they call."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Condition, Lock
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from dspex_ray.core.canonical import canonical_json
from dspex_ray.core.errors import DspexRayError
from dspex_ray.datasets.model import Example
from dspex_ray.optimization.budget import RunCancelled, RunHalted
from dspex_ray.optimization.evaluator import judged
from dspex_ray.optimization.model import Candidate, Problem
from dspex_ray.optimization.record import Record
from dspex_ray.programs.model import Artifact
from dspex_ray.programs.validation import validate_outputs

Reading = Callable[[Any], Artifact]  # a student, as the artifact it now is


class Rows:
    """Which example a `dspy.Example` was made of: DSPy copies them, so by content."""

    def __init__(self, rows: Sequence[tuple[Any, Example]]) -> None:
        self._by_content = {_content(row): example for row, example in rows}

    def example(self, row: Any) -> Example:
        return self._by_content[_content(row)]


class DspyMetric:
    """The problem's metric as DSPy calls one; called from any of DSPy's threads.

    It takes GEPA's five arguments as well as the usual three; to GEPA it says what was expected.
    A metric that is at fault ends the run.
    """

    def __init__(
        self, problem: Problem, rows: Rows, loop: asyncio.AbstractEventLoop, watch: Watch
    ) -> None:
        self._problem, self._rows, self._loop, self._watch = problem, rows, loop, watch
        self._judging = Condition()
        self._open, self._closed = 0, False

    def close(self, timeout_s: float) -> None:
        """Judge no more, and wait for what is being judged: threads that DSPy left behind would
        outlive the event loop. Blocks: call it in a thread."""
        with self._judging:
            self._closed = True
            self._judging.wait_for(lambda: self._open == 0, timeout_s)

    def __call__(
        self, gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None
    ) -> Any:
        score = self._score(gold, pred)
        if pred_name is None:
            return score
        inputs = gold.inputs()
        expected = {k: v for k, v in gold.items() if k not in inputs}
        feedback = f"The answer scored {score:g} of 1. Expected was: {expected}"
        return dspy.Prediction(score=score, feedback=feedback)

    def _score(self, gold: Any, pred: Any) -> float:
        if pred is None:  # SIMBA hands over runs that failed
            return 0.0
        example = self._rows.example(gold)
        try:
            outputs = validate_outputs(self._problem.artifact.signature, dict(pred.items()))
        except DspexRayError:
            return 0.0
        with self._judged_now():
            call = judged(self._problem.metric, self._problem.metric_context, example, outputs)
            score = asyncio.run_coroutine_threadsafe(call, self._loop).result().value
        self._watch.judged(pred, example, score)
        return score

    @contextmanager
    def _judged_now(self) -> Iterator[None]:
        with self._judging:
            if self._closed:
                raise RunCancelled("the run is over")
            self._open += 1
        try:
            yield
        finally:
            with self._judging:
                self._open -= 1
                self._judging.notify_all()


class Watch(BaseCallback):  # type: ignore[misc] # dspy is Any to mypy
    """Keeps the record while DSPy works: each Evaluate is a trial, each module run is counted.

    `tally`: also each single score, of whatever program it was. For SIMBA, which uses no
    Evaluate: what it compared by then survives a halt.
    """

    def __init__(
        self, record: Record, rows: Rows, kind: type[Any], read: Reading, name: str, tally: bool
    ) -> None:
        """`kind`: the student's class."""
        self._record, self._rows, self._kind, self._read = record, rows, kind, read
        self._name, self._tally = name, tally
        self._lock = Lock()
        self._evaluating: dict[str, Candidate] = {}
        self._running: dict[str, Any] = {}
        self._made: dict[int, tuple[Any, Any]] = {}
        self._scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        program = inputs["program"]
        if not isinstance(program, self._kind):
            return
        facts = {"kind": (inputs.get("callback_metadata") or {}).get("metric_key", "evaluate")}
        self._evaluating[call_id] = self._record.add(self._read(program), self._name, facts=facts)

    def on_evaluate_end(
        self, call_id: str, outputs: Any | None, exception: Exception | None = None
    ) -> None:
        candidate = self._evaluating.pop(call_id, None)
        if candidate is None or outputs is None:
            return
        scores = {self._rows.example(row).hash: _number(s) for row, _, s in outputs.results}
        self._record.scored(candidate.hash, scores, self._name)

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if isinstance(instance, self._kind):
            self._running[call_id] = instance

    def on_module_end(
        self, call_id: str, outputs: Any | None, exception: BaseException | None = None
    ) -> None:
        program = self._running.pop(call_id, None)
        if program is None or isinstance(exception, RunHalted):
            return
        if exception is None and self._tally:
            self._made[id(outputs)] = (outputs, program)  # kept with it, lest its id be reused
        if exception is None or isinstance(exception, Exception):
            self._record.ran([None if exception is None else _code(exception)])

    def judged(self, prediction: Any, example: Example, score: float) -> None:
        """What the metric said of a prediction that a student just made."""
        _, program = self._made.pop(id(prediction), (None, None))
        if program is None:
            return
        key = self._record.add(self._read(program), self._name).hash
        with self._lock:
            self._scores[key][example.hash].append(score)

    def report_tally(self) -> None:
        """Puts the single scores on record: a mean for each example."""
        with self._lock:
            tallied = {key: _means(scores) for key, scores in self._scores.items()}
            self._scores.clear()
        for key, means in sorted(tallied.items()):
            self._record.scored(key, means, self._name)


def _means(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {example: sum(found) / len(found) for example, found in scores.items()}


def _content(row: Any) -> bytes:
    return canonical_json(dict(row.items()))


def _number(score: Any) -> float:
    return float(score["score"] if isinstance(score, dspy.Prediction) else score)


def _code(error: BaseException) -> str:
    """Our own error's code inside what DSPy made of it, or the type's name."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DspexRayError):
            return cause.code
        cause = cause.__cause__
    return type(error).__name__
