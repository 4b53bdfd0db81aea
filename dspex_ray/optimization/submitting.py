"""Runs as Ray jobs: submitted, watched, and started again when their process died."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, Protocol

import structlog

from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import NotFound, Stale, TransitionRefused, Unavailable
from dspex_ray.core.ids import OptimizationId
from dspex_ray.db.audit import audit
from dspex_ray.db.engine import Database, Write
from dspex_ray.db.move import move
from dspex_ray.db.tables import optimization_runs as table
from dspex_ray.optimization import store
from dspex_ray.optimization.endings import system
from dspex_ray.optimization.run_rules import JobState, Verdict, verdict
from dspex_ray.optimization.runs import RUN_MACHINE, OptimizationRun, RunStatus
from dspex_ray.settings import OptimizationSettings

log = structlog.get_logger()


class Jobs(Protocol):
    """Where runs are carried out."""

    async def submit(self, name: str, run_id: OptimizationId) -> None:
        """Start a process that drives the run; nothing when a job of this name is there already.
        Raises Unavailable."""
        ...

    async def state(self, name: str) -> JobState:
        """Raises Unavailable."""
        ...


class RayJobs:
    """By Ray's job API, with the token of this process's environment: what a user can give to
    `ray job submit` too. The address is the cluster's that this process belongs to."""

    def __init__(self) -> None:
        self._client: Any = None

    async def submit(self, name: str, run_id: OptimizationId) -> None:
        await asyncio.to_thread(self._submit, name, run_id)

    async def state(self, name: str) -> JobState:
        return await asyncio.to_thread(self._state, name)

    def _submit(self, name: str, run_id: OptimizationId) -> None:
        if self._status(name) is not None:
            return
        try:
            self._connected().submit_job(
                entrypoint=f"python -m dspex_ray.cli optimize drive {run_id} --job {name}",
                submission_id=name,
                metadata={"optimization": str(run_id)},
            )
        except RuntimeError as error:  # whatever the dashboard said, as the client tells it
            raise Unavailable(f"Ray's job API refuses a job: {type(error).__name__}") from error

    def _state(self, name: str) -> JobState:
        from ray.job_submission import JobStatus

        status = self._status(name)
        if status is JobStatus.STOPPED:
            return JobState.STOPPED
        alive = status in {JobStatus.PENDING, JobStatus.RUNNING}
        return JobState.ALIVE if alive else JobState.DEAD

    def _status(self, name: str) -> Any:
        """None when there is no such job."""
        try:
            return self._connected().get_job_status(name)
        except RuntimeError as error:
            if "404" in str(error) or "does not exist" in str(error):
                return None
            raise Unavailable("Ray's job API does not answer") from error

    def _connected(self) -> Any:
        import ray
        from ray.job_submission import JobSubmissionClient

        if self._client is None:
            try:
                self._client = JobSubmissionClient(ray.get_runtime_context().gcs_address)
            except (ConnectionError, RuntimeError) as error:
                raise Unavailable("Ray's job API does not answer") from error
        return self._client


class RunJobs:
    """What a worker does for runs: submits them, and looks after those that are under way."""

    def __init__(
        self, database: Database, clock: Clock, jobs: Jobs, settings: OptimizationSettings
    ) -> None:
        self._database, self._clock, self._jobs = database, clock, jobs
        self._keep = timedelta(days=settings.keep_answers_days)

    async def submit(self, run_id: OptimizationId) -> None:
        """A pending run, as a job of its next attempt. Raises Unavailable; called again, it
        submits nothing twice."""
        async with self._database.read() as conn:
            project = await store.find_project(conn, run_id)
            if project is None:
                return
            run = await store.get_run(conn, project, run_id)
        if run.status is RunStatus.PENDING:
            await self._submit(run)

    async def reconcile(self) -> None:
        """Runs whose job died go on in another; one whose job was stopped is cancelled."""
        async with self._database.read() as conn:
            runs = await store.live_runs(conn)
        for run in runs:
            state = JobState.DEAD if run.job is None else await self._jobs.state(run.job)
            found = verdict(run, state, self._clock.now())
            if found == Verdict():
                continue
            log.warning("optimization_lost", id=str(run.id), job=state.value, to=found.event)
            try:
                await self._apply(run, found)
            except (NotFound, Stale, TransitionRefused):
                log.info("optimization_moved_on", id=str(run.id))

    async def forget(self) -> None:
        """Answers of runs that ended long ago unfinished."""
        async with self._database.write() as conn:
            await store.forget_old_answers(conn, self._clock.now() - self._keep)

    async def _apply(self, run: OptimizationRun, found: Verdict) -> None:
        if found.event is not None:
            now = self._clock.now()
            async with self._database.write() as conn:
                await self._event(conn, run, found.event, found.error)
                if not found.submit:
                    await store.set_fields(conn, run.id, ended_at=now, error=found.error)
        if found.submit:
            await self._submit(run)

    async def _event(
        self, conn: Write, run: OptimizationRun, event: str, error: str | None
    ) -> None:
        now, actor = self._clock.now(), system(run)
        status = await move(conn, table, RUN_MACHINE, run.id, event, actor=actor, now=now)
        await audit(
            conn,
            actor,
            f"optimization.{event}",
            "optimization",
            run.id,
            now=now,
            before={"status": run.status},
            after={"status": status, "error": error},
        )

    async def _submit(self, run: OptimizationRun) -> None:
        """The job's name is of the run's move and the submission: a second try finds the first."""
        now = self._clock.now()
        name = f"optimize-{run.id}-{run.revision}-{run.submissions + 1}"
        await self._jobs.submit(name, run.id)
        async with self._database.write() as conn:
            await store.set_fields(
                conn, run.id, job=name, submissions=run.submissions + 1, submitted_at=now
            )
