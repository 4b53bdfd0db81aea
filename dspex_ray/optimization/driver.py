"""Carries a run out: one attempt of it, in one process, from its claim to what it found."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from dspex_ray.core.errors import Conflict, DspexRayError
from dspex_ray.core.ids import OptimizationId
from dspex_ray.datasets.model import Example
from dspex_ray.datasets.rules import split_fingerprint
from dspex_ray.datasets.store import examples_at, hashes
from dspex_ray.db.engine import Read
from dspex_ray.evaluation.batches import Batches
from dspex_ray.evaluation.metrics import resolve_metric
from dspex_ray.evaluation.targets import artifact_target, find_dataset_version, find_version
from dspex_ray.jobs.retry import is_infrastructure
from dspex_ray.optimization import store
from dspex_ray.optimization.attempt import Attempt, Loaded, Process
from dspex_ray.optimization.budget import Ledger
from dspex_ray.optimization.endings import RunEndings
from dspex_ray.optimization.memory import PostgresAnswers
from dspex_ray.optimization.model import Outcome, Problem
from dspex_ray.optimization.remeasure import search_budget
from dspex_ray.optimization.run_rules import at_least, parts_by_name
from dspex_ray.optimization.runs import DEV, TEST, TRAIN, OptimizationRun, RunStatus, RunTrial

log = structlog.get_logger()
_LOOK_S = 1.0
_END_WITHIN_S = 20.0  #: of being stopped: what then still runs ends with the process


class RunDriver:
    """One attempt of one run at a time."""

    def __init__(self, process: Process, endings: RunEndings) -> None:
        self._process, self._endings = process, endings
        self._database, self._clock = process.database, process.clock

    async def drive(self, run_id: OptimizationId, job: str | None = None) -> OptimizationRun | None:
        """Until the attempt is over; None when there was nothing to do: another has it, it has
        ended, or is no more. Raises what a later attempt may mend."""
        run = await self._endings.claim(run_id, job)
        if run is None:
            return None
        try:
            loaded = await self._load(run)
            outcome = await self._optimize(loaded)
        except Exception as error:
            if is_infrastructure(error):
                raise
            log.warning("optimization_failed", id=str(run_id), error=type(error).__name__)
            message = error.message if isinstance(error, DspexRayError) else type(error).__name__
            return await self._endings.fail(run, message[:1000])
        return await self._endings.finish(run, loaded.problem, outcome)

    # --- what it is about ----------------------------------------------------------------------

    async def _load(self, run: OptimizationRun) -> Loaded:
        """Raises Conflict when the dataset is no longer the one that was asked for."""
        allowed = self._process.allowed_packages
        specs = (run.metric, *run.metrics)
        metric, *others = await asyncio.to_thread(
            lambda: [resolve_metric(spec, allowed_packages=allowed) for spec in specs]
        )
        async with self._database.read() as conn:
            reference = f"{run.program}@{run.version}"
            program, version = await find_version(conn, run.project_id, reference)
            now = self._clock.now()
            target = await artifact_target(
                conn, program, version.artifact, model=run.model, now=now
            )
            parts = await _examples(conn, run)
        problem = Problem(
            artifact=version.artifact,
            train=tuple(parts[TRAIN]),
            dev=tuple(parts[DEV]),
            metric=metric,
            others=tuple(others),
            seed=run.seed,
            budget=search_budget(run.budget, run.held_out_calls, run.estimate.lm_calls),
            limits=run.limits,
            allowed_packages=allowed,
        )
        return Loaded(run, target, problem, tuple(parts.get(TEST, ())))

    # --- the work ------------------------------------------------------------------------------

    async def _optimize(self, loaded: Loaded) -> Outcome | None:
        """None when the attempt was stopped before it came to anything."""
        run = loaded.run
        answers = PostgresAnswers(self._database, self._clock, run)
        trials = Batches[RunTrial](self._put_trials(run))
        async with self._database.read() as conn:
            before = at_least(run.spent, await store.paid(conn, run.id))
        paid = Ledger(run.budget, self._clock, before)
        attempt = Attempt(self._process, loaded, answers, paid, trials)
        try:
            return await self._watched(run, attempt)
        finally:
            await asyncio.sleep(0)  # trials that threads have handed over
            await asyncio.shield(asyncio.gather(trials.close(), answers.close()))
            await self._beat(run, attempt)

    async def _watched(self, run: OptimizationRun, attempt: Attempt) -> Outcome | None:
        working = asyncio.create_task(attempt.work())
        watching = asyncio.create_task(self._until_stopped(run, attempt))
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                attempt.stop("cancelled")
                await asyncio.wait({working}, timeout=_END_WITHIN_S)
                ended = working.done() and working.exception() is None
                return working.result() if ended else None
            return working.result()
        finally:
            for task in (working, watching):
                task.cancel()
            await asyncio.gather(working, watching, return_exceptions=True)

    async def _until_stopped(self, run: OptimizationRun, attempt: Attempt) -> None:
        """Says every second that it is alive; returns when it is no longer wanted."""
        while True:
            if await self._beat(run, attempt) is not RunStatus.RUNNING:
                return
            await asyncio.sleep(_LOOK_S)

    async def _beat(self, run: OptimizationRun, attempt: Attempt) -> RunStatus | None:
        """The run's status; running while the database is away, which says nothing."""
        try:
            async with self._database.write() as conn:
                return await store.beat(conn, run, attempt.paid.spent, self._clock.now())
        except Exception as error:
            log.warning("optimization_cannot_be_watched", error=type(error).__name__)
            return RunStatus.RUNNING

    def _put_trials(self, run: OptimizationRun) -> Callable[[Sequence[RunTrial]], Awaitable[None]]:
        async def write(batch: Sequence[RunTrial]) -> None:
            newest = {trial.number: trial for trial in batch}
            async with self._database.write() as conn:
                await store.put_trials(conn, run.project_id, run.id, list(newest.values()))

        return write


async def _examples(conn: Read, run: OptimizationRun) -> dict[str, list[Example]]:
    """By part, each in its order."""
    reference = f"{run.dataset}@{run.dataset_version}"
    _, version = await find_dataset_version(conn, run.project_id, reference)
    found = await hashes(conn, version.id)
    parts = parts_by_name(found, run.examples)
    if split_fingerprint(found, parts) != run.fingerprint:
        raise Conflict(f"dataset {reference!r} is no longer the one that was asked for")
    return {
        part: await examples_at(conn, version.id, positions) if positions else []
        for part, positions in parts.items()
    }
