"""The simulator by itself: the official SDK, DSPy's own adapters, and the process door."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest
from openai import OpenAI, RateLimitError
from openai.types.chat import ChatCompletionMessageParam

from dspex_ray.testing.provider_simulator import Fault, Prompt, ProviderSimulator

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


def answer_signature(prompt: Prompt) -> str:
    """What DSPy's ChatAdapter asks for: a field marker before each output."""
    if "[[ ## answer ## ]]" in prompt.text:
        return "[[ ## answer ## ]]\nParis\n\n[[ ## completed ## ]]"
    return "Paris"


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator(answer_signature) as simulator:
        yield simulator


@pytest.fixture
def client(sim: ProviderSimulator) -> Iterator[OpenAI]:
    with OpenAI(base_url=sim.url, api_key="sk-test", max_retries=0) as opened:
        yield opened


def test_the_openai_sdk_reads_its_answers(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="m", messages=HELLO, n=2)
    assert [choice.message.content for choice in answer.choices] == ["Paris", "Paris"]
    assert answer.usage is not None
    assert answer.usage.model_dump(include={"prompt_tokens", "completion_tokens"}) == {
        "prompt_tokens": 1,
        "completion_tokens": 2,
    }
    stream = client.chat.completions.create(
        model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Paris"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 2
    assert [m.id for m in client.models.list()] == ["simulated"]


def test_a_script_is_used_up_before_the_standing_fault(
    sim: ProviderSimulator, client: OpenAI
) -> None:
    sim.script([Fault.RATE_LIMIT, None])
    sim.always(Fault.RATE_LIMIT)
    for good in (False, True, False):
        if good:
            client.chat.completions.create(model="m", messages=HELLO)
            continue
        with pytest.raises(RateLimitError) as limited:
            client.chat.completions.create(model="m", messages=HELLO)
        assert limited.value.response.headers["retry-after"] == "1"
    assert sim.served == len(sim.requests) == 3
    assert sim.requests[0].headers["authorization"] == "Bearer sk-test"
    assert sim.requests[0].body == {"messages": HELLO, "model": "m"}


@pytest.mark.parametrize("adapter", ["ChatAdapter", "JSONAdapter"])
def test_dspy_adapters_read_its_answers(adapter: str) -> None:
    import dspy

    scripted = answer_signature if adapter == "ChatAdapter" else (lambda _: '{"answer": "Paris"}')
    with ProviderSimulator(scripted) as sim:
        lm = dspy.LM("openai/m", api_base=sim.url, api_key="sk-test", cache=False)
        with dspy.context(lm=lm, adapter=getattr(dspy, adapter)()):
            assert dspy.Predict("question -> answer")(question="Capital?").answer == "Paris"


def test_it_runs_as_a_process() -> None:
    command = [sys.executable, "-m", "dspex_ray.testing.provider_simulator", "--fault", "hang"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            with urllib.request.urlopen(f"{url}/models", timeout=5) as reply:
                assert reply.status == 200
        finally:
            process.terminate()
