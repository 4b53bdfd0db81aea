"""Use cases of optimization runs; each is one transaction. `driver` carries them out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import cache

from dspex_ray.core.actor import Actor
from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import Invalid, NotFound
from dspex_ray.core.ids import NewId, OptimizationId, new_id
from dspex_ray.core.page import Page
from dspex_ray.db.audit import audit
from dspex_ray.db.engine import Database, Read, Write
from dspex_ray.db.move import move
from dspex_ray.db.tables import optimization_runs as table
from dspex_ray.jobs.app import defer
from dspex_ray.jobs.queues import Queue
from dspex_ray.optimization import store
from dspex_ray.optimization.asking import Asked, estimated, find_asked, run_of, unconfirmed
from dspex_ray.optimization.front import Front
from dspex_ray.optimization.model import OptimizerInfo
from dspex_ray.optimization.registry import Registry, builtin_registry
from dspex_ray.optimization.run_rules import no_front, progress
from dspex_ray.optimization.runs import (
    RUN_MACHINE,
    NewOptimization,
    OptimizationRun,
    RunEstimate,
    RunEvent,
    RunImportance,
    RunQuery,
    RunStatus,
    RunTrial,
    SeenExample,
)
from dspex_ray.optimization.shares import run_importance
from dspex_ray.settings import OptimizationSettings

SUBMIT_TASK = "optimization.submit"
_EVENT_S = 0.5


@cache
def registry() -> Registry:
    """Of this process; it imports DSPy's optimizers."""
    return builtin_registry()


class OptimizationService:
    """Optimization runs: asked for, followed, cancelled, resumed."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        settings: OptimizationSettings,
        *,
        allowed_packages: tuple[str, ...],
        ids: NewId = new_id,
    ) -> None:
        self._database, self._clock, self._settings = database, clock, settings
        self._allowed, self._ids = allowed_packages, ids

    # --- optimizers ------------------------------------------------------------------------

    async def optimizers(self) -> list[OptimizerInfo]:
        """All that can be asked for, by name."""
        known = await asyncio.to_thread(registry)
        return await asyncio.to_thread(lambda: [known.info(name) for name in known.names()])

    async def optimizer(self, name: str) -> OptimizerInfo:
        """By name or alias. Raises NotFound naming those that are known."""
        known = await asyncio.to_thread(registry)
        try:
            return await asyncio.to_thread(known.info, name)
        except Invalid as error:
            raise NotFound(error.message, kind="optimizer") from error

    # --- runs ------------------------------------------------------------------------------

    async def estimate(self, actor: Actor, new: NewOptimization) -> RunEstimate:
        """What it would come to. Raises as `create`, but for the confirmation."""
        return estimated(await self._asked(actor, new), self._settings)

    async def create(self, actor: Actor, new: NewOptimization) -> OptimizationRun:
        """Pending, its submission enqueued. Raises Invalid, NotFound or Conflict for what could
        not be run, or is not confirmed, before anything is written."""
        asked = await self._asked(actor, new)
        figures = estimated(asked, self._settings)
        if figures.needs_confirmation and not new.confirm:
            raise unconfirmed(figures, self._settings)
        run = run_of(asked, figures, actor, OptimizationId(self._ids()), self._clock.now())
        async with self._database.write() as conn:
            await store.insert_run(conn, run, asked.seen)
            await audit(
                conn,
                actor,
                "optimization.create",
                "optimization",
                run.id,
                now=run.created_at,
                after=run,
            )
            await self._submit(conn, run.id)
        return run.model_copy(update={"progress": progress(run, (), run.created_at)})

    async def get(self, actor: Actor, run_id: OptimizationId) -> OptimizationRun:
        """With its progress."""
        async with self._database.read() as conn:
            run = await store.get_run(conn, actor.project_id, run_id)
            return (await self._with_progress(conn, [run]))[0]

    async def page(self, actor: Actor, query: RunQuery) -> Page[OptimizationRun]:
        """Newest first, each with its progress."""
        async with self._database.read() as conn:
            found = await store.list_runs(conn, actor.project_id, query)
            items = await self._with_progress(conn, found.items)
        return Page(items=items, next_cursor=found.next_cursor)

    async def trials(
        self, actor: Actor, run_id: OptimizationId, *, cursor: str | None, limit: int
    ) -> Page[RunTrial]:
        """By number, as far as they are there."""
        async with self._database.read() as conn:
            await store.get_run(conn, actor.project_id, run_id)
            return await store.list_trials(conn, run_id, cursor=cursor, limit=limit)

    async def seen(
        self, actor: Actor, run_id: OptimizationId, *, cursor: str | None, limit: int
    ) -> Page[SeenExample]:
        """The examples that the optimizer was given, or its versions measured on, by hash."""
        async with self._database.read() as conn:
            await store.get_run(conn, actor.project_id, run_id)
            return await store.list_seen(conn, run_id, cursor=cursor, limit=limit)

    async def front(self, actor: Actor, run_id: OptimizationId) -> Front:
        """What a search for several objectives came to. Raises NotFound saying why it has none."""
        async with self._database.read() as conn:
            run = await store.get_run(conn, actor.project_id, run_id)
            found = await store.find_front(conn, run_id)
        if found is None:
            raise no_front(run)
        return found

    async def importance(self, actor: Actor, run_id: OptimizationId) -> RunImportance:
        """By the trials so far. Raises NotFound for a search that has no variables."""
        async with self._database.read() as conn:
            run = await store.get_run(conn, actor.project_id, run_id)
            facts = await store.facts_of(conn, run_id)
            front = await store.find_front(conn, run_id)
        return await asyncio.to_thread(run_importance, run, facts, front)

    async def cancel(self, actor: Actor, run_id: OptimizationId) -> OptimizationRun:
        """It ends within seconds, and keeps what was found. Again, it changes nothing."""
        now = self._clock.now()
        async with self._database.write() as conn:
            before = await store.get_run(conn, actor.project_id, run_id, lock=True)
            if before.status is not RunStatus.CANCELLED:
                await self._move(conn, actor, before, "cancel")
                await store.set_fields(conn, run_id, ended_at=now)
        return await self.get(actor, run_id)

    async def resume(self, actor: Actor, run_id: OptimizationId) -> OptimizationRun:
        """A failed or cancelled run goes on where it stopped; what was answered is not asked
        again. Raises TransitionRefused for another."""
        async with self._database.write() as conn:
            before = await store.get_run(conn, actor.project_id, run_id, lock=True)
            await self._move(conn, actor, before, "resume")
            await store.set_fields(
                conn, run_id, submissions=0, submitted_at=None, ended_at=None, error=None
            )
            await self._submit(conn, run_id)
        return await self.get(actor, run_id)

    async def events(
        self, actor: Actor, run_id: OptimizationId
    ) -> AsyncGenerator[RunEvent | None, None]:
        """Its progress whenever that has changed, till it has ended; None while it has not
        changed. The first one comes at once."""
        told: RunEvent | None = None
        while True:
            run = await self.get(actor, run_id)
            assert run.progress is not None
            event = RunEvent(
                status=run.status, progress=run.progress, spent=run.spent, error=run.error
            )
            yield event if event != told else None
            told = event
            if run.status.ended:
                return
            await asyncio.sleep(_EVENT_S)

    # --- parts ---------------------------------------------------------------------------

    async def _asked(self, actor: Actor, new: NewOptimization) -> Asked:
        known = await asyncio.to_thread(registry)
        async with self._database.read() as conn:
            return await find_asked(
                conn, actor, new, known, self._clock.now(), allowed_packages=self._allowed
            )

    async def _with_progress(
        self, conn: Read, runs: list[OptimizationRun]
    ) -> list[OptimizationRun]:
        trials = await store.history(conn, [run.id for run in runs])
        now = self._clock.now()
        return [
            run.model_copy(update={"progress": progress(run, trials.get(run.id, ()), now)})
            for run in runs
        ]

    async def _move(self, conn: Write, actor: Actor, run: OptimizationRun, event: str) -> None:
        now = self._clock.now()
        status = await move(conn, table, RUN_MACHINE, run.id, event, actor=actor, now=now)
        await audit(
            conn,
            actor,
            f"optimization.{event}",
            "optimization",
            run.id,
            now=now,
            before={"status": run.status},
            after={"status": status},
        )

    async def _submit(self, conn: Write, run_id: OptimizationId) -> None:
        await defer(conn, SUBMIT_TASK, Queue.ML_OPTIMIZATION, run_id=str(run_id))
