"""The spool: what a record costs its request, and how fast records get into Postgres."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from pathlib import Path

from sqlalchemy import func, select

from benchmarks.figures import Row, median, percentile
from benchmarks.rounds import Effort
from benchmarks.typical_records import typical
from dspex_ray.core.clock import SystemClock
from dspex_ray.core.ids import new_id
from dspex_ray.db.embedded import EmbeddedPostgres
from dspex_ray.db.engine import Database
from dspex_ray.db.migrate import migrate
from dspex_ray.db.tables import executions
from dspex_ray.programs.model import CapturePolicy
from dspex_ray.settings import SpoolSettings
from dspex_ray.traces.capture import captured
from dspex_ray.traces.model import ExecutionRecord
from dspex_ray.traces.spool import SpoolReader, SpoolWriter
from dspex_ray.traces.writer import Drainer


def measure(effort: Effort) -> list[Row]:
    return [*_request_path(effort.records), *_drained(effort)]


def _request_path(count: int) -> list[Row]:
    """Capture and append of one record, both in the request."""
    records = [typical() for _ in range(count)]
    rows = []
    for mode in ("full", "redacted"):
        policy = CapturePolicy.model_validate({"mode": mode})
        with tempfile.TemporaryDirectory() as folder:
            writer = SpoolWriter(Path(folder), SpoolSettings(), SystemClock(), new_id)
            taken = sorted(_one(writer, record, policy) for record in records)
            writer.close()
        rows += [
            Row(name=f"record.{mode}.p50", value=round(percentile(taken, 0.5), 1), unit="us"),
            Row(name=f"record.{mode}.p99", value=round(percentile(taken, 0.99), 1), unit="us"),
        ]
    return rows


def _one(writer: SpoolWriter, record: ExecutionRecord, policy: CapturePolicy) -> float:
    started = time.perf_counter()
    if not writer.append(captured(record, policy)):
        raise RuntimeError("the spool refused a record")
    return (time.perf_counter() - started) * 1e6


def _drained(effort: Effort) -> list[Row]:
    """Records a second into an embedded Postgres of its own, by one drain and by two."""
    home = Path(tempfile.mkdtemp(prefix="dxb-"))
    server = EmbeddedPostgres(home / "pg")
    try:
        url = server.start("bench")
        migrate(url)
        found = asyncio.run(_rates(url, home / "spool", effort))
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)
    return [
        Row(name=f"spool.drained_by_{drains}", value=round(median(rates)), unit="records/s")
        for drains, rates in found.items()
    ]


async def _rates(url: str, folder: Path, effort: Effort) -> dict[int, list[float]]:
    database = Database(url)
    found: dict[int, list[float]] = {1: [], 2: []}
    stored = 0
    for _ in range(effort.repeats):
        for drains, rates in found.items():
            _fill(folder, effort.records)
            started = time.perf_counter()
            await asyncio.gather(*(_drain(database, folder) for _ in range(drains)))
            rates.append(effort.records / (time.perf_counter() - started))
            stored += effort.records
            await _check(database, stored)
    await database.close()
    return found


def _fill(folder: Path, count: int) -> None:
    writer = SpoolWriter(folder, SpoolSettings(), SystemClock(), new_id)
    for _ in range(count):
        if not writer.append(typical()):
            raise RuntimeError("the spool refused a record")
    writer.close()


async def _drain(database: Database, folder: Path) -> None:
    drainer = Drainer(database, SpoolReader(folder), SpoolSettings(), SystemClock())
    while await drainer.drain_once():
        pass


async def _check(database: Database, stored: int) -> None:
    async with database.read() as conn:
        found = (await conn.execute(select(func.count()).select_from(executions))).scalar_one()
    if found != stored:
        raise RuntimeError(f"{stored} records were drained, and {found} are stored")
