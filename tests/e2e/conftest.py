"""What the tests that use the platform as a user does share: one instance, one model."""

from __future__ import annotations

import pytest

from tests.e2e.platform import Platform, platform

__all__ = ["platform", "simulated"]

_MODELS = """
managed_by: e2e
models:
  - name: simulated
    provider: openai_compatible
    model_name: simulated-1
    base_url: {url}
    price: {{prompt_usd_per_token: "0.000001", completion_usd_per_token: "0.000002"}}
    supports_functions: true
    supports_streaming: true
    approved: true
programs:
  - name: judge
    capture: {{mode: full}}
    source: {{signature: "claim -> verdict", module: {{type: predict}}}}
    labels: [production]
    assignments: [{{model: simulated}}]
"""


@pytest.fixture(scope="session")
def simulated(platform: Platform) -> str:
    """A model whose provider is the simulator, and a program `judge` that it serves."""
    platform.apply(_MODELS.format(url=platform.simulator.url))
    return "simulated"
