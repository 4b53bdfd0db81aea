"""The demo: an instance of its own, two local models, a program, 20 requests, a real fallback.

It does what a user does: the `dspex` command and the SDK, nothing from the inside. It ends on
Ctrl-C, or by itself with DEMO_ONCE=1; then its last line is a JSON summary. It leaves nothing
running in either case.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dspex_ray.client import Dspex
from dspex_ray.core.errors import DspexRayError
from dspex_ray.serving.model import Prediction
from dspex_ray.traces.model import Execution, ExecutionQuery, Source, UsageGroup, UsageQuery
from examples.news_topic.articles import Article, installed_corpus
from examples.news_topic.instance import (
    client_of,
    dspex,
    home_of,
    out,
    own_instance,
    status_of,
    step,
)

PROGRAM = "news-topic"
REQUESTS = 20
LONG_EVERY = 4
SEED = 0

_FILE = Path(__file__).with_name("demo.yaml")
_RECORDED_WITHIN_S = 15.0


class Answer(NamedTuple):
    """One request: `prediction` None when it failed."""

    article: Article
    prediction: Prediction | None
    ms: float

    @property
    def right(self) -> bool:
        return self.prediction is not None and self.prediction.outputs == {
            "topic": self.article.topic
        }


class Summary(BaseModel):
    requests: int
    ok: int
    fallbacks: int
    p50_ms: float
    p99_ms: float
    cost_usd: float | None
    seconds: float


def main() -> int:
    once = os.environ.get("DEMO_ONCE", "") not in {"", "0"}  # noqa: TID251 - a door
    started = time.monotonic()
    home = home_of("demo")
    out.print(f"dspex-ray demo: everything of it lies in {home}")
    try:
        with own_instance(home):
            summary = run(home, started)
            if not once:
                _wait_for_ctrl_c()
    except KeyboardInterrupt:
        out.print("\nInterrupted.")
        return 130
    if once:
        sys.stdout.write(summary.model_dump_json() + "\n")
    return 0 if summary.ok == summary.requests and summary.fallbacks else 1


def run(home: Path, started: float) -> Summary:
    """All of the demo on its running instance."""
    corpus = installed_corpus(SEED)
    declaration = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    declaration["programs"][0]["source"]["module"]["demos"] = corpus.demos()
    file = home / "demo.yaml"
    file.write_text(yaml.safe_dump(declaration, sort_keys=False), encoding="utf-8")
    with step("Host two local models, check and approve them, create the program"):
        dspex(home, "apply", "-f", str(file))
    since = datetime.now(UTC).replace(second=0, microsecond=0)  # noqa: TID251 - a door
    with client_of(home) as client:
        with step(f"{REQUESTS} requests to POST /v1/programs/{PROGRAM}/predict"):
            answers = _ask(client, corpus.questions(REQUESTS, LONG_EVERY))
        runs = _recorded(client, sum(answer.prediction is not None for answer in answers))
        fallen = next((execution for execution in runs if execution.fallback), None)
        if fallen is not None:
            out.print("\n[bold]One request that fell back[/] (smol-short's context is too small)")
            dspex(home, "executions", "show", str(fallen.id))
        _show_models(client, since)
    _show_result(answers)
    _show_places(status_of(home), home)
    return _summary(answers, time.monotonic() - started)


def _ask(client: Dspex, articles: Sequence[Article]) -> list[Answer]:
    answers = []
    columns = (TextColumn("    {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=out, transient=True) as progress:
        task = progress.add_task("predicting", total=len(articles))
        for article in articles:
            answer = _predict(client, article)
            answers.append(answer)
            progress.print(_line(answer))
            progress.advance(task)
    return answers


def _predict(client: Dspex, article: Article) -> Answer:
    began = time.monotonic()
    prediction = None
    try:
        prediction = client.programs.predict(PROGRAM, {"article": article.text})
    except DspexRayError as error:
        out.print(f"    [red]{error.code}[/]: {error.message}", markup=True)
    return Answer(article, prediction, (time.monotonic() - began) * 1000)


def _line(answer: Answer) -> str:
    if answer.prediction is None:
        return f"    {answer.article.words:>4} words  [red]failed[/]"
    usage = answer.prediction.usage
    how = "[yellow]fallback: smol-short refused it[/]" if usage.fallback else ""
    mark = "[green]right[/]" if answer.right else f"[dim]wrong, it is {answer.article.topic}[/]"
    return (
        f"    {answer.article.words:>4} words  {answer.ms:>6.0f} ms  "
        f"{answer.prediction.model!s:<11} {answer.prediction.outputs['topic']:<14} {mark}  {how}"
    )


def _recorded(client: Dspex, count: int) -> list[Execution]:
    """The executions as they stand in Postgres: draining the spool takes a moment."""
    deadline = time.monotonic() + _RECORDED_WITHIN_S
    wanted = ExecutionQuery(program=PROGRAM, limit=100)
    while True:
        found = client.executions.list(wanted).items
        if len(found) >= count:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(found)} of {count} executions are on record")
        time.sleep(0.2)


def _show_models(client: Dspex, since: datetime) -> None:
    query = UsageQuery(group_by=[UsageGroup.MODEL, UsageGroup.SOURCE], since=since)
    table = Table("model", "calls", "failed", "tokens in + out", "cost", "p50", "p95", box=None)
    for row in client.executions.usage(query).items:
        if row.source is not Source.SERVING:
            continue  # the health checks' own calls
        latency = row.latency_ms
        table.add_row(
            row.model,
            str(row.attempts),
            str(row.failed),
            f"{row.prompt_tokens:,} + {row.completion_tokens:,}",
            "unknown" if row.cost_usd is None else f"${row.cost_usd:.6f}",
            *(
                ("-", "-")
                if latency is None
                else (f"{latency.p50:.0f} ms", f"{latency.p95:.0f} ms")
            ),
        )
    out.print("\n[bold]What the models did[/]")
    out.print(table)


def _show_result(answers: Sequence[Answer]) -> None:
    right = sum(answer.right for answer in answers)
    out.print(
        f"\n{right} of {len(answers)} topics are right ({right / len(answers):.0%}; guessing gives "
        "20%). The model has 135 million parameters, and its five worked\nexamples were drawn "
        "by a fixed seed: choosing them well is what optimisation is for."
    )


def _show_places(status: dict[str, Any], home: Path) -> None:
    places = {
        "API docs, control plane": f"{status['url']}/api/docs",
        "API docs, data plane": f"{status['url']}/docs (any user, the API key as password)",
        "Ray dashboard": f"{status['dashboard_url']} (token in {home / 'ray-token'})",
        "API key": f"in {home / 'dev-key'}",
        "try": f"{sys.executable} -m dspex_ray.cli --home {home} status",
    }
    out.print()
    for name, place in places.items():
        out.print(f"[bold]{name:<24}[/] {place}")


def _summary(answers: Sequence[Answer], seconds: float) -> Summary:
    good = [answer.prediction for answer in answers if answer.prediction is not None]
    costs = [prediction.usage.cost_usd for prediction in good]
    known = [cost for cost in costs if cost is not None]
    times = statistics.quantiles([answer.ms for answer in answers], n=100, method="inclusive")
    return Summary(
        requests=len(answers),
        ok=len(good),
        fallbacks=sum(prediction.usage.fallback for prediction in good),
        p50_ms=round(times[49], 1),
        p99_ms=round(times[98], 1),
        cost_usd=float(sum(known, Decimal(0))) if len(known) == len(costs) else None,
        seconds=round(seconds, 1),
    )


def _wait_for_ctrl_c() -> None:
    out.print("\nRunning. [bold]Ctrl-C ends it.[/]")
    try:
        signal.pause()
    except KeyboardInterrupt:
        out.print()


if __name__ == "__main__":
    sys.exit(main())
