"""Programs run as Ray jobs too, with Ray's token authentication on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.platform import Platform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("simulated")]


def submit(platform: Platform, **environment: str) -> subprocess.CompletedProcess[str]:
    ray = Path(sys.executable).with_name("ray")
    words = "python -m dspex_ray.cli program run judge --input claim=wet --json"
    return subprocess.run(
        [
            str(ray),
            "job",
            "submit",
            "--address",
            platform.state.dashboard_url,
            "--",
            *words.split(),
        ],
        env={**platform.environment, "RAY_AUTH_MODE": "token", **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_program_runs_as_a_job(platform: Platform) -> None:
    done = submit(platform, RAY_AUTH_TOKEN_PATH=str(platform.state.ray_token_file))
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1]
    assert json.loads(printed)["outputs"] == {"verdict": "yes"}
    assert "succeeded" in done.stdout


def test_no_token_no_job(platform: Platform, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    os.chmod(wrong, 0o600)
    done = submit(platform, RAY_AUTH_TOKEN_PATH=str(wrong))
    assert done.returncode != 0
    assert "verdict" not in done.stdout
