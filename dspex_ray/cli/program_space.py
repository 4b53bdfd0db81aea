"""`dspex program space`: what may be changed about a version, and samples of it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table

from dspex_ray.cli.door import door_of
from dspex_ray.cli.inputs import json_object
from dspex_ray.cli.output import Json, emit, fields, table
from dspex_ray.client import Dspex
from dspex_ray.core.errors import NotFound
from dspex_ray.programs.model import VersionSpace
from dspex_ray.variables.domains import ChoiceVariable, ModuleVariable
from dspex_ray.variables.model import Case, Figures, Leaf, Samples, SamplingMethod


def space(
    context: typer.Context,
    reference: Annotated[
        str, typer.Argument(metavar="NAME[@N]", help="A version or label; else the newest.")
    ],
    sample: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Draw so many configurations.")
    ] = None,
    method: Annotated[SamplingMethod, typer.Option(help="How.")] = SamplingMethod.RANDOM,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds draw the same.")] = 0,
    levels: Annotated[int, typer.Option(help="Values of each float in a grid.")] = 5,
    validate: Annotated[
        str | None, typer.Option(help="A configuration to check, as a JSON object.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The variables that an optimizer may set; or samples of them, or what is wrong with some."""
    if sample is not None and validate is not None:
        raise typer.BadParameter("give --sample or --validate, not both")
    with door_of(context).client() as client:
        name, number = _version(client, reference)
        if validate is not None:
            _validate(client, name, number, json_object(validate, "--validate"), as_json)
        elif sample is not None:
            drawn = client.programs.sample_space(
                name, number, method=method, n=sample, seed=seed, levels=levels
            )
            emit(as_json, drawn, lambda: _draw_samples(drawn))
        else:
            found = client.programs.space(name, number)
            emit(as_json, found, lambda: _draw(found))


def _version(client: Dspex, reference: str) -> tuple[str, int]:
    name, _, version = reference.partition("@")
    if version.isdecimal():
        return name, int(version)
    program = client.programs.get(name)
    number = program.labels.get(version) if version else program.latest_version
    if number is None:
        what = f"label {version!r}" if version else "version"
        raise NotFound(f"program {name!r} has no {what}")
    return name, number


def _validate(
    client: Dspex, name: str, number: int, configuration: dict[str, Any], as_json: bool
) -> None:
    """Exits with 1, as for any other error, when something is wrong."""
    verdict = client.programs.validate_configuration(name, number, configuration)
    rows = [(fault.field, fault.rule, fault.message) for fault in verdict.faults]
    columns = ("VARIABLE", "RULE", "FAULT")
    emit(as_json, verdict, lambda: table(columns, rows) if rows else "Valid.")
    if not verdict.valid:
        raise typer.Exit(1)


def _draw(found: VersionSpace) -> Group:
    rows = [
        (leaf.path, case.domain.kind, _values(case), _current(found, leaf.path), _when(leaf, case))
        for leaf in found.space.leaves()
        for case in leaf.branches()
    ]
    drawn: list[Any] = [table(("VARIABLE", "KIND", "VALUES", "NOW", "ONLY IF"), rows)]
    if found.space.constraints:
        rules = [(constraint.name, constraint.text) for constraint in found.space.constraints]
        drawn += ["", table(("CONSTRAINT", "MUST HOLD"), rules)]
    return Group(*drawn, "", _figures(found))


def _values(case: Case) -> str:
    domain = case.domain
    if isinstance(domain, ChoiceVariable | ModuleVariable):
        return ", ".join(_text(choice) for choice in domain.choices)
    step = f" by {domain.step:g}" if domain.step not in (None, 1) else ""
    return f"{domain.low:g} to {domain.high:g}{step}{', logarithmic' if domain.log else ''}"


def _current(found: VersionSpace, path: str) -> str | None:
    return _text(found.current[path]) if path in found.current else None


def _when(leaf: Leaf, case: Case) -> str | None:
    conditions = [*leaf.when, *([case.when] if case.when is not None else [])]
    return " and ".join(condition.text for condition in conditions) or None


def _figures(found: VersionSpace) -> Table:
    figures = found.figures
    return fields(
        (
            ("space", f"{found.hash[:12]}, {'declared' if found.declared else 'by default'}"),
            ("configurations", _size(figures)),
            ("dimensions", f"{figures.dimensions}, {figures.continuous_dimensions} continuous"),
            ("complexity", f"{figures.complexity_score:g}"),
            ("difficulty", figures.optimization_difficulty),
        )
    )


def _size(figures: Figures) -> str:
    if figures.size is None:
        return "no end of them" if figures.size_is == "infinite" else "over 10^18"
    return f"{'' if figures.size_is == 'exact' else 'at most '}{figures.size:,}"


def _draw_samples(drawn: Samples) -> Table:
    paths = sorted({path for configuration in drawn.configurations for path in configuration})
    rows = [
        [_text(found[path]) if path in found else None for path in paths]
        for found in drawn.configurations
    ]
    return table(paths, rows)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
