"""Optimizations as a user meets them: a Ray job finds a better version, which then serves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from dspex_ray.cli.ray_node import processes_of
from dspex_ray.client import AsyncDspex
from dspex_ray.optimization.runs import NewOptimization, RunEvent, RunStatus
from dspex_ray.traces.model import ExecutionQuery, Source
from tests.e2e.platform import Platform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), pytest.mark.usefixtures("simulated")]

SEARCHED = """
managed_by: e2e
programs:
  - name: searched
    source: {signature: "claim -> verdict", module: {type: predict, config: {temperature: 0}}}
    labels: [production]
    assignments: [{model: simulated}]
"""
ROWS = [{"claim": f"s{n}", "verdict": "no" if n % 4 else "yes"} for n in range(24)]
RUN = """
name: e2e
program: searched
dataset: searches
examples: {sizes: {train: 8, dev: 8}, seed: 1}
optimizer: LabeledFewShot
parameters: {k: 4}
metric: {metric: exact_match}
budget: {lm_calls: 50, usd: "0.1"}
"""


@pytest.fixture
async def client(platform: Platform) -> AsyncIterator[AsyncDspex]:
    async with platform.async_client() as client:
        await client.apply(SEARCHED)
        await client.datasets.add_rows("searches", ROWS, create=True)
        yield client


async def test_a_run_ends_in_a_version_that_serves(
    platform: Platform, client: AsyncDspex, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(RUN, encoding="utf-8")
    served = platform.simulator.served
    told = await asyncio.to_thread(
        platform.dspex, "optimize", "run", str(file), "--no-wait", "--json"
    )
    created = json.loads(told)
    events: list[RunEvent] = [event async for event in client.optimizations.events(created["id"])]
    run = await client.optimizations.get(created["id"])
    assert (run.status, run.error) == (RunStatus.COMPLETED, None)
    assert events[-1].status is RunStatus.COMPLETED
    assert run.spent.lm_calls == 8
    assert platform.simulator.served - served >= 8  # health checks call it too
    assert run.spent.usd > 0
    (made,) = run.versions
    program = await client.programs.get("searched")
    assert program.labels == {"production": 1, made.label: made.version}
    answer = await client.programs.predict(f"searched@{made.label}", {"claim": "wet"})
    assert set(answer.outputs) == {"verdict"}
    shown = await asyncio.to_thread(platform.dspex, "optimize", "show", str(run.id))
    assert f"searched@{made.version}" in shown
    for _ in range(80):
        found = await client.executions.list(
            ExecutionQuery(program="searched", source=Source.OPTIMIZATION, limit=200)
        )
        if len(found.items) == 8:
            break
        await asyncio.sleep(0.25)
    assert len(found.items) == 8


async def test_a_killed_driver_goes_on_and_pays_for_nothing_twice(
    platform: Platform, client: AsyncDspex
) -> None:
    search = NewOptimization.model_validate(
        yaml.safe_load(RUN)
        | {
            "program": "searched@1",
            "optimizer": "BootstrapFewShotWithRandomSearch",
            "parameters": {"num_candidate_programs": 2, "max_bootstrapped_demos": 1},
            "limits": {"threads": 2},
            "budget": {"lm_calls": 200},
        }
    )
    platform.simulator.latency_s = 0.2
    served = platform.simulator.served
    try:
        created = await client.optimizations.create(search)
        async for event in client.optimizations.events(created.id):
            if event.spent.lm_calls >= 10:
                break
        _kill_the_driver(platform, str(created.id))
        run = await client.optimizations.wait(created.id, timeout_s=90)
    finally:
        platform.simulator.latency_s = 0.0
    calls = platform.simulator.served - served
    assert (run.status, run.error) == (RunStatus.COMPLETED, None)
    assert (run.attempt, run.submissions) == (2, 2)
    whole = await client.optimizations.wait((await client.optimizations.create(search)).id)
    assert whole.program_runs == run.program_runs
    # Two were under way when it was killed; health checks call the simulator too.
    assert whole.spent.lm_calls <= calls <= whole.spent.lm_calls + 2 + 3


def _kill_the_driver(platform: Platform, run_id: str) -> None:
    state = platform.state
    drivers = [
        process
        for process in processes_of(state.id, state.leader)
        if {"drive", run_id} <= set(process.cmdline())
    ]
    assert drivers
    for process in drivers:
        process.kill()
