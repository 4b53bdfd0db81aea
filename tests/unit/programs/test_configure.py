"""A configuration applied: another artifact that says what was asked, and nothing else changed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex_ray.core.errors import Invalid
from dspex_ray.programs.artifacts import artifact_hash
from dspex_ray.programs.build import build
from dspex_ray.programs.configure import Pool, apply_configuration, read_configuration
from dspex_ray.programs.model import (
    AdapterName,
    Artifact,
    GenerationConfig,
    ImportArtifact,
    ModulesArtifact,
    ModuleType,
    ProgramSource,
)
from dspex_ray.programs.source import resolve_source
from dspex_ray.variables.model import Configuration

SAMPLES = "dspex_ray.testing.sample_programs"
POOL = Pool(
    instructions={"short": "Be brief.", "long": "Say it all."},
    demos={"none": (), "one": ({"question": "q", "draft": "d"},)},
)


def resolve(**source: Any) -> Artifact:
    return resolve_source(ProgramSource(**source), allowed_packages=(SAMPLES,))


def two(**more: Any) -> ModulesArtifact:
    artifact = resolve(
        modules={
            "draft": {"signature": "question, k: int = 3 -> draft", "config": {"stop": ["."]}},
            "judge": {
                "type": "chain_of_thought",
                "signature": "question, draft -> answer",
                "inputs": {"draft": "draft.draft"},
                "demos": [{"answer": "a", "reasoning": "r"}, {"reasoning": "r"}],
            },
        },
        **more,
    )
    assert isinstance(artifact, ModulesArtifact)
    return artifact


def a_class() -> ImportArtifact:
    artifact = resolve(import_path=f"{SAMPLES}:TwoSteps", kwargs={"tone": "grave"})
    assert isinstance(artifact, ImportArtifact)
    return artifact


def modules_of(applied: Artifact) -> ModulesArtifact:
    assert isinstance(applied, ModulesArtifact)
    return applied


def test_all_predictors_and_one() -> None:
    before = two()
    after = modules_of(
        apply_configuration(
            before,
            {"draft.temperature": 0.1, "temperature": 0.9, "max_tokens": 64, "adapter": "json"},
        )
    )
    assert after.modules["draft"].config == GenerationConfig(
        temperature=0.1, max_tokens=64, stop=(".",)
    )
    assert after.modules["judge"].config == GenerationConfig(temperature=0.9, max_tokens=64)
    assert after.adapter is AdapterName.JSON
    assert before == two()


def test_no_configuration_changes_nothing() -> None:
    assert artifact_hash(apply_configuration(two(), {})) == artifact_hash(two())


def test_another_type_of_module_and_back() -> None:
    applied = apply_configuration(
        two(), {"judge.module": "predict", "draft.module": "chain_of_thought"}
    )
    modules = modules_of(applied).modules
    assert modules["judge"].type is ModuleType.PREDICT
    assert modules["judge"].demos == ({"answer": "a"},)  # it has no field `reasoning` any more
    assert modules["draft"].type is ModuleType.CHAIN_OF_THOUGHT
    names = [name for name, _ in build(applied, allowed_packages=()).named_predictors()]
    assert sorted(names) == ["draft.predict", "judge"]
    both = modules_of(apply_configuration(two(), {"module": "predict"}))
    assert {module.type for module in both.modules.values()} == {ModuleType.PREDICT}


def test_models_are_pinned_by_the_name_that_the_new_predictor_has() -> None:
    applied = apply_configuration(
        two(),
        {
            "model": "large",
            "draft.model": "small",
            "judge.predict.model": "other",
            "provider": "openai",
            "draft.module": "chain_of_thought",
        },
    )
    assert applied.models == {"": "large", "draft.predict": "small", "judge.predict": "other"}
    assert apply_configuration(applied, {"draft.module": "predict"}).models == {
        "": "large",
        "draft": "small",
        "judge.predict": "other",
    }
    assert apply_configuration(two(), {"model": None, "provider": "openai"}) == two()


def test_a_model_for_all_is_for_all_and_pins_that_say_the_same_are_one() -> None:
    pinned = apply_configuration(two(), {"draft.model": "small"})
    assert apply_configuration(pinned, {"model": "large"}).models == {"": "large"}
    same = apply_configuration(two(), {"model": "small", "draft.model": "small"})
    assert same.models == {"": "small"}
    assert apply_configuration(same, {"model": None}) == same
    assert read_configuration(pinned, ["model", "draft.model", "judge.model"]) == {
        "draft.model": "small"
    }
    assert read_configuration(same, ["model", "judge.model"]) == {
        "model": "small",
        "judge.model": "small",
    }


def test_instructions_and_demos_by_name() -> None:
    applied = apply_configuration(
        two(), {"judge.instructions": "short", "draft.demos": "one", "judge.demos": "none"}, POOL
    )
    modules = modules_of(applied).modules
    assert modules["judge"].signature.instructions == "Be brief."
    assert modules["judge"].demos == ()
    assert modules["draft"].demos == ({"question": "q", "draft": "d"},)
    kept = modules_of(apply_configuration(two(), {"judge.demos": None, "draft.instructions": None}))
    assert kept.modules["judge"].demos == two().modules["judge"].demos


def test_a_program_of_one_module_says_what_its_module_says() -> None:
    one = resolve(module={"signature": "question -> answer"})
    after = modules_of(apply_configuration(one, {"instructions": "long"}, POOL))
    assert (
        after.signature.instructions
        == after.modules["main"].signature.instructions
        == ("Say it all.")
    )
    assert artifact_hash(after) == artifact_hash(
        resolve(module={"signature": "question -> answer", "instructions": "Say it all."})
    )


def test_the_default_of_an_input() -> None:
    after = modules_of(apply_configuration(two(), {"inputs.k": 7}))
    for signature in (after.signature, after.modules["draft"].signature):
        assert {field.name: field.default for field in signature.inputs}["k"] == 7


def test_a_class_is_configured_in_its_state() -> None:
    applied = apply_configuration(
        a_class(),
        {
            "temperature": 0.5,
            "judge.predict.temperature": None,
            "judge.predict.instructions": "short",
            "draft.demos": "one",
            "kwargs.tone": "plain",
            "judge.predict.model": "large",
        },
        POOL,
    )
    module = build(applied, allowed_packages=(SAMPLES,))
    predictors = dict(module.named_predictors())
    assert predictors["draft"].config == {"temperature": 0.5}
    assert predictors["judge.predict"].config == {}
    assert predictors["judge.predict"].signature.instructions == "Be brief."
    assert [dict(demo) for demo in predictors["draft"].demos] == [{"question": "q", "draft": "d"}]
    assert module.tone == "plain"
    assert applied.models == {"judge.predict": "large"}


REFUSED: dict[str, tuple[Configuration, str, str]] = {
    "unknown": ({"tempreature": 1}, "tempreature", "variable"),
    "too hot": ({"draft.temperature": 2.5}, "draft.temperature", "less_than_equal"),
    "no number": ({"temperature": "hot"}, "temperature", "float_parsing"),
    "no adapter": ({"adapter": "xml"}, "adapter", "choice"),
    "no type": ({"judge.module": "react"}, "judge.module", "choice"),
    "not in the pool": ({"judge.instructions": "rude"}, "judge.instructions", "pool"),
    "a model that is not text": ({"model": 3}, "model", "type"),
    "a model that is no name": ({"judge.model": "a/b"}, "judge.model", "name"),
    "a default that does not fit": ({"inputs.k": "many"}, "inputs.k", "default"),
    "demos for another module": ({"judge.demos": "one"}, "modules.judge.demos[0]", "unknown"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_applied_is_named(case: str) -> None:
    configuration, field, rule = REFUSED[case]
    pool = Pool(demos={"one": ({"colour": "red"},)}) if "demos" in case else POOL
    with pytest.raises(Invalid) as caught:
        apply_configuration(two(), configuration, pool)
    assert str(caught.value.field).startswith(field)
    assert caught.value.rule == rule


def test_a_class_keeps_its_modules_and_arguments() -> None:
    for path in ("module", "draft.module", "kwargs.shade", "inputs.gone"):
        with pytest.raises(Invalid) as caught:
            apply_configuration(a_class(), {path: "predict"})
        assert (caught.value.field, caught.value.rule) == (path, "variable")


def configurations(names: tuple[str, ...], modules: bool) -> st.SearchStrategy[Configuration]:
    values: dict[str, st.SearchStrategy[Any]] = {}
    for prefix in ("", *(f"{name}." for name in names)):
        values[f"{prefix}temperature"] = st.floats(0, 2)
        values[f"{prefix}max_tokens"] = st.integers(1, 9999)
        values[f"{prefix}top_p"] = st.floats(0.01, 1)
        values[f"{prefix}seed"] = st.integers(0, 9)
        values[f"{prefix}model"] = st.sampled_from(["small", "large"])
        if modules:
            values[f"{prefix}module"] = st.sampled_from(["predict", "chain_of_thought"])
    for name in names:
        values[f"{name}.instructions"] = st.sampled_from(list(POOL.instructions))
        values[f"{name}.demos"] = st.just("none")
    values["adapter"] = st.sampled_from(["chat", "json", "minimal"])
    return st.fixed_dictionaries({}, optional=values)


@given(configurations(("draft", "judge"), modules=True))
def test_what_was_applied_is_read_back(configuration: Configuration) -> None:
    check_read_back(two(), configuration, ("draft", "judge"))


@settings(max_examples=40)
@given(configurations(("draft", "judge.predict"), modules=False))
def test_what_was_applied_to_a_class_is_read_back(configuration: Configuration) -> None:
    check_read_back(a_class(), configuration, ("draft", "judge.predict"))


def check_read_back(
    artifact: Artifact, configuration: Configuration, names: tuple[str, ...]
) -> None:
    applied = apply_configuration(artifact, configuration, POOL)
    seen = {
        path: value
        for path, value in configuration.items()
        # What every predictor says for itself cannot be seen of them all.
        if "." in path or not all(f"{name}.{path}" in configuration for name in names)
    }
    assert read_configuration(applied, list(configuration), POOL) == seen
    again = apply_configuration(applied, seen, POOL)
    assert artifact_hash(again) == artifact_hash(applied)
