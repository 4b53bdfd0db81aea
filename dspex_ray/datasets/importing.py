"""Use cases that bring rows in: all of them, in one transaction, or none."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import tempfile
from collections.abc import AsyncIterable, Iterator
from pathlib import Path
from typing import BinaryIO

from dspex_ray.core.actor import Actor
from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import TooLarge, Unavailable
from dspex_ray.core.ids import DatasetId, DatasetVersionId, NewId, new_id
from dspex_ray.core.noun import require_name
from dspex_ray.datasets import store
from dspex_ray.datasets.executions import captured_rows
from dspex_ray.datasets.formats import Format, format_of
from dspex_ray.datasets.intake import Intake, Taken, as_raw, staged_rows
from dspex_ray.datasets.model import (
    Dataset,
    DatasetVersion,
    ExecutionFilter,
    SourceKind,
    VersionSource,
)
from dspex_ray.db.audit import audit
from dspex_ray.db.engine import Database, Write
from dspex_ray.programs.service import ProgramService
from dspex_ray.settings import DatasetSettings

_ROWS_AT_ONCE = 500
_WRITERS = 2  # of the process's few connections, an import holds one for seconds


class ImportService:
    """Uploads and executions to dataset versions.

    Rows are checked and staged in a file below `folder` while they arrive, so that memory is
    bounded and no connection waits for a slow sender; then they are copied in one transaction.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        programs: ProgramService,
        settings: DatasetSettings,
        folder: Path,
        ids: NewId = new_id,
    ) -> None:
        self._database = database
        self._clock = clock
        self._programs = programs
        self._settings = settings
        self._folder = folder
        self._ids = ids
        self._writers = asyncio.Semaphore(_WRITERS)

    async def upload(
        self,
        actor: Actor,
        name: str,
        media: SourceKind,
        chunks: AsyncIterable[bytes],
        *,
        source: VersionSource,
        create: bool = False,
    ) -> DatasetVersion:
        """The next version, from a file's bytes; the one that exists already when the rows are
        the same. `create` makes the dataset in the same transaction if it is not there.

        Raises Invalid naming the bad rows, TooLarge, NotFound: nothing is written then.
        """
        await self._require(actor, name, create)
        received = 0
        with self._scratch() as staged, self._scratch() as scratch:
            intake = Intake(staged, self._settings)
            rows = format_of(media, self._settings.max_row_bytes, scratch)
            async for chunk in chunks:
                received += len(chunk)
                if received > self._settings.max_bytes:
                    raise TooLarge(
                        f"the body is over {self._settings.max_bytes} bytes", field="body"
                    )
                await asyncio.to_thread(_feed, intake, rows, chunk)
            await asyncio.to_thread(_feed, intake, rows, None)
            return await self._write(actor, name, source, intake.finish(), staged, create)

    async def from_executions(
        self, actor: Actor, name: str, wanted: ExecutionFilter, *, create: bool = False
    ) -> DatasetVersion:
        """As `upload`, from what ran. Raises NotFound when there is no such program."""
        await self._programs.get(actor, wanted.program)
        await self._require(actor, name, create)
        source = VersionSource(kind=SourceKind.EXECUTIONS, executions=wanted)
        with self._scratch() as staged:
            intake = Intake(staged, self._settings)
            async with self._database.read() as conn:
                async for rows in captured_rows(conn, actor.project_id, wanted):
                    await asyncio.to_thread(intake.take, as_raw(rows))
            return await self._write(actor, name, source, intake.finish(), staged, create)

    async def _require(self, actor: Actor, name: str, create: bool) -> None:
        """Refuse before anything is read what would be refused after."""
        require_name(name)
        if not create:
            async with self._database.read() as conn:
                await store.get_dataset(conn, actor.project_id, name)

    async def _write(
        self,
        actor: Actor,
        name: str,
        source: VersionSource,
        taken: Taken,
        staged: BinaryIO,
        create: bool,
    ) -> DatasetVersion:
        async with self._writers, self._database.write() as conn:
            dataset = await self._dataset(conn, actor, name, create)
            same = await store.find_by_hash(conn, dataset.id, taken.hash)
            if same is not None:
                return same
            version = DatasetVersion(
                id=DatasetVersionId(self._ids()),
                project_id=dataset.project_id,
                dataset_id=dataset.id,
                number=(dataset.latest_version or 0) + 1,
                source=source,
                duplicates=0,
                created_by=actor.name,
                created_at=self._clock.now(),
                **taken._asdict(),
            )
            version = await store.insert_version(conn, version, staged_rows(staged, _ROWS_AT_ONCE))
            await store.touch(conn, dataset.id, version.created_at)
            told = version.model_dump(
                mode="json", include={"number", "hash", "examples", "duplicates", "bytes", "source"}
            )
            await audit(
                conn,
                actor,
                "dataset.add_version",
                "dataset",
                name,
                now=version.created_at,
                after=told,
            )
        return version

    async def _dataset(self, conn: Write, actor: Actor, name: str, create: bool) -> Dataset:
        if not create:
            return await store.get_dataset(conn, actor.project_id, name, lock=True)
        found = await store.find_dataset(conn, actor.project_id, name, lock=True)
        if found is not None:
            return found
        now = self._clock.now()
        new = Dataset(
            id=DatasetId(self._ids()),
            project_id=actor.project_id,
            name=name,
            created_at=now,
            updated_at=now,
        )
        await store.insert_dataset(conn, new)
        await audit(conn, actor, "dataset.create", "dataset", name, now=now, after=new)
        return new

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[BinaryIO]:
        """A file that only this process can open and that goes when it does."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder) as file:
                yield file
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise Unavailable("the disk has no room for this import: try again later") from error


def _feed(intake: Intake, rows: Format, chunk: bytes | None) -> None:
    """None: there is no more."""
    intake.take(rows.finish() if chunk is None else rows.feed(chunk))
