"""Use cases of placements; each is one transaction. What Serve is to do is said by `plan`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol

from dspex_ray.core.actor import SYSTEM, Actor
from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import Conflict, Invalid, NotFound, Stale
from dspex_ray.core.ids import NewId, new_id
from dspex_ray.db.audit import audit
from dspex_ray.db.configuration import bump, current
from dspex_ray.db.engine import Database, Read, Write
from dspex_ray.db.move import move
from dspex_ray.db.tables import placements as table
from dspex_ray.placements import store
from dspex_ray.placements.model import (
    PLACEMENT_MACHINE,
    NewPlacement,
    Placement,
    PlacementId,
    PlacementStatus,
)
from dspex_ray.placements.rules import (
    Act,
    Action,
    application_name,
    check_runtime_env,
    require_traffic,
)
from dspex_ray.programs.model import Program, ProgramStatus, ProgramVersion
from dspex_ray.programs.store import get_program, get_version
from dspex_ray.programs.validation import validate_inputs
from dspex_ray.settings import PlacementSettings

# What the data plane's snapshot shows of a placement.
_SEEN_BY_GATEWAYS = {Act.SUCCEED, Act.FAIL, Act.LOSE, Act.UNSERVE}


class Traffic(Protocol):
    """What the room of serving knows of versions and of the gateways."""

    async def takes(self, conn: Write, program: Program, number: int) -> bool:
        """Whether requests may come to this version now: by a label or the split."""
        ...

    async def applied(self, conn: Read, version: int) -> bool:
        """Whether there are gateways, and all of them have this configuration or a later one."""
        ...


class Survey(NamedTuple):
    """The placements, and whether every gateway knows them as they are."""

    placements: Sequence[Placement]
    applied: bool


class PlacementService:
    """Which versions run as applications of their own, for people and for the reconciler."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        settings: PlacementSettings,
        traffic: Traffic,
        ids: NewId = new_id,
    ) -> None:
        self.settings = settings
        self._database = database
        self._clock = clock
        self._traffic = traffic
        self._ids = ids

    # --- for people ------------------------------------------------------------------------

    async def get(self, actor: Actor, program: str, number: int) -> Placement:
        """Raises NotFound for a version that is served `shared`."""
        async with self._database.read() as conn:
            found = await get_program(conn, actor.project_id, program)
            version = await get_version(conn, found, number)
            return await self._placed(conn, program, version)

    async def list(self, actor: Actor, program: str) -> list[Placement]:
        """Of all versions of the program, newest first."""
        async with self._database.read() as conn:
            found = await get_program(conn, actor.project_id, program)
            return await store.list_placements(conn, found.id)

    async def put(
        self,
        actor: Actor,
        program: str,
        number: int,
        new: NewPlacement,
        *,
        revision: int | None = None,
        managed_by: str | None = None,
    ) -> Placement:
        """Place a version, or change its placement: what serves it goes on until the new
        replicas are ready. An equal one is left as it is, a failed one is tried again at once.

        Raises Invalid, naming the field, for what the instance does not allow; Stale when
        `revision` is not the placement's.
        """
        self._check_allowed(new)
        now = self._clock.now()
        async with self._database.write() as conn:
            found = await get_program(conn, actor.project_id, program, lock=True)
            if found.status is ProgramStatus.ARCHIVED:
                raise Conflict(f"program {program!r} is archived: it is not served")
            version = await get_version(conn, found, number)
            _check_warm_up(version, new)
            before = await store.find_placement(conn, version.id)
            _check_revision(before, revision)
            if before is not None and before.spec == new and _goes_on(before):
                return before
            after = await self._written(conn, actor, found, version, before, new, managed_by)
            await audit(
                conn,
                actor,
                "placement.put",
                "program",
                f"{program}@{number}",
                now=now,
                before=None if before is None else _told(before),
                after=_told(after),
            )
            await bump(conn)
        return after

    async def remove(self, actor: Actor, program: str, number: int) -> Placement:
        """Serve the version `shared` again. The placement drains, and is gone when its
        application has ended: requests under way are finished."""
        async with self._database.write() as conn:
            found = await get_program(conn, actor.project_id, program, lock=True)
            version = await get_version(conn, found, number)
            before = await self._placed(conn, program, version)
            if before.status is PlacementStatus.DRAINING:
                return before
            return await self._drained(conn, actor, before)

    def check_spec(self, new: NewPlacement) -> None:
        """As `put` does, for those who only plan."""
        self._check_allowed(new)

    # --- for the reconciler ----------------------------------------------------------------

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[bool]:
        """Whether it is this process's turn to reconcile: no other's is meanwhile."""
        async with self._database.write() as conn:
            yield await store.take_turn(conn)

    async def survey(self) -> Survey:
        """As of one moment. Placements of archived programs begin to drain with it."""
        async with self._database.read() as conn:
            owned = await store.every_placement(conn)
            applied = await self._traffic.applied(conn, await current(conn))
        draining = [
            placement
            for placement, archived in owned
            if archived and placement.status is not PlacementStatus.DRAINING
        ]
        for placement in draining:
            async with self._database.write() as conn:
                await self._drained(conn, _system(placement), placement)
        if draining:
            return await self.survey()
        return Survey([placement for placement, _ in owned], applied)

    async def note(self, action: Action) -> None:
        """Write down what was done or seen. Nothing when the placement was changed meanwhile:
        the next plan takes that into account."""
        planned = action.placement
        if planned is None or action.act in {Act.CREATE, Act.DELETE}:
            return
        now, actor = self._clock.now(), _system(planned)
        async with self._database.write() as conn:
            before = await store.lock_placement(conn, planned.id)
            if before is None or before.revision != planned.revision:
                return
            name = f"{before.program}@{before.version}"
            if action.act is Act.FORGET:
                await store.delete_placement(conn, before.id)
                after = None
            else:
                after = await self._moved(conn, actor, before, action)
            await audit(
                conn,
                actor,
                f"placement.{action.act}",
                "program",
                name,
                now=now,
                before=_told(before),
                after=None if after is None else _told(after),
            )
            if action.act in _SEEN_BY_GATEWAYS:
                await bump(conn)

    # --- steps -----------------------------------------------------------------------------

    def _check_allowed(self, new: NewPlacement) -> None:
        check_runtime_env(
            new.runtime_env, packages=self.settings.packages, addresses=self.settings.archives
        )

    async def _placed(self, conn: Read | Write, program: str, version: ProgramVersion) -> Placement:
        found = await store.find_placement(conn, version.id)
        if found is None:
            raise NotFound(
                f"version {version.number} of {program!r} has no placement: it is shared"
            )
        return found

    async def _written(
        self,
        conn: Write,
        actor: Actor,
        program: Program,
        version: ProgramVersion,
        before: Placement | None,
        new: NewPlacement,
        managed_by: str | None,
    ) -> Placement:
        now = self._clock.now()
        application = application_name(
            program.name, version.number, program.project_id, version.id, new
        )
        if before is None:
            after = Placement(
                id=PlacementId(self._ids()),
                project_id=program.project_id,
                program_id=program.id,
                version_id=version.id,
                program=program.name,
                version=version.number,
                spec=new,
                application=application,
                takes_over=await self._traffic.takes(conn, program, version.number),
                managed_by=managed_by,
                since=now,
                created_at=now,
                updated_at=now,
            )
            await store.insert_placement(conn, after)
            return after
        await move(conn, table, PLACEMENT_MACHINE, before.id, "change", actor=actor, now=now)
        takes_over = before.takes_over
        if before.status is PlacementStatus.DRAINING:
            takes_over = await self._traffic.takes(conn, program, version.number)
        changed = {
            "spec": new,
            "application": application,
            "takes_over": takes_over,
            "managed_by": managed_by or before.managed_by,
            "reason": None,
            "failures": 0,
            "since": now,
        }
        await store.update_placement(conn, before.model_copy(update=changed), now)
        after_it = await store.lock_placement(conn, before.id)
        assert after_it is not None
        return after_it

    async def _drained(self, conn: Write, actor: Actor, before: Placement) -> Placement:
        now = self._clock.now()
        await move(conn, table, PLACEMENT_MACHINE, before.id, "drain", actor=actor, now=now)
        changed = {"serving": None, "takes_over": False, "reason": None, "since": now}
        await store.update_placement(conn, before.model_copy(update=changed), now)
        after = await store.lock_placement(conn, before.id)
        assert after is not None
        name = f"{before.program}@{before.version}"
        await audit(
            conn,
            actor,
            "placement.delete",
            "program",
            name,
            now=now,
            before=_told(before),
            after=_told(after),
        )
        await bump(conn)
        return after

    async def _moved(
        self, conn: Write, actor: Actor, before: Placement, action: Action
    ) -> Placement:
        now = self._clock.now()
        changed = _changes(before, action)
        if action.act is not Act.UNSERVE:
            await move(conn, table, PLACEMENT_MACHINE, before.id, action.act, actor=actor, now=now)
            changed["since"] = now
        await store.update_placement(conn, before.model_copy(update=changed), now)
        after = await store.lock_placement(conn, before.id)
        assert after is not None
        return after


async def require_placed(conn: Write, program: Program, number: int) -> None:
    """Raises Conflict, with the reason, when the version cannot take (more) traffic."""
    version = await get_version(conn, program, number)
    require_traffic(await store.find_placement(conn, version.id))


def _changes(before: Placement, action: Action) -> dict[str, Any]:
    """What an action changes beside the status."""
    left = None if before.serving == action.application else before.serving
    match action.act:
        case Act.SUCCEED:
            return {
                "serving": action.application,
                "takes_over": False,
                "reason": None,
                "failures": 0,
            }
        case Act.FAIL:
            return {"serving": left, "reason": action.reason, "failures": before.failures + 1}
        case Act.LOSE:
            return {"serving": left, "reason": action.reason}
        case Act.UNSERVE:
            return {"serving": left}
        case _:
            return {}


def _goes_on(placement: Placement) -> bool:
    return placement.status not in {PlacementStatus.FAILED, PlacementStatus.DRAINING}


def _check_revision(before: Placement | None, revision: int | None) -> None:
    if revision is not None and (before is None or before.revision != revision):
        at = "not there" if before is None else f"at revision {before.revision}"
        raise Stale(f"the placement is {at}, not at {revision}: read it again")


def _check_warm_up(version: ProgramVersion, new: NewPlacement) -> None:
    for index, inputs in enumerate(new.warm_up):
        try:
            validate_inputs(version.artifact.signature, inputs)
        except Invalid as error:
            raise Invalid(
                f"warm_up {index}: {error.message}",
                field=f"warm_up.{index}.{error.field}",
                rule=error.rule,
            ) from error


def _told(placement: Placement) -> dict[str, Any]:
    """For the audit: inputs are content, which it does not hold."""
    told = placement.model_dump(mode="json")
    told["spec"]["warm_up"] = len(placement.spec.warm_up)
    return told


def _system(placement: Placement) -> Actor:
    return SYSTEM._replace(project_id=placement.project_id)
