"""How evaluations are drawn for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group

from dspex_ray.cli.output import fields, ms, share, table, usd, when
from dspex_ray.core.evidence import Interval
from dspex_ray.evaluation.model import Evaluation, ExampleResult, Report, Selection


def draw_evaluation(evaluation: Evaluation) -> Any:
    progress = evaluation.progress
    parts: list[Any] = [
        fields(
            (
                ("id", evaluation.id),
                ("program", f"{evaluation.program}@{evaluation.version}"),
                ("model", evaluation.settings.model),
                ("dataset", f"{evaluation.dataset}@{evaluation.dataset_version}"),
                ("examples", _selection(evaluation.examples)),
                ("status", evaluation.status),
                ("error", evaluation.error),
                ("runs", f"{progress.done} of {progress.total}"),
            )
        )
    ]
    if evaluation.report is not None:
        parts += ["", *_report(evaluation.report)]
    return Group(*parts)


def draw_list(evaluations: Sequence[Evaluation]) -> Any:
    rows = (
        (
            one.id,
            f"{one.program}@{one.version}",
            f"{one.dataset}@{one.dataset_version}",
            one.status,
            f"{one.progress.done}/{one.progress.total}",
            _means(one.progress.means),
            usd(one.progress.spent_usd),
            when(one.created_at),
        )
        for one in evaluations
    )
    return table(("ID", "PROGRAM", "DATASET", "STATUS", "RUNS", "SCORES", "SPENT", "CREATED"), rows)


def draw_results(results: Sequence[ExampleResult]) -> Any:
    rows = (
        (
            result.number,
            result.repeat,
            _means(result.scores),
            ms(result.latency_ms),
            usd(result.cost_usd),
            "yes" if result.cached else "",
            "; ".join(f"{error.code}: {error.message}" for error in result.errors) or None,
        )
        for result in results
    )
    return table(("EXAMPLE", "REPEAT", "SCORES", "LATENCY", "COST", "CACHED", "ERROR"), rows)


def _report(report: Report) -> list[Any]:
    scores = table(
        ("METRIC", "MEAN", f"{report.confidence:.0%} INTERVAL", "PASSED", "INTERVAL", "ERRORS"),
        (
            (
                metric.name,
                f"{metric.mean:.3f}",
                _interval(metric.interval),
                share(metric.pass_rate),
                _interval(metric.pass_interval),
                metric.errors,
            )
            for metric in report.metrics
        ),
    )
    latency = report.latency_ms
    told = {
        "examples": f"{report.examples}, {report.runs} runs, {report.failed} failed, "
        f"{report.cached} cached",
        "errors": ", ".join(f"{code} {count}" for code, count in report.errors.items()) or None,
        "latency": latency
        and f"p50 {ms(latency.p50)}, p95 {ms(latency.p95)}, p99 {ms(latency.p99)}",
        "cost": usd(report.cost_usd),
        "of metrics": usd(report.metric_cost_usd) if report.metric_cost_usd != 0 else None,
        "spent": usd(report.spent_usd),
    }
    return [scores, "", fields(told.items())]


def _means(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {score:.3f}" for name, score in scores.items())


def _interval(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}"


def _selection(selection: Selection) -> str:
    if selection.split is not None:
        sizes = ",".join(f"{name}={size}" for name, size in (selection.sizes or {}).items())
        return f"split {selection.split} of {sizes}, seed {selection.seed}"
    if selection.sample is not None:
        return f"a sample of {selection.sample}, seed {selection.seed}"
    return "all"
