"""`dspex program ...`: programs, their versions and labels, and running them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dspex_ray.cli import placements, program_run, program_space
from dspex_ray.cli.door import door_of
from dspex_ray.cli.inputs import noun
from dspex_ray.cli.output import Json, emit, fields, print_json, table, when
from dspex_ray.cli.sources import (
    Adapter,
    File,
    ImportPath,
    Instructions,
    Module,
    SignatureText,
    given_version,
)
from dspex_ray.core.page import Page
from dspex_ray.programs.model import (
    CapturePolicy,
    ImportArtifact,
    ModuleType,
    NewProgram,
    Program,
    ProgramStatus,
    ProgramVersion,
)

app = typer.Typer(no_args_is_help=True, help="Programs, their versions and labels.")
app.command("run")(program_run.run)
app.command("space")(program_space.space)
app.command("place")(placements.place)
app.command("unplace")(placements.unplace)
app.command("placements")(placements.placements)

Name = Annotated[str, typer.Argument(help="The program's name.")]
Number = Annotated[int, typer.Argument(help="A version's number.")]
Labels = Annotated[
    list[str] | None, typer.Option("--label", help="Put this label on the version; repeatable.")
]


@app.command()
def create(
    context: typer.Context,
    name: Name,
    file: File = None,
    signature: SignatureText = None,
    module: Module = ModuleType.PREDICT,
    instructions: Instructions = None,
    import_path: ImportPath = None,
    adapter: Adapter = None,
    description: Annotated[str | None, typer.Option()] = None,
    capture: Annotated[
        str | None, typer.Option(help="Content to keep: full, redacted or none.")
    ] = None,
    label: Labels = None,
    as_json: Json = False,
) -> None:
    """Create a program, with its first version when one is described."""
    version = given_version(file, signature, module, instructions, import_path, adapter)
    if version is not None and version.artifact is not None:
        raise typer.BadParameter(
            "an export is added to a program that exists: dspex program add-version"
        )
    new = noun(
        NewProgram,
        name=name,
        description=description,
        capture=None if capture is None else noun(CapturePolicy, mode=capture),
        source=None if version is None else version.source,
        labels=tuple(label or ()) or None,
    )
    with door_of(context).client() as client:
        program = client.programs.create(new)
    emit(as_json, program, lambda: _draw(program))


@app.command("list")
def list_programs(
    context: typer.Context,
    status: Annotated[ProgramStatus | None, typer.Option()] = None,
    as_json: Json = False,
) -> None:
    """All programs."""
    with door_of(context).client() as client:
        found = list(client.programs.iterate(status=status))
    rows = (
        (
            program.name,
            program.status,
            program.latest_version,
            _labels(program),
            program.description or None,
        )
        for program in found
    )
    columns = ("NAME", "STATUS", "VERSIONS", "LABELS", "DESCRIPTION")
    emit(as_json, Page(items=found), lambda: table(columns, rows))


@app.command()
def show(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """One program."""
    with door_of(context).client() as client:
        program = client.programs.get(name)
    emit(as_json, program, lambda: _draw(program))


@app.command()
def versions(
    context: typer.Context,
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    as_json: Json = False,
) -> None:
    """Its versions, newest first."""
    with door_of(context).client() as client:
        program = client.programs.get(name)
        page = client.programs.versions(name, limit=limit)
    rows = (
        (
            version.number,
            version.hash[:12],
            _kind(version),
            _models(version),
            ", ".join(label for label, number in program.labels.items() if number == version.number)
            or None,
            version.created_by,
            when(version.created_at),
        )
        for version in page.items
    )
    columns = ("VERSION", "HASH", "KIND", "MODELS", "LABELS", "BY", "AT")
    emit(as_json, page, lambda: table(columns, rows))


@app.command("add-version")
def add_version(
    context: typer.Context,
    name: Name,
    file: File = None,
    signature: SignatureText = None,
    module: Module = ModuleType.PREDICT,
    instructions: Instructions = None,
    import_path: ImportPath = None,
    adapter: Adapter = None,
    label: Labels = None,
    as_json: Json = False,
) -> None:
    """Add a version; equal content gives the version that exists already."""
    new = given_version(file, signature, module, instructions, import_path, adapter)
    if new is None:
        raise typer.BadParameter("describe it: --file, --signature or --import-path")
    if label:
        new = new.model_copy(update={"labels": tuple(label)})
    with door_of(context).client() as client:
        version = client.programs.add_version(name, new)
    emit(
        as_json,
        version,
        lambda: fields(
            (
                ("version", version.number),
                ("hash", version.hash),
                ("kind", _kind(version)),
                ("models", _models(version)),
            )
        ),
    )


@app.command()
def label(
    context: typer.Context,
    name: Name,
    label: Annotated[str, typer.Argument(help="Such as production or staging.")],
    version: Number,
    as_json: Json = False,
) -> None:
    """Put a label on a version. What carries `production` is served, unless a split says else."""
    with door_of(context).client() as client:
        program = client.programs.label(name, label, version)
    emit(as_json, program, lambda: _draw(program))


@app.command()
def export(
    context: typer.Context,
    name: Name,
    version: Number,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file; stdout if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """A version's artifact as JSON; `add-version -f` takes it back, here or elsewhere."""
    with door_of(context).client() as client:
        exported = client.programs.export(name, version)
    if output is None:
        print_json(exported)
        return
    try:
        output.write_text(exported.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{output}: {error}") from None
    written = {"file": str(output), "hash": exported.hash}
    emit(as_json, written, lambda: f"Written to {output}.")


@app.command()
def archive(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """End its service for good; its records stay."""
    with door_of(context).client() as client:
        program = client.programs.archive(name)
    emit(as_json, program, lambda: _draw(program))


def _draw(program: Program) -> Any:
    return fields(
        (
            ("name", program.name),
            ("description", program.description or None),
            ("status", program.status),
            ("newest version", program.latest_version),
            ("labels", _labels(program)),
            ("capture", f"{program.capture.mode}, {program.capture.retention_days} days"),
            ("managed by", program.managed_by),
            ("revision", program.revision),
        )
    )


def _labels(program: Program) -> str | None:
    return ", ".join(f"{name}={number}" for name, number in program.labels.items()) or None


def _kind(version: ProgramVersion) -> str:
    artifact = version.artifact
    if isinstance(artifact, ImportArtifact):
        return artifact.path
    return ", ".join(f"{name}: {module.type}" for name, module in artifact.modules.items())


def _models(version: ProgramVersion) -> str | None:
    """The models that it pins; None when its calls go by the program's assignments alone."""
    pins = version.artifact.models.items()
    return ", ".join(f"{name}: {model}" if name else model for name, model in pins) or None
