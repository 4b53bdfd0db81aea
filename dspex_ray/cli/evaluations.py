"""`dspex evaluate` and `dspex evaluation`: a program measured on a dataset."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated
from uuid import UUID

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dspex_ray.cli.door import door_of
from dspex_ray.cli.evaluation_tables import draw_evaluation, draw_list, draw_results
from dspex_ray.cli.inputs import json_object, noun, pairs
from dspex_ray.cli.output import Json, emit, plain, say, screen, usd
from dspex_ray.client import Dspex
from dspex_ray.core.errors import Unavailable
from dspex_ray.core.page import MAX_LIMIT, Page
from dspex_ray.evaluation.model import (
    KNOWN_METRICS,
    Evaluation,
    EvaluationEvent,
    EvaluationQuery,
    EvaluationSettings,
    EvaluationStatus,
    ExampleResult,
    MetricSpec,
    NewEvaluation,
    Selection,
)

_RECONNECTS = 10
_RECONNECT_S = 1.0

app = typer.Typer(no_args_is_help=True, help="Programs measured on datasets.")
Id = Annotated[UUID, typer.Argument(help="The evaluation's id.")]


Sizes = Annotated[str | None, typer.Option(help="Of all parts, as in train=60,test=100.")]
MetricTexts = Annotated[
    list[str],
    typer.Option(
        help="exact_match:topic (metric:output), exact_match:topic=label (held against another "
        "field), package.module:function, or a JSON object; repeatable."
    ),
]
Threshold = Annotated[
    float | None, typer.Option(help="The score with which an example passes; 1 unless said.")
]


def evaluate(
    context: typer.Context,
    program: Annotated[str, typer.Argument(help="name, name@version or name@label.")],
    dataset: Annotated[str, typer.Option(help="name or name@version.")],
    metric: MetricTexts,
    split: Annotated[str | None, typer.Option(help="One part; goes with --sizes.")] = None,
    sizes: Sizes = None,
    sample: Annotated[int | None, typer.Option(help="So many, drawn by the seed.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of split, sample and repeats.")] = None,
    model: Annotated[str | None, typer.Option(help="Answers instead of the assigned.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Examples at once.")] = None,
    actors: Annotated[int | None, typer.Option(help="Processes; one a node unless said.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Runs of each example.")] = None,
    timeout_s: Annotated[float | None, typer.Option(help="Of each example.")] = None,
    threshold: Threshold = None,
    cache: Annotated[bool, typer.Option(help="Take runs that were paid for before.")] = True,
    wait: Annotated[bool, typer.Option(help="Until it has ended, showing its progress.")] = True,
    as_json: Json = False,
) -> None:
    """Measure a program on a dataset. Exits with 1 when that failed or was cancelled."""
    parts = None if sizes is None else pairs(sizes.split(","), "--sizes")
    new = noun(
        NewEvaluation,
        program=program,
        dataset=dataset,
        metrics=tuple(_metric(text) for text in metric),
        examples=noun(Selection, split=split, sizes=parts, sample=sample, seed=seed),
        settings=noun(
            EvaluationSettings,
            model=model,
            concurrency=concurrency,
            actors=actors,
            repeats=repeats,
            seed=seed,
            timeout_s=timeout_s,
            threshold=threshold,
            cache=None if cache else False,
        ),
    )
    with door_of(context).client() as client:
        evaluation = client.evaluations.create(new)
        if wait:
            _follow(client, evaluation, quiet=as_json)
            evaluation = client.evaluations.get(evaluation.id)
    emit(as_json, evaluation, lambda: draw_evaluation(evaluation))
    if evaluation.status in {EvaluationStatus.FAILED, EvaluationStatus.CANCELLED}:
        raise typer.Exit(1)


@app.command("list")
def list_evaluations(
    context: typer.Context,
    program: Annotated[str | None, typer.Option()] = None,
    dataset: Annotated[str | None, typer.Option()] = None,
    status: Annotated[EvaluationStatus | None, typer.Option()] = None,
    limit: Annotated[int | None, typer.Option()] = None,
    as_json: Json = False,
) -> None:
    """Newest first."""
    query = noun(EvaluationQuery, program=program, dataset=dataset, status=status, limit=limit)
    with door_of(context).client() as client:
        page = client.evaluations.list(query)
    emit(as_json, page, lambda: draw_list(page.items))


@app.command()
def show(context: typer.Context, evaluation_id: Id, as_json: Json = False) -> None:
    """One evaluation, with its report once it is completed."""
    with door_of(context).client() as client:
        evaluation = client.evaluations.get(evaluation_id)
    emit(as_json, evaluation, lambda: draw_evaluation(evaluation))


@app.command()
def results(
    context: typer.Context,
    evaluation_id: Id,
    failed: Annotated[
        bool | None,
        typer.Option("--failed/--succeeded", help="Only those with errors, or without."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    as_json: Json = False,
) -> None:
    """Its results by example number."""
    found: list[ExampleResult] = []
    cursor: str | None = None
    with door_of(context).client() as client:
        while len(found) < limit:
            page = client.evaluations.results(
                evaluation_id,
                failed=failed,
                cursor=cursor,
                limit=min(MAX_LIMIT, limit - len(found)),
            )
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
    shown = Page[ExampleResult](items=found, next_cursor=cursor)
    emit(as_json, shown, lambda: draw_results(found))


@app.command()
def cancel(context: typer.Context, evaluation_id: Id, as_json: Json = False) -> None:
    """End it within seconds; results that are there stay."""
    with door_of(context).client() as client:
        evaluation = client.evaluations.cancel(evaluation_id)
    emit(as_json, evaluation, lambda: draw_evaluation(evaluation))


def _metric(text: str) -> MetricSpec:
    if text.startswith("{"):
        return noun(MetricSpec, **json_object(text, "--metric"))
    name, _, rest = text.partition(":")
    if name not in KNOWN_METRICS and rest:  # package.module:function
        function, _, rest = rest.partition(":")
        name = f"{name}:{function}"
    field, _, expected = rest.partition("=")
    return noun(MetricSpec, metric=name, field=field or None, expected=expected or None)


def _follow(client: Dspex, evaluation: Evaluation, *, quiet: bool) -> None:
    """Shows how far it is, on stderr. A stream that is cut is taken up again; interrupted, this
    leaves the evaluation running."""
    console = screen(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, TimeElapsedColumn(), console=console, disable=quiet)
    try:
        with bar:
            task = bar.add_task("pending", total=evaluation.progress.total)
            for event in _events(client, evaluation.id):
                bar.update(task, completed=event.progress.done, description=_told(event))
    except KeyboardInterrupt:
        say(f"it goes on; to end it: dspex evaluation cancel {evaluation.id}")
        raise


def _events(client: Dspex, evaluation_id: UUID) -> Iterator[EvaluationEvent]:
    failed = 0
    while True:
        try:
            for event in client.evaluations.events(evaluation_id):
                failed = 0
                yield event
        except Unavailable:
            failed += 1
            if failed > _RECONNECTS:
                raise
            time.sleep(_RECONNECT_S)
        else:
            return


def _told(event: EvaluationEvent) -> str:
    progress = event.progress
    scores = "  ".join(f"{name} {mean:.3f}" for name, mean in progress.means.items())
    failed = f"  {progress.failed} failed" if progress.failed else ""
    return plain(f"{event.status.value}  {scores}{failed}  {usd(progress.spent_usd)}")
