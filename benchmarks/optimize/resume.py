"""A run that is killed in the middle: how long until it goes on, and what is paid for twice.

The provider counts: a prompt that it answered and was asked again, word for word, was paid twice.
Calls under way at the kill are asked again: those that it had not answered, and those whose answer
was so new that it was not on a disk yet.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import psutil

from benchmarks.optimize.effort import Effort
from benchmarks.optimize.figures import OURS, Measure, Row, rows_of
from benchmarks.optimize.ground import Ground
from benchmarks.optimize.provider import Counts
from benchmarks.optimize.runs import asked, carried_out, completed, when_asked
from dspex_ray.cli.ray_node import processes_of
from dspex_ray.optimization.runs import OptimizationRun

ITEM: Final = "resume"
LATENCY_MS: Final = 200.0
TWICE: Final = "answers paid twice"
ON_THE_WAY_S: Final = 0.1  #: from the provider's answer to a row in Postgres, on a loaded machine
_SEARCH: Final[tuple[str, Mapping[str, Any]]] = ("DspexSearch", {})

Chosen = Callable[[psutil.Process, OptimizationRun], bool]


def _is_driver(process: psutil.Process, run: OptimizationRun) -> bool:
    return {"drive", str(run.id)} <= set(process.cmdline())


def _titled(prefix: str) -> Chosen:
    return lambda process, _: " ".join(process.cmdline()).startswith(prefix)


VICTIMS: Final[Mapping[str, Chosen]] = {
    "the job's process": _is_driver,
    "the run's actor": _titled("ray::RunActor"),
    "an actor of its pool": _titled("ray::CandidateActor"),
}


class Killed(NamedTuple):
    """One killed run. `seconds` until it went on; `on_the_way` were answered about when it was
    killed, and not stored; `twice` were answered before, and again."""

    seconds: float
    answers: int
    cut_off: int
    on_the_way: int
    twice: int


def measure(effort: Effort, ground: Ground) -> list[Row]:
    """Raises RuntimeError when a run does not complete."""
    whole = carried_out(ground, *_SEARCH, latency_ms=LATENCY_MS).calls
    rng = random.Random(0)
    rows: list[Row] = []
    for victim, chosen in VICTIMS.items():
        found = [_killed(ground, victim, chosen, whole, rng) for _ in range(effort.kills)]
        measures: list[Measure] = [
            ("until it went on", "s", [each.seconds for each in found]),
            ("answers if left alone", "", [float(whole) for _ in found]),
            ("answers", "", [float(each.answers) for each in found]),
            (TWICE, "", [float(each.twice) for each in found]),
            ("under way, unanswered", "", [float(each.cut_off) for each in found]),
            ("under way, answer not stored", "", [float(each.on_the_way) for each in found]),
        ]
        rows += rows_of(ITEM, f"kill -9 of {victim}", OURS, measures)
    return rows


def _killed(ground: Ground, victim: str, chosen: Chosen, whole: int, rng: random.Random) -> Killed:
    """Half way, at a random moment of its calls."""
    new = asked(ground, *_SEARCH, LATENCY_MS)
    provider = ground.provider(LATENCY_MS)
    provider.forget()
    run = ground.client.optimizations.create(new)
    when_asked(ground, LATENCY_MS, more_than=whole // 2)
    time.sleep(rng.uniform(0, LATENCY_MS / 1000))
    _kill(ground, run, victim, chosen)
    at, before = time.monotonic(), provider.counts().asked
    seconds = when_asked(ground, LATENCY_MS, more_than=before) - at
    completed(ground, run)
    found = told(provider.counts(), at, seconds)
    print(f"kill -9 of {victim}: {found}", file=sys.stderr, flush=True)
    return found


def told(counts: Counts, at: float, seconds: float) -> Killed:
    """What the provider's counts say of a run that was killed `at`."""
    on_the_way = sum(answered > at - ON_THE_WAY_S for answered in counts.repeated)
    twice = len(counts.repeated) - on_the_way
    return Killed(seconds, counts.answered, counts.left, on_the_way, twice)


def _kill(ground: Ground, run: OptimizationRun, victim: str, chosen: Chosen) -> None:
    state = ground.instance.state
    found = [each for each in processes_of(state.id, state.leader) if chosen(each, run)]
    if not found:
        raise RuntimeError(f"there is no process to kill: {victim}")
    found[0].kill()
