"""What the documents list is what there is: settings, errors, state machines, rooms."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from dspex_ray.api.problems import openai_status, status_of
from dspex_ray.core.errors import every_error
from dspex_ray.core.states import Machine
from dspex_ray.evaluation.model import EVALUATION_MACHINE
from dspex_ray.models.model import MODEL_MACHINE
from dspex_ray.optimization.runs import RUN_MACHINE
from dspex_ray.placements.model import PLACEMENT_MACHINE
from dspex_ray.programs.model import PROGRAM_MACHINE
from dspex_ray.settings import Settings
from tests.docs.snippets import ROOT, snippets

DOCS = ROOT / "docs"
MACHINES = (MODEL_MACHINE, PROGRAM_MACHINE, PLACEMENT_MACHINE, EVALUATION_MACHINE, RUN_MACHINE)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)[^)]*\)")


def rows(document: Path, heading: str) -> list[list[str]]:
    """The cells of the first table whose header begins with this column."""
    lines = document.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return found


def settings_of(kind: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    """(variable, default as it would be written)."""
    for name, field in kind.model_fields.items():
        variable = prefix + name.upper()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_of(field.annotation, f"{variable}__")
        else:
            yield variable, _written(field.get_default(call_default_factory=True))


def _written(default: Any) -> str:
    if default is None:
        return "none"
    value = to_jsonable_python(default)
    return value if isinstance(value, str) else json.dumps(value)


def test_every_setting_is_documented() -> None:
    told = {row[0]: row[1] for row in rows(DOCS / "configuration.md", "Variable")}
    assert told == dict(settings_of(Settings, "DSPEX_RAY_"))


def test_every_error_is_documented() -> None:
    told = [row[:5] for row in rows(DOCS / "configuration.md", "Code")]
    there = [
        [
            kind.code,
            kind.__name__,
            str(status_of(kind("told"))),
            str(openai_status(kind("told"))),
            "yes" if kind.retryable else "no",
        ]
        for kind in every_error()
    ]
    assert sorted(told) == sorted(there)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_machines_are_drawn_as_they_are(machine: Machine) -> None:
    document = DOCS / "architecture.md"
    drawings = [s.text.rstrip("\n") for s in snippets(document) if s.language == "mermaid"]
    assert machine.mermaid() in drawings, f"draw in {document}:\n{machine.mermaid()}"
    told = [tuple(row) for row in rows(document, f"{machine.name.capitalize()} is")]
    assert told == [(state, event, to) for (state, event), to in machine.moves.items()]


def test_rooms_stand_in_the_order_of_the_contract() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    contract = [set(layer.replace(":", " ").replace("|", " ").split()) for layer in layers]
    told = [set(re.findall(r"\w+", row[0])) for row in rows(DOCS / "architecture.md", "Room")]
    assert told == contract


@pytest.mark.parametrize(
    "document", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda path: path.name
)
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document}: {target}"


def test_decisions_are_numbered_without_a_gap() -> None:
    numbers = [int(path.name[:4]) for path in sorted((DOCS / "decisions").glob("0*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
