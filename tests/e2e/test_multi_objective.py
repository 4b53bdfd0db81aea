"""A search for several objectives as a user meets it: Ray Tune carries its trials out."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dspex_ray.client import AsyncDspex
from dspex_ray.core.errors import Invalid
from dspex_ray.optimization.runs import NewOptimization, OptimizationRun, RunStatus
from tests.e2e.platform import Platform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("simulated")]

PROGRAM = """
managed_by: e2e
programs:
  - name: weighed
    source: {signature: "claim -> verdict", module: {type: predict, config: {temperature: 0}}}
    labels: [production]
    assignments: [{model: simulated}]
"""
ROWS = [{"claim": f"s{n}", "verdict": "no" if n % 4 else "yes"} for n in range(24)]
RUN = """
name: weighed
program: weighed
dataset: weighings
examples: {sizes: {train: 8, dev: 8}, seed: 1}
optimizer: MultiObjective
parameters:
  space: {name: weighed}
  models: [simulated]
  population_size: 4
  iterations: 2
  examples: 4
  max_demos: 2
metric: {metric: exact_match}
budget: {lm_calls: 120, usd: "0.5"}
"""


def asked(**changes: object) -> NewOptimization:
    return NewOptimization.model_validate(yaml.safe_load(RUN) | changes)


async def test_a_front_of_measured_programs(platform: Platform) -> None:
    async with platform.async_client() as client:
        await client.apply(PROGRAM)
        await client.datasets.add_rows("weighings", ROWS, create=True)
        created = await client.optimizations.create(asked())
        run = await client.optimizations.wait(created.id, timeout_s=400)
        assert (run.status, run.error) == (RunStatus.COMPLETED, None)
        assert run.spent.lm_calls <= 120
        await _trials_are_on_record(client, run)
        front = await client.optimizations.front(run.id)
        assert [point.picked for point in front.points].count(True) == 1
        assert front.examples == 4
        assert _tune_carried_them_out(platform), "no process of a Tune trial was started"
        await _what_cannot_be_measured_is_refused(client)


async def _trials_are_on_record(client: AsyncDspex, run: OptimizationRun) -> None:
    trials = [trial async for trial in client.optimizations.iterate_trials(run.id)]
    assert [trial.number for trial in trials] == list(range(1, len(trials) + 1))
    assert 5 <= len(trials) <= 10
    for trial in trials:
        assert trial.facts["figures"]["latency"] > 0
        assert trial.facts["figures"]["cost"] > 0


async def _what_cannot_be_measured_is_refused(client: AsyncDspex) -> None:
    with pytest.raises(Invalid, match="nothing measures 'speed'"):
        await client.optimizations.create(asked(parameters={"objectives": {"speed": 1}}))
    with pytest.raises(Invalid, match="would answer for every model"):
        await client.optimizations.create(asked(model="simulated"))


def _tune_carried_them_out(platform: Platform) -> bool:
    """Ray keeps a file of each worker's output, which says what class the actor was."""
    logs = Path(platform.home).rglob("worker-*.out")
    return any("MeasuredTrial" in file.read_text(errors="replace") for file in logs)
