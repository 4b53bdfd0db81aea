"""Drains spool segments into Postgres, a batch in a transaction; doing it twice changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from uuid import UUID

import psycopg
import structlog
from sqlalchemy.exc import StatementError

from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import Invalid
from dspex_ray.db.engine import Database
from dspex_ray.db.partitions import ensure_partitions
from dspex_ray.settings import SpoolSettings
from dspex_ray.traces.losses import add_drained
from dspex_ray.traces.model import ExecutionRecord, SpoolRecord
from dspex_ray.traces.recording import write_executions, write_feedback
from dspex_ray.traces.rules import record_day
from dspex_ray.traces.spool import Segment, SpoolReader

_log = structlog.get_logger(__name__)
_LONGEST_WAIT_S = 15.0
_RETRIED = timedelta(days=7)  # longer than an upgrade takes, shorter than any retention should be

# Errors that lie in a record, not in the way to the database: trying again changes nothing.
_REFUSED = (psycopg.DataError, psycopg.IntegrityError, Invalid, ValueError, TypeError)

Record = tuple[SpoolRecord, Segment]


@dataclass
class _Batch:
    records: list[Record] = field(default_factory=list)
    finished: list[Segment] = field(default_factory=list)


class Drainer:
    """One drain of one folder; several, in any process, may run side by side.

    Segments stay claimed from the first of their records to the commit of the last. `drained`
    counts the records taken from them.
    """

    def __init__(
        self, database: Database, reader: SpoolReader, settings: SpoolSettings, clock: Clock
    ) -> None:
        self.drained = 0
        self._database = database
        self._reader = reader
        self._settings = settings
        self._clock = clock
        self._claims: Iterator[Segment] | None = None
        self._segment: Segment | None = None
        self._records: Iterator[SpoolRecord] = iter(())
        self._days: set[date] = set()  # whose partitions this process has seen

    async def drain_once(self) -> int:
        """Write up to `batch_records` records; how many were taken from the spool, 0 when empty.

        Raises when the database is away: the segments stay, the next call begins them again. A
        record that Postgres refuses is left out and its segment kept as `.bad`.
        """
        batch = _Batch()
        try:
            await asyncio.to_thread(self._fill, batch)
            await self._write(batch.records)
        except BaseException:
            self._let_go(batch)
            raise
        self.drained += len(batch.records)
        await asyncio.to_thread(self._finish, batch)
        return len(batch.records)

    async def run(self, stop: asyncio.Event) -> None:
        """Drain until told to stop. An outage is logged when it begins and when it ends."""
        await asyncio.to_thread(self._reader.retry_bad, self._clock.now() - _RETRIED)
        away, wait_s = False, 0.0
        while not stop.is_set():
            try:
                drained = await self.drain_once()
            except Exception as error:
                if not away:  # the type alone: messages of the database can quote content
                    _log.warning("spool_drain_failed", error=type(_cause(error)).__name__)
                away = True
                wait_s = min(_LONGEST_WAIT_S, max(wait_s * 2, self._settings.drain_interval_s))
            else:
                if away:
                    _log.info("spool_drain_recovered", records=drained)
                away = False
                wait_s = 0.0 if drained else self._settings.drain_interval_s
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), wait_s)
        self._let_go(_Batch())

    def _fill(self, batch: _Batch) -> None:
        while len(batch.records) < self._settings.batch_records:
            segment = self._segment or self._claim()
            if segment is None:
                break
            record = next(self._records, None)
            if record is not None:
                batch.records.append((record, segment))
            else:
                batch.finished.append(segment)
                self._segment = None

    def _claim(self) -> Segment | None:
        """The next segment of the listing under way; None at its end."""
        self._claims = self._claims or self._reader.claim()
        self._segment = next(self._claims, None)
        if self._segment is None:
            self._claims = None
        else:
            self._records = self._reader.read(self._segment)
        return self._segment

    def _finish(self, batch: _Batch) -> None:
        with contextlib.ExitStack() as each:  # one that fails keeps no other claimed
            for segment in batch.finished:
                each.callback(self._reader.done, segment)

    def _let_go(self, batch: _Batch) -> None:
        for segment in [*batch.finished, *([self._segment] if self._segment else [])]:
            self._reader.release(segment)
        self._segment = self._claims = None

    async def _write(self, batch: Sequence[Record]) -> None:
        if not batch:
            return
        try:
            await self._write_records(batch)
        except Exception as error:
            if not isinstance(_cause(error), _REFUSED):
                raise
            self._days.clear()  # retention may have dropped a partition behind our back
            await self._write_one_by_one(batch)

    async def _write_one_by_one(self, batch: Sequence[Record]) -> None:
        for record, segment in batch:
            try:
                await self._write_records([(record, segment)])
            except Exception as error:
                if not isinstance(_cause(error), _REFUSED):
                    raise
                segment.bad = True
                _log.error(
                    "spool_record_refused",
                    record_id=str(record.id),
                    segment=segment.path.name,
                    error=type(_cause(error)).__name__,
                )

    async def _write_records(self, batch: Sequence[Record]) -> None:
        now = self._clock.now()
        today = now.date()
        runs = [record for record, _ in batch if isinstance(record, ExecutionRecord)]
        said = [record for record, _ in batch if not isinstance(record, ExecutionRecord)]
        new: set[UUID] = set()
        days = {run.id: record_day(run.id, today) for run in runs}
        unseen = set(days.values()) - self._days
        async with self._database.write() as conn:
            if unseen:
                await ensure_partitions(conn, unseen)
            if runs:
                new |= await write_executions(conn, runs, days)
            for feedback in sorted(said, key=lambda record: record.id):
                if await write_feedback(conn, feedback):
                    new.add(feedback.id)
            writers = (segment.writer for record, segment in batch if record.id in new)
            await add_drained(conn, Counter(filter(None, writers)), now)
        self._days |= unseen


def _cause(error: BaseException) -> BaseException:
    """The driver's own error, where SQLAlchemy has wrapped it."""
    if isinstance(error, StatementError) and error.orig is not None:
        return error.orig
    return error
