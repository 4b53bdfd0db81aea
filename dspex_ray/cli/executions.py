"""`dspex executions ...` and `dspex usage`: what has run, how it went, what it cost."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from dspex_ray.cli.door import door_of
from dspex_ray.cli.inputs import moment, noun
from dspex_ray.cli.output import (
    Json,
    as_text,
    emit,
    fields,
    ms,
    plain,
    say,
    share,
    table,
    usd,
    when,
)
from dspex_ray.core.clock import SystemClock
from dspex_ray.traces.call_tree import Node, call_tree
from dspex_ray.traces.model import (
    Execution,
    ExecutionQuery,
    ExecutionStatus,
    Source,
    UsageGroup,
    UsageQuery,
    UsageRow,
)

app = typer.Typer(no_args_is_help=True, help="What has run.")

Since = Annotated[str | None, typer.Option(help="From here on: 30m, 24h, 7d, or an ISO time.")]
Until = Annotated[str | None, typer.Option(help="Before this: 30m, 24h, 7d, or an ISO time.")]

_STYLES = {
    "completed": "green",
    "ok": "green",
    "failed": "red",
    "cancelled": "yellow",
    "skipped": "dim",
}


@app.command("list")
def list_executions(
    context: typer.Context,
    program: Annotated[str | None, typer.Option()] = None,
    version: Annotated[int | None, typer.Option()] = None,
    model: Annotated[str | None, typer.Option(help="Named by the caller, or tried.")] = None,
    status: Annotated[ExecutionStatus | None, typer.Option()] = None,
    source: Annotated[Source | None, typer.Option()] = None,
    since: Since = None,
    until: Until = None,
    request_id: Annotated[str | None, typer.Option()] = None,
    tag: Annotated[str | None, typer.Option(help="name or name=value.")] = None,
    fallback: Annotated[bool | None, typer.Option("--fallback/--no-fallback")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on from here.")] = None,
    as_json: Json = False,
) -> None:
    """Newest first. All filters that are given must hold."""
    now = SystemClock().now()
    wanted = noun(
        ExecutionQuery,
        program=program,
        version=version,
        model=model,
        status=status,
        source=source,
        since=moment(since, now),
        until=moment(until, now),
        request_id=request_id,
        tag=tag,
        fallback=fallback,
        limit=limit,
        cursor=cursor,
    )
    with door_of(context).client() as client:
        page = client.executions.list(wanted)
    emit(as_json, page, lambda: _draw_list(page.items))
    if page.next_cursor is not None and not as_json:
        say(f"There are more: --cursor {page.next_cursor}")


@app.command()
def show(
    context: typer.Context,
    execution: Annotated[UUID, typer.Argument(help="Its id.")],
    as_json: Json = False,
) -> None:
    """One execution and its call tree: attempts, tokens, cost, timing, errors."""
    with door_of(context).client() as client:
        found = client.executions.get(execution)
    emit(as_json, found, lambda: _draw(found))


def usage(
    context: typer.Context,
    by: Annotated[
        list[UsageGroup] | None,
        typer.Option(help="Apart by this; repeatable. Program and model if not given."),
    ] = None,
    since: Since = None,
    until: Until = None,
    as_json: Json = False,
) -> None:
    """Calls, tokens, cost, success and latency; of the last 24 hours unless told otherwise."""
    now = SystemClock().now()
    wanted = noun(
        UsageQuery, group_by=by or None, since=moment(since, now), until=moment(until, now)
    )
    with door_of(context).client() as client:
        page = client.executions.usage(wanted)
    groups = by or [UsageGroup.PROGRAM, UsageGroup.MODEL]
    emit(as_json, page, lambda: _draw_usage(page.items, groups))


def _draw_list(found: list[Execution]) -> Any:
    columns = ("ID", "AT", "WHAT", "STATUS", "TIME", "ATTEMPTS", "TOKENS", "COST", "ERROR")
    rows = (
        (
            run.id,
            when(run.started_at),
            call_tree(run).label,
            Text(run.status, style=_STYLES[run.status]),
            ms(run.duration_ms),
            f"{run.attempts}{' (fallback)' if run.fallback else ''}",
            _tokens(run.prompt_tokens, run.completion_tokens),
            usd(run.cost_usd),
            run.error_code,
        )
        for run in found
    )
    return table(columns, rows)


def _draw(run: Execution) -> Any:
    about = fields(
        (
            ("id", run.id),
            ("at", when(run.started_at)),
            ("source", run.source),
            ("endpoint", run.endpoint),
            ("request id", run.request_id),
            ("trace id", run.trace_id),
            (
                "arm",
                run.arm
                if run.propensity is None
                else f"{run.arm}, {share(run.propensity)} of traffic",
            ),
            ("overhead", ms(run.overhead_ms)),
            ("tags", ", ".join(f"{name}={value}" for name, value in run.tags.items()) or None),
        )
    )
    content = fields(
        (f"{side} {name}", as_text(value))
        for side, values in (("input", run.inputs), ("output", run.outputs))
        for name, value in (values or {}).items()
    )
    parts: list[RenderableType] = [about, Text(), _tree(call_tree(run))]
    if content.row_count:
        parts += [Text(), content]
    return Group(*parts)


def _tree(node: Node) -> Tree:
    tree = Tree(_line(node), guide_style="dim")
    for child in node.children:
        tree.children.append(_tree(child))
    return tree


def _line(node: Node) -> Text:
    """`label  outcome  when, how long  tokens  cost  error  why`."""
    line = Text(plain(node.label), style="bold" if node.kind == "execution" else "")
    line.append(f"  {node.outcome}", style=_STYLES.get(node.outcome, ""))
    facts = [f"{ms(node.ms)}"]
    if node.kind != "execution":
        facts.append(f"at +{node.start_ms:,.0f} ms")
    tokens = _tokens(node.prompt_tokens, node.completion_tokens)
    if tokens is not None:
        facts.append(f"{tokens} tokens")
    if node.outcome != "skipped":
        facts.append(usd(node.cost_usd))
    line.append("  " + ", ".join(facts), style="dim")
    if node.error_class is not None:
        line.append(f"  {node.error_class}", style="red")
    if node.message is not None:
        line.append(f": {plain(node.message)}", style="red")
    if node.note is not None:
        line.append(f"  ({plain(node.note)})", style="cyan")
    return line


def _tokens(prompt: int | None, completion: int | None) -> str | None:
    if prompt is None and completion is None:
        return None
    return f"{_count(prompt)} + {_count(completion)}"


def _count(tokens: int | None) -> str:
    return "?" if tokens is None else f"{tokens:,}"


def _draw_usage(rows: list[UsageRow], groups: list[UsageGroup]) -> Any:
    ordered = [group for group in UsageGroup if group in groups]
    columns = [group.upper() for group in ordered]
    columns += ["REQUESTS", "ATTEMPTS", "CACHED", "SUCCESS", "TOKENS", "COST", "P50", "P95", "P99"]
    return table(columns, (_usage_row(row, ordered) for row in rows))


def _usage_row(row: UsageRow, groups: list[UsageGroup]) -> list[object]:
    keys: dict[UsageGroup, object] = {
        UsageGroup.PROGRAM: row.program or "(direct)",
        UsageGroup.VERSION: row.version or None,
        UsageGroup.MODEL: row.model or row.model_id,
        UsageGroup.SOURCE: row.source,
        UsageGroup.DAY: when(row.at),
        UsageGroup.HOUR: when(row.at),
    }
    cost = usd(row.cost_usd)
    if row.unpriced and row.cost_usd is not None:
        cost += f" + {row.unpriced} unpriced"
    latency = row.latency_ms
    return [
        *(keys[group] for group in groups),
        row.requests,
        row.attempts,
        row.cached,
        share(row.success_rate),
        _tokens(row.prompt_tokens, row.completion_tokens),
        cost,
        *(
            ms(value)
            for value in ((latency.p50, latency.p95, latency.p99) if latency else (None,) * 3)
        ),
    ]
