"""Examples, work and doubles that the tests of evaluation share."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

from dspex_ray.core.canonical import content_hash
from dspex_ray.core.ids import DEFAULT_PROJECT, AssignmentId, ModelId, ProgramId, uuid7
from dspex_ray.datasets.model import Example
from dspex_ray.evaluation.actors import ActorLost
from dspex_ray.evaluation.model import ExampleError, ExampleResult, MetricSpec
from dspex_ray.evaluation.post import CameOf, Sent, UnderWay
from dspex_ray.evaluation.rules import item_seed
from dspex_ray.evaluation.work import Item, PinnedModel, Target, Work
from dspex_ray.programs.artifacts import artifact_hash, artifact_payload
from dspex_ray.programs.model import Program, ProgramSource
from dspex_ray.programs.source import resolve_source
from dspex_ray.routing.model import ProgramModel, RoutingStrategy
from dspex_ray.testing.fake_clock import NOON
from dspex_ray.traces.model import Source

PROGRAM = Program(
    id=ProgramId(uuid7(1, 1)),
    project_id=DEFAULT_PROJECT,
    name="p",
    created_at=NOON,
    updated_at=NOON,
)
COLD = {"config": {"temperature": 0}}


def example(number: int, **values: Any) -> Example:
    values = values or {"question": f"q{number}", "answer": f"a{number}"}
    return Example(hash=content_hash(values), values=values, number=number)


def examples(count: int) -> list[Example]:
    return [example(number) for number in range(count)]


def a_model(name: str = "m", **fields: Any) -> PinnedModel:
    number = sum(name.encode())
    identifier = ModelId(uuid7(2, number))
    return PinnedModel(
        **{"id": identifier, "name": name, "fingerprint": name, "temperature": None} | fields
    )


def an_assignment(model: PinnedModel, **fields: Any) -> ProgramModel:
    given = {
        "id": AssignmentId(uuid7(3, 1)),
        "project_id": DEFAULT_PROJECT,
        "program_id": PROGRAM.id,
        "model_id": model.id,
        "model_name": model.name,
        "created_at": NOON,
        "updated_at": NOON,
    }
    return ProgramModel(**given | fields)


def a_target(
    *models: PinnedModel,
    module: Mapping[str, Any] = COLD,
    strategy: RoutingStrategy = RoutingStrategy.PRIMARY,
    signature: str = "question -> answer",
    pins: Mapping[str, PinnedModel] | None = None,
) -> Target:
    """`pins` by predictor, as an artifact's models; the others are assigned."""
    pins = pins or {}
    source = ProgramSource(
        module={"type": "predict", "signature": signature, **module},
        models={predictor: model.name for predictor, model in pins.items()},
    )
    artifact = resolve_source(source, allowed_packages=())
    chosen = models or (a_model(),)
    return Target(
        program=PROGRAM,
        artifact=artifact_payload(artifact),
        hash=artifact_hash(artifact),
        assignments=tuple(an_assignment(m, routing_strategy=strategy) for m in chosen),
        pins=tuple(
            an_assignment(model, predictor=predictor or None, id=AssignmentId(uuid7(3, 2)))
            for predictor, model in pins.items()
        ),
        models=(*pins.values(), *chosen),
    )


def a_work(number: int = 1, **fields: Any) -> Work:
    given = {"target": a_target(), "metrics": (MetricSpec(metric="exact_match"),)} | fields
    return Work(id=uuid7(4, number), source=Source.EVALUATION, **given)


def a_result(number: int = 0, score: float = 1.0, **fields: Any) -> ExampleResult:
    given = {
        "number": number,
        "example_hash": f"h{number}",
        "scores": {"exact_match": score},
        "latency_ms": 10.0 * (number + 1),
        "cost_usd": Decimal("0.01"),
        "prompt_tokens": 3,
        "completion_tokens": 1,
    }
    return ExampleResult(**given | fields)


FAILED = ExampleError(code="output_invalid", message="Missing outputs: answer")


class FakePool:
    """`harness.Pool`: each example takes its own time, scores by its seed, and may fail.

    `evaluated` counts how often each was run; `unfinished` those that were begun and cancelled.
    """

    def __init__(
        self,
        fails: Callable[[Item], ExampleError | None] = lambda item: None,
        wait_s: Callable[[Item], float] = lambda item: 0.0,
    ) -> None:
        self.evaluated: Counter[tuple[int, int]] = Counter()
        self.cancelled = 0
        self.loads: list[str] = []
        self._fails, self._wait_s = fails, wait_s

    @asynccontextmanager
    async def loaded(self, work: Work, at_once: int) -> AsyncIterator[None]:
        self.loads.append(f"load {work.id}")
        try:
            yield
        finally:
            self.loads.append(f"unload {work.id}")

    async def evaluate(self, work: Work, item: Item) -> ExampleResult:
        self.evaluated[item.key] += 1
        try:
            await asyncio.sleep(self._wait_s(item))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        error = self._fails(item)
        seed = item_seed(work.seed, item.example.hash, item.repeat)
        return a_result(
            item.example.number,
            0.0 if error else (seed % 1000) / 1000,
            repeat=item.repeat,
            example_hash=item.example.hash,
            errors=() if error is None else (error,),
        )


class DictCache:
    """`harness.RunCache` in memory; nothing expires."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], ExampleResult] = {}

    async def find(
        self, keys: Collection[str], metrics: Mapping[str, str]
    ) -> dict[str, ExampleResult]:
        return {
            key: self.rows[key, next(iter(metrics.values()))]
            for key in keys
            if all((key, metric) in self.rows for metric in metrics.values())
        }

    async def keep(
        self, results: Sequence[tuple[str, ExampleResult]], metrics: Mapping[str, str], ttl_s: int
    ) -> None:
        for key, result in results:
            for metric in metrics.values():
                self.rows.setdefault((key, metric), result)


class Posted:
    """An actor's double whose `evaluate` may raise ActorLost: then the actor answers no more. What
    is no Exception ends this process, as far as a test can play that."""

    def __init__(self) -> None:
        self._under_way = UnderWay(self._watched)
        self._lost = asyncio.Event()
        self._ended_by: BaseException = ActorLost()

    async def evaluate(self, work_id: str, item: str) -> str:
        raise NotImplementedError

    async def take(self, new: list[Sent], cancelled: list[int]) -> None:
        self._under_way.take(new, cancelled)

    async def fetch(self) -> list[CameOf]:
        fetching = asyncio.ensure_future(self._under_way.fetch())
        lost = asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait({fetching, lost}, return_when=asyncio.FIRST_COMPLETED)
            if self._lost.is_set():
                raise self._ended_by
            return fetching.result()
        finally:
            fetching.cancel()
            lost.cancel()

    async def _watched(self, work_id: str, item: str) -> str:
        try:
            return await self.evaluate(work_id, item)
        except BaseException as error:
            died = not isinstance(error, Exception | asyncio.CancelledError)
            if died:
                self._ended_by = error
            if died or isinstance(error, ActorLost):
                self._lost.set()
            raise
