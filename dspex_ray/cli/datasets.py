"""`dspex dataset ...`: examples to optimise and evaluate with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dspex_ray.cli.dataset_import import import_rows
from dspex_ray.cli.dataset_tables import (
    draw_check,
    draw_examples,
    draw_list,
    draw_split,
    draw_version,
)
from dspex_ray.cli.door import door_of
from dspex_ray.cli.inputs import noun
from dspex_ray.cli.output import Json, emit, say
from dspex_ray.client import Dspex
from dspex_ray.core.errors import NotFound
from dspex_ray.datasets.model import (
    DatasetType,
    ExampleQuery,
    NewDatasetSplit,
    SignatureCheck,
)
from dspex_ray.datasets.rules import sizes_of

app = typer.Typer(no_args_is_help=True, help="Examples to optimise and evaluate with.")
app.command("import")(import_rows)

Name = Annotated[str, typer.Argument(help="The dataset's name, or name@version.")]
Sizes = Annotated[str, typer.Option(help="Such as train=60,dev=40,test=100.")]
Seed = Annotated[int, typer.Option(min=0)]


@app.command("list")
def list_datasets(
    context: typer.Context,
    type: Annotated[DatasetType | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on from here.")] = None,
    as_json: Json = False,
) -> None:
    """In order of name."""
    with door_of(context).client() as client:
        page = client.datasets.list(type=type, limit=limit, cursor=cursor)
    emit(as_json, page, lambda: draw_list(page))


@app.command()
def show(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """A version: its fields with types and statistics, its size and where it comes from."""
    with door_of(context).client() as client:
        dataset, number = _version(client, name)
        version = client.datasets.version(dataset, number)
    emit(as_json, version, lambda: draw_version(dataset, version))


@app.command()
def examples(
    context: typer.Context,
    name: Name,
    split: Annotated[str | None, typer.Option(help="A part of the split of --sizes.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Such as train=60,dev=40.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="So many, drawn by --seed.")] = None,
    fold: Annotated[int | None, typer.Option(min=0, help="Held out by this of --folds.")] = None,
    folds: Annotated[int | None, typer.Option(min=2)] = None,
    seed: Seed = 0,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on from here.")] = None,
    as_json: Json = False,
) -> None:
    """The rows: all as imported, or of a split, a sample or a fold in its seeded order."""
    query = noun(
        ExampleQuery,
        split=split,
        sizes=sizes,
        sample=sample,
        fold=fold,
        folds=folds,
        seed=seed,
        limit=limit,
        cursor=cursor,
    )
    with door_of(context).client() as client:
        page = client.datasets.examples(*_version(client, name), query)
    emit(as_json, page, lambda: draw_examples(page))
    if page.next_cursor is not None and not as_json:
        say(f"More: --cursor {page.next_cursor}")


@app.command()
def check(
    context: typer.Context,
    name: Name,
    program: Annotated[str, typer.Option(help="name, or name@version.")],
    start: Annotated[int, typer.Option(min=0, help="Name bad rows from this one on.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Bad rows that are named.")] = 100,
    as_json: Json = False,
) -> None:
    """Every row against a program's signature. Exits with 1 when one is bad."""
    program_name, program_version = _split_name(program)
    wanted = noun(
        SignatureCheck,
        program=program_name,
        program_version=program_version,
        start=start,
        limit=limit,
    )
    with door_of(context).client() as client:
        report = client.datasets.check(*_version(client, name), wanted)
    emit(as_json, report, lambda: draw_check(report))
    if report.next_start is not None:
        say(f"More bad rows: --start {report.next_start}")
    if report.bad_rows:
        raise typer.Exit(1)


@app.command()
def split(
    context: typer.Context, name: Name, sizes: Sizes, seed: Seed = 0, as_json: Json = False
) -> None:
    """What a seeded split comes to: counts and fingerprints, the same on every machine."""
    wanted = noun(NewDatasetSplit, sizes=sizes_of(sizes), seed=seed)
    with door_of(context).client() as client:
        found = client.datasets.split(*_version(client, name), wanted)
    emit(as_json, found, lambda: draw_split(found))


@app.command()
def delete(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The dataset's name.")],
    as_json: Json = False,
) -> None:
    """Delete a dataset with all versions and examples."""
    with door_of(context).client() as client:
        client.datasets.delete(name)
    emit(as_json, {"deleted": name}, lambda: f"Deleted {name}.")


@app.command()
def export(
    context: typer.Context,
    name: Name,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Else stdout.")] = None,
) -> None:
    """The rows as JSON lines: imported again they are the same version."""
    with door_of(context).client() as client:
        chunks = client.datasets.export(*_version(client, name))
        if output is None:
            for chunk in chunks:
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return
        try:
            with output.open("wb") as file:
                for chunk in chunks:
                    file.write(chunk)
        except OSError as error:
            raise typer.BadParameter(f"{output}: {error}") from None


def _version(client: Dspex, name: str) -> tuple[str, int]:
    """The dataset's name, and the version that is named or else the newest."""
    dataset, number = _split_name(name)
    if number is None:
        number = client.datasets.get(dataset).latest_version
    if number is None:
        raise NotFound(f"dataset {dataset!r} has no version yet: import rows", kind="version")
    return dataset, number


def _split_name(text: str) -> tuple[str, int | None]:
    name, at, number = text.partition("@")
    if not at:
        return name, None
    if not number.isdecimal():
        raise typer.BadParameter(f"{text!r} must read name@version")
    return name, int(number)
