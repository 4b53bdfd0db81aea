"""One attempt of a run: its workbench, the pool that its candidates run in, the optimizer on them.

Free of Ray: `apps/optimizer.py` gives it the parts of a process that calls models.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from dspex_ray.core.canonical import canonical_json
from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import NotFound
from dspex_ray.datasets.model import Example
from dspex_ray.db.engine import Database
from dspex_ray.evaluation.batches import Batches
from dspex_ray.evaluation.work import Target
from dspex_ray.models.model import Model
from dspex_ray.models.tokenizers import estimated_tokens
from dspex_ray.optimization.budget import Amount, Ledger
from dspex_ray.optimization.door import CallDoor
from dspex_ray.optimization.evaluator import LocalEvaluator
from dspex_ray.optimization.memory import (
    Calls,
    PostgresAnswers,
    Vectors,
    remembered,
    remembered_vectors,
)
from dspex_ray.optimization.metering import ModelsMeter, metered
from dspex_ray.optimization.model import Candidate, Limits, Outcome, Problem, Spent, Trial
from dspex_ray.optimization.pool import CandidatePool, PoolEvaluator
from dspex_ray.optimization.registry import Registry
from dspex_ray.optimization.remeasure import remeasured
from dspex_ray.optimization.remote import looks_of
from dspex_ray.optimization.run_rules import chosen
from dspex_ray.optimization.runs import OptimizationRun, RunTrial
from dspex_ray.optimization.trials import LocalTrials, TrialRunner
from dspex_ray.optimization.workbench import Workbench, local_workbench
from dspex_ray.programs.model import Artifact
from dspex_ray.routing.sink import Sink


class Models(Protocol):
    """How this process calls models: `dspy.LM`s with engines of their own, not metered yet."""

    def program_lm(self, target: Target, pins: Mapping[str, str]) -> Any:
        """Answers by the target's assignments, under an artifact's pins."""
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
    """What a run is about, as it was asked for. `test` is not the optimizer's to see, and
    `problem.budget` what the search may spend of the run's."""

    run: OptimizationRun
    target: Target
    problem: Problem
    test: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Process:
    """The parts of the process that drives. Without a `pool`, candidates run in it; with one, their
    calls come through `door`, which they find under `name`."""

    database: Database
    clock: Clock
    models: Models
    registry: Registry
    threads: Executor
    allowed_packages: tuple[str, ...]
    pool: Callable[[Limits], CandidatePool] | None = None
    door: CallDoor = field(default_factory=CallDoor)
    name: str = ""
    trials: TrialRunner = field(default_factory=LocalTrials)


class Attempt:
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
        self._lms: dict[str, Any] = {}  # metered, by name
        self._pool = None if process.pool is None else process.pool(run.limits)
        self._bench = self._workbench(loaded.problem)

    async def work(self) -> Outcome:
        run = self._loaded.run
        with self._process.door.opened(self):
            async with self._pool_at_work():
                outcome = await self._process.registry.optimize(
                    run.optimizer, self._problem, self._bench, run.parameters
                )
                return await self._held_out(outcome) if self._loaded.test else outcome

    def stop(self, reason: str) -> None:
        """No further call is made, and what is under way ends."""
        self._bench.ledger.cancel(reason)
        self.paid.cancel(reason)
        self._calls.stop(reason)

    async def _held_out(self, outcome: Outcome) -> Outcome:
        """By the whole budget, on a workbench of its own: threads that an optimizer left behind
        are not to spend what was kept for this."""
        run, problem = self._loaded.run, self._loaded.problem
        whole = replace(problem, budget=run.budget)
        self._bench = self._workbench(whole, already=outcome.spent)
        versions = chosen(outcome, problem, run.register_best)
        return await remeasured(outcome, versions, whole, self._loaded.test, self._bench)

    @asynccontextmanager
    async def _pool_at_work(self) -> AsyncIterator[None]:
        """Its actors start while the optimizer prepares."""
        if self._pool is None:
            yield
            return
        starting = asyncio.create_task(self._pool.start())
        try:
            yield
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await self._pool.close()

    # --- the workbench -------------------------------------------------------------------------

    def _workbench(self, problem: Problem, already: Spent | None = None) -> Workbench:
        run, target, models = self._loaded.run, self._loaded.target, self._process.models
        self._lms = {}
        lm, meter = self._program(self._pins(problem.artifact.models))
        prompt_lm, prompt_meter = None, None
        if run.prompt_model is not None:
            prompts = models.model_lm(target, run.prompt_model)
            prompt_meter = ModelsMeter(models.of(target, run.prompt_model))
            prompt_lm = self._remembered(prompts, "prompts", prompt_meter)
        scoring = _Scoring(self, frozenset(target.inputs), self._process.threads)
        self._problem = replace(problem, metric_context=scoring)
        bench = local_workbench(
            self._problem,
            lm,
            prompt_lm=prompt_lm,
            meter=meter,
            prompt_meter=prompt_meter,
            embed=None if run.embedding_model is None else self._embed,
            on_trial=self._tried,
            clock=self._process.clock,
            already=already,
        )
        bench = replace(bench, trials=self._process.trials)
        if self._pool is None:
            local = LocalEvaluator(self._problem, bench.lm, lm_of=self._lm_of)
            return replace(bench, evaluator=local)
        pooled = PoolEvaluator(
            self._problem,
            self._pool,
            self._process.door,
            run_actor=self._process.name,
            looks=looks_of(bench.lm),
            metrics=(run.metric, *run.metrics),
        )
        forward = pooled.forward_of(problem.artifact, bench.lm)
        return replace(bench, evaluator=pooled, forward=forward)

    # --- LMs -----------------------------------------------------------------------------------

    def engine(self, judge: str | None, models: Mapping[str, str]) -> Any:
        """`door.Serving`."""
        lm = self.judge(judge) if judge is not None else self._program_lm(self._pins(models))
        return lm._async_engine_spec

    def judge(self, model: str) -> Any:
        """The LM of a metric that asks one: metered and remembered as the program's."""
        name = f"metric {model}"
        if name not in self._lms:
            lm = self._process.models.model_lm(self._loaded.target, model)
            meter = ModelsMeter(self._process.models.of(self._loaded.target, model))
            made = self._remembered(lm, name, meter)
            self._lms[name] = metered(made, self._bench.ledger, meter)
        return self._lms[name]

    async def embed(self, model: str, texts: list[str]) -> list[list[float]]:
        """A call of the budget, at its estimate; remembered as the others are. In both ledgers, as
        an LM's: a search that did not count it would spend what is kept for held-out examples."""
        (found,) = self._process.models.of(self._loaded.target, model)
        tokens = sum(estimated_tokens(len(text.encode())) for text in texts)
        price = found.price.prompt_usd_per_token
        amount = Amount(tokens, None if price is None else tokens * price)

        async def made() -> tuple[Vectors, Amount]:
            async with _reserved(self.paid, amount):
                target = self._loaded.target
                return await self._process.models.embed(target, model, texts), amount

        async with _reserved(self._bench.ledger, amount):
            return await remembered_vectors(f"embed {model}", texts, self._calls, made)

    async def _embed(self, texts: Sequence[str]) -> Vectors:
        model = self._loaded.run.embedding_model
        assert model is not None
        return await self.embed(model, list(texts))

    def _lm_of(self, artifact: Artifact) -> Any:
        return self._program_lm(self._pins(artifact.models))

    def _pins(self, models: Mapping[str, str]) -> Mapping[str, str]:
        """None when the run asks for a model of its own."""
        return models if self._loaded.run.model is None else {}

    def _program_lm(self, pins: Mapping[str, str]) -> Any:
        """Of candidates with these pins."""
        if pins == self._pins(self._problem.artifact.models):
            return self._bench.lm
        name = _program(pins)
        if name not in self._lms:
            lm, meter = self._program(pins)
            self._lms[name] = metered(lm, self._bench.ledger, meter)
        return self._lms[name]

    def _program(self, pins: Mapping[str, str]) -> tuple[Any, ModelsMeter]:
        """Remembered under a name of its own, as it comes to other models."""
        models, target = self._process.models, self._loaded.target
        meter = ModelsMeter(self._may_answer(pins))
        return self._remembered(models.program_lm(target, pins), _program(pins), meter), meter

    def _may_answer(self, pins: Mapping[str, str]) -> list[Model]:
        """A pinned model that is gone is as if it were not named."""
        found = list(self._process.models.of(self._loaded.target))
        for name in sorted(set(pins.values())):
            with suppress(NotFound):
                found += self._process.models.of(self._loaded.target, name)
        return list({model.id: model for model in found}.values())

    def _remembered(self, lm: Any, name: str, meter: ModelsMeter) -> Any:
        return remembered(metered(lm, self.paid, meter), name, self._calls)

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


@asynccontextmanager
async def _reserved(ledger: Ledger, amount: Amount) -> AsyncIterator[None]:
    """A call that comes to what it is estimated to."""
    held = await ledger.areserve(amount)
    try:
        yield
    finally:
        held.settle(amount)


@dataclass(frozen=True)
class _Scoring:
    """`evaluation.metrics.MetricContext`."""

    attempt: Attempt
    inputs: frozenset[str]
    threads: Executor

    def lm(self, model: str) -> Any:
        return self.attempt.judge(model)

    async def embed(self, model: str, texts: list[str]) -> list[list[float]]:
        return await self.attempt.embed(model, texts)


def _program(pins: Mapping[str, str]) -> str:
    return f"program {canonical_json(dict(pins)).decode()}" if pins else "program"
