"""Changes while 64 clients are at work: in effect on every replica a second later, and no
request that was under way is lost. Lost: nothing."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from dspex_ray.access.model import NewApiKey
from dspex_ray.core.actor import Scope
from dspex_ray.programs.model import NewVersion, ProgramSource
from dspex_ray.serving.model import Arm, NewSplit
from tests.faults.house import House, model
from tests.faults.load import Answered, Load, completion, prediction

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CLIENTS = 64
SETTLED_S = 1.0

SHIFTING = """
managed_by: faults
programs:
  - name: shifting
    source: {signature: "claim -> verdict", module: {type: predict}}
    labels: [production]
    assignments: [{model: simulated}]
"""
RETIRING = """
managed_by: faults
models: {retiring}
programs:
  - name: duo
    source: {{signature: "claim -> verdict", module: {{type: predict}}}}
    labels: [production]
    assignments: [{{model: retiring}}, {{model: simulated, routing_strategy: fallback}}]
"""
STRICT = ProgramSource(
    signature="claim -> verdict", module={"type": "predict", "instructions": "Be strict."}
)


@asynccontextmanager
async def at_work(house: House, *loads: Load) -> AsyncIterator[None]:
    """All clients are busy, with a request under way each, when the block begins."""
    house.simulator.latency_s = 0.2
    house.simulator.requests.clear()
    async with AsyncExitStack() as stack:
        for load in loads:
            await stack.enter_async_context(load.running())
        for load in loads:
            await load.until(2 * load.connections)
        yield
        await asyncio.sleep(SETTLED_S + 1.0)


def sides(load: Load, asked: float, done: float) -> tuple[list[Answered], list[Answered]]:
    """What was answered before the change was asked for, and what was sent when it had settled.

    In between either is right: a request meets the configuration when a replica takes it up.
    """
    before = [answer for answer in load.answered if answer.done < asked]
    after = [answer for answer in load.answered if answer.sent > done + SETTLED_S]
    return before, after


def taken_up(house: House) -> set[str]:
    """Tags of the requests that had come as far as the provider: those were under way."""
    said = " ".join(
        str(message.get("content"))
        for request in house.simulator.requests
        for message in (request.body or {}).get("messages", [])
    )
    return set(re.findall(r"\b[0-9a-f]{12}-\d+\b", said))


async def test_revoked_key(house: House) -> None:
    async with house.async_client() as client:
        new = NewApiKey(name="revoked-under-load", scopes=(Scope.INVOKE,))
        minted = await client.keys.create(new)
        await asyncio.sleep(SETTLED_S)
        load = Load(house.url, minted.secret, prediction("judge"), CLIENTS)
        async with at_work(house, load):
            asked = time.monotonic()
            await client.keys.revoke(minted.key.prefix)
            done = time.monotonic()
    assert {failure.status for failure in load.failed} == {401}
    assert all(failure.done >= asked for failure in load.failed)
    assert taken_up(house) & {failure.tag for failure in load.failed} == set()
    assert sides(load, asked, done)[1] == []
    assert len(load.failed) > CLIENTS  # every client met it
    house.drained(load)


async def test_weights(house: House) -> None:
    house.apply(SHIFTING)
    load = house.load(prediction("shifting"), CLIENTS)
    async with house.async_client() as client:
        await client.programs.add_version("shifting", NewVersion(source=STRICT))
        old = NewSplit(arms=(Arm(version=1, weight_bp=10_000), Arm(version=2, weight_bp=0)))
        await client.splits.put("shifting", old)
        async with at_work(house, load):
            asked = time.monotonic()
            new = NewSplit(arms=(Arm(version=1, weight_bp=0), Arm(version=2, weight_bp=10_000)))
            await client.splits.put("shifting", new)
            done = time.monotonic()
    assert load.failed == []
    before, after = sides(load, asked, done)
    assert {answer.version for answer in before} == {"1"}
    assert {answer.version for answer in after} == {"2"}
    house.drained(load)


async def test_deprecated_model(house: House) -> None:
    """A program goes on with its other model; who names the model itself is told."""
    house.apply(RETIRING.format(retiring=model("retiring", house.simulator.url)))
    program = house.load(prediction("duo"), CLIENTS // 2)
    direct = house.load(completion("retiring"), CLIENTS // 2)
    async with house.async_client() as client, at_work(house, program, direct):
        asked = time.monotonic()
        await client.models.deprecate("retiring")
        done = time.monotonic()
    assert program.failed == []
    before, after = sides(program, asked, done)
    assert {answer.model for answer in before} == {"retiring"}
    assert {answer.model for answer in after} == {"simulated"}
    assert all(failure.done >= asked for failure in direct.failed)
    assert taken_up(house) & {failure.tag for failure in direct.failed} == set()
    assert {(failure.status, failure.code) for failure in direct.failed} == {(503, "unavailable")}
    assert sides(direct, asked, done)[1] == []
    house.drained(program)
    house.drained(direct)
