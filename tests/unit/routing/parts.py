"""Models, candidates and leaf engines that the routing tests are made of."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from dspy import lm15

from dspex_ray.core.ids import DEFAULT_PROJECT, AssignmentId, ModelId, ProgramId
from dspex_ray.models.failure import Failure
from dspex_ray.models.model import (
    ErrorClass,
    HealthStatus,
    Model,
    ModelStats,
    ModelStatus,
    Provider,
)
from dspex_ray.routing.breaker import Breakers
from dspex_ray.routing.limits import Limits
from dspex_ray.routing.model import Conditions, LmCall, ProgramModel, RoutingStrategy
from dspex_ray.routing.router import Router
from dspex_ray.routing.rules import Candidate
from dspex_ray.routing.scope import RequestScope
from dspex_ray.settings import RoutingSettings
from dspex_ray.testing.fake_clock import NOON, FakeClock

PROGRAM = ProgramId(UUID(int=1))

STATS = {
    HealthStatus.UNKNOWN: ModelStats(),
    HealthStatus.STALE: ModelStats(
        last_health_check=NOON - timedelta(hours=24, seconds=1), success_rate=1.0
    ),
    HealthStatus.HEALTHY: ModelStats(last_health_check=NOON, success_rate=1.0),
    HealthStatus.DEGRADED: ModelStats(last_health_check=NOON, success_rate=0.9),
    HealthStatus.UNHEALTHY: ModelStats(last_health_check=NOON, success_rate=0.5),
}


def model(name: str, **fields: Any) -> Model:
    """An available model whose id follows from its name."""
    defaults: dict[str, Any] = {
        "id": ModelId(UUID(int=int.from_bytes(name.encode()))),
        "project_id": DEFAULT_PROJECT,
        "name": name,
        "provider": Provider.LOCAL,
        "model_name": f"vendor-{name}",
        "status": ModelStatus.AVAILABLE,
        "created_at": NOON,
        "updated_at": NOON,
    }
    return Model(**{**defaults, **fields})


def assignment(of: Model, strategy: str = "primary", **fields: Any) -> ProgramModel:
    defaults: dict[str, Any] = {
        "id": AssignmentId(UUID(int=of.id.int + 1_000)),
        "project_id": DEFAULT_PROJECT,
        "program_id": PROGRAM,
        "model_id": of.id,
        "model_name": of.name,
        "routing_strategy": RoutingStrategy(strategy),
        "conditions": Conditions(),
        "created_at": NOON,
        "updated_at": NOON,
    }
    return ProgramModel(**{**defaults, **fields})


def candidate(
    name: str,
    strategy: str = "primary",
    *,
    cost: Decimal | None = None,
    health: HealthStatus = HealthStatus.HEALTHY,
    of: dict[str, Any] | None = None,
    **fields: Any,
) -> Candidate:
    """`of` are fields of the model, the other ones of the assignment."""
    its_model = model(name, **{"stats": STATS[health], **(of or {})})
    return Candidate(assignment(its_model, strategy, **fields), its_model, lambda: cost)


def failure(error_class: str, **fields: Any) -> Failure:
    return Failure(ErrorClass(error_class), f"it was {error_class}", **fields)


def request(text: str = "hi") -> lm15.Request:
    return lm15.Request(model="router/p", messages=(lm15.Message.user(text),))


def response(text: str, usage: Any = None) -> lm15.Response:
    return lm15.Response(
        id="r",
        model="m",
        message=lm15.Message.assistant(text),
        finish_reason="stop",
        usage=usage or lm15.Usage(input_tokens=10, output_tokens=2),
    )


HANG = "hang"
Step = Any  # a Response, an exception to raise, HANG, or for a stream a list of those and events


class Pause(NamedTuple):
    """Real seconds before the next event of a stream."""

    seconds: float


def words(*texts: str) -> list[Any]:
    """The events of a stream of these words, whole."""
    deltas = [lm15.StreamDeltaEvent(delta=lm15.TextDelta(text=text)) for text in texts]
    usage = lm15.Usage(input_tokens=10, output_tokens=len(texts))
    return [
        lm15.StreamStartEvent(id="s", model="m"),
        *deltas,
        lm15.StreamEndEvent(finish_reason="stop", usage=usage),
    ]


@dataclass
class FakeLeaf:
    """Plays its steps in order; a step that hangs waits until it is cancelled."""

    steps: list[Step]
    seen: list[Any] = field(default_factory=list)
    cancelled: int = 0
    closed: int = 0
    hanging: asyncio.Event = field(default_factory=asyncio.Event)

    async def complete(self, request: Any) -> Any:
        self.seen.append(request)
        return await self._play(self.steps.pop(0))

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        self.seen.append(request)
        step = self.steps.pop(0)
        try:
            for event in step if isinstance(step, list) else [step]:
                if isinstance(event, Pause):
                    await asyncio.sleep(event.seconds)
                else:
                    yield await self._play(event)
        finally:
            self.closed += 1

    async def aclose(self) -> None:
        pass

    async def _play(self, step: Step) -> Any:
        if isinstance(step, Exception):
            raise step
        if step is HANG:
            self.hanging.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return step


@dataclass
class FakeSink:
    calls: list[LmCall] = field(default_factory=list)

    def lm_call(self, call: LmCall) -> None:
        self.calls.append(call)


@dataclass
class Bench:
    """A router over fake leaves by the names of their models, with all that it was given."""

    leaves: dict[str, FakeLeaf]
    settings: RoutingSettings = field(default_factory=RoutingSettings)
    clock: FakeClock = field(default_factory=FakeClock)
    sink: FakeSink = field(default_factory=FakeSink)
    limits: Limits = field(default_factory=Limits)
    degraded: list[ModelId] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.breakers = Breakers(self.settings)
        by_id = {model(name).id: leaf for name, leaf in self.leaves.items()}
        self.router = Router(
            self.settings,
            self.clock,
            random.Random(7),
            engines=by_id.__getitem__,
            breakers=self.breakers,
            limits=self.limits,
            on_degraded=self.degraded.append,
            sleep=self.clock.sleep,
        )

    def scope(self, deadline_s: float = 60.0, **fields: Any) -> RequestScope:
        return RequestScope(self.clock.monotonic() + deadline_s, self.sink, **fields)


def outcomes(call: LmCall) -> list[tuple[str, int, str, str | None]]:
    """Each attempt as (model, number, outcome, error class)."""
    return [(a.model, a.number, a.outcome, a.error_class) for a in call.attempts]
