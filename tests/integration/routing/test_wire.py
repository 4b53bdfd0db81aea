"""The router over real engines and real sockets: each fault of a provider, and who leaves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from dspex_ray.core.clock import SystemClock
from dspex_ray.core.errors import ProviderDown
from dspex_ray.models.model import HealthStatus, Provider
from dspex_ray.models.providers import LeafEngine, build_engine
from dspex_ray.routing.breaker import Breakers
from dspex_ray.routing.limits import Limits
from dspex_ray.routing.router import Router
from dspex_ray.routing.rules import Candidate
from dspex_ray.routing.scope import RequestScope
from dspex_ray.settings import RoutingSettings
from dspex_ray.testing.provider_simulator import Fault, ProviderSimulator
from tests.unit.routing.parts import FakeSink, candidate, outcomes, request


@dataclass
class Wire:
    """Model `a` on a simulator whose faults a test scripts, model `b` on one that always works."""

    faulty: ProviderSimulator
    sound: ProviderSimulator
    engines: dict[Any, LeafEngine]
    chain: list[Candidate]
    sink: FakeSink

    def __post_init__(self) -> None:
        settings = RoutingSettings(retries=1, retry_base_ms=10, retry_max_ms=20)
        self.clock = SystemClock()
        self.router = Router(
            settings,
            self.clock,
            random.Random(1),
            engines=self.engines.__getitem__,
            breakers=Breakers(settings),
            limits=Limits(),
            on_degraded=lambda model_id: None,
        )

    def scope(self) -> RequestScope:
        return RequestScope(self.clock.monotonic() + 20, self.sink)


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    with ProviderSimulator(retry_after_s=1) as faulty, ProviderSimulator() as sound:
        chain = [
            candidate(name, strategy, health=HealthStatus.UNKNOWN, of=fields)
            for name, strategy, fields in (
                ("a", "primary", _served_by(faulty)),
                ("b", "fallback", _served_by(sound)),
            )
        ]
        engines = {c.model.id: build_engine(c.model, None) for c in chain}
        yield Wire(faulty, sound, engines, chain, FakeSink())
        for engine in engines.values():
            await engine.aclose()


def _served_by(simulator: ProviderSimulator) -> dict[str, Any]:
    return {
        "provider": Provider.OPENAI_COMPATIBLE,
        "base_url": simulator.url,
        "timeout_s": 0.3,
    }


PLAIN = {
    Fault.SERVER_ERROR: "server",
    Fault.UNAUTHORIZED: "auth",
    Fault.MALFORMED: "malformed",
    Fault.HANG: "timeout",
    Fault.SLOW_FIRST_TOKEN: "timeout",
    Fault.CUT: "transport",
}


@pytest.mark.parametrize(("fault", "error_class"), PLAIN.items())
async def test_plain(wire: Wire, fault: Fault, error_class: str) -> None:
    wire.faulty.always(fault)
    answer = await wire.router.complete(request(), wire.chain, wire.scope())
    retried = [] if error_class == "auth" else [("a", 2, "failed", error_class)]
    assert outcomes(answer.call) == [
        ("a", 1, "failed", error_class),
        *retried,
        ("b", 1, "ok", None),
    ]


async def test_retry_after_is_honoured(wire: Wire) -> None:
    wire.faulty.script([Fault.RATE_LIMIT, None])
    answer = await wire.router.complete(request(), wire.chain, wire.scope())
    assert outcomes(answer.call) == [("a", 1, "failed", "rate_limit"), ("a", 2, "ok", None)]
    assert answer.call.attempts[0].retry_after_s == 1
    assert answer.call.attempts[0].provider_status == 429
    assert answer.call.latency_ms >= 1000


async def test_a_stream_that_is_cut_after_content(wire: Wire) -> None:
    wire.faulty.script([Fault.CUT])
    with pytest.raises(ProviderDown, match="broke off"):
        [event async for event in wire.router.stream(request(), wire.chain, wire.scope())]
    assert wire.sound.served == 0
    assert len(wire.sink.calls[0].attempts) == 1


async def test_a_stream_falls_back_before_content(wire: Wire) -> None:
    wire.faulty.always(Fault.HANG)
    stream = wire.router.stream(request(), wire.chain, wire.scope())
    events = [event async for event in stream]
    assert (events[0].type, events[-1].type) == ("start", "end")
    assert outcomes(wire.sink.calls[0])[-1] == ("b", 1, "ok", None)
    assert wire.sink.calls[0].attempts[-1].completion_tokens is not None


async def test_a_reader_who_leaves_is_seen_by_the_provider(wire: Wire) -> None:
    wire.faulty.token_s = 0.05
    wire.faulty.answer = lambda prompt: "word " * 200
    stream = wire.router.stream(request(), wire.chain, wire.scope())
    async for event in stream:
        if event.type == "delta":
            break
    await stream.aclose()
    for _ in range(100):
        if wire.faulty.disconnects:
            break
        await asyncio.sleep(0.02)
    assert wire.faulty.disconnects == 1
    assert wire.sink.calls[0].attempts[0].outcome == "cancelled"


async def test_streams_one_after_another_share_a_connection(wire: Wire) -> None:
    for _ in range(3):
        async for _event in wire.router.stream(request(), wire.chain, wire.scope()):
            pass
    engine: Any = wire.engines[wire.chain[0].model.id]
    assert engine._lm.transport._pool.stats() == {"idle": 1, "in_use": 0, "total_opened": 1}
