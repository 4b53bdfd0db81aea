"""Use cases of assignments: which models serve a program, one of its predictors, or a route."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sqlalchemy.exc import IntegrityError

from dspex_ray.core.actor import Actor
from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import AlreadyExists, Stale
from dspex_ray.core.ids import AssignmentId, NewId, new_id
from dspex_ray.core.noun import require_name
from dspex_ray.db.audit import audit
from dspex_ray.db.configuration import bump
from dspex_ray.db.engine import Database, Read, Write
from dspex_ray.models.store import get_model
from dspex_ray.routing import store
from dspex_ray.routing.model import AssignmentUpdate, NewAssignment, ProgramModel
from dspex_ray.routing.store import Target

# Says whether a program (by name) has a predictor; programs are a room above this one.
PredictorCheck = Callable[[Actor, str, str], Awaitable[None]]


class AssignmentService:
    """Assignments of a project. `check_predictor` raises Invalid for a predictor that no version
    of the program has."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        check_predictor: PredictorCheck,
        *,
        ids: NewId = new_id,
    ) -> None:
        self._database = database
        self._clock = clock
        self._check_predictor = check_predictor
        self._ids = ids

    async def assign_to_program(
        self, actor: Actor, program: str, new: NewAssignment, *, managed_by: str | None = None
    ) -> ProgramModel:
        if new.predictor is not None:
            await self._check_predictor(actor, program, new.predictor)
        return await self._assign(actor, program, None, new, managed_by)

    async def assign_to_route(
        self, actor: Actor, route: str, new: NewAssignment, *, managed_by: str | None = None
    ) -> ProgramModel:
        """A route exists as soon as it has an assignment."""
        require_name(route, "route")
        return await self._assign(actor, None, route, new, managed_by)

    async def _assign(
        self,
        actor: Actor,
        program: str | None,
        route: str | None,
        new: NewAssignment,
        managed_by: str | None,
    ) -> ProgramModel:
        now = self._clock.now()
        try:
            async with self._database.write() as conn:
                target = await self._target(conn, actor, program, route)
                model = await get_model(conn, actor.project_id, new.model, now)
                assignment = ProgramModel(
                    id=AssignmentId(self._ids()),
                    project_id=actor.project_id,
                    program_id=target.program_id,
                    route=target.route,
                    model_id=model.id,
                    model_name=model.name,
                    managed_by=managed_by,
                    created_at=now,
                    updated_at=now,
                    **new.model_dump(exclude={"model", "conditions"}),
                    conditions=new.conditions,
                )
                await store.insert_assignment(conn, assignment)
                await audit(
                    conn,
                    actor,
                    "assignment.create",
                    "assignment",
                    assignment.id,
                    now=now,
                    after=assignment,
                )
                await bump(conn)
        except IntegrityError as error:
            raise AlreadyExists(
                f"model {new.model!r} is assigned to {program or route!r} already", field="model"
            ) from error
        return assignment

    async def list_for_program(self, actor: Actor, program: str) -> list[ProgramModel]:
        async with self._database.read() as conn:
            target = await self._target(conn, actor, program, None)
            return await store.list_assignments(conn, actor.project_id, target)

    async def list_for_route(self, actor: Actor, route: str) -> list[ProgramModel]:
        async with self._database.read() as conn:
            return await store.list_assignments(conn, actor.project_id, Target(None, route))

    async def routes(self, actor: Actor) -> list[str]:
        async with self._database.read() as conn:
            return await store.list_routes(conn, actor.project_id)

    async def update(
        self,
        actor: Actor,
        assignment_id: AssignmentId,
        change: AssignmentUpdate,
        *,
        revision: int | None = None,
        managed_by: str | None = None,
    ) -> ProgramModel:
        now = self._clock.now()
        async with self._database.write() as conn:
            before = await store.get_assignment(conn, actor.project_id, assignment_id)
            if revision is not None and revision != before.revision:
                raise Stale(
                    f"assignment is at revision {before.revision}, not {revision}: read it again"
                )
            given = {
                field: getattr(change, field)
                for field in change.model_fields_set
                if getattr(change, field) is not None
            }
            after = before.model_copy(
                update={**given, "managed_by": managed_by or before.managed_by, "updated_at": now}
            )
            await store.update_assignment(conn, after, before.revision)
            after = await store.get_assignment(conn, actor.project_id, assignment_id)
            await audit(
                conn,
                actor,
                "assignment.update",
                "assignment",
                assignment_id,
                now=now,
                before=before,
                after=after,
            )
            await bump(conn)
        return after

    async def remove(self, actor: Actor, assignment_id: AssignmentId) -> None:
        now = self._clock.now()
        async with self._database.write() as conn:
            before = await store.get_assignment(conn, actor.project_id, assignment_id)
            await store.delete_assignment(conn, before)
            await audit(
                conn,
                actor,
                "assignment.delete",
                "assignment",
                assignment_id,
                now=now,
                before=before,
            )
            await bump(conn)

    async def _target(
        self, conn: Read | Write, actor: Actor, program: str | None, route: str | None
    ) -> Target:
        if program is None:
            return Target(None, route)
        return Target(await store.program_id_of(conn, actor.project_id, program), None)
