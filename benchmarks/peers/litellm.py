"""LiteLLM's proxy: a master key, one model with prices, no database, one worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import yaml

from benchmarks.cache import cache_folder, python_environment
from benchmarks.peers.peer import Peer, chat_target
from benchmarks.peers.server import free_port, serving

NAME = "LiteLLM proxy"
REQUIREMENT = "litellm[proxy]==1.106.2"
_KEY = "sk-benchmark"
# What its documentation asks for in production: no debug log, no request to the net for prices.
_ENVIRONMENT = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


@contextmanager
def litellm(upstream: str) -> Iterator[Peer]:
    binaries = python_environment("litellm", REQUIREMENT)
    config = cache_folder() / "litellm.yaml"
    config.write_text(yaml.safe_dump(_config(upstream)), encoding="utf-8")
    port = free_port()
    command = [str(binaries / "litellm"), "--config", str(config), "--host", "127.0.0.1"]
    with serving(
        [*command, "--port", str(port), "--num_workers", "1"],
        port,
        "litellm",
        environment=_ENVIRONMENT,
    ):
        url = f"http://127.0.0.1:{port}/v1"
        yield Peer(NAME, chat_target(url, {"authorization": f"Bearer {_KEY}"}))


def _config(upstream: str) -> dict[str, object]:
    return {
        "model_list": [
            {
                "model_name": "mock",
                "litellm_params": {
                    "model": "openai/mock-1",
                    "api_base": upstream,
                    "api_key": "none",
                    "input_cost_per_token": 0.000001,
                    "output_cost_per_token": 0.000002,
                },
            }
        ],
        "general_settings": {"master_key": _KEY},
        "litellm_settings": {"set_verbose": False, "json_logs": False},
    }
