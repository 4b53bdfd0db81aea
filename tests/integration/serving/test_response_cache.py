"""Answers from memory, over real sockets: what providers are spared, and what callers are told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from dspex_ray.core.ids import ProjectId, new_id
from dspex_ray.models.model import Model
from dspex_ray.programs.model import CapturePolicy, ProgramSource
from dspex_ray.testing.data_plane import DataPlane
from dspex_ray.testing.provider_simulator import Fault, Prompt, ProviderSimulator
from dspex_ray.traces.model import ExecutionRecord

QA = ProgramSource(module={"type": "predict", "signature": "question -> answer"}, adapter="json")
TWO_STEPS = ProgramSource(import_path="dspex_ray.testing.sample_programs:TwoSteps", adapter="json")


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    """Each answer is another one, so that a replay can be told from an answer that is alike."""
    number = count(1)

    def answer(prompt: Prompt) -> str:
        text = prompt.text if hasattr(prompt, "text") else str(prompt)
        said = f"sample {next(number)}"
        fields = {"draft": said, "reasoning": said, "answer": said, "sure": True}
        wanted = text.rpartition("order")[2]
        outputs = {name: value for name, value in fields.items() if f"`{name}`" in wanted}
        return json.dumps(outputs) if outputs else said

    with ProviderSimulator(answer) as simulator:
        yield simulator


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[DataPlane]:
    with DataPlane(tmp_path / "spool") as started:
        yield started


@pytest.fixture
def model(plane: DataPlane, sim: ProviderSimulator) -> Model:
    return plane.add_model("m", sim.url, cache_ttl_s=3600)


class Caller:
    """Calls over HTTP; `cache` is the header of the last answer."""

    def __init__(self, plane: DataPlane, key: str | None = None) -> None:
        self._url = plane.url
        self._authorization = f"Bearer {key or plane.key}"
        self.last: httpx.Response

    def chat(self, text: str = "hi", control: str | None = None, **fields: Any) -> list[str]:
        """The choices' texts, streamed or not."""
        body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
        self.post("/v1/chat/completions", body, control)
        assert self.last.status_code == 200, self.last.text
        if not body.get("stream"):
            return [choice["message"]["content"] for choice in self.last.json()["choices"]]
        found = [""] * fields.get("n", 1)
        for choice in (choice for event in self.events() for choice in event["choices"]):
            found[choice["index"]] += choice["delta"].get("content") or ""
        return found

    def events(self) -> list[Any]:
        data = [line[6:] for line in self.last.text.splitlines() if line.startswith("data: ")]
        return [json.loads(piece) for piece in data if piece != "[DONE]"]

    def post(self, path: str, body: Any, control: str | None = None) -> Any:
        headers = {"authorization": self._authorization}
        if control is not None:
            headers["cache-control"] = control
        self.last = httpx.post(self._url + path, json=body, headers=headers, timeout=20)
        return self.last

    @property
    def cache(self) -> str | None:
        found: str | None = self.last.headers.get("x-dspex-cache")
        return found


@pytest.fixture
def caller(plane: DataPlane) -> Caller:
    return Caller(plane)


def executions(plane: DataPlane) -> list[ExecutionRecord]:
    return [record for record in plane.records() if isinstance(record, ExecutionRecord)]


def test_a_hit_spares_the_provider_and_costs_nothing(
    plane: DataPlane, sim: ProviderSimulator, model: Model, caller: Caller
) -> None:
    assert (caller.chat(temperature=0.7), caller.cache) == (["sample 1"], "miss")
    assert caller.last.json()["usage"]["total_tokens"] > 0
    assert (caller.chat(temperature=0.7), caller.cache) == (["sample 1"], "hit")
    assert sim.served == 1
    assert caller.last.json()["usage"] == {
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "total_tokens": 0,
    }
    headers = caller.last.headers
    assert (headers["x-dspex-cost-usd"], headers["x-dspex-attempts"]) == ("0", "0")
    assert headers["x-dspex-model"] == "m"
    asked, replayed = (record.lm_calls[0].attempts[0] for record in executions(plane))
    assert (asked.cached, asked.cost_source) == (False, "measured")
    assert (replayed.outcome, replayed.cached) == ("ok", True)
    assert (replayed.cost_usd, replayed.cost_source) == (Decimal(0), "cached")


def test_any_other_setting_is_another_question(
    sim: ProviderSimulator, model: Model, caller: Caller
) -> None:
    """The seed's key was prompt, model and temperature: it gave wrong hits."""
    variants: list[dict[str, Any]] = [
        {},
        {"max_tokens": 5},
        {"max_tokens": 6},
        {"seed": 1},
        {"top_p": 0.5},
        {"stop": ["x"]},
        {"response_format": {"type": "json_object"}},
        {"user": "ann"},
    ]
    for fields in variants:
        caller.chat(**fields)
        assert caller.cache == "miss"
    assert sim.served == len(variants)
    for fields in variants:
        caller.chat(**fields)
        assert caller.cache == "hit"
    assert sim.served == len(variants)


def test_a_model_without_a_cache_has_no_header(
    plane: DataPlane, sim: ProviderSimulator, caller: Caller
) -> None:
    plane.add_model("m", sim.url)
    assert [caller.chat(), caller.chat()] == [["sample 1"], ["sample 2"]]
    assert caller.cache is None


def test_plain_and_streamed_answers_replay_each_other(
    plane: DataPlane, sim: ProviderSimulator, model: Model, caller: Caller
) -> None:
    assert (caller.chat("a"), caller.cache) == (["sample 1"], "miss")
    assert (caller.chat("a", stream=True), caller.cache) == (["sample 1"], "hit")
    assert caller.last.text.endswith("data: [DONE]\n\n")
    assert [c["finish_reason"] for e in caller.events() for c in e["choices"]][-1] == "stop"
    assert (caller.chat("b", stream=True), caller.cache) == (["sample 2"], "miss")
    assert (caller.chat("b"), caller.cache) == (["sample 2"], "hit")
    assert (caller.chat("b", stream=True), caller.cache) == (["sample 2"], "hit")
    assert sim.served == 2
    calls = [record.lm_calls[0] for record in executions(plane)]
    assert [(c.stream, c.attempts[0].cached) for c in calls] == [
        (False, False),
        (True, True),
        (True, False),
        (False, True),
        (True, True),
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_choices_stay_different(
    sim: ProviderSimulator, model: Model, caller: Caller, stream: bool
) -> None:
    first = caller.chat(n=3, stream=stream)
    assert len(set(first)) == 3
    assert (caller.chat(n=3, stream=stream), caller.cache) == (first, "hit")
    assert (caller.chat(n=2), caller.cache) == (first[:2], "hit")
    more = caller.chat(n=4)
    assert (more[:3], len(set(more)), caller.cache) == (first, 4, "partial")
    assert sim.served == 4


@pytest.mark.parametrize("stream", [False, True])
def test_cache_control_goes_by(
    sim: ProviderSimulator, model: Model, caller: Caller, stream: bool
) -> None:
    assert caller.chat(stream=stream) == ["sample 1"]
    assert caller.chat(stream=stream, control="no-store") == ["sample 2"]
    assert caller.cache == "bypass"
    assert (caller.chat(stream=stream), caller.cache) == (["sample 1"], "hit")
    assert caller.chat(stream=stream, control="Max-Age=0, No-Cache") == ["sample 3"]
    assert caller.cache == "bypass"
    assert (caller.chat(stream=stream), caller.cache) == (["sample 3"], "hit")


def test_errors_and_cut_streams_are_not_kept(
    plane: DataPlane, sim: ProviderSimulator, model: Model, caller: Caller
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    sim.always(Fault.UNAUTHORIZED)
    assert caller.post("/v1/chat/completions", body).status_code == 502
    sim.always(Fault.CUT)
    caller.post("/v1/chat/completions", {**body, "stream": True})
    assert "error" in caller.events()[-1]
    sim.always(None)
    (fresh,) = caller.chat()
    assert caller.cache == "miss"
    assert caller.chat() == [fresh]


def test_a_new_revision_begins_anew(
    plane: DataPlane, sim: ProviderSimulator, model: Model, caller: Caller
) -> None:
    assert caller.chat() == ["sample 1"]
    changed = model.model_copy(update={"revision": model.revision + 1})
    plane.change(models={**plane.configuration.snapshot.models, model.id: changed})
    assert (caller.chat(), caller.cache) == (["sample 2"], "miss")


def test_a_project_never_gets_the_answer_of_another(
    plane: DataPlane, sim: ProviderSimulator, model: Model, caller: Caller
) -> None:
    other = ProjectId(new_id())
    plane.add_model("m", sim.url, project=other, cache_ttl_s=3600)
    stranger = Caller(plane, plane.add_key(project=other))
    assert caller.chat() == ["sample 1"]
    assert (stranger.chat(), stranger.cache) == (["sample 2"], "miss")
    assert (caller.chat(), stranger.chat()) == (["sample 1"], ["sample 2"])


def test_a_route_and_a_model_share_what_the_model_answered(
    plane: DataPlane, sim: ProviderSimulator, model: Model, caller: Caller
) -> None:
    plane.assign("r", model)
    caller.chat(model="route/r")
    assert (caller.chat(model="m"), caller.cache) == (["sample 1"], "hit")


# --- programs ------------------------------------------------------------------------------


def test_a_program_is_answered_from_memory(
    plane: DataPlane, sim: ProviderSimulator, model: Model, caller: Caller
) -> None:
    plane.assign(plane.add_program("qa", QA, capture=CapturePolicy(mode="full")), model)
    body = {"inputs": {"question": "why?"}}
    for cache in ("miss", "hit"):
        answer = caller.post("/v1/programs/qa/predict", body).json()
        assert (answer["outputs"], caller.cache) == ({"answer": "sample 1"}, cache)
    assert answer["usage"] == {
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "cost_usd": "0",
        "attempts": 0,
        "fallback": False,
    }
    caller.post("/v1/programs/qa/predict", {**body, "stream": True})
    assert (caller.events()[-1]["outputs"], caller.cache) == ({"answer": "sample 1"}, "hit")
    assert sim.served == 1
    assert "sample 1" in str(executions(plane)[1].lm_calls[0].response)  # captured as any answer
    caller.post("/v1/programs/qa/predict", body, "no-cache")
    assert (caller.last.json()["outputs"], caller.cache) == ({"answer": "sample 2"}, "bypass")


def test_some_calls_of_a_program_may_be_hits(
    plane: DataPlane, sim: ProviderSimulator, model: Model, caller: Caller
) -> None:
    program = plane.add_program("two", TWO_STEPS)
    plane.assign(program, model, predictor="draft")
    plane.assign(program, plane.add_model("plain", sim.url), predictor="judge.predict")
    body = {"inputs": {"question": "why?"}}
    caller.post("/v1/programs/two/predict", body)
    assert caller.last.status_code == 200, caller.last.text
    assert caller.cache == "miss"
    caller.post("/v1/programs/two/predict", body)
    assert caller.cache == "partial"
    assert sim.served == 3


def test_items_of_a_batch_share_what_one_of_them_was_answered(
    plane: DataPlane, sim: ProviderSimulator, model: Model, caller: Caller
) -> None:
    plane.assign(plane.add_program("qa", QA), model)
    body = {"items": [{"question": "why?"}] * 3, "concurrency": 1}
    items = caller.post("/v1/programs/qa/batch", body).json()["items"]
    assert [item["outputs"] for item in items] == [{"answer": "sample 1"}] * 3
    assert sim.served == 1
