"""Datasets over HTTP and a real Postgres: whole or not at all, and the same again when read."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import httpx
import pyarrow
import pyarrow.parquet
import pytest
from sqlalchemy import text

from dspex_ray.bootstrap import Services
from dspex_ray.core.actor import SYSTEM
from dspex_ray.core.canonical import content_hash
from dspex_ray.core.errors import Conflict, NotFound
from dspex_ray.datasets.importing import ImportService
from dspex_ray.datasets.model import Dataset, SourceKind, VersionSource
from dspex_ray.datasets.service import DatasetService
from dspex_ray.db.engine import Write
from dspex_ray.settings import DatasetSettings, Settings
from tests.integration.conftest import a_program, ok, refused
from tests.integration.rows import Rows
from tests.integration.traces.conftest import drain_all, drainer, spooled
from tests.unit.traces.records import a_feedback, a_record, record_id

pytestmark = pytest.mark.integration

ROWS: list[dict[str, Any]] = [
    {"question": "one é", "answer": "1", "n": 1, "x": 1.0},
    {"question": "two", "answer": "2", "n": 2**53 + 1, "x": 1e100},
    {"question": "two", "answer": "2", "n": 2**53 + 1, "x": 1e100},
    {"question": "three", "answer": None, "n": -3, "x": -0.0},
]
TABLES = ("datasets", "dataset_versions", "dataset_examples", "audit_events")


def lines(rows: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


async def upload(
    api: httpx.AsyncClient,
    content: bytes,
    name: str = "qa",
    media_type: str = "application/x-ndjson",
    **query: Any,
) -> httpx.Response:
    return await api.post(
        f"/v1/datasets/{name}/versions",
        content=content,
        headers={"content-type": media_type},
        params={"create": True, **query},
    )


async def held(rows: Rows) -> dict[str, list[str]]:
    return {table: found for table, found in (await rows.dump()).items() if table in TABLES}


# --- in ------------------------------------------------------------------------------------


async def test_an_upload_makes_dataset_and_version(api: httpx.AsyncClient, rows: Rows) -> None:
    version = ok(await upload(api, lines(ROWS), file="qa.jsonl"), 201)
    assert version["number"] == 1
    assert (version["examples"], version["duplicates"]) == (4, 1)
    assert version["source"] == {"kind": "jsonl", "name": "qa.jsonl", "executions": None}
    fields = {field["name"]: field for field in version["fields"]}
    assert (fields["answer"]["type"], fields["answer"]["nullable"]) == ("str", True)
    assert (fields["n"]["type"], fields["x"]["type"]) == ("int", "float")
    assert ok(await api.get("/v1/datasets/qa/versions/1")) == version
    dataset = ok(await api.get("/v1/datasets/qa"))
    assert (dataset["latest_version"], dataset["revision"]) == (1, 2)
    found = ok(await api.get("/v1/datasets/qa/versions/1/examples"))["items"]
    assert [one["values"] for one in found] == ROWS
    assert [one["hash"] for one in found] == [content_hash(row) for row in ROWS]
    assert [one["number"] for one in found] == [0, 1, 2, 3]
    events = [e for e in await rows.of("audit_events") if e["resource_kind"] == "dataset"]
    assert [event["action"] for event in events] == ["dataset.create", "dataset.add_version"]
    assert "three" not in str(events)  # content


async def test_the_formats_come_to_the_same_version(api: httpx.AsyncClient) -> None:
    first = ok(await upload(api, lines([{"q": "a", "r": "x,y"}, {"q": "b", "r": ""}])), 201)
    csv = b'q,r\r\na,"x,y"\r\nb,\r\n'
    assert ok(await upload(api, csv, media_type="text/csv; charset=utf-8"), 201) == first
    file = io.BytesIO()
    table = pyarrow.table({"r": ["x,y", ""], "q": ["a", "b"]})
    pyarrow.parquet.write_table(table, file)
    media_type = "application/vnd.apache.parquet"
    assert ok(await upload(api, file.getvalue(), media_type=media_type), 201) == first
    assert ok(await api.get("/v1/datasets/qa"))["revision"] == 2


async def test_versions_are_numbered_and_listed_newest_first(api: httpx.AsyncClient) -> None:
    for number in range(1, 4):
        made = ok(await upload(api, lines([{"q": number}])), 201)
        assert made["number"] == number
    page = ok(await api.get("/v1/datasets/qa/versions", params={"limit": 2}))
    assert [one["number"] for one in page["items"]] == [3, 2]
    rest = {"limit": 2, "cursor": page["next_cursor"]}
    page = ok(await api.get("/v1/datasets/qa/versions", params=rest))
    assert ([one["number"] for one in page["items"]], page["next_cursor"]) == ([1], None)


@pytest.mark.parametrize(
    ("content", "media_type", "field", "rule"),
    [
        (lines([{"a": 1}, [2]]) + b"{oops", "application/x-ndjson", "row", "object"),
        (b'{"a": "b\\u0000c"}', "application/x-ndjson", "a", "text"),
        (b"", "application/x-ndjson", "body", "at least one example"),
        (b"a,b\n1\n", "text/csv", "row", "columns"),
        (b"nonsense", "application/vnd.apache.parquet", "body", "parquet"),
        (b"{}", "application/json", "content-type", "rows"),
    ],
)
async def test_a_bad_upload_writes_nothing(
    api: httpx.AsyncClient, rows: Rows, content: bytes, media_type: str, field: str, rule: str
) -> None:
    before = await held(rows)
    refused(await upload(api, content, media_type=media_type), 422, field=field, rule=rule)
    assert await held(rows) == before


async def test_bad_rows_are_named_by_number_field_and_rule(api: httpx.AsyncClient) -> None:
    content = lines([{"a": 1}, {"a": 2**64}, {}])
    details = refused(await upload(api, content), 422)["details"]
    assert (details["bad_rows"], details["rows"]) == (2, 3)
    assert details["faults"] == [
        {
            "row": 1,
            "line": 2,
            "field": "a",
            "rule": "range",
            "message": "row 1 (line 2): a is an integer of more than 64 bits",
        },
        {
            "row": 2,
            "line": 3,
            "field": "row",
            "rule": "object",
            "message": "row 2 (line 3) must be an object with at least one field",
        },
    ]


async def test_without_create_the_dataset_must_be_there(api: httpx.AsyncClient) -> None:
    assert refused(await upload(api, lines(ROWS), create=False), 404)["code"] == "not_found"
    ok(await api.post("/v1/datasets", json={"name": "qa", "type": "test"}), 201)
    version = ok(await upload(api, lines(ROWS), create=False), 201)
    assert version["number"] == 1
    assert ok(await api.get("/v1/datasets/qa"))["type"] == "test"
    refused(await upload(api, lines(ROWS), name="a b"), 422, field="name", rule="name")


async def test_a_large_upload_is_taken_in_pieces_past_the_limit_of_other_bodies(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(1_200):
            yield lines([{"q": f"{number} " + "x" * 4_000}])

    answer = await api.post(
        "/v1/datasets/large/versions",
        content=pieces(),
        headers={"content-type": "application/x-ndjson"},
        params={"create": True},
    )
    version = ok(answer, 201)
    assert version["bytes"] > settings.gateway.max_body_bytes
    assert version["examples"] == 1_200
    # The same address with another type is read whole, and so has their limit.
    answer = await api.post("/v1/datasets/large/versions", content=b"x" * 5_000_000)
    assert answer.status_code == 413


async def test_limits_of_uploads(services: Services, settings: Settings, rows: Rows) -> None:
    imports = ImportService(
        services.database,
        services.clock,
        services.programs,
        DatasetSettings(max_bytes=1_000, max_examples=3),
        settings.uploads_dir,
    )

    async def send(content: bytes) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield content

        source = VersionSource(kind=SourceKind.JSONL)
        await imports.upload(SYSTEM, "qa", SourceKind.JSONL, chunks(), source=source, create=True)

    with pytest.raises(Exception, match="over 3 rows"):
        await send(lines([{"a": n} for n in range(4)]))
    with pytest.raises(Exception, match="the body is over 1000 bytes"):
        await send(b" " * 1_001)
    assert await rows.of("datasets") == []
    await send(lines([{"a": n} for n in range(3)]))
    assert list(settings.uploads_dir.iterdir()) == []


async def test_a_client_that_leaves_half_way_leaves_nothing(
    services: Services, rows: Rows, settings: Settings
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield lines(ROWS)
        raise ConnectionResetError

    source = VersionSource(kind=SourceKind.JSONL)
    with pytest.raises(ConnectionResetError):
        await services.imports.upload(
            SYSTEM, "qa", SourceKind.JSONL, chunks(), source=source, create=True
        )
    assert await rows.of("datasets") == []
    assert list(settings.uploads_dir.iterdir()) == []


async def test_imports_side_by_side_are_numbered_one_after_the_other(
    api: httpx.AsyncClient,
) -> None:
    ok(await api.post("/v1/datasets", json={"name": "qa"}), 201)
    answers = await asyncio.gather(
        *(upload(api, lines([{"n": n}, {"n": n}]), create=False) for n in range(6))
    )
    assert sorted(ok(answer, 201)["number"] for answer in answers) == [1, 2, 3, 4, 5, 6]


# --- the card ------------------------------------------------------------------------------


async def test_a_card_is_changed_with_its_etag(api: httpx.AsyncClient) -> None:
    made = await api.post("/v1/datasets", json={"name": "qa", "metadata": {"owner": "a"}})
    ok(made, 201)
    assert made.headers["etag"] == '"1"'
    refused(await api.post("/v1/datasets", json={"name": "qa"}), 409)
    change = {"description": "questions", "metadata": {"owner": "b"}}
    headers = {"if-match": '"1"'}
    changed = await api.patch("/v1/datasets/qa", json=change, headers=headers)
    assert ok(changed)["metadata"] == {"owner": "b"}
    assert changed.headers["etag"] == '"2"'
    refused(await api.patch("/v1/datasets/qa", json=change, headers=headers), 412)
    refused(await api.delete("/v1/datasets/qa", headers=headers), 412)
    listed = ok(await api.get("/v1/datasets", params={"type": "training"}))["items"]
    assert [one["name"] for one in listed] == ["qa"]
    assert ok(await api.get("/v1/datasets", params={"type": "test"}))["items"] == []
    bad = {"name": "x", "metadata": {"n": 2**70}}
    refused(await api.post("/v1/datasets", json=bad), 422, field="metadata", rule="json")


async def test_deleting_takes_the_examples_along(api: httpx.AsyncClient, rows: Rows) -> None:
    ok(await upload(api, lines(ROWS)), 201)
    ok(await api.delete("/v1/datasets/qa"), 204)
    assert (await rows.of("datasets"), await rows.of("dataset_examples")) == ([], [])
    refused(await api.get("/v1/datasets/qa"), 404)
    assert ok(await upload(api, lines(ROWS)), 201)["number"] == 1


async def test_what_is_referred_to_is_not_deleted(
    api: httpx.AsyncClient, services: Services
) -> None:
    ok(await upload(api, lines(ROWS)), 201)
    async with services.database.write() as conn:
        await conn.execute(
            text("CREATE TABLE refers AS SELECT id AS version_id FROM dataset_versions")
        )
        await conn.execute(
            text("ALTER TABLE refers ADD FOREIGN KEY (version_id) REFERENCES dataset_versions")
        )
    problem = refused(await api.delete("/v1/datasets/qa"), 409)
    assert problem["detail"] == "dataset 'qa' is in use: delete what refers to it first"
    assert len(ok(await api.get("/v1/datasets/qa/versions/1/examples"))["items"]) == 4

    async def refuse(conn: Write, dataset: Dataset) -> None:
        raise Conflict(f"evaluations use {dataset.name}")

    held_back = DatasetService(
        services.database, services.clock, services.programs, require_unused=refuse
    )
    with pytest.raises(Conflict, match="evaluations use qa"):
        await held_back.delete(SYSTEM, "qa")


# --- out -----------------------------------------------------------------------------------


async def test_examples_by_split_sample_and_fold_are_paged(api: httpx.AsyncClient) -> None:
    ok(await upload(api, lines({"n": n} for n in range(100))), 201)
    at = "/v1/datasets/qa/versions/1/examples"

    async def numbers(**query: Any) -> list[int]:
        found: list[int] = []
        cursor = None
        while True:
            page = ok(await api.get(at, params={**query, "limit": 7, **(cursor or {})}))
            found += [one["number"] for one in page["items"]]
            if page["next_cursor"] is None:
                return found
            cursor = {"cursor": page["next_cursor"]}

    assert await numbers() == list(range(100))
    sizes = {"sizes": "train=60,dev=40", "seed": 3}
    train, dev = await numbers(split="train", **sizes), await numbers(split="dev", **sizes)
    assert (len(train), len(dev)) == (60, 40)
    assert sorted(train + dev) == list(range(100))
    assert len(await numbers(sample=20, seed=1)) == 20
    held_out = [await numbers(fold=fold, folds=5) for fold in range(5)]
    assert sorted(number for part in held_out for number in part) == list(range(100))
    refused(await api.get(at, params={"sample": 101}), 422, field="sample", rule="range")
    refused(await api.get(at, params={"cursor": "x"}), 422, field="cursor", rule="opaque")


async def test_a_split_shows_counts_and_fingerprints(api: httpx.AsyncClient) -> None:
    ok(await upload(api, lines({"n": n} for n in range(10))), 201)
    at = "/v1/datasets/qa/versions/1/split"
    wanted = {"sizes": {"train": 6, "dev": 3}, "seed": 1}
    found = ok(await api.post(at, json=wanted))
    assert [(part["name"], part["examples"]) for part in found["parts"]] == [
        ("dev", 3),
        ("train", 6),
    ]
    assert (found["unused"], found["seed"], len(found["fingerprint"])) == (1, 1, 64)
    assert ok(await api.post(at, json=wanted)) == found
    other = ok(await api.post(at, json={**wanted, "seed": 2}))
    assert other["fingerprint"] != found["fingerprint"]
    too_many = {"sizes": {"train": 11}}
    refused(await api.post(at, json=too_many), 422, field="sizes", rule="available")


async def test_an_export_imports_as_the_same_version(api: httpx.AsyncClient) -> None:
    first = ok(await upload(api, lines(ROWS)), 201)
    exported = await api.get("/v1/datasets/qa/versions/1/export")
    assert exported.headers["content-type"] == "application/x-ndjson"
    assert ok(await upload(api, exported.content), 201)["number"] == 1
    again = ok(await upload(api, exported.content, name="copy"), 201)
    assert (again["hash"], again["duplicates"]) == (first["hash"], 1)
    refused(await api.get("/v1/datasets/qa/versions/2/export"), 404)


async def test_examples_for_other_rooms(api: httpx.AsyncClient, services: Services) -> None:
    ok(await upload(api, lines(ROWS)), 201)
    every = await services.datasets.examples(SYSTEM, "qa")
    assert [one.values for one in every] == ROWS
    some = await services.datasets.examples(SYSTEM, "qa", 1, (3, 0))
    assert [one.number for one in some] == [3, 0]
    assert await services.datasets.hashes(SYSTEM, "qa") == [content_hash(row) for row in ROWS]
    with pytest.raises(NotFound, match="no example 4"):
        await services.datasets.examples(SYSTEM, "qa", 1, (0, 4))
    ok(await api.post("/v1/datasets", json={"name": "empty"}), 201)
    with pytest.raises(NotFound, match="no version"):
        await services.datasets.examples(SYSTEM, "empty")


# --- against a program ---------------------------------------------------------------------


async def test_every_bad_row_is_named_against_a_signature(api: httpx.AsyncClient) -> None:
    signature = "question, n: int -> answer: Literal['1', '2'], why"
    ok(await api.post("/v1/programs", json=a_program("p", signature)), 201)
    rows = [
        {"question": "one", "n": 1, "answer": "1", "id": 7},
        {"question": "two", "n": "many", "answer": "2"},
        {"n": 3, "answer": "secret"},
        {"question": "four", "n": "4"},
    ]
    ok(await upload(api, lines(rows)), 201)
    at = "/v1/datasets/qa/versions/1/check"
    report = ok(await api.post(at, json={"program": "p"}))
    assert report["bad_rows"] == 3
    assert [(f["row"], f["field"], f["rule"]) for f in report["faults"]] == [
        (1, "n", "int_parsing"),
        (2, "question", "required"),
        (2, "answer", "literal_error"),
        (3, "answer", "required"),
    ]
    assert (report["inputs"], report["outputs"]) == (["question", "n"], ["answer"])
    assert (report["absent_outputs"], report["unused"]) == (["why"], ["id"])
    assert "secret" not in str(report)
    assert report["next_start"] is None
    first = ok(await api.post(at, json={"program": "p", "limit": 1}))
    assert ([f["row"] for f in first["faults"]], first["next_start"]) == ([1], 2)
    rest = ok(await api.post(at, json={"program": "p", "start": 2}))
    assert ({f["row"] for f in rest["faults"]}, rest["bad_rows"]) == ({2, 3}, 3)
    refused(await api.post(at, json={"program": "p", "program_version": 9}), 404)
    ok(await api.post("/v1/programs", json={"name": "draft"}), 201)
    refused(await api.post(at, json={"program": "draft"}), 409)


# --- from executions -----------------------------------------------------------------------


@pytest.fixture
async def ran(api: httpx.AsyncClient, services: Services, tmp_path: Path) -> None:
    ok(await api.post("/v1/programs", json=a_program("news")), 201)
    full = {"capture": "full"}
    spooled(
        tmp_path / "spool",
        [
            a_record(1, inputs={"question": "q1"}, outputs={"answer": "wrong"}, **full),
            a_record(2, inputs={"question": "q2"}, outputs={"answer": "a2"}, **full),
            a_record(3),
            a_record(4, inputs={"question": "q4"}, status="failed", **full),
            a_record(5, inputs={"question": "q5"}, outputs={"answer": "a5"}, version=2, **full),
            a_record(6, inputs={"question": "q6"}, outputs={"answer": "a"}, program="p", **full),
            a_record(
                7, inputs={"question": "q7"}, outputs={"answer": "a"}, source="shadow", **full
            ),
            a_feedback(1, score=0.9, execution_id=record_id(1)),
            a_feedback(2, score=0.2, execution_id=record_id(1), expected={"answer": "right"}),
            a_feedback(3, score=0.8, execution_id=record_id(2)),
            a_feedback(4, score=None, expected={"answer": "a4"}, execution_id=record_id(4)),
        ],
    )
    await drain_all(drainer(services.database, tmp_path / "spool"))


@pytest.mark.parametrize(
    ("wanted", "questions"),
    [
        ({}, {"q1": "right", "q2": "a2", "q4": "a4", "q5": "a5"}),
        ({"min_score": 0.5}, {"q2": "a2"}),
        ({"expected_only": True}, {"q1": "right", "q4": "a4"}),
        ({"version": 2}, {"q5": "a5"}),
        ({"limit": 2}, {"q4": "a4", "q5": "a5"}),
        ({"source": "shadow"}, {"q7": "a"}),
        (
            {"since": "2026-03-04T00:00:00Z", "until": "2026-03-05T00:00:00Z", "limit": 1},
            {"q5": "a5"},
        ),
    ],
)
async def test_executions_become_examples(
    api: httpx.AsyncClient, ran: None, wanted: dict[str, Any], questions: dict[str, str]
) -> None:
    body = {"program": "news", **wanted}
    at = "/v1/datasets/seen/versions/from-executions"
    version = ok(await api.post(at, json=body, params={"create": True}), 201)
    assert version["source"]["kind"] == "executions"
    found = ok(await api.get("/v1/datasets/seen/versions/1/examples"))["items"]
    assert [one["values"] for one in found] == [
        {"question": question, "answer": answer} for question, answer in questions.items()
    ]


async def test_no_executions_are_no_dataset(api: httpx.AsyncClient, ran: None, rows: Rows) -> None:
    at = "/v1/datasets/seen/versions/from-executions"
    late = {"program": "news", "since": "2027-01-01T00:00:00Z"}
    answer = await api.post(at, json=late, params={"create": True})
    refused(answer, 422, field="body", rule="at least one example")
    answer = await api.post(at, json={"program": "unknown"}, params={"create": True})
    refused(answer, 404)
    assert await rows.of("datasets") == []
