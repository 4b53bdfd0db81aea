"""Measuring a candidate: the seam behind which an actor pool may stand, and the local one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
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

    def __init__(self, problem: Problem, lm: Any, threads: Executor | None = None) -> None:
        """`lm` is to be metered already."""
        self._lm, self._problem = lm, problem
        at_once = problem.limits.threads
        self._threads = threads or ThreadPoolExecutor(at_once, "dspex-evaluate")
        self._at_once = asyncio.Semaphore(at_once)
        self._loaded: OrderedDict[str, LoadedProgram] = OrderedDict()

    async def evaluate(self, artifact: Artifact, examples: Sequence[Example]) -> list[Score]:
        program = await self._program(artifact)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(program, example)) for example in examples]
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

    async def _one(self, program: LoadedProgram, example: Example) -> Score | RunHalted:
        """A refused call is told, not raised: it would cancel calls that are paid for already."""
        async with self._at_once:
            inputs = {
                field.name: example.values[field.name]
                for field in program.signature.inputs
                if field.name in example.values
            }
            try:
                outputs = await run_program(program, inputs, lm=self._lm, threads=self._threads)
            except (BudgetExhausted, RunCancelled) as halt:
                return halt
            except DspexRayError as error:
                return Score(0.0, {}, error.code)
            except Exception as error:  # the program's own mistake
                return Score(0.0, {}, type(error).__name__)
            return await judged(
                self._problem.metric, self._problem.metric_context, example, outputs
            )

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
