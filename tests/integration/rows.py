"""What Postgres holds, whole: to show that nothing was written, or that nothing leaked."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from dspex_ray.db.engine import Database

_TABLES = """
    SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    ORDER BY 1
"""


class Rows:
    """Reads every table there is, so that a new one is looked at without being named here."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def dump(self) -> dict[str, list[str]]:
        """Each table's rows as text, bytes in hex, in a stable order."""
        async with self._database.read() as conn:
            names = [name for (name,) in (await conn.execute(text(_TABLES))).all()]
            return {
                name: [
                    row
                    for (row,) in await conn.execute(
                        text(f'SELECT t::text FROM "{name}" t ORDER BY 1')
                    )
                ]
                for name in names
            }

    async def of(self, table: str) -> list[dict[str, Any]]:
        async with self._database.read() as conn:
            return [
                dict(row)
                for row in (await conn.execute(text(f'SELECT * FROM "{table}"'))).mappings()
            ]

    async def jobs(self) -> list[tuple[str, str]]:
        """(task, model id) of every job that health checks are, oldest first."""
        async with self._database.read() as conn:
            found = await conn.execute(
                text(
                    "SELECT task_name, args ->> 'model_id' FROM procrastinate_jobs "
                    "WHERE queue_name = 'health' ORDER BY id"
                )
            )
            return [(task, model) for task, model in found.all()]
