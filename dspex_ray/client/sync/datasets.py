# Generated from ../aio/datasets.py by scripts/generate_sync_client.py: edit that one.
"""Datasets: rows in, examples out."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dspex_ray.client.bodies import Ask, if_match, json_of, media_type_of, params, path, payload
from dspex_ray.client.bodies import query as query_of
from dspex_ray.client.sync.connection import Connection
from dspex_ray.core.page import DEFAULT_LIMIT, MAX_LIMIT, Page
from dspex_ray.datasets.model import (
    CheckReport,
    Dataset,
    DatasetSplit,
    DatasetType,
    DatasetUpdate,
    DatasetVersion,
    Example,
    ExampleQuery,
    ExecutionFilter,
    NewDataset,
    NewDatasetSplit,
    SignatureCheck,
)

_DATASETS = "/api/v1/datasets"
_DATASET = "/api/v1/datasets/{name}"
_VERSION = "/api/v1/datasets/{name}/versions/{version}"

_CHUNK_BYTES = 256_000
_IMPORT_S = 600.0  # a large import is answered when its last row is stored


class Datasets:
    """Named datasets and their immutable versions."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, new: NewDataset) -> Dataset:
        """Without a version: an upload makes the first."""
        return self._connection.call(Dataset, Ask("POST", _DATASETS, content=payload(new)))

    def get(self, name: str) -> Dataset:
        ask = Ask("GET", path(_DATASET, name=name), repeatable=True)
        return self._connection.call(Dataset, ask)

    def list(
        self,
        *,
        type: DatasetType | None = None,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page[Dataset]:
        """In order of name."""
        given = params(type=type, cursor=cursor, limit=limit)
        ask = Ask("GET", _DATASETS, params=given, repeatable=True)
        return self._connection.call(Page[Dataset], ask)

    def iterate(self, *, type: DatasetType | None = None) -> Iterator[Dataset]:
        """Every dataset, page by page."""
        cursor: str | None = None
        while True:
            page = self.list(type=type, cursor=cursor, limit=MAX_LIMIT)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def update(self, name: str, change: DatasetUpdate, *, revision: int | None = None) -> Dataset:
        """Change the given fields; with `revision`, only if the dataset still has it (Stale)."""
        ask = Ask(
            "PATCH", path(_DATASET, name=name), content=payload(change), headers=if_match(revision)
        )
        return self._connection.call(Dataset, ask)

    def delete(self, name: str, *, revision: int | None = None) -> None:
        """With all versions and examples; Conflict while something refers to them."""
        ask = Ask("DELETE", path(_DATASET, name=name), headers=if_match(revision))
        self._connection.send(ask)

    # --- rows in ---------------------------------------------------------------------------

    def upload(
        self,
        name: str,
        content: bytes | Iterable[bytes],
        *,
        media_type: str,
        create: bool = True,
        file: str | None = None,
        python: str | None = None,
        timeout_s: float = _IMPORT_S,
    ) -> DatasetVersion:
        """The bytes of a file (`application/x-ndjson`, `text/csv` or
        `application/vnd.apache.parquet`) as the next version, or as the one that exists with
        the same rows. `file` is its name; `python` the import path of what made the rows.
        Raises Invalid with bad rows in `details["faults"]`: nothing was written.
        """
        ask = Ask(
            "POST",
            path(_DATASET + "/versions", name=name),
            content=content,
            media_type=media_type,
            params=params(create=create, file=file, python=python),
            timeout_s=timeout_s,
        )
        return self._connection.call(DatasetVersion, ask)

    def upload_file(
        self, name: str, file: Path, *, create: bool = True, timeout_s: float = _IMPORT_S
    ) -> DatasetVersion:
        """As `upload`; the name's ending says the format (.jsonl, .csv or .parquet)."""
        return self.upload(
            name,
            _read(file),
            media_type=media_type_of(file.name),
            create=create,
            file=file.name,
            timeout_s=timeout_s,
        )

    def add_rows(
        self,
        name: str,
        rows: Iterable[Mapping[str, Any]],
        *,
        create: bool = True,
        python: str | None = None,
        timeout_s: float = _IMPORT_S,
    ) -> DatasetVersion:
        """Values by field name, sent as they are iterated, as the next version."""
        return self.upload(
            name,
            _lines(rows),
            media_type="application/x-ndjson",
            create=create,
            python=python,
            timeout_s=timeout_s,
        )

    def from_executions(
        self, name: str, wanted: ExecutionFilter, *, create: bool = True
    ) -> DatasetVersion:
        """Captured inputs with what was expected or answered, as the next version."""
        ask = Ask(
            "POST",
            path(_DATASET + "/versions/from-executions", name=name),
            content=payload(wanted),
            params=params(create=create),
            timeout_s=_IMPORT_S,
        )
        return self._connection.call(DatasetVersion, ask)

    # --- versions --------------------------------------------------------------------------

    def versions(
        self, name: str, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[DatasetVersion]:
        """Newest first."""
        ask = Ask(
            "GET",
            path(_DATASET + "/versions", name=name),
            params=params(cursor=cursor, limit=limit),
            repeatable=True,
        )
        return self._connection.call(Page[DatasetVersion], ask)

    def version(self, name: str, version: int) -> DatasetVersion:
        """With its schema and statistics by field."""
        ask = Ask("GET", path(_VERSION, name=name, version=version), repeatable=True)
        return self._connection.call(DatasetVersion, ask)

    def split(self, name: str, version: int, wanted: NewDatasetSplit) -> DatasetSplit:
        """What a seeded split comes to: counts and fingerprints, the same on every machine."""
        ask = Ask(
            "POST",
            path(_VERSION + "/split", name=name, version=version),
            content=payload(wanted),
            repeatable=True,
        )
        return self._connection.call(DatasetSplit, ask)

    def check(self, name: str, version: int, wanted: SignatureCheck) -> CheckReport:
        """Every example against a program's signature."""
        ask = Ask(
            "POST",
            path(_VERSION + "/check", name=name, version=version),
            content=payload(wanted),
            timeout_s=_IMPORT_S,
            repeatable=True,
        )
        return self._connection.call(CheckReport, ask)

    # --- examples --------------------------------------------------------------------------

    def examples(self, name: str, version: int, query: ExampleQuery | None = None) -> Page[Example]:
        """All as imported; or a part of a split, a sample, or what a fold holds out."""
        ask = Ask(
            "GET",
            path(_VERSION + "/examples", name=name, version=version),
            params=query_of(query),
            repeatable=True,
        )
        return self._connection.call(Page[Example], ask)

    def iterate_examples(
        self, name: str, version: int, query: ExampleQuery | None = None
    ) -> Iterator[Example]:
        """Every example from the query's cursor on, in pages of its limit."""
        query = query or ExampleQuery(limit=MAX_LIMIT)
        while True:
            page = self.examples(name, version, query)
            yield from page.items
            if page.next_cursor is None:
                return
            query = query.model_copy(update={"cursor": page.next_cursor})

    def export(self, name: str, version: int) -> Generator[bytes]:
        """The values as JSON lines, as they come: imported again they are the same version."""
        ask = Ask("GET", path(_VERSION + "/export", name=name, version=version), repeatable=True)
        return self._connection.chunks(ask)


def _read(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            yield chunk


def _lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    parts: list[bytes] = []
    size = 0
    for row in rows:
        parts.append(json_of(row) + b"\n")
        size += len(parts[-1])
        if size >= _CHUNK_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    yield b"".join(parts)
