"""`dspex evaluate` and `dspex evaluation`: what is asked, what is shown, how it exits."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.unit.cli.conftest import Shell
from tests.unit.client import wire
from tests.unit.client.wire import ID, ok, page

EVENTS = httpx.Response(
    200, text='data: {"status":"completed","progress":{"total":3,"done":3}}\n\n'
)
SPREAD = {
    "n": 3,
    "mean": 12.0,
    "std_dev": 1.0,
    "min": 10.0,
    "p50": 12.0,
    "p90": 14.0,
    "p95": 14.0,
    "p99": 14.0,
    "max": 14.0,
}
REPORT = {
    "examples": 3,
    "runs": 3,
    "failed": 1,
    "cached": 2,
    "confidence": 0.95,
    "threshold": 1.0,
    "metrics": [
        {
            "name": "exact_match:answer",
            "mean": 0.667,
            "interval": {"low": 0.2, "high": 0.9},
            "pass_rate": 0.667,
            "pass_interval": {"low": 0.2, "high": 0.9},
            "spread": SPREAD,
            "errors": 0,
        }
    ],
    "latency_ms": SPREAD,
    "cost_usd": None,
    "metric_cost_usd": "0",
    "spent_usd": "0.5",
    "unpriced": 1,
    "prompt_tokens": 3,
    "completion_tokens": 3,
    "errors": {"output_invalid": 1},
}


def evaluate(shell: Shell, *options: str, status: str = "completed") -> Any:
    done = wire.evaluation(status=status, report=REPORT if status == "completed" else None)
    shell.platform.replies = [ok(wire.evaluation(status="pending"), 202), EVENTS, ok(done)]
    return shell("evaluate", "p@1", "--dataset", "qa", *options)


def sent(shell: Shell) -> Any:
    return json.loads(shell.platform.asked[0].content)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("exact_match", {"metric": "exact_match"}),
        ("exact_match:topic", {"metric": "exact_match", "field": "topic"}),
        ("f1:topic=label", {"metric": "f1", "field": "topic", "expected": "label"}),
        ("mine.metrics:score", {"metric": "mine.metrics:score"}),
        ("mine:score:topic", {"metric": "mine:score", "field": "topic"}),
        (
            '{"metric": "llm_judge", "options": {"rubric": "r", "model": "m"}}',
            {"metric": "llm_judge", "options": {"rubric": "r", "model": "m"}},
        ),
    ],
)
def test_metrics_as_they_are_written(shell: Shell, text: str, spec: Any) -> None:
    assert evaluate(shell, "--metric", text).code == 0
    assert sent(shell) == {
        "program": "p@1",
        "dataset": "qa",
        "metrics": [spec],
        "examples": {},
        "settings": {},
    }


def test_every_option_is_sent(shell: Shell) -> None:
    options = (
        "--metric f1 --split test --sizes train=60,test=40 --seed 3 --model m --concurrency 8"
        " --actors 2 --repeats 5 --timeout-s 9 --threshold 0.5 --no-cache"
    )
    assert evaluate(shell, *options.split()).code == 0
    assert sent(shell)["examples"] == {
        "split": "test",
        "sizes": {"train": 60, "test": 40},
        "seed": 3,
    }
    assert sent(shell)["settings"] == {
        "model": "m",
        "concurrency": 8,
        "actors": 2,
        "repeats": 5,
        "seed": 3,
        "timeout_s": 9.0,
        "threshold": 0.5,
        "cache": False,
    }


def test_it_shows_the_report(shell: Shell) -> None:
    ran = evaluate(shell, "--metric", "exact_match:answer")
    assert ran.code == 0
    for part in ("exact_match:answer", "0.667", "0.200 to 0.900", "66.7%", "unknown", "$0.5"):
        assert part in ran.out
    for part in ("p50 12 ms", "output_invalid 1", "3, 3 runs, 1 failed, 2 cached"):
        assert part in ran.out


def test_as_json_it_is_the_platforms_noun(shell: Shell) -> None:
    document = evaluate(shell, "--metric", "f1", "--json").document
    assert (document["id"], document["report"]["failed"]) == (ID, 1)


def test_a_stream_that_is_cut_is_taken_up_again(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dspex_ray.cli.evaluations._RECONNECT_S", 0.0)
    cut = httpx.Response(200, text=EVENTS.text.replace("completed", "running"))
    shell.platform.replies = [ok(wire.evaluation(), 202), cut, cut, EVENTS, ok(wire.evaluation())]
    assert shell("evaluate", "p", "--dataset", "qa", "--metric", "f1").code == 0
    assert len(shell.platform.asked) == 5


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_one_that_did_not_complete_exits_with_1(shell: Shell, status: str) -> None:
    ran = evaluate(shell, "--metric", "f1", status=status)
    assert (ran.code, status in ran.out) == (1, True)


def test_without_waiting_it_is_only_asked_for(shell: Shell) -> None:
    assert evaluate(shell, "--metric", "f1", "--no-wait").code == 0
    assert len(shell.platform.asked) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--metric f1 --split test", "split and sizes go together"),
        ("--metric f1 --split test --sizes test", "must read name=value"),
        ("--metric f1 --metric f1", "is there twice"),
        ("--metric {x", "is not JSON"),
        ("--metric f1 --concurrency 0", "concurrency"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_sent(
    shell: Shell, options: str, message: str
) -> None:
    ran = evaluate(shell, *options.split())
    assert ran.code == 2
    assert message in " ".join(ran.err.replace("│", " ").split())
    assert shell.platform.asked == []


def test_list_show_results_and_cancel(shell: Shell) -> None:
    shell.platform.replies = [page(wire.evaluation())]
    ran = shell("evaluation", "list", "--program", "p", "--status", "completed", "--limit", "3")
    assert "p@1" in ran.out
    assert str(shell.platform.last.url.query, "ascii") == "program=p&status=completed&limit=3"
    shell.platform.replies = [ok(wire.evaluation(report=REPORT))]
    assert "exact_match:answer" in shell("evaluation", "show", ID).out
    shell.platform.replies = [page(wire.example_result())]
    told = shell("evaluation", "results", ID, "--failed", "--limit", "7").out
    assert "output_invalid: Missing outputs: answer" in told
    assert str(shell.platform.last.url.query, "ascii") == "failed=true&limit=7"
    shell.platform.replies = [ok(wire.evaluation(status="cancelled"))]
    assert "cancelled" in shell("evaluation", "cancel", ID).out
    assert shell.platform.last.url.path.endswith(f"/evaluations/{ID}/cancel")
