"""Programs whose quality, latency and cost are known beforehand, by what is in them; their runs are
paid for by the ledger, and end in any order."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from dspex_ray.datasets.model import Example
from dspex_ray.optimization.budget import Amount, Ledger
from dspex_ray.optimization.model import Problem, Score
from dspex_ray.optimization.record import OnTrial
from dspex_ray.optimization.workbench import Workbench
from dspex_ray.programs.artifacts import artifact_hash
from dspex_ray.programs.model import Artifact, ModulesArtifact, ModuleType
from dspex_ray.testing.fake_lm import fake_lm
from tests.unit.optimization.parts import engine

PRICES: dict[str, float | None] = {"": 0.002, "small": 0.001, "big": 0.01, "gift": None}


class Worth(NamedTuple):
    quality: float  #: share of the examples that it gets right
    latency_ms: float
    cost_usd: float | None


def worth(artifact: Artifact) -> Worth:
    """Big models, demos and thinking cost and help; a high temperature only hurts."""
    assert isinstance(artifact, ModulesArtifact)
    (module,) = artifact.modules.values()
    model = artifact.models.get("", "")
    thinks = module.type is ModuleType.CHAIN_OF_THOUGHT
    demos = len(module.demos)
    quality = 0.25 + 0.35 * (model == "big") + 0.2 * thinks + 0.03 * min(demos, 5)
    quality -= 0.1 * (module.config.temperature or 0.0)
    times = (3 if model == "big" else 1) * (2 if thinks else 1)
    price = PRICES[model]
    cost = None if price is None else round(price * times * (1 + demos / 10), 9)
    return Worth(min(1.0, max(0.0, quality)), 100.0 * times * (1 + demos / 20), cost)


class Simulated:
    """`optimization.evaluator.Evaluator`. `seen` are the examples' hashes by artifact hash."""

    def __init__(
        self,
        ledger: Ledger,
        judge: Callable[[Artifact], Worth] = worth,
        failing: Callable[[Artifact], bool] = lambda _: False,
        jitter_s: float = 0.0,
    ) -> None:
        self._ledger, self._judge, self._failing = ledger, judge, failing
        self._jitter_s = jitter_s
        self.seen: dict[str, list[str]] = {}

    async def evaluate(self, artifact: Artifact, examples: Sequence[Example]) -> list[Score]:
        key, judged = artifact_hash(artifact), self._judge(artifact)
        if self._jitter_s:
            await asyncio.sleep(random.random() * self._jitter_s)
        found = []
        for example in examples:
            cost = None if judged.cost_usd is None else Decimal(str(judged.cost_usd))
            held = await self._ledger.areserve(Amount(10, cost))
            held.settle(Amount(10, cost))
            self.seen.setdefault(key, []).append(example.hash)
            found.append(_score(judged, example, cost, failed=self._failing(artifact)))
        return found


def _score(judged: Worth, example: Example, cost: Decimal | None, *, failed: bool) -> Score:
    latency = judged.latency_ms * (0.9 + 0.2 * luck(example.hash, "latency"))
    if failed:
        return Score(0.0, {}, "output_invalid", latency, cost, 10, 1)
    value = float(luck(example.hash, "quality") < judged.quality)
    return Score(value, {}, None, latency, cost, 10, 1, {"style": judged.quality})


def luck(*parts: str) -> float:
    """0 to 1, the same for the same parts: a hard example is hard for every candidate."""
    digest = hashlib.sha256(" ".join(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def simulated_bench(
    problem: Problem, *, on_trial: OnTrial | None = None, prompt_lm: Any = None, **how: Any
) -> tuple[Workbench, Simulated]:
    ledger = Ledger(problem.budget)
    evaluator = Simulated(ledger, **how)
    bench = Workbench(
        lm=fake_lm(engine()),
        prompt_lm=prompt_lm or fake_lm(engine()),
        ledger=ledger,
        evaluator=evaluator,
        prompt_lm_given=prompt_lm is not None,
        on_trial=on_trial,
    )
    return bench, evaluator
