"""Keeps a replica's configuration fresh: LISTEN for changes, and poll in case one is missed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import psycopg
import structlog

from dspex_ray.core.clock import Clock
from dspex_ray.core.ids import ModelId
from dspex_ray.db.configuration import CHANNEL
from dspex_ray.db.engine import Database, psycopg_url
from dspex_ray.models.keyring import KeyRing
from dspex_ray.models.store import every_stats
from dspex_ray.serving import store
from dspex_ray.serving.loader import load_snapshot
from dspex_ray.serving.model import ReplicaKind
from dspex_ray.serving.snapshot import Configuration
from dspex_ray.settings import GatewaySettings
from dspex_ray.traces.losses import lost_with_nodes

log = structlog.get_logger()
_REPORT_S = 5.0
_RETRY_S = 1.0
_GOODBYE_S = 2.0
# Three failed checks take a model out of service for minutes: seconds of trouble are the breaker's.
_CHECKS_APART = timedelta(seconds=30)
_FORGOTTEN = timedelta(hours=1)  # rows of replicas that are long gone

RequestCheck = Callable[[ModelId], Awaitable[None]]


class Refresher:
    """Background tasks of one replica. The request path only reads `configuration`."""

    def __init__(
        self,
        configuration: Configuration,
        database: Database,
        keyring: KeyRing,
        clock: Clock,
        settings: GatewaySettings,
        request_check: RequestCheck,
        *,
        replica: str,
        kind: ReplicaKind,
        node: str,
        pid: int,
        lost: Callable[[], int],
    ) -> None:
        self._configuration = configuration
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._settings = settings
        self._request_check = request_check
        self._replica = replica
        self._kind: ReplicaKind = kind
        self._place = (node, pid)
        self._lost = lost
        self.loaded = asyncio.Event()  #: a snapshot is held
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin on the running loop."""
        for work in (self._follow, self._listen, self._poll_figures):
            self._tasks.append(asyncio.create_task(work()))

    async def stop(self) -> None:
        """End, and tell that nobody need wait for this replica any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(Exception):  # the database may be away: then its silence tells it
            async with asyncio.timeout(_GOODBYE_S), self._database.write() as conn:
                await store.forget_replica(conn, self._replica)

    @property
    def alive(self) -> bool:
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    async def _follow(self) -> None:
        """Reload on every change, and every `snapshot_poll_s` in any case."""
        while True:
            self._changed.clear()
            await self._try(self._refresh)
            with suppress(TimeoutError):
                wait = min(self._settings.snapshot_poll_s, _REPORT_S)
                await asyncio.wait_for(self._changed.wait(), wait)

    async def _refresh(self) -> None:
        snapshot = await load_snapshot(self._database, self._keyring, self._clock)
        held = self._configuration.snapshot
        if snapshot.version >= held.version:
            self._configuration.snapshot = snapshot
            self.loaded.set()
        node, pid = self._place
        async with self._database.write() as conn:
            await store.report_replica(
                conn,
                replica=self._replica,
                kind=self._kind,
                node=node,
                pid=pid,
                applied=self._configuration.snapshot.version,
                lost=self._lost(),
                now=self._clock.now(),
            )
            await store.forget_replicas(conn, self._clock.now() - _FORGOTTEN)

    async def _listen(self) -> None:
        url = psycopg_url(self._database.url)
        while True:
            try:
                conn = await psycopg.AsyncConnection.connect(
                    url, autocommit=True, connect_timeout=5
                )
                async with conn:
                    await conn.execute(f"LISTEN {CHANNEL}")
                    self._changed.set()  # whatever was missed while we were away
                    async for _ in conn.notifies():
                        self._changed.set()
            except (psycopg.Error, OSError):
                await asyncio.sleep(_RETRY_S)

    async def _poll_figures(self) -> None:
        while True:
            await self._try(self._take_figures)
            await asyncio.sleep(self._settings.stats_poll_s)

    async def _take_figures(self) -> None:
        async with self._database.read() as conn:
            self._configuration.figures = await every_stats(conn)
            self._configuration.lost_with_nodes = await lost_with_nodes(conn)
        self._configuration.figures_at = self._clock.now()
        while self._configuration.wanted_checks:
            model_id = self._configuration.wanted_checks.pop()
            if not self._checked_lately(model_id):
                await self._request_check(model_id)

    def _checked_lately(self, model_id: ModelId) -> bool:
        stats = self._configuration.figures.get(model_id)
        last = None if stats is None else stats.last_health_check
        return last is not None and self._clock.now() - last < _CHECKS_APART

    async def _try(self, work: Callable[[], Awaitable[None]]) -> None:
        """Postgres being away is a state of the replica, not a failure of it."""
        try:
            await asyncio.wait_for(work(), timeout=10)
        except Exception as error:
            if self._configuration.database_reachable:
                log.warning("database is away: serving the last snapshot", error=repr(error)[:200])
            self._configuration.database_reachable = False
            await asyncio.sleep(_RETRY_S)
        else:
            if not self._configuration.database_reachable:
                log.info("database is back")
            self._configuration.database_reachable = True
