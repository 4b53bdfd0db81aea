"""An instance's home: one at work at a time, a damaged state said, nothing started in vain."""

from __future__ import annotations

import fcntl
import secrets
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from dspex_ray.cli.instance import Instance, InstanceState
from dspex_ray.cli.ports import choose_ports
from dspex_ray.cli.ray_node import Leader
from dspex_ray.core.errors import Conflict, Invalid, NotFound


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return Instance(tmp_path / "h", environment={})


def leave_state(instance: Instance, **changes: object) -> InstanceState:
    """As after a crash: written, and nothing of it alive."""
    state = InstanceState(
        id=secrets.token_hex(16),
        home=instance.home,
        phase="starting",
        host="127.0.0.1",
        ports=choose_ports(),
        database="external",
        applications=["gateway"],
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        versions={},
    ).model_copy(update=changes)
    instance.home.mkdir(exist_ok=True)
    (instance.home / "instance.json").write_text(state.model_dump_json())
    return state


def test_nothing_there_is_stopped_and_nothing_to_end(instance: Instance) -> None:
    assert instance.status().phase == "stopped"
    assert instance.down() is False
    assert not instance.home.exists()
    with pytest.raises(NotFound, match="dspex up"):
        instance.database_url(None)


def test_what_died_while_starting_is_broken_and_gets_cleaned(instance: Instance) -> None:
    state = leave_state(instance)
    status = instance.status()
    assert (status.phase, status.state) == ("broken", state)
    assert instance.down() is True
    assert instance.status().phase == "stopped"


def test_a_dead_leader_is_broken(instance: Instance) -> None:
    leave_state(instance, phase="running", leader=Leader(2**22 + 1, 1.0))
    assert instance.status().phase == "broken"


def test_two_at_work_on_one_home_conflict(instance: Instance) -> None:
    leave_state(instance)
    with (instance.home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert instance.status().phase == "starting"
        with pytest.raises(Conflict, match="another 'up' or 'down' is at work"):
            instance.down()
    assert instance.down() is True


def test_a_damaged_state_is_said_not_guessed(instance: Instance) -> None:
    instance.home.mkdir()
    (instance.home / "instance.json").write_text('{"id": 1}')
    with pytest.raises(Invalid, match=r"instance\.json is damaged"):
        instance.down()


def test_an_external_database_must_be_given_again(instance: Instance) -> None:
    leave_state(instance)
    with pytest.raises(Invalid, match="give its URL again"):
        instance.database_url(None)


@pytest.mark.parametrize("text", ["", "- a list", "applications: []", "{"])
def test_a_config_without_applications_starts_nothing(
    instance: Instance, tmp_path: Path, text: str
) -> None:
    # Short enough for Ray's sockets, whatever pytest's folder is called.
    instance.home = Path("/tmp/dx-never-made")
    config = tmp_path / "serve.yaml"
    config.write_text(text)
    with pytest.raises(Invalid) as caught:
        instance.up(config=config, database_url=SecretStr("postgresql://nowhere"))
    assert caught.value.field == "config"
    assert not instance.home.exists()
