"""`dspex program space`: what it asks for, and what a person reads."""

from __future__ import annotations

from typing import Any

import yaml

from dspex_ray.variables.declare import declared
from dspex_ray.variables.documents import space_payload
from dspex_ray.variables.rules import figures
from tests.unit.cli.conftest import Shell
from tests.unit.client import wire
from tests.unit.client.wire import ok

DECLARED = declared(
    yaml.safe_load(
        """
        adapter: [chat, json]
        max_tokens: {integer: [10, 50], step: 10}
        temperature: {float: [0, 2], when: {variable: adapter, op: ==, value: chat}}
        """
    ),
    [{"name": "short", "rule": {"variable": "max_tokens", "op": "<", "value": 40}}],
)
FOUND: dict[str, Any] = {
    "program": "news",
    "version": 2,
    "declared": True,
    "hash": DECLARED.hash,
    "space": space_payload(DECLARED),
    "figures": figures(DECLARED).model_dump(mode="json"),
    "current": {"adapter": "chat"},
}
DRAWN = {
    "method": "sobol",
    "seed": 1,
    "configurations": [
        {"adapter": "chat", "max_tokens": 10, "temperature": 0.5},
        {"adapter": "json", "max_tokens": 20},
    ],
}


def asked(shell: Shell) -> str:
    return f"{shell.platform.last.method} {shell.platform.last.url.path}"


def test_the_space_of_a_version_is_drawn(shell: Shell) -> None:
    shell.platform.replies = [ok(FOUND)]
    ran = shell("program", "space", "news@2")
    assert ran.code == 0
    assert asked(shell) == "GET /api/v1/programs/news/versions/2/space"
    words = [line.split() for line in ran.out.splitlines()]
    assert ["adapter", "module", "chat,", "json", "chat", "-"] in words
    assert ["max_tokens", "integer", "10", "to", "50", "by", "10", "-", "-"] in words
    assert ["temperature", "float", "0", "to", "2", "-", "adapter", "==", "'chat'"] in words
    assert ["short", "max_tokens", "<", "40"] in words
    assert ["configurations", "no", "end", "of", "them"] in words
    assert ["difficulty", "easy"] in words
    assert shell("program", "space", "news@2", "--json").document == FOUND


def test_the_newest_version_or_a_label_is_looked_up(shell: Shell) -> None:
    program = wire.program(latest_version=5, labels={"production": 3})
    shell.platform.replies = [ok(program), ok(FOUND)]
    assert shell("program", "space", "news").code == 0
    assert asked(shell).endswith("/versions/5/space")
    shell.platform.replies = [ok(program), ok(FOUND)]
    assert shell("program", "space", "news@production").code == 0
    assert asked(shell).endswith("/versions/3/space")
    shell.platform.replies = [ok(program)]
    ran = shell("program", "space", "news@gone")
    assert (ran.code, "has no label 'gone'" in ran.err) == (3, True)


def test_samples_are_drawn_as_asked(shell: Shell) -> None:
    shell.platform.replies = [ok(DRAWN)]
    line = "program space news@2 --sample 2 --method sobol --seed 1"
    ran = shell(*line.split())
    assert ran.code == 0
    assert asked(shell) == "POST /api/v1/programs/news/versions/2/space/sample"
    assert shell.platform.body() == {"method": "sobol", "n": 2, "seed": 1, "levels": 5}
    assert [line.split() for line in ran.out.splitlines()] == [
        ["adapter", "max_tokens", "temperature"],
        ["chat", "10", "0.5"],
        ["json", "20", "-"],
    ]
    assert shell(*line.split(), "--json").document == DRAWN


def test_a_verdict_is_an_exit_status(shell: Shell) -> None:
    shell.platform.replies = [ok({"valid": True, "faults": []})]
    ran = shell("program", "space", "news@2", "--validate", '{"adapter": "chat"}')
    assert (ran.code, ran.out.strip()) == (0, "Valid.")
    assert shell.platform.body() == {"configuration": {"adapter": "chat"}}
    fault = {"field": "adapter", "rule": "module", "message": "must be one of 'chat', 'json'"}
    shell.platform.replies = [ok({"valid": False, "faults": [fault]})]
    ran = shell("program", "space", "news@2", "--validate", '{"adapter": "x"}')
    assert ran.code == 1
    assert "must be one of 'chat', 'json'" in ran.out


def test_one_thing_at_a_time(shell: Shell) -> None:
    ran = shell("program", "space", "news@2", "--sample", "1", "--validate", "{}")
    assert (ran.code, "not both" in ran.err) == (2, True)
