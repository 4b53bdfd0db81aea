"""Examples run as requests are: their calls routed here, their executions recorded, their answers
scored. `apps/evaluator.py` puts it into the actors of the evaluation pool."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import Conflict, DeadlineExceeded, DspexRayError
from dspex_ray.core.ids import ExecutionId, NewId, new_id
from dspex_ray.evaluation.metrics import Metric, resolve_metric
from dspex_ray.evaluation.model import ExampleResult
from dspex_ray.evaluation.rules import item_seed
from dspex_ray.evaluation.runner import Outcome, evaluate_example, example_error
from dspex_ray.evaluation.work import Item, Work, pinned
from dspex_ray.programs.runtime import LoadedProgram, run_program
from dspex_ray.routing.engine import Assigned
from dspex_ray.routing.model import LmCall
from dspex_ray.routing.scope import RequestScope, request_scope
from dspex_ray.serving import candidates
from dspex_ray.serving.executor import Executor
from dspex_ray.serving.request import waiting_ms
from dspex_ray.serving.runner import of_the_program
from dspex_ray.serving.scoring import Calling, Scoring, spent_by
from dspex_ray.traces.capture import captured
from dspex_ray.traces.model import ExecutionRecord, ExecutionStatus
from dspex_ray.traces.spool import SpoolWriter

_SAME_WITHIN_S = 10.0
_LOOK_S = 0.1
_GRACE_S = 0.25  # the router keeps the deadline; this is for all the rest


@dataclass(frozen=True)
class _Artifact:
    """What `Executor` builds from."""

    hash: str
    artifact: dict[str, Any]


@dataclass
class _Loaded:
    """Work that this process knows. `checked`: the configuration whose models are its own."""

    work: Work
    program: LoadedProgram
    lm: Any
    metrics: Sequence[Metric]
    checked: int = 0


class Examples:
    """The work of `evaluation.actors.Hand` on the parts of a process that calls models."""

    def __init__(
        self,
        calling: Calling,
        executor: Executor,
        spool: SpoolWriter,
        *,
        allowed_packages: tuple[str, ...],
        ids: NewId = new_id,
    ) -> None:
        self._calling = calling
        self._clock = calling.clock
        self._executor = executor
        self._spool = spool
        self._allowed = allowed_packages
        self._ids = ids
        self._works: dict[str, _Loaded] = {}

    async def load(self, work: Work) -> None:
        """Raises Invalid for what cannot be built here, Conflict when this process does not get
        to see the models that the work is made for."""
        target = work.target
        program = await self._executor.program(_Artifact(target.hash, target.artifact))
        metrics = await asyncio.to_thread(
            lambda: [resolve_metric(s, allowed_packages=self._allowed) for s in work.metrics]
        )

        routes = target.routes

        def assigned() -> Assigned:
            return candidates.assigned(self._calling.configuration, routes)

        lm = self._calling.lm(target.program.name, assigned)
        loaded = _Loaded(work, program, lm, metrics)
        await self._same_models(loaded, _SAME_WITHIN_S)
        self._works[str(work.id)] = loaded

    def unload(self, work_id: str) -> None:
        self._works.pop(work_id, None)

    async def evaluate(self, work_id: str, item: Item) -> ExampleResult:
        """Raises Conflict when a model has changed since the work was made up."""
        loaded = self._works[work_id]
        await self._same_models(loaded, 0)
        scoring = Scoring(self._calling, loaded.work)

        async def predict(item: Item) -> Outcome:
            return await self._predict(loaded, item)

        try:
            with request_scope(scoring.scope):
                return await evaluate_example(
                    item,
                    predict,
                    loaded.metrics,
                    scoring,
                    self._clock,
                    timeout_s=loaded.work.timeout_s,
                )
        finally:
            scoring.scope.cancel()  # what a metric that ran out of time still waits for
            self._record_scoring(loaded.work, item, scoring)

    # --- one run -------------------------------------------------------------------------------

    async def _predict(self, loaded: _Loaded, item: Item) -> Outcome:
        target, values = loaded.work.target, item.example.values
        run = _Run(self._ids, self._clock, {n: values[n] for n in target.inputs if n in values})
        scope = RequestScope(
            deadline=run.started + loaded.work.timeout_s,
            sink=run,
            inputs=run.inputs,
            capture_content=target.program.capture.mode != "none",
            rng=random.Random(item_seed(loaded.work.seed, item.example.hash, item.repeat)),  # noqa: S311
        )
        try:
            async with asyncio.timeout(loaded.work.timeout_s + _GRACE_S) as timer:
                with request_scope(scope):
                    run.outputs = await run_program(
                        loaded.program, run.inputs, lm=loaded.lm, threads=self._calling.threads
                    )
        except asyncio.CancelledError:
            scope.cancel()
            self._record(loaded.work, item, run, cancelled=True)
            raise
        except Exception as error:
            scope.cancel()
            run.error = _ours(error, timer)
        record = self._record(loaded.work, item, run)
        made = spent_by(run.calls)
        return Outcome(
            outputs=run.outputs,
            error=None if run.error is None else example_error(run.error),
            latency_ms=record.duration_ms,
            cost_usd=made.cost_usd,
            prompt_tokens=made.prompt_tokens,
            completion_tokens=made.completion_tokens,
            execution_id=record.id,
        )

    def _record(
        self, work: Work, item: Item, run: _Run, *, cancelled: bool = False
    ) -> ExecutionRecord:
        """Into the spool, its content as the program's policy says."""
        target = work.target
        duration_ms = (self._clock.monotonic() - run.started) * 1000
        failed = None if run.error is None else run.error
        status = ExecutionStatus.COMPLETED if failed is None else ExecutionStatus.FAILED
        record = ExecutionRecord(
            id=run.id,
            project_id=target.program.project_id,
            source=work.source,
            status=ExecutionStatus.CANCELLED if cancelled else status,
            program_id=target.program.id,
            program=target.program.name,
            version_id=target.version_id,
            version=target.version,
            endpoint="evaluation",
            started_at=run.started_at,
            duration_ms=duration_ms,
            overhead_ms=max(0.0, duration_ms - waiting_ms(run.calls)),
            error_code="cancelled" if cancelled else None if failed is None else failed.code,
            error_message=None if failed is None else failed.message[:500],
            rollout=str(work.id),
            step=item.example.number,
            seed=work.seed,
            lm_calls=tuple(run.calls),
            inputs=run.inputs,
            outputs=run.outputs,
        )
        self._spool.append(captured(record, target.program.capture))
        return record

    def _record_scoring(self, work: Work, item: Item, scoring: Scoring) -> None:
        """The calls of its metrics: an execution of no program, which the usage counts."""
        calls = scoring.calls
        if not calls:
            return
        now = self._clock.monotonic()
        program = work.target.program
        record = ExecutionRecord(
            id=ExecutionId(self._ids()),
            project_id=program.project_id,
            source=work.source,
            status=ExecutionStatus.COMPLETED,
            endpoint="metrics",
            started_at=calls[0].started_at,
            duration_ms=(now - scoring.started) * 1000,
            rollout=str(work.id),
            step=item.example.number,
            seed=work.seed,
            tags={"program": program.name},
            lm_calls=tuple(calls),
        )
        self._spool.append(captured(record, program.capture))

    # --- the models that the work is made for --------------------------------------------------

    async def _same_models(self, loaded: _Loaded, within_s: float) -> None:
        """Returns when this process's configuration has the models that the work pins."""
        until = self._clock.monotonic() + within_s
        while (other := self._other_model(loaded)) is not None:
            if self._clock.monotonic() >= until:
                raise Conflict(
                    f"model {other!r} has changed since this was asked for: its results would "
                    "not be of one model"
                )
            await asyncio.sleep(_LOOK_S)

    def _other_model(self, loaded: _Loaded) -> str | None:
        snapshot = self._calling.configuration.snapshot
        if loaded.checked == snapshot.version:
            return None
        wanted = (*loaded.work.target.models, *loaded.work.metric_models)
        for one in wanted:
            model = snapshot.models.get(one.id)
            if model is None or pinned(model).fingerprint != one.fingerprint:
                return one.name
        loaded.checked = snapshot.version
        return None


@dataclass
class _Run:
    """One run of the program, and the sink of its LM calls."""

    ids: NewId
    clock: Clock
    inputs: dict[str, Any]
    outputs: dict[str, Any] | None = None
    error: DspexRayError | None = None
    calls: list[LmCall] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.id = ExecutionId(self.ids())
        self.started_at = self.clock.now()
        self.started = self.clock.monotonic()

    def lm_call(self, call: LmCall) -> None:
        self.calls.append(call)


def _ours(error: Exception, timer: asyncio.Timeout) -> DspexRayError:
    if isinstance(error, DspexRayError):
        return error
    if isinstance(error, TimeoutError) and timer.expired():
        return DeadlineExceeded("the example ran out of time")
    return of_the_program(error)
