"""How datasets, their versions and checks are drawn."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from dspex_ray.cli.output import as_text, fields, table, when
from dspex_ray.core.page import Page
from dspex_ray.datasets.model import (
    CheckReport,
    Dataset,
    DatasetSplit,
    DatasetVersion,
    Example,
    FieldSummary,
)

_CELL_CHARS = 60


def draw_list(page: Page[Dataset]) -> Table:
    rows = (
        (one.name, one.type, one.latest_version, when(one.updated_at), one.description)
        for one in page.items
    )
    return table(("NAME", "TYPE", "VERSION", "UPDATED", "DESCRIPTION"), rows)


def draw_version(name: str, version: DatasetVersion) -> RenderableType:
    head = fields(
        (
            ("dataset", name),
            ("version", version.number),
            ("hash", version.hash),
            ("examples", f"{version.examples:,}"),
            ("duplicates", f"{version.duplicates:,}"),
            ("bytes", f"{version.bytes:,}"),
            ("source", " ".join(filter(None, (version.source.kind, version.source.name)))),
            ("created", f"{when(version.created_at)} by {version.created_by}"),
        )
    )
    columns = ("FIELD", "TYPE", "NULL", "MISSING", "DISTINCT", "RANGE", "MEAN")
    return Group(head, "", table(columns, map(_field, version.fields)))


def draw_examples(page: Page[Example]) -> Table:
    names = list({name: None for one in page.items for name in one.values})
    rows = (
        (one.number, one.hash[:12], *(_cell(one.values.get(name)) for name in names))
        for one in page.items
    )
    return table(("NUMBER", "HASH", *names), rows)


def draw_split(split: DatasetSplit) -> RenderableType:
    rows = ((part.name, part.examples, part.fingerprint) for part in split.parts)
    head = fields(
        (
            ("dataset", f"{split.dataset}@{split.version}"),
            ("seed", split.seed),
            ("unused", split.unused),
            ("fingerprint", split.fingerprint),
        )
    )
    return Group(head, "", table(("SPLIT", "EXAMPLES", "FINGERPRINT"), rows))


def draw_check(report: CheckReport) -> RenderableType:
    head = fields(
        (
            ("dataset", f"{report.dataset}@{report.version}"),
            ("program", f"{report.program}@{report.program_version}"),
            ("examples", report.examples),
            ("bad rows", report.bad_rows),
            ("inputs", ", ".join(report.inputs)),
            ("outputs", ", ".join(report.outputs) or None),
            ("outputs not held", ", ".join(report.absent_outputs) or None),
            ("fields not used", ", ".join(report.unused) or None),
        )
    )
    if not report.faults:
        return head
    rows = ((fault.row, fault.field, fault.rule, fault.message) for fault in report.faults)
    return Group(head, "", table(("ROW", "FIELD", "RULE", "MESSAGE"), rows))


def _field(field: FieldSummary) -> tuple[object, ...]:
    kind = f"{field.type} | None" if field.nullable else field.type
    distinct = "many" if field.distinct is None else field.distinct
    nulls = field.counts.get("null", 0)
    span, mean = None, field.mean
    if field.longest is not None:
        span, mean = f"{field.shortest} to {field.longest} long", field.mean_length
    elif field.least is not None:
        span = f"{field.least:g} to {field.greatest:g}"
    shown = None if mean is None else f"{mean:,.4g}"
    return (field.name, kind, nulls, field.missing, distinct, span, shown)


def _cell(value: object) -> str | None:
    if value is None:
        return None
    text = as_text(value)
    return text if len(text) <= _CELL_CHARS else text[: _CELL_CHARS - 1] + "\N{HORIZONTAL ELLIPSIS}"
