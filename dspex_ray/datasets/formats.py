"""JSONL, CSV and Parquet to rows, as their bytes arrive; no row over the limit is ever whole in
memory. A bad row is a fault of its own; a file that is no such file raises Invalid."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Protocol

from dspex_ray.core.errors import Invalid
from dspex_ray.datasets.model import SourceKind
from dspex_ray.datasets.rows import Fault, RawRow, too_large, whole

_BATCH_BYTES = 4_000_000
_BATCH_ROWS = 1_000


class Format(Protocol):
    """Fed with the bytes of one file, in order; then finished."""

    def feed(self, chunk: bytes) -> Iterable[RawRow]: ...

    def finish(self) -> Iterable[RawRow]: ...


def format_of(kind: SourceKind, max_row_bytes: int, scratch: BinaryIO) -> Format:
    """`scratch` is an empty file for formats that are read from their end."""
    if kind is SourceKind.PARQUET:
        return Parquet(scratch)
    return Csv(max_row_bytes) if kind is SourceKind.CSV else JsonLines(max_row_bytes)


class _Lines:
    """Bytes to lines with their ends. Of a line over `max_bytes` only the news comes through."""

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._number = 0

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes | None]]:
        """(number from 1, line); None for a line that is too long."""
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            self._add(part + b"\n")
            yield self._cut()
        if rest:
            self._add(rest)

    def finish(self) -> Iterator[tuple[int, bytes | None]]:
        if self._size:
            yield self._cut()

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._max:
            self._parts.clear()
        else:
            self._parts.append(part)

    def _cut(self) -> tuple[int, bytes | None]:
        self._number += 1
        line = b"".join(self._parts) if self._size <= self._max else None
        self._parts, self._size = [], 0
        if self._number == 1 and line is not None:
            line = line.removeprefix(codecs.BOM_UTF8)
        return self._number, line


class JsonLines:
    """One JSON object a line, UTF-8; empty lines are nothing."""

    def __init__(self, max_row_bytes: int) -> None:
        self._max = max_row_bytes
        self._lines = _Lines(max_row_bytes)

    def feed(self, chunk: bytes) -> Iterator[RawRow]:
        return self._read(self._lines.feed(chunk))

    def finish(self) -> Iterator[RawRow]:
        return self._read(self._lines.finish())

    def _read(self, lines: Iterable[tuple[int, bytes | None]]) -> Iterator[RawRow]:
        for number, line in lines:
            if line is None:
                yield RawRow(fault=too_large(self._max), line=number)
            elif line.strip():
                yield _json_row(line, number)


def _json_row(line: bytes, number: int) -> RawRow:
    try:
        return RawRow(_parse(line.decode()), line=number)
    except UnicodeDecodeError:
        fault = whole("utf-8", "is not UTF-8")
    except _Repeated as error:
        fault = Fault(str(error)[:100], "unique field", "stands twice in an object")
    except RecursionError:
        fault = whole("depth", "is nested too deep")
    except json.JSONDecodeError as error:
        fault = whole("json", f"is not JSON: {error.msg} at column {error.colno}")
    except ValueError:  # an integer of thousands of digits
        fault = whole("json", "is not JSON: a number is too long")
    return RawRow(fault=fault, line=number)


class _Repeated(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Repeated(next(name for name in names if names.count(name) > 1))
    return found


_parse = json.JSONDecoder(object_pairs_hook=_unique).decode


class Csv:
    """RFC 4180, UTF-8, a header first. Every cell is text, exactly as it stands."""

    def __init__(self, max_row_bytes: int) -> None:
        # The module's own limit, which all readers of the process share, must not come first.
        csv.field_size_limit(max(csv.field_size_limit(), max_row_bytes))
        self._max = max_row_bytes
        self._lines = _Lines(max_row_bytes)
        self._open: list[bytes] = []  # lines of a row whose quotes are not closed yet
        self._quotes = 0
        self._size = 0
        self._began = 1
        self._header: list[str] | None = None

    def feed(self, chunk: bytes) -> Iterator[RawRow]:
        return self._read(self._lines.feed(chunk))

    def finish(self) -> Iterator[RawRow]:
        yield from self._read(self._lines.finish())
        if self._open:
            yield from self._rows()

    def _read(self, lines: Iterable[tuple[int, bytes | None]]) -> Iterator[RawRow]:
        for number, line in lines:
            if not self._open:
                self._began = number
            if line is None or self._size + len(line) > self._max:
                # Whether the next line begins a row cannot be known any more.
                raise self._unreadable(too_large(self._max))
            self._open.append(line)
            self._size += len(line)
            self._quotes += line.count(b'"')
            if self._quotes % 2 == 0:
                yield from self._rows()

    def _rows(self) -> Iterator[RawRow]:
        """The row of the open lines. The header gives none."""
        lines, self._open, self._quotes, self._size = self._open, [], 0, 0
        try:
            found = list(csv.reader((line.decode() for line in lines), strict=True))
        except UnicodeDecodeError:
            yield self._refused(whole("utf-8", "is not UTF-8"))
            return
        except csv.Error as error:
            yield self._refused(whole("csv", f"is not CSV: {error}"))
            return
        for cells in filter(None, found):
            if self._header is None:
                self._header = _header(cells)
            elif len(cells) != len(self._header):
                told = f"has {len(cells)} cells, the header {len(self._header)}"
                yield RawRow(fault=whole("columns", told), line=self._began)
            else:
                yield RawRow(dict(zip(self._header, cells, strict=True)), line=self._began)

    def _refused(self, fault: Fault) -> RawRow:
        if self._header is None:
            raise self._unreadable(fault)
        return RawRow(fault=fault, line=self._began)

    def _unreadable(self, fault: Fault) -> Invalid:
        return Invalid(
            f"line {self._began} {fault.message}: reading stopped there, nothing was imported",
            field=fault.field,
            rule=fault.rule,
            line=self._began,
        )


def _header(names: list[str]) -> list[str]:
    if len(set(names)) < len(names) or not all(names):
        raise Invalid(
            "the header must name every column, each by another name", field="header", rule="unique"
        )
    return names


class Parquet:
    """Kept in `scratch` until it is whole, for its directory stands at its end."""

    def __init__(self, scratch: BinaryIO) -> None:
        self._scratch = scratch

    def feed(self, chunk: bytes) -> Iterable[RawRow]:
        self._scratch.write(chunk)
        return ()

    def finish(self) -> Iterator[RawRow]:
        import pyarrow

        self._scratch.seek(0)
        try:
            yield from self._rows()
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise Invalid(
                f"this is not a Parquet file that can be read: {type(error).__name__}",
                field="body",
                rule="parquet",
            ) from None

    def _rows(self) -> Iterator[RawRow]:
        import pyarrow.parquet

        file = pyarrow.parquet.ParquetFile(self._scratch, buffer_size=1_000_000, pre_buffer=False)
        _header(file.schema_arrow.names)
        for group in range(file.num_row_groups):
            told = file.metadata.row_group(group)
            row_bytes = max(1, told.total_byte_size // max(1, told.num_rows))
            size = min(_BATCH_ROWS, max(1, _BATCH_BYTES // row_bytes))
            for batch in file.iter_batches(size, row_groups=[group], use_threads=False):
                for values in batch.to_pylist():
                    yield RawRow(values)
