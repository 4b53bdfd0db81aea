"""How optimizers and optimization runs are drawn for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group

from dspex_ray.cli.output import fields, share, table, usd, when
from dspex_ray.optimization.held_out import HeldOut
from dspex_ray.optimization.model import OptimizerInfo, ParameterInfo
from dspex_ray.optimization.runs import OptimizationRun, RunEstimate, RunTrial


def draw_optimizers(optimizers: Sequence[OptimizerInfo]) -> Any:
    rows = (
        (
            one.name,
            one.source,
            ", ".join(one.aliases) or None,
            one.description if one.refused is None else f"cannot be run: {one.refused}",
        )
        for one in optimizers
    )
    return table(("NAME", "FROM", "ALIASES", "WHAT IT DOES"), rows)


def draw_optimizer(optimizer: OptimizerInfo) -> Any:
    needs = optimizer.needs
    told = fields(
        (
            ("name", optimizer.name),
            ("aliases", ", ".join(optimizer.aliases) or None),
            ("from", optimizer.source),
            ("does", optimizer.description),
            ("needs", f"{needs.train} train and {needs.dev} dev examples at least"),
            ("prompt model", "a strong one pays" if needs.prompt_model else None),
            (
                "embedding model",
                "clusters examples, which go by their words without one"
                if needs.embedding_model
                else None,
            ),
            ("cannot be run", optimizer.refused),
        )
    )
    rows = (
        (
            one.name,
            one.type,
            "required" if one.required else repr(one.default),
            _bounds(one),
            one.description,
        )
        for one in optimizer.parameters
    )
    return Group(told, "", table(("PARAMETER", "TYPE", "DEFAULT", "ALLOWED", "WHAT IT IS"), rows))


def draw_runs(runs: Sequence[OptimizationRun]) -> Any:
    rows = (
        (
            one.id,
            one.optimizer,
            f"{one.program}@{one.version}",
            f"{one.dataset}@{one.dataset_version}",
            one.status,
            _percent(one),
            _score(one),
            one.spent.lm_calls,
            usd(one.spent.usd),
            when(one.created_at),
        )
        for one in runs
    )
    columns = ("ID", "OPTIMIZER", "PROGRAM", "DATASET", "STATUS", "DONE", "BEST", "CALLS", "SPENT")
    return table((*columns, "CREATED"), rows)


def draw_run(run: OptimizationRun) -> Any:
    spent, progress = run.spent, run.progress
    why = run.stopped_because
    parts: list[Any] = [
        fields(
            (
                ("id", run.id),
                ("name", run.name),
                ("optimizer", run.optimizer),
                ("program", f"{run.program}@{run.version}"),
                ("dataset", f"{run.dataset}@{run.dataset_version}"),
                ("examples", _examples(run)),
                ("metric", run.metric.name),
                ("estimate", told_estimate(run.estimate)),
                ("status", run.status),
                ("error", run.error),
                ("ended by", None if why is None else f"{why.value} {run.detail}".strip()),
                ("done", _percent(run)),
                ("converging", None if progress is None else progress.convergence.status.value),
                ("until", None if progress is None else when(progress.expected_end)),
                ("trials", None if progress is None else progress.trials),
                ("best score", _score(run)),
                ("held out", None if run.held_out is None else told_held_out(run.held_out)),
                ("front", f"{run.front_points} points" if run.front_points else None),
                ("spent", f"{spent.lm_calls} LM calls, {spent.tokens} tokens, {usd(spent.usd)}"),
                ("seconds", f"{spent.seconds:.1f}"),
                ("starts", run.attempt),
                ("Ray job", run.job),
            )
        )
    ]
    if run.versions:
        evidence = () if run.held_out is None else run.held_out.versions
        held_out = {one.version: f"{one.score:.3f}" for one in evidence}
        rows = (
            (
                one.rank,
                f"{run.program}@{one.version}",
                one.label,
                None if one.score is None else f"{one.score:.3f}",
                held_out.get(one.version),
                "new" if one.created else "was there",
            )
            for one in run.versions
        )
        columns = ("RANK", "VERSION", "LABEL", "SCORE", "HELD OUT", "")
        parts += ["", table(columns, rows)]
    return Group(*parts)


def draw_trials(trials: Sequence[RunTrial]) -> Any:
    rows = (
        (
            one.number,
            one.candidate[:12],
            one.made_by,
            f"{one.score:.3f}",
            one.examples,
            None if one.standing is None else f"{one.standing:.3f}",
            one.lm_calls,
        )
        for one in trials
    )
    return table(("TRIAL", "CANDIDATE", "BY", "SCORE", "EXAMPLES", "ON ALL", "CALLS"), rows)


def told_estimate(figures: RunEstimate) -> str:
    calls = "an unknown number of" if figures.lm_calls is None else f"up to {figures.lm_calls}"
    return f"{calls} LM calls, {usd(figures.cost_usd)} ({figures.basis})"


def told_held_out(found: HeldOut) -> str:
    """Of the best version beside the start, in one line."""
    if found.start is None:
        return f"not measured: {found.missing}"
    if not found.versions:
        only = f"{share(found.start.score)} before, on {found.examples} examples"
        return only if found.missing is None else f"{only}; {found.missing}"
    best = found.versions[0]
    parts = [f"{share(found.start.score)} -> {share(best.score)}"]
    if best.lead is not None:
        low, high = _points(best.lead.interval.low), _points(best.lead.interval.high)
        parts += [f"{_points(best.lead.estimate)} points [{low}, {high}]", f"p={best.lead.p:.2g}"]
    if best.flattered is not None:
        parts.append(f"selection flattered by {_points(best.flattered).lstrip('+')} points")
    parts.append(f"on {found.examples} examples")
    return ", ".join(parts) + ("" if found.missing is None else f"; {found.missing}")


def _points(share: float) -> str:
    return f"{100 * share:+.0f}"


def _examples(run: OptimizationRun) -> str:
    test = f", {run.test_examples} test" if run.test_examples else ""
    return f"{run.train_examples} train, {run.dev_examples} dev{test}"


def _percent(run: OptimizationRun) -> str | None:
    percent = None if run.progress is None else run.progress.percent
    return None if percent is None else f"{percent:.0f} %"


def _score(run: OptimizationRun) -> str | None:
    score = run.best_score
    if score is None and run.progress is not None:
        score = run.progress.best_score
    return None if score is None else f"{score:.3f}"


def _bounds(one: ParameterInfo) -> str | None:
    if one.choices:
        return ", ".join(map(str, one.choices))
    least = one.minimum if one.minimum is not None else one.above
    if least is None and one.maximum is None:
        return None
    if one.maximum is None:
        return f"from {least:g}" if one.minimum is not None else f"above {least:g}"
    return f"up to {one.maximum:g}" if least is None else f"{least:g} to {one.maximum:g}"
