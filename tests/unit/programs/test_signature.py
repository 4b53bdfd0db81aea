from __future__ import annotations

import keyword
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex_ray.core.errors import Invalid
from dspex_ray.programs.model import FieldSpec, SignatureSpec
from dspex_ray.programs.signature import (
    RESERVED_FIELDS,
    json_schema,
    make_field,
    make_signature,
    parse_signature,
    render_signature,
    signature_from,
    to_dspy,
)
from dspex_ray.programs.types import Misfit, coerce

FULL = (
    'question, context: list[str], k: int = 3, hint?: str "a hint" '
    "-> answer: Literal['a','b'] \"what it means\", score: float"
)


def test_the_whole_syntax() -> None:
    assert parse_signature(FULL, "Answer well.") == SignatureSpec(
        inputs=(
            FieldSpec(name="question"),
            FieldSpec(name="context", type="list[str]"),
            FieldSpec(name="k", type="int", default=3),
            FieldSpec(name="hint", description="a hint", optional=True),
        ),
        outputs=(
            FieldSpec(name="answer", type="Literal['a', 'b']", description="what it means"),
            FieldSpec(name="score", type="float"),
        ),
        instructions="Answer well.",
    )


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("a = 'x'", FieldSpec(name="a", default="x")),
        ("a 'why'", FieldSpec(name="a", description="why")),
        ("a: str = 'x' 'y, -> ['", FieldSpec(name="a", default="x", description="y, -> [")),
        ("a: str = 'it\\'s'", FieldSpec(name="a", default="it's")),
        ("a: list = [1, (-2)]", FieldSpec(name="a", type="list[any]", default=[1, -2])),
        (
            "a: dict[str,int] = {'b': 1}",
            FieldSpec(name="a", type="dict[str, int]", default={"b": 1}),
        ),
        ("a : Optional[int]", FieldSpec(name="a", type="int | None", optional=True)),
        ("a ? : int", FieldSpec(name="a", type="int", optional=True)),
        ("a: Literal['x, y', '->']", FieldSpec(name="a", type="Literal['x, y', '->']")),
        ("a: float = 1", FieldSpec(name="a", type="float", default=1.0)),
    ],
)
def test_fields(text: str, field: FieldSpec) -> None:
    assert parse_signature(f"{text} -> b").inputs == (field,)
    assert parse_signature(f"b -> {text}").outputs == (field,)


@pytest.mark.parametrize(
    ("text", "field", "rule"),
    [
        ("a", "signature", "signature"),
        ("a -> b -> c", "signature", "signature"),
        ("-> b", "signature", "signature"),
        ("a ->", "signature", "signature"),
        ("a,, b -> c", "signature", "signature"),
        ("a: 'x -> b", "signature", "signature"),
        ("a: list[int -> b", "signature", "signature"),
        ("a\x00 -> b", "signature", "signature"),
        ("a" * 20_001, "signature", "signature"),
        ("a, a -> b", "a", "unique"),
        ("a -> a", "a", "unique"),
        ("a -> b, b", "b", "unique"),
        ("class -> b", "class", "name"),
        ("_a -> b", "_a", "name"),
        ("Ä -> b", "Ä", "name"),
        ("a b -> c", "a b", "name"),
        ("json -> b", "json", "name"),
        ("model_x -> b", "model_x", "name"),
        ("demos -> b", "demos", "name"),
        ("a -> b: foo", "b", "type"),
        ("a: -> b", "a", "type"),
        ("a: f'x' -> b", "a", "type"),
        ("a: int = 'x' -> b", "a", "default"),
        ("a = open -> b", "a", "default"),
        ("a: int = 3 4 -> b", "a", "default"),
    ],
)
def test_errors_name_field_and_rule(text: str, field: str, rule: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_signature(text)
    assert (caught.value.field, caught.value.rule) == (field, rule)


def test_messages() -> None:
    with pytest.raises(
        Invalid, match=r"^Invalid signature format: it must contain exactly one `->`"
    ):
        parse_signature("a => b")
    with pytest.raises(Invalid, match=r"^Invalid type: `foo` is unknown \(allowed: str, int"):
        parse_signature("a: foo -> b")
    with pytest.raises(Invalid, match=r"^Field `a` stands input and output$"):
        parse_signature("a -> a")


def test_field_lists_and_mappings_say_the_same() -> None:
    by_list = signature_from(
        {
            "inputs": [
                {"name": "a", "type": "integer", "default": 3},
                "b?: list[str] 'some'",
            ],
            "outputs": [{"name": "c"}],
            "instructions": "Do.",
        }
    )
    by_mapping = signature_from(
        {
            "inputs": {
                "a": {"type": "int", "default": 3},
                "b": {"type": "list[str]", "description": "some", "optional": True},
            },
            "outputs": {"c": "string"},
            "instructions": "Do.",
        }
    )
    assert by_list == by_mapping == parse_signature("a: int = 3, b?: list[str] 'some' -> c", "Do.")
    assert signature_from(by_list.model_dump(mode="json")) == by_list


@pytest.mark.parametrize(
    ("source", "field", "rule"),
    [
        ({"inputs": ["a"], "outputs": ["b"], "x": 1}, "x", "unknown key"),
        ({"inputs": ["a"]}, "outputs", "type"),
        ({"inputs": [], "outputs": ["b"]}, "inputs", "at least one"),
        ({"inputs": "a", "outputs": ["b"]}, "inputs", "type"),
        ({"inputs": [{"type": "str"}], "outputs": ["b"]}, "inputs[0]", "type"),
        ({"inputs": [{"name": "a", "kind": "str"}], "outputs": ["b"]}, "a", "unknown key"),
        ({"inputs": {"a": 3}, "outputs": ["b"]}, "a", "type"),
        ({"inputs": [{"name": "a", "optional": "yes"}], "outputs": ["b"]}, "a", "type"),
        ({"inputs": [{"name": "a", "description": 3}], "outputs": ["b"]}, "a", "description"),
        ({"inputs": ["a"], "outputs": ["b"], "instructions": 3}, "instructions", "type"),
    ],
)
def test_field_lists_are_checked(source: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(Invalid) as caught:
        signature_from(source)
    assert (caught.value.field, caught.value.rule) == (field, rule)


_names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: (
        not keyword.iskeyword(name)
        and name not in RESERVED_FIELDS
        and not name.startswith(("model_", "dspy_"))
    )
)
_literals = st.lists(
    st.text(max_size=6) | st.integers(-9, 9) | st.booleans(), min_size=1, max_size=3
)
_types = st.recursive(
    st.sampled_from(["str", "int", "float", "bool", "any", "probability", "embedding"])
    | _literals.map(lambda values: f"Literal[{', '.join(map(repr, values))}]"),
    lambda inner: (
        inner.map(lambda kind: f"list[{kind}]")
        | inner.map(lambda kind: f"dict[str, {kind}]")
        | st.tuples(inner, inner).map(" | ".join)
        | inner.map(lambda kind: f"Optional[{kind}]")
    ),
    max_leaves=4,
)
_defaults = st.none() | st.text(max_size=8) | st.integers() | st.booleans() | st.lists(st.text())


@st.composite
def signatures(draw: st.DrawFn) -> SignatureSpec:
    names = draw(st.lists(_names, min_size=2, max_size=6, unique=True))
    fields = []
    for name in names:
        kind, default = draw(_types), draw(_defaults)
        try:
            coerce(kind, default)
        except Misfit:
            default = None
        fields.append(
            make_field(
                name,
                kind,
                draw(st.text(max_size=12)),
                optional=draw(st.booleans()),
                default=default,
            )
        )
    cut = draw(st.integers(1, len(fields) - 1))
    return make_signature(fields[:cut], fields[cut:])


@given(signatures())
def test_what_is_rendered_parses_back(spec: SignatureSpec) -> None:
    assert parse_signature(render_signature(spec)) == spec
    assert signature_from(spec.model_dump(mode="json")) == spec


@settings(max_examples=300)
@given(st.text(alphabet="ab:=?,->'\"[](){}| \n\\1_", max_size=30))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        spec = parse_signature(text)
    except Invalid:
        return
    assert parse_signature(render_signature(spec)) == spec


def test_json_schema() -> None:
    spec = parse_signature("a: int 'how many', b: str = 'x', c?: list[str] -> d")
    assert json_schema(spec.inputs) == {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "description": "how many"},
            "b": {"type": "string", "default": "x"},
            "c": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        },
        "required": ["a"],
        "additionalProperties": False,
    }


def test_dspy_signature() -> None:
    spec = parse_signature(FULL, "Answer well.")
    made = to_dspy(spec)
    assert made is to_dspy(parse_signature(FULL, "Answer well."))
    assert made.instructions == "Answer well."
    assert list(made.input_fields) == ["question", "context", "k", "hint"]
    assert made.input_fields["k"].default == 3
    assert made.input_fields["hint"].is_required()  # no default for DSPy to print
    assert made.input_fields["hint"].annotation == str | None
    assert made.input_fields["hint"].json_schema_extra["desc"] == "a hint"
    assert made.output_fields["score"].annotation is float
    assert to_dspy(parse_signature("a, b -> c")).instructions == (
        "Given the fields `a`, `b`, produce the fields `c`."
    )


def test_defaults_that_are_equal_but_not_the_same_make_two_signatures() -> None:
    one, true = (to_dspy(parse_signature(f"a: any = {d} -> b")) for d in ("1", "True"))
    assert one.input_fields["a"].default is not true.input_fields["a"].default


def test_reserved_names_cover_dspy() -> None:
    import dspy

    names = {*dir(dspy.Signature), *dir(type(dspy.Signature))}
    public = {n for n in names if not n.startswith(("_", "model_"))} - {"mro"}
    assert public <= RESERVED_FIELDS
    for name in sorted(RESERVED_FIELDS):
        with pytest.raises(Invalid, match="keeps for itself"):
            parse_signature(f"{name} -> b")


def test_parsing_and_validating_do_not_import_dspy() -> None:
    code = (
        "import sys; import dspex_ray.programs.source, dspex_ray.programs.validation;"
        "sys.exit('dspy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
