"""`dspex optimize front` and `importance`: what a search for several objectives found, and why."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Group

from dspex_ray.cli.door import door_of
from dspex_ray.cli.front_figures import axes_of, columns_of, told
from dspex_ray.cli.front_picture import require_matplotlib, save_pictures
from dspex_ray.cli.front_plot import mark_of, scatter
from dspex_ray.cli.output import Json, emit, say, share, table
from dspex_ray.client import Dspex
from dspex_ray.optimization.front import Front, FrontPoint
from dspex_ray.optimization.runs import RunImportance
from dspex_ray.variables.conditions import Scalar

Id = Annotated[UUID, typer.Argument(help="The run's id.")]
_BAR = 30


def front(
    context: typer.Context,
    run_id: Id,
    x: Annotated[str | None, typer.Option("--x", help="The figure that is drawn across.")] = None,
    y: Annotated[str | None, typer.Option("--y", help="The figure that is drawn upwards.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write the drawing there.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Write the drawing there.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the points there.")] = None,
    as_json: Json = False,
) -> None:
    """The programs that no other beats in all objectives; each is a version to be deployed."""
    pictures = [
        _named(file, suffix) for file, suffix in ((png, ".png"), (svg, ".svg")) if file is not None
    ]
    if pictures:
        require_matplotlib()
    with door_of(context).client() as client:
        found = client.optimizations.front(run_id)
        axes = axes_of(found, x, y)
        if pictures and axes is None:
            raise typer.BadParameter("a front of one objective has no picture: choose --x and --y")
        if pictures and axes is not None:
            save_pictures(found, _tried(client, run_id), *axes, pictures)
    if csv_file is not None:
        write_csv(found, csv_file)
    for file in (*pictures, *([] if csv_file is None else [csv_file])):
        say(f"written: {file}")
    drawing = "" if axes is None else scatter(found.points, *axes)
    emit(as_json, found, lambda: Group(_drawn(found), "", drawing))


def importance(context: typer.Context, run_id: Id, as_json: Json = False) -> None:
    """Which variables mattered for each objective, by the trials so far."""
    with door_of(context).client() as client:
        found = client.optimizations.importance(run_id)
    emit(as_json, found, lambda: _draw_importance(found))


def write_csv(front: Front, file: Path) -> None:
    """A row a point: its figures, those on held-out examples as `held_out.NAME`, its variables
    as `configuration.NAME`."""
    figures = columns_of(front)
    variables = sorted({name for point in front.points for name in point.configuration})
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(
            ["point", "version", "picked", "trial", "candidate", *figures]
            + [f"held_out.{name}" for name in figures]
            + [f"configuration.{name}" for name in variables]
        )
        for number, point in enumerate(front.points, start=1):
            held_out = point.held_out or {}
            writer.writerow(
                [number, point.version, point.picked, point.trial, point.candidate]
                + [point.figures.get(name) for name in figures]
                + [held_out.get(name) for name in figures]
                + [point.configuration.get(name) for name in variables]
            )


def _tried(client: Dspex, run_id: UUID) -> list[dict[str, float]]:
    """The figures of every trial that recorded some."""
    found = (trial.facts.get("figures") for trial in client.optimizations.iterate_trials(run_id))
    return [figures for figures in found if isinstance(figures, dict)]


def _named(file: Path, suffix: str) -> Path:
    if file.suffix.lower() != suffix:
        raise typer.BadParameter(f"{file}: the name must end in {suffix}")
    return file


def _drawn(front: Front) -> Any:
    figures = columns_of(front)
    held_out = [n for n in figures if any(n in (point.held_out or {}) for point in front.points)]
    rows = (
        (
            mark_of(position),
            None if point.version is None else f"@{point.version}",
            "pick" if point.picked else "",
            *(told(name, point.figures.get(name)) for name in figures),
            *(told(name, (point.held_out or {}).get(name)) for name in held_out),
            _varied(point),
        )
        for position, point in enumerate(front.points)
    )
    names = [*(name.upper() for name in figures), *(f"HELD OUT {n.upper()}" for n in held_out)]
    return table(("POINT", "VERSION", "", *names, "VARIABLES"), rows)


def _varied(point: FrontPoint) -> str:
    return " ".join(
        f"{name}={_short(value)}" for name, value in sorted(point.configuration.items())
    )


def _short(value: Scalar) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _draw_importance(found: RunImportance) -> Any:
    """An objective of which nothing can be told yet has a row too."""
    rows = [
        (one.objective, name, share(part), "█" * round((part or 0.0) * _BAR), one.trials)
        for one in found.objectives
        for name, part in one.shares.items() or [(None, None)]
    ]
    drawn = table(("OBJECTIVE", "VARIABLE", "SHARE", "", "TRIALS"), rows)
    return Group(drawn, "", f"by {found.evaluator}")
