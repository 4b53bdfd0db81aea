"""Running one of DSPy's optimizers, as it is, in a thread and a DSPy context of its own.

`dspy.configure` is never called: two runs side by side see nothing of each other.
"""

from __future__ import annotations

import asyncio
import contextvars
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import dspy
import dspy.propose.dataset_summary_generator
import dspy.propose.grounded_proposer
import dspy.propose.utils
import dspy.teleprompt.bootstrap
import dspy.teleprompt.random_search
import dspy.teleprompt.teleprompt_optuna
import dspy.teleprompt.utils
import dspy.utils.parallelizer
import gepa.core.engine
import tqdm  # type: ignore[import-untyped]

from dspex_ray.core.errors import DspexRayError, Invalid
from dspex_ray.datasets.model import Example
from dspex_ray.optimization.budget import RunHalted, halted
from dspex_ray.optimization.model import Candidate, Outcome, Problem
from dspex_ray.optimization.record import Record, measure_all
from dspex_ray.optimization.student import (
    artifact_of,
    dspy_examples,
    instructions_in,
    shared_temperature,
    student_of,
)
from dspex_ray.optimization.watch import DspyMetric, Rows, Watch
from dspex_ray.optimization.workbench import Workbench
from dspex_ray.programs.adapters import adapter_for
from dspex_ray.routing.scope import SETTING, find_scope

_DRAINED_WITHIN_S = 60.0
_NO_END = 10**9  # a failing example scores 0; the watch ends a program that only fails


@dataclass(frozen=True)
class Setup:
    """What a DSPy optimizer compiles with. `dev` is None when there are no dev examples."""

    student: Any
    train: list[Any]
    dev: list[Any] | None
    metric: DspyMetric
    lm: Any
    prompt_lm: Any
    seed: int
    threads: int


Compile = Callable[[Setup], Any]


async def run_dspy(
    name: str,
    problem: Problem,
    bench: Workbench,
    compile_student: Compile,
    *,
    competes_on: Sequence[Example] | None = None,
    tally: bool = False,
) -> Outcome:
    """The outcome of `compile_student`, or the best so far when the budget or a cancel ended it.

    `competes_on`: the examples that the optimizer compares candidates on, if not dev. What it
    returns is measured on dev, unless it was already and while the budget lasts. Raises Invalid
    when the problem is at fault, and what an optimizer gave up with, by type and place alone.
    """
    record = Record(problem, bench.ledger, bench.on_trial)
    if competes_on is not None:
        record.compete_on([example.hash for example in competes_on])
    loop = asyncio.get_running_loop()
    setup, watch, settings = _prepared(name, problem, bench, record, loop, tally)
    fresh = instructions_in(setup.student)
    best: Candidate | None = None
    try:
        compiled = await _in_thread(compile_student, setup, settings, bench)
        artifact = artifact_of(compiled, problem.artifact, fresh)
        best = record.add(artifact, name, parents=[record.start.hash])
        if not {example.hash for example in problem.dev} <= best.scores.keys():
            await measure_all(bench.evaluator, record, [(best, problem.dev)])
    except RunHalted as halt:
        watch.report_tally()
        return record.outcome(best, halt)
    return record.outcome(best)


def _prepared(
    name: str,
    problem: Problem,
    bench: Workbench,
    record: Record,
    loop: asyncio.AbstractEventLoop,
    tally: bool,
) -> tuple[Setup, Watch, dict[str, Any]]:
    student = student_of(
        problem.artifact,
        allowed_packages=problem.allowed_packages,
        loop=loop,
        forward=bench.forward,
    )
    temperature = shared_temperature(student)
    lm = bench.lm if temperature is None else bench.lm.copy(temperature=temperature)
    train = dspy_examples(problem.artifact, problem.train, student)
    dev = dspy_examples(problem.artifact, problem.dev, student)
    pairs = [*zip(train, problem.train, strict=True), *zip(dev, problem.dev, strict=True)]
    rows, fresh = Rows(pairs), instructions_in(student)

    def read(module: Any) -> Any:
        return artifact_of(module, problem.artifact, fresh)

    watch = Watch(record, rows, type(student), read, name, tally)
    setup = Setup(
        student=student,
        train=train,
        dev=dev or None,
        metric=DspyMetric(problem, rows, loop, watch),
        lm=lm,
        prompt_lm=bench.prompt_lm,
        seed=problem.seed,
        threads=problem.limits.threads,
    )
    return setup, watch, _settings(problem, lm, watch)


def _settings(problem: Problem, lm: Any, watch: Watch) -> dict[str, Any]:
    """DSPy's settings of the run: all that a caller may have set is set anew."""
    return {
        "lm": lm,
        "adapter": adapter_for(problem.artifact.adapter),
        "callbacks": [watch],
        "num_threads": problem.limits.threads,
        "max_errors": _NO_END,
        "disable_history": True,  # it would keep every prompt; COPRO prints it
        "trace": None,
        "track_usage": False,
        "usage_tracker": None,
        "caller_modules": None,
        "caller_predict": None,
        "send_stream": None,
        "stream_listeners": [],
        "provide_traceback": False,
        "warn_on_type_mismatch": False,
        SETTING: find_scope(),
    }


async def _in_thread(
    compile_student: Compile, setup: Setup, settings: dict[str, Any], bench: Workbench
) -> Any:
    """The compiled student, once no call of it is under way any more.

    Cancelling the task cancels the ledger: the thread ends at its next LM call, and is waited for.
    """

    def entered() -> Any:
        with dspy.context(**settings):
            return compile_student(setup)

    threads = ThreadPoolExecutor(1, "dspex-optimize")
    call = contextvars.copy_context().run
    future = asyncio.get_running_loop().run_in_executor(threads, call, entered)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        bench.ledger.cancel("cancelled")
        await asyncio.gather(future, return_exceptions=True)
        raise
    except BaseException as error:
        bench.ledger.cancel("the run is over")  # DSPy goes on with what it has queued
        failure = _ours(error)
    finally:
        threads.shutdown(wait=False)
        await _drained(setup, bench)
    raise failure  # out here: its context would be an error that quotes content


async def _drained(setup: Setup, bench: Workbench) -> None:
    """Waits for the threads that DSPy leaves at work when it ends early: what they spend belongs
    to the run. It ends stragglers that it asked a second time, too."""
    await asyncio.to_thread(setup.metric.close, _DRAINED_WITHIN_S)
    await asyncio.to_thread(bench.ledger.wait_idle, _DRAINED_WITHIN_S)


def _ours(error: BaseException) -> BaseException:
    stop = halted(error)
    if stop is not None:
        return stop
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DspexRayError):
            return cause
        cause = cause.__cause__
    if not isinstance(error, Exception):
        return error
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{last.filename.rsplit('site-packages/', 1)[-1]}:{last.lineno}"
    return Invalid(
        f"the optimizer gave up: {type(error).__name__} in {place}",
        field="optimizer",
        rule="runs to its end",
    )


class _QuietBar(tqdm.tqdm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


def _say_nothing(*args: Any, **kwargs: Any) -> None:
    """In place of `print`."""


def _silence() -> None:
    """DSPy's optimizers print programs, and progress to whatever terminal there is."""
    for module in (
        dspy.propose.dataset_summary_generator,
        dspy.propose.grounded_proposer,
        dspy.propose.utils,
        dspy.teleprompt.bootstrap,
        dspy.teleprompt.random_search,
        dspy.teleprompt.teleprompt_optuna,
        dspy.teleprompt.utils,
    ):
        vars(module)["print"] = _say_nothing
    bars = SimpleNamespace(tqdm=_QuietBar)
    for module in (dspy.teleprompt.bootstrap, dspy.utils.parallelizer):
        vars(module)["tqdm"] = bars
    vars(gepa.core.engine)["tqdm"] = _QuietBar


_silence()
