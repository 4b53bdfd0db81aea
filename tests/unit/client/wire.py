"""A platform that is a function: what it was asked is kept, what it answers is given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

Reply = httpx.Response | Exception
NOW = "2026-03-01T12:00:00Z"
PROJECT = "00000000-0000-7000-8000-000000000001"
ID = "01957c00-0000-7000-8000-00000000000a"


@dataclass
class Platform:
    """Gives `replies` in order, the last one for ever; an exception is raised as httpx would."""

    replies: list[Reply] = field(default_factory=list)
    asked: list[httpx.Request] = field(default_factory=list)

    def answer(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.asked.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        if not isinstance(reply.stream, httpx.ByteStream):
            return reply
        # A copy: clients bind a response to themselves.
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)

    @property
    def transport(self) -> httpx.MockTransport:
        """Async and sync."""
        return httpx.MockTransport(self.answer)

    @property
    def last(self) -> httpx.Request:
        return self.asked[-1]

    def body(self) -> Any:
        return json.loads(self.last.content)


def ok(body: Any = None, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=body)


def problem(status: int, code: str, message: str, **details: Any) -> httpx.Response:
    body = {"code": code, "detail": message, "status": status, "details": details}
    return httpx.Response(status, json=body, headers={"content-type": "application/problem+json"})


def openai_error(status: int, code: str, message: str, **details: Any) -> httpx.Response:
    body = {"error": {"message": message, "code": code, "type": "x", "details": details}}
    return httpx.Response(status, json=body)


def events(*pieces: Any, done: bool = False) -> httpx.Response:
    text = "".join(f"data: {json.dumps(piece, ensure_ascii=False)}\n\n" for piece in pieces)
    return httpx.Response(
        200,
        content=(text + ("data: [DONE]\n\n" if done else "")).encode(),
        headers={"content-type": "text/event-stream"},
    )


def page(*items: Any, next_cursor: str | None = None) -> httpx.Response:
    return ok({"items": list(items), "next_cursor": next_cursor})


def pages(*items: Any) -> Iterator[httpx.Response]:
    """One item a page."""
    for number, item in enumerate(items, start=1):
        yield page(item, next_cursor=str(number) if number < len(items) else None)


def audit_event() -> dict[str, Any]:
    return {
        "id": ID,
        "project_id": PROJECT,
        "at": NOW,
        "actor": "key:x",
        "action": "model.register",
        "resource_kind": "model",
        "resource_id": "m",
    }


def model(name: str = "smol", **fields: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "project_id": PROJECT,
        "name": name,
        "provider": "openai",
        "model_name": "gpt",
        "created_at": NOW,
        "updated_at": NOW,
        **fields,
    }


def program(name: str = "news", **fields: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "project_id": PROJECT,
        "name": name,
        "created_at": NOW,
        "updated_at": NOW,
        **fields,
    }


def version(number: int = 1) -> dict[str, Any]:
    signature = {"inputs": [{"name": "question"}], "outputs": [{"name": "answer"}]}
    return {
        "id": ID,
        "project_id": PROJECT,
        "program_id": ID,
        "number": number,
        "hash": "ab" * 32,
        "artifact": {
            "schema": 1,
            "kind": "modules",
            "signature": signature,
            "modules": {"main": {"type": "predict", "signature": signature}},
            "outputs": {"answer": "main.answer"},
        },
        "created_by": "key:dspex_1",
        "created_at": NOW,
    }


def dataset(name: str = "qa", **fields: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "project_id": PROJECT,
        "name": name,
        "created_at": NOW,
        "updated_at": NOW,
        **fields,
    }


def dataset_version(number: int = 1, **fields: Any) -> dict[str, Any]:
    field = {"type": "str", "nullable": False, "missing": 0, "shortest": 1, "longest": 9}
    number_field = {"type": "float", "nullable": True, "missing": 2, "least": 0.5, "greatest": 1.0}
    return {
        "id": ID,
        "project_id": PROJECT,
        "dataset_id": ID,
        "number": number,
        "hash": "ab" * 32,
        "source": {"kind": "csv", "name": "qa.csv"},
        "examples": 100_000,
        "duplicates": 3,
        "bytes": 12_345_678,
        "fields": [
            {"name": "question", "counts": {"str": 100_000}, "distinct": 7, **field},
            {"name": "score", "counts": {"float": 99_990, "null": 8}, **number_field},
        ],
        "created_by": "key:dspex_1",
        "created_at": NOW,
        **fields,
    }


def example(number: int = 0, **values: Any) -> dict[str, Any]:
    return {"hash": "cd" * 32, "number": number, "values": values or {"question": "why"}}


def dataset_split() -> dict[str, Any]:
    return {
        "dataset": "qa",
        "version": 2,
        "seed": 1,
        "sizes": {"dev": 4, "train": 6},
        "parts": [
            {"name": "dev", "examples": 4, "fingerprint": "aa"},
            {"name": "train", "examples": 6, "fingerprint": "bb"},
        ],
        "unused": 0,
        "fingerprint": "cc" * 32,
    }


def check_report(**fields: Any) -> dict[str, Any]:
    return {
        "dataset": "qa",
        "version": 2,
        "program": "news",
        "program_version": 1,
        "examples": 10,
        "bad_rows": 0,
        "inputs": ["question"],
        "outputs": ["answer"],
        "absent_outputs": [],
        "unused": [],
        "faults": [],
        **fields,
    }


def assignment(**fields: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "project_id": PROJECT,
        "program_id": ID,
        "model_id": ID,
        "model_name": "smol",
        "created_at": NOW,
        "updated_at": NOW,
        **fields,
    }


def split(*arms: tuple[int, int]) -> dict[str, Any]:
    return {
        "program_id": ID,
        "project_id": PROJECT,
        "salt": "s",
        "epoch": 3,
        "arms": [{"version": number, "weight_bp": weight} for number, weight in arms],
        "updated_at": NOW,
    }


def placement(**fields: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "project_id": PROJECT,
        "program_id": ID,
        "version_id": ID,
        "program": "news",
        "version": 2,
        "spec": {"min_replicas": 0},
        "application": "program-news-v2-0a1b2c3d",
        "status": "ready",
        "since": NOW,
        "created_at": NOW,
        "updated_at": NOW,
        **fields,
    }


def prediction(**outputs: Any) -> dict[str, Any]:
    return {
        "execution_id": ID,
        "program": "news",
        "version": 2,
        "outputs": outputs,
        "model": "smol",
        "usage": {
            "prompt_tokens": 12,
            "completion_tokens": 3,
            "cost_usd": "0.00015",
            "attempts": 2,
            "fallback": True,
        },
    }


def chunk(text: str | None, **fields: Any) -> dict[str, Any]:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}}]
    return {"id": "c", "created": 1, "model": "smol", "choices": choices, **fields}


def execution(**fields: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "project_id": PROJECT,
        "source": "serving",
        "status": "completed",
        "program": "news",
        "version": 2,
        "endpoint": "predict",
        "started_at": NOW,
        "duration_ms": 812.0,
        **fields,
    }


def api_key(**fields: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "project_id": PROJECT,
        "name": "ci",
        "prefix": "dspex_0a",
        "scopes": ["invoke", "read"],
        "created_at": NOW,
        **fields,
    }


def evaluation(**change: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "project_id": PROJECT,
        "program_id": ID,
        "program": "p",
        "version_id": ID,
        "version": 1,
        "artifact_hash": "a",
        "dataset_id": ID,
        "dataset": "qa",
        "dataset_version": 2,
        "examples": {},
        "fingerprint": "f",
        "metrics": [{"metric": "exact_match"}],
        "settings": {},
        "configuration": "c",
        "status": "completed",
        "progress": {"total": 3, "done": 3, "means": {"exact_match": 0.5}, "spent_usd": "0.01"},
        "created_by": "key:k",
        "created_at": NOW,
        "updated_at": NOW,
    } | change


def example_result(**change: Any) -> dict[str, Any]:
    return {
        "number": 4,
        "example_hash": "h",
        "scores": {"exact_match": 0.0},
        "errors": [{"code": "output_invalid", "message": "Missing outputs: answer"}],
        "latency_ms": 12.0,
        "cost_usd": None,
    } | change


SEARCH: dict[str, Any] = {
    "program": "p@1",
    "dataset": "qa",
    "optimizer": "DspexSearch",
    "metric": {"metric": "exact_match"},
}
NOT_OF_RUNS = {"metrics", "settings", "configuration"}
ESTIMATE = {"lm_calls": 40, "tokens": 9000, "cost_usd": "0.01", "basis": "at most 40 runs"}


def optimization(**change: Any) -> dict[str, Any]:
    return {
        **{k: v for k, v in evaluation().items() if k not in NOT_OF_RUNS},
        **SEARCH,
        "program": "p",
        "train_examples": 6,
        "dev_examples": 4,
        "parameters": {"num_candidates": 4},
        "budget": {"lm_calls": 50},
        "limits": {},
        "convergence": {},
        "seed": 0,
        "call_timeout_s": 60.0,
        "register_best": 1,
        "packages": {"dspy": "3.4.1"},
        "estimate": ESTIMATE,
        "best_score": 0.75,
        "versions": [
            {"rank": 1, "version_id": ID, "version": 2, "hash": "h", "score": 0.75, "created": True}
        ],
        "progress": {"percent": 100.0, "trials": 3, "convergence": {"status": "improving"}},
        **change,
    }


def trial(number: int = 1, **change: Any) -> dict[str, Any]:
    return {
        "number": number,
        "candidate": "ab" * 32,
        "made_by": "DspexSearch",
        "score": 0.5,
        "examples": 4,
        "lm_calls": 8,
        "at": NOW,
    } | change


def front(**change: Any) -> dict[str, Any]:
    """Two points of three objectives: the dearer one is better, and picked."""
    return {
        "objectives": [
            {"name": "accuracy"},
            {"name": "cost", "direction": "minimize"},
            {"name": "latency", "direction": "minimize"},
        ],
        "points": [
            {
                "candidate": "cd" * 32,
                "trial": 7,
                "configuration": {"model": "gemma", "temperature": 0.5},
                "figures": {"accuracy": 0.75, "cost": 0.0021, "latency": 340.0},
                "held_out": {"accuracy": 0.7, "cost": 0.002, "latency": 350.0},
                "picked": True,
                "version": 5,
            },
            {
                "candidate": "ab" * 32,
                "trial": 1,
                "figures": {"accuracy": 0.25, "cost": 0.0004, "latency": 12.0},
                "version": 1,
            },
        ],
        "hypervolume": [{"trials": 1, "value": 0.5}, {"trials": 7, "value": 0.75}],
        "reference": {"accuracy": 0.0, "cost": 0.01, "latency": 500.0},
        "examples": 20,
        "held_out_examples": 40,
    } | change


def importance(**change: Any) -> dict[str, Any]:
    one = {"objective": "accuracy", "shares": {"model": 0.8, "temperature": 0.2}, "trials": 30}
    return {"evaluator": "PED-ANOVA", "objectives": [one]} | change


def held_out(**change: Any) -> dict[str, Any]:
    """The best version gains 37 points on 100 examples."""
    interval = {"low": 0.16, "high": 0.33}
    lead = {
        "method": "mcnemar_mid_p",
        "n": 100,
        "estimate": 0.37,
        "interval": {"low": 0.244, "high": 0.479},
        "confidence": 0.95,
        "p": 0.00012,
        "effect_size": 0.6,
        "higher": 45,
        "equal": 47,
        "lower": 8,
    }
    version = {
        "candidate": "cd" * 32,
        "version": 2,
        "score": 0.61,
        "interval": {"low": 0.51, "high": 0.7},
        "selection": 0.65,
        "flattered": 0.04,
        "lead": lead,
    }
    return {
        "examples": 100,
        "start": {"score": 0.24, "interval": interval},
        "versions": [version],
    } | change


def optimizer(**change: Any) -> dict[str, Any]:
    return {"name": "MIPROv2", "aliases": ["MIPRO"], "description": "Searches."} | change
