"""The cache of runs, in Postgres: what was paid for once is not paid for again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from dspex_ray.core.clock import Clock
from dspex_ray.core.ids import ProjectId
from dspex_ray.db.engine import Database
from dspex_ray.evaluation.model import ExampleResult
from dspex_ray.evaluation.store import find_runs, keep_runs


class PostgresRunCache:
    """`harness.RunCache` of one project."""

    def __init__(self, database: Database, clock: Clock, project_id: ProjectId) -> None:
        self._database = database
        self._clock = clock
        self._project_id = project_id

    async def find(
        self, keys: Collection[str], metrics: Mapping[str, str]
    ) -> dict[str, ExampleResult]:
        async with self._database.read() as conn:
            return await find_runs(conn, keys, metrics, self._clock.now())

    async def keep(
        self, results: Sequence[tuple[str, ExampleResult]], metrics: Mapping[str, str], ttl_s: int
    ) -> None:
        now = self._clock.now()
        async with self._database.write() as conn:
            await keep_runs(conn, self._project_id, results, metrics, now=now, ttl_s=ttl_s)
