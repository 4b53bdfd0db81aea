"""The migrations lead to the metadata, and status moves have one winner."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from uuid import UUID

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, func, insert, select, text
from sqlalchemy.engine import make_url

from dspex_ray.core.actor import SYSTEM
from dspex_ray.core.errors import Conflict, NotFound
from dspex_ray.core.ids import DEFAULT_PROJECT, ProjectId, new_id
from dspex_ray.db import partitions
from dspex_ray.db.configuration import bump, current
from dspex_ray.db.engine import Database
from dspex_ray.db.migrate import migrate
from dspex_ray.db.move import move
from dspex_ray.db.tables import PARTITIONED, executions, metadata, programs, state_events
from dspex_ray.programs.model import PROGRAM_MACHINE

pytestmark = pytest.mark.integration
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_migrated_head_equals_the_metadata(database_url: str) -> None:
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "compare_server_default": True,
                "include_name": lambda name, kind, _: (
                    not (kind == "table" and str(name).startswith("procrastinate_"))
                ),
            },
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    migrate(database_url)
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version FROM configuration")).scalar_one() == 1
    engine.dispose()


async def _program(database: Database) -> UUID:
    identifier = new_id()
    async with database.write() as conn:
        await conn.execute(
            insert(programs).values(
                id=identifier,
                project_id=DEFAULT_PROJECT,
                name="p",
                description="",
                status=PROGRAM_MACHINE.initial,
                capture={},
                created_at=NOW,
                updated_at=NOW,
            )
        )
    return identifier


async def test_racing_moves_have_one_winner_and_one_event(database: Database) -> None:
    identifier = await _program(database)

    async def publish() -> str:
        async with database.write() as conn:
            return await move(
                conn, programs, PROGRAM_MACHINE, identifier, "publish", actor=SYSTEM, now=NOW
            )

    outcomes = await asyncio.gather(*(publish() for _ in range(8)), return_exceptions=True)
    assert [o for o in outcomes if o == "ready"] == ["ready"]
    assert all(isinstance(o, Conflict) for o in outcomes if o != "ready")
    async with database.read() as conn:
        events = (await conn.execute(select(func.count()).select_from(state_events))).scalar_one()
    assert events == 1


async def test_move_of_another_project_is_not_found(database: Database) -> None:
    identifier = await _program(database)
    stranger = SYSTEM._replace(project_id=ProjectId(new_id()))
    with pytest.raises(NotFound):
        async with database.write() as conn:
            await move(
                conn, programs, PROGRAM_MACHINE, identifier, "publish", actor=stranger, now=NOW
            )


async def test_bumps_are_ordered_as_commits(database: Database) -> None:
    async def one() -> int:
        async with database.write() as conn:
            return await bump(conn)

    assert sorted(await asyncio.gather(*(one() for _ in range(10)))) == list(range(2, 12))
    async with database.read() as conn:
        assert await current(conn) == 11


async def test_partitions_are_made_once_and_dropped_by_age(database: Database) -> None:
    days = {date(2026, 1, 1), date(2026, 1, 2)}
    async with database.write() as conn:
        await partitions.ensure_partitions(conn, days)
        await partitions.ensure_partitions(conn, days)
    async with database.write() as conn:
        dropped = await partitions.drop_partitions(conn, before=date(2026, 1, 2))
    assert len(dropped) == len(PARTITIONED)
    assert partitions.partition_name(executions.name, date(2026, 1, 1)) in dropped
