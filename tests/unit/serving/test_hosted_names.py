"""Which Serve application hosts a model, and which weights can be hosted at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dspex_ray.core.errors import Invalid
from dspex_ray.core.ids import DEFAULT_PROJECT, ModelId, ProjectId, new_id
from dspex_ray.models.model import Model, Provider
from dspex_ray.serving.hosting import application_names, is_hosted
from dspex_ray.serving.llama import SMOLLM2, check_weights
from dspex_ray.testing.fake_clock import NOON


def model(**fields: Any) -> Model:
    given = {
        "id": ModelId(new_id()),
        "project_id": DEFAULT_PROJECT,
        "name": "smol",
        "provider": Provider.LOCAL,
        "model_name": SMOLLM2,
        "created_at": NOON,
        "updated_at": NOON,
    }
    return Model(**{**given, **fields})


def test_a_host_belongs_to_one_project_and_one_content() -> None:
    names = {
        application_names(model()),
        application_names(model(context_window=512)),
        application_names(model(model_name="gemma-3-270m")),
        application_names(model(project_id=ProjectId(new_id()))),
        application_names(model(config={"hosting": {"replicas": 2}})),
    }
    assert len(names) == 5
    assert application_names(model()) == application_names(model(revision=7, timeout_s=5))


def test_each_replica_has_an_application() -> None:
    assert len(application_names(model())) == 1
    assert len(set(application_names(model(config={"hosting": {"replicas": 3}})))) == 3


def test_a_model_with_an_address_is_not_hosted() -> None:
    assert is_hosted(model())
    assert not is_hosted(model(base_url="http://127.0.0.1:1/v1"))


@pytest.mark.parametrize("name", ["gpt-4", "no-such.gguf", "/etc/passwd"])
def test_unknown_weights_are_refused_by_name(name: str) -> None:
    with pytest.raises(Invalid, match="no weights for") as refused:
        check_weights(name)
    assert (refused.value.field, refused.value.rule) == ("model_name", "known weights")


def test_installed_weights_and_files_are_known(tmp_path: Path) -> None:
    check_weights(SMOLLM2)
    file = tmp_path / "own.gguf"
    file.touch()
    check_weights(str(file))
