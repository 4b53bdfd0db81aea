"""How an attempt of a run begins and ends: claimed by one driver, failed, or finished with what it
found. Each is one transaction, and none is of an attempt that another has followed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from dspex_ray.core.actor import SYSTEM, Actor
from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import Stale, TransitionRefused
from dspex_ray.core.ids import OptimizationId
from dspex_ray.db.audit import audit
from dspex_ray.db.engine import Database, Write
from dspex_ray.db.move import move
from dspex_ray.db.tables import optimization_runs as table
from dspex_ray.optimization import store
from dspex_ray.optimization.model import Outcome, Problem
from dspex_ray.optimization.run_rules import chosen, label_of, with_versions
from dspex_ray.optimization.runs import RUN_MACHINE, OptimizationRun, RunStatus, RunVersion
from dspex_ray.programs.service import ProgramService


def system(run: OptimizationRun) -> Actor:
    """Who acts for a run, in its project."""
    return SYSTEM._replace(name=f"optimization:{run.id}", project_id=run.project_id)


class RunEndings:
    """Used by the driver; the versions are made by `programs`."""

    def __init__(self, database: Database, clock: Clock, programs: ProgramService) -> None:
        self._database, self._clock, self._programs = database, clock, programs

    async def claim(self, run_id: OptimizationId, job: str | None) -> OptimizationRun | None:
        """The run as this attempt's own, running; None when it is not pending, or no more."""
        async with self._database.read() as conn:
            project = await store.find_project(conn, run_id)
        if project is None:
            return None
        now = self._clock.now()
        async with self._database.write() as conn:
            found = await store.get_run(conn, project, run_id, lock=True)
            if found.status is not RunStatus.PENDING:
                return None
            await move(conn, table, RUN_MACHINE, run_id, "start", actor=system(found), now=now)
            await store.set_fields(
                conn,
                run_id,
                attempt=found.attempt + 1,
                job=job,
                started_at=now,
                heartbeat_at=now,
                ended_at=None,
                error=None,
            )
            return await store.get_run(conn, project, run_id)

    async def fail(self, run: OptimizationRun, message: str) -> OptimizationRun:
        """What it has found so far stays recorded, and its answers, for it may be resumed."""
        now = self._clock.now()
        with suppress(Stale, TransitionRefused):  # cancelled meanwhile: it stays so
            async with self._database.write() as conn:
                if await self._mine(conn, run):
                    await self._move(conn, run, "fail", {"error": message})
                    await store.set_fields(conn, run.id, ended_at=now, error=message)
        return await self._now(run)

    async def finish(
        self, run: OptimizationRun, problem: Problem, outcome: Outcome | None
    ) -> OptimizationRun:
        """The outcome, new versions of the program, and the links between them; also of a run that
        was cancelled, which keeps what it had found."""
        if outcome is None:
            return await self._now(run)
        versions = await self._versions(run, problem, outcome)
        numbers = {run.artifact_hash: run.version} | {one.hash: one.version for one in versions}
        now = self._clock.now()
        async with self._database.write() as conn:
            if not await self._mine(conn, run):
                return await store.get_run(conn, run.project_id, run.id)
            status = (await store.get_run(conn, run.project_id, run.id)).status
            values: dict[str, Any] = {"outcome": _outcome(outcome, numbers)}
            if status is RunStatus.RUNNING:
                said = {"score": outcome.score, "versions": [one.version for one in versions]}
                await self._move(conn, run, "complete", said)
                await store.forget_answers(conn, run.id)
                values["ended_at"] = now
            await store.put_versions(conn, run, versions)
            await store.drop_trials_after(conn, run.id, len(outcome.trials))
            await store.set_fields(conn, run.id, **values)
            return await store.get_run(conn, run.project_id, run.id)

    async def _versions(
        self, run: OptimizationRun, problem: Problem, outcome: Outcome
    ) -> list[RunVersion]:
        """Equal content is one version, so that another attempt's are found again."""
        actor, found = system(run), []
        for rank, (candidate, score) in enumerate(
            chosen(outcome, problem, run.register_best), start=1
        ):
            label = label_of(run) if rank == 1 else None
            version = await self._programs.add_artifact(
                actor, run.program, candidate.artifact, () if label is None else (label,)
            )
            made = RunVersion(
                rank=rank,
                version_id=version.id,
                version=version.number,
                hash=version.hash,
                label=label,
                score=score,
                created=version.created_by == actor.name,
            )
            found.append(made)
        return found

    async def _mine(self, conn: Write, run: OptimizationRun) -> bool:
        """Whether no later attempt has it; the row is held from here on."""
        found = await store.get_run(conn, run.project_id, run.id, lock=True)
        return found.attempt == run.attempt and found.status is not RunStatus.PENDING

    async def _move(
        self, conn: Write, run: OptimizationRun, event: str, said: dict[str, Any]
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
            after={"status": status, **said},
        )

    async def _now(self, run: OptimizationRun) -> OptimizationRun:
        async with self._database.read() as conn:
            return await store.get_run(conn, run.project_id, run.id)


def _outcome(outcome: Outcome, numbers: Mapping[str, int]) -> dict[str, Any]:
    """As it is stored, its programs by version `numbers` too, which are by hash."""
    outcome = with_versions(outcome, numbers)
    front, held_out = outcome.front, outcome.held_out
    return {
        "stopped_because": outcome.stopped_because.value,
        "detail": outcome.detail,
        "best_score": outcome.score,
        "program_runs": outcome.program_runs,
        "failed_runs": outcome.failed_runs,
        "facts": outcome.facts,
        "held_out": None if held_out is None else held_out.model_dump(mode="json"),
        "front": None if front is None else front.model_dump(mode="json"),
        "front_points": 0 if front is None else len(front.points),
    }
