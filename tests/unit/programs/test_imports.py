from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dspex_ray.core.errors import Invalid
from dspex_ray.programs.build import build
from dspex_ray.programs.imports import import_class, source_sha256, structure_hash
from dspex_ray.programs.model import ImportArtifact, ProgramSource
from dspex_ray.programs.rules import predictor_names
from dspex_ray.programs.signature import parse_signature
from dspex_ray.programs.source import resolve_source
from dspex_ray.testing.fake_lm import fake_lm
from dspex_ray.testing.sample_programs import Topic, TwoSteps

SAMPLES = "dspex_ray.testing.sample_programs"
ALLOWED = ("dspex_ray.testing", "dspy")


def resolve(path: str, **source: Any) -> ImportArtifact:
    artifact = resolve_source(ProgramSource(import_path=path, **source), allowed_packages=ALLOWED)
    assert isinstance(artifact, ImportArtifact)
    return artifact


def test_a_class_is_pinned_and_its_signature_derived() -> None:
    artifact = resolve(f"{SAMPLES}:TwoSteps", kwargs={"tone": "warm"})
    assert artifact.signature == parse_signature(
        "question, hint?: str | None -> answer, sure: bool"
    )
    assert artifact.source_sha256 == source_sha256(TwoSteps)
    assert predictor_names(artifact) == ("draft", "judge.predict")
    assert artifact.predictor_configs == {"draft": {"temperature": 0.3}, "judge.predict": {}}
    assert artifact.state.keys() == {"draft", "judge.predict"}


def test_types_and_defaults_come_from_forward() -> None:
    artifact = resolve(f"{SAMPLES}:Topic")
    assert artifact.signature == parse_signature(
        "text, k?: int = 3, style?: Literal['short', 'long'] = 'short' -> topic"
    )


def test_a_bare_predictor_gives_its_own_signature() -> None:
    artifact = resolve("dspy:ChainOfThought", kwargs={"signature": "text -> topic: probability"})
    assert artifact.signature == parse_signature("text -> topic: float")


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("os:path", "allowed packages"),
        ("dspyx.y:Z", "allowed packages"),
        ("dspex_ray.core.ids:new_id", "allowed packages"),
        ("dspex_ray.testing..x:Y", "importable"),
        ("dspex_ray.testing.nothing:Y", "importable"),
        (f"{SAMPLES}:Nothing", "importable"),
        (f"{SAMPLES}:NotAProgram", "dspy.Module"),
        (f"{SAMPLES}:dspy", "dspy.Module"),
        (f"{SAMPLES}:__name__", "dspy.Module"),
        (SAMPLES, "import path"),
        ("a b:C", "import path"),
        ("dspy:RLM", "no code"),
        ("dspy:CodeAct", "no code"),
    ],
)
def test_refused_paths(path: str, rule: str) -> None:
    with pytest.raises(Invalid) as caught:
        resolve(path)
    assert (caught.value.field, caught.value.rule) == ("import_path", rule)


def test_outside_the_allowed_packages_nothing_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "intruder.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Invalid, match=r"^Package of `intruder` is not allowed \(allowed: dspy\)$"):
        import_class("intruder:Program", ["dspy"])


def test_re_exported_classes_count_where_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "facade.py").write_text(f"from {SAMPLES} import Topic")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Invalid, match=rf"^Package of `{SAMPLES}` is not allowed"):
        import_class("facade:Topic", ["facade"])


def test_arguments_that_the_class_refuses() -> None:
    with pytest.raises(Invalid, match=r"^TwoSteps\(nope\) cannot be made: TypeError: ") as caught:
        resolve(f"{SAMPLES}:TwoSteps", kwargs={"nope": 1})
    assert (caught.value.field, caught.value.rule) == ("kwargs", "constructible")


def test_types_in_text_signatures_never_reach_dspys_parser() -> None:
    """It would import a module of the name that stands for the type."""
    with pytest.raises(Invalid, match=r"^Invalid type: `antigravity` is unknown"):
        resolve("dspy:Predict", kwargs={"signature": "a: antigravity -> b"})


def optimised() -> dict[str, Any]:
    program = TwoSteps()
    program.draft.demos = [{"question": "q", "draft": "d"}]
    program.draft.lm = fake_lm([])
    program.draft.lm.dump_state = lambda: {"model": "fake/model", "api_base": "http://10.0.0.1"}
    program.judge.predict.signature = program.judge.predict.signature.with_instructions(
        "Be strict."
    )
    state: dict[str, Any] = program.dump_state()
    return {**state, "metadata": {"dependency_versions": {}}}


def test_a_given_state_is_kept_without_its_lm() -> None:
    artifact = resolve(f"{SAMPLES}:TwoSteps", state=optimised())
    assert artifact.state["draft"]["demos"] == [{"question": "q", "draft": "d"}]
    assert artifact.state["draft"]["lm"] is None
    module = build(artifact, allowed_packages=ALLOWED)
    assert module.draft.demos == [{"question": "q", "draft": "d"}]
    assert module.draft.lm is None
    assert module.draft.config == {"temperature": 0.3}
    assert module.judge.predict.signature.instructions == "Be strict."


def broken(path: str, **changes: Any) -> dict[str, Any]:
    state = optimised()
    return {**state, path: {**state[path], **changes}}


@pytest.mark.parametrize(
    ("state", "field", "rule"),
    [
        ({}, "state.draft", "structure"),
        ({"draft": optimised()["draft"]}, "state.judge.predict", "structure"),
        ({**optimised(), "other": {}}, "state.other", "structure"),
        ({**optimised(), "draft": 3}, "state.draft", "type"),
        (broken("draft", forward="x"), "state.draft.forward", "structure"),
        (
            broken("draft", signature=optimised()["judge.predict"]["signature"]),
            "state.draft",
            "structure",
        ),
        (broken("draft", signature={"fields": [{}, {}]}), "state", "loadable"),
    ],
)
def test_states_that_do_not_fit(state: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(Invalid) as caught:
        resolve(f"{SAMPLES}:TwoSteps", state=state)
    assert (caught.value.field, caught.value.rule) == (field, rule)


def test_another_source_is_refused_with_both_hashes() -> None:
    artifact = resolve(f"{SAMPLES}:Topic").model_copy(update={"source_sha256": "0" * 64})
    installed = source_sha256(Topic)
    with pytest.raises(Invalid) as caught:
        build(artifact, allowed_packages=ALLOWED)
    assert str(caught.value) == (
        f"The source of {SAMPLES}:Topic hashes to {installed} here, the version wants {'0' * 64}"
    )
    assert caught.value.rule == "source hash"


def test_another_structure_is_refused_before_state_is_loaded() -> None:
    artifact = resolve(f"{SAMPLES}:Topic").model_copy(
        update={"structure_hash": "0" * 64, "state": {}}
    )
    with pytest.raises(Invalid, match="The structure of") as caught:
        build(artifact, allowed_packages=ALLOWED)
    assert caught.value.rule == "structure hash"


def test_a_package_that_is_no_longer_allowed_is_refused() -> None:
    with pytest.raises(Invalid, match="is not allowed"):
        build(resolve(f"{SAMPLES}:Topic"), allowed_packages=("dspy",))


def test_the_structure_is_paths_names_and_types() -> None:
    import dspy

    def of(**predictors: str) -> str:
        module = dspy.Module()
        for name, signature in predictors.items():
            setattr(module, name, dspy.Predict(signature))
        return structure_hash(module)

    assert of(a="x -> y") == of(a="x: str -> y")
    others = [of(b="x -> y"), of(a="x -> z"), of(a="x: int -> y"), of(a="x -> y", b="x -> y")]
    assert len({of(a="x -> y"), *others}) == 5


OWN_TYPES = """
from enum import Enum
from typing import Optional
import dspy
from pydantic import BaseModel

class Place(BaseModel):
    name: str

class Mood(Enum):
    GOOD = "good"

class Sig(dspy.Signature):
    place: Place = dspy.InputField(desc="where")
    others: Optional[list[Mood]] = dspy.InputField()
    tag: str = dspy.InputField()
    mood: Mood = dspy.OutputField()

class Program(dspy.Module):
    def __init__(self, config=None):
        super().__init__()
        self.step = dspy.Predict(Sig, **(config and {"stop": {config}} or {}))

    def forward(self, place, tag, *, others=None, later: "Nowhere" = None):
        return self.step(place=place, others=others, tag=tag)

class Opaque(Program):
    def forward(self, **given):
        return self.step(**given)

class Blind(Opaque):
    def __init__(self):
        super().__init__()
        self.again = dspy.Predict(Sig)

class Empty(dspy.Module):
    def forward(self, question):
        return dspy.Prediction(question=question)
"""


@pytest.fixture
def own_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_types.py").write_text(OWN_TYPES)
    monkeypatch.syspath_prepend(tmp_path)


def resolve_own(name: str, **source: Any) -> ImportArtifact:
    written = ProgramSource(import_path=f"own_types:{name}", **source)
    artifact = resolve_source(written, allowed_packages=["own_types"])
    assert isinstance(artifact, ImportArtifact)
    return artifact


@pytest.mark.usefixtures("own_types")
def test_types_of_the_users_own_are_any_to_us_but_count_in_the_structure() -> None:
    artifact = resolve_own("Program")
    assert artifact.signature == parse_signature(
        "place: any, tag, others?: list[any] | None, later?: any -> mood: any"
    )
    assert artifact.structure_hash == resolve_own("Program").structure_hash
    module = build(artifact, allowed_packages=["own_types"])
    module.step.signature = module.step.signature.with_updated_fields("mood", type_=str)
    assert structure_hash(module) != artifact.structure_hash


@pytest.mark.usefixtures("own_types")
def test_a_lone_predictor_tells_the_inputs_that_forward_does_not() -> None:
    assert resolve_own("Opaque").signature == parse_signature(
        "place: any 'where', others?: list[any] | None, tag -> mood: any"
    )
    with pytest.raises(Invalid, match=r"^The inputs cannot be told from `forward`") as caught:
        resolve_own("Blind")
    assert (caught.value.field, caught.value.rule) == ("signature", "required")
    assert resolve_own("Blind", signature="tag -> mood").signature == parse_signature("tag -> mood")


@pytest.mark.usefixtures("own_types")
def test_programs_without_predictors_or_with_configs_beyond_json() -> None:
    with pytest.raises(Invalid, match=r"^own_types:Empty has no predictors$"):
        resolve_own("Empty")
    with pytest.raises(Invalid, match=r"^The config of predictor `step` is not JSON$"):
        resolve_own("Program", kwargs={"config": "x"})
