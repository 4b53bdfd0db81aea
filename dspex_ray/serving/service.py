"""Use cases of the traffic split."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import timedelta

from dspex_ray.core.actor import Actor
from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import Conflict, NotFound, Stale
from dspex_ray.db.audit import audit
from dspex_ray.db.configuration import bump, current
from dspex_ray.db.engine import Database, Read, Write
from dspex_ray.placements.service import require_placed
from dspex_ray.programs.model import Program, ProgramStatus
from dspex_ray.programs.store import get_program, get_version
from dspex_ray.serving import store
from dspex_ray.serving.model import Applied, NewSplit, Split, SplitApplied
from dspex_ray.serving.split import growing

_ALIVE = timedelta(seconds=15)  # replicas report every 5 s at the latest
_WAIT_STEP_S = 0.02


class SplitService:
    """Splits of a project's programs; every change waits briefly for the replicas."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        token: Callable[[], str] = lambda: secrets.token_hex(8),
        wait_s: float = 1.0,
    ) -> None:
        self._database = database
        self._clock = clock
        self._token = token
        self._wait_s = wait_s

    async def get(self, actor: Actor, program: str) -> Split:
        async with self._database.read() as conn:
            found = await get_program(conn, actor.project_id, program)
            split = await store.find_split(conn, found.id)
        if split is None:
            raise NotFound(f"program {program!r} has no split: its label 'production' decides")
        return split

    async def put(
        self, actor: Actor, program: str, new: NewSplit, *, epoch: int | None = None
    ) -> SplitApplied:
        """Replace the split. The salt stays, so that units keep their buckets; the epoch grows.

        `epoch` is the one the caller read; raises Stale when the split has moved on, NotFound
        for a version that does not exist, Conflict for more weight on one that cannot be served.
        """
        now = self._clock.now()
        async with self._database.write() as conn:
            found = await get_program(conn, actor.project_id, program, lock=True)
            if found.status is ProgramStatus.ARCHIVED:
                raise Conflict(f"program {program!r} is archived: it takes no traffic")
            for arm in new.arms:
                await get_version(conn, found, arm.version)
            last = await store.find_last_split(conn, found.id)
            before = last if last is not None and last.arms else None
            for number in growing(before, new):
                await require_placed(conn, found, number)
            at = 0 if last is None else last.epoch
            if epoch is not None and epoch != at:
                raise Stale(f"the split of {program!r} is at epoch {at}, not {epoch}")
            split = Split(
                program_id=found.id,
                project_id=found.project_id,
                salt=self._token() if last is None else last.salt,
                epoch=at + 1,
                arms=new.arms,
                revision=at + 1,
                updated_at=now,
            )
            await store.put_split(conn, split, at)
            await audit(
                conn, actor, "split.put", "program", program, now=now, before=before, after=split
            )
            version = await bump(conn)
        return SplitApplied(split=split, applied=await self.wait_applied(version))

    async def remove(self, actor: Actor, program: str) -> Applied:
        """Back to the label `production`. Salt and epoch stay: a later split goes on from them."""
        now = self._clock.now()
        async with self._database.write() as conn:
            found = await get_program(conn, actor.project_id, program, lock=True)
            before = await store.find_split(conn, found.id)
            if before is None:
                raise NotFound(f"program {program!r} has no split")
            epoch = before.epoch + 1
            gone = before.model_copy(
                update={"arms": (), "epoch": epoch, "revision": epoch, "updated_at": now}
            )
            await store.put_split(conn, gone, before.epoch)
            await audit(conn, actor, "split.delete", "program", program, now=now, before=before)
            version = await bump(conn)
        return await self.wait_applied(version)

    async def wait_current(self) -> Applied:
        """As `wait_applied`, for everything that is committed by now."""
        async with self._database.read() as conn:
            version = await current(conn)
        return await self.wait_applied(version)

    async def wait_applied(self, version: int) -> Applied:
        """How many replicas have applied `version`, after waiting until all have, `wait_s` at
        most: the answer may be partial, and says so."""
        deadline = self._clock.monotonic() + self._wait_s
        while True:
            async with self._database.read() as conn:
                since = self._clock.now() - _ALIVE
                state = await store.applied(conn, version, since, "gateway", "dedicated")
            done = state.total > 0 and state.applied == state.total
            if done or self._clock.monotonic() >= deadline:
                return state
            await asyncio.sleep(_WAIT_STEP_S)


class VersionTraffic:
    """What placements are told of the traffic, as `placements.service.Traffic` asks for it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def takes(self, conn: Write, program: Program, number: int) -> bool:
        split = await store.find_split(conn, program.id)
        arms = () if split is None else split.arms
        weighty = any(arm.version == number and arm.weight_bp for arm in arms)
        return weighty or number in program.labels.values()

    async def applied(self, conn: Read, version: int) -> bool:
        found = await store.applied(conn, version, self._clock.now() - _ALIVE, "gateway")
        return 0 < found.total == found.applied
