"""Seconds of an evaluation: 500 examples at 100 ms a call, ours beside `dspy.Evaluate`.

Ours is asked for as a user asks: an Evaluation of a running instance, its results recorded in
Postgres, its calls routed, metered and recorded. Its time is from its start to its end, as the
resource says; waiting for a worker is apart. Nothing comes from a cache.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from benchmarks.optimize.dspy_evaluate import DspyEvaluate, Evaluated
from benchmarks.optimize.effort import Effort
from benchmarks.optimize.figures import OURS, Measure, Row, rows_of
from benchmarks.optimize.ground import DATASET, PROGRAM, Ground
from benchmarks.startup import cpu_s
from dspex_ray.evaluation.model import EvaluationSettings, MetricSpec, NewEvaluation, Selection

ITEM, NODES_ITEM = "evaluation", "nodes"
DSPY: Final = "dspy.Evaluate"
LATENCY_MS: Final = 100.0
DEFAULT: Final = "its default"
AT_ONCE: Final = {16: (1,), 32: (1, 2, 4), 64: (1, 2, 4), 128: (1,)}  #: and over which actors
NODES: Final = (1, 2, 4)
PER_NODE: Final = 4  #: examples at once in a simulated node: few enough to wait for no core
SETTINGS: Final = EvaluationSettings(cache=False)
_WARM_FOR_S = 40.0  #: actors end a minute after their last example


class Setup(NamedTuple):
    """`at_once` None: the default of whoever evaluates. `actors` None: not ours."""

    item: str
    case: str
    who: str
    at_once: int | None
    actors: int | None = None


def measure(effort: Effort, ground: Ground) -> list[Row]:
    """Every setup in turn, again and again. Raises RuntimeError when two differ in the score."""
    found: dict[Setup, list[Evaluated]] = defaultdict(list)
    wanted = setups()
    ours = _Ours(ground)
    with DspyEvaluate(ground.provider(LATENCY_MS).url, effort.examples) as peer:
        peer.evaluate(max(AT_ONCE))  # first requests load code and open connections
        for turn in range(effort.rounds):
            scores = set()
            for setup in wanted:
                own = setup.actors is not None
                done = ours.evaluate(setup) if own else peer.evaluate(setup.at_once)
                found[setup].append(done)
                scores.add(round(done.score, 9))
                _say(turn, setup, done)
            if len(scores) != 1:
                raise RuntimeError(f"the same program scored differently: {sorted(scores)}")
    return [row for setup in wanted for row in _rows(setup, found[setup], effort.examples)]


def setups() -> list[Setup]:
    made = [Setup(ITEM, DEFAULT, DSPY, None), Setup(ITEM, DEFAULT, actors(1), None, 1)]
    for at_once, counts in AT_ONCE.items():
        made.append(Setup(ITEM, f"{at_once} at once", DSPY, at_once))
        made += [Setup(ITEM, f"{at_once} at once", actors(n), at_once, n) for n in counts]
    made += [Setup(NODES_ITEM, nodes(n), OURS, PER_NODE * n, n) for n in NODES]
    return made


def actors(count: int) -> str:
    return f"{OURS}, {count} actor{'s' if count > 1 else ''}"


def nodes(count: int) -> str:
    return f"{count} node{'s' if count > 1 else ''}"


class _Ours:
    """Evaluations of the instance, each with its actors running already."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._used: dict[int, float] = {}

    def evaluate(self, setup: Setup) -> Evaluated:
        count = setup.actors or 1
        if time.monotonic() - self._used.get(count, -_WARM_FOR_S) >= _WARM_FOR_S:
            self._run(setup, Selection(sample=8 * count))
        done = self._run(setup, Selection())
        self._used[count] = time.monotonic()
        return done

    def _run(self, setup: Setup, chosen: Selection) -> Evaluated:
        evaluations = self._ground.client.evaluations
        new = NewEvaluation(
            program=PROGRAM,
            dataset=DATASET,
            examples=chosen,
            metrics=(MetricSpec(metric="exact_match", field="topic"),),
            settings=self._settings(setup),
        )
        computed = cpu_s(self._ground.instance)
        done = evaluations.wait(evaluations.create(new).id, timeout_s=300)
        computed = cpu_s(self._ground.instance) - computed
        report = done.report
        if report is None or report.failed or done.started_at is None or done.ended_at is None:
            raise RuntimeError(f"the evaluation is {done.status}: {done.error or report}")
        seconds = (done.ended_at - done.started_at).total_seconds()
        return Evaluated(seconds, report.metrics[0].mean, computed)

    def _settings(self, setup: Setup) -> EvaluationSettings:
        chosen = {"actors": setup.actors, "model": self._ground.model(LATENCY_MS)}
        if setup.at_once is not None:
            chosen["concurrency"] = setup.at_once
        return SETTINGS.model_copy(update=chosen)


def _rows(setup: Setup, found: Sequence[Evaluated], examples: int) -> list[Row]:
    measures: list[Measure] = [
        ("time", "s", [each.seconds for each in found]),
        ("examples/s", "", [examples / each.seconds for each in found]),
        ("CPU an example", "ms", [each.cpu_s / examples * 1000 for each in found]),
    ]
    return rows_of(setup.item, setup.case, setup.who, measures)


def _say(turn: int, setup: Setup, done: Evaluated) -> None:
    print(
        f"round {turn + 1}, {setup.case:12} {setup.who:22} {done.seconds:6.2f} s,"
        f" score {done.score:.3f}",
        file=sys.stderr,
        flush=True,
    )
