"""`dspex apply -f FILE`: make what a file declares."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from dspex_ray.cli.door import door_of
from dspex_ray.cli.inputs import read_text
from dspex_ray.cli.output import Json, emit, plain, say, table
from dspex_ray.declarations.model import Change, Plan, Step

_STYLES = {Change.CREATE: "green", Change.UPDATE: "yellow", Change.UNCHANGED: "dim"}
# Approving declared models calls their providers, one after the other.
_TIMEOUT_S = 600.0


def apply(
    context: typer.Context,
    file: Annotated[Path, typer.Option("--file", "-f", help="YAML or JSON; - is stdin.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
    as_json: Json = False,
) -> None:
    """Make models, programs, assignments and splits as a file declares. What it does not name is
    left alone; applying twice changes nothing."""
    text = read_text(file)
    with door_of(context).client(timeout_s=_TIMEOUT_S) as client:
        plan = client.apply(text, dry_run=dry_run)
    emit(as_json, plan, lambda: _draw(plan))
    if not as_json:
        counts = Counter(step.change for step in plan.steps)
        done = "Applied" if plan.applied else "Not applied (dry run)"
        say(f"{done}: {', '.join(f'{counts[change]} {change}' for change in Change)}.")
        if plan.replicas is not None:
            say(f"Applied by {plan.replicas.applied} of {plan.replicas.total} replicas.")


def _draw(plan: Plan) -> Any:
    rows = (
        (Text(step.change, style=_STYLES[step.change]), step.kind, step.name, _fields(step))
        for step in plan.steps
    )
    return table(("CHANGE", "KIND", "NAME", "WHAT"), rows)


def _fields(step: Step) -> str | None:
    given = (f"{name}: {_short(value)}" for name, value in step.fields.items())
    return plain(", ".join(given)) or None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
