"""The configuration version: what the data plane's snapshots are measured against."""

from __future__ import annotations

from sqlalchemy import select, text, update

from dspex_ray.db.engine import Read, Write
from dspex_ray.db.tables import configuration

CHANNEL = "dspex_configuration"


async def bump(conn: Write) -> int:
    """Add 1 and tell the replicas. The LAST statement of a configuration transaction: the row
    lock then orders versions as commits are ordered, which a sequence would not."""
    version: int = (
        await conn.execute(
            update(configuration)
            .where(configuration.c.id == 1)
            .values(version=configuration.c.version + 1)
            .returning(configuration.c.version)
        )
    ).scalar_one()
    await conn.execute(
        text("SELECT pg_notify(:channel, :version)"),
        {"channel": CHANNEL, "version": str(version)},
    )
    return version


async def current(conn: Read | Write) -> int:
    version: int = (await conn.execute(select(configuration.c.version))).scalar_one()
    return version
