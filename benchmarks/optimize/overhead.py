"""What the platform costs an example and a trial: the same program on a model that answers at once,
with and without it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import dspy

from benchmarks.optimize import quality
from benchmarks.optimize.dspy_evaluate import DspyEvaluate, program, rows, same_topic
from benchmarks.optimize.effort import Effort
from benchmarks.optimize.engine import simulated_lm
from benchmarks.optimize.figures import OURS, Measure, Row, rows_of
from benchmarks.optimize.ground import Ground
from benchmarks.optimize.runs import THREADS, Done, carried_out
from benchmarks.optimize.simulated import Hidden, SimulatedModel, examples
from dspex_ray.optimization.metering import FlatMeter
from dspex_ray.optimization.model import Limits, Trial
from dspex_ray.optimization.registry import builtin_registry
from dspex_ray.optimization.workbench import Workbench, local_workbench

EXAMPLES, RUNS, TRIALS = "overhead", "runs", "trials"
LOOP, DSPY, BENCH, RUN = "DSPy in a loop", "dspy.Evaluate", f"{OURS}: workbench", f"{OURS}: run"
ONE, MANY, REMOTE = "one at a time", f"{THREADS} at once", f"{THREADS} at once, by HTTP"
SEARCH: Final[tuple[str, Mapping[str, Any]]] = ("DspexSearch", {})


def measure(effort: Effort, ground: Ground) -> list[Row]:
    found: dict[tuple[str, str], list[float]] = {}
    runs: list[Done] = []
    with DspyEvaluate(ground.provider(0).url, effort.runs) as peer:
        peer.evaluate(THREADS)
        for turn in range(effort.rounds):
            seconds = {
                (ONE, LOOP): in_a_loop(effort.runs),
                (ONE, BENCH): asyncio.run(on_the_workbench(effort.runs, at_once=1)),
                (MANY, DSPY): by_dspy(effort.runs),
                (MANY, BENCH): asyncio.run(on_the_workbench(effort.runs, at_once=THREADS)),
                (REMOTE, DSPY): peer.evaluate(THREADS).seconds,
            }
            ms = {key: value / effort.runs * 1000 for key, value in seconds.items()}
            runs.append(done := carried_out(ground, *SEARCH))
            ms[REMOTE, RUN] = done.calling_s / done.calls * 1000
            for key, value in ms.items():
                found.setdefault(key, []).append(value)
                _say(turn, *key, f"{value:.2f} ms an example")
    each = [
        row
        for (case, who), values in found.items()
        for row in rows_of(EXAMPLES, case, who, [("an example", "ms", values)])
    ]
    return [*each, *_of_runs(runs), *_trials(effort, ground)]


# --- an example ----------------------------------------------------------------------------------


def in_a_loop(count: int) -> float:
    """Seconds of DSPy alone: a call of the program and one of the metric, one after the other."""
    with dspy.context(lm=_lm(), adapter=dspy.ChatAdapter()):
        called, devset = program(), rows(count)
        started = time.perf_counter()
        for example in devset:
            same_topic(example, called(text=example.text))
        return time.perf_counter() - started


def by_dspy(count: int) -> float:
    with dspy.context(lm=_lm(), adapter=dspy.ChatAdapter()):
        evaluate = dspy.Evaluate(devset=rows(count), metric=same_topic, num_threads=THREADS)
        started = time.perf_counter()
        evaluate(program())
        return time.perf_counter() - started


async def on_the_workbench(count: int, at_once: int) -> float:
    """As an optimizer measures a candidate: budget and ledger, our program, our metric."""
    task = replace(quality.problem(0), limits=Limits(threads=at_once))
    bench = local_workbench(task, _lm(), meter=FlatMeter())
    await bench.evaluator.evaluate(task.artifact, examples(1))
    wanted = examples(count)
    started = time.perf_counter()
    await bench.evaluator.evaluate(task.artifact, wanted)
    return time.perf_counter() - started


def _lm() -> Any:
    return simulated_lm(SimulatedModel(Hidden(0)))


# --- a run ---------------------------------------------------------------------------------------


def _of_runs(runs: list[Done]) -> list[Row]:
    measures: list[Measure] = [
        ("to its first call", "s", [done.before_s for done in runs]),
        ("from first to last call", "s", [done.calling_s for done in runs]),
        ("in all", "s", [done.whole_s for done in runs]),
        ("calls", "", [float(done.calls) for done in runs]),
    ]
    return rows_of(RUNS, "", RUN, measures)


# --- a trial -------------------------------------------------------------------------------------

#: Optimizers whose trials Ray Tune drives on the platform, and the event loop on a workbench.
TUNED: Final[Mapping[str, Mapping[str, Any]]] = {
    "BayesianOptimizer": {"num_initial_samples": 4, "max_iterations": 12, "patience": None},
}


def _trials(effort: Effort, ground: Ground) -> list[Row]:
    rows: list[Row] = []
    for name, parameters in TUNED.items():
        local: list[float] = []
        tuned: list[float] = []
        for turn in range(effort.rounds):
            local.append(asyncio.run(searched(name, parameters)))
            run = carried_out(ground, name, parameters).run
            told = ground.client.optimizations.iterate_trials(run.id)
            tuned.append(between([trial.at.timestamp() for trial in told]))
            _say(turn, name, BENCH, f"{local[-1]:.0f} ms a trial")
            _say(turn, name, RUN, f"{tuned[-1]:.0f} ms a trial")
        rows += rows_of(TRIALS, name, BENCH, [("a trial", "ms", local)])
        rows += rows_of(TRIALS, name, RUN, [("a trial", "ms", tuned)])
    return rows


async def searched(name: str, parameters: Mapping[str, Any]) -> float:
    """Milliseconds from trial to trial in this process."""
    at: list[float] = []

    def tried(trial: Trial, candidate: Any) -> None:
        at.append(time.perf_counter())

    task = quality.problem(0)
    bench: Workbench = local_workbench(task, _lm(), meter=FlatMeter(), on_trial=tried)
    await builtin_registry().optimize(name, task, bench, dict(parameters))
    return between(at)


def between(times: Sequence[float]) -> float:
    """Milliseconds from trial to trial, on average: trials are told by the batch. `times` in
    seconds. Raises ValueError on fewer than two."""
    if len(times) < 2:
        raise ValueError(f"{len(times)} trials have nothing between them")
    return (max(times) - min(times)) / (len(times) - 1) * 1000


def _say(turn: int, case: str, who: str, what: str) -> None:
    print(f"round {turn + 1}, {case:22} {who:22} {what}", file=sys.stderr, flush=True)
