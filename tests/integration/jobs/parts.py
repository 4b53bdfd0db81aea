"""What the workers of these tests run, in this process and in one that gets killed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import procrastinate

from dspex_ray.jobs.app import INFRASTRUCTURE, job_app
from dspex_ray.jobs.worker import Worker


class Parts:
    """Tasks that leave a line in `log` each time they run."""

    def __init__(self, database_url: str, log: Path) -> None:
        self.app: procrastinate.App = job_app(database_url)
        self.background: Sequence[Callable[[], Awaitable[None]]] = []
        self.closed = False
        _register(self.app, log)

    async def close(self) -> None:
        self.closed = True


def _register(app: procrastinate.App, log: Path) -> None:
    def note(line: str) -> int:
        with log.open("a") as file:
            file.write(line + "\n")
        return len(log.read_text().splitlines())

    @app.task(name="test.note")
    async def noted(word: str) -> None:
        note(word)

    @app.task(name="test.hang_first")
    async def hang_first(word: str) -> None:
        if note(word) == 1:
            await asyncio.sleep(60)

    @app.task(name="test.down_first", retry=INFRASTRUCTURE)
    async def down_first(word: str) -> None:
        if note(word) == 1:
            raise ConnectionResetError("the first time")

    @app.task(name="test.refused", retry=INFRASTRUCTURE)
    async def refused(word: str) -> None:
        note(word)
        raise ValueError(word)


def quick_worker(parts: Parts) -> Worker:
    """A worker that is missed after one second."""
    return Worker(
        lambda: parts, heartbeat_s=0.3, stalled_after_s=1.0, recover_every_s=1, drain_s=0.2
    )


if __name__ == "__main__":
    asyncio.run(quick_worker(Parts(os.environ["TEST_DATABASE_URL"], Path(sys.argv[1]))).run())
