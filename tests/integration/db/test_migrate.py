"""Migrations beside running releases: phases, locks, and a schema newer than the code."""

from __future__ import annotations

import ast
import json
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic.config import Config
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from dspex_ray.cli.main import app
from dspex_ray.core.errors import Unavailable
from dspex_ray.db import migrate as schema

pytestmark = pytest.mark.integration

MIGRATIONS = Path(schema.__file__).parent / "migrations"
# What the release before would trip over.
TAKES_AWAY = {"drop_column", "drop_table", "rename_table", "drop_constraint"}

STEP = '''"""{title}."""

from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None
phase = "{phase}"


def upgrade() -> None:
    op.execute("{statement}")


def downgrade() -> None:
    pass
'''


@pytest.fixture
def empty_url(postgres_url: str) -> Iterator[str]:
    """A database without any table."""
    name = f"empty_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}")
        yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def later_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This release as it may look later: it adds a column, drops another, and adds a third."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    head = schema.revisions()[-1].id
    for revision, before, phase, statement in (
        ("9001", head, "expand", "ALTER TABLE programs ADD COLUMN later TEXT"),
        ("9002", "9001", "contract", "ALTER TABLE programs DROP COLUMN description"),
        ("9003", "9002", "expand", "ALTER TABLE programs ADD COLUMN latest TEXT"),
    ):
        step = STEP.format(
            title=phase, revision=revision, before=before, phase=phase, statement=statement
        )
        (folder / "versions" / f"{revision}_later.py").write_text(step)
    config = Config()
    config.set_main_option("script_location", str(folder))
    monkeypatch.setattr(schema, "alembic_config", lambda: config)


def _columns(url: str) -> set[str]:
    with psycopg.connect(url) as conn:
        found = conn.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'programs'"
        )
        return {row[0] for row in found}


@pytest.mark.usefixtures("later_release")
def test_what_takes_away_waits_until_it_is_asked_for(database_url: str) -> None:
    done = schema.migrate(database_url, contract=False)
    assert [one.id for one in done] == ["9001"]
    assert [one.id for one in schema.pending(database_url)] == ["9002", "9003"]
    assert {"later", "description"} <= _columns(database_url)
    assert [one.id for one in schema.migrate(database_url)] == ["9002", "9003"]
    assert "description" not in _columns(database_url)
    assert schema.migrate(database_url) == []


@pytest.mark.usefixtures("later_release")
def test_an_empty_database_gets_everything_at_once(empty_url: str) -> None:
    assert schema.migrate(empty_url, contract=False) == schema.revisions()


def test_many_at_once_do_it_once(empty_url: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda _: schema.migrate(empty_url), range(4)))
    assert sorted(len(each) for each in done) == [0, 0, 0, len(schema.revisions())]


@pytest.mark.usefixtures("later_release")
def test_a_locked_table_is_not_queued_for(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_LOCK_TIMEOUT_MS", 50)
    pauses: list[float] = []
    with psycopg.connect(database_url) as busy:
        busy.execute("SELECT * FROM programs")
        with pytest.raises(Unavailable, match="locked by others"):
            schema.migrate(database_url, contract=False, sleep=pauses.append)
        assert len(pauses) == schema._TRIES - 1
        assert "later" not in _columns(database_url)

        def end_it(_: float) -> None:
            busy.rollback()

        assert [one.id for one in schema.migrate(database_url, contract=False, sleep=end_it)] == [
            "9001"
        ]


def test_a_newer_schema_is_left_alone(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        conn.execute("UPDATE alembic_version SET version_num = '9999'")
    assert schema.pending(database_url) == []
    assert schema.migrate(database_url) == []


def test_a_database_that_is_away_is_said_so() -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        schema.pending("postgresql://127.0.0.1:1/nothing")


def test_each_migration_keeps_to_its_phase() -> None:
    for file in sorted((MIGRATIONS / "versions").glob("0*.py")):
        tree = ast.parse(file.read_text())
        (upgrade,) = (
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef)
            if node.name == "upgrade"
        )
        called = {
            node.func.attr
            for node in ast.walk(upgrade)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        phase = next(one.phase for one in schema.revisions() if file.name.startswith(one.id))
        assert phase in {"expand", "contract"}, file
        assert phase == "contract" or not called & TAKES_AWAY, file


def test_the_command_checks_migrates_and_makes_the_first_key(
    empty_url: str, tmp_path: Path
) -> None:
    run = CliRunner()
    environment = {"DSPEX_RAY_DATABASE_URL": empty_url}
    checked = run.invoke(app, ["migrate", "--check", "--json"], env=environment)
    assert checked.exit_code == 1
    assert json.loads(checked.stdout)["pending"][0]["id"] == "0001"
    key = tmp_path / "key"
    done = run.invoke(app, ["migrate", "--key-file", str(key)], env=environment)
    assert done.exit_code == 0, done.output
    assert key.read_text().startswith("dspex_")
    assert key.stat().st_mode & 0o777 == 0o600
    assert run.invoke(app, ["migrate", "--check"], env=environment).exit_code == 0
    other = tmp_path / "other"
    assert run.invoke(app, ["migrate", "--key-file", str(other)], env=environment).exit_code == 0
    assert not other.exists()  # the first key is made once
