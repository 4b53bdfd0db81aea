"""What was lost with a node: records that its processes appended to the spool on its disk, less
those that some drain has written.

A process reports what it has appended every second, so what it appended after its last report is
not in the count: a lost node lost at least that many. A node that comes back with its disk has its
spool drained, and is taken off the count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from dspex_ray.core.clock import Clock
from dspex_ray.db.engine import Database, Read, Write
from dspex_ray.db.tables import spool_writers
from dspex_ray.traces.spool import SpoolWriter

GRACE = timedelta(seconds=30)  # for a node that restarts, and drains what it finds
_FORGOTTEN = timedelta(days=1)
_EVERY_S = 1.0


class LostNode(NamedTuple):
    """`records` of a node that is gone: at least so many are on its disk alone."""

    node: str
    records: int


async def report_appended(
    conn: Write, writer: UUID, *, node: str, appended: int, now: datetime
) -> None:
    values = {"node": node, "appended": appended, "seen_at": now}
    statement = insert(spool_writers).values(id=writer, drained=0, lost=0, **values)
    await conn.execute(
        statement.on_conflict_do_update(index_elements=[spool_writers.c.id], set_=values)
    )


async def add_drained(conn: Write, counts: Mapping[UUID, int], now: datetime) -> None:
    """In the transaction that writes those records, so that none counts twice."""
    if not counts:
        return
    statement = insert(spool_writers)
    added = spool_writers.c.drained + statement.excluded.drained
    await conn.execute(
        statement.on_conflict_do_update(
            index_elements=[spool_writers.c.id], set_={"drained": added}
        ),
        [  # in order, so that two drains wait for, never on, each other
            {"id": writer, "appended": 0, "drained": count, "lost": 0, "seen_at": now}
            for writer, count in sorted(counts.items())
        ],
    )


async def count_losses(conn: Write, alive: Collection[str], now: datetime) -> list[LostNode]:
    """Count anew what nodes other than `alive` took with them; those whose count has changed."""
    table = spool_writers
    remaining = func.greatest(table.c.appended - table.c.drained, 0)
    changed = await conn.execute(
        update(table)
        .where(table.c.node.not_in(list(alive)), table.c.seen_at < now - GRACE)
        .where(table.c.lost != remaining)
        .values(lost=remaining)
        .returning(table.c.node)
    )
    nodes = set(changed.scalars())
    await conn.execute(
        delete(table).where(table.c.seen_at < now - _FORGOTTEN, table.c.drained >= table.c.appended)
    )
    if not nodes:
        return []
    total = func.sum(table.c.lost).label("records")
    found = await conn.execute(
        select(table.c.node, total).where(table.c.node.in_(nodes)).group_by(table.c.node)
    )
    return [LostNode(row.node, int(row.records)) for row in found]


async def lost_with_nodes(conn: Read) -> int:
    """The records of every lost node."""
    lost = func.coalesce(func.sum(spool_writers.c.lost), 0)
    return int((await conn.execute(select(lost))).scalar_one())


class SpoolReporter:
    """Tells Postgres how much a process has appended, as long as it appends."""

    def __init__(self, database: Database, spool: SpoolWriter, node: str, clock: Clock) -> None:
        self._database = database
        self._spool = spool
        self._node = node
        self._clock = clock
        self._told = 0

    async def run(self) -> None:
        while True:
            with suppress(Exception):  # the database being away is said elsewhere
                await asyncio.wait_for(self.report(), timeout=10)
            await asyncio.sleep(_EVERY_S)

    async def report(self) -> None:
        now, appended = self._clock.now(), self._spool.appended
        if appended == self._told:
            return
        async with self._database.write() as conn:
            await report_appended(conn, self._spool.id, node=self._node, appended=appended, now=now)
        self._told = appended
