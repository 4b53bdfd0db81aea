"""Optimizations as a user meets them: a Ray job finds a better version, which then serves."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from dspex_ray.cli.ray_node import processes_of
from dspex_ray.client import AsyncDspex
from dspex_ray.optimization.runs import NewOptimization, RunEvent, RunStatus
from dspex_ray.traces.model import ExecutionQuery, Source
from tests.e2e.platform import Platform, command_line

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("simulated")]

SEARCHED = """
managed_by: e2e
programs:
  - name: searched
    source: {signature: "claim -> verdict", module: {type: predict, config: {temperature: 0}}}
    labels: [production]
    assignments: [{model: simulated}]
"""
BESIDE = """
managed_by: e2e
models:
  - name: beside
    provider: openai_compatible
    model_name: beside-1
    base_url: {url}
    price: {{prompt_usd_per_token: "0.000001", completion_usd_per_token: "0.000002"}}
    approved: true
programs:
  - name: warm
    source:
      signature: "claim -> verdict"
      module: {{type: predict, config: {{temperature: 0.7}}}}
    assignments: [{{model: simulated}}]
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


@dataclass(frozen=True)
class Whole:
    """What the search comes to when nobody disturbs it; by one actor."""

    hashes: tuple[str, ...]
    calls: int
    runs: int


SEARCH = NewOptimization.model_validate(
    yaml.safe_load(RUN)
    | {
        "program": "searched@1",
        "optimizer": "DspexSearch",
        "parameters": {"num_candidates": 6, "max_demos": 2, "first_share": 0.5},
        "limits": {"threads": 4, "actors": 1},
        "budget": {"lm_calls": 200, "usd": "0.1"},
    }
)
_WHOLE: list[Whole] = []  # measured once


async def _whole(client: AsyncDspex) -> Whole:
    if not _WHOLE:
        run = await client.optimizations.wait((await client.optimizations.create(SEARCH)).id)
        assert (run.status, run.error) == (RunStatus.COMPLETED, None)
        hashes = tuple(version.hash for version in run.versions)
        _WHOLE.append(Whole(hashes, run.spent.lm_calls, run.program_runs))
    return _WHOLE[0]


@pytest.mark.parametrize(
    ("killed", "attempts", "lost"),
    [
        ("ray::CandidateActor", 1, 0),  # the answers that were under way are not lost
        ("ray::RunActor", 2, 4),
        ("drive", 2, 4),
    ],
)
async def test_a_killed_process_costs_nothing_that_was_answered(
    platform: Platform, client: AsyncDspex, killed: str, attempts: int, lost: int
) -> None:
    whole = await _whole(client)
    two = SEARCH.model_copy(update={"limits": SEARCH.limits.model_copy(update={"actors": 2})})
    platform.simulator.latency_s = 0.5
    asked = _asked(platform)
    try:
        created = await client.optimizations.create(two)
        async for event in client.optimizations.events(created.id):
            if event.spent.lm_calls >= 10:
                break
        _kill(platform, killed)
        run = await client.optimizations.wait(created.id, timeout_s=300)
    finally:
        platform.simulator.latency_s = 0.0
    calls = _asked(platform) - asked
    assert (run.status, run.error) == (RunStatus.COMPLETED, None)
    assert (run.attempt, run.submissions) == (attempts, attempts)
    assert run.program_runs == whole.runs
    assert tuple(version.hash for version in run.versions) == whole.hashes
    assert whole.calls <= calls <= whole.calls + lost


async def test_runs_side_by_side_see_nothing_of_each_other(
    platform: Platform, client: AsyncDspex
) -> None:
    """DSPy's optimizer and ours, on two models and two programs."""
    await client.apply(BESIDE.format(url=platform.simulator.url))
    bootstrap = {"optimizer": "BootstrapFewShot", "parameters": {"max_bootstrapped_demos": 2}}
    searches = [
        SEARCH,
        SEARCH.model_copy(update={"program": "warm", "model": "beside", **bootstrap}),
    ]
    before = len(platform.simulator.requests)
    created = [await client.optimizations.create(search) for search in searches]
    runs = [await client.optimizations.wait(one.id, timeout_s=300) for one in created]
    assert [(run.status, run.error) for run in runs] == [(RunStatus.COMPLETED, None)] * 2
    found: Counter[tuple[str, float]] = Counter()
    for request in list(platform.simulator.requests)[before:]:
        if request.body is not None and "## claim ##" in str(request.body):
            found[request.body["model"], request.body["temperature"]] += 1
    assert found == {
        ("simulated-1", 0.0): runs[0].spent.lm_calls,
        ("beside-1", 0.7): runs[1].spent.lm_calls,
    }


def _asked(platform: Platform) -> int:
    """Calls of programs: a check of the model's health may come at any time."""
    return sum("## claim ##" in str(request.body) for request in platform.simulator.requests)


def _kill(platform: Platform, name: str) -> None:
    state = platform.state
    found = [
        process
        for process in processes_of(state.id, state.leader)
        if any(part.startswith(name) for part in command_line(process))
    ]
    assert found
    newest = max(found, key=lambda process: process.create_time())  # another run's may be ending
    newest.kill()
    psutil.wait_procs([newest], timeout=10)
