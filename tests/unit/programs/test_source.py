from __future__ import annotations

import itertools
from typing import Any

import pytest

from dspex_ray.core.errors import Invalid
from dspex_ray.programs.model import (
    AdapterName,
    FieldSpec,
    GenerationConfig,
    ModulesArtifact,
    ModuleSpec,
    ModuleType,
    ProgramSource,
)
from dspex_ray.programs.rules import levels, predictor_names
from dspex_ray.programs.signature import parse_signature
from dspex_ray.programs.source import RESERVED_MODULES, resolve_source

TWO: dict[str, Any] = {
    "draft": {"signature": "question, hint?: str -> draft"},
    "judge": {
        "type": "chain_of_thought",
        "signature": "question, draft -> answer, sure: bool",
        "inputs": {"draft": "draft.draft"},
    },
}


def resolve(**source: Any) -> ModulesArtifact:
    artifact = resolve_source(ProgramSource(**source), allowed_packages=())
    assert isinstance(artifact, ModulesArtifact)
    return artifact


def test_a_lone_module() -> None:
    artifact = resolve(
        module={
            "type": "predict",
            "signature": "text -> topic: Literal['a', 'b']",
            "instructions": "Name the topic.",
            "config": {"temperature": 0, "max_tokens": 8},
            "demos": [{"text": "x", "topic": "a"}, {"topic": "b"}],
        },
        adapter="minimal",
    )
    signature = parse_signature("text -> topic: Literal['a', 'b']", "Name the topic.")
    assert artifact == ModulesArtifact(
        signature=signature,
        modules={
            "main": ModuleSpec(
                type=ModuleType.PREDICT,
                signature=signature,
                config=GenerationConfig(temperature=0, max_tokens=8),
                demos=({"text": "x", "topic": "a"}, {"topic": "b"}),
            )
        },
        outputs={"topic": "main.topic"},
        adapter=AdapterName.MINIMAL,
    )


def test_the_signature_of_a_lone_module_may_stand_beside_it() -> None:
    beside = resolve(module={"name": "topic"}, signature="text -> topic")
    inside = resolve(module={"name": "topic", "signature": "text -> topic"})
    assert beside == inside
    assert predictor_names(beside) == ("topic",)


def test_modules_and_what_is_derived_from_them() -> None:
    artifact = resolve(modules=TWO)
    assert artifact.signature == parse_signature("question, hint?: str -> answer, sure: bool")
    assert artifact.outputs == {"answer": "judge.answer", "sure": "judge.sure"}
    assert predictor_names(artifact) == ("draft", "judge.predict")


def test_outputs_can_be_renamed_and_taken_from_anywhere() -> None:
    artifact = resolve(
        modules=TWO, outputs={"first": "draft.draft", "why": "judge.reasoning", "ok": "judge.sure"}
    )
    assert artifact.signature.outputs == (
        FieldSpec(name="first"),
        FieldSpec(name="why"),
        FieldSpec(name="ok", type="bool"),
    )


def test_a_given_signature_describes_the_program() -> None:
    given = "question 'what to ask', hint?: str -> sure: bool, answer"
    assert resolve(modules=TWO, signature=given).signature == parse_signature(given)


def test_an_input_is_required_when_one_module_requires_it() -> None:
    modules = {"a": {"signature": "x?: str -> y"}, "b": {"signature": "x -> z"}}
    assert resolve(modules=modules).signature.inputs == (FieldSpec(name="x"),)


def without(module: str, **changes: Any) -> dict[str, Any]:
    return {**TWO, module: {**TWO[module], **changes}}


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({}, "module", "exactly one"),
    ({"modules": TWO, "import_path": "a:B"}, "import_path", "exactly one"),
    ({"modules": TWO, "kwargs": {"a": 1}}, "kwargs", "unused"),
    ({"modules": TWO, "state": {"a": 1}}, "state", "unused"),
    ({"import_path": "a:B", "outputs": {"a": "b.c"}}, "outputs", "unused"),
    ({"module": {"type": "predict"}}, "module.signature", "required"),
    ({"module": {"signature": "a -> b", "typo": 1}}, "module.typo", "unknown key"),
    ({"modules": without("draft", type="react")}, "modules.draft.type", "module type"),
    ({"modules": without("draft", signature="x")}, "modules.draft.signature", "signature"),
    ({"modules": without("draft", signature="x: foo -> y")}, "modules.draft.signature.x", "type"),
    ({"modules": {"Draft": TWO["draft"]}}, "modules", "name"),
    ({"modules": {"forward": TWO["draft"]}}, "modules", "name"),
    (
        {"modules": without("judge", inputs={"draft": "nobody.x"})},
        "modules.judge.inputs.draft",
        "unknown module",
    ),
    (
        {"modules": without("judge", inputs={"draft": "draft.x"})},
        "modules.judge.inputs.draft",
        "unknown field",
    ),
    (
        {"modules": without("judge", inputs={"draft": "draft"})},
        "modules.judge.inputs.draft",
        "unknown field",
    ),
    (
        {"modules": without("judge", inputs={"x": "draft.draft"})},
        "modules.judge.inputs.x",
        "unknown field",
    ),
    ({"modules": without("judge", inputs=["draft"])}, "modules.judge.inputs", "type"),
    (
        {"modules": without("draft", config={"temperature": 9})},
        "modules.draft.config.temperature",
        "less_than_equal",
    ),
    (
        {"modules": without("draft", config={"typo": 9})},
        "modules.draft.config.typo",
        "extra_forbidden",
    ),
    ({"modules": without("draft", demos={"a": 1})}, "modules.draft.demos", "type"),
    ({"modules": without("draft", demos=[{}])}, "modules.draft.demos[0]", "type"),
    (
        {"modules": without("draft", demos=[{"topic": 1}])},
        "modules.draft.demos[0].topic",
        "unknown",
    ),
    (
        {"modules": without("judge", demos=[{"sure": "maybe"}])},
        "modules.judge.demos[0].sure",
        "bool_parsing",
    ),
    (
        {"modules": without("draft", demos=[{"draft": "\x00"}])},
        "artifact.modules.draft.demos[0].draft",
        "no null bytes",
    ),
    (
        {"modules": without("judge", signature="question -> reasoning")},
        "modules.judge.signature.reasoning",
        "unique",
    ),
    ({"modules": TWO, "outputs": {"a": "judge.nope"}}, "outputs.a", "unknown field"),
    ({"modules": TWO, "outputs": {"json": "judge.answer"}}, "outputs.json", "name"),
    ({"modules": TWO, "outputs": {"question": "judge.answer"}}, "question", "unique"),
    ({"modules": TWO, "signature": "question -> answer, sure: bool"}, "signature.hint", "inputs"),
    (
        {"modules": TWO, "signature": "question, hint, x -> answer, sure: bool"},
        "signature.x",
        "inputs",
    ),
    ({"modules": TWO, "signature": "question, hint -> answer"}, "signature.sure", "outputs"),
    ({"modules": TWO, "signature": "?"}, "signature", "signature"),
    (
        {"modules": {"a": {"signature": "x -> y"}, "b": {"signature": "x -> y"}}},
        "outputs",
        "ambiguous",
    ),
    (
        {"modules": {"a": {"signature": "x -> y"}, "b": {"signature": "x: int -> z"}}},
        "modules.b.signature.x",
        "one type",
    ),
]


@pytest.mark.parametrize(("source", "field", "rule"), BAD)
def test_errors_name_field_and_rule(source: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(Invalid) as caught:
        resolve(**source)
    assert (caught.value.field, caught.value.rule) == (field, rule)


def test_a_cycle_is_shown() -> None:
    modules = {
        "a": {"signature": "x -> y", "inputs": {"x": "c.z"}},
        "b": {"signature": "y -> w", "inputs": {"y": "a.y"}},
        "c": {"signature": "w, start -> z", "inputs": {"w": "b.w"}},
    }
    with pytest.raises(Invalid, match=r"^The modules form a cycle: ") as caught:
        resolve(modules=modules)
    assert caught.value.rule == "cycle"
    shown = str(caught.value).split(": ")[1].split(" -> ")
    assert shown[0] == shown[-1]
    feeds = {("a", "b"), ("b", "c"), ("c", "a")}
    assert set(itertools.pairwise(shown)) == feeds


def test_a_module_that_feeds_itself_is_a_cycle() -> None:
    with pytest.raises(Invalid, match=r"^The modules form a cycle: a -> a$"):
        resolve(modules={"a": {"signature": "x -> y", "inputs": {"x": "a.y"}}})


def test_levels() -> None:
    bindings = {
        "d": {"x": "b.y", "z": "c.y"},
        "c": {"x": "a.y"},
        "b": {"x": "a.y"},
        "a": {},
        "e": {},
    }
    assert levels(bindings) == [["a", "e"], ["b", "c"], ["d"]]


def test_reserved_module_names_cover_dspy() -> None:
    import dspy

    module = dspy.Predict("a -> b")
    used = {name for name in dir(dspy.Module) if not name.startswith("_")}
    used |= {"callbacks", "history", "lm", "forward", "aforward"}
    assert used <= RESERVED_MODULES
    assert {"callbacks", "history", "lm"} <= vars(module).keys()


def test_models_are_pinned_by_module_or_predictor() -> None:
    written = {
        "draft": {**TWO["draft"], "model": "small"},
        "judge": TWO["judge"],
    }
    artifact = resolve(modules=written, models={"": "large", "judge.predict": "other"})
    assert artifact.models == {"": "large", "draft": "small", "judge.predict": "other"}
    assert resolve(modules=TWO, models={"judge": "other"}).models == {"judge.predict": "other"}
    same = resolve(modules=TWO, models={"": "small", "draft": "small"})
    assert same.models == {"": "small"}
    lone = {"name": "topic", "signature": "a -> b", "model": "small"}
    assert resolve(module=lone).models == {"topic": "small"}
    assert resolve(module={**lone, "model": None}).models == {}


PINS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown": ({"modules": TWO, "models": {"gone": "m"}}, "models.gone", "known predictor"),
    "twice": (
        {"modules": TWO, "models": {"judge": "m", "judge.predict": "m"}},
        "models.judge.predict",
        "unique",
    ),
    "in both places": (
        {"module": {"signature": "a -> b", "model": "m"}, "models": {"main": "m"}},
        "models.main",
        "unique",
    ),
    "no name": ({"module": {"signature": "a -> b", "model": "a/b"}}, "module.model", "name"),
    "no name of a module": (
        {"modules": {"one": {"signature": "a -> b", "model": ["m"]}}},
        "modules.one.model",
        "name",
    ),
}


@pytest.mark.parametrize("case", PINS)
def test_what_cannot_be_pinned_is_named(case: str) -> None:
    source, field, rule = PINS[case]
    with pytest.raises(Invalid) as caught:
        resolve(**source)
    assert (caught.value.field, caught.value.rule) == (field, rule)
