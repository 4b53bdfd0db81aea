"""The spool: records on the local disk before their response ends, drained to Postgres later.

A segment is the file of one process: `<uuid7>.<writer>.open` while its writer holds an flock on it,
then `.ready`; an `.open` one whose lock is free is the leaving of a process that died. A record
is one line, `<length> <crc32> <json>`, both numbers as 8 hex digits: a torn end is recognised, and
after a corrupt line reading goes on with the next. What `append` returned True for survives the
death of the process, not that of the node: there is no fsync on the request path.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import structlog
from pydantic import TypeAdapter

from dspex_ray.core.clock import Clock
from dspex_ray.core.ids import NewId, created_at
from dspex_ray.settings import SpoolSettings
from dspex_ray.traces.model import ExecutionRecord, SpoolRecord

OPEN, READY, BAD = ".open", ".ready", ".bad"
_RECORD: TypeAdapter[SpoolRecord] = TypeAdapter(SpoolRecord)
_PREFIX = 18  # bytes: two numbers of 8 hex digits, a space after each
_RESCAN_S = 1.0
_ALARM_EVERY_S = 10.0

_log = structlog.get_logger(__name__)


def encode(record: SpoolRecord) -> bytes:
    """The record's line. Raises ValueError when a value has no JSON, such as a lone surrogate."""
    # Its own serializer: to choose among the kinds of records takes as long as writing one.
    dump = type(record).__pydantic_serializer__.to_json
    return _framed(dump(record, by_alias=True, exclude_none=True, fallback=str))


def decode(line: bytes) -> SpoolRecord:
    """Raises ValueError when the line is not one that `encode` made."""
    body = line[_PREFIX:-1]
    if line != _framed(body):
        raise ValueError("length or checksum differs")
    return _RECORD.validate_json(body)


def _framed(body: bytes) -> bytes:
    return b"%08x %08x %b\n" % (len(body), zlib.crc32(body), body)


class _Current(NamedTuple):
    path: Path
    fd: int


class SpoolWriter:
    """Appends records of one process. Thread-safe; opens its segment at the first append.

    `id` is this writer's, in the name of each of its segments; `appended` counts what was kept.
    `lost` counts records that could not be kept: a full disk, or a folder at `max_bytes`. That is
    logged when it begins, and every ten seconds while it goes on.
    """

    def __init__(self, folder: Path, settings: SpoolSettings, clock: Clock, ids: NewId) -> None:
        self.id = ids()
        self.appended = 0
        self.lost = 0
        self._folder = folder
        self._settings = settings
        self._clock = clock
        self._ids = ids
        self._lock = threading.Lock()
        self._current: _Current | None = None
        self._previous: Path | None = None
        self._size = 0
        self._folder_bytes = 0
        self._rescan_at = float("-inf")
        self._alarm_at = float("-inf")

    def append(self, record: SpoolRecord) -> bool:
        """Whether the record is kept. Never raises: the answer is there, and shall go out."""
        try:
            line = _line(record)
            with self._lock:
                self._write(line)
        except Exception as error:
            self._count_lost(error)
            return False
        return True

    def rotate(self) -> None:
        """Hand the segment over to the drain; for the owner's timer. Never raises.

        While the segment before it waits to be drained, one that is not full stays open: a long
        outage of the database then leaves few large files, not one for every tick.
        """
        with self._lock:
            behind = self._previous is not None and self._previous.exists()
            if not behind or self._size >= self._settings.rotate_bytes:
                self._hand_over()

    def close(self) -> None:
        """Hand over what is there. A later append opens a new segment."""
        with self._lock:
            self._hand_over()

    def _count_lost(self, error: Exception) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self.lost += 1
            lost, due = self.lost, now >= self._alarm_at
            if due:
                self._alarm_at = now + _ALARM_EVERY_S
        if due:  # by number alone: another kind of error may quote content
            number = error.errno if isinstance(error, OSError) else None
            reason = errno.errorcode.get(number or 0)
            _log.error("spool_records_lost", lost=lost, error=type(error).__name__, reason=reason)

    def _write(self, line: bytes) -> None:
        self._check_room(len(line))
        current = self._current or self._open()
        written = os.write(current.fd, line)
        if written != len(line):
            os.ftruncate(current.fd, self._size)  # no torn line before a whole one
            raise OSError(errno.ENOSPC, "the disk took part of a record")
        self.appended += 1
        self._size += written
        self._folder_bytes += written
        if self._size >= self._settings.rotate_bytes:
            self._hand_over()

    def _check_room(self, wanted: int) -> None:
        if self._folder_bytes + wanted <= self._settings.max_bytes:
            return
        now = self._clock.monotonic()
        if now >= self._rescan_at:
            self._folder_bytes = _bytes_in(self._folder)
            self._rescan_at = now + _RESCAN_S
        if self._folder_bytes + wanted > self._settings.max_bytes:
            raise OSError(errno.EDQUOT, "the spool holds max_bytes")

    def _open(self) -> _Current:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        self._folder_bytes = _bytes_in(self._folder)
        while True:
            path = self._folder / f"{self._ids()}.{self.id.hex}{OPEN}"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            # A reader may see the file before it is locked, and take it for a dead process's.
            if _lock(fd) and _is_at(fd, path):
                self._size = 0
                self._current = _Current(path, fd)
                return self._current
            os.close(fd)

    def _hand_over(self) -> None:
        current, self._current = self._current, None
        if current is None:
            return
        ready = current.path.with_suffix(READY)
        try:
            current.path.rename(ready)
            self._previous = ready
        except OSError:
            pass  # left as `.open`, its lock free: the drain takes it for a dead process's
        finally:
            self._size = 0
            os.close(current.fd)


@dataclass(eq=False)
class Segment:
    """A claimed segment: its lock is held until `done` or `release`."""

    path: Path
    fd: int
    bad: bool = False  #: some line could not be read or written; kept for a person to look at

    @property
    def writer(self) -> UUID | None:
        """Who wrote it; None for a segment of a release that did not say."""
        _, _, name = self.path.stem.partition(".")
        return UUID(name) if name else None


class SpoolReader:
    """Claims segments one by one, so that two drains of a folder never take the same.

    `torn` counts unfinished last lines (of appends that never returned), `corrupt` bad lines.
    """

    def __init__(self, folder: Path) -> None:
        self.torn = 0
        self.corrupt = 0
        self._folder = folder

    def claim(self) -> Iterator[Segment]:
        """Segments that no process holds, oldest first, as of the first step."""
        names = sorted(_names(self._folder))
        for path in (self._folder / name for name in names if name.endswith((READY, OPEN))):
            try:
                fd = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue  # another drain was quicker
            # Locked, but perhaps renamed or removed between open and lock.
            if _lock(fd) and _is_at(fd, path):
                yield Segment(path, fd)
            else:
                os.close(fd)

    def read(self, segment: Segment) -> Iterator[SpoolRecord]:
        """Its whole records, in order of writing."""
        with segment.path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    self.torn += 1
                    return
                try:
                    yield decode(line)
                except ValueError:
                    self.corrupt += 1
                    segment.bad = True

    def done(self, segment: Segment) -> None:
        """Remove it, or set it aside as `.bad`; call when its records are committed."""
        try:
            if segment.bad:
                segment.path.rename(segment.path.with_suffix(BAD))
            else:
                segment.path.unlink()
        finally:
            os.close(segment.fd)

    def release(self, segment: Segment) -> None:
        """Leave it for whoever claims it next."""
        os.close(segment.fd)

    def retry_bad(self, since: datetime) -> int:
        """Offer the segments begun since then that were set aside once more; how many.

        For a drain that starts: a newer release may read what an older one could not. What was
        written of them already is not written twice, as long as retention has not dropped it.
        """
        names = [name for name in _names(self._folder) if name.endswith(BAD)]
        young = [name for name in names if _begun(name) >= since]
        for path in (self._folder / name for name in young):
            with suppress(FileNotFoundError):  # another drain was quicker
                path.rename(path.with_suffix(READY))
        return len(young)


class SpoolFigures(NamedTuple):
    """What waits to be drained, open segments included; `bad` segments wait for a person."""

    segments: int
    bytes: int
    oldest_age_s: float  #: 0.0 when nothing waits
    bad: int


def spool_figures(folder: Path, now: datetime) -> SpoolFigures:
    """Looks at every file's name and size: for a poll, not for each request."""
    segments = size = bad = 0
    oldest: datetime | None = None
    for path in (folder / name for name in _names(folder)):
        if path.suffix == BAD:
            bad += 1
        elif path.suffix in (OPEN, READY) and (length := _length(path)):
            segments, size = segments + 1, size + length
            born = _begun(path.name)
            oldest = born if oldest is None else min(born, oldest)
    age_s = 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())
    return SpoolFigures(segments, size, age_s, bad)


def _line(record: SpoolRecord) -> bytes:
    try:
        return encode(record)
    except ValueError:
        # Content that JSON cannot hold: the record without it is better than none.
        if not isinstance(record, ExecutionRecord):
            raise
        calls = (c.model_copy(update={"request": None, "response": None}) for c in record.lm_calls)
        bare = {"inputs": None, "outputs": None, "lm_calls": tuple(calls), "capture": "none"}
        return encode(record.model_copy(update=bare))


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _begun(name: str) -> datetime:
    """When the segment of this file name was."""
    return created_at(UUID(name.partition(".")[0]))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _bytes_in(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(_size(entry) for entry in entries)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0


def _length(path: Path) -> int:
    """In bytes; zero when a drain has just removed the file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
