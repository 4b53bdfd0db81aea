"""What is killed comes back; what was answered is on record; what was declared is rebuilt."""

from __future__ import annotations

import asyncio
import json
import time
from uuid import UUID

import psutil
import pytest

from dspex_ray.cli import ray_node
from dspex_ray.client import AsyncDspex
from dspex_ray.core.errors import DspexRayError, NotFound
from dspex_ray.traces.model import ExecutionStatus
from tests.e2e.platform import REPLICAS, Platform, command_line

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("simulated")]

GATEWAY = "ray::ServeReplica:gateway:gateway"

HOSTED = """
managed_by: e2e
models:
  - name: small
    provider: local
    model_name: smollm2-135m-instruct
    context_window: 1024
    approved: true
"""


def gateways(platform: Platform) -> list[psutil.Process]:
    state = platform.state
    return [
        process
        for process in ray_node.processes_of(state.id, state.leader)
        if command_line(process)[:1] == [GATEWAY]
    ]


async def serves(client: AsyncDspex) -> bool:
    try:
        await client.programs.predict("judge", {"claim": "x"})
    except DspexRayError:
        return False
    return True


async def test_killed_replica_loses_no_answered_request(platform: Platform) -> None:
    answered: list[UUID] = []
    failed = 0

    async def ask(client: AsyncDspex) -> None:
        nonlocal failed
        for _ in range(40):
            try:
                answer = await client.programs.predict("judge", {"claim": "x"})
                answered.append(answer.execution_id)
            except DspexRayError:
                failed += 1

    assert len(gateways(platform)) == REPLICAS
    async with platform.async_client(max_retries=0) as client:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(ask(client))
            while len(answered) < 40:
                await asyncio.sleep(0.01)
            killed = gateways(platform)[0]
            killed.kill()
        assert len(answered) + failed == 160
        assert len(answered) > 80  # the other replica goes on
        deadline = time.monotonic() + 90
        while len(gateways(platform)) < REPLICAS or not await serves(client):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.3)
        assert killed.pid not in {process.pid for process in gateways(platform)}
        missing = set(answered)
        deadline = time.monotonic() + 20
        while missing and time.monotonic() < deadline:
            missing -= {found for found in missing if await on_record(client, found)}
        assert missing == set()


async def on_record(client: AsyncDspex, execution_id: UUID) -> bool:
    try:
        run = await client.executions.get(execution_id)
    except NotFound:
        await asyncio.sleep(0.05)
        return False
    return run.status is ExecutionStatus.COMPLETED


def test_up_again_changes_nothing(platform: Platform) -> None:
    before = platform.state
    said = platform.up()
    assert said["url"] == platform.url
    assert said["api_key"] is None  # the key that there is still opens
    after = platform.state
    assert (after.id, after.leader, after.ports) == (before.id, before.leader, before.ports)


def test_down_and_up_rebuilds_what_was_declared(platform: Platform) -> None:
    with platform.client() as client:
        client.apply(HOSTED)
        hello = [{"role": "user", "content": "Say hello."}]
        assert client.chat.complete("small", hello, max_tokens=8).text  # type: ignore[arg-type]
    assert json.loads(platform.dspex("down", "--json"))["ended"] is True
    with platform.client(max_retries=0) as client, pytest.raises(DspexRayError):
        client.healthz()
    assert platform.up()["api_key"] is None
    with platform.client() as client:
        assert client.programs.predict("judge", {"claim": "x"}).outputs == {"verdict": "yes"}
        deadline = time.monotonic() + 60
        while not hosted_answers(platform):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        client.models.deprecate("small")  # its process ends: the tests that follow need the cores


def hosted_answers(platform: Platform) -> bool:
    with platform.client(max_retries=0) as client:
        try:
            hello = [{"role": "user", "content": "Say hello."}]
            return bool(client.chat.complete("small", hello, max_tokens=8).text)  # type: ignore[arg-type]
        except DspexRayError:
            return False
