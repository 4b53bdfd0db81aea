"""Every command: what it asks for, and its JSON document, which is the platform's noun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.unit.cli.conftest import Shell
from tests.unit.client import wire
from tests.unit.client.wire import ID, ok, page

CHECK = {"model_id": ID, "at": wire.NOW, "ok": True, "latency_ms": 3.0}
PRICE = {"version": 1, "source": "operator", "effective_at": wire.NOW}
ESTIMATE = {"estimated_tokens": 1, "estimated_cost": "0.1", "tokenizer": "gpt2", "exact": False}
APPLIED = {"version": 4, "applied": 1, "total": 2}
SPLIT = {"split": wire.split((1, 9000), (2, 1000)), "applied": APPLIED}
MINTED = {"key": wire.api_key(), "secret": "dspex_0a_secret"}
PLAN = {
    "steps": [{"change": "create", "kind": "model", "name": "smol", "fields": {"a": [1]}}],
    "applied": True,
    "replicas": {"version": 7, "applied": 1, "total": 2},
}
CHAT = {
    "id": "c",
    "created": 1,
    "model": "smol",
    "choices": [{"index": 0, "message": {"content": "ho"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}
SOURCE = {"module": {"type": "predict", "signature": "question -> answer"}}

# command line, what it asks (method, path, query), what it sends, what is answered
COMMANDS: list[tuple[str, str, Any, Any]] = [
    (
        "program place news@2 --min-replicas 0 --num-cpus 0.5 --resource gpu=1 --env MODE=fast"
        ' --pip numpy==2.0 --warm-up {"question":"q"} --no-wait',
        "PUT /api/v1/programs/news/versions/2/placement",
        {
            "resources": {"num_cpus": 0.5, "custom": {"gpu": 1.0}},
            "runtime_env": {"env_vars": {"MODE": "fast"}, "pip": ["numpy==2.0"]},
            "min_replicas": 0,
            "warm_up": [{"question": "q"}],
        },
        ok(wire.placement(status="pending"), 202),
    ),
    (
        "program place news@2 --min-replicas 3 --no-wait",
        "PUT /api/v1/programs/news/versions/2/placement",
        {"resources": {}, "runtime_env": {}, "min_replicas": 3, "max_replicas": 3},
        ok(wire.placement(), 202),
    ),
    (
        "program unplace news@2",
        "DELETE /api/v1/programs/news/versions/2/placement",
        None,
        ok(wire.placement(status="draining"), 202),
    ),
    (
        "program placements news",
        "GET /api/v1/programs/news/placements",
        None,
        page(wire.placement(status="failed", reason="no node has 9 CPU")),
    ),
    ("model list", "GET /api/v1/models?limit=500", None, page(wire.model())),
    ("model show smol", "GET /api/v1/models/smol", None, ok(wire.model())),
    ("model check smol", "POST /api/v1/models/smol/check", None, ok(CHECK)),
    ("model approve smol", "POST /api/v1/models/smol/approve", None, ok(wire.model())),
    ("model deprecate smol", "POST /api/v1/models/smol/deprecate", None, ok(wire.model())),
    ("model retest smol", "POST /api/v1/models/smol/retest", None, ok(wire.model())),
    ("model prices smol", "GET /api/v1/models/smol/prices", None, page(PRICE)),
    (
        "model estimate smol hello",
        "POST /api/v1/models/smol/estimate-cost",
        {"text": "hello"},
        ok(ESTIMATE),
    ),
    (
        "model register m --provider openai_compatible --model gpt --base-url http://x --key-env K"
        ' --prompt-price 0.000001 --completion-price 2e-6 --config {"a":1} --streaming --no-test',
        "POST /api/v1/models?test_on_creation=false",
        {
            "name": "m",
            "provider": "openai_compatible",
            "model_name": "gpt",
            "base_url": "http://x",
            "api_key_ref": {"env": "K"},
            "price": {"prompt_usd_per_token": "0.000001", "completion_usd_per_token": "0.000002"},
            "config": {"a": 1},
            "supports_streaming": True,
        },
        ok(wire.model(), 201),
    ),
    (
        "model register m --provider local --model gpt --cache-ttl-s 3600",
        "POST /api/v1/models?test_on_creation=true",
        {"name": "m", "provider": "local", "model_name": "gpt", "cache_ttl_s": 3600},
        ok(wire.model(), 201),
    ),
    (
        "model update m --no-cache",
        "PATCH /api/v1/models/m",
        {"cache_ttl_s": None},
        ok(wire.model()),
    ),
    (
        "model update smol --max-tokens 9 --revision 2",
        "PATCH /api/v1/models/smol",
        {"max_tokens": 9},
        ok(wire.model()),
    ),
    ("program list --status ready", "GET /api/v1/programs?status=ready&limit=500", None, page()),
    ("program show news", "GET /api/v1/programs/news", None, ok(wire.program())),
    (
        "program create news --signature question->answer --label production --capture none",
        "POST /api/v1/programs",
        {
            "name": "news",
            "source": {"module": {"type": "predict", "signature": "question->answer"}},
            "labels": ["production"],
            "capture": {"mode": "none"},
        },
        ok(wire.program(), 201),
    ),
    (
        "program create news --import-path pkg.mod:Class --adapter json",
        "POST /api/v1/programs",
        {"name": "news", "source": {"import_path": "pkg.mod:Class", "adapter": "json"}},
        ok(wire.program(), 201),
    ),
    (
        "program add-version news --signature q->a --module chain_of_thought --instructions Think."
        " --label staging",
        "POST /api/v1/programs/news/versions",
        {
            "source": {
                "module": {
                    "type": "chain_of_thought",
                    "signature": "q->a",
                    "instructions": "Think.",
                }
            },
            "labels": ["staging"],
        },
        ok(wire.version(), 201),
    ),
    (
        "program label news production 2",
        "PUT /api/v1/programs/news/labels/production",
        {"version": 2},
        ok(wire.program()),
    ),
    (
        "program export news 2",
        "GET /api/v1/programs/news/versions/2/export",
        None,
        ok({"hash": "ab", "artifact": {"kind": "modules"}}),
    ),
    ("program archive news", "POST /api/v1/programs/news/archive", None, ok(wire.program())),
    (
        "program run news@2 -i text=a=b -i n=1",
        "POST /v1/programs/news@2/predict",
        {"inputs": {"text": "a=b", "n": "1"}, "context": {}, "stream": False},
        ok(wire.prediction(topic="sport")),
    ),
    (
        "assign news smol --strategy fallback --predictor main --cost-limit 0.5",
        "POST /api/v1/programs/news/assignments",
        {
            "model": "smol",
            "routing_strategy": "fallback",
            "predictor": "main",
            "conditions": {"cost_limit": "0.5"},
        },
        ok(wire.assignment(), 201),
    ),
    (
        "assign route/fast smol",
        "POST /api/v1/routes/fast/assignments",
        {"model": "smol"},
        ok(wire.assignment(), 201),
    ),
    (
        "assignments news",
        "GET /api/v1/programs/news/assignments",
        None,
        page(wire.assignment(conditions={"input_size_max": 5})),
    ),
    ("assignments route/fast", "GET /api/v1/routes/fast/assignments", None, page()),
    (
        "split show news",
        "GET /api/v1/programs/news/split",
        None,
        ok(wire.split((1, 9000), (2, 1000))),
    ),
    (
        "executions list --program news --fallback --limit 5",
        "GET /api/v1/executions?program=news&fallback=true&limit=5",
        None,
        page(wire.execution(), next_cursor="c"),
    ),
    ("executions show " + ID, f"GET /api/v1/executions/{ID}", None, ok(wire.execution())),
    (
        "usage --by day --by model",
        "GET /api/v1/usage?group_by=day&group_by=model",
        None,
        page({"model": "smol", "attempts": 3, "unpriced": 1, "cost_usd": "0.5"}),
    ),
    ("usage", "GET /api/v1/usage", None, page()),
    ("keys list", "GET /api/v1/keys", None, page(wire.api_key())),
    ("keys revoke ci", "POST /api/v1/keys/ci/revoke", None, ok(wire.api_key())),
    (
        "keys create ci --scope invoke --scope write --expires-at 2030-01-02",
        "POST /api/v1/keys",
        {"name": "ci", "scopes": ["invoke", "write"], "expires_at": "2030-01-02T00:00:00Z"},
        ok(MINTED, 201),
    ),
    (
        "chat route/fast hi --system Short. --max-tokens 5",
        "POST /v1/chat/completions",
        {
            "model": "route/fast",
            "messages": [
                {"role": "system", "content": "Short."},
                {"role": "user", "content": "hi"},
            ],
            "max_tokens": 5,
        },
        ok(CHAT),
    ),
]


@pytest.mark.parametrize(("line", "asked", "sent", "reply"), COMMANDS)
def test_json(shell: Shell, line: str, asked: str, sent: Any, reply: Any) -> None:
    shell.platform.replies = [reply]
    ran = shell(*line.split(" "), "--json")
    assert ran.code == 0
    request = shell.platform.last
    assert f"{request.method} {request.url.raw_path.decode()}" == asked
    assert (json.loads(request.content) if request.content else None) == sent
    whole, part = ran.document, reply.json()
    if "next_cursor" in part:
        assert whole["next_cursor"] == part["next_cursor"]
        whole, part = whole["items"], part["items"]
        assert len(whole) == len(part)
        whole, part = (whole or [{}])[0], (part or [{}])[0]
    assert {name: whole[name] for name in part if not isinstance(part[name], dict | list)} == {
        name: value for name, value in part.items() if not isinstance(value, dict | list)
    }


@pytest.mark.parametrize(("line", "asked", "sent", "reply"), COMMANDS)
def test_for_a_person(shell: Shell, line: str, asked: str, sent: Any, reply: Any) -> None:
    shell.platform.replies = [reply]
    ran = shell(*line.split(" "))
    assert ran.code == 0
    assert ran.out.strip()
    assert "\x1b" not in ran.out


def test_a_failed_check_exits_with_1(shell: Shell) -> None:
    shell.platform.replies = [ok({**CHECK, "ok": False, "error_class": "auth"})]
    ran = shell("model", "check", "smol")
    assert ran.code == 1
    assert "auth" in ran.out


def test_delete_and_unassign_say_what_is_gone(shell: Shell) -> None:
    shell.platform.replies = [httpx.Response(204)]
    assert shell("model", "delete", "smol", "--json").document == {"deleted": "smol"}
    assert shell("unassign", ID, "--json").document == {"removed": ID}


def test_a_key_is_asked_for_and_never_shown(shell: Shell) -> None:
    shell.platform.replies = [ok(wire.model(), 201)]
    line = [
        "model",
        "register",
        "m",
        "--provider",
        "openai",
        "--model",
        "gpt",
        "--ask-key",
        "--json",
    ]
    ran = shell(*line, input="sk-secret\n")
    assert ran.code == 0
    assert shell.platform.body()["api_key"] == "sk-secret"
    assert "sk-secret" not in ran.out + ran.err
    assert json.loads(ran.out[ran.out.index("{") :])["name"] == "smol"


def test_nothing_to_update(shell: Shell) -> None:
    ran = shell("model", "update", "smol")
    assert (ran.code, ran.out) == (2, "")
    assert "nothing to change" in ran.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("model register m --provider openai --model gpt --config [1]", "must be a JSON object"),
        ("model register m --provider openai --model gpt --prompt-price -1", "greater than"),
        ("model register m --provider openai_compatible --model gpt", "needs a base_url"),
        ("model register m --provider local --model gpt --cache-ttl-s 0", "greater than"),
        ("model update m --cache-ttl-s 5 --no-cache", "not both"),
        ("model register m! --provider openai --model gpt", "must be 1 to 100"),
        ("program create news -f a.yaml --signature q->a", "give one of"),
        ("program add-version news", "describe it"),
        ("program run news -i text", "must read name=value"),
        ("program run news -i a=1 -i a=2", "given twice"),
        ("program run news -i a=1 --json-input {}", "not both"),
        ("program run news --json-input {", "is not JSON"),
        ("split set news 1=90% 2=20%", "weights sum to 11000"),
        ("split set news 1=x", "must be a percentage"),
        ("split set news 1=NaN", "must be a percentage"),
        ("split set news 1=33.333%", "must be a percentage"),
        ("split set news x=100%", "valid integer"),
        ("executions list --since yesterday", "must read 30m"),
        ("apply -f /does/not/exist.yaml", "No such file"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_sent(shell: Shell, line: str, message: str) -> None:
    ran = shell(*line.split(" "), COLUMNS="400")
    assert (ran.code, ran.out, shell.platform.asked) == (2, "", [])
    assert message in " ".join(ran.err.replace("│", " ").split())


def test_a_split_in_percent(shell: Shell) -> None:
    shell.platform.replies = [ok(SPLIT)]
    ran = shell("split", "set", "news", "1=87.5%", "2=12.5", "--epoch", "2")
    assert shell.platform.body() == {
        "arms": [{"version": 1, "weight_bp": 8750}, {"version": 2, "weight_bp": 1250}]
    }
    assert shell.platform.last.headers["if-match"] == '"2"'
    assert ran.out.splitlines()[1].split() == ["1", "90", "%", "-"]
    assert ran.err == "Applied by 1 of 2 replicas.\n"


def test_split_documents_are_alone_on_stdout(shell: Shell) -> None:
    shell.platform.replies = [ok(SPLIT)]
    ran = shell("split", "set", "news", "1=90%", "2=10%", "--json")
    assert json.loads(ran.out)["applied"] == APPLIED
    shell.platform.replies = [ok(APPLIED)]
    assert json.loads(shell("split", "remove", "news", "--json").out) == APPLIED


def test_versions_show_their_labels_and_models(shell: Shell) -> None:
    pinned = wire.version(2)
    pinned["artifact"]["models"] = {"": "smol"}
    shell.platform.replies = [
        ok(wire.program(labels={"production": 2, "staging": 1})),
        page(pinned, wire.version(1)),
    ]
    ran = shell("program", "versions", "news")
    first, second = (line.split() for line in ran.out.splitlines()[1:])
    assert first[:6] == ["2", "ab" * 6, "main:", "predict", "smol", "production"]
    assert second[:6] == ["1", "ab" * 6, "main:", "predict", "-", "staging"]


def test_a_program_file(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "program.yaml"
    file.write_text("module:\n  type: predict\n  signature: question -> answer\n")
    shell.platform.replies = [ok(wire.program(), 201)]
    assert shell("program", "create", "news", "-f", str(file)).code == 0
    assert shell.platform.body() == {"name": "news", "source": SOURCE}
    assert shell("program", "create", "news", "-f", "-", input=json.dumps(SOURCE)).code == 0
    assert shell.platform.body() == {"name": "news", "source": SOURCE}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- a", "must hold a mapping"),
        ("!!python/object/apply:os.system [ls]", "is not YAML"),
        ("modul: {}", "modul: Extra inputs are not permitted"),
    ],
)
def test_program_files_that_are_none(shell: Shell, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    ran = shell("program", "create", "news", "-f", str(file), COLUMNS="400")
    assert (ran.code, ran.out, shell.platform.asked) == (2, "", [])
    assert message in ran.err


def test_an_export_can_be_added_again(shell: Shell, tmp_path: Path) -> None:
    exported = {"hash": "ab", "artifact": {"kind": "modules", "ü": [1]}}
    file = tmp_path / "export.json"
    shell.platform.replies = [ok(exported)]
    ran = shell("program", "export", "news", "2", "-o", str(file), "--json")
    assert ran.document == {"file": str(file), "hash": "ab"}
    shell.platform.replies = [ok(wire.version(), 201)]
    assert shell("program", "add-version", "news", "-f", str(file)).code == 0
    assert shell.platform.body() == exported
    assert shell("program", "create", "other", "-f", str(file)).code == 2


def test_apply_shows_the_plan(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "platform.yaml"
    file.write_text("models: []\n")
    shell.platform.replies = [ok({**PLAN, "applied": False, "replicas": None})]
    ran = shell("apply", "-f", str(file), "--dry-run")
    assert shell.platform.last.url.params["dry_run"] == "true"
    assert ran.out.splitlines()[1].split() == ["create", "model", "smol", "a:", "[1]"]
    assert ran.err == "Not applied (dry run): 1 create, 0 update, 0 unchanged.\n"
    shell.platform.replies = [ok(PLAN)]
    done = "Applied: 1 create, 0 update, 0 unchanged.\nApplied by 1 of 2 replicas.\n"
    assert shell("apply", "-f", str(file)).err == done
    assert shell("apply", "-f", "-", "--json", input="models: []\n").document == PLAN
    assert shell.platform.last.content == b"models: []\n"


def test_secrets_of_new_keys_are_shown_once(shell: Shell) -> None:
    shell.platform.replies = [ok(MINTED, 201)]
    ran = shell("keys", "create", "ci")
    assert "dspex_0a_secret" in ran.out
    assert ran.err == "The secret is shown this once.\n"
    assert shell.platform.body() == {"name": "ci"}
