"""`dspex assign`, `assignments`, `unassign`: which models serve what."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer

from dspex_ray.cli.door import door_of
from dspex_ray.cli.inputs import noun
from dspex_ray.cli.output import Json, emit, table, usd
from dspex_ray.client import Dspex
from dspex_ray.core.page import Page
from dspex_ray.routing.model import Conditions, NewAssignment, ProgramModel, RoutingStrategy

Target = Annotated[str, typer.Argument(help="A program's name, or route/NAME.")]


def assign(
    context: typer.Context,
    target: Target,
    model: Annotated[str, typer.Argument(help="The model's registered name.")],
    predictor: Annotated[
        str | None, typer.Option(help="Only for this predictor of the program.")
    ] = None,
    strategy: Annotated[RoutingStrategy | None, typer.Option()] = None,
    priority: Annotated[int | None, typer.Option(help="The higher goes first.")] = None,
    weight: Annotated[int | None, typer.Option(help="Its share among load_balanced ones.")] = None,
    input_size_max: Annotated[
        int | None, typer.Option(help="Only for inputs up to so many characters, as JSON.")
    ] = None,
    context_required: Annotated[
        str | None, typer.Option(help="Only when the context has this key.")
    ] = None,
    cost_limit: Annotated[
        str | None, typer.Option(help="Only when the estimated cost in USD is not over this.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Let a model serve a program, one of its predictors, or a route."""
    conditions = noun(
        Conditions,
        input_size_max=input_size_max,
        context_required=context_required,
        cost_limit=cost_limit,
    )
    new = noun(
        NewAssignment,
        model=model,
        predictor=predictor,
        routing_strategy=strategy,
        priority=priority,
        weight=weight,
        conditions=conditions if conditions.model_fields_set else None,
    )
    route = _route(target)
    with door_of(context).client() as client:
        if route is None:
            assigned = client.assignments.assign(target, new)
        else:
            assigned = client.assignments.assign_to_route(route, new)
    emit(as_json, assigned, lambda: _draw([assigned]))


def show(context: typer.Context, target: Target, as_json: Json = False) -> None:
    """The models of a program or route, in order of priority, with their counters."""
    with door_of(context).client() as client:
        page = _list(client, target)
    emit(as_json, page, lambda: _draw(page.items))


def unassign(
    context: typer.Context,
    assignment: Annotated[UUID, typer.Argument(help="Its id, as `dspex assignments` shows it.")],
    as_json: Json = False,
) -> None:
    """Take an assignment away."""
    with door_of(context).client() as client:
        client.assignments.remove(assignment)
    emit(as_json, {"removed": assignment}, lambda: f"Removed {assignment}.")


def _route(target: str) -> str | None:
    kind, slash, name = target.partition("/")
    return name if slash and kind == "route" else None


def _list(client: Dspex, target: str) -> Page[ProgramModel]:
    route = _route(target)
    if route is None:
        return client.assignments.list(target)
    return client.assignments.list_for_route(route)


def _draw(assigned: list[ProgramModel]) -> Any:
    columns = (
        "MODEL",
        "PREDICTOR",
        "STRATEGY",
        "PRIORITY",
        "WEIGHT",
        "CONDITIONS",
        "OK",
        "COST",
        "ID",
    )
    rows = (
        (
            row.model_name,
            row.predictor or "all",
            row.routing_strategy,
            row.priority,
            row.weight,
            _conditions(row.conditions),
            f"{row.successful_requests}/{row.total_requests}",
            usd(row.total_cost),
            row.id,
        )
        for row in assigned
    )
    return table(columns, rows)


def _conditions(conditions: Conditions) -> str | None:
    given = conditions.model_dump(exclude_none=True)
    return ", ".join(f"{name}={value}" for name, value in given.items()) or None
