"""What a lost node took with it: appended by its writers, as reported, less what was drained."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from dspex_ray.core.ids import id_source, uuid7
from dspex_ray.db.engine import Database
from dspex_ray.settings import SpoolSettings
from dspex_ray.traces.losses import (
    GRACE,
    LostNode,
    SpoolReporter,
    add_drained,
    count_losses,
    lost_with_nodes,
    report_appended,
)
from dspex_ray.traces.spool import SpoolWriter
from tests.integration.traces.conftest import drain_all, drainer
from tests.unit.traces.records import NOW, FixedClock, a_feedback, a_record

pytestmark = pytest.mark.integration

WRITER, OTHER = uuid7(1_700_000_000_000, 1), uuid7(1_700_000_000_000, 2)
LATER = NOW + GRACE + timedelta(seconds=1)


async def reported(database: Database, writer: UUID, node: str, appended: int) -> None:
    async with database.write() as conn:
        await report_appended(conn, writer, node=node, appended=appended, now=NOW)


async def drained(database: Database, **counts: int) -> None:
    async with database.write() as conn:
        of = {"writer": WRITER, "other": OTHER}
        await add_drained(conn, {of[name]: count for name, count in counts.items()}, NOW)


async def lost(database: Database, *alive: str, at: int = 0) -> tuple[list[LostNode], int]:
    async with database.write() as conn:
        changed = await count_losses(conn, alive, LATER + timedelta(seconds=at))
    async with database.read() as conn:
        return changed, await lost_with_nodes(conn)


async def test_what_is_left_of_a_gone_node_is_lost(database: Database) -> None:
    await reported(database, WRITER, "a", 100)
    await reported(database, OTHER, "b", 50)
    await drained(database, writer=60)
    await drained(database, writer=10, other=50)
    assert await lost(database, "a", "b") == ([], 0)
    assert await lost(database, "b") == ([LostNode("a", 30)], 30)
    assert await lost(database, "b") == ([], 30)  # said once
    # It comes back with its disk, under another name, and its spool is drained.
    await drained(database, writer=30)
    assert await lost(database, "b", "c") == ([LostNode("a", 0)], 0)


async def test_a_node_that_has_just_gone_may_be_restarting(database: Database) -> None:
    await reported(database, WRITER, "a", 1)
    assert await lost(database, at=-2) == ([], 0)
    assert await lost(database) == ([LostNode("a", 1)], 1)


async def test_a_writer_may_be_drained_before_it_reports(database: Database) -> None:
    await drained(database, writer=7)
    assert await lost(database) == ([], 0)
    await reported(database, WRITER, "a", 5)
    await drained(database, writer=1)
    assert await lost(database) == ([], 0)  # more was drained than reported: nothing is known lost


async def test_nodes_are_counted_apart_and_summed(database: Database) -> None:
    await reported(database, WRITER, "a", 3)
    await reported(database, OTHER, "b", 4)
    changed, total = await lost(database)
    assert (sorted(changed), total) == ([LostNode("a", 3), LostNode("b", 4)], 7)


async def test_spool_and_drain_count_the_same(database: Database, tmp_path: Path) -> None:
    """A segment that is read twice, as after a crash between commit and removal, counts once."""
    clock = FixedClock()
    ids = id_source(clock, random.Random(1).getrandbits)
    writer = SpoolWriter(tmp_path, SpoolSettings(), clock, ids)
    reporter = SpoolReporter(database, writer, "a", clock)
    for number in range(3):
        assert writer.append(a_record(number))
    assert writer.append(a_feedback(9))
    await reporter.report()
    writer.rotate()
    [segment] = tmp_path.iterdir()
    kept = segment.read_bytes()
    await drain_all(drainer(database, tmp_path))
    segment.write_bytes(kept)
    await drain_all(drainer(database, tmp_path))
    assert writer.append(a_record(20))
    await reporter.report()
    assert await lost(database) == ([LostNode("a", 1)], 1)
