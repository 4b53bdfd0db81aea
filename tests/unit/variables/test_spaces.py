"""Spaces as data: lossless, hashed, refused when they make no sense."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings

from dspex_ray.core.errors import Invalid
from dspex_ray.variables.declare import load_space
from dspex_ray.variables.documents import from_json, from_yaml, to_json, to_yaml
from dspex_ray.variables.domains import FloatVariable
from dspex_ray.variables.model import Space
from tests.unit.variables.spaces import spaces


@settings(max_examples=50)
@given(spaces())
def test_a_space_comes_back_from_json_and_yaml_as_it_was(space: Space) -> None:
    for back in (from_json(to_json(space)), from_yaml(to_yaml(space))):
        assert back == space
        assert back.hash == space.hash
        assert to_json(back) == to_json(space)


@pytest.mark.parametrize("text", ["a\x85b", "a\u2028b", "\ufeffa", "grün", "a: b\n- c", "\x00"])
def test_any_text_comes_back_from_yaml(text: str) -> None:
    space = load_space({"variables": {"v": {"kind": "choice", "choices": [text, "x"]}}})
    assert from_yaml(to_yaml(space)) == space
    assert ("grün" in to_yaml(space)) == (text == "grün")


@settings(max_examples=50)
@given(spaces())
def test_the_order_of_keys_is_no_content(space: Space) -> None:
    shuffled = load_space(json.loads(json.dumps(json.loads(to_json(space)), sort_keys=True)))
    assert shuffled.hash == space.hash
    assert [leaf.path for leaf in shuffled.leaves()] == [leaf.path for leaf in space.leaves()]


@settings(max_examples=50)
@given(spaces())
def test_what_a_variable_needs_comes_before_it(space: Space) -> None:
    done: set[str] = set()
    for leaf in space.leaves():
        assert leaf.needs() <= done
        done.add(leaf.path)


def space_of(text: str) -> Space:
    return load_space(yaml.safe_load(text))


REFUSED = {
    "a low over the high": (
        "variables: {t: {kind: float, low: 2, high: 1}}",
        "space.variables.t.float",
        "low is 2, over high, which is 1",
    ),
    "a logarithm of 0": (
        "variables: {t: {kind: float, low: 0, high: 1, log: true}}",
        "space.variables.t.float",
        "log wants it over 0",
    ),
    "NaN": (
        "variables: {t: {kind: float, low: .nan, high: 1}}",
        "space.variables.t.float.low",
        "finite",
    ),
    "a default outside": (
        "variables: {t: {kind: integer, low: 1, high: 3, default: 4}}",
        "space.variables.t.integer",
        "default 4 must be 1 to 3",
    ),
    "a choice twice": (
        "variables: {t: {choices: [1, 1.0]}}",
        "space.variables.t.choice",
        "choice 1.0 stands twice",
    ),
    "hints about a stranger": (
        "variables: {t: {choices: [a], hints: {cost_weights: {b: 1}}}}",
        "space.variables.t.choice",
        "hints speak of 'b'",
    ),
    "an unknown kind": ("variables: {t: {kind: complex}}", "space.variables.t", "complex"),
    "an unknown variable in a condition": (
        "{variables: {t: {choices: [a]}}, dependencies: {t: {variable: u, op: ==, value: 1}}}",
        "space.u",
        "dependency of 't' names the unknown variable 'u' (there are: t)",
    ),
    "a dependency of nothing": (
        "{variables: {t: {choices: [a]}}, dependencies: {u: {variable: t, op: ==, value: a}}}",
        "space.u",
        "names the unknown variable 'u'",
    ),
    "a cycle": (
        "{variables: {t: {choices: [a]}, u: {choices: [a]}}, dependencies: {"
        "t: {variable: u, op: ==, value: a}, u: {variable: t, op: ==, value: a}}}",
        "space.",
        "depend on each other: ",
    ),
    "texts in order": (
        "{variables: {t: {choices: [a]}}, "
        "constraints: [{name: r, rule: {variable: t, op: '<', value: 1}}]}",
        "space.t",
        "puts 't' in order, whose values are no numbers",
    ),
    "a path twice": (
        "variables: {g.t: {choices: [a]}, g: {parts: {t: {choices: [a]}}}}",
        "space.g.t",
        "'g.t' stands twice",
    ),
    "code for a rule": (
        "{variables: {t: {choices: [a]}}, constraints: [{name: r, rule: 't == 1'}]}",
        "space.constraints.0.rule",
        "",
    ),
    "a list for one value": (
        "{variables: {t: {choices: [a]}}, "
        "constraints: [{name: r, rule: {variable: t, op: ==, value: [a]}}]}",
        "space.constraints.0.rule.compare",
        "`==` takes one value",
    ),
    "no space at all": ("[1]", "space", ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_space_that_makes_no_sense_is_refused_by_name(case: str) -> None:
    text, field, message = REFUSED[case]
    with pytest.raises(Invalid) as caught:
        space_of(text)
    assert str(caught.value.field).startswith(field)
    assert message in caught.value.message
    assert caught.value.rule


@pytest.mark.parametrize("payload", [{"metadata": {"x": float("nan")}}, {"metadata": {"x": {1}}}])
def test_what_json_cannot_hold_is_no_part_of_a_space(payload: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="no form for") as caught:
        load_space(payload)
    assert caught.value.rule == "json"


def test_text_that_is_no_document_is_refused() -> None:
    with pytest.raises(Invalid, match="not JSON"):
        from_json("{")
    with pytest.raises(Invalid, match="not YAML"):
        from_yaml("a: [")


def test_a_variable_is_added_by_name_or_put_in_place() -> None:
    small = Space(variables={"t": FloatVariable(low=0, high=1)})
    wider = small.with_variable("t", FloatVariable(low=0, high=2))
    assert wider.variables == {"t": FloatVariable(low=0, high=2)}
    assert small.variables == {"t": FloatVariable(low=0, high=1)}
