from __future__ import annotations

import json
from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from dspex_ray.testing.provider_wires import Prompt, ToolCall, default_answer, fitting


class Colour(Enum):
    RED = "red"


class Inner(BaseModel):
    count: int = Field(ge=3)
    share: float


class Outer(BaseModel):
    name: str
    label: Literal["a", "b"]
    colour: Colour
    inner: Inner
    more: list[Inner] = Field(min_length=2)
    maybe: str | None
    flag: bool
    nothing: None


def test_values_fit_the_schemas_that_pydantic_makes() -> None:
    Outer.model_validate(fitting(Outer.model_json_schema()))


def test_strings_are_as_long_as_they_must_be() -> None:
    assert fitting({"type": "string", "minLength": 7}) == "textxxx"
    assert fitting({"const": 4}) == 4
    assert fitting({"type": ["integer", "null"]}) == 1


def prompt(**more: Any) -> Prompt:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **more}
    return Prompt.of(body)


TOOLS = [
    {"type": "function", "function": {"name": "first", "parameters": {"type": "object"}}},
    {"name": "second", "input_schema": {"properties": {"x": {"type": "integer"}}}},
]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "echo: hello"),
        ({"tools": TOOLS}, [ToolCall("first", {})]),
        ({"tools": TOOLS, "tool_choice": "none"}, "echo: hello"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "second"}},
            [ToolCall("second", {"x": 1})],
        ),
        (
            {"tools": TOOLS, "messages": [{"role": "tool", "content": "42"}]},
            "echo: 42",
        ),
        (
            {
                "tools": TOOLS,
                "messages": [{"role": "user", "content": [{"type": "tool_result"}]}],
            },
            "echo: ",
        ),
        ({"response_format": {"type": "json_object"}}, "echo: hello"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"enum": ["no"]}}}},
            '"no"',
        ),
    ],
)
def test_the_default_answer(more: dict[str, Any], expected: object) -> None:
    assert default_answer(prompt(**more)) == expected


def test_a_prompt_gathers_all_that_was_said() -> None:
    said = prompt(
        system="be brief",
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "one"}]},
            {"role": "assistant", "content": None},
            {"role": "user", "content": "two"},
        ],
        n=3,
    )
    assert (said.text, said.last, said.last_role, said.n) == (
        "be brief\none\ntwo",
        "two",
        "user",
        3,
    )
    assert json.dumps(said.body)
