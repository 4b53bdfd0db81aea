"""Postgres away in the middle of a search: it waits to keep what it has, and pays nothing twice."""

from __future__ import annotations

import asyncio

import pytest

from dspex_ray.optimization.runs import NewOptimization, RunStatus
from tests.faults.house import House
from tests.faults.test_killed import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

OUTAGE_S = 20.0
ROWS = [{"claim": f"o{n}", "verdict": "no" if n % 4 else "yes"} for n in range(24)]
SEARCH = NewOptimization.model_validate(
    {
        "program": "judge@1",
        "dataset": "outage",
        "examples": {"sizes": {"train": 8, "dev": 16}, "seed": 1},
        "optimizer": "DspexSearch",
        "parameters": {"num_candidates": 6, "max_demos": 2, "first_share": 0.5},
        "metric": {"metric": "exact_match"},
        "budget": {"lm_calls": 200},
        "limits": {"threads": 4},
    }
)


def spent(house: House, run_id: object) -> int:
    [[calls]] = house.rows(
        "SELECT coalesce((spent ->> 'lm_calls')::int, 0) FROM optimization_runs WHERE id = %s",
        run_id,
    )
    return int(calls)


def asked(house: House) -> int:
    """Calls of programs, and no checks of the model's health."""
    return sum("## claim ##" in str(request.body) for request in house.simulator.requests)


@pytest.mark.slow
async def test_postgres_away_during_a_search(house: House) -> None:
    async with house.async_client() as client:
        await client.datasets.add_rows("outage", ROWS, create=True)
        house.simulator.latency_s = 0.5
        before = asked(house)
        run = await client.optimizations.create(SEARCH)
        await until(lambda: spent(house, run.id) >= 10, timeout_s=300)
        await asyncio.to_thread(house.server.stop)
        await asyncio.sleep(OUTAGE_S)
        await asyncio.to_thread(house.server.start)
        house.simulator.latency_s = 0.0
        await until(lambda: _ended(house, run.id), timeout_s=300)
        run = await client.optimizations.get(run.id)
    assert (run.status, run.error, run.attempt) == (RunStatus.COMPLETED, None, 1)
    assert run.program_runs > 20
    assert asked(house) - before == run.spent.lm_calls


def _ended(house: House, run_id: object) -> bool:
    [[status]] = house.rows("SELECT status FROM optimization_runs WHERE id = %s", run_id)
    return RunStatus(status).ended
