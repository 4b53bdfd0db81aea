"""`dspex program place`, `unplace`, `placements`: where versions run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dspex_ray.cli.door import door_of
from dspex_ray.cli.inputs import json_object, noun, pairs
from dspex_ray.cli.output import Json, emit, fields, table, when
from dspex_ray.placements.model import (
    NewPlacement,
    Placement,
    PlacementStatus,
    Resources,
    RuntimeEnv,
)

Version = Annotated[str, typer.Argument(help="program@number, such as triage@2.")]
Texts = list[str] | None


def place(
    context: typer.Context,
    version: Version,
    min_replicas: Annotated[
        int | None, typer.Option(help="0: none while there is no request.")
    ] = None,
    max_replicas: Annotated[int | None, typer.Option()] = None,
    target_ongoing_requests: Annotated[
        float | None, typer.Option(help="Requests under way for which a replica is wanted.")
    ] = None,
    downscale_delay_s: Annotated[float | None, typer.Option()] = None,
    num_cpus: Annotated[float | None, typer.Option(help="Of each replica.")] = None,
    memory_bytes: Annotated[int | None, typer.Option(help="Of each replica.")] = None,
    resource: Annotated[
        Texts, typer.Option(help="A custom resource, name=amount; repeatable.")
    ] = None,
    env: Annotated[
        Texts, typer.Option(help="Of the replicas, NAME=value, no secrets; repeatable.")
    ] = None,
    pip: Annotated[Texts, typer.Option(help="A package, name==version; repeatable.")] = None,
    py_module: Annotated[Texts, typer.Option(help="An archive's address; repeatable.")] = None,
    working_dir: Annotated[str | None, typer.Option(help="An archive's address.")] = None,
    warm_up: Annotated[
        Texts, typer.Option(help="Inputs as JSON that a new replica runs first; repeatable.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Until it is ready or has failed.")] = True,
    as_json: Json = False,
) -> None:
    """Run a version as an application of its own, instead of among the gateways. What serves it
    now goes on until the new replicas are ready. Exits with 1 when they cannot start."""
    program, number = _version(version)
    new = noun(
        NewPlacement,
        resources=noun(
            Resources,
            num_cpus=num_cpus,
            memory_bytes=memory_bytes,
            custom=pairs(resource, "resource") if resource else None,
        ),
        runtime_env=noun(
            RuntimeEnv,
            env_vars=pairs(env, "env") if env else None,
            pip=tuple(pip) if pip else None,
            py_modules=tuple(py_module) if py_module else None,
            working_dir=working_dir,
        ),
        min_replicas=min_replicas,
        # `--min-replicas 3` alone means three.
        max_replicas=max_replicas or (min_replicas if (min_replicas or 0) > 1 else None),
        target_ongoing_requests=target_ongoing_requests,
        downscale_delay_s=downscale_delay_s,
        warm_up=tuple(json_object(text, "warm-up") for text in warm_up or ()) or None,
    )
    with door_of(context).client() as client:
        placement = client.placements.put(program, number, new)
        if wait:
            placement = client.placements.wait(program, number)
    emit(as_json, placement, lambda: _draw(placement))
    if placement.status is PlacementStatus.FAILED:
        raise typer.Exit(1)


def unplace(context: typer.Context, version: Version, as_json: Json = False) -> None:
    """Serve a version among the gateways again. Requests under way are finished."""
    program, number = _version(version)
    with door_of(context).client() as client:
        placement = client.placements.remove(program, number)
    emit(as_json, placement, lambda: _draw(placement))


def placements(
    context: typer.Context,
    program: Annotated[str, typer.Argument(help="The program's name.")],
    as_json: Json = False,
) -> None:
    """The versions of a program that do not run among the gateways."""
    with door_of(context).client() as client:
        page = client.placements.list(program)
    rows = (
        (
            placement.version,
            placement.status,
            _replicas(placement),
            when(placement.since),
            placement.reason,
        )
        for placement in page.items
    )
    emit(as_json, page, lambda: table(("VERSION", "STATUS", "REPLICAS", "SINCE", "REASON"), rows))


def _version(text: str) -> tuple[str, int]:
    program, at, number = text.rpartition("@")
    if not at or not program or not number.isdecimal():
        raise typer.BadParameter(f"{text!r} must read program@number")
    return program, int(number)


def _draw(placement: Placement) -> Any:
    return fields(
        (
            ("version", f"{placement.program}@{placement.version}"),
            ("status", placement.status),
            ("reason", placement.reason),
            ("replicas", _replicas(placement)),
            ("application", placement.application),
            ("serving", placement.serving),
        )
    )


def _replicas(placement: Placement) -> str:
    return f"{placement.spec.min_replicas} to {placement.spec.max_replicas}"
