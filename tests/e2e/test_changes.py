"""Changes of the configuration reach every replica within a second, and hurt no request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from dspex_ray.access.model import NewApiKey
from dspex_ray.client import AsyncDspex, Dspex
from dspex_ray.core.actor import Scope
from dspex_ray.core.errors import Denied
from dspex_ray.programs.model import NewVersion, ProgramSource
from dspex_ray.serving.model import Arm, NewSplit
from tests.e2e.platform import REPLICAS, Platform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("simulated")]

TWO = """
managed_by: e2e
programs:
  - name: shifting
    source: {signature: "claim -> verdict", module: {type: predict}}
    labels: [production]
    assignments: [{model: simulated}]
"""
SECOND = ProgramSource(
    signature="claim -> verdict", module={"type": "predict", "instructions": "Be strict."}
)


@dataclass
class Load:
    """Requests one after the other in each of a few tasks, until told to stop."""

    client: AsyncDspex
    program: str
    served: list[tuple[float, int]] = field(default_factory=list)  #: (sent at, version)
    stopped: bool = False

    async def run(self) -> None:
        while not self.stopped:
            sent = time.monotonic()
            answer = await self.client.programs.predict(self.program, {"claim": "x"})
            self.served.append((sent, answer.version))


async def test_split_changes_under_load(platform: Platform) -> None:
    async with platform.async_client(max_retries=0) as client:
        await client.apply(TWO)
        await client.programs.add_version("shifting", NewVersion(source=SECOND))
        old = NewSplit(arms=(Arm(version=1, weight_bp=10_000), Arm(version=2, weight_bp=0)))
        await client.splits.put("shifting", old)
        load = Load(client, "shifting")
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(load.run())
            await asyncio.sleep(1.5)
            asked = time.monotonic()
            new = NewSplit(arms=(Arm(version=1, weight_bp=0), Arm(version=2, weight_bp=10_000)))
            result = await client.splits.put("shifting", new)
            answered = time.monotonic()
            await asyncio.sleep(2.5)
            load.stopped = True
    # A request that failed would have raised.
    assert {version for sent, version in load.served if sent < asked - 0.5} == {1}
    assert {version for sent, version in load.served if sent > asked + 1.0} == {2}
    assert len(load.served) > 50
    assert (result.applied.applied, result.applied.total) == (REPLICAS, REPLICAS)
    assert {version for sent, version in load.served if sent > answered} == {2}
    assert result.split.arms == new.arms


def test_sticky_sessions_keep_their_version(platform: Platform) -> None:
    platform.apply(TWO)
    with platform.client() as client:
        client.programs.add_version("shifting", NewVersion(source=SECOND))
        half = NewSplit(arms=(Arm(version=1, weight_bp=5_000), Arm(version=2, weight_bp=5_000)))
        client.splits.put("shifting", half)
        seen = {
            session: {
                client.programs.predict("shifting", {"claim": "x"}, session=session).version
                for _ in range(4)
            }
            for session in (f"user-{number}" for number in range(12))
        }
    assert all(len(versions) == 1 for versions in seen.values())
    assert set().union(*seen.values()) == {1, 2}


def test_revoked_key_stops_within_a_second(platform: Platform) -> None:
    with platform.client() as client:
        minted = client.keys.create(NewApiKey(name="short-lived", scopes=(Scope.INVOKE,)))
        with Dspex(platform.url, minted.secret, max_retries=0) as user:
            within(5.0, lambda: works(user))
            client.keys.revoke(minted.key.prefix)
            time.sleep(1.0)
            # Each replica has its own snapshot: several requests meet all of them.
            for _ in range(10):
                assert not works(user)


def works(client: Dspex) -> bool:
    try:
        client.programs.predict("judge", {"claim": "x"})
    except Denied:
        return False
    return True


def within(seconds: float, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
