"""Where candidates run and are judged: an actor of the run's pool, which calls no model itself."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from dspex_ray.core.canonical import content_hash
from dspex_ray.core.ids import NewId, new_id
from dspex_ray.core.noun import Noun
from dspex_ray.core.values import Usd
from dspex_ray.datasets.model import Example
from dspex_ray.evaluation.metrics import Metric, resolve_metric
from dspex_ray.evaluation.model import MetricSpec
from dspex_ray.optimization.budget import RunHalted
from dspex_ray.optimization.evaluator import run_scored
from dspex_ray.optimization.forwarding import (
    CameBack,
    Forwarded,
    applied,
    run_forward,
    with_lms,
)
from dspex_ray.optimization.model import Problem, Score
from dspex_ray.optimization.remote import Caller, Line, LmLooks, RemoteScoring, remote_lm
from dspex_ray.optimization.wire import Halt, halt_of
from dspex_ray.programs.artifacts import load_artifact
from dspex_ray.programs.runtime import LoadedProgram, load_program

_THREADS = 512
_STUDENTS = 32


class CandidateWork(Noun):
    """A candidate: the same for all its runs. `id` is a hash of all that is here; `run_actor` is
    where its LM calls go. The first metric is the one that it is chosen by."""

    id: str
    run_actor: str
    artifact: dict[str, Any]
    looks: LmLooks
    metrics: tuple[MetricSpec, ...]


class RunItem(Noun):
    """One run: of the candidate on an example, which is judged; or of a student that an optimizer
    of DSPy's made of it, which is traced. `run` is its token: the same when it is repeated."""

    run: str
    example: Example | None = None
    forward: Forwarded | None = None


class RunResult(Noun):
    """As `Score`; what a student's forward came to; or what ended the whole optimization."""

    value: float = 0.0
    outputs: dict[str, Any] = {}
    error: str | None = None
    latency_ms: float | None = None
    cost_usd: Usd | None = None
    tokens: int = 0
    lm_calls: int = 0
    others: dict[str, float] = {}
    forwarded: CameBack | None = None
    halt: Halt | None = None

    @property
    def score(self) -> Score:
        return Score(**self.model_dump(exclude={"halt", "forwarded"}))


@dataclass(frozen=True)
class _Loaded:
    work: CandidateWork
    program: LoadedProgram
    problem: Problem


class Candidates:
    """`evaluation.actors.Hand`. `line_to` reaches the run actor of that name."""

    work, item = CandidateWork, RunItem

    def __init__(
        self,
        line_to: Callable[[str], Line],
        *,
        allowed_packages: tuple[str, ...],
        threads: Executor | None = None,
        ids: NewId = new_id,
    ) -> None:
        self._line_to, self._allowed, self._ids = line_to, allowed_packages, ids
        self._threads = threads or ThreadPoolExecutor(_THREADS, "dspex-candidate")
        self._loaded: dict[str, _Loaded] = {}
        self._students: OrderedDict[str, LoadedProgram] = OrderedDict()

    async def start(self) -> None:
        """There is nothing to wait for."""

    async def stop(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def load(self, work: CandidateWork) -> None:
        """Raises Invalid for what cannot be built here."""
        self._loaded[work.id] = await asyncio.to_thread(self._built, work)

    def unload(self, work_id: str) -> None:
        self._loaded.pop(work_id, None)

    async def evaluate(self, work_id: str, item: RunItem) -> RunResult:
        loaded = self._loaded[work_id]
        work = loaded.work
        caller = Caller(
            self._line_to(work.run_actor),
            asyncio.get_running_loop(),
            item.run,
            str(self._ids()),
        )
        try:
            if item.forward is not None:
                return RunResult(forwarded=await self._forward(loaded, item.forward, caller))
            assert item.example is not None
            score = await self._judged(loaded, item.example, caller)
        except RunHalted as halt:
            return RunResult(halt=halt_of(halt))
        return RunResult(**score._asdict())

    async def _judged(self, loaded: _Loaded, example: Example, caller: Caller) -> Score:
        looks, program = loaded.work.looks, loaded.program
        lm = remote_lm(looks, caller, models=program.artifact.models)
        inputs = frozenset(field.name for field in program.signature.inputs)
        scoring = RemoteScoring(caller, looks, inputs, self._threads)
        problem = replace(loaded.problem, metric_context=scoring)
        return await run_scored(program, problem, example, lm, self._threads)

    async def _forward(self, loaded: _Loaded, forward: Forwarded, caller: Caller) -> CameBack:
        program = await self._student(loaded, forward)
        looks, models = loaded.work.looks, loaded.program.artifact.models

        def lm(parameters: dict[str, Any]) -> Any:
            return remote_lm(looks.model_copy(update={"kwargs": parameters}), caller, models=models)

        own = {name: lm(part.lm) for name, part in forward.state.items() if part.lm is not None}
        if own:
            program = with_lms(program, own)
        return await run_forward(program, forward.inputs, lm(forward.lm), self._threads)

    async def _student(self, loaded: _Loaded, forward: Forwarded) -> LoadedProgram:
        """One a state, of those of late."""
        parts = forward.model_dump(include={"state"}, exclude={"state": {"__all__": {"lm"}}})
        key = content_hash([loaded.work.id, parts])
        program = self._students.pop(key, None)
        if program is None:
            program = await asyncio.to_thread(
                load_program, loaded.program.artifact, allowed_packages=self._allowed
            )
            applied(program, forward.state)
        self._students[key] = program
        while len(self._students) > _STUDENTS:
            self._students.popitem(last=False)
        return program

    def _built(self, work: CandidateWork) -> _Loaded:
        artifact = load_artifact(work.artifact)
        metric, *others = self._metrics(work.metrics)
        program = load_program(artifact, allowed_packages=self._allowed)
        problem = Problem(artifact=artifact, train=(), metric=metric, others=tuple(others))
        return _Loaded(work, program, problem)

    def _metrics(self, specs: Sequence[MetricSpec]) -> list[Metric]:
        return [resolve_metric(spec, allowed_packages=self._allowed) for spec in specs]
