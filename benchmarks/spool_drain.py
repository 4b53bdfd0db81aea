"""How fast a spool is drained into Postgres: records a second, by one drain and by two.

Usage: python benchmarks/spool_drain.py [records]; starts an embedded Postgres of its own.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import func, select

from benchmarks.typical_records import typical
from dspex_ray.core.clock import SystemClock
from dspex_ray.core.ids import new_id
from dspex_ray.db.embedded import EmbeddedPostgres
from dspex_ray.db.engine import Database
from dspex_ray.db.migrate import migrate
from dspex_ray.db.tables import executions
from dspex_ray.settings import SpoolSettings
from dspex_ray.traces.spool import SpoolReader, SpoolWriter
from dspex_ray.traces.writer import Drainer


def main(count: int) -> None:
    home = Path(tempfile.mkdtemp(prefix="dspex-b-"))
    server = EmbeddedPostgres(home / "pg")
    try:
        url = server.start("bench")
        migrate(url)
        asyncio.run(_measure(url, home / "spool", count))
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


async def _measure(url: str, folder: Path, count: int) -> None:
    database = Database(url)
    total = 0
    for drains in (1, 2):
        writer = SpoolWriter(folder, SpoolSettings(), SystemClock(), new_id)
        assert all([writer.append(typical()) for _ in range(count)])
        writer.close()
        started = time.perf_counter()
        await asyncio.gather(*(_drain(database, folder) for _ in range(drains)))
        seconds = time.perf_counter() - started
        total += count
        async with database.read() as conn:
            stored = await conn.execute(select(func.count()).select_from(executions))
        assert stored.scalar_one() == total
        print(f"{drains} drain(s): {count / seconds:,.0f} records/s ({count} in {seconds:.2f} s)")
    await database.close()


async def _drain(database: Database, folder: Path) -> None:
    drainer = Drainer(database, SpoolReader(folder), SpoolSettings(), SystemClock())
    while await drainer.drain_once():
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
