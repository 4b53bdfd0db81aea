"""Seeds, keys, selections; and what results come to."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.errors import Invalid
from dspex_ray.core.evidence import Interval
from dspex_ray.datasets.rules import sample, split
from dspex_ray.evaluation.model import ExampleError, MetricSpec, Progress, Selection
from dspex_ray.evaluation.rules import (
    Tally,
    cacheable,
    check_metrics,
    configuration,
    example_scores,
    item_seed,
    metric_key,
    positions,
    run_key,
    summarise,
)
from dspex_ray.evaluation.work import pinned
from dspex_ray.models.model import Model, Provider
from dspex_ray.programs.signature import parse_signature
from dspex_ray.routing.model import RoutingStrategy
from dspex_ray.stats.intervals import mean_interval, wilson
from dspex_ray.testing.fake_clock import NOON
from tests.unit.evaluation.parts import FAILED, a_model, a_result, a_target, a_work

HASHES = [f"h{number % 7}" if number < 3 else f"h{number}" for number in range(40)]
OF_METRIC = ExampleError(code="invalid", message="metric 'f1' gave nan", metric="f1")


def test_seeds_belong_to_examples_not_to_their_places() -> None:
    assert item_seed(0, "a", 0) == item_seed(0, "a", 0)
    assert len({item_seed(s, h, r) for s in (0, 1) for h in "ab" for r in (0, 1)}) == 8
    assert 0 <= item_seed(5, "a", 2) < 2**63


def test_positions_are_those_of_the_dataset_rules_in_order() -> None:
    sizes = {"train": 10, "test": 12}
    chosen = positions(Selection(split="test", sizes=sizes, seed=3), HASHES)
    assert chosen == tuple(sorted(split(HASHES, sizes, 3)["test"]))
    assert positions(Selection(sample=5), HASHES) == tuple(sorted(sample(HASHES, 5, 0)))
    assert positions(Selection(), HASHES) == tuple(range(40))


@pytest.mark.parametrize(
    "fields",
    [
        {"split": "test"},
        {"sizes": {"a": 1}},
        {"split": "b", "sizes": {"a": 1}},
        {"split": "a", "sizes": {"a": 1}, "sample": 2},
    ],
)
def test_a_selection_says_one_thing(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="split"):
        Selection(**fields)


# --- the cache -----------------------------------------------------------------------------


def test_a_run_is_kept_by_all_that_it_depends_on() -> None:
    work = a_work()
    key = run_key(work, "h", 0)
    others = [
        run_key(work, "other", 0),
        run_key(work, "h", 1),
        run_key(a_work(target=a_target(a_model("n"))), "h", 0),
        run_key(a_work(target=a_target(module={"instructions": "x", **_cold()})), "h", 0),
    ]
    assert len({key, *others}) == 5
    # Where nothing is drawn, the seed makes no other run; nor does who asks.
    assert run_key(a_work(2, seed=9), "h", 0) == key


def test_the_seed_counts_where_draws_are_made() -> None:
    warm = a_target(module={})
    assert run_key(a_work(target=warm), "h", 0) != run_key(a_work(target=warm, seed=9), "h", 0)


@pytest.mark.parametrize(
    ("fields", "sampled"),
    [
        ({}, False),
        ({"module": {}}, True),
        ({"module": {"config": {"temperature": 0.7}}}, True),
        ({"strategy": RoutingStrategy.LOAD_BALANCED}, True),
    ],
)
def test_what_is_sampled(fields: dict[str, Any], sampled: bool) -> None:
    assert a_target(**fields).sampled is sampled


def test_which_model_is_pinned_counts_and_a_draw_comes_only_after_it() -> None:
    n = a_model("n")
    bare, pinned_, own = a_target(), a_target(pins={"": n}), a_target(pins={"main": n})
    other = a_target(pins={"": a_model("n", fingerprint="changed")})
    keys = {run_key(a_work(target=target), "h", 0) for target in (bare, pinned_, own, other)}
    assert len(keys) == 4
    assert [row.model_name for row in pinned_.routes] == ["n", "m"]
    assert not a_target(pins={"": n}, strategy=RoutingStrategy.LOAD_BALANCED).sampled


def test_a_models_own_temperature_counts_where_the_program_says_none() -> None:
    assert not a_target(a_model(temperature=0.0), module={}).sampled
    assert a_target(a_model(temperature=0.0), a_model("n"), module={}).sampled


def test_a_score_is_kept_by_its_metric_and_the_models_that_it_calls() -> None:
    judge, changed = a_model("judge"), a_model("judge", fingerprint="other")
    assert metric_key("m", [], [judge]) == metric_key("m", [], [changed])
    assert metric_key("m", ["judge"], [judge]) != metric_key("m", ["judge"], [changed])
    target = a_target()
    assert configuration(target, [judge]) != configuration(target, [changed])


def test_a_model_is_pinned_by_what_its_answers_depend_on() -> None:
    fields: dict[str, Any] = {"id": a_model().id, "project_id": a_model().id, "name": "m"}
    model = Model(
        **fields,
        provider=Provider.OPENAI,
        model_name="gpt",
        config={"defaults": {"temperature": 0.5}},
        created_at=NOON,
        updated_at=NOON,
    )
    same = model.model_copy(update={"revision": 9, "status": "error", "timeout_s": 1.0})
    other = model.model_copy(update={"model_name": "gpt-2"})
    assert pinned(model).temperature == 0.5
    assert pinned(model) == pinned(same)
    assert pinned(model) != pinned(other)


@pytest.mark.parametrize(
    ("code", "kept"),
    [("output_invalid", True), ("provider_down", False), ("deadline_exceeded", False)],
)
def test_only_what_would_end_the_same_way_is_kept(code: str, kept: bool) -> None:
    error = FAILED.model_copy(update={"code": code})
    assert cacheable(a_result(errors=(error,))) is kept
    assert not cacheable(a_result(errors=(error, OF_METRIC)))
    assert cacheable(a_result())


# --- what is asked ---------------------------------------------------------------------------


def test_metrics_are_of_outputs() -> None:
    signature = parse_signature("question -> answer, topic")
    check_metrics([MetricSpec(metric="f1", field="topic")], signature)
    with pytest.raises(Invalid) as refused:
        check_metrics(
            [MetricSpec(metric="f1", field="topic"), MetricSpec(metric="f1", field="x")], signature
        )
    assert (refused.value.field, refused.value.rule) == ("metrics.1.field", "known output")
    with pytest.raises(Invalid, match="several outputs") as several:
        check_metrics([MetricSpec(metric="f1")], signature)
    assert (several.value.field, several.value.rule) == ("metrics.0.field", "required")
    assert refused.value.message == (
        "metric 'f1:x': the program has no output 'x' (it has: answer, topic)"
    )


# --- what results come to ----------------------------------------------------------------------


def test_one_example_is_reported() -> None:
    report = summarise([a_result()], ["exact_match"])
    (metric,) = report.metrics
    assert (report.examples, report.runs, report.failed, metric.mean) == (1, 1, 0, 1.0)
    assert metric.interval == mean_interval([1.0])
    assert report.latency_ms is not None
    assert report.latency_ms.p50 == 10.0


def test_a_program_that_always_fails_is_reported_too() -> None:
    results = [a_result(n, 0.0, errors=(FAILED,)) for n in range(3)]
    report = summarise(results, ["exact_match"])
    assert (report.failed, report.errors, report.latency_ms) == (3, {"output_invalid": 3}, None)
    assert (report.metrics[0].mean, report.metrics[0].pass_rate) == (0.0, 0.0)
    assert report.metrics[0].pass_interval == wilson(0, 3)


def test_repeats_of_an_example_are_one_observation() -> None:
    results = [
        a_result(number, score, repeat=repeat)
        for number, scores in enumerate([(1.0, 0.5), (0.0, 0.0)])
        for repeat, score in enumerate(scores)
    ]
    report = summarise(results, ["exact_match"], threshold=0.7)
    assert example_scores(results, "exact_match") == {0: 0.75, 1: 0.0}
    (metric,) = report.metrics
    assert (report.examples, report.runs, metric.mean, metric.pass_rate) == (2, 4, 0.375, 0.5)
    assert metric.spread.n == 2


def test_costs_are_unknown_as_soon_as_one_is() -> None:
    known = [a_result(0), a_result(1, cached=True, metric_costs={"exact_match": Decimal("0.5")})]
    report = summarise(known, ["exact_match"])
    assert (report.cost_usd, report.metric_cost_usd) == (Decimal("0.02"), Decimal("0.5"))
    assert (report.spent_usd, report.unpriced, report.cached) == (Decimal("0.01"), 0, 1)
    unknown = summarise([*known, a_result(2, cost_usd=None)], ["exact_match"])
    assert (unknown.cost_usd, unknown.spent_usd, unknown.unpriced) == (None, None, 1)
    judged = [a_result(metric_costs={"exact_match": None})]
    report = summarise(judged, ["exact_match"])
    assert (report.cost_usd, report.metric_cost_usd) == (Decimal("0.01"), None)


def test_metric_errors_are_counted_by_metric() -> None:
    scores = {"f1": 0.0, "exact_match": 1.0}
    results = [a_result(0, scores=scores, errors=(OF_METRIC,)), a_result(1, scores=scores)]
    report = summarise(results, ["exact_match", "f1"])
    assert [metric.errors for metric in report.metrics] == [0, 1]
    assert (report.failed, report.errors) == (1, {"invalid": 1})
    assert report.latency_ms is not None
    assert report.latency_ms.n == 2  # the program did answer


def test_of_nothing_there_is_no_report() -> None:
    with pytest.raises(Invalid, match="no results"):
        summarise([], ["exact_match"])


@given(scores=st.lists(st.floats(0, 1), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_the_order_of_results_changes_nothing(scores: list[float], seed: int) -> None:
    results = [a_result(number, score) for number, score in enumerate(scores)]
    shuffled = random.Random(seed).sample(results, len(results))
    report = summarise(shuffled, ["exact_match"])
    assert report == summarise(results, ["exact_match"])
    (metric,) = report.metrics
    assert isinstance(metric.interval, Interval)
    assert metric.mean in metric.interval


def test_a_tally_hears_of_each_result_once() -> None:
    tally = Tally(3, [a_result(0, 0.5)])
    for result in (
        a_result(1, 1.0),
        a_result(1, 1.0),
        a_result(2, 0.0, errors=(FAILED,), cached=True),
    ):
        tally.add(result)
    assert tally.progress == Progress(
        total=3,
        done=3,
        failed=1,
        cached=1,
        means={"exact_match": 0.5},
        spent_usd=Decimal("0.02"),
    )


def _cold() -> dict[str, Any]:
    return {"config": {"temperature": 0}}
