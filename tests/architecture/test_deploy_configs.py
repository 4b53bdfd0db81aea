"""Every deployment file is what Ray takes, checked by Ray's own schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import dspex_ray.testing
from dspex_ray.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")

ROOT = Path(__file__).parents[2]
SERVE_CONFIGS = [
    *sorted((ROOT / "serve_configs").glob("*.yaml")),
    Path(dspex_ray.testing.__file__).parent / "tiny.yaml",
]


def read(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


def test_both_serve_configs_are_there() -> None:
    assert {path.name for path in SERVE_CONFIGS} >= {"laptop.yaml", "cluster.yaml"}


@pytest.mark.parametrize("path", SERVE_CONFIGS, ids=lambda path: path.name)
def test_serve_takes_the_config_and_knows_every_key(path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    content = read(path)
    schema = ServeDeploySchema.model_validate(content)
    assert [app.name for app in schema.applications] == ["gateway", "control"]
    assert [app.route_prefix for app in schema.applications] == ["/", "/api"]
    # The schema drops what it does not know at the top: a typing error would pass unseen.
    assert set(content) <= set(ServeDeploySchema.model_fields)
    assert set(content["http_options"]) <= set(type(schema.http_options).model_fields)
    assert schema.logging_config is not None
    assert schema.logging_config.encoding == "JSON"


@pytest.mark.parametrize("name", ["laptop.yaml", "cluster.yaml"])
def test_serve_sheds_after_the_gateway_and_no_secret_is_an_argument(name: str) -> None:
    content = read(ROOT / "serve_configs" / name)
    gateway, control = content["applications"]
    [deployment] = gateway["deployments"]
    assert deployment["max_ongoing_requests"] > Settings().gateway.max_inflight
    assert gateway["args"] == control["args"] == {}
    assert "runtime_env" not in gateway
    assert "runtime_env" not in control


def test_a_laptop_listens_to_itself_alone() -> None:
    assert read(ROOT / "serve_configs" / "laptop.yaml")["http_options"]["host"] == "127.0.0.1"


def test_the_cluster_file_is_valid_to_ray() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    content = read(ROOT / "cluster.yaml")
    validate_config(prepare_config(content))


def test_the_cluster_file_check_can_fail() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    content = read(ROOT / "cluster.yaml") | {"unknown_key": 1}
    with pytest.raises(Exception, match="unknown_key"):
        validate_config(prepare_config(content))
