"""A program as the command line gives it: a file, a signature, or an import path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dspex_ray.cli.inputs import noun, read_mapping
from dspex_ray.programs.model import AdapterName, ModuleType, NewVersion, ProgramSource

File = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="YAML or JSON: the fields of a program, or an export."),
]
SignatureText = Annotated[
    str | None, typer.Option("--signature", help="Such as 'question -> answer: bool'.")
]
Module = Annotated[ModuleType, typer.Option(help="The module that the signature goes to.")]
Instructions = Annotated[str | None, typer.Option(help="What the model is told to do.")]
ImportPath = Annotated[
    str | None, typer.Option(help="package.module:Class of an allowed, installed package.")
]
Adapter = Annotated[AdapterName | None, typer.Option(help="How prompts are written.")]


def given_version(
    file: Path | None,
    signature: str | None,
    module: ModuleType,
    instructions: str | None,
    import_path: str | None,
    adapter: AdapterName | None,
) -> NewVersion | None:
    """The version that the options describe, without labels; None when they describe none."""
    ways = [way for way in (file, signature, import_path) if way is not None]
    if len(ways) > 1:
        raise typer.BadParameter("give one of --file, --signature, --import-path")
    if file is not None:
        written = read_mapping(file)
        if set(written) == {"hash", "artifact"}:
            return noun(NewVersion, **written)
        return NewVersion(source=noun(ProgramSource, **written))
    if signature is not None:
        predictor: dict[str, Any] = {"type": module.value, "signature": signature}
        if instructions is not None:
            predictor["instructions"] = instructions
        return NewVersion(source=noun(ProgramSource, module=predictor, adapter=adapter))
    if import_path is not None:
        return NewVersion(source=noun(ProgramSource, import_path=import_path, adapter=adapter))
    return None
