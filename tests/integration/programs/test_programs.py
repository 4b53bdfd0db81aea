"""Programs through HTTP: how they are written, kept, labelled, carried elsewhere, and refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

import dspex_ray.testing.sample_programs
from tests.integration.conftest import a_model, a_program, ok, refused
from tests.integration.rows import Rows

pytestmark = pytest.mark.integration
SAMPLES = "dspex_ray.testing.sample_programs"
JSON = {"content-type": "application/json"}
DEMO = {"question": "2+2?", "answer": "4"}


def predict(signature: Any = "question -> answer", **more: Any) -> dict[str, Any]:
    return {"type": "predict", "signature": signature, **more}


async def created(api: httpx.AsyncClient, source: dict[str, Any], name: str = "p") -> Any:
    """The artifact of version 1 of a new program."""
    ok(await api.post("/v1/programs", json={"name": name, "source": source}), 201)
    return ok(await api.get(f"/v1/programs/{name}/versions/1"))["artifact"]


# --- writing one ---------------------------------------------------------------------------


async def test_a_program_from_a_signature_as_text(api: httpx.AsyncClient) -> None:
    text = 'question, k: int = 3, hint?: str "a hint" -> answer: Literal["a", "b"], tags: list[str]'
    artifact = await created(api, {"module": predict(text)})
    assert artifact["kind"] == "modules"
    fields = [
        (field["name"], field["type"], field["optional"], field["default"], field["description"])
        for side in ("inputs", "outputs")
        for field in artifact["signature"][side]
    ]
    assert fields == [
        ("question", "str", False, None, ""),
        ("k", "int", False, 3, ""),
        ("hint", "str", True, None, "a hint"),
        ("answer", "Literal['a', 'b']", False, None, ""),
        ("tags", "list[str]", False, None, ""),
    ]
    assert list(artifact["modules"]) == ["main"]


async def test_field_lists_and_text_give_the_same_version(api: httpx.AsyncClient) -> None:
    lists = {
        "inputs": [{"name": "question"}],
        "outputs": [{"name": "score", "type": "float"}],
        "instructions": "Judge.",
    }
    text = predict("question -> score: float", instructions="Judge.")
    assert await created(api, {"module": predict(lists)}) == await created(
        api, {"module": text}, "q"
    )


async def test_a_program_of_several_modules(api: httpx.AsyncClient) -> None:
    artifact = await created(
        api,
        {
            "modules": {
                "draft": predict("question -> draft"),
                "judge": {
                    "type": "chain_of_thought",
                    "signature": "draft -> answer: str, sure: bool",
                    "inputs": {"draft": "draft.draft"},
                    "config": {"temperature": 0.2},
                },
            }
        },
    )
    assert [field["name"] for field in artifact["signature"]["inputs"]] == ["question"]
    assert artifact["outputs"] == {"answer": "judge.answer", "sure": "judge.sure"}


async def test_a_program_from_an_import_path_pins_its_source(api: httpx.AsyncClient) -> None:
    source = {"import_path": f"{SAMPLES}:TwoSteps", "kwargs": {"tone": "grave"}}
    artifact = await created(api, source)
    file = Path(dspex_ray.testing.sample_programs.__file__)
    assert artifact["source_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert artifact["kwargs"] == {"tone": "grave"}
    assert sorted(artifact["predictor_configs"]) == ["draft", "judge.predict"]
    assert [field["name"] for field in artifact["signature"]["inputs"]] == ["question", "hint"]


CYCLE = {
    "one": predict("b -> a", inputs={"b": "two.b"}),
    "two": predict("a, question -> b", inputs={"a": "one.a"}),
}
BAD_SOURCES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "module", "exactly one"),
    ({"module": predict(), "import_path": "dspy:Predict"}, "import_path", "exactly one"),
    ({"module": predict(), "kwargs": {"a": 1}}, "kwargs", "unused"),
    ({"module": predict("question")}, "module.signature", "signature"),
    ({"module": predict("question -> ")}, "module.signature", "signature"),
    ({"module": predict("q: Banana -> a")}, "module.signature.q", "type"),
    ({"module": predict("q: __import__('os') -> a")}, "module.signature.q", "type"),
    ({"module": predict("Q -> a")}, "module.signature.Q", "name"),
    ({"module": predict("q, q -> a")}, "module.signature.q", "unique"),
    ({"module": predict("self -> a")}, "module.signature.self", "name"),
    ({"module": predict("näme -> a")}, "module.signature.näme", "name"),
    ({"module": {"type": "react", "signature": "q -> a"}}, "module.type", "module type"),
    ({"module": {"type": "predict"}}, "module.signature", "required"),
    ({"module": predict(colour="red")}, "module.colour", "unknown key"),
    (
        {"module": predict(config={"temperature": 9})},
        "module.config.temperature",
        "less_than_equal",
    ),
    ({"module": predict(demos=[{"nothing": 1}])}, "module.demos[0].nothing", "unknown"),
    ({"modules": CYCLE}, "modules", "cycle"),
    (
        {"modules": {"a": predict("q -> b", inputs={"q": "gone.b"})}},
        "modules.a.inputs.q",
        "unknown module",
    ),
    (
        {"modules": {"a": predict("q -> b"), "c": predict("q -> d", inputs={"q": "a.gone"})}},
        "modules.c.inputs.q",
        "unknown field",
    ),
    ({"modules": {"forward": predict()}}, "modules", "name"),
    ({"import_path": "os:system"}, "import_path", "allowed packages"),
    ({"import_path": "dspex_ray.testing:x"}, "import_path", "allowed packages"),
    ({"import_path": f"{SAMPLES}_evil:X"}, "import_path", "allowed packages"),
    ({"import_path": "no path"}, "import_path", "import path"),
    ({"import_path": f"{SAMPLES}:Nothing"}, "import_path", "importable"),
    ({"import_path": f"{SAMPLES}:NotAProgram"}, "import_path", "dspy.Module"),
    ({"import_path": "dspy:ProgramOfThought"}, "import_path", "no code"),
    ({"import_path": f"{SAMPLES}:TwoSteps", "kwargs": {"shade": 1}}, "kwargs", "constructible"),
    ({"module": predict(instructions="\ud800")}, "artifact", "json"),
]


async def test_what_is_no_program_is_refused_by_field_and_rule_and_nothing_is_written(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    ok(await api.post("/v1/programs", json=a_program("there")), 201)
    before = await rows.dump()
    for source, field, rule in BAD_SOURCES:
        for path, body in (
            ("/v1/programs", {"name": "new", "source": source}),
            ("/v1/programs/there/versions", {"source": source}),
        ):
            content = json.dumps(body)  # also what UTF-8 cannot hold
            answer = await api.post(path, content=content, headers=JSON)
            refused(answer, 422, field=field, rule=rule)
    assert await rows.dump() == before


async def test_pinned_models_are_those_of_the_project(
    api: httpx.AsyncClient, rows: Rows, stranger: httpx.AsyncClient
) -> None:
    ok(await stranger.post("/v1/models", json=a_model("theirs")), 201)
    ok(await api.post("/v1/programs", json=a_program("there")), 201)
    before = await rows.dump()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"module": predict(model="none")}, "models.main"),
        ({"module": predict(), "models": {"": "none"}}, "models"),
        ({"module": predict(), "models": {"": "theirs"}}, "models"),
        ({"import_path": f"{SAMPLES}:TwoSteps", "models": {"draft": "none"}}, "models.draft"),
    ]
    for source, field in cases:
        for path, body in (
            ("/v1/programs", {"name": "new", "source": source}),
            ("/v1/programs/there/versions", {"source": source}),
        ):
            refused(await api.post(path, json=body), 422, field=field, rule="known model")
    exported = ok(await api.get("/v1/programs/there/versions/1/export"))["artifact"]
    for models, rule in (({"": "none"}, "known model"), ({"x": "m"}, "known predictor")):
        answer = await api.post(
            "/v1/programs/there/versions", json={"artifact": {**exported, "models": models}}
        )
        refused(answer, 422, field="models.x" if "x" in models else "models", rule=rule)
    assert await rows.dump() == before


async def test_a_pinned_model_travels_with_the_artifact(api: httpx.AsyncClient) -> None:
    ok(await api.post("/v1/models", json=a_model("m")), 201)
    bare = await created(api, {"module": predict()})
    assert "models" not in bare
    pinned = await created(api, {"module": predict(model="m")}, "q")
    assert pinned == {**bare, "models": {"main": "m"}}
    exported = ok(await api.get("/v1/programs/q/versions/1/export"))
    again = ok(await api.post("/v1/programs/p/versions", json=exported), 201)
    assert (again["number"], again["hash"]) == (2, exported["hash"])
    assert again["artifact"] == pinned
    listed = ok(await api.get("/v1/programs/p/versions/2/space"))
    assert "model" not in listed["current"]  # the default space names no models


# --- versions ------------------------------------------------------------------------------


async def test_equal_content_is_the_same_version_and_changes_nothing(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    ok(await api.post("/v1/programs", json=a_program()), 201)
    before = await rows.dump()
    source = {"source": {"module": predict()}}
    again = ok(await api.post("/v1/programs/p/versions", json=source), 201)
    assert again["number"] == 1
    assert await rows.dump() == before
    other = {"source": {"module": predict("question -> reply")}}
    assert ok(await api.post("/v1/programs/p/versions", json=other), 201)["number"] == 2
    assert ok(await api.post("/v1/programs/p/versions", json=source), 201) == again
    assert ok(await api.get("/v1/programs/p"))["latest_version"] == 2
    newest = ok(await api.get("/v1/programs/p/versions?limit=1"))
    assert [version["number"] for version in newest["items"]] == [2]
    rest = await api.get("/v1/programs/p/versions", params={"cursor": newest["next_cursor"]})
    assert [version["number"] for version in ok(rest)["items"]] == [1]


async def test_a_version_is_a_source_or_an_artifact(api: httpx.AsyncClient, rows: Rows) -> None:
    ok(await api.post("/v1/programs", json=a_program()), 201)
    exported = ok(await api.get("/v1/programs/p/versions/1/export"))
    before = await rows.dump()
    both = {"source": {"module": predict()}, "artifact": exported["artifact"]}
    for body in ({}, both, {"hash": exported["hash"]}):
        answer = await api.post("/v1/programs/p/versions", json=body)
        refused(answer, 422, field="source", rule="exactly one")
    assert await rows.dump() == before


@pytest.mark.parametrize(
    "source",
    [
        {
            "module": predict(demos=[DEMO], instructions="Ünïcode, \u2028 and 1e16."),
            "adapter": "json",
        },
        {"import_path": f"{SAMPLES}:Topic"},
    ],
    ids=["modules", "import"],
)
async def test_what_is_exported_is_imported_with_the_same_hash(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient, source: dict[str, Any]
) -> None:
    """Also in another project, where nothing of it was known."""
    artifact = await created(api, source)
    exported = ok(await api.get("/v1/programs/p/versions/1/export"))
    assert exported["artifact"] == artifact
    ok(await stranger.post("/v1/programs", json={"name": "carried"}), 201)
    carried = ok(await stranger.post("/v1/programs/carried/versions", json=exported), 201)
    assert (carried["hash"], carried["artifact"]) == (exported["hash"], artifact)
    again = ok(await stranger.get("/v1/programs/carried/versions/1/export"))
    assert again == exported


async def test_an_artifact_that_is_not_what_its_hash_says_is_refused(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    ok(await api.post("/v1/programs", json=a_program()), 201)
    exported = ok(await api.get("/v1/programs/p/versions/1/export"))
    artifact, digest = exported["artifact"], exported["hash"]
    before = await rows.dump()
    changed = artifact | {"adapter": "json"}
    for body, field, rule in (
        ({"artifact": changed, "hash": digest}, "hash", "content hash"),
        ({"artifact": artifact, "hash": "0" * 64}, "hash", "content hash"),
        ({"artifact": artifact | {"schema": 2}}, "schema", "schema"),
        ({"artifact": artifact | {"colour": "red"}}, "modules.colour", "extra_forbidden"),
        ({"artifact": artifact | {"kind": "pickle"}}, "artifact", "union_tag_invalid"),
        ({"artifact": artifact | {"modules": {}}}, "modules.modules", "too_short"),
    ):
        refused(await api.post("/v1/programs/p/versions", json=body), 422, field=field, rule=rule)
    assert await rows.dump() == before


async def test_an_imported_class_of_another_source_is_refused(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    artifact = await created(api, {"import_path": f"{SAMPLES}:Topic"})
    before = await rows.dump()
    for change, rule in (
        ({"source_sha256": "0" * 64}, "source"),
        ({"structure_hash": "0" * 64}, "structure"),
        ({"path": "os:path"}, "allowed packages"),
    ):
        body = {"artifact": artifact | change}
        problem = refused(await api.post("/v1/programs/p/versions", json=body), 422)
        assert rule in str(problem["details"]["rule"])
    assert await rows.dump() == before


# --- labels --------------------------------------------------------------------------------


async def test_labels_move_and_every_move_is_an_event(api: httpx.AsyncClient) -> None:
    ok(await api.post("/v1/programs", json=a_program(labels=["production", "staging"])), 201)
    source = {"source": {"module": predict("question -> reply")}, "labels": ["staging"]}
    ok(await api.post("/v1/programs/p/versions", json=source), 201)
    moved = ok(await api.put("/v1/programs/p/labels/production", json={"version": 2}))
    assert moved["labels"] == {"production": 2, "staging": 2}
    ok(await api.put("/v1/programs/p/labels/production", json={"version": 1}))
    moves = ok(await api.get("/v1/programs/p/label-moves"))["items"]
    assert [(m["label"], m["from_version"], m["to_version"]) for m in reversed(moves)] == [
        ("production", None, 1),
        ("staging", None, 1),
        ("staging", 1, 2),
        ("production", 1, 2),
        ("production", 2, 1),
    ]
    assert all(move["actor"].startswith("key:dspex_") for move in moves)


async def test_a_label_that_is_there_already_is_no_move(api: httpx.AsyncClient, rows: Rows) -> None:
    ok(await api.post("/v1/programs", json=a_program(labels=["production"])), 201)
    before = await rows.dump()
    same = ok(await api.put("/v1/programs/p/labels/production", json={"version": 1}))
    assert same["labels"] == {"production": 1}
    assert await rows.dump() == before


async def test_labels_are_refused_without_their_version(api: httpx.AsyncClient, rows: Rows) -> None:
    ok(await api.post("/v1/programs", json=a_program()), 201)
    before = await rows.dump()
    refused(await api.put("/v1/programs/p/labels/best", json={"version": 2}), 404)
    answer = await api.put("/v1/programs/p/labels/b%20st", json={"version": 1})
    refused(answer, 422, field="label", rule="name")
    answer = await api.post("/v1/programs", json={"name": "q", "labels": ["best"]})
    refused(answer, 422, field="labels", rule="needs source")
    answer = await api.put("/v1/programs/p/labels/best", json={"version": 0})
    refused(answer, 422, field="version", rule="greater_than_equal")
    assert await rows.dump() == before


# --- the program itself --------------------------------------------------------------------


async def test_a_program_is_a_draft_until_it_has_a_version(api: httpx.AsyncClient) -> None:
    draft = ok(await api.post("/v1/programs", json={"name": "p"}), 201)
    assert (draft["status"], draft["latest_version"], draft["revision"]) == ("draft", None, 1)
    ok(await api.post("/v1/programs/p/versions", json={"source": {"module": predict()}}), 201)
    ready = ok(await api.get("/v1/programs/p"))
    assert (ready["status"], ready["latest_version"]) == ("ready", 1)
    assert [p["name"] for p in ok(await api.get("/v1/programs?status=draft"))["items"]] == []


async def test_an_archived_program_takes_nothing_more(api: httpx.AsyncClient, rows: Rows) -> None:
    ok(await api.post("/v1/programs", json=a_program()), 201)
    assert ok(await api.post("/v1/programs/p/archive"))["status"] == "archived"
    before = await rows.dump()
    refused(await api.post("/v1/programs/p/archive"), 409)
    source = {"source": {"module": predict("question -> reply")}}
    refused(await api.post("/v1/programs/p/versions", json=source), 409)
    whole = {"arms": [{"version": 1, "weight_bp": 10_000}]}
    refused(await api.put("/v1/programs/p/split", json=whole), 409)
    assert await rows.dump() == before
    assert ok(await api.get("/v1/programs/p/versions/1"))["number"] == 1


async def test_a_taken_name_is_refused_and_nothing_is_written(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    ok(await api.post("/v1/programs", json=a_program()), 201)
    before = await rows.dump()
    problem = refused(await api.post("/v1/programs", json=a_program(labels=["best"])), 409)
    assert problem["detail"] == "a program named 'p' exists"
    assert await rows.dump() == before


async def test_an_update_needs_the_newest_revision_when_it_names_one(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    answer = await api.post("/v1/programs", json=a_program())
    tag = {"if-match": answer.headers["etag"]}
    change = {"description": "d", "capture": {"mode": "full", "retention_days": 5}}
    changed = await api.patch("/v1/programs/p", json=change, headers=tag)
    assert ok(changed)["capture"] == {"mode": "full", "patterns": [], "retention_days": 5}
    before = await rows.dump()
    refused(await api.patch("/v1/programs/p", json={"description": "e"}, headers=tag), 412)
    assert await rows.dump() == before
    tag = {"if-match": changed.headers["etag"]}
    ok(await api.patch("/v1/programs/p", json={"description": "e"}, headers=tag))


async def test_a_redaction_pattern_that_cannot_be_run_is_refused(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    for pattern in ("(", "(a+)+$"):
        capture = {"mode": "redacted", "patterns": [pattern]}
        problem = refused(await api.post("/v1/programs", json=a_program(capture=capture)), 422)
        assert problem["details"]["field"].startswith("capture.patterns")
    assert await rows.of("programs") == []
