"""Variables in one line each, and the usual ones of language models."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.errors import Invalid
from dspex_ray.variables import ml
from dspex_ray.variables.conditions import Compare
from dspex_ray.variables.declare import declared, variable
from dspex_ray.variables.documents import space_payload
from dspex_ray.variables.domains import (
    ChoiceVariable,
    FloatVariable,
    IntegerVariable,
    ModuleVariable,
)
from dspex_ray.variables.model import Constraint, Space
from dspex_ray.variables.rules import check, figures


def test_a_line_of_yaml_is_a_variable() -> None:
    found = declared(
        yaml.safe_load(
            """
            temperature:
            adapter: [chat, json]
            draft.max_tokens: {integer: [50, 400], step: 50}
            draft.temperature: {float: [0, 1], when: {variable: adapter, op: ==, value: chat}}
            model: [small, large]
            tone: {choice: [dry, warm], default: warm}
            """
        )
    )
    assert found == Space(
        variables={
            "temperature": FloatVariable(low=0, high=2, default=0.7),
            "adapter": ModuleVariable(choices=("chat", "json")),
            "draft.max_tokens": IntegerVariable(low=50, high=400, step=50),
            "draft.temperature": FloatVariable(low=0, high=1),
            "model": ChoiceVariable(choices=("small", "large")),
            "tone": ChoiceVariable(choices=("dry", "warm"), default="warm"),
        },
        dependencies={"draft.temperature": Compare(variable="adapter", op="==", value="chat")},
    )


def test_a_line_of_python_is_a_variable() -> None:
    assert variable("float", 0, 2, default=0.7) == FloatVariable(low=0, high=2, default=0.7)
    assert variable("integer", 1, 8, log=True) == IntegerVariable(low=1, high=8, log=True)
    assert variable("choice", "a", 1, None) == ChoiceVariable(choices=("a", 1, None))
    assert variable("module", "predict") == ModuleVariable(choices=("predict",))
    made = declared({"t": variable("float", 0, 1)}, [ml.no_hot_narrow_sampling()][:0])
    assert made == Space(variables={"t": FloatVariable(low=0, high=1)})


WRONG: dict[str, tuple[Any, str, str]] = {
    "no usual range": ({"k": None}, "variables.k", "no usual range"),
    "a text": ({"k": "0..1"}, "variables.k", "a list of choices"),
    "half a range": ({"k": {"float": [1]}}, "variables.k.float", "takes [low, high]"),
    "texts for a range": ({"k": {"float": ["a", 2]}}, "variables.k.float.low", "valid number"),
    "no choices": ({"k": []}, "variables.k.choice.choices", "at least 1"),
    "a name with a space": ({"a b": [1]}, "variables.variables.a b", "pattern"),
    "an unknown field": (
        {"k": {"float": [0, 1], "stpe": 1}},
        "variables.k.float.stpe",
        "not permitted",
    ),
    "a condition that is none": (
        {"k": {"float": [0, 1], "when": "a == 1"}},
        "variables.k",
        "",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_line_that_is_no_variable_is_named(case: str) -> None:
    written, field, message = WRONG[case]
    with pytest.raises(Invalid) as caught:
        declared(written)
    assert str(caught.value.field).startswith(field)
    assert message in caught.value.message


@pytest.mark.parametrize(
    "given", [("float", 1), ("real", 0, 1), ("integer", 0, 0.5), ("choice",), ("float", 2, 1)]
)
def test_a_call_that_makes_no_variable_is_refused(given: tuple[Any, ...]) -> None:
    with pytest.raises(Invalid):
        variable(*given)


def test_the_usual_variables_have_their_ranges_weights_and_hints() -> None:
    provider = ml.provider()
    assert provider.choices == ("openai", "anthropic", "groq", "google")
    assert provider.hints.cost_weights == {
        "openai": 1.0,
        "anthropic": 1.2,
        "groq": 0.3,
        "google": 0.8,
    }
    assert provider.hints.performance_weights == {
        "openai": 0.9,
        "anthropic": 0.95,
        "groq": 0.7,
        "google": 0.85,
    }
    assert provider.hints.optimization_priority == "cost_performance"
    assert provider.hints.compatibility_aware
    strategy = ml.reasoning_strategy()
    assert strategy.choices == ("predict", "chain_of_thought", "program_of_thought", "react")
    assert strategy.hints.token_multipliers["react"] == 4.0
    assert strategy.hints.complexity["chain_of_thought"] == 3
    assert strategy.hints.accuracy_impact == "high"
    assert ml.adapter().hints.model_compatibility
    assert ml.temperature() == FloatVariable(low=0, high=2, default=0.7)
    assert (ml.max_tokens().low, ml.max_tokens().high, ml.max_tokens().default) == (50, 4000, 1000)
    for name in ml.STANDARD:
        assert ml.standard(f"draft.{name}") == ml.standard(name)


def test_a_conditional_temperature_follows_provider_and_model() -> None:
    space = Space(
        variables={
            "provider": ml.provider(("openai", "groq")),
            "model": ml.model(("gpt-4", "gpt-5", "llama")),
            "temperature": ml.conditional_temperature(
                [
                    ({"provider": "openai", "model": "gpt-4"}, (0.0, 2.0), 0.7),
                    ({"provider": "groq"}, (0.1, 0.9), 0.5),
                ],
                otherwise=((0.5, 0.8), 0.7),
            ),
        },
        constraints=ml.compatible_models({"openai": ["gpt-4", "gpt-5"], "groq": ["llama"]}),
    )

    def wrong(provider: str, model: str, temperature: float) -> list[tuple[str, str]]:
        given = {"provider": provider, "model": model, "temperature": temperature}
        return [(fault.field, fault.rule) for fault in check(space, given).faults]

    assert wrong("openai", "gpt-4", 1.9) == []
    assert wrong("openai", "gpt-5", 1.9) == [("temperature", "float")]
    assert wrong("openai", "gpt-5", 0.6) == []
    assert wrong("groq", "llama", 0.05) == [("temperature", "float")]
    assert wrong("groq", "gpt-4", 0.5) == [("model", "models-of-groq")]


def test_the_usual_constraints() -> None:
    space = Space(
        variables={
            "model": ml.model(("small", "large")),
            "max_tokens": ml.max_tokens(),
            "temperature": ml.temperature(),
            "top_p": ml.top_p(),
        },
        constraints=(*ml.context_windows({"small": 512}), ml.no_hot_narrow_sampling()),
    )

    def wrong(**given: Any) -> list[str]:
        usual = {"model": "large", "max_tokens": 1000, "temperature": 0.7, "top_p": 1.0}
        return [fault.rule for fault in check(space, {**usual, **given}).faults]

    assert wrong() == []
    assert wrong(model="small") == ["context-window-1"]
    assert wrong(model="small", max_tokens=512) == []
    assert wrong(temperature=1.6, top_p=0.2) == ["no-hot-narrow-sampling"]
    assert wrong(temperature=1.5, top_p=0.2) == []


def test_a_constraint_may_be_a_noun() -> None:
    rule = Constraint(name="r", rule=Compare(variable="a", op="<", other="b"))
    space = declared({"a": [1, 2], "b": [1, 2]}, [rule])
    assert space.constraints == (rule,)
    assert check(space, {"a": 1, "b": 2}).valid
    assert [fault.message for fault in check(space, {"a": 2, "b": 2}).faults] == [
        "must satisfy: a < b"
    ]


KEYS = """a b kind low high step log default choices choice float integer parts cases when then
otherwise hints variable op value other of terms"""
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["float", "compare", "all", "a", "==", "in"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS.split()),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["a", "b", "temperature", ""]), json_values), json_values)
def test_whatever_is_declared_is_a_space_or_invalid(written: dict[str, Any], rule: Any) -> None:
    try:
        space = declared(written, [{"name": "r", "rule": rule}])
    except Invalid as error:
        refused = error
    else:
        assert space_payload(space)
        assert figures(space).variable_count == len(space.leaves())
        return
    assert refused.field


def nested(depth: int) -> dict[str, Any]:
    rule: dict[str, Any] = {"variable": "a", "op": "==", "value": 1}
    for _ in range(depth):
        rule = {"kind": "not", "of": rule}
    return rule


def test_conditions_nest_only_so_deep() -> None:
    space = declared({"a": [1, 2]}, [{"name": "r", "rule": nested(30)}])
    assert check(space, {"a": 1}).valid
    for depth in (40, 100, 240, 5000):
        with pytest.raises(Invalid):
            declared({"a": [1, 2]}, [{"name": "r", "rule": nested(depth)}])
