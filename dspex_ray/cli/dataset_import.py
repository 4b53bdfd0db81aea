"""`dspex dataset import`: rows from a file, a function or what ran, and how far they have got."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from dspex_ray.cli.dataset_tables import draw_version
from dspex_ray.cli.door import Door, door_of
from dspex_ray.cli.inputs import moment, noun
from dspex_ray.cli.output import Json, emit, screen
from dspex_ray.client import Dspex
from dspex_ray.client.bodies import media_type_of
from dspex_ray.core.clock import SystemClock
from dspex_ray.core.errors import Invalid
from dspex_ray.datasets.model import (
    MEDIA_TYPES,
    DatasetVersion,
    ExecutionFilter,
    SourceKind,
)
from dspex_ray.traces.model import Source

_CHUNK_BYTES = 256_000


def import_rows(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The dataset; it is made if it is not there.")],
    file: Annotated[
        Path | None, typer.Argument(help="A .jsonl, .csv or .parquet file; - is stdin.")
    ] = None,
    format: Annotated[
        SourceKind | None, typer.Option(help="jsonl, csv or parquet, if the name does not say it.")
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            help="package.module:function that gives the rows, called here; of a package in "
            "DSPEX_RAY_PROGRAM_PACKAGES."
        ),
    ] = None,
    executions_of: Annotated[
        str | None, typer.Option(help="A program, whose captured executions become examples.")
    ] = None,
    program_version: Annotated[int | None, typer.Option(min=1)] = None,
    min_score: Annotated[float | None, typer.Option(help="Of the newest feedback.")] = None,
    expected_only: Annotated[
        bool, typer.Option(help="Only what has an expectation in its feedback.")
    ] = False,
    source: Annotated[Source | None, typer.Option(help="Of the executions: serving, ...")] = None,
    since: Annotated[str | None, typer.Option(help="30m, 24h, 7d, or an ISO time.")] = None,
    until: Annotated[str | None, typer.Option(help="30m, 24h, 7d, or an ISO time.")] = None,
    limit: Annotated[int | None, typer.Option(help="The newest executions, at most.")] = None,
    as_json: Json = False,
) -> None:
    """Import rows as the dataset's next version: all of them, or none. Rows that are there
    already give the version that holds them."""
    if sum(given is not None for given in (file, python, executions_of)) != 1:
        raise typer.BadParameter("give a file, --python or --executions-of: one of them")
    door = door_of(context)
    with door.client() as client:
        if file is not None:
            version = _from_file(client, name, file, format, quiet=as_json)
        elif python is not None:
            version = _from_python(client, door, name, python, quiet=as_json)
        else:
            now = SystemClock().now()
            wanted = noun(
                ExecutionFilter,
                program=executions_of,
                version=program_version,
                min_score=min_score,
                expected_only=expected_only,
                source=source,
                since=moment(since, now),
                until=moment(until, now),
                limit=limit,
            )
            version = client.datasets.from_executions(name, wanted)
    emit(as_json, version, lambda: draw_version(name, version))


def _from_file(
    client: Dspex, name: str, file: Path, format: SourceKind | None, *, quiet: bool
) -> DatasetVersion:
    by_kind = {kind: media_type for media_type, kind in MEDIA_TYPES.items()}
    if format is None:
        media_type = media_type_of(file.name)
    elif format in by_kind:
        media_type = by_kind[format]
    else:
        raise typer.BadParameter(f"--format {format}: no format of files")
    with _opened(file) as (opened, size), _progress(quiet, size) as progress:
        return client.datasets.upload(
            name,
            progress.bytes_of(opened),
            media_type=media_type,
            file=None if str(file) == "-" else file.name,
        )


def _from_python(client: Dspex, door: Door, name: str, path: str, *, quiet: bool) -> DatasetVersion:
    try:
        from dspex_ray.datasets.python_rows import rows_from
        from dspex_ray.settings import Settings
    except ImportError as error:
        raise Invalid(
            f"--python needs the extra 'server': {error.name} is not installed",
            field="python",
            rule="installed",
        ) from error
    rows = rows_from(path, Settings(home=door.home).program_packages)
    with _progress(quiet, None) as progress:
        return client.datasets.add_rows(name, progress.rows_of(rows), python=path)


@contextmanager
def _opened(file: Path) -> Iterator[tuple[BinaryIO, int | None]]:
    """The file, and its size if it has one."""
    if str(file) == "-":
        yield sys.stdin.buffer, None
        return
    try:
        opened = file.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error}") from None
    with opened:
        yield opened, file.stat().st_size


class _Sent:
    """Tells a progress display what goes by, and when there is no more to send."""

    def __init__(self, progress: Progress, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task("Sending", total=total)

    def bytes_of(self, file: BinaryIO) -> Iterator[bytes]:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
            self._progress.advance(self._task, len(chunk))
        self._wait("Storing")

    def rows_of(self, rows: Iterator[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        for number, row in enumerate(rows, 1):
            yield row
            if number % 1_000 == 0:
                self._progress.update(self._task, description=f"Sending {number:,} rows")
        self._wait("Storing")

    def _wait(self, what: str) -> None:
        self._progress.update(self._task, description=what)


@contextmanager
def _progress(quiet: bool, total: int | None) -> Iterator[_Sent]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = screen(stderr=True)
    shown = columns if total is not None else (columns[0], columns[1], columns[5])
    hidden = quiet or not console.is_terminal
    with Progress(*shown, console=console, transient=True, disable=hidden) as progress:
        yield _Sent(progress, total)
