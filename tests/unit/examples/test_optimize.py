"""The optimisation demo's pure parts: what is asked for, what is told, the last line."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from rich.console import Console

from dspex_ray.core.evidence import Comparison, Interval
from dspex_ray.declarations.model import Declaration
from dspex_ray.optimization.registry import builtin_registry
from dspex_ray.optimization.runs import OptimizationRun, RunStatus
from examples.news_topic.optimize import (
    _APPLIED,
    Gain,
    beside,
    described,
    finished,
    percent_of,
    read_config,
    summary,
    table,
    told,
    with_seed,
)
from tests.unit.client import wire

LEAD = Comparison(
    method="mcnemar_mid_p",
    n=100,
    estimate=0.41,
    interval=Interval(low=0.3, high=0.52),
    confidence=0.95,
    p=2e-7,
    effect_size=0.8,
    higher=45,
    equal=51,
    lower=4,
)
INTERVAL = {"low": 0.1, "high": 0.9}
VERSION = {"candidate": "c", "score": 0.65, "interval": INTERVAL, "lead": LEAD.model_dump()}


def a_run(versions: list[dict[str, Any]], **change: Any) -> OptimizationRun:
    held_out = {
        "examples": 100,
        "start": {"score": 0.24, "interval": INTERVAL},
        "versions": versions,
    }
    ended = {
        "status": RunStatus.COMPLETED,
        "held_out": held_out,
        "created_at": "2026-01-01T12:00:00Z",
        "ended_at": "2026-01-01T12:00:12.34Z",
    }
    return OptimizationRun.model_validate(wire.optimization() | ended | change)


def test_what_is_shipped_is_searched_on_another_split() -> None:
    shipped = read_config("news.yaml")
    asked = with_seed(shipped, 2)
    assert (asked.seed, asked.examples.seed, asked.program) == (2, 2, "news-topic@1")
    assert asked.examples.sizes == {"train": 60, "dev": 40, "test": 100}
    assert asked.parameters == shipped.parameters


def test_dspys_optimizers_get_the_same_ceilings() -> None:
    ours = read_config("news.yaml")
    others = beside(ours)
    assert [one.optimizer for one in others] == [
        "BootstrapFewShotWithRandomSearch",
        "MIPROv2",
        "LabeledFewShot",
    ]
    for other in others:
        builtin_registry().parameters(other.optimizer, other.parameters)
        calls_only = ours.budget.model_copy(update={"seconds": None})
        assert (other.budget, other.examples, other.limits) == (
            calls_only,
            ours.examples,
            ours.limits,
        )


def test_what_is_applied_is_a_declaration() -> None:
    Declaration.model_validate(yaml.safe_load(_APPLIED.read_text(encoding="utf-8")))


def test_a_gain_is_of_held_out_articles() -> None:
    run = a_run([VERSION])
    done = finished(run)
    assert done.gain == Gain(
        zero_shot=0.24, optimised=0.65, lm_calls=run.spent.lm_calls, seconds=12.3
    )
    assert done.lead == LEAD
    assert done.gain.enough


def test_a_search_that_found_nothing_gained_nothing() -> None:
    done = finished(a_run([]))
    assert (done.gain.zero_shot, done.gain.optimised, done.gain.enough) == (0.24, 0.24, False)
    assert told(done.lead) == "no better program was found"


def test_a_run_that_failed_or_measured_nothing_is_no_result() -> None:
    with pytest.raises(RuntimeError, match="is failed: no model"):
        finished(a_run([], status=RunStatus.FAILED, error="no model"))
    with pytest.raises(RuntimeError, match="no start on held-out articles"):
        finished(a_run([], held_out=None))


def test_a_comparison_in_words() -> None:
    assert told(LEAD) == (
        "+41 points (+30 to +52 at 95%), better on 45, worse on 4 of 100 articles, p = 2e-07"
    )


def test_the_last_line_is_one_json_object_by_seed() -> None:
    gain = Gain(zero_shot=0.24, optimised=0.65, lm_calls=360, seconds=71.5)
    assert json.loads(summary({0: gain, 1: gain})) == {
        seed: {"zero_shot": 0.24, "optimised": 0.65, "lm_calls": 360, "seconds": 71.5}
        for seed in ("0", "1")
    }


def test_progress_of_runs_side_by_side() -> None:
    ended = a_run([])
    assert percent_of(ended) == 100.0
    pending = a_run([], status=RunStatus.PENDING, progress=None, seed=2)
    assert (percent_of(pending), described(pending)) == (0.0, "split 2: pending")


def test_the_table_has_a_row_an_optimizer() -> None:
    done = finished(a_run([VERSION]))
    console = Console(width=120, record=True, file=None)
    with console.capture() as drawn:
        console.print(table({"DspexSearch": [done, done]}, (0, 1)))
    lines = [line.split() for line in drawn.get().splitlines()]
    assert lines[1] == ["zero-shot", "24%", "24%", "24.0%"]
    assert lines[2][:4] == ["DspexSearch", "65%", "65%", "65.0%"]
