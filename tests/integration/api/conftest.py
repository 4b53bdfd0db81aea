"""A house to walk through."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from dspex_ray.bootstrap import Services
from dspex_ray.testing.fake_clock import FakeClock
from tests.integration.api.house import House, build
from tests.unit.traces.records import NOW


@pytest.fixture
async def house(
    api: httpx.AsyncClient, services: Services, clock: FakeClock, tmp_path: Path
) -> House:
    """On the day after its one execution ran."""
    clock.advance((NOW - clock.now()).total_seconds() + 60)
    return await build(api, services, tmp_path / "spool")
