"""What may be changed about a program: by default, as declared, and refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dspex_ray.core.errors import Invalid
from dspex_ray.programs.artifacts import artifact_hash, artifact_payload, load_artifact
from dspex_ray.programs.configure import apply_configuration, read_configuration
from dspex_ray.programs.model import Artifact, ModulesArtifact, NewProgram, ProgramSource
from dspex_ray.programs.source import resolve_source
from dspex_ray.programs.space import default_space, space_of
from dspex_ray.variables.declare import variable
from dspex_ray.variables.domains import (
    ChoiceVariable,
    FloatVariable,
    IntegerVariable,
    ModuleVariable,
)
from dspex_ray.variables.ml import no_hot_narrow_sampling
from dspex_ray.variables.model import Space
from dspex_ray.variables.rules import check, defaults
from dspex_ray.variables.sampling import latin_hypercube

SAMPLES = "dspex_ray.testing.sample_programs"
ONE: dict[str, Any] = {
    "module": {
        "signature": "text, k: int = 3, strict: bool = True, share: probability = 0.5, "
        "tone: Literal['dry', 'warm'] = 'dry', maybe?: bool -> topic",
        "config": {"temperature": 0, "max_tokens": 20},
    },
    "adapter": "minimal",
}
TWO: dict[str, Any] = {
    "modules": {
        "draft": {"signature": "question -> draft"},
        "judge": {
            "type": "chain_of_thought",
            "signature": "question, draft -> answer",
            "inputs": {"draft": "draft.draft"},
        },
    }
}


def resolve(**source: Any) -> Artifact:
    return resolve_source(ProgramSource(**source), allowed_packages=(SAMPLES,))


def test_the_default_space_holds_what_the_program_is_now() -> None:
    space = default_space(resolve(**ONE))
    variables = dict(space.variables)
    adapter, module = variables.pop("adapter"), variables.pop("module")
    limit = variables.pop("max_tokens")
    assert isinstance(adapter, ModuleVariable)
    assert (adapter.choices, adapter.default) == (("chat", "json", "minimal"), "minimal")
    assert isinstance(module, ModuleVariable)
    assert (module.choices, module.default) == (("predict", "chain_of_thought"), "predict")
    assert isinstance(limit, IntegerVariable)
    assert (limit.low, limit.high, limit.default) == (20, 4000, 20)
    assert variables == {
        "temperature": FloatVariable(low=0, high=2, default=0),
        "inputs.strict": ChoiceVariable(choices=(False, True), default=True),
        "inputs.share": FloatVariable(low=0, high=1, default=0.5),
        "inputs.tone": ChoiceVariable(choices=("dry", "warm"), default="dry"),
    }


def test_the_default_space_starts_where_the_program_is() -> None:
    artifact = resolve(**ONE)
    start = defaults(default_space(artifact))
    assert artifact_hash(apply_configuration(artifact, start)) == artifact_hash(artifact)
    assert read_configuration(artifact, list(start)) == start


def test_several_modules_have_a_type_each_and_models_are_a_variable_when_named() -> None:
    space = default_space(resolve(**TWO), models=("small", "large"))
    assert set(space.variables) == {
        "adapter",
        "temperature",
        "max_tokens",
        "draft.module",
        "judge.module",
        "model",
    }


def test_the_pinned_model_is_a_choice_and_the_default() -> None:
    space = default_space(resolve(**TWO, models={"": "mine"}), models=("small", "large"))
    model = space.variables["model"]
    assert isinstance(model, ChoiceVariable)
    assert (model.choices, model.default) == (("small", "large", "mine"), "mine")


def test_a_module_whose_reasoning_is_used_keeps_its_type() -> None:
    artifact = resolve(**TWO, outputs={"answer": "judge.answer", "why": "judge.reasoning"})
    assert "judge.module" not in default_space(artifact).variables
    given = resolve(module={"signature": "question, reasoning -> answer"})
    assert "module" not in default_space(given).variables


def test_a_class_has_no_module_types() -> None:
    space = default_space(resolve(import_path=f"{SAMPLES}:TwoSteps"))
    assert set(space.variables) == {"adapter", "temperature", "max_tokens"}


@pytest.mark.parametrize("source", [ONE, TWO, {"import_path": f"{SAMPLES}:Topic"}])
def test_every_sample_of_a_default_space_can_be_applied(source: dict[str, Any]) -> None:
    artifact = resolve(**source)
    space = default_space(artifact, models=("small", "large"))
    for configuration in latin_hypercube(space, 12, seed=3):
        applied = apply_configuration(artifact, configuration)
        assert applied.models == {"": configuration["model"]}
        assert read_configuration(applied, list(configuration)) == configuration


DECLARED = yaml.safe_load(
    """
    temperature: {float: [0, 1.8]}
    adapter: [chat, json]
    model: [small, large]
    draft.temperature: {float: [0, 1], when: {variable: adapter, op: ==, value: chat}}
    judge.module: [predict, chain_of_thought]
    judge.instructions: [short, long]
    """
)
RULES = [
    {
        "name": "small-is-cool",
        "rule": {
            "kind": "implies",
            "when": {"variable": "model", "op": "==", "value": "small"},
            "then": {"variable": "temperature", "op": "<=", "value": 1},
        },
    }
]


def test_declared_variables_are_part_of_the_artifact() -> None:
    artifact = resolve(**TWO, variables=DECLARED, constraints=RULES)
    space = space_of(artifact)
    assert space is artifact.space
    assert set(space.variables) == set(DECLARED)
    assert not check(
        space,
        {
            "temperature": 1.5,
            "adapter": "json",
            "model": "small",
            "judge.module": "predict",
            "judge.instructions": "short",
        },
    ).valid
    back = load_artifact(artifact_payload(artifact), artifact_hash(artifact))
    assert back.space == space
    assert artifact_hash(back) == artifact_hash(artifact)


def test_nouns_may_be_declared_as_well_and_survive_the_way() -> None:
    new = NewProgram(
        name="p",
        source=ProgramSource(
            **ONE,
            variables={"temperature": variable("float", 0, 2), "top_p": variable("float", 0.1, 1)},
            constraints=(no_hot_narrow_sampling(),),
        ),
    )
    sent = NewProgram.model_validate_json(new.model_dump_json(exclude_unset=True))
    assert sent.source is not None
    space = resolve_source(sent.source, allowed_packages=()).space
    assert space is not None
    assert space.variables["temperature"] == FloatVariable(low=0, high=2)
    assert space.constraints == (no_hot_narrow_sampling(),)


def test_an_artifact_without_variables_and_models_is_what_it_always_was() -> None:
    """The hash was computed before artifacts could have any."""
    artifact = resolve(module={"signature": "question -> answer"})
    assert not {"space", "models"} & set(artifact_payload(artifact))
    assert not {"space", "models"} & set(artifact.model_dump())
    assert artifact_hash(artifact) == (
        "6bbe9d4635296a45056fac6ac3a68b950944173ee2dfa22bca12d046324a187d"
    )
    assert load_artifact(artifact_payload(artifact)) == artifact
    assert isinstance(artifact, ModulesArtifact)


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "nothing of the program": ({"creativity": {"float": [0, 1]}}, "creativity", "variable"),
    "no such module": ({"gone.temperature": None}, "gone.temperature", "variable"),
    "no such input": ({"inputs.gone": [1]}, "inputs.gone", "variable"),
    "an argument of no class": ({"kwargs.k": [1]}, "kwargs.k", "variable"),
    "an unknown adapter": ({"adapter": ["chat", "xml"]}, "adapter", "choice"),
    "an unknown module type": ({"judge.module": ["react"]}, "judge.module", "choice"),
    "too hot": ({"temperature": {"float": [0, 3]}}, "temperature", "less_than_equal"),
    "no tokens": ({"max_tokens": {"integer": [0, 9]}}, "max_tokens", "greater_than_equal"),
    "models by number": ({"model": [1, 2]}, "model", "type"),
    "whose instructions": ({"instructions": ["a"]}, "instructions", "variable"),
    "an impossible default": ({"inputs.question": [1]}, "inputs.question", "default"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_variable_that_cannot_be_applied_is_refused_when_it_is_declared(case: str) -> None:
    variables, field, rule = REFUSED[case]
    with pytest.raises(Invalid) as caught:
        resolve(**TWO, variables=variables)
    assert (caught.value.field, caught.value.rule) == (field, rule)


def test_a_type_that_would_break_a_binding_is_refused() -> None:
    with pytest.raises(Invalid, match="has no output `reasoning`"):
        resolve(
            **TWO,
            outputs={"answer": "judge.answer", "why": "judge.reasoning"},
            variables={"judge.module": ["chain_of_thought", "predict"]},
        )


def test_constraints_alone_have_no_meaning() -> None:
    with pytest.raises(Invalid) as caught:
        resolve(**TWO, constraints=RULES)
    assert (caught.value.field, caught.value.rule) == ("constraints", "unused")


def test_no_variables_is_no_space() -> None:
    assert resolve(**TWO, variables={}).space is None
    assert space_of(resolve(**TWO)) != Space()
