"""The dspex command: its global options, its commands, and how it fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr
from typer.core import TyperGroup

from dspex_ray import __version__
from dspex_ray.cli import (
    apply,
    assignments,
    chat,
    database,
    datasets,
    evaluations,
    executions,
    keys,
    lifecycle,
    models,
    optimizations,
    programs,
    splits,
)
from dspex_ray.cli.door import DEFAULT_HOME, Door
from dspex_ray.cli.output import exit_code, report
from dspex_ray.core.errors import DspexRayError

_EPILOG = (
    "Exit status: 0 done, 1 error, 2 wrong usage, 3 not found, 4 denied, "
    "5 unavailable (try again later)."
)


class _Root(TyperGroup):
    """Turns the platform's errors into a message on stderr and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except DspexRayError as error:
            report(error)
            raise typer.Exit(exit_code(error)) from error


app = typer.Typer(
    name="dspex",
    cls=_Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # it prints local variables: keys are among them
    epilog=_EPILOG,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option(envvar="DSPEX_URL", help="Where the platform answers.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="DSPEX_API_KEY", help="The API key; better given by environment."),
    ] = None,
    home: Annotated[
        Path,
        typer.Option(envvar="DSPEX_RAY_HOME", help="The folder of an instance on this machine."),
    ] = DEFAULT_HOME,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and end.")
    ] = False,
) -> None:
    """Run DSPy programs in production. Without --url and --api-key, commands talk to the instance
    of --home, with its development key."""
    injected = context.find_object(Door) or Door()  # a test's transport
    key = SecretStr(api_key) if api_key else None
    context.obj = replace(injected, url=url or None, api_key=key, home=home)


app.command("up")(lifecycle.up)
app.command("down")(lifecycle.down)
app.command("status")(lifecycle.status)
app.command("migrate")(database.migrate)
app.add_typer(models.app, name="model")
app.add_typer(programs.app, name="program")
app.command("assign")(assignments.assign)
app.command("assignments")(assignments.show)
app.command("unassign")(assignments.unassign)
app.add_typer(splits.app, name="split")
app.add_typer(datasets.app, name="dataset")
app.add_typer(executions.app, name="executions")
app.command("evaluate")(evaluations.evaluate)
app.add_typer(evaluations.app, name="evaluation")
app.add_typer(optimizations.optimizers, name="optimizers")
app.add_typer(optimizations.app, name="optimize")
app.command("usage")(executions.usage)
app.add_typer(keys.app, name="keys")
app.command("apply")(apply.apply)
app.command("chat")(chat.chat)


def main() -> None:
    app(prog_name="dspex")
