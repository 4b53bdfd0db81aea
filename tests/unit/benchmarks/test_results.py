"""results.json as it is committed, for programs that read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import benchmarks
from benchmarks.figures import ROWS, compared

_FOLDER = Path(benchmarks.__file__).parent
_FIELDS = {"name", "value", "unit", "connections", "peer", "ratio"}


@pytest.fixture
def content() -> bytes:
    file = _FOLDER / "results.json"
    if not file.exists():
        pytest.skip("nothing has been measured yet: make bench")
    return file.read_bytes()


def test_every_row_has_the_promised_fields(content: bytes) -> None:
    rows = json.loads(content)
    assert rows
    assert all(row.keys() == _FIELDS for row in rows)


def test_the_ratios_are_those_of_the_values(content: bytes) -> None:
    rows = ROWS.validate_json(content, strict=True)
    assert compared([row.model_copy(update={"ratio": None}) for row in rows]) == rows


def test_no_figure_is_given_twice(content: bytes) -> None:
    found = [(row.name, row.connections, row.peer) for row in ROWS.validate_json(content)]
    assert len(set(found)) == len(found)


def test_the_document_stands_beside_it(content: bytes) -> None:
    assert (_FOLDER / "RESULTS.md").read_text(encoding="utf-8").startswith("# Results\n")
