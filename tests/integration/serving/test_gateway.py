"""The data plane over real sockets: routing, fallback, streaming, limits, records."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from dspex_ray.core.actor import Scope
from dspex_ray.programs.model import CapturePolicy, ProgramSource
from dspex_ray.settings import GatewaySettings
from dspex_ray.testing.data_plane import DataPlane
from dspex_ray.testing.provider_simulator import Fault, Prompt, ProviderSimulator
from dspex_ray.traces.model import ExecutionRecord, ExecutionStatus, FeedbackRecord

QA = ProgramSource(module={"type": "predict", "signature": "question -> answer"}, adapter="json")


def answer(prompt: Prompt) -> str:
    """What a DSPy JSON prompt wants, or plain text for a plain one."""
    text = prompt.text if hasattr(prompt, "text") else str(prompt)
    if "`shout`" in text:
        return "no JSON, but purloined" if "clandestine" in text else json.dumps({"shout": "HEY"})
    return json.dumps({"answer": "forty-two"}) if "`answer`" in text else "hello there friend"


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator(answer, retry_after_s=0.05, slow_s=0.2) as simulator:
        yield simulator


@pytest.fixture
def other() -> Iterator[ProviderSimulator]:
    with ProviderSimulator(answer, retry_after_s=0.05, slow_s=0.2) as simulator:
        yield simulator


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[DataPlane]:
    with DataPlane(tmp_path / "spool") as started:
        yield started


def client(plane: DataPlane, key: str | None = None, **headers: str) -> httpx.Client:
    return httpx.Client(
        base_url=plane.url,
        headers={"authorization": f"Bearer {key or plane.key}", **headers},
        timeout=20,
    )


def sdk(plane: DataPlane) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{plane.url}/v1", api_key=plane.key, max_retries=0)


def executions(plane: DataPlane) -> list[ExecutionRecord]:
    return [record for record in plane.records() if isinstance(record, ExecutionRecord)]


def ask(text: str = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **fields}


def test_the_openai_sdk_gets_an_answer_and_it_is_recorded(
    plane: DataPlane, sim: ProviderSimulator
) -> None:
    plane.add_model("m", sim.url)
    completion = sdk(plane).chat.completions.create(**ask("one two three"))
    assert completion.choices[0].message.content == "hello there friend"
    assert completion.usage is not None
    (record,) = executions(plane)
    attempt = record.lm_calls[0].attempts[0]
    assert record.status is ExecutionStatus.COMPLETED
    assert (record.endpoint, record.model) == ("chat.completions", "m")
    assert attempt.cost_usd is not None
    assert attempt.prompt_tokens == completion.usage.prompt_tokens
    assert record.lm_calls[0].request is None  # direct calls keep no content


def test_streaming_with_usage_through_the_sdk(plane: DataPlane, sim: ProviderSimulator) -> None:
    plane.add_model("m", sim.url)
    stream = sdk(plane).chat.completions.create(
        **ask(), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "hello there friend"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert executions(plane)[0].lm_calls[0].stream


def test_n_choices_are_fanned_out(plane: DataPlane, sim: ProviderSimulator) -> None:
    plane.add_model("m", sim.url)
    completion = sdk(plane).chat.completions.create(**ask(), n=3)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    stream = sdk(plane).chat.completions.create(**ask(), n=2, stream=True)
    seen = {chunk.choices[0].index for chunk in stream if chunk.choices}
    assert seen == {0, 1}
    assert [len(record.lm_calls) for record in executions(plane)] == [3, 2]


def test_a_program_answers_with_usage_and_version(plane: DataPlane, sim: ProviderSimulator) -> None:
    model = plane.add_model("m", sim.url)
    program = plane.add_program("qa", QA, capture=CapturePolicy(mode="full"))
    plane.assign(program, model)
    with client(plane) as http:
        response = http.post("/v1/programs/qa/predict", json={"inputs": {"question": "why?"}})
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["outputs"] == {"answer": "forty-two"}
    assert body["version"] == 1
    assert response.headers["x-dspex-model"] == "m"
    (record,) = executions(plane)
    assert record.inputs == {"question": "why?"}
    assert record.outputs == {"answer": "forty-two"}
    assert record.lm_calls[0].request is not None


def test_a_program_as_a_chat_model(plane: DataPlane, sim: ProviderSimulator) -> None:
    model = plane.add_model("m", sim.url)
    plane.assign(plane.add_program("qa", QA), model)
    completion = sdk(plane).chat.completions.create(
        model="program/qa@production", messages=[{"role": "user", "content": "why?"}]
    )
    assert completion.choices[0].message.content == "forty-two"
    stream = sdk(plane).chat.completions.create(
        model="program/qa@1", messages=[{"role": "user", "content": "why?"}], stream=True
    )
    text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    assert text == "forty-two"


def test_prediction_streams_deltas_and_ends_with_validated_outputs(
    plane: DataPlane, sim: ProviderSimulator
) -> None:
    model = plane.add_model("m", sim.url)
    plane.assign(plane.add_program("qa", QA), model)
    body = {"inputs": {"question": "why?"}, "stream": True}
    with client(plane) as http, http.stream("POST", "/v1/programs/qa/predict", json=body) as got:
        events = [json.loads(line[6:]) for line in got.iter_lines() if line.startswith("data: ")]
    assert "".join(e["text"] for e in events if e["type"] == "delta") == "forty-two"
    assert events[-1]["outputs"] == {"answer": "forty-two"}
    assert executions(plane)[0].status is ExecutionStatus.COMPLETED


@pytest.mark.parametrize(
    ("fault", "stream", "strategy"),
    [  # every pair of two of the three stands in some row
        (Fault.RATE_LIMIT, False, "primary"),
        (Fault.RATE_LIMIT, True, "load_balanced"),
        (Fault.RATE_LIMIT, False, "cost_optimized"),
        (Fault.RATE_LIMIT, True, "latency_optimized"),
        (Fault.SERVER_ERROR, True, "primary"),
        (Fault.SERVER_ERROR, False, "load_balanced"),
        (Fault.SERVER_ERROR, True, "cost_optimized"),
        (Fault.SERVER_ERROR, False, "latency_optimized"),
        (Fault.UNAUTHORIZED, False, "primary"),
        (Fault.UNAUTHORIZED, True, "load_balanced"),
        (Fault.UNAUTHORIZED, True, "cost_optimized"),
        (Fault.UNAUTHORIZED, False, "latency_optimized"),
        # after the first content of a stream these are another test's matter
        (Fault.MALFORMED, False, "primary"),
        (Fault.MALFORMED, False, "load_balanced"),
        (Fault.MALFORMED, False, "cost_optimized"),
        (Fault.MALFORMED, False, "latency_optimized"),
        (Fault.CUT, False, "primary"),
        (Fault.CUT, False, "load_balanced"),
        (Fault.CUT, False, "cost_optimized"),
        (Fault.CUT, False, "latency_optimized"),
    ],
)
def test_a_fault_of_the_choice_falls_back(
    plane: DataPlane,
    sim: ProviderSimulator,
    other: ProviderSimulator,
    fault: Fault,
    stream: bool,
    strategy: str,
) -> None:
    """Every fault before the first content is survived; cut streams are another test."""
    sim.always(fault)
    plane.assign("r", plane.add_model("bad", sim.url), routing_strategy=strategy)
    plane.assign("r", plane.add_model("good", other.url), routing_strategy="fallback")
    body = {**ask(), "model": "route/r", "stream": stream}
    with client(plane) as http:
        response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    assert "friend" in response.text
    call = executions(plane)[0].lm_calls[0]
    assert (call.chosen, call.answered_by, call.fallback) == ("bad", "good", True)
    assert [a.outcome for a in call.attempts][-1] == "ok"
    assert all(a.error_class is not None for a in call.attempts if a.outcome == "failed")
    retried = fault is not Fault.UNAUTHORIZED
    assert (len(call.attempts) > 2) is retried


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.SSE_ERROR, Fault.MALFORMED])
def test_after_the_first_token_there_is_no_switch_and_no_made_up_end(
    plane: DataPlane, sim: ProviderSimulator, other: ProviderSimulator, fault: Fault
) -> None:
    sim.always(fault)
    plane.assign("r", plane.add_model("bad", sim.url))
    plane.assign("r", plane.add_model("good", other.url), routing_strategy="fallback")
    body = {**ask(), "model": "route/r", "stream": True}
    with client(plane) as http:
        response = http.post("/v1/chat/completions", json=body)
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    last = json.loads(events[-1])
    assert "error" in last
    assert "[DONE]" not in response.text
    assert not any(
        choice["finish_reason"]
        for event in events[:-1]
        for choice in json.loads(event).get("choices", [])
    )
    (record,) = executions(plane)
    assert record.status is ExecutionStatus.FAILED
    assert {a.model for a in record.lm_calls[0].attempts} == {"bad"}


async def test_a_client_that_leaves_cancels_the_upstream_call(
    plane: DataPlane, sim: ProviderSimulator
) -> None:
    sim.always(Fault.HANG)
    plane.add_model("m", sim.url)
    headers = {"authorization": f"Bearer {plane.key}"}
    async with httpx.AsyncClient(base_url=plane.url, headers=headers) as http:
        for stream in (False, True):
            with pytest.raises(httpx.ReadTimeout):
                await http.post("/v1/chat/completions", json=ask(stream=stream), timeout=0.3)
    for _ in range(100):
        if sim.disconnects == 2 and len(executions(plane)) == 2:
            break
        await asyncio.sleep(0.05)
    assert sim.disconnects == 2
    assert {record.status for record in executions(plane)} == {ExecutionStatus.CANCELLED}
    outcomes = [a.outcome for r in executions(plane) for c in r.lm_calls for a in c.attempts]
    assert outcomes == ["cancelled", "cancelled"]


def test_the_deadline_is_the_clients_and_is_kept(plane: DataPlane, sim: ProviderSimulator) -> None:
    sim.always(Fault.HANG)
    plane.add_model("m", sim.url)
    with client(plane, **{"x-dspex-timeout-ms": "200"}) as http:
        response = http.post("/v1/chat/completions", json=ask())
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"


def test_shedding_says_when_to_come_back(tmp_path: Path, sim: ProviderSimulator) -> None:
    sim.always(Fault.SLOW_FIRST_TOKEN)
    settings = GatewaySettings(max_inflight=1)
    with DataPlane(tmp_path / "spool", settings=settings) as plane:
        plane.add_model("m", sim.url)

        async def both() -> list[httpx.Response]:
            headers = {"authorization": f"Bearer {plane.key}"}
            async with httpx.AsyncClient(base_url=plane.url, headers=headers) as http:
                posts = (http.post("/v1/chat/completions", json=ask()) for _ in range(4))
                return list(await asyncio.gather(*posts))

        responses = asyncio.run(both())
    assert sorted(r.status_code for r in responses) == [200, 503, 503, 503]
    assert all(r.headers["retry-after"] == "1" for r in responses if r.status_code == 503)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "word"),
    [
        ("POST", "/v1/chat/completions", b"{", 400, "JSON"),
        ("POST", "/v1/chat/completions", b"[]", 400, "object"),
        ("POST", "/v1/chat/completions", b'{"model":"m"}', 400, "messages"),
        ("POST", "/v1/chat/completions", b'{"model":"m","messages":[],"zap":1}', 400, "zap"),
        ("POST", "/v1/programs/none/predict", b'{"inputs":{}}', 404, "none"),
        ("POST", "/v1/programs/qa/predict", b'{"inputs":{}}', 400, "question"),
        ("POST", "/v1/programs/qa/predict", b'{"inputs":{"x":1,"question":"y"}}', 400, "x"),
        ("POST", "/v1/programs/qa/predict", b'{"inputs":{"question":"a\\u0000"}}', 400, "null"),
        ("POST", "/v1/programs/qa/predict", b'{"wrong":1}', 400, "inputs"),
        ("POST", "/v1/programs/qa@9/predict", b'{"inputs":{"question":"y"}}', 404, "version 9"),
        ("POST", "/v1/programs/qa@zz/predict", b'{"inputs":{"question":"y"}}', 404, "label"),
        ("POST", "/v1/programs/bare/predict", b'{"inputs":{"question":"y"}}', 409, "production"),
        ("POST", "/v1/programs/qa/feedback", b'{"execution_id":"x"}', 400, "execution_id"),
        ("GET", "/v1/nowhere", b"", 404, "Not Found"),
    ],
)
def test_bad_input_is_named(
    plane: DataPlane, method: str, path: str, body: bytes, status: int, word: str
) -> None:
    plane.add_program("qa", QA)
    plane.add_program("bare", QA, labels={})
    with client(plane) as http:
        response = http.request(method, path, content=body)
    assert response.status_code == status, response.text
    assert word in response.json()["error"]["message"]


@pytest.mark.parametrize("header", ["x-request-timeout-seconds", "x-request-disconnect-disabled"])
def test_headers_that_would_lift_serves_limits_are_refused(plane: DataPlane, header: str) -> None:
    with client(plane, **{header: "1"}) as http:
        response = http.post("/v1/chat/completions", json=ask())
    assert response.status_code == 400
    assert response.json()["error"]["param"] == header


def test_oversized_bodies_are_refused_declared_or_not(tmp_path: Path) -> None:
    settings = GatewaySettings(max_body_bytes=1000)
    with DataPlane(tmp_path / "s", settings=settings) as plane, client(plane) as http:
        declared = http.post("/v1/chat/completions", content=b"x" * 2000)
        chunked = http.post("/v1/chat/completions", content=iter([b"x" * 600] * 3))
    assert (declared.status_code, chunked.status_code) == (413, 413)


def test_keys_decide(plane: DataPlane, sim: ProviderSimulator) -> None:
    plane.add_model("m", sim.url)
    with httpx.Client(base_url=plane.url) as http:
        assert http.post("/v1/chat/completions", json=ask()).status_code == 401
        assert http.get("/healthz").status_code == 200
        assert http.get("/readyz").json()["ready"] is True
    with client(plane, plane.key[:-1] + "x") as http:
        assert http.get("/v1/models").status_code == 401
    with client(plane, plane.add_key([Scope.READ])) as http:
        response = http.post("/v1/chat/completions", json=ask())
        assert response.status_code == 403
        assert "invoke" in response.json()["error"]["message"]
    limited = plane.add_key(requests_per_minute=2)
    with client(plane, limited) as http:
        responses = [http.get("/v1/models") for _ in range(3)]
    assert [r.status_code for r in responses] == [200, 200, 429]
    assert responses[1].headers["x-ratelimit-remaining-requests"] == "0"
    assert int(responses[2].headers["retry-after"]) >= 1


def test_batch_isolates_what_fails(plane: DataPlane, sim: ProviderSimulator) -> None:
    model = plane.add_model("m", sim.url)
    plane.assign(plane.add_program("qa", QA), model)
    items = [{"question": "a"}, {"wrong": "b"}, {"question": "c"}]
    with client(plane) as http:
        body = http.post("/v1/programs/qa/batch", json={"items": items}).json()
    assert (body["succeeded"], body["failed"]) == (2, 1)
    assert body["items"][1]["error"]["code"] == "invalid"
    assert len({item["execution_id"] for item in body["items"]}) == 3
    assert len(executions(plane)) == 3


EVERYWHERE = ProgramSource(
    import_path="dspex_ray.testing.sample_programs:Everywhere",
    signature="words: list[str] -> shouts: list[str]",
    adapter="json",
)


def test_threads_that_dspy_starts_belong_to_the_request(
    plane: DataPlane, sim: ProviderSimulator
) -> None:
    plane.assign(plane.add_program("e", EVERYWHERE), plane.add_model("m", sim.url))
    asked = {"inputs": {"words": ["a", "b"]}}
    with client(plane) as http:
        found = http.post("/v1/programs/e/predict", json=asked)
    assert found.json()["outputs"] == {"shouts": ["HEY"] * 3}
    [record] = plane.records()
    assert isinstance(record, ExecutionRecord)
    assert sorted(str(call.predictor) for call in record.lm_calls) == ["None", "upper", "upper"]


def test_what_dspy_says_of_a_failure_stays_out_of_the_log(
    plane: DataPlane, sim: ProviderSimulator, capfd: pytest.CaptureFixture[str]
) -> None:
    plane.assign(plane.add_program("e", EVERYWHERE), plane.add_model("m", sim.url))
    asked = {"inputs": {"words": ["clandestine"]}}
    with client(plane) as http:
        found = http.post("/v1/programs/e/predict", json=asked)
    assert found.status_code >= 500
    said = "".join(capfd.readouterr())
    assert "clandestine" not in said
    assert "purloined" not in said


def test_feedback_is_spooled(plane: DataPlane, sim: ProviderSimulator) -> None:
    model = plane.add_model("m", sim.url)
    plane.assign(plane.add_program("qa", QA), model)
    with client(plane) as http:
        done = http.post("/v1/programs/qa/predict", json={"inputs": {"question": "a"}}).json()
        given = {"execution_id": done["execution_id"], "score": 0.5, "label": "meh"}
        assert http.post("/v1/programs/qa/feedback", json=given).status_code == 202
    (record,) = [r for r in plane.records() if isinstance(r, FeedbackRecord)]
    assert str(record.execution_id) == done["execution_id"]
    assert record.score == 0.5


def test_an_output_that_does_not_fit_is_not_passed_on(plane: DataPlane) -> None:
    with ProviderSimulator(lambda prompt: json.dumps({"answer": "not a number"})) as sim:
        model = plane.add_model("m", sim.url)
        source = ProgramSource(
            module={"type": "predict", "signature": "question -> answer: int"}, adapter="json"
        )
        plane.assign(plane.add_program("n", source), model)
        with client(plane) as http:
            response = http.post("/v1/programs/n/predict", json={"inputs": {"question": "?"}})
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "output_invalid"
    assert "not a number" not in response.text
    assert executions(plane)[0].error_code == "output_invalid"


def test_a_sticky_session_keeps_its_version(plane: DataPlane, sim: ProviderSimulator) -> None:
    model = plane.add_model("m", sim.url)
    other = QA.model_copy(update={"module": {**(QA.module or {}), "config": {"temperature": 0.5}}})
    program = plane.add_program("qa", QA, other, weights={1: 5000, 2: 5000})
    plane.assign(program, model)
    seen: dict[str, set[int]] = {}
    for index in range(8):
        unit = f"user-{index}"
        with client(plane, **{"x-dspex-session": unit}) as http:
            for _ in range(3):
                body = http.post("/v1/programs/qa/predict", json={"inputs": {"question": "a"}})
                seen.setdefault(unit, set()).add(body.json()["version"])
    assert all(len(versions) == 1 for versions in seen.values())
    assert set.union(*seen.values()) == {1, 2}
    record = executions(plane)[0]
    assert (record.split_epoch, record.propensity, record.unit) == (1, 0.5, "user-0")
