"""What items share, each started when first asked for: an instance, models at fixed latencies."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import cached_property

import yaml

from benchmarks.instance import Instance
from benchmarks.optimize.provider import Provider
from benchmarks.optimize.simulated import SIGNATURE, START, examples
from dspex_ray.client import Dspex

PROGRAM, DATASET = "topics", "reports"
_APPLIED_WITHIN_S = 1  # by every replica and actor


class Ground(ExitStack):
    """A context manager; leaving it ends what it started. `rows` of the dataset at most."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._rows = rows
        self._providers: dict[float, Provider] = {}
        self._declared: set[float] = set()

    def provider(self, latency_ms: float) -> Provider:
        """One a latency."""
        if latency_ms not in self._providers:
            self._providers[latency_ms] = self.enter_context(Provider(latency_ms))
        return self._providers[latency_ms]

    @cached_property
    def instance(self) -> Instance:
        """With a program `topics`, and a dataset `reports` for it."""
        return self.enter_context(Instance())

    @cached_property
    def client(self) -> Dspex:
        """Of the instance."""
        client = self.enter_context(Dspex(self.instance.url, self.instance.key))
        self.model(0)  # the program's own
        client.datasets.add_rows(DATASET, [example.values for example in examples(self._rows)])
        return client

    def model(self, latency_ms: float) -> str:
        """The name of a registered model whose provider has that latency."""
        name = f"simulated-{latency_ms:g}"
        if latency_ms not in self._declared:
            self._declared.add(latency_ms)
            self._declare(name, self.provider(latency_ms).url)
        return name

    def _declare(self, name: str, url: str) -> None:
        model = {
            "name": name,
            "provider": "openai_compatible",
            "model_name": "simulated",
            "base_url": url,
            "price": {
                "prompt_usd_per_token": "0.000001",
                "completion_usd_per_token": "0.000002",
            },
            "approved": True,
        }
        module = {
            "type": "predict",
            "signature": SIGNATURE,
            "instructions": START,
            "config": {"temperature": 0},
        }
        program = {
            "name": PROGRAM,
            "source": {"module": module},
            "labels": ["production"],
            "assignments": [{"model": "simulated-0"}],
        }
        declared = {"managed_by": "benchmark", "models": [model], "programs": [program]}
        file = self.instance.home / f"{name}.yaml"
        file.write_text(yaml.safe_dump(declared), encoding="utf-8")
        self.instance.dspex("apply", "-f", str(file))
        time.sleep(_APPLIED_WITHIN_S)
