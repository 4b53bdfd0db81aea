from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dspex_ray.core.errors import Invalid
from dspex_ray.datasets.model import Example
from dspex_ray.optimization.edits import (
    predictors_of,
    with_demos,
    with_instructions,
    with_module_type,
)
from dspex_ray.optimization.student import (
    artifact_of,
    dspy_examples,
    instructions_in,
    shared_temperature,
    student_of,
)
from dspex_ray.programs.artifacts import artifact_hash, artifact_payload, load_artifact
from dspex_ray.programs.build import build
from dspex_ray.programs.model import Artifact, ModulesArtifact, ModuleType, ProgramSource
from dspex_ray.programs.source import resolve_source
from tests.unit.optimization.parts import SAMPLES, examples, program

PACKAGES = ("dspex_ray.testing",)
DEMO = {"text": "goal 1", "topic": "sports"}


def imported() -> Artifact:
    return resolve_source(
        ProgramSource(import_path=f"{SAMPLES}:TwoSteps"), allowed_packages=PACKAGES
    )


def pipeline() -> Artifact:
    modules = {
        "draft": {"signature": "question -> draft", "config": {"temperature": 0.7}},
        "judge": {
            "type": "chain_of_thought",
            "signature": "question, draft -> answer",
            "instructions": "Judge.",
            "inputs": {"draft": "draft.draft"},
        },
    }
    return resolve_source(ProgramSource(modules=modules), allowed_packages=())


def modules_of(artifact: Artifact) -> ModulesArtifact:
    assert isinstance(artifact, ModulesArtifact)
    return artifact


def test_predictors_go_by_dspys_names() -> None:
    found = predictors_of(pipeline(), allowed_packages=())
    assert [(p.name, p.inputs, p.outputs) for p in found] == [
        ("draft", ("question",), ("draft",)),
        ("judge.predict", ("question", "draft"), ("reasoning", "answer")),
    ]
    assert found[1].instructions == "Judge."
    assert [p.name for p in predictors_of(imported(), allowed_packages=PACKAGES)] == [
        "draft",
        "judge.predict",
    ]


@pytest.mark.parametrize("make", [pipeline, imported])
def test_edits_reach_the_module_and_leave_the_original_alone(make: object) -> None:
    origin = make()  # type: ignore[operator]
    before = artifact_hash(origin)
    edited = with_instructions(origin, "judge.predict", "Be strict.")
    edited = with_demos(edited, "judge.predict", [{"question": "q", "draft": "d", "answer": "a"}])
    module = build(edited, allowed_packages=PACKAGES)
    predictor = module.judge.predict
    assert predictor.signature.instructions == "Be strict."
    assert [dict(demo) for demo in predictor.demos] == [
        {"question": "q", "draft": "d", "answer": "a"}
    ]
    assert artifact_hash(origin) == before != artifact_hash(edited)
    assert edited.kind == origin.kind
    assert load_artifact(artifact_payload(edited)) == edited


def test_a_lone_predictors_instructions_are_the_programs() -> None:
    edited = modules_of(with_instructions(program(), "main", "Look twice."))
    assert edited.signature.instructions == "Look twice."
    assert edited.modules["main"].signature.instructions == "Look twice."


def test_demos_keep_their_fields_and_drop_what_does_not_fit() -> None:
    demos: list[dict[str, Any]] = [
        {**DEMO, "number": 3},
        {"text": "x", "topic": "weather"},
        {"number": 3},
        {"text": "only", "topic": None},
    ]
    edited = modules_of(with_demos(program(), "main", demos))
    assert edited.modules["main"].demos == (DEMO, {"text": "only"})


def test_module_types_change_and_change_back() -> None:
    thinking = modules_of(with_module_type(program(), ModuleType.CHAIN_OF_THOUGHT))
    assert thinking.modules["main"].type is ModuleType.CHAIN_OF_THOUGHT
    taught = with_demos(thinking, "main.predict", [{**DEMO, "reasoning": "a goal"}])
    assert modules_of(taught).modules["main"].demos == ({**DEMO, "reasoning": "a goal"},)
    plain = modules_of(with_module_type(taught, ModuleType.PREDICT))
    assert plain.modules["main"].demos == (DEMO,)
    assert with_module_type(imported(), ModuleType.PREDICT) == imported()


def test_reasoning_that_another_needs_stays() -> None:
    modules = {
        "think": {"type": "chain_of_thought", "signature": "question -> idea"},
        "say": {"signature": "why -> answer", "inputs": {"why": "think.reasoning"}},
    }
    artifact = resolve_source(ProgramSource(modules=modules), allowed_packages=())
    with pytest.raises(Invalid, match="'think' gives its reasoning to another"):
        with_module_type(artifact, ModuleType.PREDICT)


def test_unknown_predictors_are_named() -> None:
    with pytest.raises(Invalid, match="before a dot: main") as refused:
        with_demos(program(), "other", [])
    assert refused.value.field == "other.demos"


@pytest.mark.parametrize("make", [program, pipeline, imported])
def test_an_untouched_student_comes_back_as_it_was(make: object) -> None:
    origin = make()  # type: ignore[operator]
    loop = asyncio.new_event_loop()
    module = student_of(origin, allowed_packages=PACKAGES, loop=loop)
    loop.close()
    fresh = instructions_in(module)
    assert artifact_hash(artifact_of(module.deepcopy(), origin, fresh)) == artifact_hash(origin)


def test_a_shared_temperature_moves_from_the_predictors_and_back_into_the_artifact() -> None:
    origin = program(config={"temperature": 0.0, "max_tokens": 40})
    module = build(origin, allowed_packages=())
    fresh = instructions_in(module)
    assert shared_temperature(module) == 0.0
    assert module.predictors()[0].config == {"max_tokens": 40}
    assert artifact_of(module, origin, fresh) == origin
    assert shared_temperature(build(pipeline(), allowed_packages=())) is None
    assert shared_temperature(build(program(), allowed_packages=())) is None


def test_a_students_forward_takes_what_the_classs_own_does() -> None:
    loop = asyncio.new_event_loop()
    module = student_of(imported(), allowed_packages=PACKAGES, loop=loop)
    loop.close()
    row = Example(hash="a" * 64, values={"question": "why", "answer": "so"}, number=0)
    (found,) = dspy_examples(imported(), [row], module)
    assert dict(found.inputs().items()) == {"question": "why", "hint": None}
    assert found.labels().answer == "so"


def test_rows_that_the_signature_refuses_are_named_by_number() -> None:
    rows = [*examples(2), examples(1)[0].model_copy(update={"values": {"topic": "x"}, "number": 7})]
    module = build(program(), allowed_packages=())
    assert len(dspy_examples(program(), rows[:2], module)) == 2
    with pytest.raises(Invalid, match="example 7: Missing required inputs: text") as refused:
        dspy_examples(program(), rows, module)
    assert (refused.value.field, refused.value.rule) == ("examples[7].text", "required")
