"""Decisions of evaluations: seeds, what a cached run is kept by, and what results come to."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import TypeVar

from dspex_ray.core.canonical import content_hash
from dspex_ray.core.errors import Invalid
from dspex_ray.datasets.model import DatasetVersion
from dspex_ray.datasets.rules import sample, split
from dspex_ray.evaluation.model import (
    ExampleResult,
    MetricSpec,
    MetricSummary,
    Progress,
    Report,
    Selection,
)
from dspex_ray.evaluation.work import PinnedModel, Target, Work
from dspex_ray.programs.model import SignatureSpec
from dspex_ray.stats.intervals import mean_interval, spread, wilson

N = TypeVar("N", Decimal, int)

_OF_ONE_OUTPUT = frozenset({"exact_match", "f1", "semantic_similarity"})
# An answer that does not fit its signature is what the program answered; other errors may pass.
_KEPT_ERRORS = frozenset({"output_invalid"})


def item_seed(seed: int, example_hash: str, repeat: int) -> int:
    """0 to 2**63 - 1; equal for equal examples, wherever and in whatever order they are run."""
    digest = hashlib.sha256(f"{seed}:{example_hash}:{repeat}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def positions(selection: Selection, hashes: Sequence[str]) -> tuple[int, ...]:
    """Of the chosen examples, in ascending order."""
    if selection.split is not None and selection.sizes is not None:
        chosen = split(hashes, selection.sizes, selection.seed)[selection.split]
    elif selection.sample is not None:
        chosen = sample(hashes, selection.sample, selection.seed)
    else:
        return tuple(range(len(hashes)))
    return tuple(sorted(chosen))


# --- the cache -----------------------------------------------------------------------------


def configuration(target: Target, metric_models: Iterable[PinnedModel]) -> str:
    """A hash of all that is registered which results depend on."""
    judges = sorted((model.name, model.fingerprint) for model in metric_models)
    return content_hash([target.configuration, judges])


def run_key(work: Work, example_hash: str, repeat: int) -> str:
    """What makes a run: artifact, models, example, repeat; and the seed, where draws are made."""
    seed = work.seed if work.target.sampled else 0
    project = str(work.target.program.project_id)
    return content_hash([project, work.target.configuration, example_hash, repeat, seed])


def metric_key(metric_hash: str, names: Iterable[str], models: Iterable[PinnedModel]) -> str:
    """What makes a score, given the run: the metric, and the models of these names it calls."""
    called = {model.name: model.fingerprint for model in models}
    return content_hash([metric_hash, [called[name] for name in names]])


def cacheable(result: ExampleResult) -> bool:
    """Whether another run of the same would end the same way."""
    return all(error.code in _KEPT_ERRORS and error.metric is None for error in result.errors)


# --- what is asked, against what is there ------------------------------------------------------


def check_metrics(specs: Sequence[MetricSpec], signature: SignatureSpec) -> None:
    """Raises Invalid for a metric of an output that the program has not, or of none among several
    where the metric needs one."""
    names = [field.name for field in signature.outputs]
    for place, spec in enumerate(specs):
        if spec.field is None and spec.metric in _OF_ONE_OUTPUT and len(names) > 1:
            raise Invalid(
                f"metric {spec.name!r}: the program has several outputs ({', '.join(names)}): say "
                "which field",
                field=f"metrics.{place}.field",
                rule="required",
            )
        if spec.field is not None and spec.field not in names:
            raise Invalid(
                f"metric {spec.name!r}: the program has no output {spec.field!r} "
                f"(it has: {', '.join(names)})",
                field=f"metrics.{place}.field",
                rule="known output",
            )


def check_examples(
    specs: Sequence[MetricSpec], signature: SignatureSpec, version: DatasetVersion
) -> None:
    """Raises Invalid when no example holds a required input, or what a metric compares with."""
    held = {field.name for field in version.fields}
    for field in signature.inputs:
        if field.name not in held and not field.optional and field.default is None:
            raise Invalid(
                f"the dataset has no field {field.name!r}, an input of the program "
                f"(it has: {', '.join(sorted(held))})",
                field="dataset",
                rule="inputs",
            )
    for place, spec in enumerate(specs):
        wanted = spec.expected or spec.field
        if wanted is not None and ":" not in spec.metric and wanted not in held:
            raise Invalid(
                f"metric {spec.name!r}: the dataset has no field {wanted!r} to compare with",
                field=f"metrics.{place}.expected",
                rule="known field",
            )


# --- what results come to ----------------------------------------------------------------------


class Tally:
    """Progress, kept up to date result by result."""

    def __init__(self, total: int, results: Iterable[ExampleResult] = ()) -> None:
        self._total = total
        self._seen: set[tuple[int, int]] = set()
        self._done = self._failed = self._cached = 0
        self._sums: Counter[str] = Counter()
        self._spent: Decimal | None = Decimal(0)
        for result in results:
            self.add(result)

    def add(self, result: ExampleResult) -> None:
        """Once each, however often it is told."""
        if result.key in self._seen:
            return
        self._seen.add(result.key)
        self._done += 1
        self._failed += bool(result.errors)
        self._cached += result.cached
        for name, score in result.scores.items():
            self._sums[name] += score  # type: ignore[assignment] # of floats, not of counts
        paid = _paid(result)
        self._spent = None if self._spent is None or paid is None else self._spent + paid

    @property
    def progress(self) -> Progress:
        return Progress(
            total=self._total,
            done=self._done,
            failed=self._failed,
            cached=self._cached,
            means={name: total / self._done for name, total in self._sums.items()},
            spent_usd=self._spent,
        )


def summarise(
    results: Sequence[ExampleResult],
    metrics: Sequence[str],
    *,
    confidence: float = 0.95,
    threshold: float = 1.0,
) -> Report:
    """The report of results that may come in any order. Raises Invalid for none at all."""
    if not results:
        raise Invalid("there are no results to report on", field="examples", rule="at least one")
    ordered = sorted(results, key=lambda result: result.key)
    latencies = [result.latency_ms for result in ordered if result.answered]
    return Report(
        examples=len({result.number for result in ordered}),
        runs=len(ordered),
        failed=sum(1 for result in ordered if result.errors),
        cached=sum(1 for result in ordered if result.cached),
        confidence=confidence,
        threshold=threshold,
        metrics=tuple(_summary(name, ordered, confidence, threshold) for name in metrics),
        latency_ms=spread(latencies) if latencies else None,
        cost_usd=_sum(ordered, lambda result: result.cost_usd, Decimal(0)),
        metric_cost_usd=_sum(ordered, _scoring_cost, Decimal(0)),
        spent_usd=_sum(ordered, _paid, Decimal(0)),
        unpriced=sum(1 for result in ordered if result.cost_usd is None),
        prompt_tokens=_sum(ordered, lambda result: result.prompt_tokens, 0),
        completion_tokens=_sum(ordered, lambda result: result.completion_tokens, 0),
        errors=dict(Counter(result.errors[0].code for result in ordered if result.errors)),
    )


def example_scores(results: Iterable[ExampleResult], metric: str) -> dict[int, float]:
    """The mean over repeats by example number: what is independent of one another."""
    scores: dict[int, list[float]] = {}
    for result in sorted(results, key=lambda result: result.key):
        scores.setdefault(result.number, []).append(result.scores[metric])
    return {number: sum(found) / len(found) for number, found in scores.items()}


def _summary(
    name: str, results: Sequence[ExampleResult], confidence: float, threshold: float
) -> MetricSummary:
    scores = list(example_scores(results, name).values())
    passed = sum(1 for score in scores if score >= threshold)
    lies = spread(scores)
    return MetricSummary(
        name=name,
        mean=min(1.0, max(0.0, lies.mean)),
        interval=mean_interval(scores, confidence),
        pass_rate=passed / len(scores),
        pass_interval=wilson(passed, len(scores), confidence),
        spread=lies,
        errors=sum(1 for r in results if any(error.metric == name for error in r.errors)),
    )


def _scoring_cost(result: ExampleResult) -> Decimal | None:
    costs = list(result.metric_costs.values())
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if len(known) == len(costs) else None


def _paid(result: ExampleResult) -> Decimal | None:
    if result.cached:
        return Decimal(0)
    scoring = _scoring_cost(result)
    return None if result.cost_usd is None or scoring is None else result.cost_usd + scoring


def _sum(
    results: Sequence[ExampleResult], of: Callable[[ExampleResult], N | None], total: N
) -> N | None:
    """None when one of them is."""
    for result in results:
        value = of(result)
        if value is None:
            return None
        total += value
    return total
