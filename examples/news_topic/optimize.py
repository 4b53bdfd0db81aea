"""The optimisation demo: a small model, a program without worked examples, and the search for them.

It runs tune_configs/news.yaml once for each of three splits of 200 articles, and shows what each
search gained on 100 articles that it never saw. `--compare` runs DSPy's optimizers on the same
splits at the same ceiling of LM calls. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import BaseModel
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from dspex_ray.client import Dspex
from dspex_ray.core.evidence import Comparison
from dspex_ray.optimization.runs import NewOptimization, OptimizationRun, RunStatus
from examples.news_topic.dataset import rows
from examples.news_topic.instance import client_of, dspex, home_of, out, own_instance, step

SEEDS = (0, 1, 2)
LEAST_GAIN = 0.30  #: on held-out articles, at each seed

_APPLIED = Path(__file__).with_name("optimize.yaml")
_TUNE = Path(__file__).parents[2] / "tune_configs"
_ROWS, _ROWS_SEED = 200, 1
_BESIDE: dict[str, dict[str, object]] = {"LabeledFewShot": {"k": 5}}  #: that no file there is for
_LOOK_S = 1.0
_BESIDE_FILES = ("news-random-search.yaml", "news-mipro.yaml")


class Gain(BaseModel):
    """What one run came to on held-out articles: accuracies of 0 to 1, and what it took in all."""

    zero_shot: float
    optimised: float
    lm_calls: int
    seconds: float

    @property
    def enough(self) -> bool:
        return self.optimised - self.zero_shot >= LEAST_GAIN


class Finished(NamedTuple):
    """A run that has ended well, and what it found on held-out articles."""

    run: OptimizationRun
    gain: Gain
    lead: Comparison | None


def main() -> int:
    given = _options().parse_args()
    home = home_of("opt")
    out.print(f"dspex-ray optimisation demo: everything of it lies in {home}")
    started = time.monotonic()
    try:
        with own_instance(home):
            found = run(home, given.seeds, compare=given.compare)
    except KeyboardInterrupt:
        out.print("\nInterrupted.")
        return 130
    out.print(f"\nAll of it took {time.monotonic() - started:.0f} s.")
    sys.stdout.write(summary(found) + "\n")
    return 0 if all(gain.enough for gain in found.values()) else 1


def run(home: Path, seeds: Sequence[int], *, compare: bool) -> dict[int, Gain]:
    """All of the demo on its running instance: by seed, what our search gained."""
    shipped = read_config("news.yaml")
    articles = home / "news.jsonl"
    articles.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(_ROWS, _ROWS_SEED)),
        encoding="utf-8",
    )
    with step("Host a local model on two cores, check and approve it, create the program"):
        dspex(home, "apply", "-f", str(_APPLIED))
        dspex(home, "dataset", "import", shipped.dataset, str(articles))
    with client_of(home) as client:
        ours = _searches(client, shipped, seeds)
        found = {shipped.optimizer: ours}
        if compare:
            for other in beside(shipped):
                found[other.optimizer] = _searches(client, other, seeds)
    out.print()
    out.print(table(found, seeds))
    return {seed: done.gain for seed, done in zip(seeds, ours, strict=True)}


def read_config(name: str) -> NewOptimization:
    """A file of tune_configs/, from the program's first version on: the newest may be what an
    earlier search found."""
    text = (_TUNE / name).read_text(encoding="utf-8")
    asked = NewOptimization.model_validate(yaml.safe_load(text))
    return asked.model_copy(update={"program": f"{asked.program}@1"})


def with_seed(asked: NewOptimization, seed: int) -> NewOptimization:
    """The same on the split that `seed` draws, searched with that seed."""
    examples = asked.examples.model_copy(update={"seed": seed})
    return asked.model_copy(update={"examples": examples, "seed": seed})


def beside(ours: NewOptimization) -> list[NewOptimization]:
    """DSPy's optimizers on the same examples, at the same ceiling of LM calls; not of seconds, for
    a small model is slow to write the instructions that some of them ask it for."""
    others = [read_config(name) for name in _BESIDE_FILES]
    asked = {one.optimizer: one.parameters for one in others} | _BESIDE
    return [
        ours.model_copy(
            update={
                "name": None,
                "optimizer": name,
                "parameters": parameters,
                "budget": ours.budget.model_copy(update={"seconds": None}),
            }
        )
        for name, parameters in asked.items()
    ]


def finished(run: OptimizationRun) -> Finished:
    """Raises RuntimeError for a run that failed, or whose start was not measured on the part
    `test`. A run that found nothing better has its start as its end."""
    if run.status is not RunStatus.COMPLETED:
        raise RuntimeError(f"run {run.id} is {run.status.value}: {run.error}")
    evidence = run.held_out
    if evidence is None or evidence.start is None or run.ended_at is None:
        raise RuntimeError(f"run {run.id} has no start on held-out articles")
    start = evidence.start.score
    best = next(iter(evidence.versions), None)
    gain = Gain(
        zero_shot=start,
        optimised=start if best is None else best.score,
        lm_calls=run.spent.lm_calls,
        seconds=round((run.ended_at - run.created_at).total_seconds(), 1),
    )
    return Finished(run, gain, None if best is None else best.lead)


def summary(gains: Mapping[int, Gain]) -> str:
    """The last line: gains by seed, as JSON."""
    return json.dumps({str(seed): gain.model_dump() for seed, gain in gains.items()})


def told(lead: Comparison | None) -> str:
    """A paired comparison in words."""
    if lead is None:
        return "no better program was found"
    low, high = 100 * lead.interval.low, 100 * lead.interval.high
    return (
        f"{100 * lead.estimate:+.0f} points ({low:+.0f} to {high:+.0f} at {lead.confidence:.0%}), "
        f"better on {lead.higher}, worse on {lead.lower} of {lead.n} articles, p = {lead.p:.2g}"
    )


def table(found: Mapping[str, Sequence[Finished]], seeds: Sequence[int]) -> Table:
    """A row an optimizer: held-out accuracy by seed, its mean, and the LM calls of a run."""
    columns = (f"seed {seed}" for seed in seeds)
    drawn = Table("held-out accuracy", *columns, "mean", "LM calls", "seconds", box=None)
    starts = [done.gain.zero_shot for done in next(iter(found.values()))]
    drawn.add_row("zero-shot", *_percents(starts), "", "")
    for name, runs in found.items():
        gains = [done.gain for done in runs]
        drawn.add_row(
            name,
            *_percents([gain.optimised for gain in gains]),
            f"{statistics.mean(gain.lm_calls for gain in gains):.0f}",
            f"{statistics.mean(gain.seconds for gain in gains):.0f}",
        )
    return drawn


def _percents(accuracies: Sequence[float]) -> list[str]:
    return [f"{value:.0%}" for value in accuracies] + [f"{statistics.mean(accuracies):.1%}"]


def _searches(client: Dspex, asked: NewOptimization, seeds: Sequence[int]) -> list[Finished]:
    """One after the other: side by side, their prompts would drive each other's beginnings out of
    what the model's two copies remember."""
    found = []
    with step(f"{asked.optimizer} on {len(seeds)} splits"):
        for seed in seeds:
            run = client.optimizations.create(with_seed(asked, seed))
            found.append(finished(_followed(client, run)))
            gain = found[-1].gain
            out.print(
                f"    split {seed}: {gain.zero_shot:.0%} zero-shot, {gain.optimised:.0%} optimised "
                f"by {gain.lm_calls} LM calls: {told(found[-1].lead)}"
            )
    return found


def _followed(client: Dspex, run: OptimizationRun) -> OptimizationRun:
    """As it ended."""
    columns = (TextColumn("    {task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeElapsedColumn(), console=out, transient=True) as progress:
        task = progress.add_task(described(run), total=100)
        while not run.status.ended:
            time.sleep(_LOOK_S)
            run = client.optimizations.get(run.id)
            progress.update(task, completed=percent_of(run), description=described(run))
    return run


def percent_of(run: OptimizationRun) -> float:
    if run.status.ended:
        return 100.0
    return 0.0 if run.progress is None else run.progress.percent or 0.0


def described(run: OptimizationRun) -> str:
    best = None if run.progress is None else run.progress.best_score
    told = run.status.value if best is None else f"best so far {best:.0%}"
    return f"split {run.seed}: {told}"


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--compare", action="store_true", help="DSPy's optimizers beside ours")
    return parser


if __name__ == "__main__":
    sys.exit(main())
