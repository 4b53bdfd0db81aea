from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import dspy
import pytest

from dspex_ray.programs.adapters import adapter_for
from dspex_ray.programs.artifacts import artifact_hash, artifact_payload
from dspex_ray.programs.build import Pipeline, build
from dspex_ray.programs.model import AdapterName, Artifact, ModulesArtifact, ProgramSource
from dspex_ray.programs.rules import predictor_names
from dspex_ray.programs.source import resolve_source
from dspex_ray.testing.fake_lm import FakeEngine, chat_answer, fake_lm, last_input
from dspex_ray.testing.sample_programs import TwoSteps

ALLOWED = ("dspex_ray.testing",)
SOURCE: dict[str, Any] = {
    "modules": {
        "draft": {
            "signature": "question, facts: dict[str, any], hint?: str -> draft",
            "instructions": "Draft.",
            "config": {"temperature": 0.5, "stop": ["END"], "seed": 7},
            "demos": [
                {
                    "question": "ä?",
                    "facts": {"zz": 1e16, "b": [-0.0, 0.1], "a": None},
                    "draft": "é",
                },
            ],
        },
        "tone": {"signature": "question -> tone: Literal['warm', 'cold']"},
        "judge": {
            "type": "chain_of_thought",
            "signature": "draft, tone -> answer, sure: bool",
            "inputs": {"draft": "draft.draft", "tone": "tone.tone"},
            "demos": [
                {"draft": "d", "tone": "warm", "reasoning": "r", "answer": "a", "sure": True}
            ],
        },
    }
}
INPUTS = {"question": "Why?", "facts": {"x": 1}}
ANSWERS = [
    chat_answer(draft="a draft"),
    chat_answer(tone="cold"),
    chat_answer(reasoning="so", answer="Because.", sure="True"),
]

# Runs in another process: reads a payload, prints the requests that its prediction makes.
OTHER_PROCESS = """
import json, sys
import dspy
from dspy._vendor.lm15.serde import request_to_dict
from dspex_ray.programs.adapters import adapter_for
from dspex_ray.programs.artifacts import load_artifact
from dspex_ray.programs.build import build
from dspex_ray.testing.fake_lm import FakeEngine, fake_lm

given = json.load(sys.stdin)
artifact = load_artifact(given["payload"], given["hash"])
engine = FakeEngine(given["answers"])
module = build(artifact, allowed_packages=["dspex_ray.testing"])
with dspy.context(lm=fake_lm(engine), adapter=adapter_for(artifact.adapter)):
    module(**given["inputs"])
print(json.dumps([request_to_dict(request) for request in engine.requests]))
"""


def resolve(**source: Any) -> Artifact:
    return resolve_source(ProgramSource(**source), allowed_packages=ALLOWED)


def requests_here(artifact: Artifact, inputs: dict[str, Any], answers: list[Any]) -> list[Any]:
    from dspy._vendor.lm15.serde import request_to_dict

    engine = FakeEngine(answers)
    module = build(artifact, allowed_packages=ALLOWED)
    with dspy.context(lm=fake_lm(engine), adapter=adapter_for(artifact.adapter)):
        module(**inputs)
    return [request_to_dict(request) for request in engine.requests]


def requests_elsewhere(artifact: Artifact, inputs: dict[str, Any], answers: list[Any]) -> list[Any]:
    payload = json.loads(json.dumps(artifact_payload(artifact)))
    # The order in which jsonb gives keys back: the shortest first.
    payload = json.loads(
        json.dumps(payload),
        object_pairs_hook=lambda pairs: dict(
            sorted(pairs, key=lambda pair: (len(pair[0]), pair[0]))
        ),
    )
    given = {
        "payload": payload,
        "hash": artifact_hash(artifact),
        "answers": answers,
        "inputs": inputs,
    }
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
    )
    requests: list[Any] = json.loads(done.stdout)
    return requests


@pytest.mark.parametrize("adapter", [AdapterName.CHAT, AdapterName.MINIMAL])
def test_the_prompt_is_the_same_in_another_process(adapter: AdapterName) -> None:
    answers: list[Any] = ANSWERS
    if adapter is AdapterName.MINIMAL:
        answers = [
            {"draft": "d"},
            {"tone": "cold"},
            {"reasoning": "r", "answer": "a", "sure": True},
        ]
    artifact = resolve(**SOURCE, adapter=adapter)
    here = requests_here(artifact, INPUTS, answers)
    assert len(here) == 3
    assert json.dumps(here) == json.dumps(requests_elsewhere(artifact, INPUTS, answers))
    assert "é" in json.dumps(here, ensure_ascii=False)


def test_the_prompt_of_an_optimised_class_is_the_same_in_another_process() -> None:
    program = TwoSteps()
    program.draft.demos = [{"question": "q", "draft": "a former draft"}]
    program.judge.predict.signature = program.judge.predict.signature.with_instructions(
        "Be strict."
    )
    artifact = resolve(
        import_path="dspex_ray.testing.sample_programs:TwoSteps", state=program.dump_state()
    )
    answers = [ANSWERS[0], ANSWERS[2]]
    here = requests_here(artifact, {"question": "Why?"}, answers)
    assert json.dumps(here) == json.dumps(
        requests_elsewhere(artifact, {"question": "Why?"}, answers)
    )
    assert "a former draft" in json.dumps(here[0])
    assert "Be strict." in json.dumps(here[1])


def pipeline() -> Any:
    artifact = resolve(**SOURCE)
    assert isinstance(artifact, ModulesArtifact)
    module = build(artifact, allowed_packages=())
    assert isinstance(module, Pipeline)
    assert sorted(n for n, _ in module.named_predictors()) == sorted(predictor_names(artifact))
    return module


def by_fields(request: Any) -> str:
    """The answer to whichever module asks, told by the fields it was asked for."""
    wanted = last_input(request).split("Respond with")[1]
    return next(a for a in ANSWERS if a.split(" ## ]]")[0].removeprefix("[[ ## ") in wanted)


def test_modules_are_bound_and_configured() -> None:
    module, engine = pipeline(), FakeEngine(ANSWERS)
    assert all(predictor.lm is None for predictor in module.predictors())
    with dspy.context(lm=fake_lm(engine), adapter=adapter_for(AdapterName.CHAT)):
        prediction = module(**INPUTS)
    assert prediction.toDict() == {"answer": "Because.", "sure": True}
    drafted, _, judged = engine.requests
    assert (drafted.config.temperature, drafted.config.stop, drafted.config.seed) == (
        0.5,
        ("END",),
        7,
    )
    assert "hint" not in last_input(drafted)
    assert "a draft" in last_input(judged)
    assert "cold" in last_input(judged)


async def test_independent_modules_run_side_by_side() -> None:
    module, engine = pipeline(), FakeEngine(by_fields)
    barrier, level = asyncio.Barrier(2), iter([True, True, False])

    async def meet() -> None:
        if next(level):  # draft and tone meet here: one after the other would wait for ever
            await asyncio.wait_for(barrier.wait(), 5)

    engine.asynchronous.before = meet
    with dspy.context(lm=fake_lm(engine), adapter=adapter_for(AdapterName.CHAT)):
        prediction = await module.acall(**INPUTS)
    assert prediction.toDict() == {"answer": "Because.", "sure": True}


async def test_the_first_failure_ends_its_level_and_is_raised_as_itself() -> None:
    module, cancelled = pipeline(), asyncio.Event()

    def answer(request: Any) -> Any:
        return ValueError("broken") if "tone" in last_input(request) else ANSWERS[0]

    engine, turn = FakeEngine(answer), iter([True, False])

    async def wait() -> None:
        if next(turn):  # the draft, which comes first, waits until it is cancelled
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()

    engine.asynchronous.before = wait
    with (
        dspy.context(lm=fake_lm(engine), adapter=adapter_for(AdapterName.CHAT)),
        pytest.raises(dspy.LMError) as caught,
    ):
        await module.acall(**INPUTS)
    assert isinstance(caught.value.__cause__, ValueError)
    assert cancelled.is_set()
