"""AdvancedBootstrap: demos found in three ways, measured by real runs, chosen for quality and
variety.

A demo's quality is the mean score of runs whose prompt held it, beside others drawn at random:
Chang and Jia 2023 (arXiv 2212.10378), CondAcc. It says what a demo does to other examples' answers,
which its own correctness does not.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from dspex_ray.core.errors import Invalid
from dspex_ray.datasets.model import Example
from dspex_ray.optimization.budget import RunHalted
from dspex_ray.optimization.demos import balanced_order, labels_of, taught, teach, usable
from dspex_ray.optimization.edits import predictors_of
from dspex_ray.optimization.evaluator import evaluate_all, raise_first
from dspex_ray.optimization.model import Candidate, Needs, Outcome, Problem
from dspex_ray.optimization.race import race
from dspex_ray.optimization.record import Record, measure_all
from dspex_ray.optimization.rules import OptimizerParameters
from dspex_ray.optimization.spread import (
    Vectors,
    central,
    determinantal,
    marginally_best,
    similarities,
    text_vectors,
    unit_rows,
)
from dspex_ray.optimization.workbench import Workbench
from dspex_ray.programs.model import Artifact

Strategy = Literal["random", "hard", "diverse"]

_WAVE = 8  #: demo sets measured at once, before the next are drawn
_CLUSTERED = 2000  #: examples that are looked at for variety
_FIRST = 1e6  #: whoever was never drawn comes before all others
_EXPLORATION = 0.5  #: how much an uncertain quality is favoured: the factor of UCB1's root


class AdvancedParameters(OptimizerParameters):
    max_demos: int = Field(default=8, ge=1, le=200)
    quality_threshold: float = Field(
        default=0.8, ge=0, le=1, description="of the best demo's quality, that a demo must have"
    )
    diversity_factor: float = Field(
        default=0.3, ge=0, le=1, description="weight of variety beside quality"
    )
    adaptive_sampling: bool = Field(
        default=True,
        description="measure promising demos more often and choose for variety too; false: all "
        "alike, and the best by quality",
    )
    strategies: tuple[Strategy, ...] = Field(
        default=("random", "hard", "diverse"), min_length=1, description="where demos come from"
    )
    candidates_per_strategy: int = Field(default=20, ge=1, le=1000)
    balance_labels: bool = Field(default=True, description="as many demos of each label")
    measured_runs: int = Field(
        default=128, ge=1, description="program runs that measure demos, about"
    )
    probes: int = Field(default=2, ge=1, description="examples that a drawn demo set is run on")


class AdvancedBootstrap:
    name = "AdvancedBootstrap"
    aliases: tuple[str, ...] = ()
    description = (
        "Takes random, hard and diverse train examples as demos, measures what each does to the "
        "score, and chooses good ones unlike each other."
    )
    source = "dspex_ray"
    needs = Needs(train=2, labels=True, embedding_model=True)
    parameters = AdvancedParameters
    refused: str | None = None

    async def optimize(
        self, problem: Problem, parameters: AdvancedParameters, bench: Workbench
    ) -> Outcome:
        record = Record(problem, bench.ledger, bench.on_trial)
        run = _Run(problem, parameters, bench, record)
        best: Candidate | None = None
        try:
            await run.find()
            await run.weigh()
            pool = [record.start, *run.chosen()]
            order = balanced_order(problem.selection, run.labels, run.rng)
            best = await race(bench.evaluator, record, pool, order)
        except RunHalted as halt:
            return record.outcome(best, halt, run.facts())
        return record.outcome(best, facts=run.facts(best))


class _Run:
    """One run's demos: who was found how, and what each is worth so far."""

    def __init__(
        self, problem: Problem, parameters: AdvancedParameters, bench: Workbench, record: Record
    ) -> None:
        self._problem, self._parameters = problem, parameters
        self._bench, self._record = bench, record
        self.rng = random.Random(problem.seed)  # noqa: S311 - draws demos
        predictors = predictors_of(problem.artifact, allowed_packages=problem.allowed_packages)
        self._usable = usable(predictors, problem.train)
        self._taught = taught(predictors, self._usable)
        if not self._taught:
            raise Invalid(
                "no predictor has all of its outputs in the train examples: there are no demos",
                field="train",
                rule="expected outputs",
            )
        balanced = parameters.balance_labels
        self.labels = labels_of(problem.artifact, problem.train) if balanced else {}
        self._found: dict[str, list[str]] = {}  # how, by example hash
        self._demos: list[Example] = []
        self._vectors: Vectors = np.zeros((0, 1))
        self._sum: list[float] = []
        self._count: list[int] = []
        self._asked: list[int] = []  # as `_count`, with what is under way
        self._kept = 0

    async def find(self) -> None:
        """The union of the strategies, each example once."""
        ways = {"random": self._random, "hard": self._hard, "diverse": self._diverse}
        by_hash = {example.hash: example for example in self._usable}
        for strategy in dict.fromkeys(self._parameters.strategies):
            for example in await ways[strategy]():
                self._found.setdefault(example.hash, []).append(strategy)
        self._demos = [by_hash[key] for key in self._found]
        self._vectors = await self._embedded(self._demos)
        self._sum = [0.0] * len(self._demos)
        self._count, self._asked = [0] * len(self._demos), [0] * len(self._demos)

    async def weigh(self) -> None:
        """Drawn sets, each run on a few examples outside of it; each demo in it gets the mean."""
        given, seen = self._parameters, 0
        while len(self._usable) > 1 and self._demos and seen < given.measured_runs:
            sets = [self._drawn() for _ in range(_WAVE)]
            results = await evaluate_all(self._bench.evaluator, [self._probed(s) for s in sets])
            for chosen, scores in zip(sets, raise_first(results), strict=True):
                self._record.ran(score.error for score in scores)
                seen += len(scores)
                mean = sum(score.value for score in scores) / len(scores)
                for index in chosen:
                    self._sum[index] += mean
                    self._count[index] += 1

    def chosen(self) -> list[Candidate]:
        """Demo sets to compare: by both ways to weigh quality and variety, and smaller ones."""
        quality = [self._quality(i) for i in range(len(self._demos))]
        if not quality:
            return []
        bar = self._parameters.quality_threshold * max(quality)
        good = [i for i, q in enumerate(quality) if q >= bar]
        self._kept = len(good)
        alike = similarities(self._vectors[good])
        worth = [quality[i] for i in good]
        quotas = {n: self.labels[self._demos[i].hash] for n, i in enumerate(good) if self.labels}
        found: dict[str, Candidate] = {}
        for count in self._set_sizes(quotas):
            for how, picks in self._selections(worth, alike, count, quotas).items():
                # The last demo weighs most with small models: the best one stands there.
                demos = [good[i] for i in reversed(picks)]
                facts = {"selection": how, "demos": [self._described(i) for i in demos]}
                artifact = self._with([self._demos[i] for i in demos])
                made = self._record.add(
                    artifact, AdvancedBootstrap.name, [self._record.start.hash], facts
                )
                found.setdefault(made.hash, made)
        return list(found.values())

    def facts(self, best: Candidate | None = None) -> dict[str, Any]:
        chosen = best.facts.get("demos", []) if best else []
        return {
            "candidates_generated": len(self._demos),
            "quality_filtered": self._kept,
            "final_selected": len(chosen),
            "demonstrations": chosen,
        }

    def _selections(
        self, worth: Sequence[float], alike: Any, count: int, quotas: dict[int, str]
    ) -> dict[str, list[int]]:
        if not self._parameters.adaptive_sampling:
            return {"quality": marginally_best(worth, alike, count, 0.0, quotas)}
        weight = self._parameters.diversity_factor
        return {
            "marginal relevance": marginally_best(worth, alike, count, weight, quotas),
            "determinantal": determinantal(worth, alike, count, quotas),
            "quality": marginally_best(worth, alike, count, 0.0, quotas),
        }

    def _set_sizes(self, quotas: dict[int, str]) -> list[int]:
        kinds, most = len(set(quotas.values())), self._parameters.max_demos
        if 1 < kinds <= most:
            return sorted({kinds, most - most % kinds})
        return sorted({max(1, most // 2), most})

    async def _random(self) -> list[Example]:
        count = min(self._parameters.candidates_per_strategy, len(self._usable))
        return balanced_order(self._usable, self.labels, self.rng)[:count]

    async def _hard(self) -> list[Example]:
        """Those that the program does worst on, of twice as many that it is run on."""
        count = self._parameters.candidates_per_strategy
        asked = self.rng.sample(self._usable, min(2 * count, len(self._usable)))
        start = (self._record.start, asked)
        (scores,) = await measure_all(self._bench.evaluator, self._record, [start])
        ranked = sorted(zip(scores, asked, strict=True), key=lambda pair: pair[0].value)
        return [example for score, example in ranked if score.value < 1][:count]

    async def _diverse(self) -> list[Example]:
        """The middles of as many clusters of inputs."""
        count = self._parameters.candidates_per_strategy
        looked_at = self.rng.sample(self._usable, min(_CLUSTERED, len(self._usable)))
        vectors = await self._embedded(looked_at)
        chance = np.random.default_rng(self._problem.seed)
        return [looked_at[i] for i in central(vectors, count, chance)]

    async def _embedded(self, examples: Sequence[Example]) -> Vectors:
        names = [field.name for field in self._problem.artifact.signature.inputs]
        texts = [
            "\n".join(str(e.values[name]) for name in names if name in e.values) for e in examples
        ]
        if self._bench.embed is None or not texts:
            return text_vectors(texts)
        return unit_rows(np.asarray(await self._bench.embed(texts)))

    def _drawn(self) -> list[int]:
        """Indices of one demo set: labels in turn, and whom to learn more of first."""
        appetite = {e.hash: self._appetite(i) for i, e in enumerate(self._demos)}
        index = {e.hash: i for i, e in enumerate(self._demos)}
        order = balanced_order(self._demos, self.labels, self.rng)
        if self.labels:
            turns: dict[str, int] = {}
            place = {}
            for example in sorted(order, key=lambda e: -appetite[e.hash]):
                label = self.labels[example.hash]
                turns[label] = turns.get(label, -1) + 1
                place[example.hash] = turns[label]
            order.sort(key=lambda e: place[e.hash])
        else:
            order.sort(key=lambda e: -appetite[e.hash])
        # Half of the demos at most, so that a set's mean says something about its own.
        size = max(1, min(self._parameters.max_demos, len(order) // 2))
        drawn = [index[example.hash] for example in order[:size]]
        self.rng.shuffle(drawn)
        for i in drawn:
            self._asked[i] += 1
        return drawn

    def _appetite(self, index: int) -> float:
        """Upper confidence bound of the quality (UCB1) when sampling adapts; else who was drawn
        least comes first. Chance decides among equals."""
        times, jitter = self._asked[index], self.rng.random()
        if times == 0:
            return _FIRST + jitter
        if not self._parameters.adaptive_sampling:
            return -times + jitter / 2
        width = _EXPLORATION * math.sqrt(math.log(sum(self._asked)) / times)
        return self._quality(index) + width + jitter * 1e-3

    def _probed(self, chosen: Sequence[int]) -> tuple[Artifact, list[Example]]:
        """The program with these demos, and a few examples that are not among them."""
        inside = {self._demos[i].hash for i in chosen}
        outside = [example for example in self._usable if example.hash not in inside]
        probes = self.rng.sample(outside, min(self._parameters.probes, len(outside)))
        return self._with([self._demos[i] for i in chosen]), probes

    def _quality(self, index: int) -> float:
        """The mean, drawn towards the mean of all by the weight of one measurement."""
        of_all = sum(self._sum) / max(1, sum(self._count))
        return (self._sum[index] + of_all) / (self._count[index] + 1)

    def _described(self, index: int) -> dict[str, Any]:
        demo = self._demos[index]
        return {
            "example": demo.hash,
            "quality_score": round(self._quality(index), 6),
            "measured": self._count[index],
            "strategies": self._found[demo.hash],
        }

    def _with(self, demos: Sequence[Example]) -> Artifact:
        return teach(self._problem.artifact, self._taught, demos)
