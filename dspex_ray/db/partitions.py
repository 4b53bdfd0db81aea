"""Day partitions of the record tables: made ahead, dropped when their retention has passed."""

from __future__ import annotations

from datetime import date, timedelta

from sqlalchemy import text

from dspex_ray.db.engine import Write
from dspex_ray.db.tables import PARTITIONED

_LOCK = 7301_4411_0002


def partition_name(table: str, day: date) -> str:
    return f"{table}_p{day:%Y%m%d}"


async def ensure_partitions(conn: Write, days: set[date]) -> None:
    """Make the partitions of these days where they are missing."""
    await conn.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    for table in PARTITIONED:
        for day in sorted(days):
            child = partition_name(table.name, day)
            following = day + timedelta(days=1)
            await conn.execute(
                text(
                    f"CREATE TABLE IF NOT EXISTS {child} PARTITION OF {table.name} "
                    f"FOR VALUES FROM ('{day:%Y-%m-%d}') TO ('{following:%Y-%m-%d}')"
                )
            )


async def drop_partitions(conn: Write, before: date) -> list[str]:
    """Drop the partitions of days before `before`; their names, oldest first."""
    dropped: list[str] = []
    for table in PARTITIONED:
        rows = await conn.execute(
            text(
                "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
                "JOIN pg_class p ON p.oid = i.inhparent WHERE p.relname = :parent ORDER BY 1"
            ),
            {"parent": table.name},
        )
        for (child,) in rows.all():
            if child < partition_name(table.name, before):
                await conn.execute(text(f"DROP TABLE {child}"))
                dropped.append(child)
    return dropped
