"""`dspex optimizers` and `dspex optimize`: searches for a better program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from typer.core import TyperGroup

from dspex_ray.cli import fronts
from dspex_ray.cli.door import door_of
from dspex_ray.cli.inputs import noun, read_mapping
from dspex_ray.cli.optimization_tables import (
    draw_optimizer,
    draw_optimizers,
    draw_run,
    draw_runs,
    draw_trials,
    told_estimate,
)
from dspex_ray.cli.output import Json, emit, plain, say, screen, usd
from dspex_ray.client import Dspex
from dspex_ray.optimization.runs import (
    NewOptimization,
    OptimizationRun,
    RunEvent,
    RunQuery,
    RunStatus,
)

optimizers = typer.Typer(no_args_is_help=True, help="What searches for better programs.")


class RunsFiles(TyperGroup):
    """`dspex optimize run.yaml` is `dspex optimize run run.yaml`, options before it or after."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = bool(args) and args[0] in self.commands
        if not named and any(one.endswith((".yaml", ".yml")) for one in args):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=RunsFiles,
    no_args_is_help=True,
    help="Searches for a better program: `dspex optimize FILE`, or one of these.",
)
app.command("front")(fronts.front)
app.command("importance")(fronts.importance)
Id = Annotated[UUID, typer.Argument(help="The run's id.")]


@optimizers.command("list")
def list_optimizers(context: typer.Context, as_json: Json = False) -> None:
    """All that can be asked for."""
    with door_of(context).client() as client:
        found = client.optimizations.optimizers()
    emit(as_json, found, lambda: draw_optimizers(found.items))


@optimizers.command("show")
def show_optimizer(context: typer.Context, name: str, as_json: Json = False) -> None:
    """One, with its parameters and their defaults."""
    with door_of(context).client() as client:
        found = client.optimizations.optimizer(name)
    emit(as_json, found, lambda: draw_optimizer(found))


@app.command()
def run(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="YAML, as in tune_configs/.")],
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Start it though its estimate is over the threshold.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say what it would come to.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Until it has ended, showing its progress.")] = True,
    as_json: Json = False,
) -> None:
    """Start a run. Exits with 1 when it failed or was cancelled."""
    new = read_run(file)
    if confirm:
        new = new.model_copy(update={"confirm": True})
    with door_of(context).client() as client:
        if estimate:
            figures = client.optimizations.estimate(new)
            emit(as_json, figures, lambda: told_estimate(figures))
            return
        created = client.optimizations.create(new)
        say(f"run {created.id}: {told_estimate(created.estimate)}")
        _shown(client, created, wait=wait, as_json=as_json)


@app.command("list")
def list_runs(
    context: typer.Context,
    program: Annotated[str | None, typer.Option()] = None,
    dataset: Annotated[str | None, typer.Option()] = None,
    optimizer: Annotated[str | None, typer.Option()] = None,
    status: Annotated[RunStatus | None, typer.Option()] = None,
    limit: Annotated[int | None, typer.Option()] = None,
    as_json: Json = False,
) -> None:
    """Newest first."""
    query = noun(
        RunQuery, program=program, dataset=dataset, optimizer=optimizer, status=status, limit=limit
    )
    with door_of(context).client() as client:
        page = client.optimizations.list(query)
    emit(as_json, page, lambda: draw_runs(page.items))


@app.command()
def show(context: typer.Context, run_id: Id, as_json: Json = False) -> None:
    """One run: what was asked, how far it is, what it found."""
    with door_of(context).client() as client:
        found = client.optimizations.get(run_id)
    emit(as_json, found, lambda: draw_run(found))


@app.command()
def trials(
    context: typer.Context,
    run_id: Id,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    as_json: Json = False,
) -> None:
    """Its first measurements of candidates."""
    with door_of(context).client() as client:
        page = client.optimizations.trials(run_id, limit=limit)
    emit(as_json, page, lambda: draw_trials(page.items))


@app.command()
def cancel(context: typer.Context, run_id: Id, as_json: Json = False) -> None:
    """End it within seconds; what was found stays."""
    with door_of(context).client() as client:
        found = client.optimizations.cancel(run_id)
    emit(as_json, found, lambda: draw_run(found))


@app.command()
def resume(
    context: typer.Context,
    run_id: Id,
    wait: Annotated[bool, typer.Option(help="Until it has ended, showing its progress.")] = True,
    as_json: Json = False,
) -> None:
    """Let a failed or cancelled run go on; what models have answered is not asked again."""
    with door_of(context).client() as client:
        _shown(client, client.optimizations.resume(run_id), wait=wait, as_json=as_json)


@app.command()
def drive(
    run_id: Id,
    job: Annotated[
        str | None, typer.Option(help="The submission id of the Ray job that this is.")
    ] = None,
) -> None:
    """Carry a pending run out in an actor that lives as long as this process, which must be one of
    the cluster: what its Ray job does."""
    from dspex_ray.apps.run_job import drive as attempt  # brings Ray

    done = attempt(run_id, job)
    say(f"run {done.id}: {done.status.value}")


def read_run(file: Path) -> NewOptimization:
    """A file of `tune_configs/`; a usage error names the field, for unknown keys too."""
    return noun(NewOptimization, **read_mapping(file))


def _shown(client: Dspex, started: OptimizationRun, *, wait: bool, as_json: bool) -> None:
    found = started
    if wait:
        _follow(client, started, quiet=as_json)
        found = client.optimizations.get(started.id)
    emit(as_json, found, lambda: draw_run(found))
    if found.status in {RunStatus.FAILED, RunStatus.CANCELLED}:
        raise typer.Exit(1)


def _follow(client: Dspex, run: OptimizationRun, *, quiet: bool) -> None:
    """Shows how far it is, on stderr; interrupted, it leaves the run running."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    bar = Progress(*columns, TimeElapsedColumn(), console=screen(stderr=True), disable=quiet)
    try:
        with bar:
            task = bar.add_task("pending", total=100)
            for event in client.optimizations.events(run.id):
                percent = event.progress.percent or 0
                bar.update(task, completed=percent, description=_told(event))
    except KeyboardInterrupt:
        say(f"it goes on; to end it: dspex optimize cancel {run.id}")
        raise


def _told(event: RunEvent) -> str:
    progress, spent = event.progress, event.spent
    best = "" if progress.best_score is None else f"  best {progress.best_score:.3f}"
    end = progress.expected_end
    eta = "" if end is None else f"  until {end.astimezone():%H:%M:%S}"
    counts = f"  {progress.trials} trials  {spent.lm_calls} calls  {usd(spent.usd)}"
    return plain(f"{event.status.value}{best}{counts}{eta}")
