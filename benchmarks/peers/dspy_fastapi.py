"""DSPy's FastAPI deployment under uvicorn, one worker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import benchmarks
from benchmarks.load import Target
from benchmarks.peers.peer import EXPECT, Peer
from benchmarks.peers.platform import QUESTION
from benchmarks.peers.server import free_port, serving

NAME = "DSPy on FastAPI"


@contextmanager
def dspy_fastapi(upstream: str) -> Iterator[Peer]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.peers.dspy_app:app"]
    with serving(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"],
        port,
        "dspy-fastapi",
        environment={"DSPEX_BENCH_UPSTREAM": upstream},
        cwd=Path(benchmarks.__file__).parent.parent,
    ):
        url = f"http://127.0.0.1:{port}/predict"
        yield Peer(NAME, Target(url, {}, {"text": QUESTION}, EXPECT))
