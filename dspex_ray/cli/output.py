"""What commands print: one JSON document, or tables; never a control character from outside."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import typer
from pydantic_core import to_jsonable_python
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from dspex_ray.core.errors import (
    DeadlineExceeded,
    Denied,
    DspexRayError,
    NotFound,
    RateLimited,
    Unavailable,
)

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to stdout, and nothing else.")
]

EXIT_CODES: tuple[tuple[type[DspexRayError], int], ...] = (
    (NotFound, 3),
    (Denied, 4),
    (Unavailable, 5),
    (RateLimited, 5),
    (DeadlineExceeded, 5),
    (DspexRayError, 1),
)

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PIPED_WIDTH = 200  # a file or a pipe has no width: rows stay whole


def exit_code(error: DspexRayError) -> int:
    """1 error, 3 not found, 4 denied, 5 unavailable (try again); 2, wrong usage, is typer's."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def emit(as_json: bool, value: Any, drawing: Callable[[], RenderableType]) -> None:
    """The value as JSON, or as it is drawn for a person."""
    if as_json:
        print_json(value)
    else:
        screen().print(drawing())


def print_json(value: Any) -> None:
    print(json.dumps(to_jsonable_python(value, by_alias=True), indent=2, ensure_ascii=False))


def screen(*, stderr: bool = False) -> Console:
    """Made when it is needed, for the streams of that moment."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    return console


def say(message: str) -> None:
    """A remark beside the result."""
    screen(stderr=True).print(plain(message), soft_wrap=True)


def report(error: DspexRayError) -> None:
    """The error on stderr, with the further faults that it names."""
    lines = [f"error: {error.message}"]
    faults = error.details.get("faults")
    if isinstance(faults, list):
        lines += [
            f"  {fault.get('field')}: {fault.get('message')}"
            for fault in faults[1:]
            if isinstance(fault, dict)
        ]
    if error.retry_after_s is not None:
        lines.append(f"  try again in {error.retry_after_s:.0f} s")
    for line in lines:
        say(line)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """One row each; None reads `-`."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(_cell(value) for value in row))
    return drawn


def fields(pairs: Iterable[tuple[str, object]]) -> Table:
    """Name and value, one pair a line; pairs without a value are left out."""
    drawn = Table(box=None, pad_edge=False, show_header=False)
    drawn.add_column(style="bold", no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None:
            drawn.add_row(name, _cell(value))
    return drawn


def _cell(value: object) -> Text:
    if isinstance(value, Text):
        return value
    return Text("-", style="dim") if value is None else Text(plain(str(value)))


def plain(text: str) -> str:
    """Without what could drive a terminal: names and answers come from outside."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def usd(cost: Decimal | None) -> str:
    return "unknown" if cost is None else f"${cost.normalize():f}"


def ms(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f} ms"


def share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def when(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def as_text(value: Any) -> str:
    """A value of a program: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
