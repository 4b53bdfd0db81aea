"""Carries an evaluation out: resumes at what is recorded, records as it goes, can be cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress

import structlog

from dspex_ray.core.actor import SYSTEM, Actor
from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import Conflict, DspexRayError, Stale, TransitionRefused
from dspex_ray.core.ids import EvaluationId
from dspex_ray.datasets.model import Example
from dspex_ray.datasets.rules import fingerprint
from dspex_ray.datasets.store import examples_at, hashes
from dspex_ray.db.audit import audit
from dspex_ray.db.engine import Database, Read
from dspex_ray.db.move import move
from dspex_ray.db.tables import evaluations as table
from dspex_ray.evaluation import store
from dspex_ray.evaluation.batches import LINGER_S, Batches
from dspex_ray.evaluation.cache import PostgresRunCache
from dspex_ray.evaluation.harness import Harness, Pool
from dspex_ray.evaluation.metrics import resolve_metric
from dspex_ray.evaluation.model import (
    EVALUATION_MACHINE,
    Evaluation,
    EvaluationSettings,
    EvaluationStatus,
    ExampleResult,
    Report,
)
from dspex_ray.evaluation.rules import Tally, configuration, positions
from dspex_ray.evaluation.service import RUN_TASK
from dspex_ray.evaluation.targets import (
    find_dataset_version,
    find_version,
    pinned_models,
    version_target,
)
from dspex_ray.evaluation.work import Work
from dspex_ray.jobs.retry import is_infrastructure
from dspex_ray.jobs.store import live_arguments
from dspex_ray.traces.model import Source

log = structlog.get_logger()
_LOOK_S = 0.5
_ABANDONED = "the workers that ran it kept dying; what they had measured is recorded"

PoolFor = Callable[[EvaluationSettings], AbstractAsyncContextManager[Pool]]


class EvaluationRuns:
    """What a worker does of evaluations. `pool_for` makes the pool of one of them."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        pool_for: PoolFor,
        *,
        allowed_packages: tuple[str, ...],
    ) -> None:
        self._database = database
        self._clock = clock
        self._pool_for = pool_for
        self._allowed = allowed_packages

    async def run(self, evaluation_id: EvaluationId, *, last: bool = False) -> None:
        """Until it is final. Raises what another attempt may mend, unless this is the `last`;
        called again, it goes on at what is recorded."""
        evaluation = await self._begin(evaluation_id)
        if evaluation is None:
            return
        actor = _system(evaluation)
        try:
            report = await self._unless_cancelled(evaluation, self._measure(evaluation))
        except Exception as error:
            if is_infrastructure(error) and not last:
                raise
            log.warning("evaluation_failed", id=str(evaluation_id), error=type(error).__name__)
            message = error.message if isinstance(error, DspexRayError) else type(error).__name__
            await self._end(actor, evaluation, "fail", error=message[:1000])
        else:
            if report is not None:
                await self._end(actor, evaluation, "complete", report=report)

    async def fail_abandoned(self) -> None:
        """End those that no job carries on: the queue gave theirs up, for it kept killing its
        workers."""
        async with self._database.read() as conn:
            # In this order: one whose job ends in between has ended too, and stays what it is.
            found = await store.unfinished(conn)
            live = await live_arguments(conn, RUN_TASK, "evaluation_id")
        for evaluation in found:
            if str(evaluation.id) not in live:
                log.warning("evaluation_abandoned", id=str(evaluation.id))
                await self._end(_system(evaluation), evaluation, "fail", error=_ABANDONED)

    async def forget_expired(self) -> None:
        """Of the cache."""
        async with self._database.write() as conn:
            gone = await store.forget_expired(conn, self._clock.now())
        log.info("evaluation_cache_pruned", rows=gone)

    # --- steps -----------------------------------------------------------------------------

    async def _begin(self, evaluation_id: EvaluationId) -> Evaluation | None:
        """As it is now, running; None when it is final, or no more."""
        async with self._database.read() as conn:
            project = await store.find_project(conn, evaluation_id)
        if project is None:
            return None
        now = self._clock.now()
        async with self._database.write() as conn:
            found = await store.get_evaluation(conn, project, evaluation_id, lock=True)
            if found.status is EvaluationStatus.PENDING:
                actor = _system(found)
                await move(
                    conn, table, EVALUATION_MACHINE, evaluation_id, "start", actor=actor, now=now
                )
                await store.set_started(conn, evaluation_id, now)
        return None if found.status.final else found

    async def _measure(self, evaluation: Evaluation) -> Report:
        settings = evaluation.settings
        work, (examples, done) = await asyncio.gather(
            self._work(evaluation), self._data(evaluation)
        )
        recording = self._recording(evaluation, Tally(evaluation.progress.total, done))
        cache = PostgresRunCache(self._database, self._clock, evaluation.project_id)
        try:
            async with self._pool_for(settings) as pool:
                harness = Harness(pool, cache, allowed_packages=self._allowed)
                measured = await harness.run(
                    work, examples, settings, done=done, on_result=recording.put
                )
        finally:
            await asyncio.shield(recording.close())
        return measured.report

    async def _work(self, evaluation: Evaluation) -> Work:
        """Raises Conflict when the models are no longer those it was asked for with."""
        settings, now = evaluation.settings, self._clock.now()
        reference = f"{evaluation.program}@{evaluation.version}"
        metrics = [resolve_metric(s, allowed_packages=self._allowed) for s in evaluation.metrics]
        called = [name for metric in metrics for name in metric.models]
        async with self._database.read() as conn:
            program, version = await find_version(conn, evaluation.project_id, reference)
            target = await version_target(conn, program, version, model=settings.model, now=now)
            judges = await pinned_models(conn, evaluation.project_id, called, now)
        if configuration(target, judges) != evaluation.configuration:
            raise Conflict(
                "the models of this evaluation have changed since it was asked for: ask again"
            )
        return Work(
            id=evaluation.id,
            source=Source.EVALUATION,
            target=target,
            metrics=evaluation.metrics,
            metric_models=judges,
            timeout_s=settings.timeout_s,
            seed=settings.seed,
        )

    async def _data(self, evaluation: Evaluation) -> tuple[list[Example], list[ExampleResult]]:
        """Its examples, and the results that there are. Raises Conflict as `_examples`."""
        async with self._database.read() as conn:
            examples = await _examples(conn, evaluation)
            return examples, await store.every_result(conn, evaluation.id)

    def _recording(self, evaluation: Evaluation, tally: Tally) -> Batches[ExampleResult]:
        async def record(batch: Sequence[ExampleResult]) -> None:
            async with self._database.write() as conn:
                await store.insert_results(conn, evaluation, batch, self._clock.now())
                for result in batch:
                    tally.add(result)
                await store.set_progress(conn, evaluation.id, tally.progress)

        return Batches(record, linger_s=LINGER_S)

    async def _unless_cancelled(
        self, evaluation: Evaluation, measure: Awaitable[Report]
    ) -> Report | None:
        """None when it was cancelled meanwhile; then what was under way is cancelled too."""
        measuring = asyncio.ensure_future(measure)
        watching = asyncio.create_task(self._cancelled(evaluation))
        try:
            await asyncio.wait({measuring, watching}, return_when=asyncio.FIRST_COMPLETED)
            return measuring.result() if measuring.done() else None
        finally:
            for task in (measuring, watching):
                task.cancel()
            await asyncio.gather(measuring, watching, return_exceptions=True)

    async def _cancelled(self, evaluation: Evaluation) -> None:
        """Returns when it is no longer running; the database being away says nothing."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                async with self._database.read() as conn:
                    found = await store.get_evaluation(conn, evaluation.project_id, evaluation.id)
            except Exception as error:
                log.warning("evaluation_cannot_be_watched", error=type(error).__name__)
            else:
                if found.status.final:
                    return

    async def _end(
        self,
        actor: Actor,
        evaluation: Evaluation,
        event: str,
        *,
        report: Report | None = None,
        error: str | None = None,
    ) -> None:
        now = self._clock.now()
        # Cancelled in the last moment: it stays so.
        with suppress(Stale, TransitionRefused):
            async with self._database.write() as conn:
                status = await move(
                    conn, table, EVALUATION_MACHINE, evaluation.id, event, actor=actor, now=now
                )
                await store.set_ended(conn, evaluation.id, now, report=report, error=error)
                await audit(
                    conn,
                    actor,
                    f"evaluation.{event}",
                    "evaluation",
                    evaluation.id,
                    now=now,
                    after={"status": status, "error": error},
                )


async def _examples(conn: Read, evaluation: Evaluation) -> list[Example]:
    """Raises Conflict when the dataset was deleted, and another took its name."""
    reference = f"{evaluation.dataset}@{evaluation.dataset_version}"
    _, version = await find_dataset_version(conn, evaluation.project_id, reference)
    found = await hashes(conn, version.id)
    chosen = positions(evaluation.examples, found)
    if fingerprint(found, chosen) != evaluation.fingerprint:
        raise Conflict(f"dataset {reference!r} is no longer the one that was asked for")
    return await examples_at(conn, version.id, chosen)


def _system(evaluation: Evaluation) -> Actor:
    return SYSTEM._replace(project_id=evaluation.project_id)
