"""Measuring a candidate: the seam behind which an actor pool may stand, and the local one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Protocol

from dspex_ray.core.errors import DspexRayError, OutputInvalid
from dspex_ray.datasets.model import Example
from dspex_ray.optimization.budget import (
    BudgetExhausted,
    RunCancelled,
    RunHalted,
    RunRefused,
    halted,
)
from dspex_ray.optimization.model import Metric, Problem, Score
from dspex_ray.optimization.rules import checked_score, metric_failed
from dspex_ray.optimization.tally import TALLY, Figures, Tally
from dspex_ray.programs.artifacts import artifact_hash
from dspex_ray.programs.model import Artifact
from dspex_ray.programs.runtime import LoadedProgram, load_program, run_program

_KEPT = 32


class Evaluator(Protocol):
    async def evaluate(self, artifact: Artifact, examples: Sequence[Example]) -> list[Score]:
        """One score an example, in their order, however many run at once.

        A run that fails scores 0 and carries its error. Raises RunHalted (BudgetExhausted,
        RunCancelled) when a call was refused, and RunRefused when the metric is at fault.
        """
        ...


async def evaluate_all(
    evaluator: Evaluator, wanted: Iterable[tuple[Artifact, Sequence[Example]]]
) -> list[list[Score] | BaseException]:
    """Side by side, and all to their end: each one's scores, or what it raised."""
    calls = (evaluator.evaluate(artifact, examples) for artifact, examples in wanted)
    return await asyncio.gather(*calls, return_exceptions=True)


def raise_first(found: Sequence[list[Score] | BaseException]) -> list[list[Score]]:
    """All scores; raises what the first evaluation raised, if any did."""
    for scores in found:
        if isinstance(scores, BaseException):
            raise scores
    return [scores for scores in found if not isinstance(scores, BaseException)]


class LocalEvaluator:
    """In this process: programs with an async path on its event loop, others in threads."""

    def __init__(
        self,
        problem: Problem,
        lm: Any,
        threads: Executor | None = None,
        *,
        lm_of: Callable[[Artifact], Any] | None = None,
    ) -> None:
        """`lm` is to be metered already; `lm_of` gives another one to candidates that name their
        own models."""
        self._lm_of = lm_of or (lambda artifact: lm)
        self._problem = problem
        at_once = problem.limits.threads
        self._threads = threads or ThreadPoolExecutor(at_once, "dspex-evaluate")
        self._at_once = asyncio.Semaphore(at_once)
        self._loaded: OrderedDict[str, LoadedProgram] = OrderedDict()

    async def evaluate(self, artifact: Artifact, examples: Sequence[Example]) -> list[Score]:
        program = await self._program(artifact)
        return await all_scores([self._one(program, example) for example in examples])

    async def _one(self, program: LoadedProgram, example: Example) -> Score:
        async with self._at_once:
            lm = self._lm_of(program.artifact)
            return await run_scored(program, self._problem, example, lm, self._threads)

    async def _program(self, artifact: Artifact) -> LoadedProgram:
        key = artifact_hash(artifact)
        if key not in self._loaded:
            allowed = self._problem.allowed_packages
            self._loaded[key] = await asyncio.to_thread(
                load_program, artifact, allowed_packages=allowed
            )
            while len(self._loaded) > _KEPT:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(key)
        return self._loaded[key]


async def all_scores(runs: Sequence[Coroutine[Any, Any, Score]]) -> list[Score]:
    """In order, once all have ended. A refused call ends no other: those are paid for already. A
    problem that is at fault ends them all."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_or_halt(run)) for run in runs]
    except BaseExceptionGroup as failures:
        stop = halted(failures)
        if stop is None:
            raise
    else:
        found = [task.result() for task in tasks]
        stop = next((score for score in found if isinstance(score, RunHalted)), None)
        if stop is None:
            return [score for score in found if isinstance(score, Score)]
    raise stop  # out here, to be itself and not gain the group as its context


async def run_scored(
    program: LoadedProgram, problem: Problem, example: Example, lm: Any, threads: Executor
) -> Score:
    """One run, and what the problem's metrics say of it. A run that fails scores 0 and carries its
    error; raises RunHalted."""
    fields = (field.name for field in program.signature.inputs)
    inputs = {name: example.values[name] for name in fields if name in example.values}
    tally = Tally()
    try:
        outputs = await run_program(
            program, inputs, lm=lm, threads=threads, settings={TALLY: tally}
        )
    except DspexRayError as error:
        return failed_score(problem, error.code, tally.figures())
    except Exception as error:  # the program's own mistake
        return failed_score(problem, type(error).__name__, tally.figures())
    return await _scored(problem, example, outputs, tally.figures())


def failed_score(problem: Problem, code: str, figures: Figures) -> Score:
    """Of a run that gave no outputs."""
    others = {metric.name: 0.0 for metric in problem.others}
    return Score(0.0, {}, code, *figures, others)


async def _or_halt(run: Coroutine[Any, Any, Score]) -> Score | RunHalted:
    try:
        return await run
    except (BudgetExhausted, RunCancelled) as halt:
        return halt


async def _scored(
    problem: Problem, example: Example, outputs: dict[str, Any], figures: Figures
) -> Score:
    """Errors as `judged`. The error is the first metric's."""
    context = problem.metric_context
    found = await judged(problem.metric, context, example, outputs)
    others = {
        metric.name: (await judged(metric, context, example, outputs)).value
        for metric in problem.others
    }
    return Score(found.value, found.outputs, found.error, *figures, others)


async def judged(metric: Metric, context: Any, example: Example, outputs: dict[str, Any]) -> Score:
    """What the metric says of one run. Raises RunRefused when it raises, or gives no number 0..1.

    A judge whose own answer cannot be read gives 0, with the error.
    """
    try:
        value = await metric.score(example.values, outputs, context)
        return Score(checked_score(metric.name, value), outputs)
    except OutputInvalid as error:
        return Score(0.0, outputs, error.code)
    except DspexRayError as error:
        raise RunRefused(error) from None
    except Exception as error:
        raise RunRefused(metric_failed(metric.name, error)) from None
