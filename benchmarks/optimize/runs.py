"""An optimization of the instance, asked for as a user asks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from benchmarks.optimize.ground import DATASET, PROGRAM, Ground
from dspex_ray.evaluation.model import MetricSpec
from dspex_ray.optimization.model import Limits
from dspex_ray.optimization.runs import NewOptimization, OptimizationRun, RunExamples, RunStatus

TRAIN, DEV, THREADS = 60, 40, 8
_LOOK_S = 0.02
_PATIENCE_S: Final = 300.0


class Done(NamedTuple):
    """A run that completed. Seconds from asking for it to its first call, between first and last
    call, and from asking for it to its end; `calls` that the provider answered."""

    run: OptimizationRun
    before_s: float
    calling_s: float
    whole_s: float
    calls: int


def carried_out(
    ground: Ground,
    optimizer: str,
    parameters: Mapping[str, Any],
    latency_ms: float = 0.0,
    **more: Any,
) -> Done:
    """Raises RuntimeError unless it completes."""
    provider = ground.provider(latency_ms)
    new = asked(ground, optimizer, parameters, latency_ms, **more)
    provider.forget()
    started = time.monotonic()
    run = ground.client.optimizations.create(new)
    first = when_asked(ground, latency_ms, more_than=0)
    run = completed(ground, run)
    counts = provider.counts()
    assert run.ended_at is not None
    whole_s = (run.ended_at - run.created_at).total_seconds()
    return Done(run, first - started, counts.span_s, whole_s, counts.answered)


def asked(
    ground: Ground,
    optimizer: str,
    parameters: Mapping[str, Any],
    latency_ms: float,
    **more: Any,
) -> NewOptimization:
    fields: dict[str, Any] = {
        "program": f"{PROGRAM}@1",
        "dataset": DATASET,
        "examples": RunExamples(sizes={"train": TRAIN, "dev": DEV}),
        "optimizer": optimizer,
        "parameters": dict(parameters),
        "metric": MetricSpec(metric="exact_match", field="topic"),
        "limits": Limits(threads=THREADS),
        "model": ground.model(latency_ms),
        "register_best": 0,
        "confirm": True,
    }
    return NewOptimization(**{**fields, **more})


def completed(ground: Ground, run: OptimizationRun) -> OptimizationRun:
    found = ground.client.optimizations.wait(run.id, timeout_s=_PATIENCE_S)
    if found.status is not RunStatus.COMPLETED:
        raise RuntimeError(f"the run {found.status}: {found.error}")
    return found


def when_asked(ground: Ground, latency_ms: float, *, more_than: int) -> float:
    """The time by `time.monotonic` at which so many calls were made. Raises TimeoutError."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if ground.provider(latency_ms).counts().asked > more_than:
            return time.monotonic()
        time.sleep(_LOOK_S)
    raise TimeoutError(f"no more than {more_than} calls were made within {_PATIENCE_S:g} s")
