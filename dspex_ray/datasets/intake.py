"""Rows on their way into the database: checked, hashed, summed up and staged in a file.

The transaction begins when the last row has passed. One bad row, and there is none; the rows
after it are still read, so that all bad ones are named at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

from dspex_ray.core.errors import Invalid, TooLarge
from dspex_ray.datasets.model import MAX_FAULTS, FieldSummary, RowFault
from dspex_ray.datasets.profile import MAX_FIELDS, Profile
from dspex_ray.datasets.rows import Fault, RawRow, Row, accept, whole
from dspex_ray.settings import DatasetSettings

_DIGEST_BYTES = 32


class Taken(NamedTuple):
    """All rows passed. `hash` covers their hashes in order, `bytes` their canonical JSON."""

    examples: int
    hash: str
    bytes: int
    fields: tuple[FieldSummary, ...]


class StagedRow(NamedTuple):
    number: int
    digest: bytes
    text: str


class Intake:
    """Takes rows one by one into `staged`, an empty file of the caller's."""

    def __init__(self, staged: BinaryIO, settings: DatasetSettings) -> None:
        self._staged = staged
        self._settings = settings
        self._profile = Profile()
        self._hash = hashlib.sha256()
        self._rows = 0
        self._bytes = 0
        self._bad = 0
        self._faults: list[RowFault] = []

    def take(self, raws: Iterable[RawRow]) -> None:
        """Raises TooLarge when there are more rows or bytes than a dataset may have."""
        for raw in raws:
            self._take(raw)
            self._rows += 1
            if self._rows > self._settings.max_examples:
                raise TooLarge(
                    f"there are over {self._settings.max_examples} rows: a version may have that "
                    "many examples",
                    field="body",
                )

    def finish(self) -> Taken:
        """Raises Invalid when a row was bad, naming up to MAX_FAULTS of them, or when there was
        none at all."""
        if self._bad:
            raise self._refusal()
        if not self._rows:
            raise Invalid(
                "there are no rows: a dataset has at least one example",
                field="body",
                rule="at least one example",
            )
        return Taken(self._rows, self._hash.hexdigest(), self._bytes, self._profile.summary())

    def _take(self, raw: RawRow) -> None:
        checked = [raw.fault] if raw.fault else accept(raw.values, self._settings.max_row_bytes)
        if isinstance(checked, Row) and not self._profile.has_room(checked.values):
            checked = [whole("fields", f"makes it over {MAX_FIELDS} different fields")]
        if not isinstance(checked, Row):
            self._refuse(checked, raw.line)
        elif not self._bad:
            self._stage(checked)

    def _stage(self, row: Row) -> None:
        self._profile.add(row.values)
        self._hash.update(row.digest)
        self._bytes += len(row.text)
        if self._bytes > self._settings.max_bytes:
            raise TooLarge(f"the rows are over {self._settings.max_bytes} bytes", field="body")
        self._staged.write(row.digest + row.text + b"\n")

    def _refuse(self, faults: list[Fault], line: int | None) -> None:
        self._bad += 1
        if self._bad <= MAX_FAULTS:
            self._faults += [row_fault(self._rows, fault, line) for fault in faults]

    def _refusal(self) -> Invalid:
        first = self._faults[0]
        told = f"{self._bad} of {self._rows} rows are bad, nothing was imported"
        return Invalid(
            f"{told}: {first.message}",
            field=first.field,
            rule=first.rule,
            bad_rows=self._bad,
            rows=self._rows,
            faults=[fault.model_dump(exclude_none=True) for fault in self._faults],
        )


def row_fault(row: int, fault: Fault, line: int | None = None) -> RowFault:
    place = f"row {row}" if line is None else f"row {row} (line {line})"
    what = place if fault.field == "row" else f"{place}: {fault.field}"
    message = f"{what} {fault.message}"
    return RowFault(row=row, field=fault.field, rule=fault.rule, message=message, line=line)


def staged_rows(staged: BinaryIO, at_once: int) -> Iterator[list[StagedRow]]:
    """What an Intake staged, from its beginning, in lists of up to `at_once`."""
    staged.seek(0)
    rows = (_staged_row(number, line) for number, line in enumerate(_records(staged)))
    while batch := list(islice(rows, at_once)):
        yield batch


def _records(staged: BinaryIO) -> Iterator[bytes]:
    """Digest and line: a digest may hold the byte of a line's end, so it is read by its length."""
    while digest := staged.read(_DIGEST_BYTES):
        yield digest + staged.readline()


def _staged_row(number: int, record: bytes) -> StagedRow:
    return StagedRow(number, record[:_DIGEST_BYTES], record[_DIGEST_BYTES:-1].decode())


def as_raw(rows: Iterable[Any]) -> Iterator[RawRow]:
    """Rows that come without a file, and so without lines."""
    return map(RawRow, rows)
