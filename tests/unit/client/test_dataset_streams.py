"""Rows that are sent and fetched as they are made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dspex_ray.client import AsyncDspex, Dspex
from dspex_ray.core.errors import Invalid, Unavailable
from dspex_ray.datasets.model import ExampleQuery
from tests.unit.client import wire

VERSION = wire.ok(wire.dataset_version(), 201)


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("qa.jsonl", "application/x-ndjson"),
        ("qa.CSV", "text/csv"),
        ("a.b.parquet", "application/vnd.apache.parquet"),
    ],
)
async def test_a_file_is_sent_with_its_name_and_type(
    tmp_path: Path, name: str, media_type: str
) -> None:
    file = tmp_path / name
    file.write_bytes(b"content\n" * 100_000)
    platform = wire.Platform([VERSION])
    async with AsyncDspex("http://p", "k", transport=platform.transport) as client:
        assert (await client.datasets.upload_file("qa", file)).number == 1
    assert platform.last.headers["content-type"] == media_type
    assert platform.last.headers["transfer-encoding"] == "chunked"
    assert platform.last.url.params["file"] == name
    assert platform.last.content == file.read_bytes()
    with Dspex("http://p", "k", transport=platform.transport) as client:
        client.datasets.upload_file("qa", file, create=False)
    assert platform.last.url.params["create"] == "false"
    assert platform.last.content == file.read_bytes()


def test_a_file_without_a_format_is_refused_before_it_is_read(tmp_path: Path) -> None:
    platform = wire.Platform([VERSION])
    with (
        Dspex("http://p", "k", transport=platform.transport) as client,
        pytest.raises(Invalid, match=r"allowed: \.jsonl, \.csv, \.parquet"),
    ):
        client.datasets.upload_file("qa", tmp_path / "absent.txt")
    assert platform.asked == []


def test_rows_are_iterated_once_and_never_sent_again() -> None:
    platform = wire.Platform([httpx.Response(503)])
    rows: Iterator[dict[str, Any]] = ({"n": n, "text": "é" * 100} for n in range(5_000))
    with (
        Dspex("http://p", "k", transport=platform.transport) as client,
        pytest.raises(Unavailable),
    ):
        client.datasets.add_rows("qa", rows)
    [asked] = platform.asked
    sent = [json.loads(line) for line in asked.content.splitlines()]
    assert [row["n"] for row in sent] == list(range(5_000))


def test_a_row_that_json_cannot_say_ends_the_upload() -> None:
    platform = wire.Platform([VERSION])
    with (
        Dspex("http://p", "k", transport=platform.transport) as client,
        pytest.raises(Invalid) as refused,
    ):
        client.datasets.add_rows("qa", [{"n": 1}, {"n": object()}])
    assert refused.value.rule == "json"
    assert platform.asked == []


async def test_an_export_comes_in_pieces() -> None:
    content = b'{"q": 1}\n' * 1_000
    platform = wire.Platform([httpx.Response(200, content=content)])
    async with AsyncDspex("http://p", "k", transport=platform.transport) as client:
        assert b"".join([chunk async for chunk in client.datasets.export("qa", 2)]) == content
    assert str(platform.last.url).endswith("/api/v1/datasets/qa/versions/2/export")


async def test_examples_are_iterated_page_by_page() -> None:
    platform = wire.Platform([*wire.pages(*(wire.example(n) for n in range(3)))])
    async with AsyncDspex("http://p", "k", transport=platform.transport) as client:
        query = ExampleQuery(split="dev", sizes="dev=3", limit=1)
        found = [one.number async for one in client.datasets.iterate_examples("qa", 1, query)]
    assert found == [0, 1, 2]
    assert [request.url.params.get("cursor") for request in platform.asked] == [None, "1", "2"]
    assert {request.url.params["split"] for request in platform.asked} == {"dev"}
