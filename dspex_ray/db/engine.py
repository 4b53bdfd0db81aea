"""The async engine, and the two kinds of connection: one that reads, one that writes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NewType

import orjson
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

Read = NewType("Read", AsyncConnection)
Write = NewType("Write", AsyncConnection)


def psycopg_url(url: str) -> str:
    """The same database for libpq: without SQLAlchemy's driver name."""
    parsed = make_url(url).set(drivername="postgresql")
    return parsed.render_as_string(hide_password=False)


def _keep_small(connection: Any, _record: Any) -> None:
    """Postgres's default lets a session that stages rows fill 8 MB, a page at a time, and keep it.

    That looked like a leak: 55 MB an hour for the first ten minutes.
    """
    cursor = connection.cursor()
    cursor.execute("SET temp_buffers = '1MB'")
    cursor.close()
    connection.commit()  # else the pool's reset takes it back


class Database:
    """One pool, opened lazily on the loop that first uses it. Never crosses a process."""

    def __init__(self, url: str, *, pool_size: int = 3, max_overflow: int = 2) -> None:
        self.url = url
        self.engine: AsyncEngine = create_async_engine(
            make_url(url).set(drivername="postgresql+psycopg"),
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_timeout=10,
            pool_pre_ping=True,
            json_serializer=lambda value: orjson.dumps(value).decode(),
            json_deserializer=orjson.loads,
            connect_args={"connect_timeout": 5},
        )
        event.listen(self.engine.sync_engine, "connect", _keep_small)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Read]:
        """One REPEATABLE READ, read-only transaction: every statement sees the same moment."""
        async with self.engine.connect() as connection:
            await connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            async with connection.begin():
                yield Read(connection)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Write]:
        """One transaction, committed when the block ends and rolled back when it raises."""
        async with self.engine.begin() as connection:
            yield Write(connection)

    async def close(self) -> None:
        await self.engine.dispose()
