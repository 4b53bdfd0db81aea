"""The process of a run's Ray job: what a gateway has to call models and to record it, and the
driver of one attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import ray

from dspex_ray.apps.replica import Replica
from dspex_ray.bootstrap import read_settings
from dspex_ray.core.clock import Clock, SystemClock
from dspex_ray.core.errors import DspexRayError, NotFound
from dspex_ray.core.ids import ExecutionId, OptimizationId, new_id
from dspex_ray.evaluation.work import Target
from dspex_ray.models.embeddings import embed
from dspex_ray.models.model import Model
from dspex_ray.optimization.driver import Process, RunDriver
from dspex_ray.optimization.endings import RunEndings
from dspex_ray.optimization.runs import OptimizationRun
from dspex_ray.optimization.service import registry
from dspex_ray.placements.service import require_placed
from dspex_ray.programs.service import ProgramService
from dspex_ray.routing.engine import Assigned
from dspex_ray.routing.model import LmCall
from dspex_ray.routing.sink import Sink
from dspex_ray.serving import candidates
from dspex_ray.serving.scoring import Calling
from dspex_ray.serving.snapshot import Configuration
from dspex_ray.traces.capture import captured
from dspex_ray.traces.losses import SpoolReporter
from dspex_ray.traces.model import ExecutionRecord, ExecutionStatus, Source
from dspex_ray.traces.spool import SpoolWriter


class RoutedModels:
    """`optimization.driver.Models` over this process's router."""

    def __init__(self, calling: Calling, spool: SpoolWriter) -> None:
        self._calling, self._spool = calling, spool

    def program_lm(self, target: Target) -> Any:
        def assigned() -> Assigned:
            return candidates.assigned(self._calling.configuration, target.assignments)

        return self._calling.lm(target.program.name, assigned)

    def model_lm(self, target: Target, model: str) -> Any:
        self._model(target, model)

        def assigned() -> Assigned:
            now = self._calling.clock.now()
            return [candidates.direct(self._model(target, model), now)]

        return self._calling.lm(model, assigned)

    def of(self, target: Target, model: str | None = None) -> Sequence[Model]:
        if model is not None:
            return [self._model(target, model)]
        held = self._calling.configuration.snapshot.models
        return [held[one.id] for one in target.models if one.id in held]

    async def embed(self, target: Target, model: str, texts: list[str]) -> list[list[float]]:
        found = self._model(target, model)
        key = self._calling.configuration.snapshot.provider_keys.get(found.id)
        return (await embed(found, key, texts)).vectors

    def sink(self, run: OptimizationRun, target: Target) -> Sink:
        return CallRecords(self._spool, self._calling.clock, run, target)

    def _model(self, target: Target, name: str) -> Model:
        configuration = self._calling.configuration
        found = configuration.snapshot.model(target.program.project_id, name)
        return candidates.with_figures(configuration, found)


class CallRecords:
    """Every LM call of a run is an execution of its own: source `optimization`, the run as its
    rollout. Candidates are no versions, so that none is named."""

    def __init__(
        self, spool: SpoolWriter, clock: Clock, run: OptimizationRun, target: Target
    ) -> None:
        self._spool, self._clock, self._run, self._target = spool, clock, run, target

    def lm_call(self, call: LmCall) -> None:
        program, answered = self._target.program, call.answered_by is not None
        record = ExecutionRecord(
            id=ExecutionId(new_id()),
            project_id=program.project_id,
            source=Source.OPTIMIZATION,
            status=ExecutionStatus.COMPLETED if answered else ExecutionStatus.FAILED,
            program_id=program.id,
            program=program.name,
            endpoint="optimization",
            started_at=call.started_at,
            duration_ms=call.latency_ms,
            error_code=None if answered else DspexRayError.code,
            rollout=str(self._run.id),
            seed=self._run.seed,
            lm_calls=(call,),
        )
        self._spool.append(captured(record, program.capture))


class OptimizerProcess:
    """The parts of one process, and their life."""

    def __init__(self) -> None:
        settings, clock = read_settings(), SystemClock()
        self._rotate_s = settings.spool.rotate_s
        self._spool = SpoolWriter(settings.spool_dir, settings.spool, clock, new_id)
        configuration = Configuration()
        self._replica = Replica(
            settings,
            clock,
            "evaluator",
            configuration=configuration,
            lost=lambda: self._spool.lost,
        )
        database, threads = self._replica.database, self._replica.threads
        calling = Calling(configuration, self._replica.router, threads, clock)
        packages = settings.program_packages
        programs = ProgramService(
            database, clock, allowed_packages=packages, require_placed=require_placed
        )
        self._driver = RunDriver(
            Process(
                database=database,
                clock=clock,
                models=RoutedModels(calling, self._spool),
                registry=registry(),
                threads=threads,
                allowed_packages=packages,
            ),
            RunEndings(database, clock, programs),
        )
        node = ray.get_runtime_context().get_node_id()
        self._reporter = SpoolReporter(database, self._spool, node, clock)

    async def drive(self, run_id: OptimizationId, job: str | None) -> OptimizationRun | None:
        self._replica.start()
        ticking = [asyncio.create_task(work()) for work in (self._rotate, self._reporter.run)]
        try:
            await self._replica.loaded()
            return await self._driver.drive(run_id, job)
        finally:
            for task in ticking:
                task.cancel()
            await asyncio.gather(*ticking, return_exceptions=True)
            self._spool.close()
            with suppress(Exception):
                await self._replica.stop()

    async def _rotate(self) -> None:
        """Hand full or old segments to the drainer."""
        while True:
            await asyncio.sleep(self._rotate_s)
            self._spool.rotate()


def drive(run_id: UUID, job: str | None = None) -> OptimizationRun:
    """One attempt of a run, in this process, which is one of the cluster. Raises NotFound when
    there is nothing to drive."""
    ray.init(logging_level="WARNING", ignore_reinit_error=True)

    async def attempt() -> OptimizationRun | None:
        return await OptimizerProcess().drive(OptimizationId(run_id), job)

    run = asyncio.run(attempt())
    if run is None:
        raise NotFound(f"no pending optimization {run_id}: another drives it, or it has ended")
    return run
