"""Providers that are half there: programs go on with the next model; the breaker does as it says.

Lost: nothing; a request takes longer while its first model fails.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from dspex_ray.core.errors import TransitionRefused
from dspex_ray.testing.provider_simulator import Fault, ProviderSimulator
from tests.e2e.platform import REPLICAS, obliging
from tests.faults.house import BREAKER_FAILURES, BREAKER_OPEN_S, House, model
from tests.faults.load import Load, prediction

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CLIENTS = 16
TIMEOUT_S = 0.5
AILING = """
managed_by: faults
models: {shaky}
programs:
  - name: {program}
    capture: {{mode: none}}
    source: {{signature: "claim -> verdict", module: {{type: predict}}}}
    labels: [production]
    assignments: [{{model: {model}}}, {{model: simulated, routing_strategy: fallback}}]
"""
OPEN = "circuit breaker is open"


class Tried(NamedTuple):
    """An attempt on the first model, in order of their ends."""

    outcome: str
    error_class: str | None
    message: str | None
    started_at: datetime
    ended_at: datetime


@dataclass(frozen=True)
class Ailing:
    """A program whose first model's provider can be made to suffer; the next one is well."""

    house: House
    provider: ProviderSimulator
    model: str
    program: str

    def load(self) -> Load:
        return self.house.load(prediction(self.program), CLIENTS, pause_s=0.02)

    def tried(self, load: Load) -> list[Tried]:
        rows = self.house.rows(
            "SELECT a.outcome, a.error_class, a.message, a.started_at, "
            "a.started_at + a.latency_ms * interval '1 millisecond' AS ended "
            "FROM lm_attempts a JOIN executions e ON e.day = a.day AND e.id = a.execution_id "
            "WHERE e.tags ->> 'load' = %s AND a.model = %s ORDER BY ended",
            load.name,
            self.model,
        )
        return [Tried(*row) for row in rows]


@pytest.fixture
def ailing(house: House, request: pytest.FixtureRequest) -> Iterator[Ailing]:
    """Of this test alone: a model's record goes with it."""
    name = request.node.name.removeprefix("test_")
    with ProviderSimulator(obliging, slow_s=3.0, retry_after_s=1.0) as provider:
        found = Ailing(house, provider, f"shaky-{name}", f"ailing-{name}")
        shaky = model(found.model, provider.url, timeout_s=TIMEOUT_S)
        house.apply(AILING.format(shaky=shaky, model=found.model, program=found.program))
        yield found
    # Nobody needs to check it any more; one that failed three checks is not used as it is.
    with house.client() as client, suppress(TransitionRefused):
        client.models.deprecate(found.model)


def success(load: Load) -> float:
    return len(load.answered) / (len(load.answered) + len(load.failed))


async def test_slow(ailing: Ailing) -> None:
    outage_s = 8.0
    load = ailing.load()
    async with load.running():
        await load.until(400)  # so that the outage is a small part of the model's record
        began = datetime.now(UTC)
        ailing.provider.always(Fault.SLOW_FIRST_TOKEN)
        await asyncio.sleep(outage_s)
        ailing.provider.always(None)
        healed, healed_at = datetime.now(UTC), time.monotonic()
        await asyncio.sleep(2 * BREAKER_OPEN_S + 3.0)
    assert success(load) > 0.99
    ailing.house.drained(load)
    attempts = ailing.tried(load)
    skipped = [one for one in attempts if one.message == OPEN]
    during = [one for one in attempts if began <= one.started_at < healed]
    failed = [one for one in during if one.outcome == "failed"]
    # It opens after so many failures, not before.
    first = min(one.started_at for one in skipped)
    assert len([one for one in failed if one.ended_at <= first]) >= BREAKER_FAILURES
    # Open, it lets through one probe at a time: beside those, the model meets what opened it and
    # what was under way then.
    probes = REPLICAS * (outage_s / BREAKER_OPEN_S + 1)
    assert len(failed) <= REPLICAS * BREAKER_FAILURES + CLIENTS + probes
    assert len(skipped) > 5 * len(failed)
    late = [one.started_at for one in failed if one.started_at > first + timedelta(seconds=1)]
    for earlier, later in zip(late, late[REPLICAS:], strict=False):
        assert (later - earlier).total_seconds() >= BREAKER_OPEN_S
    # It closes with the first probe that succeeds, and is not heard of again.
    settled = healed + timedelta(seconds=BREAKER_OPEN_S + TIMEOUT_S + 1.0)
    assert [one for one in skipped if one.started_at > settled] == []
    after = [answer for answer in load.answered if answer.sent > healed_at + 2 * BREAKER_OPEN_S]
    assert after
    assert {answer.model for answer in after} == {ailing.model}


async def test_rate_limit_storm(ailing: Ailing) -> None:
    """A provider that says "later" is held off for as long as it says: the breaker stays shut."""
    load = ailing.load()
    async with load.running():
        await asyncio.sleep(0.5)
        ailing.provider.always(Fault.RATE_LIMIT)
        await asyncio.sleep(5.0)
        ailing.provider.always(None)
        healed_at = time.monotonic()
        await asyncio.sleep(4.0)
    assert success(load) > 0.99
    ailing.house.drained(load)
    attempts = ailing.tried(load)
    assert [one for one in attempts if one.error_class == "rate_limit"]
    assert [one for one in attempts if one.message == OPEN] == []
    after = [answer for answer in load.answered if answer.sent > healed_at + 2.0]
    assert after
    assert {answer.model for answer in after} == {ailing.model}


async def test_half_cut(ailing: Ailing) -> None:
    load = ailing.load()
    dice = random.Random(7)
    async with load.running():
        # A good record first: it takes 40 failures of 200 until routing turns away from the model.
        await load.until(400)
        began = datetime.now(UTC)
        ailing.provider.script(dice.choice([Fault.CUT, None]) for _ in range(20_000))
        await load.until(1200)
    ailing.provider.unscript()
    assert success(load) > 0.99
    ailing.house.drained(load)
    outcomes = [one.outcome for one in ailing.tried(load) if one.started_at >= began]
    # How many are tried before routing turns away depends on when the figures are polled.
    assert outcomes.count("failed") >= BREAKER_FAILURES
    assert outcomes.count("ok") >= BREAKER_FAILURES
