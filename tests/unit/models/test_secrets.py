from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from dspex_ray.core.errors import Invalid
from dspex_ray.models.secrets import SecretBox, load_key


def new_box() -> SecretBox:
    return SecretBox(SecretStr(Fernet.generate_key().decode()))


def test_what_is_sealed_opens_again_and_shows_nothing() -> None:
    box = new_box()
    sealed = box.encrypt(SecretStr("sk-héllo"))
    assert b"sk-" not in sealed
    assert box.decrypt(sealed).get_secret_value() == "sk-héllo"
    assert box.encrypt(SecretStr("sk-héllo")) != sealed


def test_another_key_is_named() -> None:
    sealed_by, opened_by = new_box(), new_box()
    with pytest.raises(Invalid) as refused:
        opened_by.decrypt(sealed_by.encrypt(SecretStr("sk-1")))
    assert refused.value.rule == "secret key"
    assert sealed_by.fingerprint in refused.value.message
    assert opened_by.fingerprint in refused.value.message


@pytest.mark.parametrize("cut", [9, 20, 60])
def test_a_damaged_value_is_told_from_a_wrong_key(cut: int) -> None:
    box = new_box()
    with pytest.raises(Invalid, match="damaged") as refused:
        box.decrypt(box.encrypt(SecretStr("sk-1"))[:cut])
    assert (refused.value.field, refused.value.rule) == ("api_key", "secret key")


@pytest.mark.parametrize("key", ["", "short", "é" * 44])
def test_a_key_that_is_no_key(key: str) -> None:
    with pytest.raises(Invalid) as refused:
        SecretBox(SecretStr(key))
    assert (refused.value.field, refused.value.rule) == ("secret_key", "secret key")


def test_the_configured_key_is_taken(tmp_path: Path) -> None:
    assert load_key(tmp_path, SecretStr("given")).get_secret_value() == "given"
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_made_once_and_for_the_owner_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = load_key(home, None)
    assert load_key(home, None) == first
    SecretBox(first)
    assert [path.name for path in home.iterdir()] == ["secret.key"]
    assert (home / "secret.key").stat().st_mode & 0o777 == 0o600


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_key(tmp_path, None)
    (tmp_path / "secret.key").chmod(0o644)
    with pytest.raises(Invalid) as refused:
        load_key(tmp_path, None)
    assert refused.value.rule == "mode 0600"


def test_processes_that_race_get_the_same_key(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        keys = pool.map(_load, [tmp_path] * 24)
    assert len(set(keys)) == 1


def _load(home: Path) -> str:
    return load_key(home, None).get_secret_value()
