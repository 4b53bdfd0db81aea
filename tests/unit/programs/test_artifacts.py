from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.errors import Invalid
from dspex_ray.programs.artifacts import artifact_hash, artifact_payload, load_artifact
from dspex_ray.programs.model import (
    AdapterName,
    Artifact,
    GenerationConfig,
    ImportArtifact,
    ModulesArtifact,
    ModuleSpec,
    ModuleType,
)
from dspex_ray.programs.signature import parse_signature

SIGNATURE = parse_signature("a: any -> b: any")
_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=6,
)


def artifact_with(demo: Any, **fields: Any) -> ModulesArtifact:
    module = ModuleSpec(
        type=ModuleType.PREDICT,
        signature=SIGNATURE,
        config=GenerationConfig(temperature=0.25, stop=("x",)),
        demos=({"a": demo},),
    )
    return ModulesArtifact(
        signature=SIGNATURE, modules={"m": module}, outputs={"b": "m.b"}, **fields
    )


def imported_with(state: Any) -> ImportArtifact:
    return ImportArtifact(
        path="a.b:C",
        signature=SIGNATURE,
        source_sha256="1" * 64,
        structure_hash="2" * 64,
        kwargs={"x": state},
        state={"m": {"demos": [{"a": state}]}},
        predictor_configs={"m": {"temperature": 0.5}},
        adapter=AdapterName.JSON,
    )


@given(_json.map(artifact_with) | _json.map(imported_with))
def test_round_trip_is_lossless(artifact: Artifact) -> None:
    payload = json.loads(json.dumps(artifact_payload(artifact)))
    loaded = load_artifact(payload, artifact_hash(artifact))
    assert loaded == artifact
    assert artifact_payload(loaded) == payload
    assert artifact_hash(loaded) == artifact_hash(artifact)


def test_the_hash_tells_content_apart_and_nothing_else() -> None:
    one, other = artifact_with({"p": 1, "q": 2}), artifact_with({"q": 2, "p": 1})
    assert artifact_hash(one) == artifact_hash(other)
    assert artifact_hash(one) != artifact_hash(artifact_with({"p": 1, "q": 3}))
    assert len(artifact_hash(one)) == 64


def test_hashes_from_before_models_could_be_pinned_hold() -> None:
    assert (
        artifact_hash(artifact_with("x"))
        == "ce6e33cef32fc8f73a953396a4b42ae58902f9a62b1e83b83f121edf8773c4e7"
    )
    assert (
        artifact_hash(imported_with("x"))
        == "79152829966823caac04a34efb5cb67ca5954799ba544364d61953a08020fe79"
    )
    for bare in (artifact_with("x"), imported_with("x")):
        assert "models" not in artifact_payload(bare)


def test_pinned_models_are_content() -> None:
    one = artifact_with("x", models={"": "small", "m": "large"})
    assert artifact_payload(one)["models"] == {"": "small", "m": "large"}
    assert load_artifact(artifact_payload(one), artifact_hash(one)) == one
    other = artifact_with("x", models={"": "small", "m": "other"})
    assert len({artifact_hash(a) for a in (one, other, artifact_with("x"))}) == 3
    with pytest.raises(Invalid, match=r"must be 1 to 100 of") as caught:
        load_artifact({**artifact_payload(one), "models": {"m": "no/name"}})
    assert caught.value.field == "modules.models.m"


def test_what_jsonb_changes_does_not_change_the_hash() -> None:
    """jsonb gives 1e16 back as an integer and -0.0 as 0.0, and sorts keys its own way."""
    payload = artifact_payload(artifact_with({"bb": 1e16, "a": -0.0, "c": [1e-7, 1.0]}))
    stored = json.loads(json.dumps(payload))
    stored["modules"]["m"]["demos"][0]["a"] = {"a": 0.0, "c": [0.0000001, 1.0], "bb": 10**16}
    expected = artifact_hash(artifact_with({"bb": 1e16, "a": -0.0, "c": [1e-7, 1.0]}))
    assert load_artifact(stored, expected) == artifact_with(
        {"bb": 1e16, "a": 0.0, "c": [1e-7, 1.0]}
    )


def test_changed_content_is_refused() -> None:
    artifact = artifact_with("x")
    payload = artifact_payload(artifact)
    payload["modules"]["m"]["demos"][0]["a"] = "y"
    with pytest.raises(
        Invalid, match=r"^The artifact's content hashes to \w{64}, not to \w{64}$"
    ) as e:
        load_artifact(payload, artifact_hash(artifact))
    assert (e.value.field, e.value.rule) == ("hash", "content hash")


@pytest.mark.parametrize("schema", [2, None, "1", True])
def test_unknown_schemas_are_refused(schema: Any) -> None:
    payload = {**artifact_payload(artifact_with("x")), "schema": schema}
    with pytest.raises(Invalid, match=r"is not known \(known: 1\)$") as caught:
        load_artifact(payload)
    assert (caught.value.field, caught.value.rule) == ("schema", "schema")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(Invalid) as caught:
        artifact_payload(artifact_with([value]))
    assert (caught.value.field, caught.value.rule) == ("artifact", "json")


def test_other_content_is_refused_by_field() -> None:
    payload = artifact_payload(artifact_with("x"))
    with pytest.raises(Invalid) as caught:
        load_artifact({**payload, "extra": 1})
    assert caught.value.field == "modules.extra"
    with pytest.raises(Invalid, match=r"^An artifact is a JSON object$"):
        load_artifact([payload])
