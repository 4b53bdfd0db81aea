"""The process of a run's actor: what a gateway has to call models and to record it, and the driver
of one attempt. `apps/run_job.py` starts it."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray

from dspex_ray.apps.candidates import CANDIDATES_BUILD
from dspex_ray.apps.replica import Replica
from dspex_ray.apps.run_job import NAMESPACE
from dspex_ray.bootstrap import read_settings
from dspex_ray.core.clock import Clock, SystemClock
from dspex_ray.core.errors import DspexRayError
from dspex_ray.core.ids import ExecutionId, OptimizationId, new_id
from dspex_ray.evaluation.actors import WorkPool
from dspex_ray.evaluation.work import Target
from dspex_ray.models.embeddings import embed
from dspex_ray.models.model import Model
from dspex_ray.optimization import trials
from dspex_ray.optimization.attempt import Process
from dspex_ray.optimization.door import CallDoor, calling_predictor
from dspex_ray.optimization.driver import RunDriver
from dspex_ray.optimization.endings import RunEndings
from dspex_ray.optimization.model import Limits
from dspex_ray.optimization.pool import CANDIDATES, CandidatePool
from dspex_ray.optimization.runs import OptimizationRun
from dspex_ray.optimization.service import registry
from dspex_ray.optimization.trials import Measure, MeasureDoor, Tell, TrialRunner
from dspex_ray.optimization.wire import Ask, AskVectors, packed, unpacked
from dspex_ray.placements.service import require_placed
from dspex_ray.programs.service import ProgramService
from dspex_ray.routing.engine import Assigned
from dspex_ray.routing.model import LmCall
from dspex_ray.routing.sink import Sink
from dspex_ray.serving import candidates
from dspex_ray.serving.scoring import Calling
from dspex_ray.serving.snapshot import Configuration
from dspex_ray.settings import OptimizationSettings
from dspex_ray.traces.capture import captured
from dspex_ray.traces.losses import SpoolReporter
from dspex_ray.traces.model import ExecutionRecord, ExecutionStatus, Source
from dspex_ray.traces.spool import SpoolWriter

_TUNING = "dspex_ray.optimization.tuning"


class RoutedModels:
    """`optimization.attempt.Models` over this process's router."""

    def __init__(self, calling: Calling, spool: SpoolWriter) -> None:
        self._calling, self._spool = calling, spool

    def program_lm(self, target: Target, pins: Mapping[str, str]) -> Any:
        project = target.program.project_id

        def assigned() -> Assigned:
            rows = target.assignments
            return candidates.assigned_for(self._calling.configuration, rows, pins, project)

        return self._calling.lm(target.program.name, assigned, calling_predictor)

    def model_lm(self, target: Target, model: str) -> Any:
        self._model(target, model)

        def assigned() -> Assigned:
            now = self._calling.clock.now()
            return [candidates.direct(self._model(target, model), now)]

        return self._calling.lm(model, assigned, calling_predictor)

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


class TunedTrials:
    """`optimization.trials.TrialRunner` by Tune, whose import takes seconds that most runs do not
    need."""

    def __init__(self, door: MeasureDoor, actor: str) -> None:
        self._door, self._actor = door, actor

    async def run(self, ask: trials.Ask, measure: Measure, tell: Tell, at_once: int) -> None:
        tuning = await asyncio.to_thread(importlib.import_module, _TUNING)
        runner: TrialRunner = tuning.TuneTrials(self._door, tuning.Called(self._actor, NAMESPACE))
        await runner.run(ask, measure, tell, at_once)


class OptimizerProcess:
    """The parts of one process, and their life; and what its candidates and trials call."""

    def __init__(self, name: str) -> None:
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
        self._door, self._measurements = CallDoor(), MeasureDoor()
        self._driver = RunDriver(
            Process(
                database=database,
                clock=clock,
                models=RoutedModels(calling, self._spool),
                registry=registry(),
                threads=threads,
                allowed_packages=packages,
                pool=_pools(settings.optimization),
                door=self._door,
                name=name,
                trials=TunedTrials(self._measurements, name),
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

    async def complete(self, ask: str) -> str:
        return packed(await self._door.complete(Ask.model_validate(unpacked(ask))))

    async def embed(self, ask: str) -> str:
        return packed(await self._door.embed(AskVectors.model_validate(unpacked(ask))))

    async def measure(self, number: int) -> dict[str, float | str]:
        from dspex_ray.optimization.tuning import answered

        return await answered(self._measurements, number)

    async def _rotate(self) -> None:
        """Hand full or old segments to the drainer."""
        while True:
            await asyncio.sleep(self._rotate_s)
            self._spool.rotate()


def _pools(settings: OptimizationSettings) -> Callable[[Limits], CandidatePool]:
    def pool(limits: Limits) -> CandidatePool:
        actors = limits.actors or settings.actors
        return WorkPool(CANDIDATES_BUILD, CANDIDATES, actors=actors, per_actor=limits.threads)

    return pool


def optimizer(name: str) -> OptimizerProcess:
    """Of the run actor of that name."""
    return OptimizerProcess(name)
