"""`dspex optimizers` and `dspex optimize`: what they ask for, and what people and programs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.unit.cli.conftest import Shell
from tests.unit.client import wire
from tests.unit.client.wire import ok, page

AT = f"/api/v1/optimizations/{wire.ID}"
EVENT = {
    "status": "completed",
    "progress": {"percent": 100.0, "best_score": 0.75, "convergence": {"status": "improving"}},
    "spent": {"lm_calls": 40},
}

# command line, what it asks, what is answered, what a person reads
COMMANDS: list[tuple[str, str, httpx.Response, list[str]]] = [
    ("optimizers list", "GET /api/v1/optimizers", page(wire.optimizer()), ["MIPROv2", "Searches."]),
    (
        "optimizers show MIPRO",
        "GET /api/v1/optimizers/MIPRO",
        ok(
            wire.optimizer(
                parameters=[
                    {
                        "name": "breadth",
                        "type": "integer",
                        "required": False,
                        "default": 10,
                        "minimum": 2,
                    },
                    {
                        "name": "auto",
                        "type": "string | null",
                        "required": False,
                        "choices": ["light", "heavy"],
                    },
                    {
                        "name": "rate",
                        "type": "number",
                        "required": True,
                        "above": 0,
                        "maximum": 1,
                    },
                ]
            )
        ),
        ["breadth", "10", "from 2", "light, heavy", "required", "0 to 1"],
    ),
    (
        "optimize list --program p --status completed",
        "GET /api/v1/optimizations?program=p&status=completed",
        page(wire.optimization()),
        ["DspexSearch", "p@1", "qa@2", "100 %", "0.750"],
    ),
    (
        f"optimize show {wire.ID}",
        f"GET {AT}",
        ok(wire.optimization(stopped_because="budget", detail="lm_calls", error="so \x1b[2J")),
        ["6 train, 4 dev", "budget lm_calls", "p@2", "up to 40 LM calls", "improving"],
    ),
    (
        f"optimize trials {wire.ID} --limit 3",
        f"GET {AT}/trials?limit=3",
        page(wire.trial(standing=0.5)),
        ["abababababab", "0.500"],
    ),
    (
        f"optimize show {wire.ID}",
        f"GET {AT}",
        ok(wire.optimization(held_out=wire.held_out(), front_points=3, test_examples=100)),
        [
            "6 train, 4 dev, 100 test",
            "24.0% -> 61.0%, +37 points [+24, +48], p=0.00012, selection flattered by 4 points",
            "on 100 examples",
            "3 points",
            "0.610",
        ],
    ),
    (
        f"optimize show {wire.ID}",
        f"GET {AT}",
        ok(
            wire.optimization(
                held_out=wire.held_out(
                    start=None, versions=[], missing="the budget of usd ended: 0 of 2"
                )
            )
        ),
        ["not measured: the budget of usd ended: 0 of 2"],
    ),
    (
        f"optimize show {wire.ID}",
        f"GET {AT}",
        ok(wire.optimization(held_out=wire.held_out(versions=[]))),
        ["24.0% before, on 100 examples"],
    ),
    (
        f"optimize front {wire.ID}",
        f"GET {AT}/front",
        ok(wire.front()),
        ["@5", "pick", "75.0%", "$0.0021", "340 ms", "HELD OUT ACCURACY", "70.0%", "model=gemma"],
    ),
    (
        f"optimize importance {wire.ID}",
        f"GET {AT}/importance",
        ok(wire.importance()),
        ["accuracy", "model", "80.0%", "█" * 24, "by PED-ANOVA"],
    ),
    (
        f"optimize importance {wire.ID}",
        f"GET {AT}/importance",
        ok(wire.importance(objectives=[{"objective": "cost", "shares": {}, "trials": 5}])),
        ["cost", "5"],
    ),
    (f"optimize cancel {wire.ID}", f"POST {AT}/cancel", ok(wire.optimization()), ["completed"]),
    (
        f"optimize resume {wire.ID} --no-wait",
        f"POST {AT}/resume",
        ok(wire.optimization(status="pending"), 202),
        ["pending"],
    ),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "run.yaml"
    found.write_text(yaml.safe_dump(wire.SEARCH), encoding="utf-8")
    return found


@pytest.mark.parametrize(("line", "asked", "reply", "read"), COMMANDS)
def test_commands(
    shell: Shell, line: str, asked: str, reply: httpx.Response, read: list[str]
) -> None:
    shell.platform.replies = [reply]
    ran = shell(*line.split(" "), "--json")
    assert ran.code == 0
    request = shell.platform.last
    assert f"{request.method} {request.url.raw_path.decode()}" == asked
    assert ran.document
    drawn = shell(*line.split(" "))
    assert drawn.code == 0
    assert [text for text in read if text not in drawn.out] == []
    assert "\x1b" not in drawn.out


@pytest.mark.parametrize(
    "line", ["optimize run FILE --confirm", "optimize FILE --confirm", "optimize --confirm FILE"]
)
def test_a_run_is_followed_to_its_end(shell: Shell, file: Path, line: str) -> None:
    stream = {"content-type": "text/event-stream"}
    shell.platform.replies = [
        ok(wire.optimization(status="pending"), 202),
        httpx.Response(200, text=f"data: {json.dumps(EVENT)}\n\n", headers=stream),
        ok(wire.optimization()),
    ]
    ran = shell(*line.replace("FILE", str(file)).split(" "))
    assert ran.code == 0
    assert "p@2" in ran.out
    assert "up to 40 LM calls, $0.01 (at most 40 runs)" in ran.err
    sent = json.loads(shell.platform.asked[0].content)
    assert sent == {**wire.SEARCH, "confirm": True}


def test_a_failed_run_fails_the_command(shell: Shell, file: Path) -> None:
    stream = {"content-type": "text/event-stream"}
    failed = wire.optimization(status="failed", error="no")
    shell.platform.replies = [
        ok(wire.optimization(status="pending"), 202),
        httpx.Response(
            200, text=f"data: {json.dumps(EVENT | {'status': 'failed'})}\n\n", headers=stream
        ),
        ok(failed),
    ]
    assert shell("optimize", "run", str(file), "--json").code == 1


def test_an_estimate_starts_nothing(shell: Shell, file: Path) -> None:
    shell.platform.replies = [ok(wire.ESTIMATE)]
    ran = shell("optimize", "run", str(file), "--estimate")
    assert (ran.code, ran.out.strip()) == (0, "up to 40 LM calls, $0.01 (at most 40 runs)")
    assert [str(one.url.path) for one in shell.platform.asked] == ["/api/v1/optimizations/estimate"]


def test_a_file_with_an_unknown_key_is_wrong_usage(shell: Shell, tmp_path: Path) -> None:
    wrong: dict[str, Any] = wire.SEARCH | {"budgett": 1}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong), encoding="utf-8")
    ran = shell("optimize", "run", str(tmp_path / "wrong.yaml"))
    assert ran.code == 2
    assert "budgett" in ran.err
    assert shell.platform.asked == []
