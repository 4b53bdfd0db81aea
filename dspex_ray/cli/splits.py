"""`dspex split ...`: how a program's traffic is divided among its versions."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer

from dspex_ray.cli.door import door_of
from dspex_ray.cli.inputs import noun, pairs
from dspex_ray.cli.output import Json, emit, say, table, when
from dspex_ray.serving.model import Applied, Arm, NewSplit, Split

app = typer.Typer(no_args_is_help=True, help="How a program's traffic is divided.")

Program = Annotated[str, typer.Argument(help="The program's name.")]


@app.command()
def show(context: typer.Context, program: Program, as_json: Json = False) -> None:
    """Its split. Exits with 3 when it has none: the label `production` decides."""
    with door_of(context).client() as client:
        split = client.splits.get(program)
    emit(as_json, split, lambda: _draw(split))


@app.command("set")
def set_split(
    context: typer.Context,
    program: Program,
    arms: Annotated[list[str], typer.Argument(help="version=percent each, such as 1=90% 2=10%.")],
    epoch: Annotated[int | None, typer.Option(help="Only if the split is at this epoch.")] = None,
    as_json: Json = False,
) -> None:
    """Divide the traffic. In effect on all replicas within a second, requests in flight unhurt."""
    weights = pairs(arms, "arm")
    new = noun(
        NewSplit,
        arms=tuple(
            noun(Arm, version=version, weight_bp=_basis_points(share))
            for version, share in weights.items()
        ),
    )
    with door_of(context).client() as client:
        result = client.splits.put(program, new, epoch=epoch)
    emit(as_json, result, lambda: _draw(result.split))
    _say_applied(result.applied)


@app.command()
def remove(context: typer.Context, program: Program, as_json: Json = False) -> None:
    """Remove the split: the label `production` decides again."""
    with door_of(context).client() as client:
        applied = client.splits.remove(program)
    emit(as_json, applied, lambda: "Removed: the label 'production' decides.")
    _say_applied(applied)


def _basis_points(text: str) -> int:
    """Of a percentage with two decimals at most; the sign may be left out."""
    try:
        points = Decimal(text.removesuffix("%")) * 100
    except InvalidOperation:
        points = Decimal("NaN")
    if not points.is_finite() or points != points.to_integral_value():
        raise typer.BadParameter(
            f"weight {text!r} must be a percentage such as 90%, 12.5% or 0.01%"
        )
    return int(points)


def _draw(split: Split) -> Any:
    rows = (
        (arm.version, f"{arm.weight_bp / 100:g} %", when(arm.valid_until)) for arm in split.arms
    )
    return table(("VERSION", "SHARE", "VALID UNTIL"), rows)


def _say_applied(applied: Applied) -> None:
    say(f"Applied by {applied.applied} of {applied.total} replicas.")
