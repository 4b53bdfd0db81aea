"""Carries a run out: one attempt of it, in one process, from its claim to what it found.

Free of Ray: `apps/optimizer.py` gives it the parts of a process that calls models.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import structlog

from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import Conflict, DspexRayError
from dspex_ray.core.ids import OptimizationId
from dspex_ray.datasets.model import Example
from dspex_ray.datasets.rules import split_fingerprint
from dspex_ray.datasets.store import examples_at, hashes
from dspex_ray.db.engine import Database, Read
from dspex_ray.evaluation.batches import Batches
from dspex_ray.evaluation.metrics import resolve_metric
from dspex_ray.evaluation.targets import artifact_target, find_dataset_version, find_version
from dspex_ray.evaluation.work import Target
from dspex_ray.jobs.retry import is_infrastructure
from dspex_ray.models.model import Model
from dspex_ray.models.tokenizers import estimated_tokens
from dspex_ray.optimization import store
from dspex_ray.optimization.budget import Amount, Ledger
from dspex_ray.optimization.endings import RunEndings
from dspex_ray.optimization.memory import Calls, PostgresAnswers, remembered
from dspex_ray.optimization.metering import ModelsMeter, metered
from dspex_ray.optimization.model import Candidate, Outcome, Problem, Trial
from dspex_ray.optimization.registry import Registry
from dspex_ray.optimization.run_rules import at_least, parts_by_name
from dspex_ray.optimization.runs import DEV, TRAIN, OptimizationRun, RunStatus, RunTrial
from dspex_ray.optimization.workbench import Workbench, local_workbench
from dspex_ray.routing.sink import Sink

log = structlog.get_logger()
_LOOK_S = 1.0
_END_WITHIN_S = 20.0  #: of being stopped: what then still runs ends with the process


class Models(Protocol):
    """How this process calls models: `dspy.LM`s with engines of their own, not metered yet."""

    def program_lm(self, target: Target) -> Any:
        """Answers by the target's assignments."""
        ...

    def model_lm(self, target: Target, model: str) -> Any:
        """Answers by this registered model alone. Raises NotFound."""
        ...

    def of(self, target: Target, model: str | None = None) -> Sequence[Model]:
        """Those that may answer the target, or the one named. Raises NotFound."""
        ...

    async def embed(self, target: Target, model: str, texts: list[str]) -> list[list[float]]: ...

    def sink(self, run: OptimizationRun, target: Target) -> Sink:
        """Where the records of the run's calls go."""
        ...


class Loaded(NamedTuple):
    """What a run is about, as it was asked for."""

    run: OptimizationRun
    target: Target
    problem: Problem


@dataclass(frozen=True)
class Process:
    """The parts of the process that drives."""

    database: Database
    clock: Clock
    models: Models
    registry: Registry
    threads: Executor
    allowed_packages: tuple[str, ...]


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
        metric = await asyncio.to_thread(resolve_metric, run.metric, allowed_packages=allowed)
        async with self._database.read() as conn:
            reference = f"{run.program}@{run.version}"
            program, version = await find_version(conn, run.project_id, reference)
            now = self._clock.now()
            target = await artifact_target(
                conn, program, version.artifact, model=run.model, now=now
            )
            train, dev = await _examples(conn, run)
        problem = Problem(
            artifact=version.artifact,
            train=tuple(train),
            dev=tuple(dev),
            metric=metric,
            seed=run.seed,
            budget=run.budget,
            limits=run.limits,
            allowed_packages=allowed,
        )
        return Loaded(run, target, problem)

    # --- the work ------------------------------------------------------------------------------

    async def _optimize(self, loaded: Loaded) -> Outcome | None:
        """None when the attempt was stopped before it came to anything."""
        run = loaded.run
        answers = PostgresAnswers(self._database, self._clock, run)
        trials = Batches[RunTrial](self._put_trials(run))
        async with self._database.read() as conn:
            before = at_least(run.spent, await store.paid(conn, run.id))
        paid = Ledger(run.budget, self._clock, before)
        attempt = _Attempt(self._process, loaded, answers, paid, trials)
        try:
            return await self._watched(run, attempt)
        finally:
            await asyncio.sleep(0)  # trials that threads have handed over
            await asyncio.shield(asyncio.gather(trials.close(), answers.close()))
            await self._beat(run, attempt)

    async def _watched(self, run: OptimizationRun, attempt: _Attempt) -> Outcome | None:
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

    async def _until_stopped(self, run: OptimizationRun, attempt: _Attempt) -> None:
        """Says every second that it is alive; returns when it is no longer wanted."""
        while True:
            if await self._beat(run, attempt) is not RunStatus.RUNNING:
                return
            await asyncio.sleep(_LOOK_S)

    async def _beat(self, run: OptimizationRun, attempt: _Attempt) -> RunStatus | None:
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


class _Attempt:
    """The workbench of one attempt, and the optimizer on it.

    Two ledgers: one tells the optimizer what it has spent from its start on, replayed answers
    too, so that it decides as it did before; `paid` knows what was really paid, and refuses what
    would pass the budget.
    """

    def __init__(
        self,
        process: Process,
        loaded: Loaded,
        answers: PostgresAnswers,
        paid: Ledger,
        trials: Batches[RunTrial],
    ) -> None:
        self._process, self._loaded, self._trials = process, loaded, trials
        self.paid = paid
        run, target = loaded.run, loaded.target
        self._loop = asyncio.get_running_loop()
        self._calls = Calls(
            answers,
            process.clock,
            process.models.sink(run, target),
            self._loop,
            timeout_s=run.call_timeout_s,
            capture_content=target.program.capture.mode != "none",
        )
        self._judges: dict[str, Any] = {}
        self._bench = self._workbench()

    async def work(self) -> Outcome:
        run = self._loaded.run
        return await self._process.registry.optimize(
            run.optimizer, self._problem, self._bench, run.parameters
        )

    def stop(self, reason: str) -> None:
        """No further call is made, and what is under way ends."""
        self._bench.ledger.cancel(reason)
        self.paid.cancel(reason)
        self._calls.stop(reason)

    def _workbench(self) -> Workbench:
        run, target, models = self._loaded.run, self._loaded.target, self._process.models
        lm, meter = self._remembered(models.program_lm(target), "program", None)
        prompt_lm, prompt_meter = None, None
        if run.prompt_model is not None:
            prompts = models.model_lm(target, run.prompt_model)
            prompt_lm, prompt_meter = self._remembered(prompts, "prompts", run.prompt_model)
        scoring = _Scoring(self, frozenset(target.inputs), self._process.threads)
        self._problem = replace(self._loaded.problem, metric_context=scoring)
        return local_workbench(
            self._problem,
            lm,
            prompt_lm=prompt_lm,
            meter=meter,
            prompt_meter=prompt_meter,
            on_trial=self._tried,
            clock=self._process.clock,
        )

    def judge(self, model: str) -> Any:
        """The LM of a metric that asks one: metered and remembered as the program's."""
        if model not in self._judges:
            lm = self._process.models.model_lm(self._loaded.target, model)
            made, meter = self._remembered(lm, f"metric {model}", model)
            self._judges[model] = metered(made, self._bench.ledger, meter)
        return self._judges[model]

    async def embed(self, model: str, texts: list[str]) -> list[list[float]]:
        """A call of the budget, at its estimate; paid for anew by an attempt that starts again."""
        (found,) = self._process.models.of(self._loaded.target, model)
        tokens = sum(estimated_tokens(len(text.encode())) for text in texts)
        price = found.price.prompt_usd_per_token
        amount = Amount(tokens, None if price is None else tokens * price)
        held = await self.paid.areserve(amount)
        try:
            return await self._process.models.embed(self._loaded.target, model, texts)
        finally:
            held.settle(amount)

    def _remembered(self, lm: Any, name: str, model: str | None) -> tuple[Any, ModelsMeter]:
        meter = ModelsMeter(self._process.models.of(self._loaded.target, model))
        return remembered(metered(lm, self.paid, meter), name, self._calls, meter), meter

    def _tried(self, trial: Trial, candidate: Candidate) -> None:
        """In whatever thread reported it."""
        measured_on = {example.hash for example in self._problem.selection}
        standing = candidate.mean_on(measured_on)
        row = RunTrial(
            **trial.model_dump(exclude={"complete"}),
            standing=trial.score if standing is None and trial.complete else standing,
            parents=candidate.parents,
            facts=candidate.facts,
            at=self._process.clock.now(),
        )
        self._loop.call_soon_threadsafe(self._trials.put, row)


@dataclass(frozen=True)
class _Scoring:
    """`evaluation.metrics.MetricContext`."""

    attempt: _Attempt
    inputs: frozenset[str]
    threads: Executor

    def lm(self, model: str) -> Any:
        return self.attempt.judge(model)

    async def embed(self, model: str, texts: list[str]) -> list[list[float]]:
        return await self.attempt.embed(model, texts)


async def _examples(conn: Read, run: OptimizationRun) -> tuple[list[Example], list[Example]]:
    """Train and dev, each in its order."""
    reference = f"{run.dataset}@{run.dataset_version}"
    _, version = await find_dataset_version(conn, run.project_id, reference)
    found = await hashes(conn, version.id)
    parts = parts_by_name(found, run.examples)
    if split_fingerprint(found, parts) != run.fingerprint:
        raise Conflict(f"dataset {reference!r} is no longer the one that was asked for")
    train = await examples_at(conn, version.id, parts[TRAIN])
    return train, await examples_at(conn, version.id, parts[DEV]) if parts[DEV] else []
