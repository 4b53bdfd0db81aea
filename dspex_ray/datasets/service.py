"""Use cases of datasets; each is one transaction. `importing` has those that bring rows in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from sqlalchemy.exc import IntegrityError

from dspex_ray.core.actor import Actor
from dspex_ray.core.canonical import canonical_json
from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import AlreadyExists, Conflict, Stale
from dspex_ray.core.ids import DatasetId, NewId, new_id
from dspex_ray.core.page import Page, cursor_position, encode_cursor
from dspex_ray.datasets import rules, store
from dspex_ray.datasets.fit import Fit, fit
from dspex_ray.datasets.intake import row_fault
from dspex_ray.datasets.model import (
    CheckReport,
    Dataset,
    DatasetSplit,
    DatasetUpdate,
    DatasetVersion,
    Example,
    ExampleQuery,
    NewDataset,
    RowFault,
    SignatureCheck,
    SplitPart,
)
from dspex_ray.db.audit import audit
from dspex_ray.db.engine import Database, Write
from dspex_ray.programs.service import ProgramService
from dspex_ray.traces.rules import require_storable

_AT_ONCE = 1_000

# Raises Conflict while something refers to the dataset.
RequireUnused = Callable[[Write, Dataset], Awaitable[None]]


class DatasetService:
    """Datasets and their immutable versions; a version None is the newest."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        programs: ProgramService,
        *,
        require_unused: RequireUnused | None = None,
        ids: NewId = new_id,
    ) -> None:
        self._database = database
        self._clock = clock
        self._programs = programs
        self._require_unused = require_unused
        self._ids = ids

    async def get(self, actor: Actor, name: str) -> Dataset:
        async with self._database.read() as conn:
            return await store.get_dataset(conn, actor.project_id, name)

    async def page(self, actor: Actor, **filters: Any) -> Page[Dataset]:
        """Filters: type; cursor, limit. In order of name."""
        async with self._database.read() as conn:
            return await store.list_datasets(conn, actor.project_id, **filters)

    async def create(self, actor: Actor, new: NewDataset) -> Dataset:
        """Without a version: an upload makes the first."""
        require_storable(new.metadata, "metadata")
        now = self._clock.now()
        dataset = Dataset(
            id=DatasetId(self._ids()),
            project_id=actor.project_id,
            created_at=now,
            updated_at=now,
            **new.model_dump(),
        )
        try:
            async with self._database.write() as conn:
                await store.insert_dataset(conn, dataset)
                await audit(
                    conn, actor, "dataset.create", "dataset", new.name, now=now, after=dataset
                )
        except IntegrityError as error:
            raise AlreadyExists(f"a dataset named {new.name!r} exists", field="name") from error
        return dataset

    async def update(
        self, actor: Actor, name: str, change: DatasetUpdate, *, revision: int | None = None
    ) -> Dataset:
        require_storable(change.metadata, "metadata")
        now = self._clock.now()
        async with self._database.write() as conn:
            before = await store.get_dataset(conn, actor.project_id, name)
            _require_revision(before, revision)
            given = {
                field: getattr(change, field)
                for field in change.model_fields_set
                if getattr(change, field) is not None
            }
            after = before.model_copy(update={**given, "updated_at": now})
            await store.update_dataset(conn, after, before.revision)
            after = await store.get_dataset(conn, actor.project_id, name)
            await audit(
                conn, actor, "dataset.update", "dataset", name, now=now, before=before, after=after
            )
        return after

    async def delete(self, actor: Actor, name: str, *, revision: int | None = None) -> None:
        """With all versions and examples. Raises Conflict while something refers to them."""
        now = self._clock.now()
        try:
            async with self._database.write() as conn:
                before = await store.get_dataset(conn, actor.project_id, name, lock=True)
                _require_revision(before, revision)
                if self._require_unused is not None:
                    await self._require_unused(conn, before)
                await store.delete_dataset(conn, before.id)
                await audit(conn, actor, "dataset.delete", "dataset", name, now=now, before=before)
        except IntegrityError as error:
            raise Conflict(f"dataset {name!r} is in use: delete what refers to it first") from error

    # --- versions --------------------------------------------------------------------------

    async def version(self, actor: Actor, name: str, number: int | None = None) -> DatasetVersion:
        async with self._database.read() as conn:
            dataset = await store.get_dataset(conn, actor.project_id, name)
            return await store.get_version(conn, dataset, number)

    async def versions(
        self, actor: Actor, name: str, *, cursor: str | None, limit: int
    ) -> Page[DatasetVersion]:
        """Newest first."""
        async with self._database.read() as conn:
            dataset = await store.get_dataset(conn, actor.project_id, name)
            return await store.list_versions(conn, dataset, cursor=cursor, limit=limit)

    async def split(
        self, actor: Actor, name: str, number: int | None, sizes: Mapping[str, int], seed: int
    ) -> DatasetSplit:
        """What a split comes to; nothing is stored, for it can be had again anywhere."""
        version = await self.version(actor, name, number)
        hashes = await self.hashes(actor, name, version.number)

        def describe() -> DatasetSplit:
            parts = rules.split(hashes, sizes, seed)
            return DatasetSplit(
                dataset=name,
                version=version.number,
                seed=seed,
                sizes=dict(sorted(sizes.items())),
                parts=tuple(
                    SplitPart(
                        name=part,
                        examples=len(positions),
                        fingerprint=rules.fingerprint(hashes, positions),
                    )
                    for part, positions in parts.items()
                ),
                unused=len(hashes) - sum(map(len, parts.values())),
                fingerprint=rules.split_fingerprint(hashes, parts),
            )

        return await asyncio.to_thread(describe)

    async def check(
        self, actor: Actor, name: str, number: int | None, wanted: SignatureCheck
    ) -> CheckReport:
        """Every example against a program's signature: all bad rows counted, some named."""
        program = await self._programs.get(actor, wanted.program)
        program_number = wanted.program_version or program.latest_version
        if program_number is None:
            raise Conflict(f"program {program.name!r} has no version yet: it has no signature")
        against = await self._programs.version(actor, wanted.program, program_number)
        version = await self.version(actor, name, number)
        fitting = fit(against.artifact.signature, (field.name for field in version.fields))
        bad_rows, named = 0, list[list[RowFault]]()
        async with self._database.read() as conn:
            async for batch in store.batches_of(conn, version.id, _AT_ONCE):
                found = await asyncio.to_thread(_bad_rows, fitting, batch)
                bad_rows += len(found)
                room = wanted.limit + 1 - len(named)
                named += [faults for faults in found if faults[0].row >= wanted.start][:room]
        beyond = named[wanted.limit :]
        return CheckReport(
            dataset=name,
            version=version.number,
            program=program.name,
            program_version=program_number,
            examples=version.examples,
            bad_rows=bad_rows,
            inputs=tuple(field.name for field in fitting.inputs),
            outputs=tuple(field.name for field in fitting.outputs),
            absent_outputs=fitting.absent_outputs,
            unused=fitting.unused,
            faults=tuple(fault for faults in named[: wanted.limit] for fault in faults),
            next_start=beyond[0][0].row if beyond else None,
        )

    # --- examples --------------------------------------------------------------------------

    async def hashes(self, actor: Actor, name: str, version: int | None = None) -> list[str]:
        """Of all examples, by position: what splits are made of."""
        async with self._database.read() as conn:
            dataset = await store.get_dataset(conn, actor.project_id, name)
            found = await store.get_version(conn, dataset, version)
            return await store.hashes(conn, found.id)

    async def examples(
        self,
        actor: Actor,
        name: str,
        version: int | None = None,
        positions: Sequence[int] | None = None,
    ) -> list[Example]:
        """Those at `positions`, in their order; all, as imported, when None."""
        async with self._database.read() as conn:
            dataset = await store.get_dataset(conn, actor.project_id, name)
            found = await store.get_version(conn, dataset, version)
            if positions is not None:
                return await store.examples_at(conn, found.id, positions)
            return await store.examples_from(conn, found.id, 0, found.examples)

    async def page_of_examples(
        self, actor: Actor, name: str, number: int | None, query: ExampleQuery
    ) -> Page[Example]:
        """In the order that the query says. Raises Invalid for one that says none."""
        start = 0 if query.cursor is None else cursor_position(query.cursor, _place)
        async with self._database.read() as conn:
            dataset = await store.get_dataset(conn, actor.project_id, name)
            version = await store.get_version(conn, dataset, number)
            if query.split is None and query.sample is None and query.fold is None:
                total = version.examples
                items = await store.examples_from(conn, version.id, start, query.limit)
            else:
                hashes = await store.hashes(conn, version.id)
                positions = await asyncio.to_thread(rules.chosen, query, hashes)
                total = len(positions)
                wanted = positions[start : start + query.limit]
                items = await store.examples_at(conn, version.id, wanted)
        more = start + len(items) < total and bool(items)
        return Page(items=items, next_cursor=encode_cursor(start + len(items)) if more else None)

    async def export(self, actor: Actor, name: str, number: int | None) -> AsyncIterator[bytes]:
        """The values as JSON lines, some at a time: imported again they are the same version.

        Raises NotFound before the first.
        """
        version = await self.version(actor, name, number)

        async def lines() -> AsyncIterator[bytes]:
            for start in range(0, version.examples, _AT_ONCE):
                # A connection each time: whoever reads slowly holds none meanwhile.
                async with self._database.read() as conn:
                    batch = await store.examples_from(conn, version.id, start, _AT_ONCE)
                if not batch:
                    raise Conflict(f"dataset {name!r} was deleted while it was exported")
                yield b"".join(canonical_json(example.values) + b"\n" for example in batch)

        return lines()


def _require_revision(dataset: Dataset, revision: int | None) -> None:
    if revision is not None and revision != dataset.revision:
        raise Stale(
            f"dataset {dataset.name!r} is at revision {dataset.revision}, not {revision}: "
            "read it again"
        )


def _bad_rows(fitting: Fit, examples: Sequence[Example]) -> list[list[RowFault]]:
    """The faults of each row that has any."""
    found = (
        [row_fault(example.number, fault) for fault in fitting.faults(example.values)]
        for example in examples
    )
    return [faults for faults in found if faults]


def _place(text: str) -> int:
    place = int(text)
    if not 0 <= place < 2**31:
        raise ValueError(text)
    return place
