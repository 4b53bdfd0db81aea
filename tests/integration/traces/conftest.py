"""A project with models and assignments to count on, and another project beside it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Table, insert, select

from dspex_ray.core.ids import DEFAULT_PROJECT, ProjectId, id_source, uuid7
from dspex_ray.db.engine import Database
from dspex_ray.db.tables import model_stats, models, program_models, projects
from dspex_ray.settings import SpoolSettings
from dspex_ray.traces.model import SpoolRecord
from dspex_ray.traces.spool import SpoolReader, SpoolWriter
from dspex_ray.traces.writer import Drainer
from tests.unit.traces.records import ASSIGNMENTS, MODELS, NOW, FixedClock

STRANGER = ProjectId(uuid7(1_700_000_000_000, 99))
SETTINGS = SpoolSettings(batch_records=7, drain_interval_s=0.01)


@pytest.fixture
async def house(database: Database) -> Database:
    """The database with three models and an assignment of each to a route."""
    async with database.write() as conn:
        await conn.execute(insert(projects).values(id=STRANGER, name="other", created_at=NOW))
        await conn.execute(insert(models), [_model(place) for place in range(3)])
        # The third has no row of figures yet.
        await conn.execute(
            insert(model_stats),
            [{"model_id": key, "project_id": DEFAULT_PROJECT} for key in MODELS[:2]],
        )
        await conn.execute(insert(program_models), [_assignment(place) for place in range(3)])
    return database


def _model(place: int) -> dict[str, Any]:
    return {
        "id": MODELS[place],
        "project_id": DEFAULT_PROJECT,
        "name": f"model-{place}",
        "provider": "local",
        "model_name": "m",
        "config": {},
        "status": "available",
        "supports_functions": False,
        "supports_streaming": False,
        "timeout_s": 1.0,
        "created_at": NOW,
        "updated_at": NOW,
    }


def _assignment(place: int) -> dict[str, Any]:
    return {
        "id": ASSIGNMENTS[place],
        "project_id": DEFAULT_PROJECT,
        "route": "r",
        "model_id": MODELS[place],
        "routing_strategy": "primary",
        "priority": 0,
        "weight": 100,
        "conditions": {},
        "created_at": NOW,
        "updated_at": NOW,
    }


def spooled(folder: Path, records: Sequence[SpoolRecord]) -> None:
    """Several ready segments with these records."""
    settings = SpoolSettings(rotate_bytes=5_000)
    ids = id_source(FixedClock(), random.Random(len(list(folder.glob("*")))).getrandbits)
    writer = SpoolWriter(folder, settings, FixedClock(), ids)
    assert all([writer.append(record) for record in records])
    writer.close()


def drainer(database: Database, folder: Path, settings: SpoolSettings = SETTINGS) -> Drainer:
    return Drainer(database, SpoolReader(folder), settings, FixedClock())


async def drain_all(drain: Drainer) -> int:
    total = 0
    while drained := await drain.drain_once():
        total += drained
    return total


async def table_rows(database: Database, table: Table) -> list[dict[str, Any]]:
    order = list(table.primary_key.columns)
    async with database.read() as conn:
        found = await conn.execute(select(table).order_by(*order))
        return [dict(row) for row in found.mappings()]


def by_id(rows: list[dict[str, Any]], key: str = "id") -> dict[UUID, dict[str, Any]]:
    return {row[key]: row for row in rows}
