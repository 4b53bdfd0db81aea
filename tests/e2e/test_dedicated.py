"""Versions of their own applications, on a real cluster: placed, split, refused, drained."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from uuid import UUID

import httpx
import pytest

from dspex_ray.cli.ports import REPLICA_PORTS
from dspex_ray.cli.ray_node import processes_of
from dspex_ray.client import AsyncDspex
from dspex_ray.core.errors import Conflict, NotFound, Unavailable
from dspex_ray.placements.model import NewPlacement, PlacementStatus, Resources
from dspex_ray.programs.model import NewVersion, ProgramSource
from dspex_ray.serving.model import Arm, NewSplit
from dspex_ray.testing.provider_simulator import Fault
from dspex_ray.traces.model import Execution, ExecutionQuery, ExecutionStatus
from tests.e2e.platform import Platform, command_line

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("simulated")]

PLACED = """
managed_by: e2e
programs:
  - name: placed
    source: {signature: "claim -> verdict", module: {type: predict}}
    labels: [production]
    assignments: [{model: simulated}]
"""
VERSIONS = ["Be strict.", "Be kind."]
TWO_REPLICAS = NewPlacement(min_replicas=2, max_replicas=2, warm_up=({"claim": "warm"},))
HALF = NewSplit(arms=(Arm(version=1, weight_bp=5_000), Arm(version=2, weight_bp=5_000)))


@dataclass
class Load:
    """Requests one after the other in each of a few tasks, until told to stop."""

    client: AsyncDspex
    served: list[int] = field(default_factory=list)
    failed: list[Exception] = field(default_factory=list)
    stopped: bool = False

    async def run(self) -> None:
        while not self.stopped:
            try:
                answer = await self.client.programs.predict("placed", {"claim": "x"})
            except Exception as error:
                self.failed.append(error)
            else:
                self.served.append(answer.version)


async def test_one_split_over_shared_and_dedicated_versions(platform: Platform) -> None:
    async with platform.async_client(max_retries=0) as client:
        await client.apply(PLACED)
        for text in VERSIONS:
            module = {"type": "predict", "instructions": text}
            source = ProgramSource(signature="claim -> verdict", module=module)
            await client.programs.add_version("placed", NewVersion(source=source))
        await _it_is_placed_and_serves(platform, client)
        await _a_large_answer_comes_through(platform, client)
        await _a_leaving_client_ends_the_call(platform, client)
        await _what_cannot_start_gets_no_traffic(client)
        await _a_dead_replica_costs_no_request(platform, client)
        await _it_is_drained_under_load(client)


async def _it_is_placed_and_serves(platform: Platform, client: AsyncDspex) -> None:
    await client.placements.put("placed", 2, TWO_REPLICAS)
    placed = await client.placements.wait("placed", 2)
    assert (placed.status, placed.serving) == (PlacementStatus.READY, placed.application)
    applied = (await client.splits.put("placed", HALF)).applied
    assert applied.applied == applied.total
    answers = [
        await client.programs.predict("placed", {"claim": "x"}, session=f"user-{number}")
        for number in range(24)
    ]
    assert {answer.version for answer in answers} == {1, 2}
    assert all(answer.outputs == {"verdict": "yes"} for answer in answers)
    dedicated = next(answer for answer in answers if answer.version == 2)
    recorded = await _recorded(client, dedicated.execution_id)
    assert (recorded.version, recorded.status) == (2, ExecutionStatus.COMPLETED)
    assert [attempt.outcome for call in recorded.lm_calls for attempt in call.attempts] == ["ok"]
    assert recorded.cost_usd == dedicated.usage.cost_usd
    streamed = [event async for event in client.programs.stream("placed@2", {"claim": "x"})]
    assert [event.type for event in streamed][-1] == "outputs"
    assert len(streamed) > 1
    _its_port_answers_no_program(platform)


async def _a_large_answer_comes_through(platform: Platform, client: AsyncDspex) -> None:
    """gRPC takes messages of 4 MB unless told otherwise; content to record comes on top."""
    text = "x" * 3_000_000
    answers = platform.simulator.answer
    platform.simulator.answer = lambda prompt: (
        f"[[ ## verdict ## ]]\n{text}\n\n[[ ## completed ## ]]"
    )
    try:
        whole = await client.programs.predict("placed@2", {"claim": "long"})
    finally:
        platform.simulator.answer = answers
    assert whole.outputs == {"verdict": text}


def _its_port_answers_no_program(platform: Platform) -> None:
    """Direct ingress opens a port for each application's replicas, without a key."""
    first = platform.state.ports.replica_http
    refusals = []
    with httpx.Client(timeout=5, trust_env=False) as http:
        for port in range(first, first + min(REPLICA_PORTS, 20)):
            for path in ("/", "/run"):
                try:
                    answer = http.post(f"http://127.0.0.1:{port}{path}", json={"claim": "x"})
                except httpx.HTTPError:
                    continue
                assert answer.status_code in {401, 404, 405}
                assert "verdict" not in answer.text
                refusals.append(answer.text)
    assert "internal deployment: not served over HTTP" in refusals


async def _a_leaving_client_ends_the_call(platform: Platform, client: AsyncDspex) -> None:
    before = platform.simulator.disconnects
    platform.simulator.script([Fault.HANG])
    headers = {"authorization": f"Bearer {platform.key}", "x-dspex-tags": "test=left-dedicated"}
    async with httpx.AsyncClient(timeout=1.5, trust_env=False) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post(
                f"{platform.url}/v1/programs/placed@2/predict",
                json={"inputs": {"claim": "x"}},
                headers=headers,
            )
    for _ in range(80):
        found = (await client.executions.list(ExecutionQuery(tag="test=left-dedicated"))).items
        if found and platform.simulator.disconnects > before:
            break
        await asyncio.sleep(0.25)
    assert [execution.status for execution in found] == [ExecutionStatus.CANCELLED]
    assert platform.simulator.disconnects == before + 1


async def _what_cannot_start_gets_no_traffic(client: AsyncDspex) -> None:
    await client.placements.put("placed", 3, NewPlacement(resources=Resources(num_cpus=1000)))
    failed = await client.placements.wait("placed", 3)
    assert failed.status is PlacementStatus.FAILED
    assert (failed.reason or "").startswith("no node has 1000 CPU")
    new = NewSplit(arms=(Arm(version=1, weight_bp=9_000), Arm(version=3, weight_bp=1_000)))
    with pytest.raises(Conflict, match="no node has 1000 CPU"):
        await client.splits.put("placed", new)
    with pytest.raises(Conflict, match="no node has 1000 CPU"):
        await client.programs.label("placed", "production", 3)
    await asyncio.sleep(1.0)  # within it every gateway knows
    with pytest.raises(Unavailable, match="no node has 1000 CPU"):
        await client.programs.predict("placed@3", {"claim": "x"})
    await client.placements.remove("placed", 3)


async def _a_dead_replica_costs_no_request(platform: Platform, client: AsyncDspex) -> None:
    placed = await client.placements.get("placed", 2)
    state = platform.state
    replica = next(
        process
        for process in processes_of(state.id, state.leader)
        if placed.application in " ".join(command_line(process))
    )
    load = Load(client)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(load.run())
        await asyncio.sleep(1.0)
        replica.kill()
        await asyncio.sleep(2.0)
        load.stopped = True
    assert load.failed == []
    assert set(load.served) == {1, 2}


async def _it_is_drained_under_load(client: AsyncDspex) -> None:
    load = Load(client)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(load.run())
        await asyncio.sleep(1.0)
        await client.placements.remove("placed", 2)
        await _gone(client, 2)
        after = len(load.served)
        await asyncio.sleep(1.5)
        load.stopped = True
    assert load.failed == []
    assert set(load.served[:after]) == {1, 2}
    assert set(load.served[after:]) == {1, 2}  # `shared` again


async def _gone(client: AsyncDspex, number: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            await client.placements.get("placed", number)
        except NotFound:
            return
        await asyncio.sleep(0.25)
    raise AssertionError(f"version {number} still drains")


async def _recorded(client: AsyncDspex, execution_id: UUID) -> Execution:
    """Within 20 s of waiting for the drain."""
    for _ in range(80):
        try:
            return await client.executions.get(execution_id)
        except NotFound:
            await asyncio.sleep(0.25)
    raise AssertionError(f"{execution_id} was not recorded")
