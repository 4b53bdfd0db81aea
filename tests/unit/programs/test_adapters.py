from __future__ import annotations

import itertools
import json
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.programs.adapters import FieldReader, adapter_for, field_reader
from dspex_ray.programs.model import AdapterName
from dspex_ray.programs.signature import parse_signature, to_dspy
from dspex_ray.testing.fake_lm import FakeEngine, chat_answer, fake_lm

TOPIC = to_dspy(
    parse_signature(
        "text, hint?: str -> topic: Literal['sport', 'tech'], sure: probability 'how sure'",
        "Name the topic.",
    )
)


def asked(engine: FakeEngine, adapter: AdapterName) -> tuple[Any, Any]:
    """The prediction and the request it took."""
    with dspy.context(lm=fake_lm(engine), adapter=adapter_for(adapter)):
        predict = dspy.Predict(TOPIC)
        predict.demos = [
            {"text": "A goal.", "topic": "sport", "sure": 0.9},
            {"text": "No answer to learn from."},
            {"topic": "tech"},
            {"text": "A chip.", "hint": "IT", "topic": "tech"},
        ]
        return predict(text="A match."), engine.requests[-1]


def test_the_minimal_prompt() -> None:
    prediction, request = asked(FakeEngine([{"topic": "tech", "sure": 0.5}]), AdapterName.MINIMAL)
    assert prediction.toDict() == {"topic": "tech", "sure": 0.5}
    assert request.system == (
        "Name the topic.\nAnswer in JSON: topic (one of sport, tech); sure (how sure)."
    )
    assert [(message.role, message.text) for message in request.messages] == [
        ("user", "text: A goal."),
        ("assistant", '{"topic": "sport", "sure": 0.9}'),
        ("user", "text: A chip.\nhint: IT"),
        ("assistant", '{"topic": "tech"}'),
        ("user", "text: A match."),
    ]


def test_minimal_answers_are_held_to_the_schema() -> None:
    _, request = asked(FakeEngine([{"topic": "tech", "sure": 0.5}]), AdapterName.MINIMAL)
    assert request.config.response_format["schema"] == {
        "type": "object",
        "properties": {
            "topic": {"enum": ["sport", "tech"], "type": "string"},
            "sure": {"maximum": 1.0, "minimum": 0.0, "type": "number"},
        },
        "required": ["topic", "sure"],
        "additionalProperties": False,
    }


def test_a_server_without_schemas_is_asked_for_json() -> None:
    engine = FakeEngine([{"topic": "tech", "sure": 0.5}])
    engine.supports_response_schema = False
    _, request = asked(engine, AdapterName.MINIMAL)
    assert request.config.response_format == {"type": "json_object"}
    engine = FakeEngine([{"topic": "tech", "sure": 0.5}])
    engine.supported_params = frozenset()
    assert asked(engine, AdapterName.MINIMAL)[1].config.response_format is None


def test_the_chat_adapter_makes_no_second_call() -> None:
    engine = FakeEngine(["no fields at all", {"topic": "tech", "sure": 0.5}])
    with pytest.raises(dspy.AdapterParseError):
        asked(engine, AdapterName.CHAT)
    assert len(engine.requests) == 1


def test_the_json_adapter_sends_a_schema() -> None:
    prediction, request = asked(FakeEngine([{"topic": "tech", "sure": 0.5}]), AdapterName.JSON)
    assert prediction.topic == "tech"
    assert request.config.response_format["type"] == "json_schema"


def read(reader: FieldReader, pieces: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    deltas = [delta for piece in pieces for delta in reader.feed(piece)] + reader.finish()
    for delta in deltas:
        found[delta.field] = found.get(delta.field, "") + delta.text
    return found


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=40)))
    edges = [0, *places, len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


_values = st.text(alphabet='ab [#]\n"\\{},:é😀`', max_size=30).filter(lambda v: "## ]]" not in v)


@given(_values, _values, st.data())
def test_chat_fields_stream_whole_however_they_are_cut(a: str, b: str, data: st.DataObject) -> None:
    text = "thinking\n" + chat_answer(a=a, other=3, b=b)
    pieces = data.draw(cut(text))
    expected = {name: v.strip() for name, v in (("a", a), ("b", b)) if v.strip()}
    assert read(field_reader(AdapterName.CHAT, ["a", "b"]), pieces) == expected


@given(_values, _values, st.booleans(), st.data())
def test_json_fields_stream_whole_however_they_are_cut(
    a: str, b: str, ascii_only: bool, data: st.DataObject
) -> None:
    fields = {"a": a, "n": 12, "other": 3, "l": [1, "x"], "b": b, "last": 1.5}
    text = f"```json\n{json.dumps(fields, ensure_ascii=ascii_only)}\n```"
    pieces = data.draw(cut(text))
    wanted = {
        "n": "12",
        "l": '[1, "x"]',
        "last": "1.5",
        **{k: v for k, v in (("a", a), ("b", b)) if v},
    }
    outputs = ["a", "b", "n", "l", "last"]
    assert read(field_reader(AdapterName.JSON, outputs), pieces) == wanted


def test_texts_come_as_they_grow() -> None:
    reader = field_reader(AdapterName.JSON, ["a"])
    assert reader.feed('{"a": "one') == [("a", "one")]
    assert reader.feed(" two") == [("a", " two")]
    reader = field_reader(AdapterName.CHAT, ["a"])
    assert reader.feed("[[ ## a ## ]]\none") == [("a", "one")]
    assert reader.feed(" two\n\n[[ ##") == [("a", " two")]
    assert reader.feed(" completed ## ]]") == []
    assert reader.finish() == []


def test_what_is_not_json_has_no_fields() -> None:
    assert read(field_reader(AdapterName.MINIMAL, ["a"]), ["well, ", "{a: ", "no"]) == {}
