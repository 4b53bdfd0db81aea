"""`dspex migrate`: the schema of a database of yours, beside running releases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from dspex_ray.cli.lifecycle import server_packages
from dspex_ray.cli.output import Json, emit, say, table


def migrate(
    database_url: Annotated[
        str, typer.Option(envvar="DSPEX_RAY_DATABASE_URL", help="The Postgres to bring up to date.")
    ],
    contract: Annotated[
        bool,
        typer.Option(help="Also take away what only releases before this one use."),
    ] = False,
    check: Annotated[
        bool, typer.Option(help="Change nothing; exit with 1 when there is something to do.")
    ] = False,
    key_file: Annotated[
        Path | None,
        typer.Option(help="Write the very first key into it (0600), if there is no key at all."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring the schema to this release. Run it before the new release starts, and with --contract
    when the old one has ended; it is safe while requests are served."""
    with server_packages():
        from dspex_ray.cli.dev_key import ensure_dev_key
        from dspex_ray.db import migrate as schema

        done = [] if check else schema.migrate(database_url, contract=contract)
        left = schema.pending(database_url)
        found = {
            "done": [one._asdict() for one in done],
            "pending": [one._asdict() for one in left],
        }
        rows = [("done", *one) for one in done] + [("pending", *one) for one in left]
        emit(as_json, found, lambda: table(("", "revision", "phase", "title"), rows))
        if check:
            raise typer.Exit(1 if left else 0)
        if key_file and ensure_dev_key(key_file, SecretStr(database_url), shared=True):
            say(f"The first key, with every scope, is in {key_file}.")
