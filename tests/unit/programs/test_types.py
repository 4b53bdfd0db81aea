from __future__ import annotations

from typing import Annotated, Any, Literal, Optional

import pytest

from dspex_ray.core.errors import Invalid
from dspex_ray.core.values import Embedding, Probability
from dspex_ray.programs.types import (
    Misfit,
    annotation_for,
    canonical_type,
    coerce,
    json_schema_for,
    parse_type,
    text_for,
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("str", "str"),
        (" string ", "str"),
        ("integer", "int"),
        ("boolean", "bool"),
        ("float", "float"),
        ("any", "any"),
        ("list", "list[any]"),
        ("array[int]", "list[int]"),
        ("map", "dict[str, any]"),
        ("dict[str,list[bool]]", "dict[str, list[bool]]"),
        ("Literal['a',\"b\",1,True,-3]", "Literal['a', 'b', 1, True, -3]"),
        ("Literal['a','a']", "Literal['a']"),
        ("Literal['it\\'s']", 'Literal["it\'s"]'),
        ("Optional[int]", "int | None"),
        ("None | str|int", "str | int | None"),
        ("Union[int, Optional[str]]", "int | str | None"),
        ("int | int", "int"),
        ("any | int", "any"),
        ("list[Optional[probability]]", "list[probability | None]"),
        ("embedding", "embedding"),
        ("confidence_score", "confidence_score"),
        ("reasoning_chain", "reasoning_chain"),
    ],
)
def test_canonical_spelling(text: str, canonical: str) -> None:
    assert canonical_type(text) == canonical
    assert canonical_type(canonical) == canonical


@pytest.mark.parametrize(
    "text",
    [
        *["", "foo", "tuple[int]", "None", "list[int, int]", "dict[str]", "Literal", "Literal[]"],
        *["Literal[1.5]", "Literal[None]", "dict[int, str]", "a.b", "list[", "\x00", "int, str"],
        *["__import__('os')", "(lambda: 1)()", "[" * 300, "int|" * 900 + "int"],
        *["list[" * 30 + "int" + "]" * 30, "Optional[int, str]" + "[0]"],
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match=r"^Invalid type: `") as caught:
        parse_type(text, "answer")
    assert (caught.value.field, caught.value.rule) == ("answer", "type")


def test_long_unions_are_no_deeper_than_short_ones() -> None:
    members = " | ".join(f"Literal[{number}]" for number in range(100))
    assert canonical_type(members) == members


def test_annotations() -> None:
    assert annotation_for("list[str]") == list[str]
    assert annotation_for("int", optional=True) == Optional[int]  # noqa: UP045
    assert annotation_for("Literal['a', 1]") == Literal["a", 1]
    assert annotation_for("probability") is Probability


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (str, "str"),
        (Any, "any"),
        (list, "list[any]"),
        (list[int], "list[int]"),
        (dict, "dict[str, any]"),
        (dict[str, bool], "dict[str, bool]"),
        (dict[int, bool], "any"),
        (tuple[int, str], "any"),
        (int | None, "int | None"),
        (Optional[list[str]], "list[str] | None"),  # noqa: UP045
        (Literal["a", 2], "Literal['a', 2]"),
        (Embedding, "embedding"),
        (Probability, "probability"),
        (Annotated[int, "meters"], "int"),
        (object, "any"),
    ],
)
def test_text_of_annotations(annotation: Any, text: str) -> None:
    assert text_for(annotation) == text


@pytest.mark.parametrize(
    ("text", "value", "coerced"),
    [
        ("int", "3", 3),
        ("float", 2, 2.0),
        ("bool", "true", True),
        ("list[int]", ["1", 2], [1, 2]),
        ("list[int]", (1, 2), [1, 2]),
        ("Literal['a', 1]", 1, 1),
        ("int | str", "3", "3"),
        ("dict[str, float]", {"a": 1}, {"a": 1.0}),
        (
            "any",
            {"a": [None, 10**30, 0.1 + 0.2, "\u2028"]},
            {"a": [None, 10**30, 0.1 + 0.2, "\u2028"]},
        ),
        ("str | None", None, None),
    ],
)
def test_values_are_coerced(text: str, value: Any, coerced: Any) -> None:
    result = coerce(text, value)
    assert (result, type(result)) == (coerced, type(coerced))


@pytest.mark.parametrize(
    ("text", "value", "path", "rule"),
    [
        ("str", 3, "", "string_type"),
        ("str", None, "", "string_type"),
        ("int", 2.5, "", "int_from_float"),
        ("list[int]", [1, "x"], "[1]", "int_parsing"),
        ("Literal['a']", "b", "", "literal_error"),
        ("probability", 1.01, "", "less_than_equal"),
        ("embedding", [], "", "too_short"),
        ("float", float("nan"), "", "finite_number"),
        ("any", [float("inf")], "", "json"),
        ("any", object(), "", "json"),
        ("str", "\ud800", "", "json"),
    ],
)
def test_misfits_name_place_and_rule_but_not_the_value(
    text: str, value: Any, path: str, rule: str
) -> None:
    with pytest.raises(Misfit) as caught:
        coerce(text, value)
    assert (caught.value.path, caught.value.rule) == (path, rule)
    assert repr(value) not in str(caught.value)


def test_json_schema() -> None:
    assert json_schema_for("Literal['a', 'b']") == {"enum": ["a", "b"], "type": "string"}
    assert json_schema_for("int", optional=True) == {
        "anyOf": [{"type": "integer"}, {"type": "null"}]
    }
