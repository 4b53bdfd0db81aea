"""Reads a snapshot out of Postgres: one REPEATABLE READ transaction, version included."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import Any

import structlog
from pydantic import SecretStr

from dspex_ray.access.store import every_live_record
from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import Invalid
from dspex_ray.core.ids import ProgramId, ProjectId
from dspex_ray.db.configuration import current
from dspex_ray.db.engine import Database, Read
from dspex_ray.models.keyring import KeyRing
from dspex_ray.models.model import Model
from dspex_ray.models.store import StoredKey, every_model
from dspex_ray.placements.rules import place_of
from dspex_ray.placements.store import every_placement
from dspex_ray.programs.store import every_program, versions_by_number, versions_for_snapshot
from dspex_ray.routing.model import ProgramModel
from dspex_ray.routing.store import every_assignment
from dspex_ray.serving import store
from dspex_ray.serving.snapshot import ServedProgram, ServedVersion, Snapshot

log = structlog.get_logger()
NEWEST_VERSIONS = 20  # of every program, besides labelled ones and arms of the split
_ALIVE = timedelta(seconds=15)


async def load_snapshot(database: Database, keyring: KeyRing, clock: Clock) -> Snapshot:
    """The newest committed configuration. Raises when the database is away."""
    now = clock.now()
    async with database.read() as conn:
        version = await current(conn)
        keys = {record.prefix: record for record in await every_live_record(conn)}
        models = await every_model(conn, now)
        assignments = await every_assignment(conn)
        programs = await _served_programs(conn)
        replicas = (await store.applied(conn, 0, now - _ALIVE)).total
        gateways = (await store.applied(conn, 0, now - _ALIVE, "gateway")).total
    return Snapshot(
        version=version,
        taken_at=now,
        keys=keys,
        models={model.id: model for model, _ in models},
        model_ids={(model.project_id, model.name): model.id for model, _ in models},
        provider_keys={model.id: _open(keyring, model, key) for model, key in models},
        programs=programs,
        assignments=_by_program(assignments),
        routes=_by_route(assignments),
        replicas=max(1, replicas),
        gateways=max(1, gateways),
    )


def _open(keyring: KeyRing, model: Model, stored: StoredKey) -> SecretStr | None:
    """The key, or None with a line in the log: one model's missing variable stops no other."""
    try:
        return keyring.open(stored)
    except Invalid as error:
        log.warning("provider key cannot be opened", model=model.name, reason=error.message)
        return None


async def _served_programs(conn: Read) -> dict[tuple[ProjectId, str], ServedProgram]:
    programs = await every_program(conn)
    splits = {split.program_id: split for split in await store.every_split(conn)}
    placements = {
        owned.placement.version_id: owned.placement for owned in await every_placement(conn)
    }
    rows = await versions_for_snapshot(conn, NEWEST_VERSIONS)
    held = {(row.program_id, row.number) for row in rows}
    wanted = {(s.program_id, arm.version) for s in splits.values() for arm in s.arms}
    wanted |= {(placed.program_id, placed.version) for placed in placements.values()}
    rows += await versions_by_number(conn, wanted - held)
    versions: dict[ProgramId, dict[int, ServedVersion]] = defaultdict(dict)
    for row in rows:
        placement = placements.get(row.id)
        place = None if placement is None else place_of(placement)
        versions[row.program_id][row.number] = ServedVersion(
            row.id, row.number, row.hash, row.artifact, place
        )
    return {
        (program.project_id, program.name): ServedProgram(
            program, versions[program.id], splits.get(program.id)
        )
        for program in programs
    }


def _by_program(rows: list[ProgramModel]) -> dict[ProgramId, tuple[ProgramModel, ...]]:
    found: dict[Any, list[ProgramModel]] = defaultdict(list)
    for row in rows:
        if row.program_id is not None:
            found[row.program_id].append(row)
    return {key: tuple(values) for key, values in found.items()}


def _by_route(rows: list[ProgramModel]) -> dict[tuple[ProjectId, str], tuple[ProgramModel, ...]]:
    found: dict[tuple[ProjectId, str], list[ProgramModel]] = defaultdict(list)
    for row in rows:
        if row.route is not None:
            found[row.project_id, row.route].append(row)
    return {key: tuple(values) for key, values in found.items()}
