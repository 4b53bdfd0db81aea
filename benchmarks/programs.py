"""Program serving: one `dspy.Predict` through us, and through DSPy's FastAPI deployment."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.figures import Row
from benchmarks.instance import Instance
from benchmarks.peers import platform
from benchmarks.peers.dspy_fastapi import dspy_fastapi
from benchmarks.rounds import Effort, interleaved, medians
from benchmarks.upstream import Upstream


def measure(effort: Effort) -> list[Row]:
    with ExitStack() as running:
        upstream = running.enter_context(Upstream()).url
        instance = running.enter_context(Instance())
        instance.declare(upstream)
        peers = [
            platform.our_program(instance),
            running.enter_context(dspy_fastapi(upstream)),
        ]
        return medians("programs", interleaved(peers, effort))
