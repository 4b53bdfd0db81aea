"""`dspex dataset`: what it asks for, and what a person and a program read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.unit.cli.conftest import Shell
from tests.unit.client import wire
from tests.unit.client.wire import ok, page, problem

VERSION = ok(wire.dataset_version(), 201)
AT = "/api/v1/datasets/qa/versions/2"
FAULT = {"row": 3, "field": "n", "rule": "int_parsing", "message": "row 3: n does not fit"}

# command line, what it asks (method, path, query), what it sends, what is answered
COMMANDS: list[tuple[str, str, Any, httpx.Response]] = [
    ("list --type test", "GET /api/v1/datasets?type=test&limit=50", None, page(wire.dataset())),
    ("show qa@2", f"GET {AT}", None, ok(wire.dataset_version(2))),
    (
        "examples qa@2 --split dev --sizes train=6,dev=4 --seed 1",
        f"GET {AT}/examples?split=dev&sizes=train%3D6%2Cdev%3D4&seed=1&limit=20",
        None,
        page(wire.example(question="why \x1b[2J " + "x" * 99), wire.example(4, n=1)),
    ),
    (
        "examples qa@2 --fold 0 --folds 5",
        f"GET {AT}/examples?fold=0&folds=5&seed=0&limit=20",
        None,
        page(wire.example()),
    ),
    (
        "check qa@2 --program news@1",
        f"POST {AT}/check",
        {"program": "news", "program_version": 1, "start": 0, "limit": 100},
        ok(wire.check_report()),
    ),
    (
        "split qa@2 --sizes train=6,dev=4 --seed 1",
        f"POST {AT}/split",
        {"sizes": {"train": 6, "dev": 4}, "seed": 1},
        ok(wire.dataset_split()),
    ),
    (
        "import qa --executions-of news --min-score 0.5 --expected-only",
        "POST /api/v1/datasets/qa/versions/from-executions?create=true",
        {"program": "news", "min_score": 0.5, "expected_only": True},
        VERSION,
    ),
]


@pytest.mark.parametrize(("line", "asked", "sent", "reply"), COMMANDS)
def test_commands(shell: Shell, line: str, asked: str, sent: Any, reply: httpx.Response) -> None:
    shell.platform.replies = [reply]
    ran = shell("dataset", *line.split(" "), "--json")
    assert ran.code == 0
    request = shell.platform.last
    assert f"{request.method} {request.url.raw_path.decode()}" == asked
    assert (json.loads(request.content) if request.content else None) == sent
    assert ran.document
    drawn = shell("dataset", *line.split(" "))
    assert drawn.code == 0
    assert drawn.out.strip()
    assert "\x1b" not in drawn.out


def test_without_a_version_it_is_the_newest(shell: Shell) -> None:
    shell.platform.replies = [ok(wire.dataset(latest_version=2)), ok(wire.dataset_version(2))]
    ran = shell("dataset", "show", "qa")
    assert [str(request.url.path) for request in shell.platform.asked] == [
        "/api/v1/datasets/qa",
        AT,
    ]
    assert [line.split() for line in ran.out.splitlines()[-2:]] == [
        ["question", "str", "0", "0", "7", "1", "to", "9", "long", "-"],
        ["score", "float", "|", "None", "8", "2", "many", "0.5", "to", "1", "-"],
    ]
    shell.platform.replies = [ok(wire.dataset())]
    assert shell("dataset", "show", "qa").code == 3


def test_a_file_is_imported(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "qa.csv"
    file.write_bytes(b"q\n1\n")
    shell.platform.replies = [VERSION]
    ran = shell("dataset", "import", "qa", str(file))
    assert (ran.code, ran.err) == (0, "")
    assert "100,000" in ran.out
    assert shell.platform.last.headers["content-type"] == "text/csv"
    assert shell.platform.last.url.params["file"] == "qa.csv"
    assert shell.platform.last.content == b"q\n1\n"
    shell("dataset", "import", "qa", "-", "--format", "jsonl", input='{"q": 1}')
    assert shell.platform.last.headers["content-type"] == "application/x-ndjson"
    assert "file" not in shell.platform.last.url.params
    assert shell.platform.last.content == b'{"q": 1}'


def test_rows_of_a_function_are_made_here(shell: Shell) -> None:
    shell.platform.replies = [VERSION]
    where = "dspex_ray.testing.sample_programs:questions"
    line = ["dataset", "import", "qa", "--python", where, "--json"]
    allowed = {"DSPEX_RAY_PROGRAM_PACKAGES": '["dspex_ray.testing"]'}
    ran = shell(*line, **allowed)
    assert ran.code == 0, ran.err
    assert shell.platform.last.url.params["python"] == where
    sent = [json.loads(line) for line in shell.platform.last.content.splitlines()]
    assert sent == [
        {"question": "What is 1 + 1?", "answer": "2"},
        {"question": "What is 2 + 2?", "answer": "4"},
    ]
    refused = shell(*line)
    assert refused.code == 1
    assert "is not allowed" in refused.err


@pytest.mark.parametrize(
    ("name", "rule"),
    [("Topic", "is a class"), ("no_rows", "gives a int, not rows"), ("odd_rows", "a row is a int")],
)
def test_functions_that_give_no_rows(shell: Shell, name: str, rule: str) -> None:
    shell.platform.replies = [VERSION]
    where = f"dspex_ray.testing.sample_programs:{name}"
    ran = shell(
        "dataset", "import", "qa", "--python", where, DSPEX_RAY_PROGRAM_PACKAGES='["dspex_ray"]'
    )
    assert (ran.code, shell.platform.asked) == (1, [])
    assert rule in ran.err


def test_bad_rows_are_printed(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "qa.jsonl"
    file.write_text("x")
    second = {**FAULT, "row": 4, "message": "row 4: n is NaN or infinite"}
    told = "2 of 5 rows are bad, nothing was imported: row 3: n does not fit"
    shell.platform.replies = [problem(422, "invalid", told, faults=[FAULT, second])]
    ran = shell("dataset", "import", "qa", str(file))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"error: {told}\n  n: row 4: n is NaN or infinite\n"


def test_a_check_with_bad_rows_exits_with_1(shell: Shell) -> None:
    report = wire.check_report(bad_rows=7, faults=[FAULT], next_start=9, unused=["id"])
    shell.platform.replies = [ok(report)]
    ran = shell("dataset", "check", "qa@2", "--program", "news")
    assert ran.code == 1
    assert ran.out.splitlines()[-1].split()[:3] == ["3", "n", "int_parsing"]
    assert ran.err == "More bad rows: --start 9\n"


def test_delete_and_export(shell: Shell, tmp_path: Path) -> None:
    shell.platform.replies = [httpx.Response(204)]
    assert shell("dataset", "delete", "qa", "--json").document == {"deleted": "qa"}
    shell.platform.replies = [httpx.Response(200, content=b'{"q": "\xc3\xa9"}\n')]
    assert shell("dataset", "export", "qa@2").out == '{"q": "é"}\n'
    file = tmp_path / "out.jsonl"
    assert shell("dataset", "export", "qa@2", "-o", str(file)).code == 0
    assert file.read_text(encoding="utf-8") == '{"q": "é"}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import qa", "give a file, --python or --executions-of"),
        ("import qa a.csv --python a.b:c", "one of them"),
        ("import qa a.csv", "No such file"),
        ("import qa a.csv --format executions", "no format of files"),
        ("import qa --executions-of news --min-score 2", "less than or equal to 1"),
        ("show qa@x", "must read name@version"),
        ("export qa@1 -o /nowhere/at/all", "No such file"),
    ],
)
def test_wrong_usage_is_told(shell: Shell, line: str, message: str) -> None:
    shell.platform.replies = [httpx.Response(200, content=b"")]
    ran = shell("dataset", *line.split(" "), COLUMNS="400")
    assert ran.code == 2
    assert message in " ".join(ran.err.replace("│", " ").split())


def test_sizes_that_are_none(shell: Shell) -> None:
    ran = shell("dataset", "split", "qa@1", "--sizes", "train")
    assert (ran.code, shell.platform.asked) == (1, [])
    assert "must read train=60,dev=40" in ran.err
