# Generated from ../aio/optimizations.py by scripts/generate_sync_client.py: edit that one.
"""Optimizations: searches for a better version of a program."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from uuid import UUID

from dspex_ray.client.bodies import Ask, params, path, payload, query, read
from dspex_ray.client.sync.connection import Connection
from dspex_ray.core.errors import DeadlineExceeded, Unavailable
from dspex_ray.core.page import DEFAULT_LIMIT, MAX_LIMIT, Page
from dspex_ray.optimization.front import Front
from dspex_ray.optimization.model import OptimizerInfo
from dspex_ray.optimization.runs import (
    NewOptimization,
    OptimizationRun,
    RunEstimate,
    RunEvent,
    RunImportance,
    RunQuery,
    RunTrial,
    SeenExample,
)

_ROOT = "/api/v1/optimizations"
_ONE = "/api/v1/optimizations/{id}"
_OPTIMIZERS = "/api/v1/optimizers"
_POLL_S = 0.5


class Optimizations:
    """What is asked for runs as a Ray job; follow it by `events`, or `wait` for it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def optimizers(self) -> Page[OptimizerInfo]:
        """All that can be asked for, by name."""
        ask = Ask("GET", _OPTIMIZERS, repeatable=True)
        return self._connection.call(Page[OptimizerInfo], ask)

    def optimizer(self, name: str) -> OptimizerInfo:
        """By name or alias, with its parameters and their defaults."""
        ask = Ask("GET", path(_OPTIMIZERS + "/{name}", name=name), repeatable=True)
        return self._connection.call(OptimizerInfo, ask)

    def estimate(self, new: NewOptimization) -> RunEstimate:
        """What such a run would come to; nothing is started."""
        ask = Ask("POST", _ROOT + "/estimate", content=payload(new), repeatable=True)
        return self._connection.call(RunEstimate, ask)

    def create(self, new: NewOptimization) -> OptimizationRun:
        """It is `pending` until its Ray job takes it. Raises Conflict, with the estimate in
        `details`, when it is over the threshold and not confirmed."""
        ask = Ask("POST", _ROOT, content=payload(new))
        return self._connection.call(OptimizationRun, ask)

    def get(self, run_id: UUID) -> OptimizationRun:
        """With its progress, and the versions it ended in."""
        ask = Ask("GET", path(_ONE, id=run_id), repeatable=True)
        return self._connection.call(OptimizationRun, ask)

    def list(self, wanted: RunQuery | None = None) -> Page[OptimizationRun]:
        """Newest first."""
        ask = Ask("GET", _ROOT, params=query(wanted), repeatable=True)
        return self._connection.call(Page[OptimizationRun], ask)

    def trials(
        self, run_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[RunTrial]:
        """By number, as far as they are there."""
        where = path(_ONE + "/trials", id=run_id)
        ask = Ask("GET", where, params=params(cursor=cursor, limit=limit), repeatable=True)
        return self._connection.call(Page[RunTrial], ask)

    def iterate_trials(self, run_id: UUID) -> Iterator[RunTrial]:
        """Every trial, page by page."""
        cursor: str | None = None
        while True:
            page = self.trials(run_id, cursor=cursor, limit=MAX_LIMIT)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def examples(
        self, run_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[SeenExample]:
        """What the optimizer was given, or its versions measured on (`test`), by hash: none of it
        is held out any more."""
        where = path(_ONE + "/examples", id=run_id)
        ask = Ask("GET", where, params=params(cursor=cursor, limit=limit), repeatable=True)
        return self._connection.call(Page[SeenExample], ask)

    def front(self, run_id: UUID) -> Front:
        """What a search for several objectives came to. Raises NotFound saying why a run has
        none."""
        ask = Ask("GET", path(_ONE + "/front", id=run_id), repeatable=True)
        return self._connection.call(Front, ask)

    def importance(self, run_id: UUID) -> RunImportance:
        """Which variables mattered, by the trials so far. Raises NotFound for a search that has
        no variables."""
        ask = Ask("GET", path(_ONE + "/importance", id=run_id), repeatable=True)
        return self._connection.call(RunImportance, ask)

    def cancel(self, run_id: UUID) -> OptimizationRun:
        """It ends within seconds, and keeps what was found."""
        where = path(_ONE + "/cancel", id=run_id)
        return self._connection.call(OptimizationRun, Ask("POST", where, repeatable=True))

    def resume(self, run_id: UUID) -> OptimizationRun:
        """A failed or cancelled run goes on; what models have answered is not asked again."""
        where = path(_ONE + "/resume", id=run_id)
        return self._connection.call(OptimizationRun, Ask("POST", where))

    def events(self, run_id: UUID) -> Generator[RunEvent]:
        """Its progress as it changes; after the last one it has ended. Raises Unavailable when
        the stream ends before that. Leaving the iterator closes the request."""
        where = path(_ONE + "/events", id=run_id)
        with closing(self._connection.events(Ask("GET", where, repeatable=True))) as events:
            for text in events:
                event = read(RunEvent, text, self._connection.url)
                yield event
                if event.status.ended:
                    return
        raise Unavailable("the stream was cut: it ended before the run did")

    def wait(self, run_id: UUID, *, timeout_s: float = 24 * 3600) -> OptimizationRun:
        """Until it has ended; raises DeadlineExceeded when that takes longer."""
        for _ in range(max(1, round(timeout_s / _POLL_S))):
            run = self.get(run_id)
            if run.status.ended:
                return run
            time.sleep(_POLL_S)
        raise DeadlineExceeded(f"optimization {run_id} is still {run.status.value!r}")
