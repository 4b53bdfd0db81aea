"""A record as rows of its tables, and rows as an execution again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from typing import Any

from pydantic import BaseModel
from pydantic_core import from_json, to_json
from sqlalchemy import RowMapping, Table

from dspex_ray.db.tables import execution_contents, executions, lm_attempts, lm_calls
from dspex_ray.programs.model import CapturePolicy
from dspex_ray.routing.model import Attempt, LmCall
from dspex_ray.traces.model import Execution, ExecutionRecord
from dspex_ray.traces.rules import storable, sums

_DEFAULT_RETENTION_DAYS = CapturePolicy().retention_days
_NUL = b"\\u0000"


def columns(table: Table) -> list[str]:
    return [column.name for column in table.columns]


_EXECUTION, _CALL, _ATTEMPT, _CONTENT = (
    columns(table) for table in (executions, lm_calls, lm_attempts, execution_contents)
)


def execution_row(record: ExecutionRecord, day: date) -> tuple[Any, ...]:
    """In the order of the table's columns, as all rows here; JSON as text, for COPY."""
    values = {
        **_fields(record, _EXECUTION),
        **sums(record),
        "day": day,
        "schema": record.schema_,
        "tags": json_text(record.tags),
    }
    return tuple(values[name] for name in _EXECUTION)


def call_rows(record: ExecutionRecord, day: date) -> Iterator[tuple[Any, ...]]:
    for place, call in enumerate(record.lm_calls):
        values = {
            **_fields(call, _CALL),
            **_of(record, day, place),
            "losers": json_text(call.losers),
            "usage": json_text(call.usage),
        }
        yield tuple(values[name] for name in _CALL)


def attempt_rows(record: ExecutionRecord, day: date) -> Iterator[tuple[Any, ...]]:
    for place, call in enumerate(record.lm_calls):
        for number, attempt in enumerate(call.attempts):
            values = {
                **_fields(attempt, _ATTEMPT),
                **_of(record, day, place),
                "attempt": number,
            }
            yield tuple(values[name] for name in _ATTEMPT)


def content_rows(record: ExecutionRecord, day: date) -> Iterator[tuple[Any, ...]]:
    """One row, or none when nothing of the content was captured."""
    if record.capture == "none":
        return
    calls = [{"request": call.request, "response": call.response} for call in record.lm_calls]
    kept = record.content_retention_days or _DEFAULT_RETENTION_DAYS
    values = {
        **_of(record, day, 0),
        "capture": record.capture,
        "keep_until": day + timedelta(days=kept),
        "inputs": None if record.inputs is None else json_text(record.inputs),
        "outputs": None if record.outputs is None else json_text(record.outputs),
        "calls": json_text(calls),
    }
    yield tuple(values[name] for name in _CONTENT)


def execution_of(row: RowMapping, calls: Iterable[LmCall] = (), **content: Any) -> Execution:
    return Execution(**_fields_of(Execution, row), lm_calls=tuple(calls), **content)


def call_of(row: RowMapping, attempts: Iterable[Attempt], content: dict[str, Any]) -> LmCall:
    """`content` holds what was captured of the request and the response, or nothing."""
    return LmCall(**_fields_of(LmCall, row), attempts=tuple(attempts), **content)


def attempt_of(row: RowMapping) -> Attempt:
    return Attempt(**_fields_of(Attempt, row))


def json_text(value: Any) -> str:
    """JSON that Postgres takes: without null bytes, NaN as null."""
    text = to_json(value, inf_nan_mode="null")
    if _NUL in text:
        text = to_json(storable(from_json(text)))
    return text.decode()


def _of(record: ExecutionRecord, day: date, call: int) -> dict[str, Any]:
    return {
        "day": day,
        "execution_id": record.id,
        "project_id": record.project_id,
        "call": call,
    }


def _fields(noun: BaseModel, names: Iterable[str]) -> dict[str, Any]:
    """Text that Postgres takes, None for a column that is no field. By `vars`, since a model's
    getattr is slow to say that there is none."""
    given = vars(noun)
    row = {name: given.get(name) for name in names}
    for name, value in row.items():
        if isinstance(value, str) and "\0" in value:
            row[name] = storable(value)
    return row


def _fields_of(noun: type[Any], row: RowMapping) -> dict[str, Any]:
    return {name: row[name] for name in noun.model_fields if name in row}
