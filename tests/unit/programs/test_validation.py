from __future__ import annotations

import json
import timeit
from typing import Any

import pytest

from dspex_ray.core.errors import Invalid, OutputInvalid
from dspex_ray.programs.signature import parse_signature
from dspex_ray.programs.validation import validate_inputs, validate_outputs

SPEC = parse_signature(
    "question, context: list[str], k: int = 3, hint?: str -> answer: Literal['a', 'b'], why?: str"
)


def test_inputs_are_coerced_and_completed_in_order() -> None:
    checked = validate_inputs(SPEC, {"k": "7", "context": ("x",), "question": "q"})
    assert list(checked.items()) == [
        ("question", "q"),
        ("context", ["x"]),
        ("k", 7),
        ("hint", None),
    ]
    assert json.dumps(checked)
    assert validate_inputs(SPEC, {"question": "q", "context": [], "hint": None})["k"] == 3


@pytest.mark.parametrize(
    ("values", "message", "field", "rule"),
    [
        ({}, "Missing required inputs: question, context", "question", "required"),
        (
            {"question": "q", "context": [], "z": 1},
            "Unknown inputs: z (allowed: question, context, k, hint)",
            "z",
            "unknown",
        ),
        (
            {"question": "q", "context": [], "Dear Ms Miller, ...": 1},
            "Unknown inputs: (not a field's name) (allowed: question, context, k, hint)",
            "(not a field's name)",
            "unknown",
        ),
        (
            {"question": 3, "context": []},
            "Invalid input `question`: Input should be a valid string (its type is str)",
            "question",
            "string_type",
        ),
        (
            {"question": "q", "context": ["x", 4]},
            "Invalid input `context[1]`: Input should be a valid string (its type is list[str])",
            "context[1]",
            "string_type",
        ),
        (
            {"question": "q", "context": [], "k": None},
            "Invalid input `k`: Input should be a valid integer (its type is int)",
            "k",
            "int_type",
        ),
        ([], "Inputs must be an object of values by field", "inputs", "type"),
    ],
)
def test_bad_inputs(values: Any, message: str, field: str, rule: str) -> None:
    with pytest.raises(Invalid) as caught:
        validate_inputs(SPEC, values)
    assert (str(caught.value), caught.value.field, caught.value.rule) == (message, field, rule)


def test_outputs_keep_what_is_promised() -> None:
    given = {"answer": "a", "reasoning": "because"}
    assert validate_outputs(SPEC, given) == {"answer": "a", "why": None}


def test_bad_outputs() -> None:
    with pytest.raises(OutputInvalid, match=r"^Missing outputs: answer$") as caught:
        validate_outputs(SPEC, {"why": "x"})
    assert caught.value.details == {"field": "answer", "rule": "required"}
    with pytest.raises(
        OutputInvalid, match=r"^Invalid output `answer`: Input should be 'a' or 'b'"
    ):
        validate_outputs(SPEC, {"answer": "a secret"})


def test_defaults_are_not_shared_between_requests() -> None:
    spec = parse_signature("a: list = [1] -> b")
    validate_inputs(spec, {})["a"].append(2)
    assert validate_inputs(spec, {}) == {"a": [1]}


def test_validation_takes_far_less_than_a_millisecond() -> None:
    values = {"question": "q" * 2000, "context": ["c" * 500] * 4, "k": "3"}
    validate_inputs(SPEC, values)
    assert (
        min(timeit.repeat(lambda: validate_inputs(SPEC, values), number=20, repeat=5)) / 20 < 1e-3
    )
