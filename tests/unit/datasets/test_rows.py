"""What a row may hold, how it is hashed, and how fields are summed up."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.canonical import content_hash
from dspex_ray.datasets.fit import fit
from dspex_ray.datasets.model import FieldSummary
from dspex_ray.datasets.profile import MAX_DISTINCT, MAX_FIELDS, Profile, kind_of, type_of
from dspex_ray.datasets.rows import Fault, Row, accept
from dspex_ray.programs.signature import parse_signature
from dspex_ray.programs.types import canonical_type

LIMIT = 10_000
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
NAMES = TEXT.filter(bool)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, PLAIN, min_size=1, max_size=5))
def test_what_json_holds_is_accepted_and_hashed_by_content(values: dict[str, Any]) -> None:
    row = accept(values, LIMIT)
    assert isinstance(row, Row)
    assert row.digest.hex() == content_hash(values) == hashlib.sha256(row.text).hexdigest()
    again = accept(dict(reversed(json.loads(row.text).items())), LIMIT)
    assert isinstance(again, Row)
    assert again.digest == row.digest


@pytest.mark.parametrize(
    ("values", "field", "rule"),
    [
        ([1], "row", "object"),
        ("text", "row", "object"),
        ({}, "row", "object"),
        ({1: "a"}, "row", "field name"),
        ({"": "a"}, "row", "field name"),
        ({"x" * 101: "a"}, "row", "field name"),
        ({"a\x00": "a"}, "row", "field name"),
        ({"a": "b\x00c"}, "a", "text"),
        ({"a": "\ud800"}, "a", "text"),
        ({"a": {"b\x00": 1}}, "a", "text"),
        ({"a": {1: 1}}, "a", "text"),
        ({"a": math.nan}, "a", "finite"),
        ({"a": [1, -math.inf]}, "a", "finite"),
        ({"a": 2**63}, "a", "range"),
        ({"a": -(2**63) - 1}, "a", "range"),
        ({"a": datetime(2026, 1, 1, tzinfo=UTC)}, "a", "json"),
        ({"a": b"bytes"}, "a", "json"),
        ({"a": {1, 2}}, "a", "json"),
        ({"a": "x" * LIMIT}, "row", "row size"),
    ],
)
def test_what_is_refused_is_named_by_field_and_rule(values: Any, field: str, rule: str) -> None:
    found = accept(values, LIMIT)
    assert isinstance(found, list)
    assert [(fault.field, fault.rule) for fault in found] == [(field, rule)]


def test_depth_is_limited_well_before_python_gives_up() -> None:
    for depth, fits in ((31, True), (32, False), (5_000, False)):
        value: Any = 1
        for _ in range(depth):
            value = [value]
        assert isinstance(accept({"a": value}, 100_000), Row) is fits


def test_every_bad_field_of_a_row_is_named_and_no_value_is() -> None:
    found = accept({"a": "secret\x00", "b": 1, "c": math.inf, "d": b"secret"}, LIMIT)
    assert isinstance(found, list)
    assert [(fault.field, fault.rule) for fault in found] == [
        ("a", "text"),
        ("c", "finite"),
        ("d", "json"),
    ]
    assert "secret" not in str(found)


def test_a_row_at_the_limit_fits() -> None:
    size = len(b'{"a":""}')
    assert isinstance(accept({"a": "x" * (LIMIT - size)}, LIMIT), Row)
    assert not isinstance(accept({"a": "x" * (LIMIT - size + 1)}, LIMIT), Row)


# --- profiles ------------------------------------------------------------------------------


def summed(*rows: dict[str, Any]) -> list[FieldSummary]:
    profile = Profile()
    for row in rows:
        profile.add(row)
    return list(profile.summary())


def test_a_profile_of_mixed_rows() -> None:
    found = summed(
        {"q": "one", "n": 1, "mixed": "x"},
        {"q": "three", "n": 2.5, "mixed": 7},
        {"q": "four", "n": None},
    )
    assert found == [
        FieldSummary(
            name="q",
            type="str",
            nullable=False,
            counts={"str": 3},
            missing=0,
            distinct=3,
            shortest=3,
            longest=5,
            mean_length=4,
        ),
        FieldSummary(
            name="n",
            type="float",
            nullable=True,
            counts={"float": 1, "int": 1, "null": 1},
            missing=0,
            distinct=3,
            least=1,
            greatest=2.5,
            mean=1.75,
        ),
        FieldSummary(
            name="mixed",
            type="int | str",
            nullable=False,
            counts={"int": 1, "str": 1},
            missing=1,
            distinct=2,
            shortest=1,
            longest=1,
            mean_length=1,
            least=7,
            greatest=7,
            mean=7,
        ),
    ]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "null"),
        (True, "bool"),
        (1, "int"),
        (1.0, "float"),
        ("", "str"),
        ([], "list[any]"),
        (["a"], "list[str]"),
        ([1, 2.5], "list[float]"),
        ([1, True], "list[any]"),
        ([1, None], "list[any]"),
        ([[1]], "list[any]"),
        ({"a": 1}, "dict[str, any]"),
    ],
)
def test_kinds(value: Any, kind: str) -> None:
    assert kind_of(value) == kind


@given(st.lists(PLAIN, min_size=1, max_size=6))
def test_a_profiled_type_is_a_type_of_signatures(values: list[Any]) -> None:
    [found] = summed(*({"a": value} for value in values))
    assert canonical_type(found.type)
    assert sum(found.counts.values()) == len(values)
    assert found.nullable == (None in values)


def test_type_of_nothing_but_null_is_any() -> None:
    assert type_of({"null": 3}) == "any"


def test_distinct_values_are_counted_up_to_a_limit_and_means_stay_finite() -> None:
    [few] = summed(*({"a": n % MAX_DISTINCT} for n in range(3 * MAX_DISTINCT)))
    assert few.distinct == MAX_DISTINCT
    [many] = summed(*({"a": n} for n in range(MAX_DISTINCT + 1)))
    assert many.distinct is None
    [huge] = summed({"a": 1.7e308}, {"a": 1.7e308})
    assert huge.mean == pytest.approx(1.7e308)
    [long] = summed({"a": "x" * 50}, {"a": "x" * 50}, {"a": "x" * 49 + "y"}, {"a": ["x"]})
    assert long.distinct == 3


def test_fields_are_limited() -> None:
    profile = Profile()
    profile.add({f"f{n}": 1 for n in range(MAX_FIELDS)})
    assert profile.has_room({"f0": 1})
    assert not profile.has_room({"f0": 1, "new": 1})


# --- against a signature -------------------------------------------------------------------


def test_fit_says_what_is_held_and_what_is_not() -> None:
    signature = parse_signature("question, k: int = 3, hint?: str -> answer: str, sure: bool")
    found = fit(signature, ("question", "answer", "id"))
    assert [field.name for field in found.outputs] == ["answer"]
    assert (found.absent_outputs, found.unused) == (("sure",), ("id",))
    assert found.faults({"question": "q", "answer": "a"}) == []
    assert found.faults({"question": "q", "k": "4", "hint": None, "answer": "a"}) == []
    assert found.faults({"k": "many"}) == [
        Fault("question", "required", "is missing"),
        Fault(
            "k",
            "int_parsing",
            "does not fit its type int: Input should be a valid integer, unable to parse string "
            "as an integer",
        ),
        Fault("answer", "required", "is missing"),
    ]
