"""What Ray is given, and which processes are an instance's: its own, and no others."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dspex_ray.cli.ports import choose_ports
from dspex_ray.cli.ray_node import (
    INSTANCE_VARIABLE,
    Leader,
    check_home,
    end_processes,
    is_alive,
    leader_of,
    make_folders,
    node_environment,
    processes_of,
)
from dspex_ray.core.errors import Invalid

SLEEP = "import time; time.sleep(60)"
# A child that forgets where it came from, as Ray's workers do when they set their title.
FORGETFUL = (
    "import subprocess, sys, time;"
    f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}], env={{}});"
    "print('ready', flush=True); time.sleep(60)"
)

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def _start(code: str, instance: str | None) -> subprocess.Popen[bytes]:
        env = dict(os.environ)
        if instance is not None:
            env[INSTANCE_VARIABLE] = instance
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=env, start_new_session=True, stdout=subprocess.PIPE
        )
        started.append(process)
        return process

    yield _start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def leader(process: subprocess.Popen[bytes]) -> Leader:
    found = leader_of(process.pid)
    assert found is not None
    return found


def test_an_instance_ends_with_all_its_processes_and_no_other(start: Start) -> None:
    mine, other = secrets.token_hex(8), secrets.token_hex(8)
    head = start(FORGETFUL, mine)
    assert head.stdout is not None
    assert head.stdout.readline() == b"ready\n"
    job = start(SLEEP, mine)  # a session of its own, as Ray's jobs have
    stranger = start(SLEEP, other)
    bystander = start(SLEEP, None)

    whole = {process.pid for process in processes_of(mine, leader(head))}
    assert {head.pid, job.pid} < whole
    assert len(whole) == 3
    assert not whole & {stranger.pid, bystander.pid, os.getpid()}

    end_processes(mine, leader(head), grace_s=0.2)
    assert processes_of(mine, None) == []
    assert not any(leader_of(pid) for pid in whole)
    assert stranger.poll() is None
    assert bystander.poll() is None


def test_what_a_dead_leader_left_is_found_by_its_mark(start: Start) -> None:
    mine = secrets.token_hex(8)
    orphan = start(SLEEP, mine)
    assert {p.pid for p in processes_of(mine, None)} == {orphan.pid}
    assert end_processes(mine, None) == 1
    assert leader_of(orphan.pid) is None


def test_a_session_number_that_came_again_is_somebody_elses(start: Start) -> None:
    """After a reboot the number in an old state file may be that of any process."""
    innocent = start(SLEEP, None)
    old = Leader(innocent.pid, leader(innocent).created - 1000)
    assert not is_alive(old)
    assert processes_of(secrets.token_hex(8), old) == []
    assert end_processes(secrets.token_hex(8), old) == 0
    assert innocent.poll() is None


def test_a_leader_is_dead_when_only_its_remains_are_left(start: Start) -> None:
    process = start("pass", None)
    for _ in range(100):
        if leader_of(process.pid) is None:  # not waited for: a zombie
            break
        time.sleep(0.05)
    assert leader_of(process.pid) is None
    assert not is_alive(None)


def test_the_environment_binds_ray_to_the_home_and_to_nothing_of_the_callers() -> None:
    home = Path("/var/tmp/x")
    ports = choose_ports()
    given = node_environment(
        home,
        "id",
        ports,
        {
            "PATH": "/bin",
            "RAY_ADDRESS": "elsewhere:6379",
            "RAY_AUTH_TOKEN": "another's",
            "RAY_AUTH_MODE": "disabled",
            "OPENAI_API_KEY": "sk-mine",
            "RAY_SERVE_HAPROXY_NBTHREAD": "8",
        },
    )
    assert "RAY_ADDRESS" not in given
    assert "RAY_AUTH_TOKEN" not in given
    assert given["RAY_AUTH_MODE"] == "token"
    assert given["RAY_AUTH_TOKEN_PATH"] == "/var/tmp/x/ray-token"
    assert given["OPENAI_API_KEY"] == "sk-mine"  # models name their keys' variables
    assert given["RAY_SERVE_HAPROXY_NBTHREAD"] == "8"
    assert given["PATH"] == f"{Path(sys.executable).parent}:/bin"
    assert given["RAY_SERVE_HAPROXY_METRICS_PORT"] == str(ports.haproxy_metrics)
    assert "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH" not in given


def test_serve_traces_when_the_settings_want_spans() -> None:
    asked = {"DSPEX_RAY_TELEMETRY__SPANS_FILE": "true", "OTEL_SERVICE_NAME": "mine"}
    given = node_environment(Path("/var/tmp/x"), "id", choose_ports(), asked)
    hook = "dspex_ray.telemetry.export:span_processors"
    assert given["RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH"] == hook
    assert given["RAY_SERVE_TRACING_SAMPLING_RATIO"] == "1.0"
    assert given["OTEL_SERVICE_NAME"] == "mine"


def test_a_home_too_long_for_rays_sockets_is_refused() -> None:
    check_home(Path("/var/tmp/dspex-ray"))
    with pytest.raises(Invalid, match="too long") as caught:
        check_home(Path("/" + "x" * 60))
    assert (caught.value.field, caught.value.rule) == ("home", "path length")


def test_old_sessions_go_but_the_last_logs_stay(tmp_path: Path) -> None:
    for day in range(1, 7):
        (tmp_path / "ray" / f"session_2026-01-0{day}" / "logs").mkdir(parents=True)
    (tmp_path / "haproxy" / "stale").mkdir(parents=True)
    make_folders(tmp_path)
    assert sorted(path.name for path in (tmp_path / "ray").iterdir()) == [
        "session_2026-01-04",
        "session_2026-01-05",
        "session_2026-01-06",
    ]
    assert list((tmp_path / "haproxy").iterdir()) == []
    assert all(
        (tmp_path / name).stat().st_mode & 0o777 == 0o700 for name in ("haproxy", "logs", "spool")
    )
