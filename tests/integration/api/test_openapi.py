"""What the planes promise changes on purpose only."""

from __future__ import annotations

import json

import pytest

from tests.integration.api.golden import FOLDER, PLANES, described

REGENERATE = "if the change is meant: python -m tests.integration.api.golden"


@pytest.mark.parametrize("name", PLANES)
def test_the_api_is_as_the_golden_file_says(name: str) -> None:
    golden = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    assert described(name) == golden, REGENERATE


@pytest.mark.parametrize("name", PLANES)
def test_it_is_openapi_31_and_every_operation_is_named_and_tagged(name: str) -> None:
    found = described(name)
    assert found["openapi"].startswith("3.1.")
    operations = [one for path in found["paths"].values() for one in path.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    assert all(one["tags"] for one in operations)


def test_the_control_plane_says_where_serve_mounts_it() -> None:
    assert described("openapi.json")["servers"] == [{"url": "/api"}]
