"""Use cases of evaluations; each is one transaction. `running` carries them out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from dspex_ray.core.actor import Actor
from dspex_ray.core.clock import Clock
from dspex_ray.core.ids import EvaluationId, NewId, new_id
from dspex_ray.core.page import Page
from dspex_ray.datasets.rules import fingerprint
from dspex_ray.datasets.store import hashes
from dspex_ray.db.audit import audit
from dspex_ray.db.engine import Database
from dspex_ray.db.move import move
from dspex_ray.db.tables import evaluations as table
from dspex_ray.evaluation import store
from dspex_ray.evaluation.metrics import resolve_metric
from dspex_ray.evaluation.model import (
    EVALUATION_MACHINE,
    Evaluation,
    EvaluationEvent,
    EvaluationQuery,
    EvaluationStatus,
    ExampleResult,
    NewEvaluation,
    Progress,
)
from dspex_ray.evaluation.rules import check_examples, check_metrics, configuration, positions
from dspex_ray.evaluation.targets import (
    find_dataset_version,
    find_version,
    pinned_models,
    version_target,
)
from dspex_ray.jobs.app import defer
from dspex_ray.jobs.queues import Queue

RUN_TASK = "evaluation.run"
# Jobs of one lane run one after the other: so many evaluations at once leave a worker, which
# takes 16 jobs, room for all others; and none is run twice at the same time.
_LANES = 8
_EVENT_S = 0.5


class EvaluationService:
    """Evaluations: asked for, followed, cancelled."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        allowed_packages: tuple[str, ...],
        ids: NewId = new_id,
    ) -> None:
        self._database = database
        self._clock = clock
        self._allowed = allowed_packages
        self._ids = ids

    async def create(self, actor: Actor, new: NewEvaluation) -> Evaluation:
        """Pending, its job enqueued. Raises Invalid, NotFound or Conflict for what could not be
        run, before anything is written."""
        metrics = await asyncio.to_thread(
            lambda: [resolve_metric(spec, allowed_packages=self._allowed) for spec in new.metrics]
        )
        async with self._database.read() as conn:
            dataset, version = await find_dataset_version(conn, actor.project_id, new.dataset)
            found = await hashes(conn, version.id)
        chosen = positions(new.examples, found)
        now = self._clock.now()
        async with self._database.write() as conn:
            program, measured = await find_version(conn, actor.project_id, new.program)
            signature = measured.artifact.signature
            check_metrics(new.metrics, signature)
            check_examples(new.metrics, signature, version)
            target = await version_target(
                conn, program, measured, model=new.settings.model, now=now
            )
            called = [name for metric in metrics for name in metric.models]
            judges = await pinned_models(conn, actor.project_id, called, now)
            evaluation = Evaluation(
                id=EvaluationId(self._ids()),
                project_id=actor.project_id,
                program_id=program.id,
                program=program.name,
                version_id=measured.id,
                version=measured.number,
                artifact_hash=measured.hash,
                dataset_id=dataset.id,
                dataset=dataset.name,
                dataset_version=version.number,
                examples=new.examples,
                fingerprint=fingerprint(found, chosen),
                metrics=new.metrics,
                settings=new.settings,
                configuration=configuration(target, judges),
                progress=Progress(total=len(chosen) * new.settings.repeats),
                created_by=actor.name,
                created_at=now,
                updated_at=now,
            )
            await store.insert_evaluation(conn, evaluation)
            await audit(
                conn,
                actor,
                "evaluation.create",
                "evaluation",
                evaluation.id,
                now=now,
                after=evaluation,
            )
            await defer(
                conn,
                RUN_TASK,
                Queue.EVALUATIONS,
                lock=f"evaluation-{evaluation.id.int % _LANES}",
                evaluation_id=str(evaluation.id),
            )
        return evaluation

    async def get(self, actor: Actor, evaluation_id: EvaluationId) -> Evaluation:
        async with self._database.read() as conn:
            return await store.get_evaluation(conn, actor.project_id, evaluation_id)

    async def page(self, actor: Actor, query: EvaluationQuery) -> Page[Evaluation]:
        async with self._database.read() as conn:
            return await store.list_evaluations(conn, actor.project_id, query)

    async def results(
        self,
        actor: Actor,
        evaluation_id: EvaluationId,
        *,
        failed: bool | None,
        cursor: str | None,
        limit: int,
    ) -> Page[ExampleResult]:
        """By example number and repeat, as far as they are there."""
        async with self._database.read() as conn:
            await store.get_evaluation(conn, actor.project_id, evaluation_id)
            return await store.list_results(
                conn, evaluation_id, failed=failed, cursor=cursor, limit=limit
            )

    async def cancel(self, actor: Actor, evaluation_id: EvaluationId) -> Evaluation:
        """It ends within seconds; results that are there stay. Again, it changes nothing."""
        now = self._clock.now()
        async with self._database.write() as conn:
            before = await store.get_evaluation(conn, actor.project_id, evaluation_id, lock=True)
            if before.status is EvaluationStatus.CANCELLED:
                return before
            await move(
                conn, table, EVALUATION_MACHINE, evaluation_id, "cancel", actor=actor, now=now
            )
            await store.set_ended(conn, evaluation_id, now)
            after = await store.get_evaluation(conn, actor.project_id, evaluation_id)
            await audit(
                conn,
                actor,
                "evaluation.cancel",
                "evaluation",
                evaluation_id,
                now=now,
                before={"status": before.status},
                after={"status": after.status},
            )
        return after

    async def events(
        self, actor: Actor, evaluation_id: EvaluationId
    ) -> AsyncGenerator[EvaluationEvent | None, None]:
        """Its progress whenever that has changed, till its status is final; None while it has
        not. The first one comes at once."""
        told: EvaluationEvent | None = None
        while True:
            seen = await self.get(actor, evaluation_id)
            event = EvaluationEvent(status=seen.status, progress=seen.progress, error=seen.error)
            yield event if event != told else None
            told = event
            if seen.status.final:
                return
            await asyncio.sleep(_EVENT_S)
