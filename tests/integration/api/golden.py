"""The two planes' OpenAPI, as files: `python -m tests.integration.api.golden` writes them anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from cryptography.fernet import Fernet
from fastapi import FastAPI
from pydantic import SecretStr

from dspex_ray.api.control import control_app
from dspex_ray.api.data_plane import data_plane_app
from dspex_ray.bootstrap import keyring_of, services_of
from dspex_ray.db.engine import Database
from dspex_ray.serving.gateway import Gateway
from dspex_ray.settings import Settings
from dspex_ray.testing.fake_clock import FakeClock
from tests.integration.conftest import ScriptedProvider

FOLDER = Path(__file__).parents[2] / "golden"


def control_plane() -> FastAPI:
    """Connected to nothing: it is only asked what it serves."""
    settings = Settings(secret_key=SecretStr(Fernet.generate_key().decode()))
    clock = FakeClock()
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    provider = ScriptedProvider(clock)
    return control_app(services_of(settings, database, keyring_of(settings, {}), provider, clock))


def data_plane() -> FastAPI:
    return data_plane_app(cast(Gateway, None))


PLANES = {"openapi.json": control_plane, "openapi-data-plane.json": data_plane}


def described(name: str) -> dict[str, Any]:
    """What the plane says of itself, without the release's number, which is no change of it."""
    description = PLANES[name]().openapi()
    description["info"]["version"] = "x"
    return description


def main() -> None:
    for name in PLANES:
        content = json.dumps(described(name), indent=1, sort_keys=True, ensure_ascii=False)
        (FOLDER / name).write_text(content + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
