"""Evaluations on a real cluster: run by a pool of actors, one of which is killed on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import psutil
import pytest

from dspex_ray.cli.ray_node import processes_of
from dspex_ray.client import AsyncDspex
from dspex_ray.evaluation.model import (
    EvaluationSettings,
    EvaluationStatus,
    ExampleResult,
    MetricSpec,
    NewEvaluation,
)
from dspex_ray.traces.model import ExecutionQuery, Source
from tests.e2e.platform import Platform, command_line

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("simulated")]

MEASURED = """
managed_by: e2e
programs:
  - name: measured
    source: {signature: "claim -> verdict", module: {type: predict, config: {temperature: 0}}}
    assignments: [{model: simulated}]
"""
COUNT = 40
ROWS = [{"claim": f"c{n}", "verdict": "no" if n % 4 else "yes"} for n in range(COUNT)]
NEW = NewEvaluation(
    program="measured",
    dataset="claims",
    metrics=(MetricSpec(metric="exact_match"), MetricSpec(metric="f1")),
    settings=EvaluationSettings(concurrency=6, actors=2),
)


@pytest.fixture
async def client(platform: Platform) -> AsyncIterator[AsyncDspex]:
    async with platform.async_client() as client:
        await client.apply(MEASURED)
        await client.datasets.add_rows("claims", ROWS, create=True)
        yield client


async def test_a_killed_actor_costs_no_result_and_the_next_run_nothing(
    platform: Platform, client: AsyncDspex
) -> None:
    platform.simulator.latency_s = 0.3
    before = _asked(platform)
    try:
        created = await client.evaluations.create(NEW)
        killed = await _kill_an_actor(platform, client, created.id)
        done = await client.evaluations.wait(created.id, timeout_s=240)
    finally:
        platform.simulator.latency_s = 0.0
    calls = _asked(platform) - before
    results = await _results(client, created.id)
    assert (done.status, done.error) == (EvaluationStatus.COMPLETED, None)
    assert [result.number for result in results] == list(range(COUNT))
    assert [result.errors for result in results] == [()] * COUNT
    assert COUNT <= calls <= COUNT + killed  # only what was under way in it is asked again
    assert done.report is not None
    assert [metric.mean for metric in done.report.metrics] == [0.25, 0.25]
    assert done.report.cost_usd == done.report.spent_usd != 0
    await _recorded(client, results[0])
    again = await client.evaluations.wait((await client.evaluations.create(NEW)).id)
    assert _asked(platform) - before == calls
    assert again.report is not None
    assert (again.report.cached, again.report.metrics) == (COUNT, done.report.metrics)


async def test_the_command_shows_the_report(platform: Platform, client: AsyncDspex) -> None:
    told = await asyncio.to_thread(
        platform.dspex,
        *("evaluate", "measured", "--dataset", "claims", "--sample", "8"),
        *("--metric", "exact_match:verdict", "--concurrency", "4"),
    )
    assert "completed" in told
    assert "exact_match:verdict" in told
    assert "8 of 8" in told


def _asked(platform: Platform) -> int:
    """Calls of the program: a check of the model's health may come at any time."""
    bodies = [str(request.body) for request in platform.simulator.requests]
    return sum("## claim ##" in body for body in bodies)


async def _kill_an_actor(platform: Platform, client: AsyncDspex, evaluation_id: UUID) -> int:
    """Once results have come; how many examples can have been under way in it."""
    async for event in client.evaluations.events(evaluation_id):
        if event.progress.done >= 6:
            break
    state = platform.state
    actors = [
        process
        for process in processes_of(state.id, state.leader)
        if "EvaluatorActor" in " ".join(command_line(process))
    ]
    assert len(actors) == 2
    actors[0].kill()
    psutil.wait_procs(actors[:1], timeout=10)
    return 6


async def _results(client: AsyncDspex, evaluation_id: UUID) -> list[ExampleResult]:
    return [result async for result in client.evaluations.iterate_results(evaluation_id)]


async def _recorded(client: AsyncDspex, result: ExampleResult) -> None:
    """Its execution, within 20 s of waiting for the drain."""
    for _ in range(80):
        found = await client.executions.list(
            ExecutionQuery(program="measured", source=Source.EVALUATION, limit=200)
        )
        mine = [one for one in found.items if one.id == result.execution_id]
        if mine:
            break
        await asyncio.sleep(0.25)
    (execution,) = mine
    assert (execution.endpoint, execution.version) == ("evaluation", 1)
    assert execution.cost_usd == result.cost_usd
