"""Use cases of programs; each is one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy.exc import IntegrityError

from dspex_ray.core.actor import Actor
from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import AlreadyExists, Conflict, Invalid, Stale
from dspex_ray.core.ids import NewId, ProgramId, VersionId, new_id
from dspex_ray.core.noun import require_name
from dspex_ray.core.page import Page
from dspex_ray.db.audit import audit
from dspex_ray.db.configuration import bump
from dspex_ray.db.engine import Database, Write
from dspex_ray.db.move import move
from dspex_ray.db.tables import programs as table
from dspex_ray.models.store import hold_names
from dspex_ray.programs import store
from dspex_ray.programs.artifacts import artifact_hash, artifact_payload
from dspex_ray.programs.build import build
from dspex_ray.programs.model import (
    PROGRAM_MACHINE,
    Artifact,
    LabelMove,
    NewProgram,
    Program,
    ProgramSource,
    ProgramStatus,
    ProgramUpdate,
    ProgramVersion,
    VersionSpace,
)
from dspex_ray.programs.redaction import check_patterns
from dspex_ray.programs.rules import check_pins, check_predictor, pin_field
from dspex_ray.programs.source import resolve_source
from dspex_ray.programs.space import space_of, version_space
from dspex_ray.variables.model import Configuration, SampleAsk, Samples, Verdict
from dspex_ray.variables.rules import check

# Raises Conflict when the version cannot take traffic where it is placed.
RequirePlaced = Callable[[Write, Program, int], Awaitable[None]]


class ProgramService:
    """Programs, their immutable versions, and the labels that move among them."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        allowed_packages: tuple[str, ...],
        require_placed: RequirePlaced | None = None,
        ids: NewId = new_id,
    ) -> None:
        self._database = database
        self._clock = clock
        self._allowed = allowed_packages
        self._require_placed = require_placed
        self._ids = ids

    async def get(self, actor: Actor, name: str) -> Program:
        async with self._database.read() as conn:
            return await store.get_program(conn, actor.project_id, name)

    async def page(self, actor: Actor, **filters: Any) -> Page[Program]:
        """Filters: status; cursor, limit. In order of name."""
        async with self._database.read() as conn:
            return await store.list_programs(conn, actor.project_id, **filters)

    async def create(
        self, actor: Actor, new: NewProgram, *, managed_by: str | None = None
    ) -> Program:
        """A draft; with `source` a ready program with version 1 and its labels, all or nothing."""
        check_patterns(new.capture)
        artifact = None if new.source is None else await self.resolve(new.source)
        if artifact is None and new.labels:
            raise Invalid(
                "labels need a version: give `source` as well", field="labels", rule="needs source"
            )
        now = self._clock.now()
        program = Program(
            id=ProgramId(self._ids()),
            project_id=actor.project_id,
            name=new.name,
            description=new.description,
            capture=new.capture,
            managed_by=managed_by,
            created_at=now,
            updated_at=now,
        )
        try:
            async with self._database.write() as conn:
                await store.insert_program(conn, program)
                if artifact is not None:
                    version = await self._add_version(conn, actor, program, artifact)
                    for label in new.labels:
                        await self._label(conn, actor, program, label, version)
                program = await store.get_program(conn, actor.project_id, new.name)
                await audit(
                    conn, actor, "program.create", "program", new.name, now=now, after=program
                )
                await bump(conn)
        except IntegrityError as error:
            raise AlreadyExists(f"a program named {new.name!r} exists", field="name") from error
        return program

    async def update(
        self,
        actor: Actor,
        name: str,
        change: ProgramUpdate,
        *,
        revision: int | None = None,
        managed_by: str | None = None,
    ) -> Program:
        if change.capture is not None:
            check_patterns(change.capture)
        now = self._clock.now()
        async with self._database.write() as conn:
            before = await store.get_program(conn, actor.project_id, name)
            if revision is not None and revision != before.revision:
                raise Stale(
                    f"program {name!r} is at revision {before.revision}, not {revision}: "
                    "read it again"
                )
            given = {
                field: getattr(change, field)
                for field in change.model_fields_set
                if getattr(change, field) is not None
            }
            after = before.model_copy(
                update={**given, "managed_by": managed_by or before.managed_by, "updated_at": now}
            )
            await store.update_program(conn, after, before.revision)
            after = await store.get_program(conn, actor.project_id, name)
            await audit(
                conn, actor, "program.update", "program", name, now=now, before=before, after=after
            )
            await bump(conn)
        return after

    async def archive(self, actor: Actor, name: str) -> Program:
        """Final: an archived program is served no longer; its records stay."""
        now = self._clock.now()
        async with self._database.write() as conn:
            before = await store.get_program(conn, actor.project_id, name)
            await move(conn, table, PROGRAM_MACHINE, before.id, "archive", actor=actor, now=now)
            after = await store.get_program(conn, actor.project_id, name)
            await audit(
                conn, actor, "program.archive", "program", name, now=now, before=before, after=after
            )
            await bump(conn)
        return after

    # --- versions --------------------------------------------------------------------------

    async def add_version(
        self, actor: Actor, name: str, source: ProgramSource, labels: tuple[str, ...] = ()
    ) -> ProgramVersion:
        """A new version, or the existing one of the same content: versions are content."""
        return await self.add_artifact(actor, name, await self.resolve(source), labels)

    async def add_artifact(
        self, actor: Actor, name: str, artifact: Artifact, labels: tuple[str, ...] = ()
    ) -> ProgramVersion:
        """As `add_version`, from an artifact (an export, or an optimizer's result)."""
        await asyncio.to_thread(build, artifact, allowed_packages=self._allowed)
        now = self._clock.now()
        async with self._database.write() as conn:
            program = await store.get_program(conn, actor.project_id, name, lock=True)
            version = await self._add_version(conn, actor, program, artifact)
            moved = [await self._label(conn, actor, program, label, version) for label in labels]
            if version.number > (program.latest_version or 0) or any(moved):
                await store.touch(conn, program, now)
                await bump(conn)
        return version

    async def resolve(self, source: ProgramSource) -> Artifact:
        """The artifact of a source, built once: what is stored can be served. In a thread,
        for importing a program's package may be slow."""

        def resolve() -> Artifact:
            artifact = resolve_source(source, allowed_packages=self._allowed)
            build(artifact, allowed_packages=self._allowed)
            return artifact

        return await asyncio.to_thread(resolve)

    async def _add_version(
        self, conn: Write, actor: Actor, program: Program, artifact: Artifact
    ) -> ProgramVersion:
        if program.status is ProgramStatus.ARCHIVED:
            raise Conflict(f"program {program.name!r} is archived: it takes no versions")
        digest = artifact_hash(artifact)
        same = await store.find_by_hash(conn, program.id, digest)
        if same is not None:
            return same
        await self._require_models(conn, program, artifact)
        now = self._clock.now()
        version = ProgramVersion(
            id=VersionId(self._ids()),
            project_id=program.project_id,
            program_id=program.id,
            number=(program.latest_version or 0) + 1,
            hash=digest,
            artifact=artifact,
            created_by=actor.name,
            created_at=now,
        )
        await store.insert_version(conn, version)
        if program.status is ProgramStatus.DRAFT:
            await move(conn, table, PROGRAM_MACHINE, program.id, "publish", actor=actor, now=now)
        await audit(
            conn,
            actor,
            "program.add_version",
            "program",
            program.name,
            now=now,
            after={"version": version.number, "hash": digest},
        )
        return version

    async def _require_models(self, conn: Write, program: Program, artifact: Artifact) -> None:
        """Raises Invalid for a pinned model that is not registered, or of no predictor."""
        if not artifact.models:
            return
        check_pins(artifact)
        known = await hold_names(conn, program.project_id, set(artifact.models.values()))
        for predictor, model in artifact.models.items():
            if model not in known:
                raise Invalid(
                    f"no model {model!r} in this project",
                    field=pin_field(predictor),
                    rule="known model",
                )

    async def version(self, actor: Actor, name: str, number: int) -> ProgramVersion:
        async with self._database.read() as conn:
            program = await store.get_program(conn, actor.project_id, name)
            return await store.get_version(conn, program, number)

    async def versions(
        self, actor: Actor, name: str, *, cursor: str | None, limit: int
    ) -> Page[ProgramVersion]:
        async with self._database.read() as conn:
            program = await store.get_program(conn, actor.project_id, name)
            return await store.list_versions(conn, program, cursor=cursor, limit=limit)

    async def find_version(self, actor: Actor, name: str, digest: str) -> int | None:
        """The number of the version of this content hash; None when there is none."""
        async with self._database.read() as conn:
            program = await store.get_program(conn, actor.project_id, name)
            version = await store.find_by_hash(conn, program.id, digest)
        return None if version is None else version.number

    async def export(self, actor: Actor, name: str, number: int) -> dict[str, Any]:
        """The artifact as JSON with its hash: what `add_artifact` takes back, losslessly."""
        version = await self.version(actor, name, number)
        return {"hash": version.hash, "artifact": artifact_payload(version.artifact)}

    # --- what may be changed about a version -----------------------------------------------

    async def space(self, actor: Actor, name: str, number: int) -> VersionSpace:
        version = await self.version(actor, name, number)
        return await asyncio.to_thread(version_space, name, version)

    async def sample_space(self, actor: Actor, name: str, number: int, ask: SampleAsk) -> Samples:
        """In a thread, for a search may take seconds. Raises Invalid when nothing is found."""
        from dspex_ray.variables.sampling import sample  # brings scipy

        space = space_of((await self.version(actor, name, number)).artifact)
        return await asyncio.to_thread(sample, space, ask)

    async def check_configuration(
        self, actor: Actor, name: str, number: int, configuration: Configuration
    ) -> Verdict:
        space = space_of((await self.version(actor, name, number)).artifact)
        return check(space, configuration)

    async def require_predictor(self, actor: Actor, name: str, predictor: str) -> None:
        """Raises Invalid when the newest version has no such predictor."""
        program = await self.get(actor, name)
        if program.latest_version is None:
            raise Conflict(f"program {name!r} has no version yet: it has no predictors")
        version = await self.version(actor, name, program.latest_version)
        check_predictor(name, version.artifact, predictor)

    # --- labels ----------------------------------------------------------------------------

    async def label(self, actor: Actor, name: str, label: str, number: int) -> Program:
        """Put `label` on version `number`; the move is kept as an event."""
        require_name(label, "label")
        now = self._clock.now()
        async with self._database.write() as conn:
            program = await store.get_program(conn, actor.project_id, name, lock=True)
            version = await store.get_version(conn, program, number)
            if not await self._label(conn, actor, program, label, version):
                return program
            await store.touch(conn, program, now)
            after = await store.get_program(conn, actor.project_id, name)
            await bump(conn)
        return after

    async def _label(
        self, conn: Write, actor: Actor, program: Program, label: str, version: ProgramVersion
    ) -> bool:
        """False when the label is there already: nothing changes, nothing is written."""
        before = program.labels.get(label)
        if before == version.number:
            return False
        if self._require_placed is not None:
            await self._require_placed(conn, program, version.number)
        moved = LabelMove(
            label=label,
            from_version=before,
            to_version=version.number,
            actor=actor.name,
            at=self._clock.now(),
        )
        await store.put_label(conn, program, version, moved, self._ids)
        await audit(
            conn,
            actor,
            "program.label",
            "program",
            program.name,
            now=moved.at,
            before={"label": label, "version": before},
            after={"label": label, "version": version.number},
        )
        return True

    async def label_moves(self, actor: Actor, name: str, limit: int) -> list[LabelMove]:
        async with self._database.read() as conn:
            program = await store.get_program(conn, actor.project_id, name)
            return await store.list_label_moves(conn, program, limit)
