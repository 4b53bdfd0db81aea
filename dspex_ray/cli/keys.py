"""`dspex keys ...`: API keys. They need a key with the scope `admin`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from dspex_ray.access.model import ApiKey, NewApiKey
from dspex_ray.cli.door import door_of
from dspex_ray.cli.inputs import noun
from dspex_ray.cli.output import Json, emit, fields, say, table, when
from dspex_ray.core.actor import Scope

app = typer.Typer(no_args_is_help=True, help="API keys.")


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[
        list[Scope] | None, typer.Option(help="Repeatable; invoke and read if not given.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="At most.")] = None,
    expires_at: Annotated[datetime | None, typer.Option(help="UTC.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key. Its secret is shown this once."""
    new = noun(
        NewApiKey,
        name=name,
        scopes=tuple(scope) if scope else None,
        requests_per_minute=requests_per_minute,
        expires_at=None if expires_at is None else f"{expires_at.isoformat()}Z",
    )
    with door_of(context).client() as client:
        minted = client.keys.create(new)
    pairs = (
        ("name", minted.key.name),
        ("scopes", _scopes(minted.key)),
        ("secret", minted.secret),
    )
    emit(as_json, minted, lambda: fields(pairs))
    if not as_json:
        say("The secret is shown this once.")


@app.command("list")
def list_keys(context: typer.Context, as_json: Json = False) -> None:
    """All keys, revoked ones too."""
    with door_of(context).client() as client:
        page = client.keys.list()
    columns = ("PREFIX", "NAME", "SCOPES", "PER MINUTE", "MADE", "EXPIRES", "REVOKED")
    rows = (
        (
            key.prefix,
            key.name,
            _scopes(key),
            key.requests_per_minute,
            when(key.created_at),
            when(key.expires_at),
            when(key.revoked_at),
        )
        for key in page.items
    )
    emit(as_json, page, lambda: table(columns, rows))


@app.command()
def revoke(
    context: typer.Context,
    key: Annotated[str, typer.Argument(help="The key's prefix or name.")],
    as_json: Json = False,
) -> None:
    """Revoke a key: it stops working within a second."""
    with door_of(context).client() as client:
        revoked = client.keys.revoke(key)
    emit(as_json, revoked, lambda: f"Revoked {revoked.prefix} ({revoked.name}).")


def _scopes(key: ApiKey) -> str:
    return ", ".join(key.scopes)
