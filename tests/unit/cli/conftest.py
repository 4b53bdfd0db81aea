from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dspex_ray.cli.door import Door
from dspex_ray.cli.main import app
from tests.unit.client.wire import Platform


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """All of stdout, as the one JSON document that it must be."""
        assert self.err == ""
        return json.loads(self.out)


@dataclass
class Shell:
    """`dspex` against a platform that is a function; no variable of the environment shines in."""

    home: Path
    platform: Platform

    def __call__(self, *arguments: str, input: str | None = None, **environment: str) -> Ran:
        bare = {"DSPEX_URL": None, "DSPEX_API_KEY": None, "DSPEX_RAY_HOME": str(self.home)}
        result = CliRunner(env={**bare, "TERM": "dumb", **environment}).invoke(
            app, arguments, input=input, obj=Door(transport=self.platform.transport)
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, Platform())
