"""Upgrading without downtime: a second cluster on the same database comes, serves, and goes."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from dspex_ray.cli.instance import LAPTOP_CONFIG, Instance
from dspex_ray.cli.ports import choose_ports
from tests.e2e.platform import run_dspex, up
from tests.faults.house import House
from tests.faults.load import prediction

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

CHANGED = """
managed_by: faults
programs:
  - name: judge
    description: as both clusters know it
"""


async def test_a_second_cluster_beside_the_first(house: House) -> None:
    """Lost: nothing, by the clients of either; a change reaches the replicas of both."""
    home = Path(tempfile.mkdtemp(prefix="dx2-"))
    port = choose_ports().http
    second = replace(house, home=home, url=f"http://127.0.0.1:{port}", port=port)
    before = house.load(prediction("judge"), 2, pause_s=0.05)
    after = second.load(prediction("judge"), 2, pause_s=0.05)
    try:
        async with before.running():
            said = await asyncio.to_thread(up, second.environment, port, LAPTOP_CONFIG)
            assert said["api_key"] is None  # keys are the database's: the first cluster's open both
            async with after.running():
                await after.until(40)
                with second.client() as client:
                    replicas = client.apply(CHANGED).replicas
            # Clients have moved back: this cluster goes as an old one would.
            await asyncio.to_thread(run_dspex, second.environment, "down")
    finally:
        Instance(home).down()
        shutil.rmtree(home, ignore_errors=True)
    assert replicas is not None
    assert (replicas.applied, replicas.total) == (3, 3)
    assert (before.failed, after.failed) == ([], [])
    house.drained(before)
    house.drained(after)
