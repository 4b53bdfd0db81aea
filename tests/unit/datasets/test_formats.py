"""JSONL, CSV and Parquet in pieces of any size, and how an intake names what is bad."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.canonical import content_hash
from dspex_ray.core.errors import Invalid, TooLarge
from dspex_ray.datasets.formats import format_of
from dspex_ray.datasets.intake import Intake, Taken, as_raw, staged_rows
from dspex_ray.datasets.model import MAX_FAULTS, SourceKind
from dspex_ray.datasets.profile import MAX_FIELDS
from dspex_ray.settings import DatasetSettings

SMALL = DatasetSettings(max_row_bytes=200, max_bytes=5_000, max_examples=50)
CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"), max_size=8)


def taken(
    kind: SourceKind, content: bytes, limits: DatasetSettings = SMALL, piece: int = 7
) -> tuple[Taken, list[dict[str, Any]]]:
    """What an upload in pieces of so many bytes comes to, and the rows that it staged."""
    staged = io.BytesIO()
    intake = Intake(staged, limits)
    rows = format_of(kind, limits.max_row_bytes, io.BytesIO())
    for start in range(0, len(content), piece):
        intake.take(rows.feed(content[start : start + piece]))
    intake.take(rows.finish())
    found = intake.finish()
    return found, [json.loads(row.text) for batch in staged_rows(staged, 3) for row in batch]


def refusal(kind: SourceKind, content: bytes, limits: DatasetSettings = SMALL) -> Invalid:
    with pytest.raises(Invalid) as refused:
        taken(kind, content, limits)
    return refused.value


def parquet(rows: Iterable[dict[str, Any]], **options: Any) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file, **options)
    return file.getvalue()


@given(
    rows=st.lists(st.dictionaries(CELL.filter(bool), CELL, min_size=1), min_size=1, max_size=8),
    piece=st.integers(1, 40),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_json_lines_in_any_pieces(rows: list[dict[str, Any]], piece: int, end: str) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    content = ("\ufeff" + f"{end}{end}".join(lines)).encode()
    found, staged = taken(SourceKind.JSONL, content, DatasetSettings(), piece)
    assert staged == rows
    assert found.examples == len(rows)


@given(
    cells=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8),
    piece=st.integers(1, 40),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_csv_in_any_pieces(cells: list[tuple[str, str]], piece: int, quoting: Any) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=quoting)
    writer.writerow(["question", "answer, with a comma"])
    writer.writerows(cells)
    found, staged = taken(SourceKind.CSV, text.getvalue().encode(), DatasetSettings(), piece)
    assert [(row["question"], row["answer, with a comma"]) for row in staged] == cells
    assert [field.name for field in found.fields] == ["question", "answer, with a comma"]


@given(rows=st.lists(st.tuples(CELL, st.integers(-9, 9) | st.none()), min_size=1, max_size=20))
def test_parquet(rows: list[tuple[str, int | None]]) -> None:
    values = [{"q": text, "n": number, "tags": [text]} for text, number in rows]
    content = parquet(values, row_group_size=4)
    found, staged = taken(SourceKind.PARQUET, content, DatasetSettings(), 50)
    assert staged == values
    assert found.examples == len(rows)


def test_the_three_formats_come_to_the_same() -> None:
    rows = [{"a": "x", "b": 'say "hi"\nthere'}, {"a": "", "b": "é"}]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["a", "b"])
    writer.writeheader()
    writer.writerows(rows)
    by_kind = {
        SourceKind.JSONL: "\n".join(map(json.dumps, rows)).encode(),
        SourceKind.CSV: text.getvalue().encode(),
        SourceKind.PARQUET: parquet(rows),
    }
    hashes = {taken(kind, content)[0].hash for kind, content in by_kind.items()}
    assert len(hashes) == 1


def test_bad_lines_are_all_named_and_good_ones_do_not_help() -> None:
    lines = [
        b'{"a": 1}',
        b"{broken secret",
        b'{"a": NaN, "b": "secret\\u0000"}',
        b"",
        b'["secret"]',
        b'{"a": 1, "a": 2}',
        b"\xff\xfe",
        b'{"a": ' + b"9" * 60 + b"}",
        b'{"a": "' + b"x" * 400 + b'"}',
        b"[" * 150,
        b'{"a": 2}',
    ]
    error = refusal(SourceKind.JSONL, b"\n".join(lines))
    found = error.details["faults"]
    assert [(f["row"], f["line"], f["field"], f["rule"]) for f in found] == [
        (1, 2, "row", "json"),
        (2, 3, "a", "finite"),
        (2, 3, "b", "text"),
        (3, 5, "row", "object"),
        (4, 6, "a", "unique field"),
        (5, 7, "row", "utf-8"),
        (6, 8, "a", "range"),
        (7, 9, "row", "row size"),
        (8, 10, "row", "json"),
    ]
    assert (error.details["bad_rows"], error.details["rows"]) == (8, 10)
    assert (error.field, error.rule) == ("row", "json")
    assert error.message == (
        "8 of 10 rows are bad, nothing was imported: row 1 (line 2) is not JSON: Expecting "
        "property name enclosed in double quotes at column 2"
    )
    assert "secret" not in str(error.details)


def test_a_line_of_thousands_of_brackets_or_digits_is_a_bad_row() -> None:
    limits = DatasetSettings(max_row_bytes=100_000)
    deep = refusal(SourceKind.JSONL, b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}", limits)
    assert deep.rule == "depth"
    long = refusal(SourceKind.JSONL, b'{"a":' + b"9" * 20_000 + b"}", limits)
    assert long.rule == "json"


def test_faults_are_listed_up_to_a_limit_and_counted_beyond() -> None:
    error = refusal(SourceKind.JSONL, b"bad\n" * (MAX_FAULTS + 23), DatasetSettings())
    assert len(error.details["faults"]) == MAX_FAULTS
    assert error.details["bad_rows"] == MAX_FAULTS + 23


def test_bad_rows_of_csv() -> None:
    content = b'q,a\n1,2\n1\n"x"y,2\n\n"two\nlines",3\n1,2,3\n\xff,1\n'
    error = refusal(SourceKind.CSV, content)
    assert [(f["row"], f["line"], f["rule"]) for f in error.details["faults"]] == [
        (1, 3, "columns"),
        (2, 4, "csv"),
        (4, 8, "columns"),
        (5, 9, "utf-8"),
    ]


@pytest.mark.parametrize(
    ("content", "field", "rule"),
    [
        (b"a,a\n1,2\n", "header", "unique"),
        (b"a,\n1,2\n", "header", "unique"),
        (b"\xff\n1\n", "row", "utf-8"),
        (b'"a"x\n1\n', "row", "csv"),
        (b'a\n"never closed\n' + b"x\n" * 300, "row", "row size"),
        (b"a\n" + b"x" * 300, "row", "row size"),
    ],
)
def test_csv_that_cannot_be_read_on(content: bytes, field: str, rule: str) -> None:
    error = refusal(SourceKind.CSV, content)
    assert (error.field, error.rule) == (field, rule)


def test_a_quote_that_is_never_closed_is_a_bad_row() -> None:
    error = refusal(SourceKind.CSV, b'a\n"x\ny')
    assert (error.rule, error.details["bad_rows"]) == ("csv", 1)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 50 + b"PAR1", b"{}\n"])
def test_what_is_no_parquet(content: bytes) -> None:
    error = refusal(SourceKind.PARQUET, content)
    assert (error.field, error.rule) == ("body", "parquet")


def test_parquet_values_that_json_cannot_hold_are_bad_rows() -> None:
    rows = [{"a": b"bytes", "b": 1.0}, {"a": b"", "b": float("nan")}]
    error = refusal(SourceKind.PARQUET, parquet(rows))
    assert [(f["row"], f["field"], f["rule"]) for f in error.details["faults"]] == [
        (0, "a", "json"),
        (1, "a", "json"),
        (1, "b", "finite"),
    ]


@pytest.mark.parametrize(
    ("kind", "content"),
    [(SourceKind.JSONL, b"\n\n"), (SourceKind.CSV, b"a,b\n"), (SourceKind.PARQUET, None)],
)
def test_no_rows_at_all(kind: SourceKind, content: bytes | None) -> None:
    if content is None:
        file = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array([], "string")}), file)
        content = file.getvalue()
    error = refusal(kind, content)
    assert (error.field, error.rule) == ("body", "at least one example")


def test_limits_on_rows_and_bytes() -> None:
    with pytest.raises(TooLarge, match="over 50 rows"):
        taken(SourceKind.JSONL, b'{"a":1}\n' * 51)
    assert taken(SourceKind.JSONL, b'{"a":1}\n' * 50)[0].examples == 50
    row = json.dumps({"a": "x" * 180}).encode() + b"\n"
    with pytest.raises(TooLarge, match="over 5000 bytes"):
        taken(SourceKind.JSONL, row * 40)


@pytest.mark.parametrize("kind", [SourceKind.JSONL, SourceKind.CSV, SourceKind.PARQUET])
def test_a_row_of_50_mb_is_refused_without_being_kept(kind: SourceKind) -> None:
    """Under the default limit of 1 MB."""
    large = "x" * 50_000_000
    contents: dict[SourceKind, Callable[[], bytes]] = {
        SourceKind.JSONL: lambda: json.dumps({"a": large}).encode() + b'\n{"a": 1}\n',
        SourceKind.CSV: f"a\n{large}\n".encode,
        SourceKind.PARQUET: lambda: parquet([{"a": large}, {"a": "small"}]),
    }
    with pytest.raises(Invalid) as refused:
        taken(kind, contents[kind](), DatasetSettings(), 256_000)
    assert (refused.value.field, refused.value.rule) == ("row", "row size")


def test_too_many_different_fields() -> None:
    rows = b"\n".join(json.dumps({f"f{n}": 1}).encode() for n in range(MAX_FIELDS + 1))
    error = refusal(SourceKind.JSONL, rows, DatasetSettings())
    assert [(f["row"], f["rule"]) for f in error.details["faults"]] == [(MAX_FIELDS, "fields")]


def test_a_digest_with_any_byte_is_read_back_by_length() -> None:
    rows = [{"n": n} for n in range(600)]  # some digest holds the byte of a line's end
    assert any(b"\n" in bytes.fromhex(content_hash(row)) for row in rows)
    staged = io.BytesIO()
    intake = Intake(staged, DatasetSettings())
    intake.take(as_raw(rows))
    intake.finish()
    read = [row for batch in staged_rows(staged, 100) for row in batch]
    assert [row.digest.hex() for row in read] == [content_hash(row) for row in rows]
    assert [row.number for row in read] == list(range(600))
