"""The peer: `dspy.Evaluate` on the same program, examples and endpoint, in a process of its own.

`python -m benchmarks.optimize.dspy_evaluate URL EXAMPLES` evaluates once for each line of its
standard input, which is a number of threads (0: DSPy's own default), and prints seconds and score
as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any, NamedTuple

import dspy

from benchmarks.optimize.simulated import SIGNATURE, START, examples


class Evaluated(NamedTuple):
    """`score` is the mean, 0 to 1; `cpu_s` what all processes of whoever evaluated computed."""

    seconds: float
    score: float
    cpu_s: float


class DspyEvaluate:
    """The process, as a context manager."""

    def __init__(self, url: str, count: int) -> None:
        self._arguments = [url, str(count)]

    def __enter__(self) -> DspyEvaluate:
        self._running = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.optimize.dspy_evaluate", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it logs each score
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._running.stdin is not None
        self._running.stdin.close()
        self._running.wait(10)

    def evaluate(self, threads: int | None) -> Evaluated:
        """`threads` None: DSPy's default."""
        assert self._running.stdin is not None
        assert self._running.stdout is not None
        self._running.stdin.write(f"{threads or 0}\n")
        self._running.stdin.flush()
        return Evaluated(**json.loads(self._running.stdout.readline()))


def remote_lm(url: str) -> Any:
    """As DSPy's documentation has it, without its cache."""
    return dspy.LM("openai/simulated", api_base=url, api_key="none", cache=False, temperature=0.0)


def program() -> Any:
    return dspy.Predict(dspy.Signature(SIGNATURE, START))


def rows(count: int) -> list[Any]:
    return [dspy.Example(**one.values).with_inputs("text") for one in examples(count)]


def same_topic(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(example.topic == prediction.topic)


def _main(url: str, count: int) -> None:
    dspy.configure(lm=remote_lm(url))
    devset, evaluated = rows(count), program()
    for line in sys.stdin:
        evaluate = dspy.Evaluate(devset=devset, metric=same_topic, num_threads=int(line) or None)
        started, computed = time.perf_counter(), time.process_time()
        score = evaluate(evaluated).score / 100
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - computed
        said = Evaluated(seconds, score, cpu_s)
        print(json.dumps(said._asdict()), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
