"""Streams, and the call tree of an execution, as a person reads them."""

from __future__ import annotations

from typing import Any

from tests.unit.cli.conftest import Shell
from tests.unit.client import wire
from tests.unit.client.wire import ID, NOW, chunk, events, ok, openai_error, prediction

DELTAS = [
    {"type": "delta", "predictor": "main", "field": "reasoning", "text": "a goal"},
    {"type": "delta", "predictor": "main", "field": "topic", "text": "spo"},
    {"type": "delta", "predictor": "main", "field": "topic", "text": "rt\x1b[2J"},
]
LAST = {"type": "outputs", **prediction(topic="sport", scores=[1, 2])}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
CUT = {"error": {"message": "cut mid-stream", "code": "provider_down", "details": {}}}


def test_a_run_shows_outputs_and_what_it_took(shell: Shell) -> None:
    shell.platform.replies = [ok(prediction(topic="sport", scores=[1, 2]))]
    ran = shell("program", "run", "news", "-i", "text=x")
    assert [line.split() for line in ran.out.splitlines()] == [
        ["topic", "sport"],
        ["scores", "[1,", "2]"],
    ]
    assert ran.err == (
        f"news@2 by smol, after a fallback: 12 + 3 tokens, $0.00015; dspex executions show {ID}\n"
    )


def test_a_streamed_run_shows_fields_as_they_come(shell: Shell) -> None:
    shell.platform.replies = [events(*DELTAS, LAST)]
    ran = shell("program", "run", "news", "--stream", "--json-input", '{"text": "x"}')
    assert ran.code == 0
    assert ran.out.startswith("\nmain.reasoning: a goal\nmain.topic: sport\ufffd[2J\n\ntopic")
    assert shell.platform.body() == {"inputs": {"text": "x"}, "context": {}, "stream": True}


def test_both_ways_give_the_same_document(shell: Shell) -> None:
    shell.platform.replies = [events(*DELTAS, LAST)]
    streamed = shell("program", "run", "news", "--stream", "--json").document
    shell.platform.replies = [ok(prediction(topic="sport", scores=[1, 2]))]
    assert shell("program", "run", "news", "--json").document == streamed


def test_a_run_carries_its_options(shell: Shell) -> None:
    shell.platform.replies = [ok(prediction())]
    options = [
        "--context",
        '{"k":1}',
        "--session",
        "u",
        "--timeout-s",
        "2",
        "--tag",
        "a=1",
        "--json",
    ]
    assert shell("program", "run", "news", *options).code == 0
    assert shell.platform.body()["context"] == {"k": 1}
    headers = shell.platform.last.headers
    assert (headers["x-dspex-session"], headers["x-dspex-timeout-ms"]) == ("u", "2000")
    assert headers["x-dspex-tags"] == "a=1"


def test_a_stream_that_fails_exits_so(shell: Shell) -> None:
    shell.platform.replies = [events(*DELTAS[:1], CUT)]
    ran = shell("program", "run", "news", "--stream", "--json")
    assert (ran.code, ran.out, ran.err) == (5, "", "error: cut mid-stream\n")


def test_a_streamed_chat(shell: Shell) -> None:
    shell.platform.replies = [
        events(chunk("ho"), chunk(" h\x1b]o"), chunk(None, usage=USAGE), done=True)
    ]
    ran = shell("chat", "smol", "hi", "--stream")
    assert (ran.out, ran.err) == ("ho h\ufffd]o\n", "smol: 1 + 2 tokens\n")
    ran = shell("chat", "smol", "hi", "--stream", "--json")
    assert ran.document == {"model": "smol", "text": "ho h\x1b]o", "usage": USAGE}


def test_a_plain_chat(shell: Shell) -> None:
    message = {"role": "assistant", "content": "ho [bold]ho[/bold]"}
    answer = {"id": "c", "created": 1, "model": "smol", "usage": USAGE}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    shell.platform.replies = [ok({**answer, "choices": choices})]
    ran = shell("chat", "smol", "hi")
    assert (ran.out, ran.err) == ("ho [bold]ho[/bold]\n", "smol: 1 + 2 tokens\n")


def test_a_chat_that_is_denied(shell: Shell) -> None:
    shell.platform.replies = [openai_error(401, "denied", "no API key")]
    assert shell("chat", "smol", "hi").code == 4


def attempt(model: str, outcome: str, **fields: Any) -> dict[str, Any]:
    return {
        "model_id": ID,
        "model": model,
        "number": 1,
        "outcome": outcome,
        "latency_ms": 400.0,
        "started_at": NOW,
        **fields,
    }


CALL = {
    "predictor": "main",
    "chosen": "broken",
    "answered_by": "smol",
    "strategy": "primary",
    "started_at": NOW,
    "latency_ms": 800.0,
    "attempts": [
        attempt("broken", "failed", error_class="server", message="HTTP [red]500[/red]"),
        attempt(
            "smol",
            "ok",
            started_at="2026-03-01T12:00:00.400Z",
            prompt_tokens=1200,
            completion_tokens=3,
            cost_usd="0.00015",
        ),
    ],
}


def test_the_call_tree(shell: Shell) -> None:
    run = wire.execution(
        prompt_tokens=1200,
        completion_tokens=3,
        cost_usd="0.00015",
        attempts=2,
        fallback=True,
        arm="2",
        propensity=0.1,
        request_id="r-1",
        lm_calls=[CALL],
        inputs={"text": "a goal"},
        outputs={"topic": "sport"},
    )
    shell.platform.replies = [ok(run)]
    ran = shell("executions", "show", ID)
    lines = [line.rstrip() for line in ran.out.splitlines()]
    start = lines.index("") + 1
    assert lines[start : start + 4] == [
        "news@2  completed  812 ms, 1,200 + 3 tokens, $0.00015  (fallback)",
        "└── main  ok  800 ms, at +0 ms, 1,200 + 3 tokens, $0.00015  (fallback: broken -> smol)",
        "    ├── broken  failed  400 ms, at +0 ms, unknown  server: HTTP [red]500[/red]",
        "    └── smol  ok  400 ms, at +400 ms, 1,200 + 3 tokens, $0.00015",
    ]
    assert "arm         2, 10.0% of traffic" in lines
    assert [line.split(maxsplit=2)[:3] for line in lines[-2:]] == [
        ["input", "text", "a goal"],
        ["output", "topic", "sport"],
    ]


def test_an_execution_without_calls_and_content(shell: Shell) -> None:
    run = wire.execution(status="failed", error_code="not_found", error_message="no version")
    shell.platform.replies = [ok(run)]
    ran = shell("executions", "show", ID)
    assert ran.out.rstrip().endswith("news@2  failed  812 ms, unknown  not_found: no version")


def test_a_list_says_how_to_go_on(shell: Shell) -> None:
    shell.platform.replies = [wire.page(wire.execution(), next_cursor="abc")]
    ran = shell("executions", "list", "--since", "24h", "--until", "2026-03-02T00:00:00+01:00")
    assert ran.err == "There are more: --cursor abc\n"
    assert shell.platform.last.url.params["until"] == "2026-03-02T00:00:00+01:00"
    assert ID in ran.out


def test_usage_names_its_groups(shell: Shell) -> None:
    row = {
        "program": "news",
        "model": "smol",
        "attempts": 4,
        "cached": 9,
        "success_rate": 0.75,
        "cost_usd": "0.5",
        "unpriced": 1,
        "latency_ms": {"p50": 10, "p95": 20, "p99": 1500},
    }
    shell.platform.replies = [wire.page(row, {**row, "program": "", "cost_usd": None})]
    header, first, second = (line.split() for line in shell("usage").out.splitlines())
    assert header[:2] == ["PROGRAM", "MODEL"]
    assert first == [
        "news",
        "smol",
        "-",
        "4",
        "9",
        "75.0%",
        "0",
        "+",
        "0",
        "$0.5",
        "+",
        "1",
        "unpriced",
        "10",
        "ms",
        "20",
        "ms",
        "1,500",
        "ms",
    ]
    assert second[0] == "(direct)"
    assert "unknown" in second
